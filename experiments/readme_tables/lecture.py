"""Tables of the lecture: its claims, and the denoising autoencoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments import lecture
from experiments.common.results.claims import Claim, shown
from experiments.lecture.page import SYMBOLS
from experiments.readme_tables.markdown import RESULTS, read, table_of, with_spread

DATASETS = {"mnist": "MNIST", "digits": "digits"}  # the first one stands in front


class Found(NamedTuple):
    """What one experiment found on one data set.

    Attributes:
      folder: of its results, below those of the experiment.
      command: that made them.
      seconds: how long it took.
      claims: what it says, by the anchor of each claim on the page.
    """

    folder: str
    command: str
    seconds: float
    claims: dict[str, Claim]


def parts() -> dict[str, dict[str, Found]]:
    """Returns what every experiment found, by its name and by data set; synthetic data are one.

    Data sets of which no results are in this repository are left out.
    """
    found: dict[str, dict[str, Found]] = {}
    for name, experiment in lecture.EXPERIMENTS.items():
        found[name] = {}
        for dataset in list(DATASETS)[:1] if experiment.is_synthetic else DATASETS:
            folder = "synthetic" if experiment.is_synthetic else dataset
            if not (RESULTS / name / folder).is_dir():
                continue
            module = lecture.make_job(name, lecture.Config(dataset=dataset), Path()).module
            metrics, config = (read(name, folder, kind) for kind in ("metrics", "config"))
            claims = {claim.anchor: claim for claim in module.claims(metrics)}
            found[name][dataset] = Found(folder, config["command"], metrics["seconds"], claims)
    return found


def lecture_table() -> str:
    """Returns the Markdown table of all claims: statement, verdicts, leading numbers, command."""
    front = next(iter(DATASETS))
    header = ["statement", *DATASETS.values(), f"measured on {DATASETS[front]}"]
    rows = []
    for name, of_datasets in parts().items():
        first = next(iter(of_datasets.values()))
        command = f"`{first.command}`, {first.seconds:.0f} s"
        rows.append([f"**{lecture.EXPERIMENTS[name].title}**", "", "", command])
        for anchor, claim in first.claims.items():
            leading = claim.leading or list(claim.numbers)[:3]
            numbers = "; ".join(f"{label}: {shown(claim.numbers[label])}" for label in leading)
            # Some parts of an experiment are for one of the data sets alone.
            own = {d: of.claims[anchor] for d, of in of_datasets.items() if anchor in of.claims}
            marks = [SYMBOLS[own[d].verdict] if d in own else "" for d in DATASETS]
            rows.append([claim.slide, *marks, numbers if front in of_datasets else ""])
    return _escaped(header, rows)


def findings() -> str:
    """Returns every claim with its plain sentence, finding, numbers and figures, in Markdown."""
    return "\n\n".join(_of_part(name, found) for name, found in parts().items())


def _of_part(name: str, found: Mapping[str, Found]) -> str:
    many = len(found) > 1
    runs = [
        (f"{DATASETS[d]}: " if many else "") + f"`{of.command}`, {of.seconds:.0f} s"
        for d, of in found.items()
    ]
    text = [f"## {lecture.EXPERIMENTS[name].title}", ". ".join(runs) + "."]
    for anchor in next(iter(found.values())).claims:
        own = {d: of.claims[anchor] for d, of in found.items() if anchor in of.claims}
        text += _of_claim(name, own, found)
    return "\n\n".join(text)


def _of_claim(name: str, claims: Mapping[str, Claim], found: Mapping[str, Found]) -> list[str]:
    """Returns the paragraphs of one claim on one or several data sets."""
    many, first = len(found) > 1, next(iter(claims.values()))
    text = [f"### {first.slide}"]
    for dataset, claim in claims.items():
        where = f"On {DATASETS[dataset]}: " if many else ""
        text.append(f"{SYMBOLS[claim.verdict]} {where}{claim.verdict}. **{claim.plain}**")
        text.append(claim.finding)
    header = ["", *(DATASETS[d] if many else "measured" for d in claims), "unit"]
    rows = []
    units = {label: n["unit"] for claim in claims.values() for label, n in claim.numbers.items()}
    for label, unit in units.items():
        own = [
            shown(claim.numbers[label]) if label in claim.numbers else ""
            for claim in claims.values()
        ]
        rows.append([label, *own, unit])
    text.append(_escaped(header, rows))

    def path(dataset: str, picture: str) -> str:
        return f"../experiments/results/{name}/{found[dataset].folder}/{picture}"

    text.append(f"![{first.alt}]({path(next(iter(claims)), first.figure)})")
    others = [(d, name) for d, claim in claims.items() for name in (claim.figure, *claim.more)][1:]
    links = []
    for dataset, picture in others:
        title = Path(picture).stem + (f", {DATASETS[dataset]}" if many else "")
        links.append(f"[{title}]({path(dataset, picture)})")
    return [*text, "More figures: " + ", ".join(links) + "."] if links else text


def _escaped(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table of texts in which a bar does not end a cell."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return table_of(header, escaped, "l" * len(header))


def denoising_table(dataset: str) -> str:
    """Returns the Markdown table of one data set: error against code dimension and noise."""
    metrics = read("denoising", dataset, "metrics")
    header = ["code dimension", "noise", "test MSE per pixel", "PSNR (dB)"]
    header += ["best linear map, MSE", "corrupted input, MSE"]
    swept = metrics["by_noise_level"][1:]  # its first row stands among the code dimensions
    rows = [
        [
            str(row["code_dim"]),
            f"{row['noise_level']:g}",
            with_spread(row["test_mse"], ".5f"),
            with_spread(row["test_psnr"], ".2f"),
            f"{row['linear']['test_mse']['mean']:.5f}",
            f"{row['corrupted']['test_mse']['mean']:.5f}",
        ]
        for row in metrics["by_code_dim"] + swept
    ]
    return table_of(header, rows, "r" * len(header))
