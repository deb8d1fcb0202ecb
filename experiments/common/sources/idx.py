"""The IDX files of MNIST and its relatives: finding the four, and reading one safely.

An IDX file is a magic number (two zero bytes, a type, the number of axes), the sizes as
big-endian 32-bit integers, and the bytes; it may be gzipped. Only unsigned bytes (type 8)
are read. Format: http://yann.lecun.com/exdb/mnist, section "file formats".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.errors import InputError

_UNSIGNED_BYTE = 8
_MAX_BYTES = 2**28  # five times the pixels of MNIST; a header is not believed beyond this

# The data sets that come as these four files, and their folders in torchvision.
RELATIVES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_SPLITS = {"train": "train", "test": "t10k"}


class IdxFiles(NamedTuple):
    """Paths of images and labels of one split."""

    images: Path
    labels: Path


def find(folder: Path, name: str) -> dict[str, IdxFiles] | None:
    """Returns the IDX files of data set ``name`` below ``folder``, or None if there are none.

    The four files of all relatives of MNIST have the same names, so they are believed to be
    of the one that was asked for, and of no other data set.

    Raises:
      InputError: if some of the four are there and others are missing.
    """
    if name not in RELATIVES:
        return None
    for place in (folder, folder / "raw", folder / RELATIVES[name] / "raw", folder / name):
        found = {
            f"{stem}-{kind}": _existing(place, f"{stem}-{kind}")
            for stem in _SPLITS.values()
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        }
        if missing := [stem for stem, path in found.items() if path is None]:
            if len(missing) < len(found):
                raise InputError(
                    f"{place} holds some IDX files, but not {', '.join(missing)} "
                    "(plain or with .gz); put all four there"
                )
            continue
        paths = {stem: path for stem, path in found.items() if path is not None}
        return {
            split: IdxFiles(paths[f"{stem}-images-idx3-ubyte"], paths[f"{stem}-labels-idx1-ubyte"])
            for split, stem in _SPLITS.items()
        }
    return None


def read_split(files: IdxFiles) -> tuple[np.ndarray, np.ndarray]:
    """Returns images ``(n, height, width)`` and labels ``(n,)`` of one split, uint8."""
    images, labels = read(files.images, ndim=3), read(files.labels, ndim=1)
    if len(images) != len(labels):
        raise InputError(
            f"{files.images} holds {len(images)} images, but {files.labels} {len(labels)} labels"
        )
    return images, labels


def read(path: Path, *, ndim: int) -> np.ndarray:
    """Returns the array of one IDX file of unsigned bytes, gzipped or not.

    Raises:
      InputError: if the file cannot be read, is truncated, has bytes left over, or its
        magic number is not that of unsigned bytes with ``ndim`` axes.
    """
    header_size = 4 + 4 * ndim
    try:
        with open(path, "rb") as probe:
            is_gzip = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if is_gzip else open(path, "rb") as file:
            header = file.read(header_size)
            shape = _parse_header(path, header, ndim)
            size = math.prod(shape)
            if not 0 < size <= _MAX_BYTES:
                raise InputError(
                    f"{path} has the sizes {list(shape)}, but there must be 1 to {_MAX_BYTES} bytes"
                )
            body = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}; is it damaged or truncated?") from error
    if len(body) != size:
        more = "more" if len(body) > size else "only"
        raise InputError(
            f"{path} should hold {size} bytes for its sizes {list(shape)}, "
            f"but there are {more}{f' {len(body)}' if more == 'only' else ''}; "
            "is it damaged or truncated?"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _parse_header(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    wanted = bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if header[:4] != wanted:
        raise InputError(
            f"{path} has the magic number 0x{header[:4].hex()}, but an IDX file of unsigned bytes "
            f"with {ndim} axes starts with 0x{wanted.hex()}"
        )
    if len(header) < 4 + 4 * ndim:
        raise InputError(f"{path} ends within its header; is it damaged or truncated?")
    return struct.unpack(f">{ndim}I", header[4:])


def _existing(folder: Path, stem: str) -> Path | None:
    # Some distributions spell the name with a dot: train-images.idx3-ubyte.
    head, _, tail = stem.rpartition("-idx")
    for name in (stem, f"{stem}.gz", f"{head}.idx{tail}", f"{head}.idx{tail}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None
