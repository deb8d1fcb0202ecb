"""Why the weights are tied: a smaller encoder with a larger decoder escapes the penalty."""

import numpy as np

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, rows_over_seeds, values_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.contractive.networks import UNITS, Trained

SCALES = (1.0, 0.3, 0.1, 0.03, 0.01)  # epsilon of encoder * epsilon
LOOKS = {"tied": plots.METHODS["CAE"], "untied": plots.OTHERS[0]}


def rescaled(params: Params, train: np.ndarray, test: np.ndarray) -> list[dict[str, float]]:
    """Returns what encoder * epsilon costs when the decoder may follow, for every epsilon.

    The decoder is the best linear one for that code, in closed form: untied weights allow it.
    """
    kernel, bias = (
        np.asarray(params[f"encoder_{part}_0"], np.float64) for part in ("kernel", "bias")
    )
    rows = []
    for scale in SCALES:
        codes = [1 / (1 + np.exp(-scale * (x @ kernel + bias))) for x in (train, test)]
        middle, mean = codes[0].mean(0), train.mean(0, dtype=np.float64)
        decoder, *_ = np.linalg.lstsq(codes[0] - middle, train - mean, rcond=1e-9)
        error = np.square((codes[1] - middle) @ decoder + mean - test).mean()
        slopes = np.square(codes[1] * (1 - codes[1]))  # f'(a)^2
        norm = (slopes @ np.square(scale * kernel).sum(0)).mean()
        decoder_norm = float(np.linalg.norm(decoder))
        rows.append({"test_mse": error, "jacobian_norm": norm, "decoder_norm": decoder_norm})
    return rows


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the costs of the CAE's encoder * epsilon over the seeds, for every epsilon."""
    data = trained.dataset.flat()
    per_seed = [rescaled(params, *data) for params in trained.methods["CAE"].params]
    rows = [
        {"scale": scale, **rows_over_seeds(rows, UNITS)}
        for scale, rows in zip(SCALES, zip(*per_seed, strict=True), strict=True)
    ]
    return {"rescaled": rows}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figures."""
    draw_collapse(run, found)
    draw_rescaling(run, found)


def draw_collapse(run: ExperimentRun, found: Metrics) -> None:
    """Writes what untied weights do to the penalty in training."""
    weights = found["weights"]

    def part(name: str, label: str) -> list[plots.Line]:
        lines = []
        for kind, rows in found["sweep"].items():
            color, style = LOOKS[kind]
            look = plots.Look(color, style[0] + ("--" if "decoder" in label else "-"))
            lines.append(plots.line(kind + label, weights, [row[name] for row in rows], look))
        return lines

    norms = part("encoder_norm", "") + part("decoder_norm", ", decoder")[1:]
    panels = [
        plots.Panel("lambda", label, lines, ("log", scale), weights)
        for label, lines, scale in (
            ("squared Jacobian norm per example", part("jacobian_norm", ""), "log"),
            ("test MSE per pixel", part("test_mse", ""), "linear"),
            ("Frobenius norm of the weights", norms, "linear"),
        )
    ]
    title = "Untied weights: a smaller penalty, by a smaller encoder and a larger decoder"
    run.draw(plots.panels, "collapse.png", panels, title=title)


def draw_rescaling(run: ExperimentRun, found: Metrics) -> None:
    """Writes what a rescaled encoder costs with the best linear decoder."""
    rows, scales = found["rescaled"], list(SCALES)
    of_line = "CAE's encoder * epsilon, best linear decoder"
    panels = []
    for name, label in (
        ("jacobian_norm", "squared Jacobian norm per example"),
        ("test_mse", "test MSE per pixel"),
        ("decoder_norm", "Frobenius norm of the decoder"),
    ):
        lines = [plots.line(of_line, scales, [row[name] for row in rows], LOOKS["untied"])]
        panels.append(plots.Panel("epsilon", label, lines, ("log", "log"), scales))
    title = "A smaller encoder with a larger decoder escapes the penalty"
    run.draw(plots.panels, "rescaling.png", panels, title=title)


def claims(found: Metrics) -> list[Claim]:
    """Holds if untied weights pay less penalty at no more error; corrected if that is not ~ 0."""
    tied, untied = (found["sweep"][kind] for kind in ("tied", "untied"))
    chosen = found["weights"].index(found["weight"])
    at, free = tied[chosen], untied[chosen]
    less = {
        name: bool((values_over_seeds([free], name) < values_over_seeds([at], name)).all())
        for name in ("jacobian_norm", "test_nll")
    }
    first, last = found["rescaled"][0], found["rescaled"][-1]
    escapes = (
        last["jacobian_norm"]["mean"] < 0.01 * first["jacobian_norm"]["mean"]
        and last["test_mse"]["mean"] <= first["test_mse"]["mean"]
    )
    return [
        Claim(
            "With untied weights the penalty falls to nearly 0 at no cost in reconstruction; tied "
            "weights prevent it.",
            f"Trained at lambda = {found['weight']:g}, untied weights give a squared Jacobian norm "
            f"of {shown(free['jacobian_norm'])} at test MSE {shown(free['test_mse'])}, tied ones "
            f"{shown(at['jacobian_norm'])} at {shown(at['test_mse'])}; the untied encoder's "
            f"weights have norm {shown(free['encoder_norm'])}, the decoder's "
            f"{shown(free['decoder_norm'])}. "
            "Adam stops far from 0, because the decoder would have to grow without bound. The way "
            f"there is open: the CAE's encoder times {last['scale']:g} with the best linear "
            f"decoder has penalty {shown(last['jacobian_norm'])} (before: "
            f"{shown(first['jacobian_norm'])}) and test MSE {shown(last['test_mse'])} (before: "
            f"{shown(first['test_mse'])}), since small sigmoid units are linear.",
            verdict(
                all(less.values()) and escapes,
                corrects=free["jacobian_norm"]["mean"] > 0.05 * at["jacobian_norm"]["mean"],
            ),
            {
                "squared Jacobian norm, tied": at["jacobian_norm"],
                "squared Jacobian norm, untied": free["jacobian_norm"],
                "test MSE, tied": at["test_mse"],
                "test MSE, untied": free["test_mse"],
                "norm of the encoder, untied": free["encoder_norm"],
                "norm of the decoder, untied": free["decoder_norm"],
            },
            "collapse.png",
            "Three panels against lambda, tied and untied weights: the squared Jacobian norm, "
            "the test error, and the norms of the encoder's and the decoder's weights.",
            anchor="contractive-untied-weights",
            plain=sentence(
                "Untied weights end at {norm} of the squared Jacobian norm of tied ones, and at "
                "{error} of their squared error.",
                norm=percent(ratio(free["jacobian_norm"], at["jacobian_norm"])),
                error=percent(ratio(free["test_mse"], at["test_mse"])),
            ),
            caption="Against lambda: the squared Jacobian norm, the test error, and the norms of "
            "the weights. Compare tied weights (orange) with untied ones (pink).",
            more={
                "rescaling.png": (
                    "Three panels against the factor on the encoder's weights: the squared "
                    "Jacobian norm, the test error, and the norm of the decoder's weights."
                ),
            },
            source="The Deep Learning book says (sec. 14.7)",
            leading=(
                "squared Jacobian norm, tied",
                "squared Jacobian norm, untied",
                "test MSE, tied",
                "test MSE, untied",
            ),
        )
    ]
