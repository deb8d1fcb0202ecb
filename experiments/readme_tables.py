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
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_spread(number: dict[str, Any], style: str) -> str:
    spread = "" if number["std"] is None else f" ± {number['std']:{style}}"
    return f"{number['mean']:{style}}{spread}"


def updated(readme: str) -> str:
    """Returns the text of the README with every table made anew."""
    for dataset in ("digits", "mnist"):
        begin, end = f"<!-- table: denoising {dataset} -->", "<!-- end of table -->"
        pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", flags=re.DOTALL)
        table = denoising_table(dataset)
        readme, count = pattern.subn(rf"\g<1>{table}\n\g<2>", readme)
        if count != 1:
            raise ValueError(f"README.md must hold {begin} ... {end} once, but has {count}")
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
