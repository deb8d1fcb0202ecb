"""How near points that follow the learned field come to the data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.data.densities import Density
from experiments.common.results.claims import Claim, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function
from experiments.vector_field.fields import (
    measure_curves,
    root_mean_square,
    take_step,
    to_nearest,
)
from experiments.vector_field.grid import HALF_WIDTH
from experiments.vector_field.networks import Trained

UNIT = "distance to the curve after ten steps, over the distance before"
STARTS = [[1.5, 1.4], [-1.4, 1.5], [-1.5, -1.3], [1.3, -1.5], [0.1, 0.05]]  # of the drawn paths


def distance_left(density: Density, learned: Function, y: Array) -> float:
    """Returns the share of the distance to a curve that is left after ten steps of the field.

    Distances are root mean squares over noisy points ``(n, 2)``.
    """
    end = y
    for _ in range(10):
        end = take_step(learned, end)
    before, left = (root_mean_square(to_nearest(density.nodes, p)) for p in (y, end))
    return left / before


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the distance that is left after ten steps, for every curve."""
    return measure_curves(trained, "distance_left", distance_left, UNIT)


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the paths of a few points along every field, as the last seed has learned it."""
    for name, field in trained.fields.items():
        step = jax.jit(partial(take_step, field.learned(-1)))
        path = [jnp.array(STARTS, jnp.float32)]
        for _ in range(30):
            path.append(step(path[-1]))
        for file in (f"path_{name}.png", f"path_{name}.gif"):
            run.draw(
                plots.paths,
                file,
                np.stack(path),
                np.asarray(field.density.nodes),
                half_width=HALF_WIDTH,
                title=f"Points follow the learned field home ({name})",
            )


def claims(found: Metrics) -> list[Claim]:
    """Holds if less than half of the distance is left on both curves."""
    circle, spiral = (found["densities"][name] for name in ("circle", "spiral"))
    return [
        Claim(
            "A denoising autoencoder learns a vector field around the curve on which the data lie.",
            "Noisy points that follow the field for ten steps keep "
            f"{shown(circle['distance_left'])} of their distance to the circle and "
            f"{shown(spiral['distance_left'])} of their distance to the spiral.",
            verdict(max(max(r["distance_left"]["values"]) for r in (circle, spiral)) < 0.5),
            {
                "circle, distance left": circle["distance_left"],
                "spiral, distance left": spiral["distance_left"],
            },
            "path_spiral.gif",
            "An animation: five points start around a spiral and follow the learned field, one "
            "step per picture.",
            anchor="manifold-vector-field",
            plain=sentence(
                "After ten steps along the field, noisy points keep {circle} of their distance to "
                "the circle and {spiral} to the spiral.",
                circle=percent(circle["distance_left"]["mean"]),
                spiral=percent(spiral["distance_left"]["mean"]),
            ),
            caption="Five points follow the learned field, one step per picture. Blue: the way "
            "behind them. Grey: the spiral on which the data lie.",
            more={
                "path_circle.gif": "The same animation for points around a circle.",
                "path_mixture.gif": "The same animation for points around five Gaussians.",
            },
        ),
    ]
