"""From the start of a process to its first epoch, and its peak memory, beside PyTorch and Keras.

    python -m experiments.benchmarks.start

Each contender of ``experiments.benchmarks.training`` in a process of its own that imports nothing
of the others, imports and compilation included; then ``experiments.denoising`` with and without
kept programs, and what the import of jaxae adds. All must come to the same loss. About five minutes
on two cores; Linux or macOS. Expected: the table of docs/speed.md, which is made from
``results/start-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.start"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks import common, in_jaxae, task, training
from experiments.common.results import environment
from experiments.common.run import command_line

CASE = "64, batch 64"
_LIMITED = [
    sys.executable,
    "-c",
    "import os, resource, sys; most = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_DATA, (most, most)); os.execv(sys.argv[2], sys.argv[2:])",
]


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    rounds: int = 3
    """How often everything starts; the table has medians."""
    out: command_line.Optional[Path] = None
    """Folder for the result file, by default results/benchmarks/start."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_integer("--rounds", self.rounds, low=1)
        common.require_child_usage()


def in_own_process(arguments: list[str], *, most_data: int | None = None) -> common.Results:
    """Returns wall seconds and peak memory of a command, and what its last line says.

    Args:
      arguments: the module and its options.
      most_data: bytes that the process may have of its own, or None for no limit.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", *arguments]
    if most_data is not None:
        command = [*_LIMITED, str(most_data), *command]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        output.seek(0)
        lines = output.read().decode().strip().splitlines()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "peak_bytes": peak, "last_line": lines[-1] if lines else ""}


def starts(case: task.Case, rounds: int) -> common.Results:
    """Returns, for each contender by itself: seconds to the first epoch, and peak memory."""
    found: common.Results = {}
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        task.save(path, in_jaxae.make_task(case))
        for name in training.contenders():
            command = ["experiments.benchmarks.alone", name, str(path), common.torch_device()]
            runs = [in_own_process(command) for _ in range(rounds)]
            losses[name] = float(runs[0].pop("last_line"))
            keys = ("seconds", "peak_bytes")
            found[name] = {key: float(np.median([run[key] for run in runs])) for key in keys}
    for name, loss in losses.items():
        if not np.isclose(loss, losses[training.OURS], rtol=0.02):
            raise RuntimeError(f"{name} comes to {loss}, jaxae to {losses[training.OURS]}")
    return found


def of_a_script(rounds: int) -> dict[str, float]:
    """Returns seconds from the start of a cold process to the first epoch of ``denoising``.

    Without a compilation cache, and with one that an earlier run has filled; and what the import
    of jaxae adds to that of jax, flax and optax.
    """
    seconds: dict[str, list[float]] = {
        "first epoch, no cache": [],
        "first epoch, warm cache": [],
        "import of jaxae": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        cache = ["--compilation-cache", f"{folder}/cache"]
        _until_first_epoch(Path(folder), cache)
        kept = _names_in(Path(folder, "cache"))
        for _ in range(rounds):
            seconds["first epoch, no cache"].append(_until_first_epoch(Path(folder), []))
            seconds["first epoch, warm cache"].append(_until_first_epoch(Path(folder), cache))
            code = (
                "import time, jax, flax, optax; start = time.perf_counter(); import jaxae; "
                "print(time.perf_counter() - start)"
            )
            found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            seconds["import of jaxae"].append(float(found.stdout))
        if not kept or _names_in(Path(folder, "cache")) != kept:
            raise RuntimeError("the runs with a warm cache did not take their programs from it")
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _until_first_epoch(folder: Path, options: list[str]) -> float:
    """Returns how long it takes until the log of a fresh run has its first line."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "experiments.denoising", "--dataset", "digits"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--epochs", "200", "--out", str(out), *options], stdout=subprocess.DEVNULL
    )
    try:
        while not any(log.stat().st_size for log in out.glob(".partial-*/log.jsonl")):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended before its first epoch")
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        if options:
            process.wait()  # so that the cache is whole
    finally:
        process.terminate()
        process.wait()
    return seconds


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    with common.record("start", config.out, measures_here=False) as record:
        found = starts(task.CASES[CASE], config.rounds)
        record.log(contenders=list(found))
        return common.write_results(
            record,
            "start",
            rounds=config.rounds,
            torch=environment.version("torch"),
            keras=environment.version("keras"),
            case=CASE,
            alone=found,
            denoising=of_a_script(config.rounds),
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
