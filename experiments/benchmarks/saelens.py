"""Dictionaries trained by this library and by SAELens: the same losses, quality, and seconds.

    python -m experiments.benchmarks.saelens

Both sides get the same arrays, which SAELens draws by the published recipe of its synthetic data,
the same weights at the start, batch size, step size and number of steps, and the same loss: values
and gradients must agree on a batch before anything is trained. They are those of SAELens with its
defaults. Then both train in turn, each method on three seeds of data and weights. Every dictionary
is written as a folder of SAELens, which both libraries read and measure; their measures must agree.
The time to draw data is not counted. The first training of each side, in which JAX compiles, is a
number of its own.

It needs SAELens, in an environment of its own: ``pip install sae-lens``. About four minutes on
two cores. Keep the machine quiet: threads of PyTorch that have to wait for a core make it many
times slower. Writes ``saelens-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print(
        "error: run python -m experiments.benchmarks.saelens in the repository root",
        file=sys.stderr,
    )
    sys.exit(2)

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from experiments.benchmarks import common, dictionaries_in_jaxae, in_saelens, side_by_side
from experiments.benchmarks.dictionary_task import (
    FULL,
    METHODS,
    QUICK,
    Task,
    disturbed,
)
from experiments.common.errors import InputError
from experiments.common.results import environment
from experiments.common.results.over_seeds import rows_over_seeds
from experiments.common.run import command_line

OURS, THEIRS = "jaxae", "SAELens"
UNITS = {
    "active_units": "units above 0 per held-out example",
    "explained_variance": "share of the variance of held-out examples",
    "f1": "F1 of a unit as a sign of the atom nearest to it, mean over units",
    "mean_correlation": "absolute cosine of filter and atom, matched one to one",
}
# Rounding moves single units across their threshold.
LARGEST_DIFFERENCE = {
    "active_units": 0.01,
    "explained_variance": 1e-4,
    "f1": 1e-3,
    "mean_correlation": 1e-4,
}
GRADIENT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    num_seeds: int = 3
    """How many seeds of data and weights; the table has means over them and median seconds."""
    methods: tuple[str, ...] = ()
    """Names of the methods, by default all."""
    out: command_line.Optional[Path] = None
    """Folder for the result file, by default results/benchmarks/saelens."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A trial: a small truth and 40 steps."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_integer("--num-seeds", self.num_seeds, low=1)
        common.require_known(self.methods, METHODS, option="--methods")


def require_the_same_loss(name: str, task: Task) -> dict[str, float]:
    """Returns how far loss and gradients of both sides are apart, relative to the largest entry.

    Raises:
      RuntimeError: if it is too far for the two to be the same function.
    """
    weights, x = disturbed(task.weights), task.x[: task.size.batch]
    sides = [
        side.loss_and_gradients(METHODS[name], task.size, weights, x)
        for side in (dictionaries_in_jaxae, in_saelens)
    ]
    (our_loss, ours), (their_loss, theirs) = sides
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"{name}: gradients of {sorted(ours)} and {sorted(theirs)}")
    apart = {"loss": abs(our_loss - their_loss) / abs(their_loss)}
    for parameter, gradient in theirs.items():
        largest = np.abs(gradient).max()
        apart[parameter] = float(np.abs(ours[parameter] - gradient).max() / largest)
    if not max(apart.values()) < GRADIENT_TOLERANCE:
        raise RuntimeError(f"{name} is not the same function on both sides: {apart}")
    return apart


def measure(folder: Path, task: Task) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the measures of a dictionary by this library, and the differences to SAELens's.

    Raises:
      RuntimeError: if a difference is larger than rounding explains.
    """
    ours, theirs = dictionaries_in_jaxae.measure(folder, task), in_saelens.measure(folder, task)
    apart = {name: abs(ours[name] - theirs[name]) for name in UNITS}
    if any(not apart[name] <= LARGEST_DIFFERENCE[name] for name in UNITS):
        raise RuntimeError(f"the measures of {folder.name} differ: {ours} and {theirs}")
    return ours, apart


def compare(name: str, tasks: Sequence[Task], folder: Path) -> common.Results:
    """Returns the quality and the seconds of a method on both sides, over the tasks."""
    method, size = METHODS[name], tasks[0].size
    sides: dict[str, Callable[[Task, Path], float]] = {
        OURS: dictionaries_in_jaxae.Training(method, size),
        THEIRS: lambda task, target: in_saelens.train(method, task, target),
    }
    apart = require_the_same_loss(name, tasks[0])
    first = {side: train(tasks[0], folder / f"first {side}") for side, train in sides.items()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    differences = dict.fromkeys(UNITS, 0.0)
    for seed, task in enumerate(tasks):
        for side, train in sides.items():
            target = folder / f"{side} {seed}"
            seconds[side].append(train(task, target))
            measures, differs = measure(target, task)
            rows[side].append(measures)
            differences = {key: max(differences[key], differs[key]) for key in UNITS}
    ratios = np.array(seconds[THEIRS]) / np.array(seconds[OURS])
    return {
        "weight": method.weight,
        "loss_and_gradients_apart": apart,
        "measures_apart": differences,
        "times_as_fast": side_by_side.spread(ratios),
        "sides": {
            side: {
                **rows_over_seeds(rows[side], UNITS),
                "seconds": side_by_side.spread(np.array(seconds[side])),
                "first_seconds": first[side],
            }
            for side in sides
        },
    }


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    if not in_saelens.is_installed():
        raise InputError("this benchmark needs SAELens: pip install sae-lens")
    size = QUICK if config.quick else FULL
    chosen = [name for name in METHODS if name in (config.methods or METHODS)]
    found = {}
    with common.record("saelens", config.out) as record, tempfile.TemporaryDirectory() as folder:
        tasks = [in_saelens.make_task(size, seed) for seed in range(config.num_seeds)]
        for name in chosen:
            found[name] = compare(name, tasks, Path(folder) / name)
            record.log(method=name)
            print(summary(name, found[name]), flush=True)
        return common.write_results(
            record,
            "saelens",
            sae_lens=environment.version("sae-lens"),
            torch=environment.version("torch"),
            torch_threads=in_saelens.count_threads(),
            num_seeds=config.num_seeds,
            size=size._asdict(),
            active_atoms=float(
                np.mean([(task.strengths > 0).sum(axis=1).mean() for task in tasks])
            ),
            methods=found,
        )


def summary(name: str, found: common.Results) -> str:
    """Returns one line: the quality on both sides, and how many times as fast ours is."""
    quality = ", ".join(
        f"{side} F1 {row['f1']['mean']:.3f}, explained {row['explained_variance']['mean']:.3f}, "
        f"L0 {row['active_units']['mean']:.1f}"
        for side, row in found["sides"].items()
    )
    return f"{name}: {quality}; {found['times_as_fast']['median']:.2f} times as fast"


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
