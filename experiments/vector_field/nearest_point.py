"""Whether the learned step leads from a corrupted point to the nearest point of the curve."""

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
from experiments.vector_field.networks import Trained

UNIT = "field minus the way to the nearest point, over that way"


def error_of_nearest(density: Density, learned: Function, y: Array) -> float:
    """Returns how far the field is from pointing at the nearest point of a curve.

    The number is a ratio of root mean squares over noisy points ``(n, 2)``: the field minus the way
    to the nearest point, over that way.
    """
    way = to_nearest(density.nodes, y)
    return root_mean_square(jax.vmap(learned)(y) - way) / root_mean_square(way)


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the error of pointing at the nearest point, for every curve."""
    return measure_curves(trained, "error_of_nearest", error_of_nearest, UNIT)


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws a ring of corruptions around one point of every density, and where they go."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    for name, field in trained.fields.items():
        nodes = np.asarray(field.density.nodes)
        centre = nodes[len(nodes) // 3]
        ring = centre + 2 * field.stddev * circle
        run.draw(
            plots.corruption_ring,
            f"ring_{name}.png",
            nodes,
            centre,
            ring,
            np.asarray(take_step(field.learned(-1), jnp.asarray(ring, jnp.float32))),
            title=f"Equiprobable corruptions of one point ({name}, noise {field.stddev:g})",
        )


def claims(found: Metrics) -> list[Claim]:
    """Holds if the field is nearer to pointing at the nearest point than to doing nothing.

    Corrected where it is much nearer to the posterior mean.
    """
    circle, spiral = (found["densities"][name] for name in ("circle", "spiral"))
    return [
        Claim(
            "A point is corrupted into a grey circle of equiprobable corruptions, and the step "
            "from a corrupted point to its reconstruction leads to the nearest point of the "
            "manifold.",
            "Almost: the learned displacement differs from the way to the nearest point by "
            f"{shown(circle['error_of_nearest'])} of its length on the circle and "
            f"{shown(spiral['error_of_nearest'])} on the spiral (root mean squares over noisy "
            f"points), but from the posterior mean by {shown(circle['error_near'])} and "
            f"{shown(spiral['error_near'])} only. It points to the centre of mass, which lies "
            "inside of a curved manifold and between two arms of one.",
            verdict(
                max(circle["error_of_nearest"]["values"]) < 0.5,
                corrects=circle["error_of_nearest"]["mean"] > 2 * circle["error_near"]["mean"],
            ),
            {
                "circle, against the nearest point": circle["error_of_nearest"],
                "spiral, against the nearest point": spiral["error_of_nearest"],
            },
            "ring_circle.png",
            "A grey disc around one clean point of a curve; corrupted points on its rim; an "
            "arrow from each of them to where the network moves it.",
            anchor="manifold-nearest-point",
            plain=sentence(
                "The learned step misses the nearest point by {circle} of the way on the circle "
                "and by {spiral} on the spiral.",
                circle=percent(circle["error_of_nearest"]["mean"]),
                spiral=percent(spiral["error_of_nearest"]["mean"]),
            ),
            caption="Grey points: corruptions of the orange point, all equally likely. Blue "
            "arrows: where the network moves each of them. Black: the curve on which the data lie.",
            formula=r"\text{dec}(\text{enc}(\tilde x)) - \tilde x",
            more={
                "ring_spiral.png": "The same around a point of the spiral.",
                "ring_mixture.png": "The same around the mean of one of five Gaussians.",
            },
        ),
    ]
