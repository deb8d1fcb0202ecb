"""The IDX files of MNIST and its relatives: finding the four, and reading one safely.

An IDX file is a magic number (two zero bytes, a type, the number of axes), the sizes as
big-endian 32-bit integers, and the bytes; it may be gzipped. Only unsigned bytes (type 8)
are read. Format: http://yann.lecun.com/exdb/mnist, section "file formats".
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.data.sources import contents
from experiments.common.errors import InputError

_UNSIGNED_BYTE = 8
_MAX_BYTES = 2**28  # five times the pixels of MNIST; a header is not believed beyond this

# The data sets that come as these four files, and their folders in torchvision.
RELATIVES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_SPLITS = {"train": "train", "test": "t10k"}
_STEMS = [
    f"{split}-{kind}"
    for split in _SPLITS.values()
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
]
_FILE = re.compile(
    r"(?P<stem>(train|t10k)-(images|labels))(?P<dot>[-.])idx(?P<kind>[13])[-.]ubyte"
    r"(?P<copy> ?\(\d+\)| \d+| copy)?(?P<gzip>\.gz)?(?P<again>\.\d+)?",
    re.IGNORECASE,
)


class IdxFiles(NamedTuple):
    """Paths of images and labels of one split."""

    images: Path
    labels: Path


def find(folder: Path, name: str) -> dict[str, IdxFiles] | None:
    """Returns the IDX files of data set ``name`` below ``folder``, or None if there are none.

    The four files of all relatives of MNIST have the same names, so they are believed to be
    of the one that was asked for, and of no other data set.

    Raises:
      InputError: if some of the four are there and others are missing, or it is not clear which
        of several copies are meant.
    """
    if name not in RELATIVES:
        return None
    for place in _places(folder, name):
        found = _candidates(place)
        missing = [stem for stem in _STEMS if not found[stem]]
        if len(missing) == len(_STEMS):
            continue
        if missing:
            raise InputError(
                f"{place} holds some IDX files, but not {', '.join(missing)} "
                "(plain or with .gz); put all four there"
            )
        paths = _one_of(place, found)
        return {
            split: IdxFiles(paths[f"{stem}-images-idx3-ubyte"], paths[f"{stem}-labels-idx1-ubyte"])
            for split, stem in _SPLITS.items()
        }
    return None


def are_in(folder: Path) -> bool:
    """Returns whether there are files in a folder that have the name of an IDX file."""
    return any(_candidates(folder).values())


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
            start = file.read(contents.START)  # more than any header
            file.seek(0)
            header = file.read(header_size)
            _require_magic(path, start, ndim)
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


def _require_magic(path: Path, start: bytes, ndim: int) -> None:
    wanted = bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if start[:4] != wanted:
        kind = contents.describe(start)
        raise InputError(
            f"{path} has the magic number 0x{start[:4].hex()}, but an IDX file of unsigned bytes "
            f"with {ndim} axes starts with 0x{wanted.hex()}{f'; it is {kind}' if kind else ''}"
        )


def _parse_header(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    if len(header) < 4 + 4 * ndim:
        raise InputError(f"{path} ends within its header; is it damaged or truncated?")
    return struct.unpack(f">{ndim}I", header[4:])


def _places(folder: Path, name: str) -> list[Path]:
    """Returns where the files are looked for: also where torchvision puts them."""
    own = {RELATIVES[name].lower(), name}
    children = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    of_its_name = [path for path in children if path.name.lower().replace("-", "_") in own]
    raw = [path for path in (folder, *of_its_name) for path in path.glob("[rR][aA][wW]")]
    return [folder, *of_its_name, *raw]


class _Candidate(NamedTuple):
    """A file that may be one of the four; the least is the best one."""

    copy: str  # what a browser adds to the name of a second download
    is_nested: bool  # in a folder of its own name
    has_dot: bool  # some distributions write train-images.idx3-ubyte
    is_gzip: bool
    path: Path


def _candidates(place: Path) -> dict[str, list[_Candidate]]:
    """Returns the files for each of the four names, the best first."""
    found: dict[str, list[_Candidate]] = {stem: [] for stem in _STEMS}
    if not place.is_dir():
        return found
    for entry in sorted(place.iterdir()):
        if not (named := _FILE.fullmatch(entry.name)):
            continue
        # Kaggle puts every file into a folder of its own name.
        for path in [entry] if entry.is_file() else sorted(entry.iterdir()):
            inner = _FILE.fullmatch(path.name)
            if not inner or inner["stem"].lower() != named["stem"].lower() or not path.is_file():
                continue
            stem = f"{inner['stem']}-idx{inner['kind']}-ubyte".lower()
            if stem not in found:
                continue
            copy = (named["copy"] or named["again"] or "").strip()
            has_dot = inner["dot"] == "."
            rank = _Candidate(copy, path != entry, has_dot, bool(inner["gzip"]), path)
            found[stem].append(rank)
    return {stem: sorted(candidates) for stem, candidates in found.items()}


def _one_of(place: Path, found: dict[str, list[_Candidate]]) -> dict[str, Path]:
    """Returns the four files: the originals, or the only copies that there are.

    Raises:
      InputError: if one is there only as a copy and another twice, since a second download of
        that name may be of another data set.
    """
    if any(candidates[0].copy for candidates in found.values()):
        for candidates in found.values():
            if len({candidate.copy for candidate in candidates}) > 1:
                names = " and ".join(candidate.path.name for candidate in candidates)
                raise InputError(f"{place} holds {names}; leave only the one that is meant there")
    return {stem: candidates[0].path for stem, candidates in found.items()}
