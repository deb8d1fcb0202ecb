"""An epoch over data that are read in pieces, beside the same epoch from memory.

    python -m experiments.benchmarks.streaming

The lecture's denoising autoencoder on 60,000 images of 784 pixels, stored as bytes: from an array
on the device, from a file that is read row by row, from a memory-mapped array, and from a
``grain.MapDataset`` that is asked for one image at a time. All must come to the same bits first,
and all but the first in pieces of the data; then they take turns. About six minutes on two cores.
Expected: the table of docs/speed.md, which is made from ``results/streaming-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.streaming"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.benchmarks import common, in_jaxae, task
from experiments.benchmarks.side_by_side import Contender, race
from experiments.common.data.pixels import as_pixels
from experiments.common.data.sources.rows_file import RowsFile
from experiments.common.results import environment
from experiments.common.run import command_line

CASES = ("64, batch 64", "64, batch 256", "1568, batch 64")
EPOCHS = 2  # of a call of fit, so that its beginning does not count for much


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""

    rounds: int = 5
    """How often everything runs in turn; the table has medians."""


def sources(path: Path) -> dict[str, Array | jaxae.Streamed]:
    """Returns what ``jaxae.fit`` takes for the images of a file, by name; memory first."""
    import grain

    stored = np.load(path)
    streamed = partial(jaxae.Streamed, transform=as_pixels)
    return {
        "memory": jnp.asarray(as_pixels(stored)),
        "file, row by row": streamed(RowsFile(path)),
        "memory-mapped": streamed(np.load(path, mmap_mode="r")),
        "Grain, one by one": jaxae.Streamed(grain.MapDataset.source(stored).map(as_pixels)),
    }


def measure(case: task.Case, rounds: int) -> common.Results:
    """Returns seconds of an epoch from each source, and times as long as from memory."""
    given = in_jaxae.make_task(case)
    run, state = in_jaxae.prepared(given)
    key = jaxae.hash_key(jax.random.key(1))

    def train(x: Array | jaxae.Streamed) -> Callable[[], list[np.ndarray]]:
        def call() -> list[np.ndarray]:
            trained = jaxae.fit(run, state, key, x, epochs=EPOCHS)
            return [np.asarray(leaf) for leaf in jax.tree.leaves(trained)]

        return call

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.round(given.x * 255).astype(np.uint8))
        calls = {name: train(x) for name, x in sources(path).items()}
        bits = {}
        for name, call in calls.items():
            with recorded_reads() as reads:
                bits[name] = [leaf.tobytes() for leaf in call()]
            require_pieces(name, reads, case)
            if bits[name] != bits["memory"]:
                raise RuntimeError(f"{name!r} does not give the bits of the data in memory")
        timed = race({name: Contender(call) for name, call in calls.items()}, rounds)
    return {
        name: {
            "seconds": {statistic: value / EPOCHS for statistic, value in row["seconds"].items()},
            "times_the_first": row["times_the_first"],
        }
        for name, row in timed.items()
    }


@contextmanager
def recorded_reads() -> Iterator[list[int]]:
    """Yields the list that the number of rows of every read of streamed data is added to."""
    reads: list[int] = []
    read = jaxae.Streamed.rows

    def rows(self: jaxae.Streamed, numbers: np.ndarray) -> np.ndarray:
        reads.append(len(numbers))
        return read(self, numbers)

    with mock.patch.object(jaxae.Streamed, "rows", rows):
        yield reads


def require_pieces(name: str, reads: list[int], case: task.Case) -> None:
    """Raises RuntimeError unless the data were read in pieces, each image once an epoch.

    The images of a trial are so few that they are one piece.
    """
    if name == "memory":
        is_right = not reads
    else:
        is_whole = sum(reads) == EPOCHS * case.examples
        is_right = is_whole and (case == task.QUICK or max(reads) < case.examples)
    if not is_right:
        raise RuntimeError(f"{name!r} read {reads} rows, of {case.examples} in an epoch")


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    cases = {name: task.CASES[name] for name in CASES}
    if config.quick:
        cases = {"quick": task.QUICK}
    with common.record("streaming", config.out) as record:
        found: common.Results = {}
        for name, case in cases.items():
            found[name] = measure(case, 2 if config.quick else config.rounds)
            for source, row in found[name].items():
                seconds, ratio = row["seconds"]["median"], row["times_the_first"]["median"]
                print(f"{name:16s} {source:18s} {seconds:8.3f} s  {ratio:5.2f}", flush=True)
            record.log(case=name)
        return common.write_results(
            record,
            "streaming",
            rounds=config.rounds,
            grain=environment.version("grain"),
            epochs_per_call=EPOCHS,
            cases=found,
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
