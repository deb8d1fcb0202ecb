"""Parts of every benchmark: options, the folder of the result file, the device and its cores."""

import importlib.util
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import jax
import tyro

from experiments.common.errors import InputError
from experiments.common.results import environment, output_folder
from experiments.common.run import command_line, devices

Results: TypeAlias = dict[str, Any]  # what a result file holds, or a part of it


@dataclass(frozen=True)
class Options:
    """Options of a benchmark."""

    rounds: int = 3
    """How often everything runs in turn; the table has medians."""
    out: command_line.Optional[Path] = None
    """Folder for the result file, by default results/benchmarks/<benchmark>."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A trial: one small case, few rounds."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_integer("--rounds", self.rounds, low=1)


def require_known(
    cases: Collection[str], known: Collection[str], *, option: str = "--cases"
) -> None:
    """Raises InputError if a case that was asked for does not exist."""
    if unknown := set(cases) - set(known):
        raise InputError(f"{option} must be among {', '.join(known)}, but has {min(unknown)}")


def require_child_usage() -> None:
    """Raises InputError where a system does not say how much memory a child process has used."""
    if not hasattr(os, "wait4"):
        raise InputError("this benchmark needs os.wait4; run it on Linux or macOS")


def record(
    benchmark: str, out: Path | None, *, measures_here: bool = True
) -> output_folder.RunRecord:
    """Returns the context manager around a benchmark, which writes its result file or nothing.

    Every benchmark has a folder of its own: a run removes what an earlier one left in its folder.

    Args:
      benchmark: its name.
      out: folder for the result file, or None.
      measures_here: whether this process needs the device, and not only others that it starts,
        to which it must leave the memory of an accelerator.

    Raises:
      InputError: if JAX finds no device, or compiled programs are kept, so that compiling would
        not be measured.
    """
    if measures_here:
        devices.require_devices()
    if cache := jax.config.values["jax_compilation_cache_dir"]:
        raise InputError(
            f"compiled programs are kept in {cache}, so that times to compile would be too short; "
            "unset JAX_COMPILATION_CACHE_DIR"
        )
    return output_folder.RunRecord(out or Path("results") / "benchmarks" / benchmark)


def write_results(
    record: output_folder.RunRecord, benchmark: str, *, rounds: int | None = None, **found: object
) -> Results:
    """Writes the result file of a benchmark on this device, and returns what it holds.

    Args:
      record: what :func:`record` returned, opened.
      benchmark: its name.
      rounds: how often everything ran in turn, or None where nothing did.
      **found: what was measured, by the name that it has in the file.
    """
    results: Results = {"benchmark": benchmark}
    if rounds is not None:
        results["rounds"] = rounds
    results |= {"environment": describe_environment(), **found}
    record.write_json(f"{benchmark}-{device_name()}.json", results)
    return results


def describe_environment() -> Results:
    """Returns the versions, the device and the CPU cores that the numbers were made with."""
    return environment.describe() | {"cores": core_count()}


def core_count() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux; macOS and Windows have no such limit
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name() -> str:
    """Returns the device in a form for a file name: ``cpu-2-cores``, ``nvidia-h100``."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu-{core_count()}-cores"
    return "-".join(device.device_kind.lower().split()[:2])


def torch_device() -> str:
    """Returns the device of PyTorch that is the one of JAX, ``"cpu"`` or ``"cuda"``.

    Raises:
      InputError: if PyTorch is installed and cannot use the accelerator of JAX.
    """
    if jax.default_backend() == "cpu" or importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise InputError(
        f"JAX runs on a {jax.default_backend()} that PyTorch does not see; install a PyTorch for "
        "it, or set JAX_PLATFORMS=cpu to compare both on the CPU"
    )
