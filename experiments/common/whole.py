"""Folders that appear with all of their files, or not at all."""

import contextlib
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def write_folder(place: Path, fill: Callable[[Path], None]) -> None:
    """Writes a folder beside its place and renames it.

    Args:
      place: the folder that it shall be; one that is there is replaced.
      fill: writes its files into a folder.

    Raises:
      OSError: if it cannot be written, and whatever ``fill`` raises; then nothing is changed.
    """
    made = [path for path in place.parents if not path.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    # As open to others as any new folder, which tempfile's are not.
    staging = place.parent.resolve() / f".partial-{secrets.token_hex(6)}"
    aside = staging.with_name(f"{staging.name}-old")
    staging.mkdir()
    try:
        fill(staging)
        if place.exists():
            place.rename(aside)
        staging.rename(place)
    except BaseException:
        if aside.exists() and not place.exists():
            aside.rename(place)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: all is well
            for path in made:
                path.rmdir()
