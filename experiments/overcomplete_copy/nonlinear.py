"""Regularised, an overcomplete and nonlinear autoencoder learns about the data distribution."""

import numpy as np

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.overcomplete_copy.networks import Trained


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns nothing: the gains are among the numbers of ``linear_copying``."""
    return {}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the gains along the principal axes, at about equal distances on the log axis."""
    variances = np.asarray(found["variances"][: found["directions_in_span"]])
    levels = np.geomspace(variances[0], variances[-1], 24)
    keep = np.unique(np.abs(np.log(variances[:, None] / levels)).argmin(0))
    labels = ("variance of the direction; 1 is a pixel's mean", "gain; 1 is a copy")
    parts = []
    for kind, rows in found["networks"].items():
        lines = [
            plots.line(name, variances[keep], [row["gains"][i] for i in keep], plots.METHODS[name])
            for name, row in rows.items()
        ]
        if kind == "linear":
            name = "closed form, linear code"
            gains_there = [gain[keep] for gain in trained.exact_gains.values()]
            lines += [plots.plain(name, variances[keep], y, plots.EXACT) for y in gains_there]
        parts.append(plots.Panel(*labels, lines, ("log", "linear"), title=f"{kind} code"))
    title = "Gain of the reconstruction along the principal axes of the data"
    run.draw(plots.panels, "gains.png", parts, title=title)


def claims(found: Metrics) -> list[Claim]:
    """Returns what the lecture says about such an autoencoder, beside what was measured."""
    relu, best = found["networks"]["relu"], found["best_linear"]["noise_left"]
    dae, cae = relu["DAE"]["noise_left"], relu["CAE"]
    holds = all(a < b for a, b in zip(dae["values"], best["values"], strict=True))
    return [
        Claim(
            "A regularised autoencoder can be overcomplete and nonlinear and still learn about "
            "the data distribution.",
            f"With {found['code_dim']} relu units on {found['num_features']} inputs the "
            f"denoising autoencoder leaves {shown(dae)} of the noise on test images; the best of "
            "all linear maps, which knows the covariance and no more, leaves "
            f"{shown(best)}: the network {'has' if holds else 'has not'} learned more about the "
            f"data than their covariance. The contractive one comes to {shown(cae['noise_left'])}; "
            f"its units are active for {shown(cae['active_share'])} of the test images, so that it "
            "is nearly linear.",
            verdict(holds),
            {
                "relu DAE, noise left": dae,
                "best linear map, noise left": best,
                "relu CAE, noise left": cae["noise_left"],
                "relu sparse, noise left": relu["sparse"]["noise_left"],
            },
            "gains.png",
            "Two panels, linear and relu code: gain of the reconstruction against the variance "
            "of the direction, a line for each regulariser and one without. In the left panel "
            "grey dashed lines are the closed forms of the denoising and the contractive curve.",
            anchor="overcomplete-nonlinear",
            plain=sentence(
                "The denoising autoencoder with relu units leaves {denoised} of the squared error "
                "of the noise on test images; the best linear map leaves {linear}.",
                denoised=percent(dae["mean"]),
                linear=percent(best["mean"]),
            ),
            caption="A gain of 1 keeps a direction of the data, a gain of 0 removes it. On the "
            "left of each panel are the directions in which the data vary least.",
        ),
    ]
