"""Everything that is worth knowing of an accelerator, in one command of at most eight minutes.

    python -m experiments.benchmarks.accelerator --out results/accelerator --data-dir IDX_FOLDER

In order of worth: the agreement with the CPU; an epoch of the lecture's denoising autoencoder
beside PyTorch, where it is installed; thirty models at once beside one; the whole lecture; the
contractive penalty beside its rivals; convolutional autoencoders; decoding a wide dictionary; the
library's tests; and, not on a CPU, a wide search for two rows of the table of
``experiments.feature_learning``. Each stage is a process of its own, and its result file is in a
folder of its own under ``--out``; those of one benchmark are gathered into one beside them.
``accelerator-<device>.json`` there says of each stage how it ended and how long it took, and is
written after every stage: whatever cuts the command off, the same command goes on with the first
stage that is not done. It needs what ``jaxae`` needs, and matplotlib, scikit-learn, jinja2, psutil
and tyro. With ``--data-dir``, a folder of the four IDX files, the lecture and the search train on
MNIST, else on the digits.

On a CPU every stage may take four times as long, and all of them need ``--seconds 3600``. With
``--quick`` every stage but the tests is tried.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print(
        "error: run python -m experiments.benchmarks.accelerator in the repository root",
        file=sys.stderr,
    )
    sys.exit(2)

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments.benchmarks import contraction, in_torch, task
from experiments.common.errors import InputError
from experiments.common.files import atomic
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line
from jaxae._version import __version__

RIVALS = (
    "torch eager",
    "torch eager, fused Adam",
    "torch compile, fused Adam",
    "torch compile, CUDA graphs, fused Adam",
)
TOPICS = [
    *("contraction", "corruption", "distributions", "random", "closed_forms", "linear_denoiser"),
    *("mistakes", "models", "objectives", "unit_norm", "reconstruction", "runs", "score"),
    *("keep_best", "sparsity", "training"),
]
# Compiling for a GPU, XLA tries several kernels for every matrix product. The lecture compiles
# dozens of programs and runs each for seconds, so that the trials cost more than they bring: on an
# H200 `experiments.sparse --quick` takes 56 s with them and 29 s without.
UNTRIED = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
# Forty settings a row, for the two rows that are farthest from those of the paper.
WIDE_SEARCH = (
    *("--methods", "CAE", "DAE-g", "--strengths", "10"),
    *("--fine-tuning-rates", "0.0015", "0.003", "0.006", "0.012"),
)
CPU_PATIENCE = 4  # a stage may take this many times its seconds on a CPU
TAIL = 600  # characters of the output of a stage that failed, which are printed


@dataclass(frozen=True)
class Stage:
    """A process of its own, and how long it may take."""

    arguments: tuple[str, ...]
    """Of Python, without ``--out``."""
    seconds: float
    """After which it is stopped, on an accelerator."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that are set for it."""
    writes: bool = True
    """Whether it takes ``--out``."""
    runs_on_cpu: bool = True
    """Whether it can end within its time on a CPU."""


@dataclass(frozen=True)
class Config:
    """Options of the command."""

    out: Path = Path("results/accelerator")
    """Folder for the result files."""
    data_dir: command_line.Optional[Path] = None
    """Folder of the four IDX files of MNIST; without it the lecture trains on the digits."""
    seconds: float = 480.0
    """After which nothing more is started, and what runs is stopped."""
    stages: tuple[str, ...] = ()
    """Names of the stages to run, in this order; by default all."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A trial: every stage is small, and its numbers mean nothing."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_number("--seconds", self.seconds, above=0)
        known = make_stages(self)
        if unknown := set(self.stages) - set(known):
            raise InputError(f"--stages must be among {', '.join(known)}, but has {min(unknown)}")
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise InputError(f"--data-dir {self.data_dir} is no folder")


def make_stages(config: Config) -> dict[str, Stage]:
    """Returns the stages by name, in order of worth."""

    def benchmark(name: str, seconds: float, *options: str) -> Stage:
        options = ("--quick",) if config.quick else options
        return Stage(("-m", f"experiments.benchmarks.{name}", *options), seconds)

    rivals = [name for name in RIVALS if name in in_torch.ways("cuda")]
    options = ("--rivals", *rivals) if rivals and torch_sees_gpu() else ()
    stages = {"agreement": benchmark("agreement", 120)}
    for case in ["64, batch 64"] if config.quick else task.CASES:
        name = f"training-{re.sub('[^0-9]+', '-', case)}"
        stages[name] = benchmark("training", 150, "--cases", case, *options)
    stages["models"] = benchmark("growth", 120, "--cases", "784-64, 30 models")
    flags = f"{os.environ.get('XLA_FLAGS', '')} {UNTRIED}".strip()
    stages["lecture"] = Stage(lecture_arguments(config), 240, {"XLA_FLAGS": flags})
    for case in ["lecture"] if config.quick else contraction.CASES:
        stages[f"contraction-{case}"] = benchmark("contraction", 90, "--cases", case)
    stages["convolutional"] = benchmark("convolutional", 90)
    stages["dictionary"] = benchmark("dictionary", 120)
    if not config.quick:
        workers = str(min(os.cpu_count() or 1, 8))
        options = ("--numprocesses", workers, "--maxprocesses", workers, "-p", "no:benchmark")
        files = [f"tests/jaxae/test_{topic}.py" for topic in TOPICS]
        # Tests compare with the precision of float32, which TF32 has not.
        own = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        stages["tests"] = Stage(("-m", "pytest", *options, *files), 300, own, writes=False)
    stages["feature_learning"] = Stage(
        ("-m", "experiments.feature_learning", *WIDE_SEARCH, *data_arguments(config)),
        480,
        runs_on_cpu=config.quick,
    )
    return stages


def lecture_arguments(config: Config) -> tuple[str, ...]:
    """Returns the arguments of the whole lecture; its parts share the device."""
    jobs = ("--jobs", str(min(os.cpu_count() or 1, 8)))
    return ("-m", "experiments.lecture", *data_arguments(config), *jobs)


def data_arguments(config: Config) -> tuple[str, ...]:
    """Returns the data of an experiment, and that it goes on where it was cut off."""
    data: tuple[str, ...] = ("--dataset", "digits")
    if config.data_dir is not None:
        data = ("--dataset", "mnist", "--data-dir", str(config.data_dir))
    quick = ("--quick",) if config.quick else ()
    return (*data, "--resume", *quick)


def torch_sees_gpu() -> bool:
    """Returns whether PyTorch, where it is installed, sees a GPU; JAX is not started here."""
    if in_torch.version() is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def device_name() -> str:
    """Returns the device in a form for a file name.

    Raises:
      InputError: if JAX finds none.
    """
    code = "from experiments.benchmarks import common; print(common.device_name())"
    # In a process of its own, because one that has asked keeps memory of the device.
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if asked.returncode:
        raise InputError(f"JAX finds no device ({asked.stderr.strip().splitlines()[-1]})")
    return asked.stdout.strip()


def run_stage(name: str, stage: Stage, out: Path, seconds: float) -> Metrics:
    """Runs a stage for at most some seconds; returns its command, how it ended, and its time."""
    folder = ["--out", str(out / name)] if stage.writes else []
    command = [sys.executable, *stage.arguments, *folder]
    # The lecture's parts and the workers of the tests share the device.
    own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **stage.environment}
    log = out / f"{name}.log"
    begin = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | own,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            stop(process)
    ended = "cut off" if status is None else "done" if status == 0 else f"exit status {status}"
    return {
        "command": " ".join(["python", *stage.arguments]),
        "ended": ended,
        "seconds": round(time.monotonic() - begin, 1),
    }


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stops a process, and kills it and its group if it does not end within half a minute.

    The lecture needs that time: it stops its parts, which are in groups of their own and save.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(30)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def read(path: Path) -> Metrics:
    """Returns the stages of an earlier call, none if there was none or of another version.

    Raises:
      InputError: if the file was not written by this command.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        stages: Metrics = found["stages"]
        return stages if found["jaxae"] == __version__ else {}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} was not written by this command; move it away") from None


def gather(stages: Collection[str], out: Path, device: str) -> None:
    """Writes one result file of each benchmark from those of its stages, with all their cases."""
    gathered: Metrics = {}
    for path in (path for name in stages for path in (out / name).glob(f"*-{device}.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        earlier = gathered.setdefault(path.name, found)
        if "cases" in found:
            earlier["cases"] |= found["cases"]
    for name, found in gathered.items():
        write(out / name, found)


def write(path: Path, found: Metrics) -> None:
    """Writes a JSON file, whole or not at all."""
    atomic.write_text(path, json.dumps(found, indent=2) + "\n")


def main(config: Config) -> Metrics:
    """Runs the stages that are not done and returns what the result file holds."""
    begin = time.monotonic()
    known = make_stages(config)
    chosen = {name: known[name] for name in config.stages or known}
    device = device_name()
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / f"accelerator-{device}.json"
    results: Metrics = {
        "benchmark": "accelerator",
        "jaxae": __version__,
        "device": device,
        "stages": read(path),
    }
    for name, stage in chosen.items():
        command = " ".join(["python", *stage.arguments])
        entry = results["stages"].get(name, {})
        if (entry.get("ended"), entry.get("command")) == ("done", command):
            print(f"{name}: done before", flush=True)
            continue
        is_cpu = device.startswith("cpu")
        if is_cpu and not stage.runs_on_cpu:
            print(f"{name}: takes too long on a CPU", flush=True)
            continue
        left = config.seconds - (time.monotonic() - begin)
        if left <= 5:
            print(f"{name}: no time left", flush=True)
            continue
        patience = CPU_PATIENCE if is_cpu else 1
        entry = run_stage(name, stage, config.out, min(left, patience * stage.seconds))
        results["stages"][name] = entry
        write(path, results)
        gather(known, config.out, device)
        print(f"{name}: {entry['ended']} after {entry['seconds']} s", flush=True)
        if entry["ended"] != "done":
            log = (config.out / f"{name}.log").read_text(encoding="utf-8", errors="replace")
            print(log[-TAIL:], flush=True)
    return results


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
