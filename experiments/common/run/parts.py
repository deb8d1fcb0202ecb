"""The parts of an experiment: one file for each figure, with the numbers and the words around it.

``measure`` computes numbers of the trained networks; they are written to ``metrics.json``.
``draw`` draws the figures, from the numbers and from the networks.
``claims`` compares the numbers with what the lecture says, for its page.

An experiment names its parts in ``PARTS``, in the order of the page. All have the functions of the
classes below: mypy compares the types, and ``tests/experiments/test_parts.py`` the names too.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from experiments.common.results.claims import Claim
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun

Trained = TypeVar("Trained", contravariant=True)  # the experiment's class of what was trained


class Part(Protocol[Trained]):
    """A file with a figure of an experiment."""

    def measure(self, run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
        """Returns numbers for ``metrics.json``.

        Args:
          run: takes the log of a part that trains more.
          trained: the networks, and the data.
          found: the numbers of the parts before this one.
        """

    def draw(self, run: ExperimentRun, trained: Trained, found: Metrics) -> None:
        """Gives the figures to ``run.draw``; ``found`` has the numbers of all parts."""


class LecturePart(Part[Trained], Protocol[Trained]):
    """A part that also says something about the lecture."""

    def claims(self, found: Metrics) -> list[Claim]:
        """Returns statements with verdicts; ``found`` is what ``metrics.json`` holds."""


def measure(
    parts: Iterable[Part[Trained]],
    run: ExperimentRun,
    trained: Trained,
    known: Metrics | None = None,
) -> Metrics:
    """Returns the numbers of all parts, after those that are known already."""
    found = known or {}
    for part in parts:
        found = merge(found, part.measure(run, trained, found))
    return found


def draw(
    parts: Iterable[Part[Trained]], run: ExperimentRun, trained: Trained, found: Metrics
) -> None:
    """Draws the figures of all parts."""
    for part in parts:
        part.draw(run, trained, found)


def claims(parts: Iterable[LecturePart[Trained]], found: Metrics) -> list[Claim]:
    """Returns the claims of all parts."""
    return [claim for part in parts for claim in part.claims(found)]


def merge(found: Metrics, more: Metrics) -> Metrics:
    """Returns the numbers of both; where both have a dictionary, the two are merged.

    Raises:
      ValueError: if both have the same number.
    """
    merged = dict(found)
    for name, value in more.items():
        if name not in merged:
            merged[name] = value
        elif isinstance(merged[name], dict) and isinstance(value, dict):
            merged[name] = merge(merged[name], value)
        else:
            raise ValueError(f"two parts measure {name!r}")
    return merged
