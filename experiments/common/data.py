"""Data sets as arrays: pixels float32 in [0, 1], train and test, in a canonical order.

The order in which a data set is stored is an accident: TensorFlow Datasets shuffles on
writing, IDX files do not. Every split is therefore sorted by a digest of its examples, so
the same examples give the same arrays, and the same numbers for the same seed, wherever
they come from.
"""

import dataclasses
import functools
import hashlib
import math
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import pixels, whole
from experiments.common.errors import InputError, first_line, visible
from experiments.common.pixels import Pixels
from experiments.common.sources import cache, idx, tfds_source
from experiments.common.sources.rows_file import NotByRowsError, RowsFile

Images = Any  # an array, or Pixels
Split = tuple[Pixels, np.ndarray | None]
_LARGE = 2**26  # bytes of a file that is not read at once
_HOLD_OUT = 5  # where a data set has no test split, every fifth example is one
_MAX_EXPANDED = 2**30  # bytes of a .npz file, or 20 times its size: more is a decompression bomb


@dataclass(frozen=True)
class Dataset:
    """Images of a train and a test split.

    Attributes:
      name: what ``--dataset`` said in characters that can be seen, for titles and folder names.
      train: images ``(n, height, width, channels)``, float32 in [0, 1]: an array, or what gives
        its rows where they do not fit into memory.
      test: images of the same shape.
      train_labels: classes ``(n,)``, or None.
      test_labels: classes of the test images, or None.
      source: fingerprint of the whole data set that this is, or of which it is a part.
    """

    name: str
    train: Images
    test: Images
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    source: str = ""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape (height, width, channels) of one image."""
        return self.train.shape[1:]

    @property
    def num_features(self) -> int:
        """Number d of pixels of one image."""
        return math.prod(self.example_shape)

    @property
    def is_streamed(self) -> bool:
        """Whether the training images are read in pieces."""
        return isinstance(self.train, Pixels)

    @property
    def nbytes(self) -> int:
        """Bytes of all images, were they in memory."""
        return self.train.nbytes + self.test.nbytes

    def flat(self) -> tuple[Images, Images]:
        """Returns train and test images as rows ``(n, d)``."""
        as_rows = lambda x: x.flat() if isinstance(x, Pixels) else x.reshape(len(x), -1)
        return as_rows(self.train), as_rows(self.test)

    def head(self, train: int, test: int) -> "Dataset":
        """Returns the first ``train`` and ``test`` examples only, in memory."""
        cut = lambda labels, n: None if labels is None else labels[:n]
        return Dataset(
            self.name,
            self.train[:train],
            self.test[:test],
            cut(self.train_labels, train),
            cut(self.test_labels, test),
            self.source,
        )

    def one_of_each_class(self) -> np.ndarray:
        """Returns ten rows at most: the first test example of each class, or the first ones."""
        if self.test_labels is None:
            return np.arange(min(10, len(self.test)))
        return np.unique(self.test_labels, return_index=True)[1][:10]

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for images in (self.train, self.test):
            pixels.update(digest, images)
        for labels in (self.train_labels, self.test_labels):
            digest.update(b"none" if labels is None else np.ascontiguousarray(labels).tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Returns a SHA-256 of all pixels and labels, in order."""
        return self._digest


def load(
    dataset: str, data_dir: Path | None = None, *, has_room: Callable[[int], bool] = lambda _: True
) -> Dataset:
    """Returns a data set, in memory where it has room there.

    Args:
      dataset: ``"digits"`` (inside scikit-learn), the path of a ``.npy`` or ``.npz`` file, or
        the name of an image data set of TensorFlow Datasets.
      data_dir: for a name: a folder prepared by TensorFlow Datasets, or a folder of the four
        IDX files; None for the default folder of TensorFlow Datasets.
      has_room: says whether so many bytes of pixels can be in memory.

    Raises:
      InputError: if the data are not there, cannot be read, or are no images in [0, 1].
    """
    is_file = Path(dataset).suffix in (".npy", ".npz")
    if data_dir is not None and (is_file or dataset == "digits"):
        raise InputError(f"--data-dir is for named data sets; --dataset {dataset} needs none")
    name = Path(dataset).name if is_file else dataset
    if dataset == "digits":
        stored = {"train": _digits()}
    elif is_file:
        stored = _read_numpy(Path(dataset), has_room)
    else:
        stored = _read_named(dataset, data_dir)
    splits = {split: _canonical(dataset, split, *stored[split]) for split in stored}
    if "test" not in splits:
        splits = _hold_out(*splits["train"])
    train: Images
    test: Images
    (train, train_labels), (test, test_labels) = splits["train"], splits["test"]
    if train.shape[1:] != test.shape[1:]:
        raise InputError(
            f"--dataset {dataset}: train images are {train.shape[1:]}, but test {test.shape[1:]}"
        )
    if has_room(train.nbytes + test.nbytes):
        train, test = np.asarray(train), np.asarray(test)
    loaded = Dataset(visible(name), train, test, train_labels, test_labels)
    found = dataclasses.replace(loaded, source=loaded.fingerprint())
    vars(found)["_digest"] = found.source  # it takes a pass over all pixels
    return found


def _digits() -> tuple[np.ndarray, np.ndarray | None]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target


def _read_named(name: str, data_dir: Path | None) -> tfds_source.Splits:
    try:
        if data_dir is not None and data_dir.is_dir() and (files := idx.find(data_dir, name)):
            return {split: idx.read_split(paths) for split, paths in files.items()}
        splits = tfds_source.load(name, data_dir)
    except OSError as error:  # of a folder without permission, or a name that is too long
        raise InputError(f"--dataset {name} cannot be read: {error}") from error
    held_out = splits.get("test", splits.get("validation"))
    return {"train": splits["train"]} | ({} if held_out is None else {"test": held_out})


def _read_numpy(path: Path, has_room: Callable[[int], bool]) -> tfds_source.Splits:
    """Returns the splits of a user's own file.

    ``.npy``: images ``(n, d)``, ``(n, h, w)`` or ``(n, h, w, c)``. ``.npz``: ``x_train`` and
    ``x_test`` (and ``y_train``, ``y_test``), the same without ``x_``, or a single array.
    """
    try:
        arrays = _load_arrays(path, has_room)
    except FileNotFoundError:
        raise InputError(f"--dataset {path} does not exist") from None
    except Exception as error:  # damaged bytes raise what NumPy, zlib, zipfile, tokenize raise
        raise InputError(
            f"--dataset {path} cannot be read as {path.suffix}: {first_line(error)}"
        ) from error
    for prefix in ("x_", ""):
        if {f"{prefix}train", f"{prefix}test"} <= arrays.keys():
            return {
                split: (arrays[f"{prefix}{split}"], arrays.get(f"y_{split}"))
                for split in ("train", "test")
            }
    if len(arrays) == 1:
        return {"train": (next(iter(arrays.values())), None)}
    raise InputError(
        f"--dataset {path} must hold x_train and x_test, train and test, or one array, "
        f"but it holds {', '.join(sorted(arrays)) or 'nothing'}"
    )


def _load_arrays(path: Path, has_room: Callable[[int], bool]) -> dict[str, Any]:
    """Returns the arrays of a file by name; damaged files raise all kinds of exceptions.

    A large ``.npy`` stays where it is; the arrays of an ``.npz`` for which there is no room are
    unpacked into the cache first.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")  # opening a named pipe would wait forever
    is_large = path.stat().st_size > _LARGE
    if path.suffix == ".npy" and is_large:
        try:
            return {"": RowsFile(path)}
        except NotByRowsError:
            if not has_room(path.stat().st_size):
                raise
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        expanded = sum(member.file_size for member in loaded.zip.infolist())
        if expanded > max(_MAX_EXPANDED, 20 * path.stat().st_size):
            raise ValueError(f"it expands to {expanded} bytes; store so much with numpy.savez")
        if is_large and not has_room(4 * expanded):  # bytes become floats
            return _unpacked(loaded.zip, path)
        return {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}


def _unpacked(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """Returns the arrays of an ``.npz`` file from the cache, unpacked where they are not yet."""
    with open(path, "rb") as file:
        name = f"npz-{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"

    def unpack(staging: Path) -> None:
        for member in archive.infolist():
            name = Path(member.filename).name
            with archive.open(member) as packed, open(staging / name, "wb") as file:
                shutil.copyfileobj(packed, file, 2**20)

    with cache.turn() as folder:
        entry = folder / name
        if not entry.is_dir():
            whole.write_folder(entry, unpack)
    found = {file.stem: file for file in sorted(entry.glob("*.npy"))}
    opened = lambda name: np.load if name.startswith("y_") else RowsFile  # labels are small
    return {name: opened(name)(file) for name, file in found.items()}


def _hold_out(images: Pixels, labels: np.ndarray | None) -> dict[str, Split]:
    if len(images) < _HOLD_OUT:
        raise InputError(
            f"a data set without a test split needs at least {_HOLD_OUT} examples, "
            f"but it has {len(images)}"
        )
    is_test = np.arange(len(images)) % _HOLD_OUT == _HOLD_OUT - 1
    part = lambda mask: (images.subset(mask), None if labels is None else labels[mask])
    return {"train": part(~is_test), "test": part(is_test)}


def _canonical(dataset: str, split: str, images: np.ndarray, labels: np.ndarray | None) -> Split:
    """Returns images ``(n, h, w, c)``, and labels, sorted by content."""
    source, images = f"--dataset {dataset} ({split})", _with_channels(dataset, images)
    if labels is not None and labels.shape != (len(images),):
        raise InputError(f"{source} has {len(images)} images, but labels of shape {labels.shape}")
    if labels is not None and labels.dtype.kind not in "iub":
        raise InputError(f"{source} must have integer labels, but they are {labels.dtype}")
    sorted_images = pixels.canonical(source, images, labels)
    order = sorted_images.order
    return sorted_images, None if labels is None else np.asarray(labels, np.int64)[order]


def _with_channels(dataset: str, images: np.ndarray) -> np.ndarray:
    """Returns ``(n, h, w, c)``: rows of d become square pictures, or strips one pixel high."""
    if images.ndim not in (2, 3, 4) or 0 in images.shape:
        raise InputError(
            f"--dataset {dataset} must be images (n, d), (n, h, w) or (n, h, w, c) with n >= 1, "
            f"but its shape is {images.shape}"
        )
    if images.ndim == 2:
        n, d = images.shape
        side = math.isqrt(d)
        images = images.reshape(n, *((side, side) if side * side == d else (1, d)))
    return images.reshape(*images.shape, 1) if images.ndim == 3 else images
