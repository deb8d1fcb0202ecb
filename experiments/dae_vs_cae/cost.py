"""What a denoising and what a contractive gradient cost, counted and not timed."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, shown, verdict
from experiments.common.results.numbers import over_seeds
from experiments.common.run.experiment import Run
from experiments.dae_vs_cae.networks import WEIGHT, Networks, corrupt


def measure(networks: Networks, x: Array, noise: float) -> dict[str, Any]:
    """Returns the floating-point operations of one gradient over those of the plain AE's."""
    batch = x[:64]

    def count(loss: Callable[[Any, Any], Array]) -> float:
        gradient = jax.jit(jax.grad(lambda params: loss(*networks.bound(params)).mean()))
        analysis: Any = gradient.lower(networks.ae[0]).compile().cost_analysis()
        return float(analysis["flops"])

    plain = count(lambda encode, decode: jaxae.reconstruction_loss(encode, decode, batch))
    dae_flops = count(
        lambda encode, decode: jaxae.denoising_loss(
            jax.random.key(0), encode, decode, batch, corrupt=corrupt(noise)
        )
    )

    def cae_flops(method: str) -> float:
        options: Any = {"weight": WEIGHT, "method": method}
        return count(
            lambda encode, decode: jaxae.contractive_loss(encode, decode, batch, **options)
        )

    unit = "operations of a gradient over the plain autoencoder's, as counted by the compiler"
    return {
        "AE": over_seeds([1.0], unit),
        "DAE": over_seeds([dae_flops / plain], unit),
        "CAE": over_seeds([cae_flops("jacfwd") / plain], unit),
        "CAE, no Jacobian": over_seeds([cae_flops("auto") / plain], unit),
    }


def draw(run: Run, found: dict[str, Any]) -> None:
    """Writes the figure."""
    run.draw(
        plots.dots,
        "cost.png",
        {name: [number] for name, number in found.items()},
        {"one gradient, batch of 64": plots.Look("#222222")},
        x_label="operations, in units of the plain autoencoder's",
        title="What a gradient costs",
        scale="linear",
    )


def claims(found: dict[str, Any]) -> list[Claim]:
    """Returns the row of the comparison."""
    first, full, exact = found["DAE"], found["CAE"], found["CAE, no Jacobian"]
    return [
        Claim(
            "The DAE needs only one or two lines more than a plain autoencoder, and no Jacobian.",
            f"A DAE's gradient takes {shown(first)} times the operations of a plain one, a CAE's "
            f"{shown(full)} times with the Jacobian by automatic differentiation. But the CAE "
            "needs none: the norm of the Jacobian follows from the encoder's structure, exactly, "
            f"and of one layer costs as good as nothing ({shown(exact)} times a plain gradient).",
            verdict(first["mean"] < 1.5 < full["mean"], corrects=exact["mean"] < 1.5),
            {
                "operations of a gradient, DAE / AE": first,
                "CAE, by autodiff / AE": full,
                "CAE, from the structure / AE": exact,
            },
            "cost.png",
            "Four dots on one axis: the operations of a gradient of AE, DAE, CAE and CAE without a "
            "Jacobian. The CAE is to the right, the others are close together.",
        ),
    ]
