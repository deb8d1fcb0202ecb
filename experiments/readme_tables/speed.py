"""Tables of the benchmarks: ratios of medians, beside what was compared."""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from experiments.common.results.over_seeds import Metrics
from experiments.readme_tables.markdown import table_of, with_spread

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "results"


def contraction_table(device: str) -> str:
    """Returns the Markdown table of the penalty beside its rivals: ratios of medians, memory."""
    header = ["encoder", "", "ms", "times as long as the first", "compile (s)"]
    header += ["temporary memory (MiB)"]
    rows = []
    for case in benchmark("contraction", device)["cases"].values():
        for i, (name, measured) in enumerate(case["contenders"].items()):
            compiling, memory = measured["compile_seconds"], measured["temporary_bytes"]
            rows.append(["" if i else case["name"], name, *_first_numbers(measured, i, 1e3)])
            rows[-1] += ["" if compiling is None else f"{compiling:.2f}"]
            rows[-1] += ["" if memory is None else f"{memory / 2**20:,.1f}"]
    return table_of(header, rows, "llrrrr")


def _first_numbers(measured: Metrics, place: int, scale: float = 1.0) -> list[str]:
    """Returns the median time of one contender, and its ratio to that of the first one."""
    seconds = _digits(scale * measured["seconds"]["median"])
    return [seconds, _ratio(measured["times_the_first"], is_first=place == 0)]


def encoders_table(device: str) -> str:
    """Returns the Markdown table of the penalty of many encoders beside full Jacobians."""
    cases = benchmark("encoders", device)["cases"]
    header = ["encoder", "batch", "how", "times as fast", "ms", "MiB", "MiB of the better"]
    rows = []
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
        rows.append(
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
    table = table_of(header, rows, "lrlrrrr")
    return f"{table}\n\n{_worst_case(compared, len(cases))}\n\n{_estimates(cases)}"


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


def _estimates(cases: dict[str, Metrics]) -> str:
    """Returns the sentences that compare the errors of estimates with matfree's, in equal time."""
    sentences = []
    for estimator, title in (("hutchinson", "Hutchinson's estimator"), ("hutch++", "Hutch++")):
        ratios = {}
        for name, case in cases.items():
            found = case["estimates"][estimator]
            ratios[name] = found["jaxae"]["relative_error"] / found["matfree"]["relative_error"]
        worst = max(ratios, key=lambda name: ratios[name])
        sentences.append(
            f"{title} of this library errs less than Hutchinson's of matfree in the same time for "
            f"{sum(ratio < 1 for ratio in ratios.values())} of {len(ratios)} encoders; the errors "
            f"are {_digits(statistics.median(ratios.values()))} times as large in the median, and "
            f'{_digits(ratios[worst])} times at worst ("{worst}").'
        )
    return " ".join(sentences)


def _mebibytes(measured: Metrics) -> str:
    return f"{measured['temporary_bytes'] / 2**20:,.1f}"


def benchmark(name: str, device: str) -> Metrics:
    """Returns the committed result file of a benchmark."""
    path = BENCHMARKS / f"{name}-{device}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def training_table(device: str) -> str:
    """Returns the Markdown table of an epoch beside its rivals."""
    header = ["code dimension, batch", "", "seconds", "times as long as the first", "GFLOP/s"]
    rows = []
    for name, case in benchmark("training", device)["cases"].items():
        for i, (contender, measured) in enumerate(case["contenders"].items()):
            rate = f"{measured['gflops_per_second']:.0f}"
            rows.append(["" if i else name, contender, *_first_numbers(measured, i), rate])
    return table_of(header, rows, "llrrr")


def agreement_table(device: str) -> str:
    """Returns the Markdown table of errors against float64, by precision of the products."""
    found = benchmark("agreement", device)["relative_errors"]
    parts = list(next(iter(found.values())))
    rows = [[name, *(f"{row[part]:.1e}" for part in parts)] for name, row in found.items()]
    return table_of(["relative error of the", *parts], rows)


def stages_table(device: str) -> str:
    """Returns the Markdown table of the stages of the accelerator's benchmark."""
    stages = benchmark("accelerator", device)["stages"].items()
    rows = [[name, stage["ended"], f"{stage['seconds']:.0f}"] for name, stage in stages]
    return table_of(["stage", "ended", "seconds"], rows, "llr")


def start_table(device: str) -> str:
    """Returns the Markdown table of processes that train one epoch and end."""
    results = benchmark("start", device)
    rows = [
        [name, f"{measured['seconds']:.1f}", f"{measured['peak_bytes'] / 2**20:,.0f}"]
        for name, measured in results["alone"].items()
    ]
    table = table_of(["", "first epoch done after (s)", "peak memory (MiB)"], rows)
    first, warm, added = results["denoising"].values()
    return (
        f"{table}\n\nThe script: {first:.2f} s to the end of its first epoch, {warm:.2f} s with "
        f"the cache filled. `import jaxae` adds {added:.2f} s."
    )


def profile_table(device: str) -> str:
    """Returns the Markdown table of the kinds of work in an epoch."""
    results = benchmark("epoch", device)
    cases = results["cases"]
    rows = [
        [meaning, *(f"{100 * case['profile'][kind]:.0f} %" for case in cases.values())]
        for kind, meaning in results["kinds"].items()
    ]
    return table_of(["share of the time of all kernels", *cases], rows)


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

    rows = []
    for name, found in results["runs"].items():
        allowed = gib(results["limit_bytes"]) if name == "limited" else name
        peak, seconds = gib(found["peak_bytes"]), f"{found['seconds']:.0f}"
        rows.append([allowed, gib(results["data_bytes"]), peak, seconds])
    header = ["memory allowed (GiB)", "data (GiB)", "peak memory (GiB)", "seconds"]
    return table_of(header, rows, "rrrr")


def dictionaries_table(device: str) -> str:
    """Returns the Markdown table of dictionaries trained by two libraries: quality and seconds."""
    measures = ["active units", "F1", "mean correlation", "explained variance"]
    rows = []
    for method, found in benchmark("saelens", device)["methods"].items():
        for i, (side, row) in enumerate(found["sides"].items()):
            rows.append(
                [
                    "" if i else method,
                    side,
                    with_spread(row["active_units"], ".2f"),
                    with_spread(row["f1"], ".3f"),
                    with_spread(row["mean_correlation"], ".3f"),
                    with_spread(row["explained_variance"], ".3f"),
                    _digits(row["seconds"]["median"]),
                    "" if i else _ratio(found["times_as_fast"]),
                ]
            )
    return table_of(["", "", *measures, "seconds", "times as fast"], rows, "llrrrrrr")


def widths_table(device: str) -> str:
    """Returns the Markdown table of decoding from active units beside the whole code, by width."""
    header = ["units", "", "decode (ms)", "MiB", "with gradients (ms)", "MiB"]
    rows = []
    for row in benchmark("dictionary", device)["widths"]:
        for i, name in enumerate(row["decode"]):
            cells = ["" if i else f"{row['units']:,}", name]
            for part in ("decode", "decode_and_gradients"):
                found = row[part][name]
                cells.append(_digits(1e3 * found["seconds"]["median"]))
                memory = found["temporary_bytes"]
                cells.append("" if memory is None else _digits(memory / 2**20))
            rows.append(cells)
    return table_of(header, rows, "rlrrrr")


def _beside_the_first(corner: str, cases: dict[str, Metrics]) -> str:
    """Returns a Markdown table of races: the seconds of the first, and ratios to it."""
    names = next(iter(cases.values()))
    rows = [
        [
            name,
            *(
                _ratio(case[name]["times_the_first"])
                if i
                else f"{_digits(case[name]['seconds']['median'])} s"
                for case in cases.values()
            ),
        ]
        for i, name in enumerate(names)
    ]
    return table_of([corner, *cases], rows)


def rounding_table(dataset: str) -> str:
    """Returns the Markdown table of test errors with products in float32 and bfloat16."""
    found = benchmark("rounding", dataset)["test_mse"]
    names = {"float32": "float32", "bfloat16": "bfloat16", "ratio": "ratio, seed by seed"}
    rows = [[label, with_spread(found[name], ".6f")] for name, label in names.items()]
    return table_of(["products", "test MSE per pixel"], rows)


def growth_table(device: str) -> str:
    """Returns the Markdown table of time and memory against each size."""
    header = ["", "from", "to", "seconds", "exponent", "MiB", "exponent"]
    rows = [
        [
            name.replace("_", " "),
            f"{grown['sizes'][0]:,}",
            f"{grown['sizes'][-1]:,}",
            _span([row["median"] for row in grown["seconds"]]),
            f"{grown['exponent_of_seconds']:.2f}",
            _span([size / 2**20 for size in grown["bytes"]]),
            f"{grown['exponent_of_bytes']:.2f}",
        ]
        for name, grown in benchmark("growth", device)["growth"].items()
    ]
    return table_of(header, rows)


def sweep_table(device: str) -> str:
    """Returns the Markdown table of ways to train several models."""
    sweeps = benchmark("growth", device)["sweeps"]
    first, *others = next(iter(sweeps.values()))
    rows = []
    for sweep, found in sweeps.items():
        seconds = f"{_digits(found[first]['seconds']['median'])} s"
        rows.append([sweep, seconds, *(_ratio(found[o]["times_the_first"]) for o in others)])
    return table_of(["inputs-code", first, *others], rows)


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
