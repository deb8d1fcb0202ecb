"""The numbers of the lecture with TF32 and bfloat16 products beside float32, on a CPU.

    python -m experiments.benchmarks.rounded_lecture --dataset digits

Every experiment runs three times, with the same seeds and the same noise: with float32 products,
and with factors rounded to TF32 and to bfloat16 (``rounded_products``). All numbers of the three
``metrics.json`` are compared: a change is inside the spread if the mean moves by at most the
standard deviation over the seeds, or by a thousandth of itself where there is no spread. Times are
left out. ``rounded-lecture-<data>.md`` and ``.json`` under ``--out`` have every number, and the
statements whose verdict changes. About 20 minutes (an estimate); the same command goes on with what
is not finished. ``--quick`` is a trial whose numbers mean nothing.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.rounded_lecture"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

import importlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from experiments.benchmarks.rounded_products import EXPERIMENTS, MANTISSA_BITS
from experiments.common.errors import InputError, PartsFailedError
from experiments.common.files import atomic
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line

EXACT, *ROUNDED = MANTISSA_BITS
_NO_SPREAD = 1e-3  # of a number without a spread: what may change of it


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    dataset: str = "digits"
    """The data, as for an experiment."""
    data_dir: command_line.Optional[Path] = None
    """Where a named data set lies."""
    experiments: tuple[str, ...] = EXPERIMENTS
    """Names of the experiments."""
    epochs: command_line.Optional[int] = None
    """Passes over the training data, instead of each experiment's own number."""
    num_seeds: command_line.Optional[int] = None
    """Repetitions; the spread needs at least two."""
    out: Path = Path("results/benchmarks/rounded_lecture")
    """Folder for the results."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A trial of every experiment, with two seeds unless told."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        if unknown := set(self.experiments) - set(EXPERIMENTS):
            known = ", ".join(EXPERIMENTS)
            raise InputError(f"--experiments must be among {known}, but has {min(unknown)}")
        command_line.require_integer("--num-seeds", self.num_seeds, low=2)


class Row(NamedTuple):
    """One number of an experiment, with each kind of products.

    Attributes:
      name: its place in ``metrics.json``.
      means: over the seeds, by the kind of products; None where they are not finite.
      spread: standard deviation over the seeds with float32 products, or None.
    """

    name: str
    means: Mapping[str, float | None]
    spread: float | None

    def is_inside(self, kind: str) -> bool:
        """Returns whether rounded products move the mean by no more than the spread."""
        exact, rounded = self.means[EXACT], self.means[kind]
        if exact is None or rounded is None:
            return exact is rounded
        return abs(rounded - exact) <= (self.spread or _NO_SPREAD * abs(exact))


def numbers(metrics: object, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Metrics]]:
    """Yields every number over the seeds with its place, but no times."""
    if isinstance(metrics, dict) and {"mean", "std", "values", "unit"} <= metrics.keys():
        if metrics["unit"] != "seconds":
            yield " / ".join(place), metrics
    elif isinstance(metrics, dict):
        for name, value in metrics.items():
            yield from numbers(value, (*place, str(name)))
    elif isinstance(metrics, list):
        for index, value in enumerate(metrics):
            yield from numbers(value, (*place, str(index + 1)))


def compare(found: Mapping[str, Metrics]) -> list[Row]:
    """Returns a row for each number of an experiment; ``found`` is its metrics by the products."""
    by_kind = {kind: dict(numbers(metrics)) for kind, metrics in found.items()}
    return [
        Row(name, {kind: own[name]["mean"] for kind, own in by_kind.items()}, number["std"])
        for name, number in by_kind[EXACT].items()
    ]


def changed_verdicts(name: str, found: Mapping[str, Metrics]) -> dict[str, dict[str, str]]:
    """Returns the verdicts of the statements that do not have the same one with all products."""
    claims = importlib.import_module(f"experiments.{name}").claims
    by_kind = {
        kind: {claim.anchor: str(claim.verdict) for claim in claims(metrics)}
        for kind, metrics in found.items()
    }
    verdicts = {
        anchor: {kind: own[anchor] for kind, own in by_kind.items()} for anchor in by_kind[EXACT]
    }
    return {anchor: own for anchor, own in verdicts.items() if len(set(own.values())) > 1}


def options_of(name: str, config: Config) -> list[str]:
    """Returns the options of an experiment; the one that makes its own data takes no data set."""
    options = [] if name == "vector_field" else ["--dataset", config.dataset]
    if config.data_dir is not None and name != "vector_field":
        options += ["--data-dir", str(config.data_dir)]
    if config.epochs is not None:
        options += ["--epochs", str(config.epochs)]
    seeds = config.num_seeds or (2 if config.quick else None)
    options += [] if seeds is None else ["--num-seeds", str(seeds)]
    return options + (["--quick"] if config.quick else [])


def run(name: str, kind: str, options: list[str], out: Path) -> Metrics:
    """Returns the metrics of an experiment with such products; it runs if they are not there.

    Raises:
      PartsFailedError: if the experiment fails.
    """
    folder = out / name / kind
    done = folder / "done.json"  # beside what the experiment writes, and only when it is over
    if not (done.exists() and json.loads(done.read_text(encoding="utf-8")) == options):
        module = "experiments.benchmarks.rounded_products"
        own = [*options, "--out", str(folder / "run")]
        command = [sys.executable, "-m", module, kind, name, *own]
        ended = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if ended.returncode:
            last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
            raise PartsFailedError(f"{name} with {kind} products failed: {last[0]}")
        atomic.write_text(done, json.dumps(options))
    metrics: Metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def table(rows: Mapping[str, list[Row]]) -> str:
    """Returns the Markdown table of all numbers."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    header = ["experiment", "number", *MANTISSA_BITS, "spread", *(f"{k} inside" for k in ROUNDED)]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for name, own in rows.items():
        for row in own:
            means = [shown(row.means[kind]) for kind in MANTISSA_BITS]
            inside = ["yes" if row.is_inside(kind) else "no" for kind in ROUNDED]
            lines.append([name, row.name, *means, shown(row.spread), *inside])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(config: Config) -> Metrics:
    """Runs what is not finished, and returns what the result file holds."""
    rows: dict[str, list[Row]] = {}
    results: Metrics = {
        "benchmark": "rounded-lecture",
        "dataset": config.dataset,
        "experiments": {},
    }
    for name in config.experiments:
        options = options_of(name, config)
        found = {kind: run(name, kind, options, config.out) for kind in MANTISSA_BITS}
        rows[name] = compare(found)
        inside = {kind: sum(row.is_inside(kind) for row in rows[name]) for kind in ROUNDED}
        results["experiments"][name] = {
            "options": options,
            "numbers": [{**row._asdict(), "means": dict(row.means)} for row in rows[name]],
            "inside": inside,
            "verdicts": changed_verdicts(name, found),
        }
        counts = ", ".join(f"{kind} {count}" for kind, count in inside.items())
        print(f"{name}: of {len(rows[name])} numbers inside the spread: {counts}", flush=True)
        stem = config.out / f"rounded-lecture-{Path(config.dataset).stem}"
        atomic.write_text(stem.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
        atomic.write_text(stem.with_suffix(".md"), table(rows))
    return results


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
