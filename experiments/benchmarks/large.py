"""Data four times as large as the memory that a run may use, beside the same run without a limit.

    python -m experiments.benchmarks.large

Writes a file of images, 5 GiB by default, and trains the lecture's denoising autoencoder on it for
an epoch, twice: in a process whose memory is limited to a quarter of the file (``RLIMIT_DATA``,
which is ``ulimit -d``), and in one that may have it all. Their numbers must be the same. About four
minutes on two cores, 5 GiB of disk and 15 GiB of memory. Expected: the table of docs/speed.md,
which is made from ``results/large-<device>.json``.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import common, start
from experiments.common import command_line, records
from experiments.common.memory import GIB

PIXELS = 784
OPTIONS = ["--batch-size", "256", "--epochs", "1", "--num-seeds", "1"]
OPTIONS += ["--code-dims", "64", "--noise-levels", "0.55"]


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    limit: float = 1.25
    """GiB that the limited run may use; below 1.1 it cannot start."""
    times: float = 4.0
    """How many times as large the data are."""
    out: Path | None = None
    """Folder for the result file, by default results/benchmarks."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_number("--limit", self.limit, low=1.0, high=1000.0)
        command_line.require_number("--times", self.times, above=0.0, high=1000.0)


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


def run(path: Path, out: Path, limit: int | None) -> dict[str, Any]:
    """Returns seconds, peak memory and numbers of a run in a process of its own."""
    command = ["experiments.denoising", "--dataset", str(path), *OPTIONS, "--out", str(out)]
    found = start.in_own_process(command, most_data=limit)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    (row,) = metrics["by_code_dim"]
    numbers = {name: row[name] for name in ("test_mse", "corrupted", "linear")}
    return {"seconds": found["seconds"], "peak_bytes": found["peak_bytes"], "numbers": numbers}


def main(config: Config) -> dict[str, Any]:
    """Runs the benchmark and returns what the result file holds."""
    limit = int(config.limit * GIB)
    with (
        common.record(config.out) as record,
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
        results = {
            "benchmark": "large",
            "environment": records.environment() | {"cores": len(os.sched_getaffinity(0))},
            "limit_bytes": limit,
            "data_bytes": size,
            "runs": runs,
            "numbers_of_both": numbers[0],
        }
        record.write_json(f"large-{common.device_name()}.json", results)
    return results


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
