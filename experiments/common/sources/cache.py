"""The folder of one user in which decoded data are kept."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def folder() -> Path:
    """Returns the per-user folder of decoded data: $JAXAE_CACHE_DIR, or the XDG default."""
    if own := os.environ.get("JAXAE_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxae"


@contextlib.contextmanager
def turn() -> Iterator[Path]:
    """Gives the folder to one process at a time; a folder in which nothing was written is removed.

    Raises:
      OSError: if it cannot be made.
    """
    place = folder()
    made = [path for path in (place, *place.parents) if not path.exists()]
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield place
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # not empty: all is well
            for path in made:
                path.rmdir()
