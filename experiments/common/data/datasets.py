"""Data sets as arrays: pixels float32 in [0, 1], train and test, in a canonical order.

The order in which a data set is stored is an accident: TensorFlow Datasets shuffles on
writing, IDX files do not. Every split is therefore sorted by a digest of its examples, so
the same examples give the same arrays, and the same numbers for the same seed, wherever
they come from.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from experiments.common.data import pixels
from experiments.common.data.pixels import Pixels
from experiments.common.data.sources import array_file, csv_file, idx, image_folder, tfds_source
from experiments.common.data.sources.decoded import Splits
from experiments.common.data.sources.paths import expand, tfds_folder
from experiments.common.data.sources.rows_file import Stored
from experiments.common.errors import InputError, visible

Images: TypeAlias = Any  # an array, or Pixels
Split = tuple[Pixels, np.ndarray | None]
_FILES = (".npy", ".npz", ".csv")
_DIGITS = Path("datasets", "data", "digits.csv.gz")  # in the folder of scikit-learn
_HOLD_OUT = 5  # where a data set has no test split, every fifth example is one


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
        return _as_rows(self.train), _as_rows(self.test)

    def head(self, train: int, test: int) -> "Dataset":
        """Returns the first ``train`` and ``test`` examples only, in memory."""
        labels, test_labels = self.train_labels, self.test_labels
        return Dataset(
            self.name,
            self.train[:train],
            self.test[:test],
            None if labels is None else labels[:train],
            None if test_labels is None else test_labels[:test],
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
      dataset: ``"digits"`` (inside scikit-learn), the path of a ``.npy``, ``.npz`` or ``.csv``
        file or of a folder of images, or the name of an image data set of TensorFlow Datasets.
      data_dir: for a name: a folder prepared by TensorFlow Datasets, or a folder of the four
        IDX files; None for the default folder of TensorFlow Datasets, $TFDS_DATA_DIR or
        ``~/tensorflow_datasets``.
      has_room: says whether so many bytes of pixels can be in memory.

    Raises:
      InputError: if the data are not there, cannot be read, or are no images in [0, 1].
    """
    name, stored = _read(dataset, data_dir, has_room)
    splits = {split: _canonical(dataset, split, *stored[split]) for split in stored}
    if "test" not in splits:
        splits = _hold_out(dataset, *splits["train"])
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


def _read(
    dataset: str, data_dir: Path | None, has_room: Callable[[int], bool]
) -> tuple[str, Splits]:
    """Returns the name of a data set and its splits as they are stored."""
    path = _path_of(dataset)
    if data_dir is not None and (path is not None or dataset == "digits"):
        raise InputError(f"--data-dir is for named data sets; --dataset {dataset} needs none")
    if dataset == "digits":
        return dataset, {"train": _digits()}
    try:
        if path is None:
            folder = None if data_dir is None else expand(data_dir, "--data-dir")
            return _read_named(dataset, folder)
        name = path.name if path.name not in ("", "..") else path.resolve().name
        return name, _read_path(path, has_room)
    except OSError as error:  # of a folder without permission, or a name that is too long
        raise InputError(f"--dataset {dataset} cannot be read: {error}") from error


def _path_of(dataset: str) -> Path | None:
    """Returns the file or the folder that is meant, or None where it is a name."""
    if Path(dataset).suffix.lower() in _FILES:
        return expand(dataset, "--dataset")
    if not dataset.strip() or dataset == "digits":
        return None
    path = expand(dataset, "--dataset")
    # A folder mnist that happens to be here is ./mnist; the data set has the shorter name.
    return path if os.path.exists(path) and tfds_source.find_name(dataset) is None else None


def _read_path(path: Path, has_room: Callable[[int], bool]) -> Splits:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return csv_file.load(path)
    if suffix in _FILES:
        return array_file.load(path, has_room)
    if not path.is_dir():
        raise InputError(
            f"--dataset {path} is a file, but of files only .npy, .npz and .csv are read; unpack "
            "an archive first; the folder of IDX files is for --data-dir, with --dataset mnist"
        )
    return image_folder.load(path)


def _digits() -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the images ``(1797, 8, 8)`` of scikit-learn's digits, in [0, 1], and their labels."""
    package = importlib.util.find_spec("sklearn")
    # To import scikit-learn takes two seconds, to read its file a tenth of one.
    file = Path(package.origin or "").parent / _DIGITS if package is not None else None
    if file is not None and file.is_file():
        table = np.loadtxt(file, delimiter=",")
        images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    else:
        from sklearn.datasets import load_digits

        images, labels = load_digits().images, load_digits().target
    return (images / 16).astype(np.float32), labels


def _read_named(dataset: str, data_dir: Path | None) -> tuple[str, Splits]:
    name = tfds_source.find_name(dataset)
    if name is None:
        raise tfds_source.unknown(dataset)
    root = data_dir or tfds_folder()
    if not name.config and root.is_dir() and (files := idx.find(root, name.name)):
        return str(name), {split: idx.read_split(pair) for split, pair in files.items()}
    splits = tfds_source.load(name, data_dir)
    held_out = splits.get("test", splits.get("validation"))
    return str(name), {"train": splits["train"]} | ({} if held_out is None else {"test": held_out})


def _hold_out(dataset: str, images: Pixels, labels: np.ndarray | None) -> dict[str, Split]:
    if len(images) < _HOLD_OUT:
        raise InputError(
            f"--dataset {dataset} has no test split, and needs at least {_HOLD_OUT} examples, "
            f"but it has {len(images)}"
        )
    is_test = np.arange(len(images)) % _HOLD_OUT == _HOLD_OUT - 1
    return {
        split: (images.subset(rows), None if labels is None else labels[rows])
        for split, rows in (("train", ~is_test), ("test", is_test))
    }


def _canonical(dataset: str, split: str, images: Stored, labels: np.ndarray | None) -> Split:
    """Returns images ``(n, h, w, c)``, and labels, sorted by content."""
    source = f"--dataset {dataset} ({split})"
    images = _with_channels(source, images)
    classes = None if labels is None else _classes_of(source, labels, len(images))
    sorted_images = pixels.canonical(source, images, classes)
    return sorted_images, None if classes is None else classes[sorted_images.order]


def _classes_of(source: str, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns labels as whole numbers ``(n,)``: those of ``(n, 1)``, and those stored as floats."""
    if labels.shape not in ((count,), (count, 1)):
        is_one_hot = labels.ndim == 2 and len(labels) == count
        hint = "; numpy.argmax(y, axis=1) makes classes of one-hot rows" if is_one_hot else ""
        raise InputError(f"{source} has {count} images, but labels of shape {labels.shape}{hint}")
    labels = labels.reshape(count)
    if labels.dtype.kind not in "iubf":
        raise InputError(
            f"{source} must have integer labels, but they are {labels.dtype}; "
            "numpy.unique(y, return_inverse=True)[1] numbers any classes"
        )
    with np.errstate(invalid="ignore"):  # of NaN and of what is too large, which are refused
        classes = labels.astype(np.int64)
        bad = np.flatnonzero((classes != labels) | (np.abs(labels.astype(np.float64)) >= 2.0**63))
    if len(bad):
        raise InputError(
            f"{source} must have integer labels, but they are {labels.dtype} and one is "
            f"{labels[bad[0]]}"
        )
    return classes


def _as_rows(images: Images) -> Images:
    return images.flat() if isinstance(images, Pixels) else images.reshape(len(images), -1)


def _with_channels(source: str, images: Stored) -> Stored:
    """Returns ``(n, h, w, c)``: rows of d become square pictures, or strips one pixel high."""
    if images.ndim not in (2, 3, 4) or 0 in images.shape:
        raise InputError(
            f"{source} must be images (n, d), (n, h, w) or (n, h, w, c) with n >= 1, "
            f"but its shape is {images.shape}"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3, 4) and images.shape[3] > 4:
        raise InputError(
            f"{source} must be images (n, h, w, c), but its shape {images.shape} has the channels "
            "first; np.moveaxis(x, 1, -1) puts them last"
        )
    height, width = images.shape[0], images.shape[-1]
    if (
        images.ndim > 2 and images.shape[1] == height and width > 4 * height
    ):  # as MATLAB stores them
        raise InputError(
            f"{source} must be images (n, h, w) or (n, h, w, c), but its shape {images.shape} has "
            "the examples last; np.moveaxis(x, -1, 0) puts them first"
        )
    if images.ndim == 2:
        n, d = images.shape
        side = math.isqrt(d)
        images = images.reshape(n, *((side, side) if side * side == d else (1, d)))
    return images.reshape(*images.shape, 1) if images.ndim == 3 else images
