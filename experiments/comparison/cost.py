"""What a denoising and what a contractive gradient cost, counted and not timed."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

import jaxae
from experiments.common import plots, records
from experiments.common.claims import Claim, shown, verdict
from experiments.common.running import Run
from experiments.comparison.networks import WEIGHT, Networks, corrupt


def measure(networks: Networks, x: Array, noise: float) -> dict[str, Any]:
    """Returns the floating-point operations of one gradient over those of the plain AE's."""
    batch = x[:64]

    def count(loss: Callable[[Any, Any], Array]) -> float:
        gradient = jax.jit(jax.grad(lambda params: loss(*networks.bound(params)).mean()))
        analysis: Any = gradient.lower(networks.ae[0]).compile().cost_analysis()
        return float(analysis["flops"])

    plain = count(lambda encode, decode: jaxae.reconstruction_loss(encode, decode, batch))
    of_dae = count(
        lambda encode, decode: jaxae.denoising_loss(
            jax.random.key(0), encode, decode, batch, corrupt=corrupt(noise)
        )
    )
    of_cae = count(
        lambda encode, decode: jaxae.contractive_loss(encode, decode, batch, weight=WEIGHT)
    )
    unit = "operations of a gradient over the plain autoencoder's, as counted by the compiler"
    return {
        "AE": records.over_seeds([1.0], unit),
        "DAE": records.over_seeds([of_dae / plain], unit),
        "CAE": records.over_seeds([of_cae / plain], unit),
    }


def draw(run: Run, found: dict[str, Any]) -> None:
    """Writes the figure."""
    plots.dots(
        run.path("cost.png"),
        {name: [number] for name, number in found.items()},
        {"one gradient, batch of 64": plots.Look("#222222")},
        x_label="operations, in units of the plain autoencoder's",
        title="What a gradient costs",
        scale="linear",
    )


def claims(found: dict[str, Any]) -> list[Claim]:
    """Returns the row of the comparison."""
    first, rest = found["DAE"], found["CAE"]
    return [
        Claim(
            "The DAE needs only one or two lines more than a plain autoencoder, and no Jacobian.",
            f"A DAE's gradient takes {shown(first)} times the operations of a plain one, a CAE's "
            f"{shown(rest)} times with the Jacobian by automatic differentiation, here of an "
            "encoder with one layer.",
            verdict(first["mean"] < 1.5 < rest["mean"]),
            {"DAE": first, "CAE": rest},
            "cost.png",
            "Three dots on one axis: the operations of a gradient of AE, DAE and CAE, the DAE near "
            "the AE and the CAE far to the right.",
        ),
    ]
