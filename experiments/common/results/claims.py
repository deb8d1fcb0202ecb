"""What a slide says, beside what was measured: the rows of the lecture's page.

Every experiment has ``claims(metrics) -> list[Claim]``, a pure function of what its
``metrics.json`` holds: no number on the page comes from anywhere else, and a verdict is
recomputed whenever the page is written.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Verdict = Literal["reproduced", "corrected", "not reproduced"]


class Claim(NamedTuple):
    """One statement of the lecture with the evidence.

    Attributes:
      slide: what the slide says, in one sentence.
      finding: what was found, in a few sentences; says what "corrected" corrects.
      verdict: ``"reproduced"``, ``"corrected"`` (true with a change that the finding states) or
        ``"not reproduced"``.
      numbers: label, and a number over the seeds as ``over_seeds.over_seeds`` makes it.
      figure: file name of the picture beside ``metrics.json``.
      alt: what is to be seen in the picture, for those who cannot see it.
      source: where the statement is from, if not from a slide.
      more: file names of further pictures, each with its alternative text.
      leading: labels of the numbers that decide, for a place with little room; by default the
        first three.
    """

    slide: str
    finding: str
    verdict: Verdict
    numbers: Mapping[str, Mapping[str, Any]]
    figure: str
    alt: str
    source: str = "The slide says"
    more: Mapping[str, str] = MappingProxyType({})
    leading: tuple[str, ...] = ()


def verdict(holds: bool, *, corrects: bool = False) -> Verdict:
    """Returns the verdict on a statement that ``holds``, as it stands or corrected."""
    if not holds:
        return "not reproduced"
    return "corrected" if corrects else "reproduced"


def shown(number: Mapping[str, Any]) -> str:
    """Returns mean and spread with as many digits as the spread supports, three without one."""
    mean, std = number["mean"], number["std"]
    if mean is None or not math.isfinite(mean):
        return "not finite"
    if mean == 0 and not std:
        return "0"
    digits = 1 - math.floor(math.log10(std)) if std else 2 - math.floor(math.log10(abs(mean)))
    largest = max(abs(mean), std or 0.0)
    if largest >= 1e5 or largest < 1e-3:
        exponent = math.floor(math.log10(largest))
        scaled = {"mean": mean / 10**exponent, "std": std and std / 10**exponent}
        return f"({shown(scaled)}) x 10^{exponent}" if std else f"{shown(scaled)} x 10^{exponent}"
    digits = min(max(digits, 0), 6)
    spread = f" ± {std:.{digits}f}" if std else ""
    return f"{mean:.{digits}f}{spread}"
