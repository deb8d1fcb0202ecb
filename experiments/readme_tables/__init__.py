"""Writes the tables of the README and of the pages in ``docs/`` from the committed result files.

    python -m experiments.readme_tables

Each table stands between two comments that name it; the text around it is left alone.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.readme_tables import experiments, lecture, papers, speed

ROOT = Path(__file__).parents[2]

PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"experiments": experiments.experiments_table},
    "docs/experiments.md": {"experiments": experiments.experiments_table},
    "docs/results.md": {
        "lecture": lecture.lecture_table,
        "denoising mnist": partial(lecture.denoising_table, "mnist"),
        "denoising digits": partial(lecture.denoising_table, "digits"),
        "published": papers.published_table,
    },
    "docs/lecture.md": {"findings": lecture.findings},
    "docs/papers.md": {
        "feature learning": papers.feature_learning_table,
        "search": papers.search_table,
        "sampling": papers.sampling_table,
        "images": papers.images_table,
        "recovery": papers.recovery_table,
        "frontier": papers.frontier_table,
        "known truth": papers.known_truth_table,
        "filters": papers.filters_table,
    },
    "docs/accelerator.md": {
        "training nvidia-h200": partial(speed.training_table, "nvidia-h200"),
        "sweeps nvidia-h200": partial(speed.sweep_table, "nvidia-h200"),
        "agreement nvidia-h200": partial(speed.agreement_table, "nvidia-h200"),
        "stages nvidia-h200": partial(speed.stages_table, "nvidia-h200"),
        "stages cpu-2-cores": partial(speed.stages_table, "cpu-2-cores"),
    },
    "docs/speed.md": {
        "training cpu-2-cores": partial(speed.training_table, "cpu-2-cores"),
        "contraction cpu-2-cores": partial(speed.contraction_table, "cpu-2-cores"),
        "encoders cpu-2-cores": partial(speed.encoders_table, "cpu-2-cores"),
        "saelens cpu-2-cores": partial(speed.dictionaries_table, "cpu-2-cores"),
        "dictionary cpu-2-cores": partial(speed.widths_table, "cpu-2-cores"),
        "profile cpu-2-cores": partial(speed.profile_table, "cpu-2-cores"),
        "variants cpu-2-cores": partial(speed.variants_table, "cpu-2-cores"),
        "rounding mnist": partial(speed.rounding_table, "mnist"),
        "sweeps cpu-2-cores": partial(speed.sweep_table, "cpu-2-cores"),
        "streaming cpu-2-cores": partial(speed.streaming_table, "cpu-2-cores"),
        "large cpu-2-cores": partial(speed.large_table, "cpu-2-cores"),
        "start cpu-2-cores": partial(speed.start_table, "cpu-2-cores"),
        "growth cpu-2-cores": partial(speed.growth_table, "cpu-2-cores"),
    },
}


def updated(page: str, text: str) -> str:
    """Returns the text of a page with every table made anew."""
    for name, make in PAGES[page].items():
        table = make()
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", flags=re.DOTALL)
        replacement = rf"\g<1>{table.replace(chr(92), chr(92) * 2)}\n\g<2>"
        text, count = pattern.subn(replacement, text)
        if count != 1:
            raise ValueError(f"{page} must hold {begin} ... {end} once, but has {count}")
    return text


def main() -> None:
    """Writes the tables of all pages."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(updated(page, path.read_text(encoding="utf-8")), encoding="utf-8")
