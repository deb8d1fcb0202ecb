"""Steps along a field, and the figure of a field."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.data.densities import Density
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function
from experiments.vector_field.grid import GRID, HALF_WIDTH
from experiments.vector_field.networks import Field, Trained


def measure_curves(
    trained: Trained, name: str, number: Callable[[Density, Function, Array], float], unit: str
) -> Metrics:
    """Returns a number of the field around every curve, over the seeds.

    ``number(density, learned, y)`` takes the density, the learned field and noisy points.
    """

    def of_seed(field: Field, seed: int) -> float:
        key = trained.seed_key(seed)
        points = field.density.sample(jax.random.fold_in(key, 2), 2000)
        noise_key = jax.random.fold_in(key, 3)
        y = jaxae.gaussian_noise(noise_key, points, stddev=field.stddev)
        return number(field.density, field.learned(seed), y)

    curves = {
        density: [of_seed(field, seed) for seed in range(len(field.params))]
        for density, field in trained.curves.items()
    }
    return {"densities": {density: {name: over_seeds(v, unit)} for density, v in curves.items()}}


def take_step(learned: Function, y: Array) -> Array:
    """Returns points ``(n, 2)`` after one step along a field."""
    return jax.vmap(lambda y_i: y_i + learned(y_i))(y)


@jax.jit
def to_nearest(nodes: Array, y: Array) -> Array:
    """Returns the way from each of some points ``(n, 2)`` to the nearest node of a curve."""

    def nearest(p: Array) -> Array:
        return nodes[jnp.argmin(jnp.sum((nodes - p[None]) ** 2, -1))] - p

    return jax.vmap(nearest)(y)


def root_mean_square(vectors: Array) -> float:
    """Returns the root mean square length of vectors ``(n, 2)``."""
    return float(jnp.sqrt(jnp.mean(jnp.sum(vectors**2, -1))))


def draw_field(run: ExperimentRun, field: Field) -> None:
    """Draws the learned field, as the last seed has learned it, beside the exact one."""
    fields = field.on_grid[-1]
    name = field.density.name
    every_fourth = np.zeros((GRID, GRID), bool)
    every_fourth[2::4, 2::4] = True
    pick = every_fourth.reshape(-1)
    run.draw(
        plots.vector_fields,
        f"field_{name}.png",
        fields.grid[pick],
        {
            "learned: dec(enc(x~)) - x~": fields.learned[pick],
            "exact: E[x | x~] - x~": fields.exact[pick],
        },
        background=fields.density.reshape(GRID, GRID),
        half_width=HALF_WIDTH,
        title=f"Denoising moves points towards the data ({name}, noise {field.stddev:g})",
    )
