"""Writes the tables of the README from the committed result files.

    python -m experiments.readme_tables

Each table stands between two comments that name it; the text around it is left alone.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def denoising_table(dataset: str) -> str:
    """Returns the Markdown table of one data set: error against code dimension and noise."""
    metrics = json.loads((RESULTS / "denoising" / dataset / "metrics.json").read_text())
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


def vector_field_table() -> str:
    """Returns the Markdown table of the errors of the learned field."""
    path = RESULTS / "vector_field" / "synthetic" / "metrics.json"
    metrics = json.loads(path.read_text())
    header = ["density", "noise (standard deviation)", "error near the data", "error elsewhere"]
    lines = [header, ["---", "---:", "---:", "---:"]]
    for name, result in metrics["densities"].items():
        errors = [_with_spread(result[part], ".3f") for part in ("error_near", "error_far")]
        lines.append([name, f"{result['noise_stddev']:g}", *errors])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_spread(number: dict[str, Any], style: str) -> str:
    spread = "" if number["std"] is None else f" ± {number['std']:{style}}"
    return f"{number['mean']:{style}}{spread}"


def updated(readme: str) -> str:
    """Returns the text of the README with every table made anew."""
    tables = {f"denoising {dataset}": denoising_table(dataset) for dataset in ("digits", "mnist")}
    tables["vector_field"] = vector_field_table()
    for name, table in tables.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", flags=re.DOTALL)
        readme, count = pattern.subn(rf"\g<1>{table}\n\g<2>", readme)
        if count != 1:
            raise ValueError(f"README.md must hold {begin} ... {end} once, but has {count}")
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
