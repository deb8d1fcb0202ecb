"""Rising noise: from which level on the network no longer denoises.

The levels are ``LEVELS`` of ``experiments.denoising``.
"""

import itertools

from experiments.common import plots
from experiments.common.data import noises
from experiments.common.results.claims import (
    Claim,
    Sentence,
    brief,
    percent,
    ratio,
    sentence,
    shown,
    verdict,
)
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.denoising.networks import Trained
from experiments.denoising.scores import draw_curves, error, noise_error


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the scores of every noise level, at one code dimension."""
    return {"by_noise_level": trained.rows(trained.by_noise_level)}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws noisy and denoised images of every noise level, and the scores against it."""
    kind, dim = found["corruption"], trained.setup.swept_dim
    rows = {"original": trained.by_code_dim[0].pictures["clean"]}
    for one in trained.by_noise_level:
        level = one.numbers["noise_level"]
        rows[f"noise {level:g}"] = one.pictures["noisy"]
        rows[f"denoised {level:g}"] = one.pictures["denoised"]
    title = f"Rising {kind} noise, code dimension {dim}"
    gaps = tuple(range(1, len(rows), 2))
    run.draw(plots.image_rows, "noise_levels.png", rows, title=title, gaps=gaps)
    draw_curves(
        run,
        found["by_noise_level"],
        "noise_level",
        x_label=noises.BY_NAME[kind].meaning,
        scale="linear",
        title=f"Denoising at code dimension {dim}",
    )


def claims(found: Metrics) -> list[Claim]:
    """Holds if every level is denoised, and if more noise leaves a larger error."""
    by_noise, kind = found["by_noise_level"], found["corruption"]
    first, last, narrowest = by_noise[0], by_noise[-1], found["by_code_dim"][-1]
    return [
        Claim(
            "The autoencoder still denoises with a lot of noise, and with a lot more.",
            f"From level {first['noise_level']:g} to {last['noise_level']:g} the error rises from "
            f"{shown(error(first))} to {shown(error(last))}, of {shown(noise_error(last))} in the "
            "corrupted image.",
            verdict(
                all(error(r)["mean"] < noise_error(r)["mean"] for r in by_noise)
                and all(
                    error(a)["mean"] < error(b)["mean"] for a, b in itertools.pairwise(by_noise)
                )
            ),
            {f"noise {row['noise_level']:g}": error(row) for row in by_noise},
            "noise_levels.png",
            "Pairs of rows of ten images for rising noise: the corrupted images, and below each "
            "row the denoised ones.",
            anchor="denoising-more-noise",
            plain=sentence(
                "At the highest noise the squared error is {times} times that at the lowest, and "
                "{share} of the noisy image's.",
                times=brief(ratio(error(last), error(first))),
                share=percent(ratio(error(last), noise_error(last))),
            ),
            caption=(
                "Top: test images. Each pair of rows below: the images under noise, and what the "
                "autoencoder makes of them. At level 1, a random number between -1 and 1 is added "
                "to each pixel. From which level on can you no longer tell what it is?"
            )
            if kind == "uniform"
            else "Top: test images. Each pair of rows below: the images under noise, and what the "
            "autoencoder makes of them. From which level on can you no longer tell what it is?",
            take_home=_breaking_noise(by_noise, narrowest),
            more={
                "curves_noise_level.png": (
                    "Two panels, error and PSNR against the noise level: the autoencoder, the "
                    "best linear map and the corrupted input."
                ),
            },
        ),
    ]


def _breaking_noise(by_noise: list[Metrics], narrowest: Metrics) -> Sentence:
    """Returns from which noise on the error is larger than with the narrowest code.

    The narrowest code blurs digits into each other; it was trained and tested at the lowest noise.
    If the network does not even denoise that, then the lowest noise breaks it.
    """
    first = by_noise[0]
    if first["test_mse"]["mean"] >= first["corrupted"]["test_mse"]["mean"]:
        return sentence(
            "Already noise of level {level} breaks it: its images are no better than the noisy "
            "ones.",
            level=brief(first["noise_level"]),
        )
    limit = narrowest["test_mse"]["mean"]
    is_worse = [row["test_mse"]["mean"] > limit for row in by_noise]
    levels = [brief(row["noise_level"]) for row in by_noise]
    if not any(is_worse):
        return sentence(
            "Even noise of level {level} does not break it: its squared error is {times} times "
            "that at the weakest noise.",
            level=levels[-1],
            times=brief(ratio(error(by_noise[-1]), error(first))),
        )
    broken = is_worse.index(True)
    if broken == 0:
        return sentence(
            "Already noise of level {level} breaks it: it does worse than an autoencoder with only "
            "{units} numbers in its code.",
            level=levels[0],
            units=brief(narrowest["code_dim"]),
        )
    return sentence(
        "Noise of level {level} breaks it: its squared error is then {times} times that at the "
        "weakest noise.",
        level=levels[broken],
        times=brief(ratio(error(by_noise[broken]), error(first))),
    )
