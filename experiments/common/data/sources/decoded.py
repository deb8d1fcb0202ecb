"""Decoded images, kept in the cache as plain arrays and read from there from then on.

Decoding 60,000 PNGs takes seconds. The arrays of a data set lie in a folder that is named after
the content of the files from which they were decoded, so other content is decoded anew.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.data.sources import cache
from experiments.common.data.sources.rows_file import RowsFile, Stored
from experiments.common.errors import InputError
from experiments.common.files import atomic

_CACHE_VERSION = "4"
# Images are an array, or what is indexed like one.
Splits = dict[str, tuple[Stored, np.ndarray | None]]


class Decoded(NamedTuple):
    """A split that is being decoded.

    Attributes:
      examples: how many it has.
      rows: yields their images and labels, one by one.
      has_labels: whether the labels mean anything.
    """

    examples: int
    rows: Iterator[tuple[np.ndarray, int]]
    has_labels: bool


Decode = Callable[[str], Decoded]


def load(files: Mapping[str, Sequence[Path]], decode: Decode, reading: str = "") -> Splits:
    """Returns decoded splits, from the cache if the same content was decoded before.

    Args:
      files: the files of each split.
      decode: returns a split by its name, to be decoded.
      reading: what else decides the result, such as the labels of the files.

    Raises:
      InputError: from ``decode``, or if a split is empty.
    """
    digest = hashlib.sha256(_CACHE_VERSION.encode() + os.fsencode(reading))
    for path in (path for paths in files.values() for path in paths):
        digest.update(os.fsencode(path.name) + bytes.fromhex(atomic.file_digest(path)))
    wanted = sorted(files)
    return cache.entry(
        digest.hexdigest()[:32],
        write=lambda entry: _write_entry(entry, wanted, decode),
        read=lambda entry: _read_entry(entry, wanted),
    )


def _read_entry(entry: Path, wanted: list[str]) -> Splits:
    index = json.loads((entry / "index.json").read_text())
    if sorted(index) != wanted:
        raise ValueError(f"index.json has not the splits {wanted}")
    splits: Splits = {}
    for split, digests in index.items():
        arrays: dict[str, Any] = {}
        for part, digest in digests.items():
            path = entry / f"{split}_{part}.npy"
            if atomic.file_digest(path) != digest:
                raise ValueError(f"{path} is damaged")
            arrays[part] = RowsFile(path) if part == "images" else np.load(path)
        splits[split] = arrays["images"], arrays.get("labels")
    return splits


def _write_entry(staging: Path, splits: Sequence[str], decode: Decode) -> None:
    """Writes the arrays of all splits; images go to the disk as they are decoded."""
    index: dict[str, dict[str, str]] = {}
    for split in splits:
        decoded = decode(split)
        if not decoded.examples:
            raise InputError(f"--dataset has no examples in its split {split}")
        path = staging / f"{split}_images.npy"
        labels = _write_images(path, decoded)
        index[split] = {"images": atomic.file_digest(path)}
        if decoded.has_labels:
            path = staging / f"{split}_labels.npy"
            np.save(path, labels, allow_pickle=False)
            index[split]["labels"] = atomic.file_digest(path)
    (staging / "index.json").write_text(json.dumps(index))


def _write_images(path: Path, decoded: Decoded) -> np.ndarray:
    """Writes images as one array, and returns their labels."""
    labels = np.zeros(decoded.examples, np.int64)
    with open(path, "wb") as file:
        for row, (image, label) in enumerate(decoded.rows):
            if row == 0:
                header = {"descr": image.dtype.str, "fortran_order": False}
                header["shape"] = (decoded.examples, *image.shape)
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(image).data)
            if row < decoded.examples:  # more are an error at the end
                labels[row] = label
    return labels
