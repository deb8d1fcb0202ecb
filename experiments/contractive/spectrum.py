"""The singular values of the encoder's Jacobian: does the penalty shrink all of them alike?"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, rows_over_seeds, values_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.contractive.networks import METHODS, Trained

UNITS = {
    "singular_values": "code units per pixel value, mean over examples",
    "values_above_1": "singular values above 1, mean over examples",
    "values_for_90_percent": "singular values that hold 90 % of the squared norm, mean",
}


@jax.jit
def summarise_spectra(values: Array) -> dict[str, Array]:
    """Returns the means over examples of what singular values ``(s, r)`` say."""

    def summarise_spectrum(values: Array) -> dict[str, Array]:
        power = jnp.cumsum(jnp.square(values)) / jnp.sum(jnp.square(values))
        return {
            "singular_values": values,
            "values_above_1": jnp.sum(values > 1).astype(values.dtype),
            "values_for_90_percent": 1 + jnp.sum(power < 0.9).astype(values.dtype),
        }

    return jax.tree.map(lambda each: jnp.mean(each, axis=0), jax.vmap(summarise_spectrum)(values))


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the means of the singular values, which ``jacobians`` has computed."""
    spectra = {
        method: rows_over_seeds(
            [summarise_spectra(decomposition.values) for decomposition in per_seed], UNITS
        )
        for method, per_seed in trained.jacobians.items()
    }
    return {"methods": spectra}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Writes the figure."""
    methods = found["methods"]
    length = len(methods["AE"]["singular_values"])
    index = list(range(1, length + 1))
    lines = []
    for method in METHODS:
        means = [number["mean"] for number in methods[method]["singular_values"]]
        look = plots.Look(plots.METHODS[method].color, plots.METHODS[method].style[1:])
        seen = [value if value > 1e-3 else np.nan for value in means]
        lines.append(plots.plain(method, index, seen, look))
    lines.append(plots.plain("1: length kept", [1, length], [1, 1], plots.EXACT))
    labels = ("index of singular value", "singular value (code units per pixel unit)")
    panel = plots.Panel(*labels, lines, ("linear", "log"))
    title = "Singular values of the encoder's Jacobian"
    run.draw(plots.panels, "spectrum.png", [panel], title=title)


def claims(found: Metrics) -> list[Claim]:
    """Holds if fewer than half of the CAE's singular values exceed 1, but some do."""
    methods = found["methods"]
    ae, cae = methods["AE"], methods["CAE"]
    above, above_of_ae = (values_over_seeds([row], "values_above_1") for row in (cae, ae))
    count = len(cae["singular_values"])
    holds = bool(((above > 0) & (above < count / 2) & (above < above_of_ae)).all())
    counts, most, norms = (
        {method: row[name] for method, row in methods.items()}
        for name in ("values_above_1", "values_for_90_percent", "jacobian_norm")
    )
    return [
        Claim(
            "After training, most singular values of the CAE's Jacobian are below 1, and some "
            "remain above.",
            f"Of {count} singular values at a test example, {shown(counts['CAE'])} of the CAE's "
            f"exceed 1, of the AE's {shown(counts['AE'])} and of the DAE's "
            f"{shown(counts['DAE'])}. Their squared Jacobian norms are not equal (CAE "
            f"{shown(norms['CAE'])}, AE {shown(norms['AE'])}, DAE {shown(norms['DAE'])}), and "
            "these counts depend on them; the next numbers do not. "
            f"90 % of the squared norm are in the first {shown(most['CAE'])} (AE "
            f"{shown(most['AE'])}, DAE {shown(most['DAE'])}): the penalty does not shrink all "
            "directions alike, it keeps few.",
            verdict(holds),
            {f"above 1, {method}": number for method, number in counts.items()}
            | {f"for 90 %, {method}": number for method, number in most.items()},
            "spectrum.png",
            "Singular values of the encoder's Jacobian on a logarithmic axis against their "
            "index, a line for each method; a dashed line at 1.",
            anchor="contractive-singular-values",
            plain=sentence(
                "On average, {cae} singular values of the Jacobian exceed one in the CAE, and {ae} "
                "in the plain autoencoder.",
                cae=brief(counts["CAE"]["mean"]),
                ae=brief(counts["AE"]["mean"]),
            ),
            caption="Above the dashed line a direction of the input is stretched, below it is "
            "shrunk. A steep curve keeps few directions.",
            source="The Deep Learning book says (sec. 14.7)",
        )
    ]
