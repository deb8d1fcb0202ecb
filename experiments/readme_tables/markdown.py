"""What all tables share: result files, rows in Markdown, numbers with their spread."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.common.results.over_seeds import Metrics

RESULTS = Path(__file__).parent.parent / "results"


def read(name: str, folder: str, kind: str) -> Metrics:
    """Returns a committed result file."""
    path = RESULTS / name / folder / f"{kind}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def provenance(name: str, dataset: str) -> str:
    """Returns where numbers come from: command, seeds, time and device."""
    metrics, config = (read(name, dataset, kind) for kind in ("metrics", "config"))
    device, seeds = config["environment"]["device"], config["settings"]["num_seeds"]
    cores = f"{device['cores']} CPU cores" if device["platform"] == "cpu" else device["kind"]
    minutes = f"{metrics['seconds'] / 60:.0f} minutes on {cores}"
    return f"`{config['command']}`: {seeds} seeds, mean ± standard deviation, {minutes}."


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Returns a table.

    Args:
      header: names of the columns.
      rows: the cells of each row.
      align: a letter for each column, l (left) or r (right); by default the first one is left.
    """
    marks = {"l": "---", "r": "---:"}
    alignment = [marks[letter] for letter in align or "l" + "r" * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, alignment, *rows))


def with_spread(number: Metrics, style: str) -> str:
    """Returns mean and, over several seeds, standard deviation."""
    spread = "" if number["std"] is None else f" ± {number['std']:{style}}"
    return f"{number['mean']:{style}}{spread}"


def scaled(number: Metrics, factor: float) -> Metrics:
    """Returns a number in another unit."""
    std = None if number["std"] is None else factor * number["std"]
    return {"mean": factor * number["mean"], "std": std}
