"""Images in a file of NumPy: ``.npy`` with one array, or ``.npz`` with several."""

import shutil
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.data.sources import cache, contents
from experiments.common.data.sources.decoded import Splits
from experiments.common.data.sources.rows_file import NotByRowsError, RowsFile
from experiments.common.errors import InputError, first_line
from experiments.common.files import atomic

_LARGE = 2**26  # bytes of a file that is not read at once
_MAX_EXPANDED = 2**30  # bytes of a .npz file, or 20 times its size: more is a decompression bomb
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second is an empty one
# Names of images and labels in an .npz file, in any case; the second is that of MedMNIST.
_SPELLINGS = (
    ("x_{}", "y_{}"),
    ("{}_images", "{}_labels"),
    ("{}_x", "{}_y"),
    ("{}_data", "{}_labels"),
    ("{}", "y_{}"),
)
# The same of a file without a test split, which has no other arrays.
_ALONE = (
    ("x", "y"),
    ("images", "labels"),
    ("data", "labels"),
    ("data", "target"),
    ("features", "labels"),
)


class _Names(NamedTuple):
    """Names in an .npz file of the images and the labels of one split."""

    images: str
    labels: str | None


def load(path: Path, has_room: Callable[[int], bool]) -> Splits:
    """Returns the splits of a user's own file.

    ``.npy``: images ``(n, d)``, ``(n, h, w)`` or ``(n, h, w, c)``. ``.npz``: ``x_train`` and
    ``x_test`` (and ``y_train``, ``y_test``), the same without ``x_``, ``x_train`` alone, ``x`` and
    ``y``, or a single array; ``_SPELLINGS`` and ``_ALONE`` have other names of them. Other arrays
    that are in there are not read.

    Raises:
      InputError: if it is not there, cannot be read, or does not hold these arrays.
    """
    try:
        return _load(path, has_room)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"--dataset {path} does not exist") from None
    except Exception as error:  # damaged bytes raise what NumPy, zlib, zipfile, tokenize raise
        reason = first_line(error)
        if "allow_pickle" in reason:  # NumPy's advice would run code that is in the file
            reason += "; numpy.stack makes a plain array of a list"
        raise InputError(f"--dataset {path} cannot be read as {path.suffix}: {reason}") from error


def _load(path: Path, has_room: Callable[[int], bool]) -> Splits:
    """Returns the splits of a file; damaged files raise all kinds of exceptions.

    A large ``.npy`` stays where it is; the arrays of an ``.npz`` for which there is no room are
    unpacked into the cache first.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")  # opening a named pipe would wait forever
    size = path.stat().st_size
    if path.suffix.lower() == ".npy" and size > _LARGE:
        try:
            return {"train": (RowsFile(path), None)}
        except NotByRowsError:
            if not has_room(size):
                raise
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _require_numpy(file.read(contents.START))
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"train": (loaded, None)}
        chosen = _choose(path, loaded.zip)
        used = [name for names in chosen.values() for name in names if name is not None]
        expanded = sum(loaded.zip.getinfo(name).file_size for name in used)
        if expanded > max(_MAX_EXPANDED, 20 * size):
            raise ValueError(f"it expands to {expanded} bytes; store so much with numpy.savez")
        if size > _LARGE and not has_room(4 * expanded):  # bytes become floats
            return _unpacked(loaded.zip, path, chosen)
        arrays = {name: _array_of(loaded, name) for name in used}
    return {
        split: (arrays[names.images], None if names.labels is None else arrays[names.labels])
        for split, names in chosen.items()
    }


def _require_numpy(start: bytes) -> None:
    """Raises ValueError if a file starts as none of NumPy does; NumPy would call it pickled."""
    if start and not start.startswith((np.lib.format.MAGIC_PREFIX, *_ZIP)):
        kind = contents.describe(start) or "no file of NumPy; numpy.save and numpy.savez write them"
        raise ValueError(f"it is {kind}")


def _choose(path: Path, archive: zipfile.ZipFile) -> dict[str, _Names]:
    """Returns which members of an archive are the images and labels of each split."""
    members = {name[:-4]: name for name in archive.namelist() if name.endswith(".npy")}
    named = {name.lower(): members[name] for name in sorted(members)}  # lower case wins
    for images, labels in _SPELLINGS:
        found = {
            split: _Names(named[images.format(split)], named.get(labels.format(split)))
            for split in ("train", "test")
            if images.format(split) in named
        }
        is_all_there_is = named.keys() <= {images.format("train"), labels.format("train")}
        if len(found) == 2 or ("train" in found and is_all_there_is):
            return found
    for images, one in _ALONE:
        if named.keys() == {images, one}:
            return {"train": _Names(named[images], named[one])}
    if len(members) == 1:
        return {"train": _Names(next(iter(members.values())), None)}
    raise InputError(
        f"--dataset {path} must hold x_train and x_test, train and test, x and y, or one array, "
        f"but it holds {', '.join(sorted(members)) or 'nothing'}; "
        "numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...) names them so"
    )


def _array_of(loaded: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """Returns one array of an open ``.npz`` file.

    Raises:
      ValueError: if it is none, or one of Python objects.
    """
    try:
        array = loaded[name]
    except ValueError as error:
        raise ValueError(f"{name}: {first_line(error)}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is no array")
    return array


def _unpacked(archive: zipfile.ZipFile, path: Path, chosen: dict[str, _Names]) -> Splits:
    """Returns the arrays of an ``.npz`` file from the cache, unpacked where they are not yet."""
    digest = atomic.file_digest(path)[:32]
    used = [name for names in chosen.values() for name in names if name is not None]
    return cache.entry(
        f"npz-{digest}",
        write=lambda entry: _unpack(archive, used, entry),
        read=lambda entry: _read_unpacked(entry, chosen),
    )


def _unpack(archive: zipfile.ZipFile, used: Sequence[str], staging: Path) -> None:
    for name in used:
        with archive.open(name) as packed, open(staging / Path(name).name, "wb") as file:
            shutil.copyfileobj(packed, file, 2**20)


def _read_unpacked(entry: Path, chosen: dict[str, _Names]) -> Splits:
    return {
        split: (
            RowsFile(entry / Path(images).name),
            None if labels is None else np.load(entry / Path(labels).name),  # they are small
        )
        for split, (images, labels) in chosen.items()
    }
