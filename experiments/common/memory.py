"""How much memory a run may use, how much it needs, and whether its data fit."""

import os
import resource
from pathlib import Path

import jax

GIB = 2**30
# Python, JAX, its compiler and matplotlib: a run without data and networks.
PROGRAMS = 1.0 * GIB
# On the host, on the device, and while they are checked: the peak of experiments.benchmarks.large.
COPIES = 2.75
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def limit(given: float | None) -> int:
    """Returns how many bytes this process may use.

    Args:
      given: what ``--memory`` says, in GiB; None for the least of what is free on this machine
        and what its limits (``ulimit -d``, ``ulimit -v``, control group) leave.
    """
    if given is not None:
        return int(given * GIB)
    soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    bounds = [bound for bound in soft if bound != resource.RLIM_INFINITY]
    bounds += [bound for path in _CGROUPS if (bound := _number(path)) is not None]
    return min([*bounds, _of_the_machine()])


def on_the_device() -> int | None:
    """Returns the bytes of an accelerator's memory, or None where it is that of the host."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return stats.get("bytes_limit") if stats else None


def needed(data: int, networks: int = 0) -> int:
    """Returns about how many bytes a run needs that has its data in memory.

    Args:
      data: bytes of the pixels as float32; 0 where they are read in pieces.
      networks: bytes of parameters and optimiser state of the networks that train at a time.
    """
    return int(PROGRAMS + COPIES * data + 3 * networks)  # a state, the next one, a snapshot


def fits(data: int, given: float | None) -> bool:
    """Returns whether data of so many bytes can be in memory."""
    device = on_the_device()
    return needed(data) <= limit(given) and (device is None or data <= device / 2)


def is_exhausted(error: Exception) -> bool:
    """Returns whether an error says that there was no memory left."""
    signs = ("out of memory", "resource_exhausted", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def shown(count: float) -> str:
    """Returns a number of bytes in GiB, or in MiB where there are few."""
    if count < GIB / 10:
        return f"{count / 2**20:.2g} MiB"
    return f"{count / GIB:.2g} GiB" if count < 10 * GIB else f"{count / GIB:.0f} GiB"


def _of_the_machine() -> int:
    """Returns what is free, with what this process has already."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return free + pages * resource.getpagesize()
    except (OSError, ValueError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
