"""The opposite case: a linear autoencoder with fewer code units than inputs is PCA."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.overcomplete_copy.inputs import Images
from experiments.overcomplete_copy.networks import Trained

OPTIMIZER = jaxae.lbfgs()
STEPS = 300


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Trains an undercomplete linear autoencoder to convergence, and compares it with PCA."""
    images = trained.images
    d, variances = len(images.variances), images.variances
    highest = max(min(d // 4, images.in_span - 1), 1)
    candidates = range(max(highest // 4, 1), highest + 1)
    k = max(candidates, key=lambda k: float(variances[k - 1] / variances[k]))
    init, solve = make_solver(images, k)
    angles, excess, optimum = [], [], float(variances[k:].sum())
    for keys in trained.keys:
        minimum = solve(init(keys.pca))
        decoder = np.asarray(minimum.params["decoder_kernel_0"], np.float64).T  # (d, k)
        angles.append(largest_angle(decoder, images.axes[:, :k]))
        losses = np.append(np.asarray(minimum.values, np.float64), float(minimum.value))
        excess.append(np.minimum.accumulate(losses) / optimum - 1)
    unit = "loss over the sum of the left-out variances, minus 1"
    steps = np.unique(np.geomspace(1, STEPS, 24).round().astype(int)).tolist()
    pca = {
        "code_dim": k,
        "eigengap": float(variances[k - 1] / variances[k]),
        "optimal_loss": optimum,
        "largest_angle": over_seeds(angles, "degrees"),
        "excess_loss": over_seeds([trace[-1] for trace in excess], unit),
        "steps": steps,
        "excess_at": [over_seeds([trace[n] for trace in excess], unit) for n in steps],
    }
    return {"pca": pca}


def make_solver(
    images: Images, code_dim: int
) -> tuple[Callable[[Array], Params], Callable[[Params], jaxae.Minimum]]:
    """Returns ``init(key)`` and the compiled ``solve(params)`` of a linear autoencoder.

    Its loss knows the data only through their mean and covariance, so the 2 d points
    +-sqrt(d l_i) u_i, which have the same ones, stand for all images.
    """
    d = len(images.variances)
    half = images.axes * np.sqrt(d * np.maximum(images.variances, 0))
    points = jnp.asarray(np.concatenate([half.T, -half.T]), jnp.float32)
    init, encode, decode = jaxae.as_functions(jaxae.DenseAutoencoder((d,), code_dim))

    def loss(params: Params) -> Array:
        parts = partial(encode, params), partial(decode, params)
        return jnp.mean(jaxae.reconstruction_loss(*parts, points))

    return init, jax.jit(lambda params: jaxae.minimize(loss, params, OPTIMIZER, steps=STEPS))


def largest_angle(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the largest principal angle between two column spans, in degrees.

    From its sine, the norm of what projecting a on b leaves: a cosine near 1 is no measure.
    """
    a, b = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    sine = np.linalg.norm(a - b @ (b.T @ a), 2)
    return float(np.degrees(np.arcsin(np.clip(sine, 0, 1))))


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws how the loss of the undercomplete linear autoencoder falls to that of PCA."""
    pca = found["pca"]
    line = plots.line("linear autoencoder", pca["steps"], pca["excess_at"], plots.METHODS["AE"])
    label = "loss over that of PCA, minus 1"
    panel = plots.Panel("step of L-BFGS", label, [line], ("log", "log"))
    run.draw(plots.panels, "pca.png", [panel], title=f"{pca['code_dim']} linear code units: PCA")


def claims(found: Metrics) -> list[Claim]:
    """Returns what the lecture says about an undercomplete code, beside what was measured."""
    pca = found["pca"]
    holds = all(angle < 2 for angle in pca["largest_angle"]["values"]) and all(
        excess < 1e-3 for excess in pca["excess_loss"]["values"]
    )
    return [
        Claim(
            "The opposite case, a linear autoencoder with a code smaller than the input, is PCA.",
            f"With {pca['code_dim']} code units the decoder spans the leading principal subspace "
            f"up to {shown(pca['largest_angle'])} degrees, and the loss exceeds the sum of the "
            f"left-out variances by a share of {shown(pca['excess_loss'])}.",
            verdict(holds),
            {"largest principal angle": pca["largest_angle"], "excess": pca["excess_loss"]},
            "pca.png",
            "A line for each seed on logarithmic axes: the loss of the linear autoencoder, "
            "relative to that of PCA, minus 1, against the step.",
            anchor="overcomplete-pca",
            plain=sentence(
                "With {units} linear code units, the decoder spans the principal subspace of PCA "
                "up to an angle of {angle} degrees.",
                units=brief(pca["code_dim"]),
                angle=brief(pca["largest_angle"]["mean"]),
            ),
            caption="The loss above that of PCA, against the steps of training. The lower the "
            "curve, the closer the network is to PCA.",
            source="Not on the slide",
        ),
    ]
