"""Writes the tables of the README from the committed result files.

    python -m experiments.readme_tables

Each table stands between two comments that name it; the text around it is left alone.
"""

import json
import re
from pathlib import Path
from typing import Any

from experiments import lecture
from experiments.common.claims import shown
from experiments.common.page import SYMBOLS

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
BENCHMARKS = Path(__file__).parent / "benchmarks" / "results"


def denoising_table(dataset: str) -> str:
    """Returns the Markdown table of one data set: error against code dimension and noise."""
    metrics = read("denoising", dataset, "metrics")
    header = ["code dimension", "noise", "test MSE per pixel", "PSNR (dB)"]
    header += ["best linear map, MSE", "corrupted input, MSE"]
    lines = [header, ["---:"] * len(header)]
    swept = metrics["by_noise_level"][1:]  # its first row stands among the code dimensions
    for row in metrics["by_code_dim"] + swept:
        lines.append(
            [
                str(row["code_dim"]),
                f"{row['noise_level']:g}",
                _with_spread(row["test_mse"], ".5f"),
                _with_spread(row["test_psnr"], ".2f"),
                f"{row['linear']['test_mse']['mean']:.5f}",
                f"{row['corrupted']['test_mse']['mean']:.5f}",
            ]
        )
    return _markdown(lines)


def lecture_table(dataset: str) -> str:
    """Returns the Markdown table of all claims: statement, verdict, leading numbers, command."""
    lines = [["statement", "verdict", "measured"], ["---", "---", "---"]]
    for name, part in lecture.PARTS.items():
        folder = "synthetic" if part.is_synthetic else dataset
        module = lecture.make_job(name, lecture.Config(dataset=dataset), Path()).module
        metrics, config = (read(name, folder, kind) for kind in ("metrics", "config"))
        lines.append(
            [f"**{part.title}**", "", f"`{config['command']}`, {metrics['seconds']:.0f} s"]
        )
        for claim in module.claims(metrics):
            leading = list(claim.numbers.items())[:3]
            numbers = "; ".join(f"{label}: {shown(number)}" for label, number in leading)
            lines.append([claim.slide, f"{SYMBOLS[claim.verdict]} {claim.verdict}", numbers])
    return _markdown([[cell.replace("|", "\\|") for cell in line] for line in lines])


def contraction_table(device: str) -> str:
    """Returns the Markdown table of the penalty beside its rivals: ratios of medians, memory."""
    path = BENCHMARKS / f"contraction-{device}.json"
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"].values()
    header = [
        "encoder",
        "",
        "ms",
        "times as long as the first",
        "compile (s)",
        "temporary memory (MiB)",
    ]
    lines = [header, ["---", "---", *["---:"] * 4]]
    for case in cases:
        for i, (name, measured) in enumerate(case["contenders"].items()):
            spread = [measured["times_the_first"][key] for key in ("median", "min", "max")]
            compiling, memory = measured["compile_seconds"], measured["temporary_bytes"]
            times = "1" if i == 0 else "{} ({} to {})".format(*map(_digits, spread))
            lines.append(
                [
                    "" if i else case["name"],
                    name,
                    _digits(measured["seconds"]["median"] * 1e3),
                    times,
                    "" if compiling is None else f"{compiling:.2f}",
                    "" if memory is None else f"{memory / 2**20:,.1f}",
                ]
            )
    return _markdown(lines)


def read(name: str, folder: str, kind: str) -> dict[str, Any]:
    """Returns a committed result file."""
    path = RESULTS / name / folder / f"{kind}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _digits(value: float) -> str:
    """Returns a number with three digits: 5,750, 43.5, 0.462."""
    return f"{float(f'{value:.3g}'):,g}"


def _with_spread(number: dict[str, Any], style: str) -> str:
    spread = "" if number["std"] is None else f" ± {number['std']:{style}}"
    return f"{number['mean']:{style}}{spread}"


def updated(readme: str) -> str:
    """Returns the text of the README with every table made anew."""
    tables = {
        "lecture mnist": lecture_table("mnist"),
        "denoising mnist": denoising_table("mnist"),
        "denoising digits": denoising_table("digits"),
        "contraction cpu-2-cores": contraction_table("cpu-2-cores"),
    }
    for name, table in tables.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", flags=re.DOTALL)
        replacement = rf"\g<1>{table.replace(chr(92), chr(92) * 2)}\n\g<2>"
        readme, count = pattern.subn(replacement, readme)
        if count != 1:
            raise ValueError(f"README.md must hold {begin} ... {end} once, but has {count}")
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
