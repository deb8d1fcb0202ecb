"""Files and folders that appear whole or not at all, and the digests that prove it."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]  # what a JSON file holds

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_SMALL = 2**16  # bytes of a file that is read at once


def write_text(place: Path, text: str, *, partial: Path | None = None) -> None:
    """Writes a text file under another name and renames it; what is there is replaced.

    Args:
      place: the file that it shall be.
      text: what it shall hold.
      partial: where it is written first, on the same disk; by default beside ``place``.

    Raises:
      OSError: if it cannot be written; then ``place`` is what it was.
    """
    partial = partial or place.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, place)


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
      staging_in: where that folder is made, unless it is on another disk; by default beside
        ``place``.
      is_ours: whether a folder that is there may be replaced; otherwise it is renamed, and stays.

    Raises:
      OSError: if it cannot be written, and whatever ``fill`` raises; then nothing is changed.
    """
    try:
        _write_folder(place, fill, staging_in or place.parent, is_ours)
    except OSError as error:  # somebody's checkpoints/ may be a link to a larger disk
        if error.errno != errno.EXDEV or staging_in is None:
            raise
        _write_folder(place, fill, place.parent, is_ours)


def _write_folder(
    place: Path,
    fill: Callable[[Path], None],
    staging_in: Path,
    is_ours: Callable[[Path], bool],
) -> None:
    made = [path for path in place.parents if not path.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    # As open to others as any new folder, which tempfile's are not.
    staging = staging_in.resolve() / f".partial-{secrets.token_hex(6)}"
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
        remove_empty(*made)


def remove_empty(*folders: Path) -> None:
    """Removes folders, each inside the next, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def name_place(error: BaseException, place: Path) -> None:
    """Gives an error of a full or read-only disk the place that was written to.

    Writing to an open file raises without a name, and its user has more than one disk.
    """
    if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
        error.filename = str(place)


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
        start = file.read(_SMALL)
        if len(start) < _SMALL:  # images are many, and file_digest makes a buffer for each
            return hashlib.sha256(start).hexdigest()
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: object) -> str:
    """Returns the SHA-256 of what JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
