"""What a denoising and what a contractive gradient cost, counted and not timed."""

from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function, Params
from experiments.dae_vs_cae.networks import WEIGHT, Trained, corrupt


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the floating-point operations of one gradient over those of the plain AE's."""
    batch = trained.batch[:64]

    def count_operations(loss: Callable[[Function, Function], Array]) -> float:
        def mean_loss(params: Params) -> Array:
            return loss(*trained.bound(params)).mean()

        analysis = jax.jit(jax.grad(mean_loss)).lower(trained.ae[0]).compile().cost_analysis()
        assert analysis is not None
        return float(analysis["flops"])

    def plain(encode: Function, decode: Function) -> Array:
        return jaxae.reconstruction_loss(encode, decode, batch)

    def denoising(encode: Function, decode: Function) -> Array:
        noise, key = corrupt(trained.noise), jax.random.key(0)
        return jaxae.denoising_loss(key, encode, decode, batch, corrupt=noise)

    def contractive(encode: Function, decode: Function, *, method: str) -> Array:
        return jaxae.contractive_loss(encode, decode, batch, weight=WEIGHT, method=method)

    losses: dict[str, Callable[[Function, Function], Array]] = {
        "DAE": denoising,
        "CAE": partial(contractive, method="jacfwd"),
        "CAE, no Jacobian": partial(contractive, method="auto"),
    }

    unit = "operations of a gradient over the plain autoencoder's, as counted by the compiler"
    base = count_operations(plain)
    ratios = {"AE": 1.0} | {name: count_operations(loss) / base for name, loss in losses.items()}
    return {"cost": {name: over_seeds([ratio], unit) for name, ratio in ratios.items()}}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    found = found["cost"]
    run.draw(
        plots.dots,
        "cost.png",
        {name: [number] for name, number in found.items()},
        {"one gradient, batch of 64": plots.Look("#222222")},
        x_label="operations, in units of the plain autoencoder's",
        title="What a gradient costs",
        scale="linear",
    )


def claims(found: Metrics) -> list[Claim]:
    """Returns the row of the comparison."""
    found = found["cost"]
    first, full, exact = found["DAE"], found["CAE"], found["CAE, no Jacobian"]
    return [
        Claim(
            "The DAE needs only one or two lines more than a plain autoencoder, and no Jacobian.",
            f"A DAE's gradient takes {shown(first)} times the operations of a plain one, a CAE's "
            f"{shown(full)} times with the Jacobian by automatic differentiation. But the CAE "
            "needs none: of one layer the norm of the Jacobian follows from the encoder's "
            f"structure, exactly, and a gradient takes {shown(exact)} times the operations of a "
            "plain one.",
            verdict(first["mean"] < 1.5 < full["mean"], corrects=exact["mean"] < 1.5),
            {
                "operations of a gradient, DAE / AE": first,
                "CAE, by autodiff / AE": full,
                "CAE, from the structure / AE": exact,
            },
            "cost.png",
            "Four dots on one axis: the operations of a gradient of AE, DAE, CAE and CAE without "
            "a Jacobian, in units of the AE's.",
            anchor="comparison-cost",
            plain=sentence(
                "Relative to a plain autoencoder, a gradient of the DAE costs {dae} times as much, "
                "of the CAE without a full Jacobian {cae} times.",
                dae=brief(first["mean"]),
                cae=brief(exact["mean"]),
            ),
            caption="The cost of one gradient, in units of the plain autoencoder's. The farther "
            "left, the cheaper.",
        ),
    ]
