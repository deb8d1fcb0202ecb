"""Folders that appear with all of their files, or not at all, and the digests of their files."""

import contextlib
import hashlib
import itertools
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def write_folder(
    place: Path,
    fill: Callable[[Path], None],
    *,
    staging_in: Path | None = None,
    is_ours: Callable[[Path], bool] = lambda place: True,
) -> None:
    """Writes a folder beside its place and renames it.

    Args:
      place: the folder that it shall be.
      fill: writes its files into a folder.
      staging_in: where that folder is made, on the same disk; by default beside ``place``.
      is_ours: whether a folder that is there may be replaced; otherwise it is renamed, and stays.

    Raises:
      OSError: if it cannot be written, and whatever ``fill`` raises; then nothing is changed.
    """
    made = [path for path in place.parents if not path.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    # As open to others as any new folder, which tempfile's are not.
    staging = (staging_in or place.parent).resolve() / f".partial-{secrets.token_hex(6)}"
    aside = staging.with_name(f"{staging.name}-old")
    staging.mkdir(parents=True)
    try:
        fill(staging)
        if place.exists() and not is_ours(place):
            place.rename(free_name(place, "kept"))
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


def free_name(place: Path, word: str) -> Path:
    """Returns the first of ``place.word-1``, ``place.word-2``, ... that does not exist."""
    names = (place.with_name(f"{place.name}.{word}-{count}") for count in itertools.count(1))
    return next(path for path in names if not path.exists())


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file.

    Raises:
      OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
