"""The folder of one user in which decoded data are kept; an entry is whole or absent."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """Returns the per-user folder of decoded data: $JAXAE_CACHE_DIR, or the XDG default."""
    if own := os.environ.get("JAXAE_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxae"


def write(entry: Path, fill: Callable[[Path], None]) -> None:
    """Writes an entry beside its place and renames it.

    Args:
      entry: the folder that it shall be; one that is there is replaced.
      fill: writes its files into a folder.

    Raises:
      OSError: if it cannot be written, and whatever ``fill`` raises.
    """
    made = [path for path in entry.parents if not path.exists()]
    entry.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=entry.parent))
    try:
        fill(staging)
        if entry.exists():
            shutil.rmtree(entry)
        staging.rename(entry)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: all is well
            for path in made:
                path.rmdir()
