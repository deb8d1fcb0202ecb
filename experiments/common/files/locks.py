"""Locks between processes: one run in a folder at a time, one writer of the cache at a time."""

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from experiments.common.errors import InputError

# What file systems answer that have no locks: network ones above all.
_WITHOUT_LOCKS = tuple(
    getattr(errno, name)
    for name in ("EBADF", "EINVAL", "ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")
    if hasattr(errno, name)
)

_OWNER = ".owner"


class HeldError(InputError):
    """Another process holds the lock."""


@contextmanager
def held(path: Path, *, seconds: float) -> Iterator[None]:
    """Holds a lock on a file of this name, which is made and removed.

    The operating system frees it when the process ends, however. Where the file system has no
    locks, a file of the name with ``.owner`` added stands for it; it names its process, and one
    whose process is gone from this machine does not count.

    Args:
      path: the file; nothing is read from it or written to it.
      seconds: how long to wait for it; negative: as long as it takes.

    Raises:
      HeldError: if another process, or another part of this one, holds it.
      OSError: if the file cannot be made, or is somebody's: locks are empty.
    """
    _require_free(path)
    lock = _acquired(path, seconds)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows, where the library does it: an open file stays
            Path(lock.lock_file).unlink()  # while it is held: who waits for it looks again
        lock.release()


def _require_free(path: Path) -> None:
    """Raises FileExistsError if a file is there that would be emptied and removed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        reason = f"{path.name} is there, and no lock of this program, which are empty"
        raise FileExistsError(errno.EEXIST, f"{reason}; move it away", str(path))


def _acquired(path: Path, seconds: float) -> BaseFileLock:
    try:
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(timeout=seconds)
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in _WITHOUT_LOCKS:
                raise
            with suppress(OSError):
                path.unlink()
            lock = SoftFileLock(path.with_name(f"{path.name}{_OWNER}"))
            lock.acquire(timeout=seconds)
    except Timeout as error:
        is_soft = error.lock_file.endswith(_OWNER)
        hint = "; if no process does, remove it" if is_soft else ""
        raise HeldError(f"another process holds {error.lock_file}{hint}") from None
    return lock
