"""The folder of one user in which decoded data are kept."""

import atexit
import contextlib
import logging
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from experiments.common.files import atomic, locks

Found = TypeVar("Found")

_LONGEST_WAIT = 600.0  # seconds, for another process that decodes


def folder() -> Path:
    """Returns the folder of decoded data: $JAXAE_CACHE_DIR, or one among the caches of the user.

    Raises:
      OSError: if the user has no home folder, and none of its own among the temporary files.
    """
    try:
        if own := os.environ.get("JAXAE_CACHE_DIR"):
            return Path(own).expanduser()
        place = _user_caches() / "jaxae"
        # A container may give a user a home that is not there, or that is root's.
        parent = next(path for path in place.parents if path.exists())
        if place.exists() or os.access(parent, os.W_OK):
            return place
    except RuntimeError:  # no home at all
        pass
    return _temporary_folder()


def entry(name: str, *, write: Callable[[Path], None], read: Callable[[Path], Found]) -> Found:
    """Reads a folder of the cache; if it is missing or damaged, writes it first.

    Where the cache cannot be written, the folder is a temporary one, removed with this process:
    the data are in files all the same, because memory may not have the room.

    Args:
      name: of the folder.
      write: writes the files of the folder; called again if they are damaged.
      read: raises any error if they are not there, or damaged.
    """
    try:
        with turn() as place:
            try:
                return read(place / name)
            except Exception:  # not there, or damaged in whatever way
                atomic.write_folder(place / name, write)
            return read(place / name)
    except OSError as error:
        logging.getLogger(__name__).warning("decoded images are not kept: %s", error)
    aside = Path(tempfile.mkdtemp(prefix="jaxae-decoded-"))
    atexit.register(shutil.rmtree, aside, ignore_errors=True)
    try:
        write(aside)
    except OSError as error:
        atomic.name_place(error, aside)
        raise
    return read(aside)


@contextlib.contextmanager
def turn() -> Iterator[Path]:
    """Gives the folder to one process at a time; a folder in which nothing was written is removed.

    Raises:
      OSError: if it cannot be made.
    """
    place = folder()
    made = [path for path in (place, *place.parents) if not path.exists()]
    place.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as opened:
            # Without the lock two processes decode the same; both write it whole.
            with contextlib.suppress(OSError, locks.HeldError):
                opened.enter_context(locks.held(place / ".lock", seconds=_LONGEST_WAIT))
            yield place
    finally:
        atomic.remove_empty(*made)


def _user_caches() -> Path:
    """Returns where this system keeps the caches of a user.

    Raises:
      RuntimeError: if the user has no home folder.
    """
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = os.environ.get("XDG_CACHE_HOME", "")  # XDG: what is no absolute path does not count
    return Path(given) if os.path.isabs(given) else Path.home() / ".cache"


def _temporary_folder() -> Path:
    """Returns a folder of this user among the temporary files, where others may write too.

    Raises:
      OSError: if somebody else has made it, or can write into it.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    place = Path(tempfile.gettempdir()) / f"jaxae-{user}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_mode & 0o077 == 0 and found.st_uid == user
    if hasattr(os, "getuid") and not is_ours:  # on Windows the temporary files are a user's own
        raise PermissionError(f"{place} is not this user's alone; JAXAE_CACHE_DIR names another")
    return place
