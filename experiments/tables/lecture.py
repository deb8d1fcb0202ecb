"""Tables of the lecture: its claims, and the denoising autoencoder."""

from pathlib import Path

from experiments import lecture
from experiments.common.claims import shown
from experiments.common.page import SYMBOLS
from experiments.tables.markdown import read, table_of, with_spread


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
    return table_of([[cell.replace("|", "\\|") for cell in line] for line in lines])


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
                with_spread(row["test_mse"], ".5f"),
                with_spread(row["test_psnr"], ".2f"),
                f"{row['linear']['test_mse']['mean']:.5f}",
                f"{row['corrupted']['test_mse']['mean']:.5f}",
            ]
        )
    return table_of(lines)
