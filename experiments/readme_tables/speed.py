"""Tables of the benchmarks: ratios of medians, beside what was compared."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.common.results.over_seeds import Metrics
from experiments.readme_tables.markdown import table_of, with_spread

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "results"


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
    return table_of(lines)


def encoders_table(device: str) -> str:
    """Returns the Markdown table of the penalty of many encoders beside full Jacobians."""
    cases = benchmark("encoders", device)["cases"]
    header = ["encoder", "batch", "how", "times as fast", "ms", "MiB", "MiB of the better"]
    lines = [header, ["---", "---:", "---", *["---:"] * 4]]
    compared = {}
    for name, case in cases.items():
        ours, better = case["contenders"]["jaxae"], case["better"]
        speed, rival_memory = "no rival fits", ""
        if better is not None:
            rival_memory = _mebibytes(case["contenders"][better])
            if case["is_same_program"]:
                speed = f"same program as `{better}`"
            else:
                speed = f"{_digits(case['times_as_fast_as_the_better'])} (`{better}`)"
                compared[name] = case
        lines.append(
            [
                name,
                str(case["batch"]),
                re.split(", [XT] =", case["formula"])[0],  # without what X and S, or T, are
                speed,
                _digits(ours["seconds"]["median"] * 1e3),
                _mebibytes(ours),
                rival_memory,
            ]
        )
    return f"{table_of(lines)}\n\n{_worst_case(compared, len(cases))}"


def _worst_case(compared: dict[str, Metrics], count: int) -> str:
    """Returns the sentence that names the slowest encoder, and the one with the most memory."""
    speed, memory = "times_as_fast_as_the_better", "memory_over_that_of_the_better"
    slowest = min(compared, key=lambda name: compared[name][speed])
    largest = max(compared, key=lambda name: compared[name][memory])
    return (
        f"Of {count} encoders {count - len(compared)} have no rival that fits, or are its very "
        f'program. The slowest of the others is "{slowest}": '
        f"{_digits(compared[slowest][speed])} times as fast as the better full Jacobian. "
        f'The most memory relative to it takes "{largest}": '
        f"{_digits(compared[largest][memory])} times as much."
    )


def _mebibytes(measured: Metrics) -> str:
    return f"{measured['temporary_bytes'] / 2**20:,.1f}"


def benchmark(name: str, device: str) -> Metrics:
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
    return table_of(lines)


def agreement_table(device: str) -> str:
    """Returns the Markdown table of errors against float64, by precision of the products."""
    rows = benchmark("agreement", device)["relative_errors"]
    parts = list(next(iter(rows.values())))
    lines = [["relative error of the", *parts], ["---", *["---:"] * len(parts)]]
    lines += [[name, *(f"{row[part]:.1e}" for part in parts)] for name, row in rows.items()]
    return table_of(lines)


def stages_table(device: str) -> str:
    """Returns the Markdown table of the stages of the accelerator's benchmark."""
    lines = [["stage", "ended", "seconds"], ["---", "---", "---:"]]
    for name, stage in benchmark("accelerator", device)["stages"].items():
        lines.append([name, stage["ended"], f"{stage['seconds']:.0f}"])
    return table_of(lines)


def start_table(device: str) -> str:
    """Returns the Markdown table of processes that train one epoch and end."""
    results = benchmark("start", device)
    lines = [["", "first epoch done after (s)", "peak memory (MiB)"], ["---", "---:", "---:"]]
    for name, measured in results["alone"].items():
        memory = f"{measured['peak_bytes'] / 2**20:,.0f}"
        lines.append([name, f"{measured['seconds']:.1f}", memory])
    first, warm, added = results["denoising"].values()
    after = (
        f"The script: {first:.2f} s to the end of its first epoch, {warm:.2f} s with the cache "
        f"filled. `import jaxae` adds {added:.2f} s."
    )
    return f"{table_of(lines)}\n\n{after}"


def profile_table(device: str) -> str:
    """Returns the Markdown table of the kinds of work in an epoch."""
    results = benchmark("epoch", device)
    cases = results["cases"]
    lines = [["share of the time of all kernels", *cases], ["---", *["---:"] * len(cases)]]
    for kind, meaning in results["kinds"].items():
        shares = [f"{100 * case['profile'][kind]:.0f} %" for case in cases.values()]
        lines.append([meaning, *shares])
    return table_of(lines)


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

    def gib(count: int) -> str:
        return f"{count / 2**30:.2f}"

    lines = [["memory allowed (GiB)", "data (GiB)", "peak memory (GiB)", "seconds"], ["---:"] * 4]
    for name, found in results["runs"].items():
        allowed = gib(results["limit_bytes"]) if name == "limited" else name
        peak, seconds = gib(found["peak_bytes"]), f"{found['seconds']:.0f}"
        lines.append([allowed, gib(results["data_bytes"]), peak, seconds])
    return table_of(lines)


def _beside_the_first(corner: str, cases: dict[str, Metrics]) -> str:
    """Returns a Markdown table of races: the seconds of the first, and ratios to it."""
    lines = [[corner, *cases], ["---", *["---:"] * len(cases)]]
    for i, name in enumerate(next(iter(cases.values()))):
        found = [case[name] for case in cases.values()]
        cells = [
            f"{_digits(row['seconds']['median'])} s" if i == 0 else _ratio(row["times_the_first"])
            for row in found
        ]
        lines.append([name, *cells])
    return table_of(lines)


def rounding_table(dataset: str) -> str:
    """Returns the Markdown table of test errors with products in float32 and bfloat16."""
    rows = benchmark("rounding", dataset)["test_mse"]
    lines = [["products", "test MSE per pixel"], ["---", "---:"]]
    lines += [[name, with_spread(rows[name], ".6f")] for name in ("float32", "bfloat16")]
    lines.append(["ratio, seed by seed", with_spread(rows["ratio"], ".6f")])
    return table_of(lines)


def growth_table(device: str) -> str:
    """Returns the Markdown table of time and memory against each size."""
    header = ["", "from", "to", "seconds", "exponent", "MiB", "exponent"]
    lines = [header, ["---", *["---:"] * 6]]
    for name, grown in benchmark("growth", device)["growth"].items():
        seconds = [row["median"] for row in grown["seconds"]]
        sizes, memory = grown["sizes"], [size / 2**20 for size in grown["bytes"]]
        lines.append(
            [
                name.replace("_", " "),
                f"{sizes[0]:,}",
                f"{sizes[-1]:,}",
                _span(seconds),
                f"{grown['exponent_of_seconds']:.2f}",
                _span(memory),
                f"{grown['exponent_of_bytes']:.2f}",
            ]
        )
    return table_of(lines)


def sweep_table(device: str) -> str:
    """Returns the Markdown table of ways to train several models."""
    sweeps = benchmark("growth", device)["sweeps"]
    names = list(next(iter(sweeps.values())))
    lines = [["inputs-code", *names], ["---", *["---:"] * len(names)]]
    for sweep, found in sweeps.items():
        seconds = f"{_digits(found[names[0]]['seconds']['median'])} s"
        ratios = [_ratio(found[name]["times_the_first"]) for name in names[1:]]
        lines.append([sweep, seconds, *ratios])
    return table_of(lines)


def _ratio(spread: dict[str, float], *, is_first: bool = False) -> str:
    """Returns a ratio with the least and the greatest of the rounds."""
    values = [_digits(spread[key]) for key in ("median", "min", "max")]
    return "1" if is_first else "{} ({} to {})".format(*values)


def _span(values: Sequence[float]) -> str:
    """Returns the first and the last of some numbers."""
    return f"{_digits(values[0])} to {_digits(values[-1])}"


def _digits(value: float) -> str:
    """Returns a number with three digits: 5,750, 43.5, 0.462."""
    return f"{float(f'{value:.3g}'):,g}"
