"""Whether the learned field is the exact one, which points to the centre of mass."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.results.claims import Claim, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.vector_field.fields import draw_field
from experiments.vector_field.grid import Fields, exact_on_grid, points
from experiments.vector_field.networks import Field, Trained

BARS = {"circle": 0.05, "spiral": 0.08, "mixture": 0.05}  # on the error near the data
UNITS = {
    "error_near": "relative L2 error of the learned field near the data",
    "error_far": "relative L2 error of the learned field elsewhere",
}


def relative_error(fields: Fields, where: np.ndarray) -> float:
    """Returns ||learned - exact|| / ||exact|| over some points of the grid."""
    gap = np.linalg.norm(fields.learned[where] - fields.exact[where])
    return float(gap / np.linalg.norm(fields.exact[where]))


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the errors of the learned field, near the data and elsewhere."""
    results = {name: measure_field(field) for name, field in trained.fields.items()}
    for name, result in results.items():
        near, far = (result[f"error_{part}"]["mean"] for part in ("near", "far"))
        run.say(
            f"{name:8s} error of the learned field: near the data "
            f"{near:.3f}, far from them {far:.3f}"
        )
    return {"densities": results}


def measure_field(field: Field) -> Metrics:
    """Returns the errors over the seeds on one density."""
    near = [relative_error(fields, fields.is_dense) for fields in field.on_grid]
    far = [relative_error(fields, ~fields.is_dense) for fields in field.on_grid]
    return {**errors(near, far), "other_levels": measure_other_levels(field)}


def measure_other_levels(field: Field) -> list[Metrics]:
    """Returns the errors of the networks of the other noise levels, which have one seed."""

    @jax.jit  # one program for all levels
    def both_fields(stddev: Array, params: Params) -> tuple[Array, ...]:
        learned = jax.vmap(field.learned_by(params))(points())
        return points(), learned, *exact_on_grid(field.density, stddev)

    results = []
    for stddev, params in field.others.items():
        fields = Fields(*map(np.asarray, both_fields(jnp.float32(stddev), params)))
        near = relative_error(fields, fields.is_dense)
        far = relative_error(fields, ~fields.is_dense)
        results.append({"noise_stddev": stddev, **errors([near], [far])})
    return results


def errors(near: list[float], far: list[float]) -> Metrics:
    """Returns the errors over the seeds, near the data and elsewhere."""
    values = {"error_near": near, "error_far": far}
    return {name: over_seeds(values[name], unit) for name, unit in UNITS.items()}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the field of every curve."""
    for field in trained.curves.values():
        draw_field(run, field)


def claims(found: Metrics) -> list[Claim]:
    """Holds if the error near the data is below a bar on every density."""
    found = found["densities"]
    spiral = found["spiral"]
    near = {name: result["error_near"] for name, result in found.items()}
    return [
        Claim(
            "The reconstruction of a corrupted point estimates the centre of mass of the clean "
            "points that it could come from.",
            "The posterior mean is known in closed form here. The learned field is within "
            f"{shown(near['circle'])} (circle), {shown(near['spiral'])} (spiral) and "
            f"{shown(near['mixture'])} (mixture) of it where the noisy density is above 5 % of its "
            f"maximum, and within {shown(spiral['error_far'])} (spiral) elsewhere.",
            verdict(all(near[name]["mean"] < BARS[name] for name in BARS)),
            {
                f"{name}, {where}": result[f"error_{part}"]
                for name, result in found.items()
                for part, where in (("near", "near the data"), ("far", "elsewhere"))
            },
            "field_spiral.png",
            "Two panels of arrows over a spiral: the learned steps, and the exact ones.",
            anchor="manifold-centre-of-mass",
            plain=sentence(
                "Near the data, the learned field differs from the exact one by {circle} on the "
                "circle and by {spiral} on the spiral.",
                circle=percent(near["circle"]["mean"]),
                spiral=percent(near["spiral"]["mean"]),
            ),
            caption="Left: the steps that the network has learned. Right: the exact ones, computed "
            "from the density. Grey: where noisy data are likely.",
            formula=r"\text{dec}(\text{enc}(\tilde x)) \approx E[x \mid \tilde x]",
            more={
                "field_circle.png": "The same two panels for a circle.",
            },
        ),
    ]
