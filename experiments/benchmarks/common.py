"""What the benchmarks share: their options, where results go, and what the device is called."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments.common import command_line, records
from experiments.common.errors import InputError


@dataclass(frozen=True)
class Options:
    """Options of a benchmark."""

    rounds: int = 3
    """How often everything runs in turn; the table has medians."""
    out: Path | None = None
    """Folder for the result file, by default results/benchmarks."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A trial: one small case, few rounds."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_integer("--rounds", self.rounds, low=1)


def require_known(cases: Collection[str], known: Collection[str]) -> None:
    """Raises InputError if a case that was asked for does not exist."""
    if unknown := set(cases) - set(known):
        raise InputError(f"--cases must be among {', '.join(known)}, but has {min(unknown)}")


def record(out: Path | None) -> records.RunRecord:
    """Returns the context manager around a benchmark, which writes its result file or nothing."""
    return records.RunRecord(out or Path("results") / "benchmarks")


def device_name() -> str:
    """Returns the device in a form for a file name: ``cpu-2-cores``, ``nvidia-h100``."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu-{len(os.sched_getaffinity(0))}-cores"
    return "-".join(device.device_kind.lower().split()[:2])
