"""The price of L1: it does not only choose units, it makes their codes too small."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, Sentence, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.sparse.networks import Trained, tops
from experiments.sparse.path import LABEL

AXES = 32  # of the orthonormal decoder
FIGURE = "shrinkage.png"


def soft_threshold(t: Array, threshold: float) -> Array:
    """Returns the optimal codes for coefficients t, an orthonormal decoder and L1."""
    return jnp.sign(t) * jnp.maximum(jnp.abs(t) - threshold, 0)


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Trains a relu encoder under a fixed orthonormal decoder; compares codes with their optimum.

    The decoder's columns are the leading principal axes u and their negatives, so that a pair of
    units holds one signed coefficient. The optimum is S(u^T x, lambda / 2), soft-thresholding.
    """
    setup = trained.setup
    weight, (train, test) = setup.weights[setup.chosen], setup.centred
    axes = principal_axes(train[:2000])
    count = axes.shape[1]

    def encode(params: Params, x_i: Array) -> Array:
        return nn.relu(x_i @ params["kernel"] + params["bias"])

    def decode(code: Array) -> Array:
        return axes @ (code[:count] - code[count:])

    def loss(params: Params) -> Array:
        encoded = partial(encode, params)
        return jnp.mean(jaxae.sparse_loss(encoded, decode, train[:2000], weight=weight))

    @jax.jit
    def solve(key: Array) -> tuple[Array, Array, Array]:
        start = jnp.concatenate([axes, -axes], axis=1)  # the decoder, transposed, and noise
        kernel = start + jax.nn.initializers.glorot_uniform()(key, start.shape, jnp.float32)
        begin = {"kernel": kernel, "bias": jnp.zeros(2 * count)}
        params = jaxae.minimize(loss, begin, jaxae.lbfgs(), steps=300).params
        with jax.default_matmul_precision("highest"):
            code = jax.vmap(partial(encode, params))(test)
            t = test @ axes
        best = soft_threshold(t, weight / 2)
        code = code[:, :count] - code[:, count:]
        return jnp.linalg.norm(code - best) / jnp.linalg.norm(best), t, code

    keys = [jax.random.fold_in(setup.key(seed), 1) for seed in range(setup.num_seeds)]
    solved = [solve(key) for key in keys]
    errors = [float(error) for error, _, _ in solved]
    _, t, code = solved[-1]
    unit = "distance to the optimal codes over their norm"
    codes = binned(np.ravel(t), np.ravel(code), weight)
    return {"orthonormal": {"weight": weight, "code_error": over_seeds(errors, unit), **codes}}


def principal_axes(x: Array) -> Array:
    """Returns the leading principal axes of centred images as columns, at most ``AXES``."""
    covariance = np.cov(np.asarray(x, np.float64).T, bias=True)
    vectors = np.linalg.eigh(covariance)[1][:, ::-1]
    return jnp.asarray(vectors[:, :AXES], jnp.float32)


def binned(t: np.ndarray, code: np.ndarray, weight: float) -> dict[str, list[float]]:
    """Returns means of coefficients, their codes and their optimal codes, over bins of size."""
    size, value = np.abs(t), code * np.sign(t)
    edges = np.linspace(0, np.quantile(size, 0.999), 25)
    bins = [np.flatnonzero((size >= a) & (size < b)) for a, b in itertools.pairwise(edges)]
    bins = [rows for rows in bins if len(rows)]
    return {
        "coefficient": [float(size[rows].mean()) for rows in bins],
        "code": [float(value[rows].mean()) for rows in bins],
        "optimal_code": [float(np.maximum(size[rows] - weight / 2, 0).mean()) for rows in bins],
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    orthonormal, rows = found["orthonormal"], found["methods"]["L1"][1:]
    look, closed, x = plots.METHODS["sparse"], "closed form", [row["weight"] for row in rows]
    t = orthonormal["coefficient"]
    codes = [
        plots.plain("L1", t, orthonormal["code"], look),
        plots.plain(closed, t, orthonormal["optimal_code"], plots.EXACT),
        plots.plain("no shrinkage, as in top-k", t, t, plots.Look(plots.EXACT.color, ":")),
    ]
    residual = [
        plots.line("L1", x, [row["residual_along_filters"] for row in rows], look),
        plots.plain(closed, x, [weight / 2 for weight in x], plots.EXACT),
    ]
    panels = [
        plots.Panel(
            "coefficient |u^T x| (pixel value)",
            "learned code (pixel value)",
            codes,
            title=f"orthonormal decoder, lambda {orthonormal['weight']:g}",
        ),
        plots.Panel(
            LABEL, "residual along active filters (pixel value)", residual, title="learned decoder"
        ),
    ]
    run.draw(plots.panels, FIGURE, panels, title="L1 makes codes too small by lambda / 2")


def claims(found: Metrics) -> list[Claim]:
    """Returns a consequence of the slide's objective, beside what was measured."""
    picked, orthonormal = found["methods"]["L1"][found["chosen"]], found["orthonormal"]
    largest = tops(found["methods"])
    half, along = picked["weight"] / 2, picked["residual_along_filters"]
    errors = orthonormal["code_error"]["values"]  # None where all optimal codes are 0
    holds = all(error is not None and error < 0.05 for error in errors) and all(
        abs(value - half) < 0.2 * half for value in along["values"]
    )
    first, top = next(iter(largest.items()))
    return [
        Claim(
            "The L1 norm does not only choose units, it also shrinks their codes.",
            "Under an orthonormal decoder the learned codes are the soft-thresholded "
            f"coefficients, S(u^T x, lambda / 2), up to {shown(orthonormal['code_error'])} of "
            "their norm. With learned filters the same bias stays in the residual, which along "
            f"active filters is {shown(along)} at lambda {picked['weight']:g}, where {half:g} is "
            f"exact at a stationary point; {first} units, which choose without shrinking, leave "
            f"{shown(top['residual_along_filters'])}.",
            verdict(holds),
            {"error of the codes": orthonormal["code_error"], "residual, L1": along}
            | {f"residual, {name}": row["residual_along_filters"] for name, row in largest.items()},
            FIGURE,
            "Two panels. Left: learned code against the coefficient, with the closed form and "
            "the diagonal. Right: residual along active filters against lambda, with the line "
            "lambda / 2.",
            anchor="sparse-shrinkage",
            plain=_plain(along, half),
            caption="Left: the learned code against the true coefficient; the dotted diagonal is "
            "no shrinkage, the dashed line is theory. Right: how much is missing, against lambda.",
            formula=r"z = S(u^\top x,\, \lambda / 2)",
            source="Not on the slide",
        )
    ]


def _plain(along: Metrics, half: float) -> Sentence:
    """Returns how much active units are shrunk, as a share of half the weight of the penalty."""
    share = None if along["mean"] is None else along["mean"] / half
    if share is not None and share < 0:
        return sentence(
            "Active units are not shrunk but enlarged, by {share} of half the weight of the "
            "penalty.",
            share=percent(-share),
        )
    return sentence(
        "Active units are shrunk by {share} of the amount that theory predicts, which is half the "
        "weight of the penalty.",
        share=percent(share),
    )
