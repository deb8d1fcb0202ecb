"""The cost of the contractive penalty for a dense and a convolutional encoder, in operations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function, Params
from experiments.convolutional.networks import IMAGE, Trained

EXACT = {
    "jaxae's choice": "auto",
    "full Jacobian, reverse": "jacrev",
    "full Jacobian, forward": "jacfwd",
}
ESTIMATE = "estimate, one direction"
METHODS = EXACT | {ESTIMATE: "hutchinson"}
UNIT = "operations of a gradient over those of the same network's without a penalty"
LOOKS = {"dense": plots.OTHERS[1], "convolutional": plots.OTHERS[0]}


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the operations of a gradient with the penalty, over those without it."""
    setup = trained.setup
    x = jnp.asarray(setup.dataset.train[: setup.config.batch_size])
    cost = {
        name: {
            method: over_seeds([ratio], UNIT)
            for method, ratio in count_ratios(
                trainer.bound, trained.denoising[name].params[0], x
            ).items()
        }
        for name, trainer in trained.trainers.items()
    }
    return {"cost": cost}


def count_ratios(
    bound: Callable[[Params], tuple[Function, Function]], params: Params, x: Array
) -> dict[str, float]:
    """Returns the operations of a gradient by each method, over those without a penalty."""

    def count_operations(loss: Callable[[Function, Function], Array]) -> float:
        def mean_loss(params: Params) -> Array:
            return loss(*bound(params)).mean()

        # Counted in the program as it is written, which takes no time to compile.
        analysis = jax.jit(jax.grad(mean_loss)).lower(params).cost_analysis()
        assert analysis is not None
        return float(analysis["flops"])

    def plain(encode: Function, decode: Function) -> Array:
        return jaxae.reconstruction_loss(encode, decode, x, example_ndim=IMAGE)

    def penalised(method: str) -> Callable[[Function, Function], Array]:
        def loss(encode: Function, decode: Function) -> Array:
            key = jax.random.key(0) if method == "hutchinson" else None
            return jaxae.contractive_loss(
                encode, decode, x, weight=1.0, method=method, key=key, example_ndim=IMAGE
            )

        return loss

    base = count_operations(plain)
    return {label: count_operations(penalised(method)) / base for label, method in METHODS.items()}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the operations, a row for each way to the penalty."""
    cost = found["cost"]
    run.draw(
        plots.dots,
        "cost.png",
        {method: [cost[name][method] for name in LOOKS] for method in METHODS},
        LOOKS,
        x_label="operations of a gradient, without the penalty = 1",
        title="What the contractive penalty costs",
    )


def claims(found: Metrics) -> list[Claim]:
    """Holds if the penalty doubles a gradient at most; corrected if only for the dense encoder."""
    cost = found["cost"]
    dense = min((cost["dense"][method] for method in EXACT), key=lambda n: n["mean"])
    conv_costs = cost["convolutional"]
    cheapest = min(EXACT, key=lambda method: conv_costs[method]["mean"])
    conv = conv_costs[cheapest]
    return [
        Claim(
            "The contractive penalty costs little more than the reconstruction.",
            f"With the penalty a gradient takes {shown(dense)} times the operations for the dense "
            "encoder of one layer, where the norm of the Jacobian has a closed form. For the "
            f"convolutional encoder it takes {shown(conv)} times as many by the exact way with the "
            f"fewest, {cheapest}, and {shown(conv_costs[ESTIMATE])} times as many with an unbiased "
            "estimate from one random direction, with which the contractive networks are trained "
            "here. jaxae chooses by an estimate of the time and not by operations alone, so its "
            "own choice may have more of them.",
            verdict(dense["mean"] < 2, corrects=conv["mean"] >= 2),
            {
                f"{method}, {name}": number
                for name, own in cost.items()
                for method, number in own.items()
            },
            "cost.png",
            "Four rows of two dots on a logarithmic axis, for the dense and the convolutional "
            "encoder: the operations of a gradient with the penalty, by four methods.",
            anchor="convolutional-penalty-cost",
            plain=sentence(
                "With the exact penalty a gradient costs {dense} times as much for the dense "
                "encoder, {conv} times for the convolutional one.",
                dense=brief(dense["mean"]),
                conv=brief(conv["mean"]),
            ),
            caption="Each row is a way to the penalty; the last one only estimates it. The farther "
            "left, the fewer operations; at 1 the penalty would cost nothing.",
            source="Beyond the chapter",
            leading=tuple(f"{method}, convolutional" for method in METHODS),
        )
    ]
