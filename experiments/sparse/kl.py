"""The lecture's own way to a sparse code: a KL penalty on the mean activations."""

from typing import Any

from experiments.common.results.claims import Claim, shown, verdict
from experiments.sparse import path
from experiments.sparse.networks import KL_TARGET
from experiments.sparse.units import below


def claims(found: dict[str, Any]) -> list[Claim]:
    """Returns what the lecture's code sets, beside what was measured."""
    rows = found["methods"]["KL"]
    weak, lecture, strong = rows
    means = [row["mean_activation"] for row in rows]
    off = lambda number: [abs(value - KL_TARGET) > 0.2 * KL_TARGET for value in number["values"]]
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
            verdict(falls and not any(off(means[2])), corrects=any(off(means[1]))),
            {f"mean activation, weight {r['weight']:.3g}": r["mean_activation"] for r in rows},
            path.FIGURE,
            path.ALT,
            source="The lecture's code says",
        )
    ]
