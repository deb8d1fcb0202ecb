"""The lecture's own way to a sparse code: a KL penalty on the mean activations."""

from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.sparse import path
from experiments.sparse.networks import KL_TARGET, Trained
from experiments.sparse.units import below


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns nothing: these networks are among the rows of ``path``."""
    return {}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws nothing: these networks are a line in the figure of ``path``."""


def misses_target(number: Metrics) -> bool:
    """Returns whether a mean activation is a fifth off the target, with any seed."""
    return any(abs(value - KL_TARGET) > 0.2 * KL_TARGET for value in number["values"])


def claims(found: Metrics) -> list[Claim]:
    """Returns what the lecture's code sets, beside what was measured."""
    rows = found["methods"]["KL"]
    weak, lecture, strong = rows
    means = [row["mean_activation"] for row in rows]
    falls = below(means[1], means[0]) and below(means[2], means[1])
    return [
        Claim(
            "64 sigmoid units, KL target 0.1, weight 0.001.",
            f"At that weight, {lecture['weight']:.3g} where the squared error is summed over "
            f"pixels, the mean activation comes to {shown(means[1])}; a tenth of it leaves "
            f"{shown(means[0])}, and ten times as much {shown(means[2])}, for a test MSE of "
            f"{shown(lecture['test_mse'])}, {shown(weak['test_mse'])} and "
            f"{shown(strong['test_mse'])}. No sigmoid unit is ever exactly 0; counted as active "
            "are units above one half.",
            verdict(falls and not misses_target(means[2]), corrects=misses_target(means[1])),
            {f"mean activation, weight {r['weight']:.3g}": r["mean_activation"] for r in rows},
            path.FIGURE,
            path.ALT,
            anchor="sparse-kl-target",
            plain=sentence(
                "At the lecture's weight the mean activation is {lecture}; at ten times that "
                "weight it is {strong}, for a target of one tenth.",
                lecture=brief(means[1]["mean"]),
                strong=brief(means[2]["mean"]),
            ),
            caption="Left: the curve of the KL penalty has one marker for each of three weights, "
            "the test error against the units above one half.",
            formula=r"\sum_j \mathrm{KL}(\rho \,\|\, \hat\rho_j)",
            source="The lecture's code says",
        )
    ]
