"""A changed loss prevents copying: how much noise gets through, beside closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds, rows_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.overcomplete_copy.networks import UNITS, Trained, by_name, noise_ratios


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the noise that the best linear map leaves, and how far gains are from exact ones."""
    images, exact = trained.images, trained.exact_gains
    best = jnp.asarray(images.axes * exact["DAE"] @ images.axes.T, jnp.float32)

    @jax.jit
    def ratios(x: Array, noise: Array) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):
            return noise_ratios(partial(jnp.matmul, best), x, noise)

    gaps, linear = {}, found["networks"]["linear"]
    for method, gain in exact.items():
        measured = np.array([g["values"] for g in linear[method]["gains"][: images.in_span]])
        worst = np.abs(measured - gain[: images.in_span, None]).max(0)
        gaps[method] = over_seeds(worst.tolist(), "largest distance of a gain")
    best_passes = [ratios(images.test, seed_probes.noise) for seed_probes in trained.probes]
    return {"best_linear": rows_over_seeds(best_passes, UNITS), "closed_form_gap": gaps}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws how much of the noise gets through each network."""
    rows = {name: [row["noise_left"], row["noise_passed"]] for name, row in by_name(found).items()}
    run.draw(
        plots.dots,
        "noise.png",
        rows | {"best linear map": list(found["best_linear"].values())},
        {
            "error left, ||r(x + noise) - x||²": plots.METHODS["AE"],
            "change of the output, ||r(x + noise) - r(x)||²": plots.OTHERS[1],
        },
        x_label="share of ||noise||², 1 is a copy",
        title="How much of the noise on test images gets through",
        scale="linear",
    )


def claims(found: Metrics) -> list[Claim]:
    """Returns what the lecture says about a changed loss, beside what was measured."""
    networks, gap = found["networks"], found["closed_form_gap"]
    linear, relu = networks["linear"], networks["relu"]
    holds = all(
        _prevents(row, rows["AE"])
        for rows in networks.values()
        for method, row in rows.items()
        if method != "AE"
    )
    return [
        Claim(
            "Changing the loss prevents trivial copying.",
            "With each of the three regularisers, on both networks, white noise is copied less "
            "than half as well as without, and less of the noise on test images gets through, "
            "while the images are still reconstructed. Of the noise on test images the linear "
            f"denoising autoencoder passes on {shown(linear['DAE']['noise_passed'])}, the "
            f"contractive one {shown(linear['CAE']['noise_passed'])}; the largest distance of a "
            f"gain from its closed form is {shown(gap['DAE'])} and {shown(gap['CAE'])}. "
            f"{_l1_finding(linear['sparse'])}; on the relu code it passes on "
            f"{shown(relu['sparse']['noise_passed'])}, against {shown(relu['AE']['noise_passed'])} "
            "without a regulariser.",
            verdict(holds, corrects=linear["sparse"]["noise_passed"]["mean"] > 0.5),
            {
                f"{name}, noise passed on": row["noise_passed"]
                for name, row in by_name(found).items()
            },
            "noise.png",
            "Dot chart of the share of noise that gets through each network: a row for each "
            "network, without a regulariser and with each of them.",
            anchor="overcomplete-regularised",
            plain=sentence(
                "Trained to denoise, a linear autoencoder passes on {denoising} of the noise; with "
                "an L1 penalty it passes on {sparse}.",
                denoising=percent(linear["DAE"]["noise_passed"]["mean"]),
                sparse=percent(linear["sparse"]["noise_passed"]["mean"]),
            ),
            caption="Each row is a network or the best linear map. Blue: how much of the noise "
            "comes out again, 1 in a copy. Black: how far the output then is from the clean image. "
            "The farther left, the better.",
        ),
    ]


def _prevents(row: Metrics, plain: Metrics) -> bool:
    """Returns whether a regulariser kept out noise and spared the images, with every seed."""

    def values(number: Metrics) -> np.ndarray:
        return np.asarray(number["values"])

    noise, plain_noise = (values(r["relative_error"]["white noise"]) for r in (row, plain))
    less_passes = values(row["noise_passed"]) < values(plain["noise_passed"])
    spared = values(row["relative_error"]["test images"]) < 0.15
    return bool(np.all(less_passes & (noise > 2 * plain_noise) & spared))


def _l1_finding(row: Metrics) -> str:
    passed, error = row["noise_passed"], row["relative_error"]["white noise"]
    numbers = (
        f"passes on {shown(passed)} and copies white noise with a relative error of {shown(error)}"
    )
    if passed["mean"] > 0.6:
        return f"The L1 penalty does little on a linear code, which {numbers}"
    return f"With the L1 penalty a linear code {numbers}"
