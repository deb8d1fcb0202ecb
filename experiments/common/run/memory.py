"""How much memory a run may use, how much it needs, and whether its data fit."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import jax
import psutil

GIB = 2**30
# Python, JAX, its compiler and matplotlib: a run without data and networks.
PROGRAMS = 1.0 * GIB
# On the host, on the device, and while they are checked: the peak of experiments.benchmarks.large.
COPIES = 2.75
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def limit(given: float | None) -> int:
    """Returns how many bytes this process may use.

    Args:
      given: what ``--memory`` says, in GiB; None for the least of what is free on this machine
        and what its limits (``ulimit -d``, ``ulimit -v``, control group) leave.
    """
    if given is not None:
        return int(given * GIB)
    return min([free_on_machine(), *_process_limits(), *_cgroup_limits()])


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


def statement(nbytes: int, is_streamed: bool, networks: int, given: float | None) -> str:
    """Returns a line that says what a run needs, and what it may use.

    Args:
      nbytes: of all pixels as float32.
      is_streamed: whether they are read in pieces.
      networks: see :func:`needed`.
      given: what ``--memory`` says, see :func:`limit`.
    """
    data_are = f"data {shown(nbytes)}"
    data_are += ", read in pieces" if is_streamed else f" x {COPIES}"
    needs = shown(needed(0 if is_streamed else nbytes, networks))
    return f"memory: about {needs} ({data_are}) of {shown(limit(given))}"


def is_exhausted(error: Exception) -> bool:
    """Returns whether an error says that there was no memory left."""
    signs = ("out of memory", "resource_exhausted", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def shown(count: float) -> str:
    """Returns a number of bytes in GiB, or in MiB where there are few."""
    if count < GIB / 10:
        return f"{count / 2**20:.2g} MiB"
    return f"{count / GIB:.2g} GiB" if count < 10 * GIB else f"{count / GIB:.0f} GiB"


def free_on_machine() -> int:
    """Returns the bytes that are free on this machine, and those that this process has already."""
    return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def _process_limits() -> list[int]:
    """Returns the limits that ``ulimit -d`` and ``ulimit -v`` have set, if any."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    return [bound for bound in soft if bound != resource.RLIM_INFINITY]


def _cgroup_limits() -> list[int]:
    """Returns the limits of this process' control groups (Linux): its own and those around it."""
    return [bound for path in _cgroup_files() if (bound := _number(path)) is not None]


def _cgroup_files() -> Iterator[Path]:
    """Yields the files that may hold a limit, in version 2 and 1 of control groups.

    In a container the own group is often the root, whatever the file says that names it.
    """
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # not Linux
        lines = []
    for line in ("0::/", "1:memory:/", *lines):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path)
        for around in (group, *group.parents):
            yield root / str(around).lstrip("/") / name


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
