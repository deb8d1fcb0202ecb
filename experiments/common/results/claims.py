"""The statements of the lecture's page: what a slide says, what we measured, and the verdict.

Every experiment has ``claims(metrics) -> list[Claim]``, a pure function of what its
``metrics.json`` holds: no number on the page comes from anywhere else, and a verdict is
recomputed whenever the page is written.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from experiments.common.results.over_seeds import Metrics

Verdict = Literal["reproduced", "corrected", "not reproduced"]


class Sentence(NamedTuple):
    """A sentence with a few numbers in it; what it says can be translated without them.

    Attributes:
      template: the sentence, with names in braces where the numbers stand.
      values: the numbers as they are printed, by these names.
    """

    template: str
    values: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        """Returns the sentence with its numbers."""
        return self.template.format(**self.values)


NOT_FINITE = Sentence("Some numbers of this run are not finite, so they say nothing here.")


class Claim(NamedTuple):
    """One statement of the lecture with the evidence.

    Attributes:
      slide: what the slide says, in one sentence without symbols.
      finding: what was found, in a few sentences; says what "corrected" corrects.
      verdict: ``"reproduced"``, ``"corrected"`` (true with a change that the finding states) or
        ``"not reproduced"``.
      numbers: label, and a number over the seeds as ``over_seeds.over_seeds`` makes it.
      figure: file name of the picture beside ``metrics.json``.
      alt: what is drawn in the picture, for those who cannot see it. What came out is not said
        here: it can be otherwise on other data, and the finding and the numbers say it.
      anchor: the name of the statement in links; it never changes.
      plain: what was measured, in at most 25 words with at most two numbers, as
        :func:`sentence` makes it: true of every data set, whatever the verdict is.
      caption: how the figure is read.
      formula: what the slide writes in symbols, in LaTeX; "" where it has none.
      source: where the statement is from, if not from a slide.
      more: file names of further pictures, each with its alternative text.
      leading: labels of the numbers that decide, for a place with little room; by default the
        first three.
      take_home: what a student should remember of it, on the first screen of the page; only the
        most important statements have this.
    """

    slide: str
    finding: str
    verdict: Verdict
    numbers: Mapping[str, Metrics]
    figure: str
    alt: str
    anchor: str
    plain: Sentence
    caption: str
    formula: str = ""
    source: str = "The slide says"
    more: Mapping[str, str] = MappingProxyType({})
    leading: tuple[str, ...] = ()
    take_home: Sentence | None = None


def verdict(holds: bool, *, corrects: bool = False) -> Verdict:
    """Returns the verdict on a statement that ``holds``, as it stands or corrected."""
    if not holds:
        return "not reproduced"
    return "corrected" if corrects else "reproduced"


def shown(number: Metrics) -> str:
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


def sentence(template: str, **values: str | None) -> Sentence:
    """Returns the sentence with these numbers in it; another one if a number is not finite.

    Args:
      template: the sentence, with names in braces where the numbers stand.
      **values: the numbers, from :func:`brief` or :func:`percent`.
    """
    known = {name: value for name, value in values.items() if value is not None}
    return Sentence(template, known) if len(known) == len(values) else NOT_FINITE


def brief(value: float | None) -> str | None:
    """Returns a number with at most three digits, for a sentence; None if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    decimals = 2 if abs(value) < 1.995 else 1
    return _three_digits(value, decimals)


def percent(share: float | None) -> str | None:
    """Returns a share in per cent with at most three digits; None if it is not finite."""
    if share is None or not math.isfinite(share):
        return None
    return f"{_three_digits(100 * share, decimals=1)} %"


def ratio(number: Metrics, other: Metrics) -> float | None:
    """Returns how many times the other number one is, of their means over the seeds."""
    if number["mean"] is None or not other["mean"]:
        return None
    return number["mean"] / other["mean"]


def _three_digits(value: float, decimals: int) -> str:
    """Returns a number with some decimals, or with none from 10 on and where it is whole."""
    size, least = abs(value), 10**-decimals
    if size == 0:
        return "0"
    if size < least:
        return f"< {least:g}"
    if size > 999:
        return "> 999" if value > 0 else "< -999"
    return f"{value:.0f}" if size >= 9.95 or value == round(value) else f"{value:.{decimals}f}"
