"""How noisy the gradients are: their variance over draws of noise and of batches."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.dae_vs_cae.networks import Trained

CORRUPTIONS = (1, 2, 4, 8, 16, 32)
DRAWS = 256
BATCH = 64


def make_sampler(
    loss: Callable[[Params, Array, Array], Array], *, batch_size: int | None = None
) -> Callable[[Params, Array, Array, int], np.ndarray]:
    """Returns the compiled ``sample(params, key, x, count)`` of independent gradients.

    Args:
      loss: ``loss(params, key, x)``, a scalar.
      batch_size: how many examples each gradient sees, drawn without replacement; None for all.

    Returns:
      A function that returns ``count`` gradients as rows, float64.
    """

    def one(params: Params, x: Array, key: Array) -> Array:
        rows_key, noise_key = jax.random.split(key)
        if batch_size is not None:
            size = min(batch_size, len(x))
            x = x[jax.random.choice(rows_key, len(x), (size,), replace=False)]
        return ravel_pytree(jax.grad(loss)(params, noise_key, x))[0]

    @jax.jit
    def all_of(params: Params, x: Array, keys: Array) -> Array:
        return jax.lax.map(partial(one, params, x), keys)

    def sample(params: Params, key: Array, x: Array, count: int) -> np.ndarray:
        return np.asarray(all_of(params, x, jax.random.split(key, count)), np.float64)

    return sample


def relative_variance(gradients: np.ndarray) -> float:
    """Returns the trace of the covariance of some gradients (rows) over their squared mean."""
    mean = gradients.mean(0)
    total = ((gradients - mean) ** 2).sum() / (len(gradients) - 1)
    return float(total / (mean**2).sum())


def mean_of(gradients: np.ndarray, m: int) -> np.ndarray:
    """Returns the means of consecutive groups of m gradients; what is left over is dropped."""
    groups = len(gradients) // m
    return gradients[: groups * m].reshape(groups, m, -1).mean(1)


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the relative variance of both gradients, at the plain AE's parameters."""

    def cae_loss(params: Params, _: Array, x: Array) -> Array:
        return trained.cae_loss(params, x)

    dae_loss = trained.dae_loss
    samplers = {
        "DAE": (make_sampler(dae_loss), DRAWS),
        "CAE": (make_sampler(cae_loss), 8),
        "DAE minibatch": (make_sampler(dae_loss, batch_size=BATCH), DRAWS),
        "CAE minibatch": (make_sampler(cae_loss, batch_size=BATCH), DRAWS // 4),
    }
    gradient_key, _ = trained.noise_keys()
    variances: dict[str, list[float]] = {}
    for seed, params in enumerate(trained.ae):
        seed_key = jax.random.fold_in(gradient_key, seed)
        for (name, (sample, count)), one in zip(
            samplers.items(), jax.random.split(seed_key, len(samplers)), strict=True
        ):
            gradients = sample(params, one, trained.batch, count)
            # m corruptions of every example give the mean of m draws
            for m in CORRUPTIONS if name == "DAE" else (1,):
                label = f"DAE {m}" if name == "DAE" else name
                means = mean_of(gradients, m)
                variances.setdefault(label, []).append(relative_variance(means))
    unit = "trace of the gradient's covariance over its squared mean"
    return {
        "gradient_noise": {name: over_seeds(values, unit) for name, values in variances.items()}
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    found = found["gradient_noise"]
    run.draw(
        plots.panels,
        "gradient_variance.png",
        [
            plots.Panel(
                "corruptions of each example",
                "variance of the gradient / squared mean",
                [
                    plots.line(
                        "DAE, full batch",
                        CORRUPTIONS,
                        [found[f"DAE {m}"] for m in CORRUPTIONS],
                        plots.METHODS["DAE"],
                    ),
                    plots.line(
                        "DAE, batches of 64",
                        CORRUPTIONS[:1],
                        [found["DAE minibatch"]],
                        plots.Look(plots.METHODS["DAE"].color, "v"),
                    ),
                    plots.line(
                        "CAE, batches of 64",
                        CORRUPTIONS,
                        [found["CAE minibatch"]] * len(CORRUPTIONS),
                        plots.Look(plots.METHODS["CAE"].color, "--"),
                    ),
                ],
                ("log2", "log"),
                CORRUPTIONS,
                title="CAE, full batch: exactly 0, below every axis",
            )
        ],
        title="Noise of the gradient",
    )


def claims(found: Metrics) -> list[Claim]:
    """Returns the row of the comparison."""
    found = found["gradient_noise"]
    in_batches = found["CAE minibatch"]["mean"], found["DAE minibatch"]["mean"]
    return [
        Claim(
            "The CAE's gradient is deterministic and may be more stable than the DAE's, which is "
            "sampled.",
            "On the full batch the variance of the CAE's gradient is "
            f"{shown(found['CAE'])}; the DAE's is {shown(found['DAE 1'])} of its squared mean, "
            "and falls as one over the number of corruptions. In batches of "
            f"{BATCH} both depend on the choice of the batch, the CAE's "
            + ("less: " if in_batches[0] < in_batches[1] else "not less: ")
            + f"{shown(found['CAE minibatch'])} against {shown(found['DAE minibatch'])}.",
            verdict(
                max(found["CAE"]["values"]) == 0 < min(found["DAE 1"]["values"]),
                corrects=in_batches[0] > 0,
            ),
            {
                "CAE, full batch": found["CAE"],
                "DAE, full batch": found["DAE 1"],
                "CAE, batches of 64": found["CAE minibatch"],
                "DAE, batches of 64": found["DAE minibatch"],
            },
            "gradient_variance.png",
            "Logarithmic axes: the variance of the DAE's gradient against the number of "
            "corruptions, and as a horizontal line that of the CAE in batches of 64.",
            anchor="comparison-gradient-noise",
            plain=sentence(
                "On all data at once the CAE's gradient has no noise; in small batches its "
                "variance is {share} of the DAE's."
                if max(found["CAE"]["values"]) == 0
                else "In small batches the variance of the CAE's gradient is {share} of the DAE's.",
                share=percent(ratio(found["CAE minibatch"], found["DAE minibatch"])),
            ),
            caption="The lower, the calmer is the gradient. To the right, the DAE's gradient is "
            "averaged over more corruptions of each example.",
            leading=("DAE, full batch", "CAE, batches of 64", "DAE, batches of 64"),
        ),
    ]
