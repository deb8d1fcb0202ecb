"""The learned and the exact field on a grid, their figure, and steps from noisy points."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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
from experiments.vector_field.networks import Field, Trained

HALF_WIDTH = 1.7  # of the square that is drawn and measured
GRID = 61  # points of the grid along each side
DENSE = 0.05  # of the maximum of the noisy density: "near the data"


class Fields(NamedTuple):
    """Learned and exact displacement on the grid, and where the noisy density is high."""

    grid: np.ndarray  # (n, 2)
    learned: np.ndarray  # (n, 2)
    exact: np.ndarray  # (n, 2)
    density: np.ndarray  # (n,)

    @property
    def is_dense(self) -> np.ndarray:
        """Whether a point is near the data."""
        return self.density > DENSE * self.density.max()


def exact_field(density: Density, stddev: float, y: Array) -> Array:
    """Returns E[x | y] - y at one point."""
    return density.posterior_mean(y, stddev) - y


def grid_points() -> Array:
    """Returns the points ``(n, 2)`` of a grid over the drawn square."""
    line = jnp.linspace(-HALF_WIDTH, HALF_WIDTH, GRID)
    return jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)


def on_grid(field: Field, seed: int) -> Fields:
    """Returns both fields on a grid over the drawn square."""
    density, stddev = field.density, field.stddev
    grid = grid_points()
    log_p = jax.vmap(lambda y: density.log_noisy_density(y, stddev))(grid)
    exact = jax.vmap(partial(exact_field, density, stddev))(grid)
    learned = jax.vmap(field.learned(seed))(grid)
    return Fields(*map(np.asarray, (grid, learned, exact, jnp.exp(log_p))))


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


def to_nearest(density: Density, y: Array) -> Array:
    """Returns the way from each of some points ``(n, 2)`` to the nearest point of a curve."""

    def nearest(p: Array) -> Array:
        return density.nodes[jnp.argmin(jnp.sum((density.nodes - p[None]) ** 2, -1))] - p

    return jax.vmap(nearest)(y)


def root_mean_square(vectors: Array) -> float:
    """Returns the root mean square length of vectors ``(n, 2)``."""
    return float(jnp.sqrt(jnp.mean(jnp.sum(vectors**2, -1))))


def draw_field(run: ExperimentRun, field: Field) -> None:
    """Draws the learned field, as the last seed has learned it, beside the exact one."""
    fields = on_grid(field, -1)
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
