"""Data four times as large as the memory that a run may use, beside the same run without a limit.

    python -m experiments.benchmarks.large

Writes a file of images, 5 GiB by default, and trains the lecture's denoising autoencoder on it for
an epoch, twice: in a process whose memory is limited to a quarter of the file (``RLIMIT_DATA``,
which is ``ulimit -d``), and in one that may have it all. Their numbers must be the same, and their
peak memory below and above the data. About four minutes on two cores, 5 GiB of disk and 15 GiB of
memory; on Linux, which holds a process to this limit. Expected: the table of docs/speed.md,
which is made from ``results/large-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.large"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks import common, start
from experiments.benchmarks.task import PIXELS
from experiments.common.errors import InputError
from experiments.common.run import command_line, memory
from experiments.common.run.memory import GIB

OPTIONS = ["--batch-size", "256", "--epochs", "1", "--num-seeds", "1"]
# A process that takes 1 GB.
ALLOCATE = ["timeit", "-n", "1", "-r", "1", "bytearray(10**9)"]
OPTIONS += ["--code-dims", "64", "--noise-levels", "0.55"]


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    limit: float = 1.25
    """GiB that the limited run may use; below 1.1 it cannot start."""
    times: float = 4.0
    """How many times as large the data are."""
    out: command_line.Optional[Path] = None
    """Folder for the result file, by default results/benchmarks/large."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_number("--limit", self.limit, low=1.0, high=1000.0)
        # The data alone must be larger than the memory that is allowed.
        command_line.require_number("--times", self.times, above=1.0, high=1000.0)
        common.require_child_usage()


def write_images(path: Path, size: float) -> int:
    """Writes float32 images of so many bytes at least, and returns how many bytes they are."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(size=(16, PIXELS)).astype(np.float32) ** 4
    piece = 10_000
    examples = piece * int(np.ceil(size / (4 * PIXELS * piece)))
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (examples, PIXELS)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(examples // piece):
            scale = rng.uniform(0.7, 1, (piece, PIXELS)).astype(np.float32)
            file.write((patterns[rng.integers(0, 16, piece)] * scale).tobytes())
    return 4 * PIXELS * examples


def run(path: Path, out: Path, limit: int | None) -> common.Results:
    """Returns seconds, peak memory and numbers of a run in a process of its own."""
    command = ["experiments.denoising", "--dataset", str(path), *OPTIONS, "--out", str(out)]
    found = start.in_own_process(command, most_data=limit)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    (row,) = metrics["by_code_dim"]
    numbers = {name: row[name] for name in ("test_mse", "corrupted", "linear")}
    return {"seconds": found["seconds"], "peak_bytes": found["peak_bytes"], "numbers": numbers}


def require_limits() -> None:
    """Raises InputError where a process gets more memory than its limit says."""
    if importlib.util.find_spec("resource") is not None:
        try:
            start.in_own_process(ALLOCATE, most_data=2**28)
        except RuntimeError:
            return
    raise InputError("this system holds no process to a limit of its memory; run it on Linux")


def require_room(size: float) -> None:
    """Raises InputError if the run without a limit would read its data in pieces too."""
    if not memory.fits(int(size), None):
        raise InputError(
            f"data of {memory.shown(size)} do not fit into this machine, so that both "
            "runs would read them in pieces; take a smaller --times"
        )


def require_different_memory(runs: common.Results, size: int) -> None:
    """Raises RuntimeError unless only the run without a limit held all of the data."""
    peaks = {name: found["peak_bytes"] for name, found in runs.items()}
    if not peaks["limited"] < size < peaks["not limited"]:
        raise RuntimeError(f"data of {size} bytes, but the peaks of memory are {peaks}")


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    limit = int(config.limit * GIB)
    require_limits()
    require_room(config.times * limit)
    with (
        common.record("large", config.out, measures_here=False) as record,
        tempfile.TemporaryDirectory() as scratch,
    ):
        path = Path(scratch) / "images.npy"
        size = write_images(path, config.times * limit)
        runs = {
            "limited": run(path, Path(scratch) / "limited", limit),
            "not limited": run(path, Path(scratch) / "free", None),
        }
        record.log(runs=list(runs))
        numbers = [found.pop("numbers") for found in runs.values()]
        if numbers[0] != numbers[1]:
            raise RuntimeError(f"the runs have other numbers: {numbers}")
        require_different_memory(runs, size)
        return common.write_results(
            record,
            "large",
            limit_bytes=limit,
            data_bytes=size,
            runs=runs,
            numbers_of_both=numbers[0],
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
