"""Every code dimension: what is kept of the digits, and at which sizes they blur."""

import itertools

from experiments.common import plots
from experiments.common.results.claims import (
    Claim,
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
    """Returns the scores of every code dimension, at the first noise level."""
    return {"by_code_dim": trained.rows(trained.by_code_dim)}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the denoised images of every code dimension, and the scores against it."""
    level = trained.setup.first_noise
    by_dim = {one.numbers["code_dim"]: one.pictures for one in trained.by_code_dim}
    first = next(iter(by_dim.values()))
    top = {"original": first["clean"], "corrupted": first["noisy"]}
    for dim, pictures in by_dim.items():
        rows = top | {"denoised": pictures["denoised"]}
        title = f"Code dimension {dim}, {level}"
        run.draw(plots.image_rows, f"rows_dim_{dim:04d}.png", rows, title=title)
    rows = top | {f"dim(z) = {dim}": own["denoised"] for dim, own in by_dim.items()}
    title = f"Denoised by autoencoders of each code dimension, {level}"
    run.draw(plots.image_rows, "code_dims.png", rows, title=title, gaps=(2,))
    draw_curves(
        run,
        found["by_code_dim"],
        "code_dim",
        x_label="code dimension k",
        scale="log2",
        title=f"Denoising, {level}",
    )


def claims(found: Metrics) -> list[Claim]:
    """Hold if the widest code does not copy, and if every narrower code than the best costs."""
    by_dim = found["by_code_dim"]
    widest, best, narrowest = by_dim[0], min(by_dim, key=lambda r: error(r)["mean"]), by_dim[-1]
    decisive = [row for row in by_dim if row in (widest, best, narrowest)]
    is_no_copy = error(widest)["mean"] < noise_error(widest)["mean"] / 2
    narrower = itertools.pairwise(by_dim[by_dim.index(best) :])
    rises = all(error(a)["mean"] < error(b)["mean"] for a, b in narrower)
    return [
        Claim(
            "MNIST: digits are denoised through codes of 1568, 784, 256, 64, 32, 16 and 8 numbers, "
            "also through codes larger than the input.",
            f"With {widest['code_dim']} numbers for {found['num_features']} pixels the "
            f"autoencoder {'does not copy' if is_no_copy else 'copies half or more'}: it leaves "
            f"{shown(error(widest))} of "
            f"{shown(noise_error(widest))}. The error is least at {best['code_dim']} numbers, "
            f"{shown(error(best))}, and rises to {shown(error(narrowest))} at "
            f"{narrowest['code_dim']}.",
            verdict(is_no_copy and error(narrowest)["mean"] > error(best)["mean"]),
            {f"code of {row['code_dim']}": error(row) for row in by_dim},
            "code_dims.png",
            "Rows of ten images: original, corrupted, then denoised through codes of falling size.",
            anchor="denoising-code-sizes",
            plain=sentence(
                "With {density} code numbers per pixel, the autoencoder leaves {share} of the "
                "squared error of the noise; a copy would leave all of it.",
                density=brief(widest["code_dim"] / found["num_features"]),
                share=percent(ratio(error(widest), noise_error(widest))),
            ),
            caption="Top: original and noisy images. Below: the same images, denoised through "
            "smaller and smaller codes. Read downwards: where do the images blur?",
            leading=tuple(f"code of {row['code_dim']}" for row in decisive),
        ),
        Claim(
            "The code dimension decides how much is kept: too few numbers blur the digits.",
            f"Below {best['code_dim']} numbers the error "
            f"{'rises' if rises else 'does not rise'} with every smaller code"
            "; that of the best linear map of each rank, in closed form, stands beside it.",
            verdict(rises),
            {f"PSNR, code of {row['code_dim']} (dB)": row["test_psnr"] for row in by_dim},
            "curves_code_dim.png",
            "Two panels, error and PSNR against the code dimension on a logarithmic axis: the "
            "autoencoder, the best linear map, and the corrupted input as a flat line.",
            anchor="denoising-narrow-codes",
            plain=sentence(
                "The narrowest code, of {dim} numbers, leaves {times} times the squared error of "
                "the best code size.",
                dim=brief(narrowest["code_dim"]),
                times=brief(ratio(error(narrowest), error(best))),
            ),
            caption="The code grows to the right. Left: error, the lower the better. Right: PSNR, "
            "the higher the better. The dashed line is the noisy image itself.",
            leading=tuple(f"PSNR, code of {row['code_dim']} (dB)" for row in decisive),
        ),
    ]
