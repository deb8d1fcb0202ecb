"""The effect of the contractive penalty on a convolutional autoencoder, over lambda."""

import numpy as np

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, values_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.convolutional.networks import Trained

LEVELS = {
    "AE": plots.Look(plots.METHODS["AE"].color, "--"),
    "DAE": plots.Look(plots.METHODS["DAE"].color, ":"),
}


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the scores without a penalty and with each lambda."""
    return {
        "plain": trained.plain.scores,
        "contractive": [
            {"weight": weight, **own.scores} for weight, own in trained.contractive.items()
        ],
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws Jacobian norm, sensitivity and error over lambda."""
    rows = found["contractive"]
    weights = [row["weight"] for row in rows]
    levels = {"AE": found["plain"], "DAE": found["denoising"]["convolutional"]}

    def panel(quantity: str, label: str, scale: str) -> plots.Panel:
        lines = [plots.line("CAE", weights, [row[quantity] for row in rows], plots.METHODS["CAE"])]
        lines += [
            plots.plain(name, weights, [row[quantity]["mean"]] * len(weights), LEVELS[name])
            for name, row in levels.items()
        ]
        return plots.Panel("lambda", label, lines, ("log", scale), weights)

    run.draw(
        plots.panels,
        "contraction.png",
        [
            panel("jacobian_norm", "squared Jacobian norm per image", "log"),
            panel("sensitivity", "small step / two images, code distances", "linear"),
            panel("noisy_mse", "MSE per pixel of noisy test images", "linear"),
        ],
        title="The convolutional autoencoder under the contractive penalty",
    )


def claims(found: Metrics) -> list[Claim]:
    """Holds if the norm falls with lambda; corrected if the relative sensitivity does not."""
    plain, rows = found["plain"], found["contractive"]
    norms = values_over_seeds([plain, *rows], "jacobian_norm")
    first, last = values_over_seeds([plain, rows[-1]], "sensitivity")
    falls = bool((np.diff(norms, axis=0) < 0).all())
    is_less_sensitive = bool((last < first).all())
    strongest = rows[-1]
    return [
        Claim(
            "The penalty on the Jacobian makes a convolutional encoder insensitive to small "
            "changes of the image.",
            f"From no penalty to lambda = {strongest['weight']:g} the squared Jacobian norm of a "
            f"test image goes from {shown(plain['jacobian_norm'])} to "
            f"{shown(strongest['jacobian_norm'])}. Most of this can be a smaller code, which a "
            "decoder of its own weights undoes. Relative to the distance of the codes of two test "
            f"images, a small random step moves the code {shown(plain['sensitivity'])} times as "
            f"far without the penalty and {shown(strongest['sensitivity'])} times with it. The "
            f"error of clean images goes from {shown(plain['clean_mse'])} to "
            f"{shown(strongest['clean_mse'])}, that of noisy ones from "
            f"{shown(plain['noisy_mse'])} to {shown(strongest['noisy_mse'])}; the denoising "
            f"network leaves {shown(found['denoising']['convolutional']['noisy_mse'])}.",
            verdict(falls, corrects=not is_less_sensitive),
            {
                f"{label}, {name}": row[quantity]
                for label, quantity in (
                    ("squared Jacobian norm", "jacobian_norm"),
                    ("relative sensitivity", "sensitivity"),
                    ("MSE of clean images", "clean_mse"),
                    ("MSE of noisy images", "noisy_mse"),
                )
                for name, row in (("AE", plain), ("CAE", strongest))
            },
            "contraction.png",
            "Three panels over lambda: the squared Jacobian norm, the relative sensitivity of the "
            "code, and the error of noisy images, of the contractive networks beside the levels "
            "of the plain and of the denoising one.",
            anchor="convolutional-contraction",
            plain=sentence(
                "The strongest penalty leaves {norm} of the squared Jacobian norm, and {relative} "
                "of the sensitivity relative to the distances of codes.",
                norm=percent(ratio(strongest["jacobian_norm"], plain["jacobian_norm"])),
                relative=percent(ratio(strongest["sensitivity"], plain["sensitivity"])),
            ),
            caption="Against the strength of the penalty: the squared Jacobian norm; how far a "
            "small random step moves the code, as a share of the way between two images; the "
            "error of noisy images.",
            source="Beyond the chapter",
            leading=("squared Jacobian norm, CAE", "relative sensitivity, CAE"),
        )
    ]
