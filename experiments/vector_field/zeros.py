"""Where the field is zero: at every critical point of the noisy density."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.data.densities import Density
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function
from experiments.vector_field.fields import draw_field
from experiments.vector_field.grid import HALF_WIDTH, exact_field, points
from experiments.vector_field.networks import Field, Trained

UNIT = "largest distance of a critical point to a learned zero"


def zeros(field: Function, starts: Array) -> np.ndarray:
    """Returns the distinct zeros of a field in the drawn square, by damped Newton steps."""

    def newton(y: Array) -> Array:
        def step(_: int, y: Array) -> Array:
            change = jnp.linalg.solve(jax.jacfwd(field)(y), field(y))
            return y - change * jnp.minimum(1, 0.1 / jnp.maximum(jnp.linalg.norm(change), 1e-9))

        return jax.lax.fori_loop(0, 100, step, y)

    ends = jax.jit(jax.vmap(newton))(starts)
    found = jnp.linalg.norm(jax.vmap(field)(ends), axis=-1) < 1e-4
    inside = jnp.abs(ends).max(-1) < HALF_WIDTH
    distinct: list[np.ndarray] = []
    for end in np.asarray(ends)[np.asarray(found & inside)]:
        if all(np.linalg.norm(end - other) > 0.05 for other in distinct):
            distinct.append(end)
    return np.array(distinct).reshape(-1, 2)


def critical_points(density: Density, stddev: float, starts: Array) -> list[Metrics]:
    """Returns the critical points of the noisy density, told apart.

    The exact field is the noise variance times the gradient of the log density (Alain and
    Bengio 2014), so its zeros are maxima, saddles and minima; the eigenvalues of its Jacobian say
    which.
    """
    exact = partial(exact_field, density, stddev)
    jacobian = jax.jit(jax.jacfwd(exact))
    rows = []
    for point in zeros(exact, starts):
        curvature = np.linalg.eigvals(np.asarray(jacobian(point))).real
        kind = ("maximum", "saddle", "minimum")[int((curvature > 0).sum())]
        rows.append({"kind": kind, "at": point.tolist()})
    return sorted(rows, key=lambda row: (row["kind"], row["at"]))


def with_learned_zeros(critical: list[Metrics], learned_zeros: np.ndarray) -> list[Metrics]:
    """Returns the critical points, each with the distance to the nearest learned zero ``(n, 2)``.

    It is None if there is no learned zero.
    """
    rows = []
    for row in critical:
        distances = np.linalg.norm(learned_zeros - np.array(row["at"], np.float32), axis=1)
        nearest = float(distances.min()) if len(distances) else None
        rows.append({**row, "distance_to_learned_zero": nearest})
    return rows


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the critical points of every mixture; on a curve the maxima form a curve."""
    return {"densities": {name: measure_field(own) for name, own in trained.mixtures.items()}}


def measure_field(field: Field) -> Metrics:
    """Returns the critical points of one mixture, and their distances to the learned zeros."""
    starts = points()[::5]
    critical = critical_points(field.density, field.stddev, starts)
    distances = []
    for seed in range(len(field.params)):
        rows = with_learned_zeros(critical, zeros(field.learned(seed), starts))
        own = [row["distance_to_learned_zero"] for row in rows]
        distances.append(max(2 * HALF_WIDTH if d is None else d for d in own))
    return {
        "distance_to_zeros": over_seeds(distances, UNIT),
        "critical_points": rows,  # of the last seed
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the field of every mixture."""
    for field in trained.mixtures.values():
        draw_field(run, field)


def claims(found: Metrics) -> list[Claim]:
    """Holds if a learned zero is near every critical point; corrected where some are no maxima."""
    mixture = found["densities"]["mixture"]
    kinds = Counter(row["kind"] for row in mixture["critical_points"])
    finds_all_zeros = max(mixture["distance_to_zeros"]["values"]) < 0.1
    return [
        Claim(
            "The field is zero on the data, the maxima of the density.",
            "It is zero at every critical point (Alain and Bengio 2014): the noisy density of five "
            f"Gaussians has {kinds['maximum']} maxima, {kinds['saddle']} saddles and "
            f"{kinds['minimum']} minimum, and the learned field has a zero within "
            f"{shown(mixture['distance_to_zeros'])} of each.",
            verdict(
                finds_all_zeros,
                corrects=kinds["saddle"] + kinds["minimum"] > 0,
            ),
            {"critical point to learned zero": mixture["distance_to_zeros"]},
            "field_mixture.png",
            "Two panels of arrows around five blobs on a circle: the learned steps, and the exact "
            "ones.",
            anchor="manifold-zeros",
            plain=sentence(
                "Each maximum, saddle and minimum of the density has a zero of the learned field "
                "within a distance of about {distance}.",
                distance=brief(max(mixture["distance_to_zeros"]["values"])),
            )
            if finds_all_zeros
            else sentence(
                "Some maximum, saddle or minimum of the density has no zero of the learned field "
                "within a distance of one tenth."
            ),
            caption="Look where the arrows vanish: in the five blobs, the maxima of the density, "
            "but also between neighbours, at saddles, and in the middle, at a minimum.",
            formula=r"E[x \mid \tilde x] - \tilde x = \sigma^2 \nabla \log p_\sigma(\tilde x)",
            source="Often said of such fields",
        ),
    ]
