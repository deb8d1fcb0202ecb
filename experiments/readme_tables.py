"""Writes the tables of the README from the committed result files.

    python -m experiments.readme_tables

Each table stands between two comments that name it; the text around it is left alone.
"""

import json
import re
from collections.abc import Callable
from functools import partial
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


def provenance(name: str, dataset: str) -> str:
    """Returns where numbers come from: command, seeds, time and device."""
    metrics, config = (read(name, dataset, kind) for kind in ("metrics", "config"))
    device, seeds = config["environment"]["device"], config["settings"]["num_seeds"]
    cores = f"{device['cores']} CPU cores" if device["platform"] == "cpu" else device["kind"]
    minutes = f"{metrics['seconds'] / 60:.0f} minutes on {cores}"
    return f"`{config['command']}`: {seeds} seeds, mean ± standard deviation, {minutes}."


def sampling_table() -> str:
    """Returns the Markdown table of the distances of samples to the truth."""
    found = read("sampling", "synthetic", "metrics")["mixture"]
    lines = [["", "", "learned score", "exact score"], ["---", "---:", "---:", "---:"]]
    for name, learned in found["learned"].items():
        what = "noise" if name.endswith("by noise") else "steps"
        for i, (at, number) in enumerate(learned.items()):
            numbers = [number, found["exact"][name][at]]
            shown_at = f"{at} {what}" if what == "steps" else f"noise {at}"
            cells = [_with_spread(one, ".2f") for one in numbers]
            lines.append(["" if i else name.split(",")[0], shown_at, *cells])
    return f"{provenance('sampling', 'synthetic')}\n\n{_markdown(lines)}"


def recovery_table() -> str:
    """Returns the Markdown table of the known atoms that dictionaries find again."""
    header = ["", "atoms per example", "recovered (%)", "mean max cosine", "active units"]
    header += ["dead units (%)"]
    lines = [header, ["---", *["---:"] * 5]]
    for row in read("dictionary", "mnist", "metrics")["recovery"]:
        percent = lambda name, row=row: _with_spread(_scaled(row[name], 100), ".1f")
        lines.append(
            [
                row["method"],
                str(row["active_atoms"]),
                percent("recovered_share"),
                _with_spread(row["mean_max_cosine"], ".3f"),
                _with_spread(row["active_units"], ".1f"),
                percent("dead_share"),
            ]
        )
    return f"{provenance('dictionary', 'mnist')}\n\n{_markdown(lines)}"


def frontier_table() -> str:
    """Returns the Markdown table of dictionaries of patches."""
    header = ["", "lambda or k", "explained variance (%)", "active units", "dead units (%)"]
    lines = [header, ["---", *["---:"] * 4]]
    for row in read("dictionary", "mnist", "metrics")["frontier"]:
        lines.append(
            [
                row["method"],
                f"{row['setting']:g}",
                _with_spread(_scaled(row["explained_variance"], 100), ".1f"),
                _with_spread(row["active_units"], ".1f"),
                _with_spread(_scaled(row["dead_share"], 100), ".1f"),
            ]
        )
    return f"{provenance('dictionary', 'mnist')}\n\n{_markdown(lines)}"


def filters_table() -> str:
    """Returns the Markdown table of filters against the corruption level."""
    header = ["masked", "beta", "roughness", "effective pixels", "softmax on the code, error (%)"]
    lines = [header, ["---:"] * 5]
    for row in read("filters", "mnist", "metrics")["networks"]:
        lines.append(
            [
                f"{row['level']:g}",
                f"{row['beta']:g}",
                _with_spread(row["roughness"], ".3f"),
                _with_spread(row["extent"], ".0f"),
                _with_spread(row["probe_error"], ".2f"),
            ]
        )
    return f"{provenance('filters', 'mnist')}\n\n{_markdown(lines)}"


def contraction_table(device: str) -> str:
    """Returns the Markdown table of the penalty beside its rivals: ratios of medians, memory."""
    cases = benchmark("contraction", device)["cases"].values()
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
            compiling, memory = measured["compile_seconds"], measured["temporary_bytes"]
            lines.append(
                [
                    "" if i else case["name"],
                    name,
                    _digits(measured["seconds"]["median"] * 1e3),
                    _ratio(measured["times_the_first"], is_first=i == 0),
                    "" if compiling is None else f"{compiling:.2f}",
                    "" if memory is None else f"{memory / 2**20:,.1f}",
                ]
            )
    return _markdown(lines)


def benchmark(name: str, device: str) -> dict[str, Any]:
    """Returns the committed result file of a benchmark."""
    path = BENCHMARKS / f"{name}-{device}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def training_table(device: str) -> str:
    """Returns the Markdown table of an epoch beside its rivals."""
    header = ["code dimension, batch", "", "seconds", "times as long as the first", "GFLOP/s"]
    lines = [header, ["---", "---", *["---:"] * 3]]
    for name, case in benchmark("training", device)["cases"].items():
        for i, (contender, measured) in enumerate(case["contenders"].items()):
            lines.append(
                [
                    "" if i else name,
                    contender,
                    _digits(measured["seconds"]["median"]),
                    _ratio(measured["times_the_first"], is_first=i == 0),
                    f"{measured['gflops_per_second']:.0f}",
                ]
            )
    return _markdown(lines)


def start_table(device: str) -> str:
    """Returns the Markdown table of processes that train one epoch and end."""
    results = benchmark("start", device)
    lines = [["", "first epoch done after (s)", "peak memory (MiB)"], ["---", "---:", "---:"]]
    for name, measured in results["alone"].items():
        memory = f"{measured['peak_bytes'] / 2**20:,.0f}"
        lines.append([name, f"{measured['seconds']:.1f}", memory])
    for name, seconds in results["denoising"].items():
        lines.append([f"`experiments.denoising --dataset digits`: {name}", f"{seconds:.2f}", ""])
    return _markdown(lines)


def profile_table(device: str) -> str:
    """Returns the Markdown table of the kinds of work in an epoch."""
    results = benchmark("epoch", device)
    cases = results["cases"]
    lines = [["share of the time of all kernels", *cases], ["---", *["---:"] * len(cases)]]
    for kind, meaning in results["kinds"].items():
        shares = [f"{100 * case['profile'][kind]:.0f} %" for case in cases.values()]
        lines.append([meaning, *shares])
    return _markdown(lines)


def variants_table(device: str) -> str:
    """Returns the Markdown table of other ways to do an epoch: times as long, and the spread."""
    cases = benchmark("epoch", device)["cases"]
    return _beside_the_first("", {name: case["variants"] for name, case in cases.items()})


def streaming_table(device: str) -> str:
    """Returns the Markdown table of an epoch over data that are read in pieces."""
    return _beside_the_first("data from", benchmark("streaming", device)["cases"])


def large_table(device: str) -> str:
    """Returns the Markdown table of a run on data that are larger than its memory."""
    results = benchmark("large", device)
    gib = lambda count: f"{count / 2**30:.2f}"
    lines = [["memory allowed (GiB)", "data (GiB)", "peak memory (GiB)", "seconds"], ["---:"] * 4]
    for name, found in results["runs"].items():
        allowed = gib(results["limit_bytes"]) if name == "limited" else name
        peak, seconds = gib(found["peak_bytes"]), f"{found['seconds']:.0f}"
        lines.append([allowed, gib(results["data_bytes"]), peak, seconds])
    return _markdown(lines)


def _beside_the_first(corner: str, cases: dict[str, Any]) -> str:
    """Returns a Markdown table of races: the seconds of the first, and ratios to it."""
    lines = [[corner, *cases], ["---", *["---:"] * len(cases)]]
    for i, name in enumerate(next(iter(cases.values()))):
        found = [case[name] for case in cases.values()]
        cells = [
            f"{_digits(row['seconds']['median'])} s" if i == 0 else _ratio(row["times_the_first"])
            for row in found
        ]
        lines.append([name, *cells])
    return _markdown(lines)


def rounding_table(dataset: str) -> str:
    """Returns the Markdown table of test errors with products in float32 and bfloat16."""
    rows = benchmark("rounding", dataset)["test_mse"]
    lines = [["products", "test MSE per pixel"], ["---", "---:"]]
    lines += [[name, _with_spread(rows[name], ".6f")] for name in ("float32", "bfloat16")]
    lines.append(["ratio, seed by seed", _with_spread(rows["ratio"], ".4f")])
    return _markdown(lines)


def growth_table(device: str) -> str:
    """Returns the Markdown table of time and memory against each size."""
    header = ["", "from", "to", "seconds", "exponent", "MiB", "exponent"]
    lines = [header, ["---", *["---:"] * 6]]
    for name, grown in benchmark("growth", device)["growth"].items():
        seconds = [row["median"] for row in grown["seconds"]]
        sizes, memory = grown["sizes"], [size / 2**20 for size in grown["bytes"]]
        span = lambda values: f"{_digits(values[0])} to {_digits(values[-1])}"
        lines.append(
            [
                name.replace("_", " "),
                f"{sizes[0]:,}",
                f"{sizes[-1]:,}",
                span(seconds),
                f"{grown['exponent_of_seconds']:.2f}",
                span(memory),
                f"{grown['exponent_of_bytes']:.2f}",
            ]
        )
    return _markdown(lines)


def sweep_table(device: str) -> str:
    """Returns the Markdown table of ways to train several models."""
    sweeps = benchmark("growth", device)["sweeps"]
    names = list(next(iter(sweeps.values())))
    lines = [["inputs-code", *names], ["---", *["---:"] * len(names)]]
    for sweep, found in sweeps.items():
        seconds = f"{_digits(found[names[0]]['seconds']['median'])} s"
        ratios = [_ratio(found[name]["times_the_first"]) for name in names[1:]]
        lines.append([sweep, seconds, *ratios])
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


def _ratio(spread: dict[str, float], *, is_first: bool = False) -> str:
    """Returns a ratio with the least and the greatest of the rounds."""
    values = [_digits(spread[key]) for key in ("median", "min", "max")]
    return "1" if is_first else "{} ({} to {})".format(*values)


def _scaled(number: dict[str, Any], factor: float) -> dict[str, Any]:
    std = None if number["std"] is None else factor * number["std"]
    return {"mean": factor * number["mean"], "std": std}


def _with_spread(number: dict[str, Any], style: str) -> str:
    spread = "" if number["std"] is None else f" ± {number['std']:{style}}"
    return f"{number['mean']:{style}}{spread}"


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "lecture mnist": partial(lecture_table, "mnist"),
        "denoising mnist": partial(denoising_table, "mnist"),
        "denoising digits": partial(denoising_table, "digits"),
        "training cpu-2-cores": partial(training_table, "cpu-2-cores"),
        "contraction cpu-2-cores": partial(contraction_table, "cpu-2-cores"),
    },
    "docs/papers.md": {
        "sampling": sampling_table,
        "recovery": recovery_table,
        "frontier": frontier_table,
        "filters": filters_table,
    },
    "docs/speed.md": {
        "profile cpu-2-cores": partial(profile_table, "cpu-2-cores"),
        "variants cpu-2-cores": partial(variants_table, "cpu-2-cores"),
        "rounding mnist": partial(rounding_table, "mnist"),
        "sweeps cpu-2-cores": partial(sweep_table, "cpu-2-cores"),
        "streaming cpu-2-cores": partial(streaming_table, "cpu-2-cores"),
        "large cpu-2-cores": partial(large_table, "cpu-2-cores"),
        "start cpu-2-cores": partial(start_table, "cpu-2-cores"),
        "growth cpu-2-cores": partial(growth_table, "cpu-2-cores"),
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


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(updated(page, path.read_text(encoding="utf-8")), encoding="utf-8")
