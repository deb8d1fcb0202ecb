"""Data: digits, user files, IDX files, TensorFlow Datasets; canonical order; bad files."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import importlib.util
import json
import pickle
import re
import shlex
import shutil
import struct
import sys
import threading
import warnings
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import PIL.Image
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from idx_files import idx_bytes, random_split, write_four

from experiments.common.data import datasets
from experiments.common.data.sources import array_file, folders, idx, tfds_prepare, tfds_source
from experiments.common.data.sources.names import Name
from experiments.common.data.sources.rows_file import RowsFile
from experiments.common.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_mnist = pytest.mark.skipif(
    not (SHARED / "idx").is_dir() or not (SHARED / "tfds").is_dir(),
    reason="the real MNIST is not beside the repository (../shared/data)",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))


def rows(images):
    return {image.tobytes() for image in images}


# digits and user files


def test_digits_are_the_real_ones(monkeypatch):
    digits = datasets.load("digits")
    assert digits.train.shape == (1438, 8, 8, 1)
    assert digits.test.shape == (359, 8, 8, 1)
    for images in (digits.train, digits.test):
        assert images.dtype == np.float32
        assert images.min() == 0
        assert images.max() == 1
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(10))
    from sklearn.datasets import load_digits

    stored = (load_digits().images / 16).astype(np.float32)
    assert rows(digits.train) | rows(digits.test) == rows(stored)
    monkeypatch.setattr(datasets, "_DIGITS", "a file that is not there")
    by_sklearn = datasets.load("digits")
    assert by_sklearn.fingerprint() == digits.fingerprint()
    np.testing.assert_array_equal(by_sklearn.test_labels, digits.test_labels)
    assert by_sklearn.test_labels.dtype == digits.test_labels.dtype
    assert digits.test_labels[digits.one_of_each_class()].tolist() == list(range(10))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((20, 9), (3, 3, 1)),
        ((20, 7), (1, 7, 1)),
        ((20, 4, 5), (4, 5, 1)),
        ((20, 4, 5, 3), (4, 5, 3)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "bool"])
def test_npy_of_any_shape_and_dtype(tmp_path, shape, expected, dtype):
    values = np.random.default_rng(0).integers(0, 2, shape)
    array = values.astype(dtype) * (np.uint8(255) if dtype == "uint8" else 1)
    np.save(tmp_path / "mine.npy", array.astype(dtype))
    mine = datasets.load(str(tmp_path / "mine.npy"))
    assert mine.name == "mine.npy"  # not "mine": a file digits.npy is not the data set digits
    assert mine.example_shape == expected
    assert mine.num_features == np.prod(expected)
    assert (len(mine.train), len(mine.test)) == (16, 4)
    assert mine.train.dtype == np.float32
    assert set(np.unique(mine.train)) == {0.0, 1.0}
    flat_train, flat_test = mine.flat()
    assert flat_train.shape == (16, mine.num_features)
    assert flat_test.shape == (4, mine.num_features)


@pytest.mark.parametrize("prefix", ["x_", ""])
def test_npz_with_splits_and_labels(tmp_path, prefix):
    x = np.random.default_rng(0).uniform(size=(9, 4, 4)).astype(np.float32)
    y = np.arange(9)
    arrays = {f"{prefix}train": x[:6], f"{prefix}test": x[6:], "y_train": y[:6], "y_test": y[6:]}
    np.savez(tmp_path / "mine.npz", **arrays)
    mine = datasets.load(str(tmp_path / "mine.npz"))
    for image, label in zip(mine.train[..., 0], mine.train_labels, strict=True):
        np.testing.assert_array_equal(image, x[label])
    assert sorted(mine.test_labels) == [6, 7, 8]


def test_order_of_storage_does_not_matter(tmp_path):
    images, labels = random_split(30, 3)
    order = np.random.default_rng(1).permutation(30)
    for name, pick in (("a", slice(None)), ("b", order)):
        np.savez(
            tmp_path / f"{name}.npz",
            x_train=images[pick],
            x_test=images[pick][:8],
            y_train=labels[pick],
            y_test=labels[pick][:8],
        )
        np.save(tmp_path / f"{name}.npy", images[pick])
    a, b = (datasets.load(str(tmp_path / f"{name}.npz")) for name in "ab")
    np.testing.assert_array_equal(a.train, b.train)
    np.testing.assert_array_equal(a.train_labels, b.train_labels)
    a, b = (datasets.load(str(tmp_path / f"{name}.npy")) for name in "ab")
    assert a.fingerprint() == b.fingerprint()  # the hold-out does not depend on it either
    assert not rows(a.train) & rows(a.test)


def test_the_canonical_order_is_no_order_of_the_pixels(tmp_path):
    # Sorting by brightness would make batches of equal images; a digest does not.
    ramp = np.linspace(0, 1, 400, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    np.save(tmp_path / "ramp.npy", ramp)
    brightness = datasets.load(str(tmp_path / "ramp.npy")).train.mean((1, 2, 3))
    assert abs(np.corrcoef(brightness, np.arange(len(brightness)))[0, 1]) < 0.2


def npz(path, **arrays):
    np.savez(path, **arrays)
    return datasets.load(str(path))


X, Y = random_split(20, 4)
LABELS = {
    "a column": (Y[:, None], Y),
    "whole floats": (Y.astype(np.float32), Y),
    "big-endian": (Y.astype(">i4"), Y),
    "yes or no": (Y > 4, Y > 4),
    "negative": (Y - np.int64(5), Y - np.int64(5)),
    "large": (Y * np.int64(9e9), Y * np.int64(9e9)),
}


@pytest.mark.parametrize(("given_as", "expected"), LABELS.values(), ids=LABELS)
def test_whole_numbers_of_any_kind_are_labels(given_as, expected, tmp_path):
    found = npz(tmp_path / "a.npz", x_train=X, x_test=X, y_train=given_as, y_test=given_as)
    plain = {"y_train": expected.astype(np.int64), "y_test": expected.astype(np.int64)}
    same = npz(tmp_path / "b.npz", x_train=X, x_test=X, **plain)
    assert found.train_labels.dtype == np.int64
    assert set(found.train_labels) == set(expected.tolist())
    assert found.fingerprint() == same.fingerprint()
    ones = found.test_labels[found.one_of_each_class()]
    assert ones.tolist() == sorted(set(expected.tolist()))


SPELLINGS = {
    "capitals": {"X_Train": X, "X_Test": X[:5], "Y_Train": Y, "Y_Test": Y[:5]},
    "MedMNIST": {
        "train_images": X,
        "test_images": X[:5],
        "train_labels": Y[:, None],
        "test_labels": Y[:5, None],
    },
    "more than is needed": {
        "x_train": X,
        "x_test": X[:5],
        "y_train": Y,
        "y_test": Y[:5],
        "x_val": X[:3],
        "about": np.array([{}], object),
    },
    "train_x": {"train_x": X, "test_x": X[:5], "train_y": Y, "test_y": Y[:5]},
    "train_data": {"train_data": X, "test_data": X[:5], "train_labels": Y, "test_labels": Y[:5]},
}


@pytest.mark.parametrize("arrays", SPELLINGS.values(), ids=SPELLINGS)
def test_other_names_in_an_npz(arrays, tmp_path):
    plain = npz(tmp_path / "b.npz", x_train=X, x_test=X[:5], y_train=Y, y_test=Y[:5])
    assert npz(tmp_path / "a.npz", **arrays).fingerprint() == plain.fingerprint()


def test_an_npz_of_a_train_split_alone_is_divided(tmp_path):
    np.save(tmp_path / "x.npy", X)
    plain = datasets.load(str(tmp_path / "x.npy"))
    found = npz(tmp_path / "x.npz", x_train=X, y_train=Y)
    np.testing.assert_array_equal(found.train, plain.train)
    assert (len(found.train_labels), len(found.test_labels)) == (16, 4)


@pytest.mark.parametrize("names", ["x y", "X Y", "images labels", "data target", "features labels"])
def test_an_npz_of_images_and_labels_is_divided(names, tmp_path):
    plain = npz(tmp_path / "plain.npz", x_train=X, y_train=Y)
    images, labels = names.split()
    assert npz(tmp_path / "x.npz", **{images: X, labels: Y}).fingerprint() == plain.fingerprint()


def test_a_split_may_lack_its_labels(tmp_path):
    found = npz(tmp_path / "x.npz", x_train=X, x_test=X, y_train=Y)
    assert found.train_labels is not None
    assert found.test_labels is None


def test_suffixes_in_capitals_and_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", X)
    expected = datasets.load("~/x.npy").fingerprint()
    for old, new in (("x.npy", "my x.NPY"), ("x.npz", "X.Npz")):
        (tmp_path / old).rename(tmp_path / new)
        found = datasets.load(f"~/{new}")
        assert (found.name, found.fingerprint()) == (new, expected)
    assert datasets.load(f"{tmp_path}/my x.NPY/").fingerprint() == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_rounding_errors_of_pixels_are_clipped(dtype, tmp_path):
    step = np.finfo(np.float16 if dtype == "float16" else np.float32).eps
    exact = np.linspace(0, 1, 80).reshape(20, 2, 2).astype(dtype)
    rounded = np.where(exact == 1, exact + step, np.where(exact == 0, -step, exact)).astype(dtype)
    assert rounded.max() > 1
    for name, array in (("exact", exact), ("rounded", rounded)):
        np.save(tmp_path / f"{name}.npy", array)
    found = [datasets.load(str(tmp_path / f"{name}.npy")) for name in ("exact", "rounded")]
    assert found[0].fingerprint() == found[1].fingerprint()
    streamed = datasets.load(str(tmp_path / "rounded.npy"), has_room=lambda _: False)
    for images, flat in zip((streamed.train, streamed.test), streamed.flat(), strict=True):
        assert np.asarray(images).max() <= 1
        assert flat[:].min() >= 0
    assert streamed.fingerprint() == found[0].fingerprint()


# IDX files


@examples(60)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3)), st.booleans())
def test_idx_round_trip(tmp_path_factory, array, compress):
    path = tmp_path_factory.mktemp("idx") / "file"
    encoded = idx_bytes(array)
    path.write_bytes(gzip.compress(encoded) if compress else encoded)
    np.testing.assert_array_equal(idx.read(path, ndim=array.ndim), array)


@examples(300)
@given(st.binary(max_size=60), st.integers(1, 3))
def test_idx_reader_survives_any_bytes(tmp_path_factory, content, ndim):
    path = tmp_path_factory.getbasetemp() / "any-bytes"
    for raw in (content, bytes((0, 0, 8, ndim)) + content, gzip.compress(content)[: len(content)]):
        path.write_bytes(raw)
        with contextlib.suppress(InputError):
            assert idx.read(path, ndim=ndim).size <= 60


@pytest.mark.parametrize("layout", [".", "raw", "MNIST/raw", "mnist"])
@pytest.mark.parametrize("compress", [True, False])
def test_idx_folders_of_every_layout(tmp_path, layout, compress):
    splits = write_four(tmp_path / layout, compress=compress)
    loaded = datasets.load("mnist", tmp_path)
    for stem, images in (("train", loaded.train), ("t10k", loaded.test)):
        expected = splits[stem][0].astype(np.float32)[..., None] / np.float32(255)
        assert rows(images) == rows(expected)
    assert loaded.train.shape == (12, 28, 28, 1)


@pytest.mark.parametrize("layout", [".", "MNIST/raw"])
def test_idx_files_in_the_default_folder(layout, tmp_path, monkeypatch):
    write_four(tmp_path / layout, compress=True)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    expected = datasets.load("mnist", tmp_path).fingerprint()
    assert datasets.load("mnist").fingerprint() == expected


def test_idx_names_with_a_dot_and_relatives_of_mnist(tmp_path):
    write_four(tmp_path / "FashionMNIST" / "raw", compress=False)
    for path in (tmp_path / "FashionMNIST" / "raw").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(datasets.load("fashion_mnist", tmp_path).test) == 5


def in_folders(path):
    """Puts a file into a folder of its own name, as Kaggle does."""
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(content)


RENAMED = {
    "a folder each": in_folders,
    "capitals": lambda path: path.rename(path.with_name(path.name.upper())),
    "second downloads": lambda path: path.rename(path.with_name(f"{path.name} (1)")),
    "by wget": lambda path: path.rename(path.with_name(f"{path.name}.1")),
}


@pytest.mark.parametrize("rename", RENAMED.values(), ids=RENAMED)
def test_idx_files_under_other_names(rename, tmp_path):
    write_four(tmp_path, compress=False)
    expected = datasets.load("mnist", tmp_path).fingerprint()
    for path in list(tmp_path.glob("*ubyte")):
        rename(path)
    assert datasets.load("mnist", tmp_path).fingerprint() == expected


def test_a_second_download_is_not_mistaken_for_the_first(tmp_path):
    write_four(tmp_path)
    expected = datasets.load("mnist", tmp_path).fingerprint()
    for path in list(tmp_path.glob("*.gz")):  # the same names, of FashionMNIST perhaps
        other = path.with_name(path.name.replace(".gz", " (1).gz"))
        other.write_bytes(gzip.compress(b"of another data set"))
    assert datasets.load("mnist", tmp_path).fingerprint() == expected
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"ubyte.gz and .*ubyte \(1\).gz; leave only the one"):
        datasets.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("MNIST", "mnist"),
        ("mnist:3.0.1", "mnist:3.0.1"),
        ("FashionMNIST", "fashion_mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("Fashion MNIST", "fashion_mnist"),
        ("KMNIST", "kmnist"),
    ],
)
def test_names_in_any_spelling(typed, name, tmp_path):
    write_four(tmp_path)
    found = datasets.load(typed, tmp_path)
    assert found.name == name
    assert found.fingerprint() == datasets.load("mnist", tmp_path).fingerprint()


def test_names_of_tensorflow_datasets_in_any_spelling():
    spellings = {
        "CIFAR-10": "cifar10",
        "Emnist/letters": "emnist/letters",
        "SVHNCropped:3.1.0": "svhn_cropped:3.1.0",
    }
    for typed, name in spellings.items():
        assert str(tfds_source.find_name(typed)) == name
    for unknown in ("", "-", "mnist:3", "mnist/", "m/n/i", "no such name"):
        assert tfds_source.find_name(unknown) is None


GOOD = idx_bytes(np.zeros((2, 3, 3), np.uint8))
BAD_IDX = {
    "empty": (b"", "has the magic number 0x,"),
    "text": (b"hello, this is no IDX file", "has the magic number 0x68656c6c, but an IDX file"),
    "labels instead of images": (idx_bytes(np.zeros(9, np.uint8)), "starts with 0x00000803"),
    "floats": (bytes((0, 0, 13, 3)) + GOOD[4:], "magic number 0x00000d03"),
    "ends in the header": (GOOD[:9], "ends within its header"),
    "truncated": (GOOD[:-1], r"should hold 18 bytes for its sizes \[2, 3, 3\], but there are only"),
    "bytes left over": (GOOD + b"x", "but there are more"),
    "huge sizes": (
        struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        "must be 1 to 268435456 bytes",
    ),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "cannot be read"),
    "damaged gzip": (b"\x1f\x8b" + b"\x00" * 40, "cannot be read"),
    "gzipped twice": (gzip.compress(gzip.compress(GOOD)), "; it is gzipped; unpack it$"),
    "a web page": (b"<!DOCTYPE html><html>", "; it is a web page, as a failed download leaves it"),
}


@pytest.mark.parametrize(("content", "match"), BAD_IDX.values(), ids=BAD_IDX.keys())
def test_bad_idx_files(tmp_path, content, match):
    write_four(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        datasets.load("mnist", tmp_path)
    assert "train-images-idx3-ubyte.gz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_one_of_the_four(tmp_path):
    write_four(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="but not t10k-labels-idx1-ubyte"):
        datasets.load("mnist", tmp_path)


def test_labels_of_another_number(tmp_path):
    write_four(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(7, np.uint8)))
    with pytest.raises(InputError, match=r"holds 12 images, but .* 7 labels"):
        datasets.load("mnist", tmp_path)


# bad user files


def save(name, array):
    return lambda folder: np.save(folder / name, array, allow_pickle=True)


def test_idx_files_are_of_the_relatives_of_mnist_only(tmp_path):
    write_four(tmp_path)
    for name, match in (
        ("mnits", "is unknown"),
        ("cifar10", "not prepared"),
        (str(tmp_path), "is"),
    ):
        with pytest.raises(InputError, match=match):
            datasets.load(name, tmp_path)


GREY = np.full((10, 4, 4), 0.5, np.float32)
BAD_FILES = {
    "missing": ("x.npy", lambda folder: None, "does not exist"),
    "text": ("x.npy", lambda folder: (folder / "x.npy").write_text("1,2,3"), "cannot be read"),
    "empty": ("x.npy", lambda folder: (folder / "x.npy").write_bytes(b""), "cannot be read"),
    "folder": ("x.npy", lambda folder: (folder / "x.npy").mkdir(), "cannot be read"),
    "objects": ("x.npy", save("x.npy", np.array([{}, 3], object)), "cannot be read"),
    "integers": ("x.npy", save("x.npy", np.ones((9, 4), np.int64)), "must be uint8 in .* int64"),
    "text array": ("x.npy", save("x.npy", np.full((9, 4), "a")), "must be uint8"),
    "complex": ("x.npy", save("x.npy", np.ones((9, 4), complex)), "but it is complex128"),
    "NaN": ("x.npy", save("x.npy", np.where(GREY > 0, np.nan, GREY)), "must be finite, but 160"),
    "infinite": (
        "x.npy",
        save("x.npy", np.full((9, 4), np.inf)),
        "must be finite",
    ),
    "channels first": ("x.npy", save("x.npy", np.zeros((9, 3, 8, 8))), r"moveaxis\(x, 1, -1\)"),
    "grey channel first": (
        "x.npy",
        save("x.npy", np.zeros((9, 1, 8, 8))),
        "has the channels first",
    ),
    "examples last": ("x.npy", save("x.npy", np.zeros((8, 8, 60))), r"np.moveaxis\(x, -1, 0\)"),
    "colours and examples last": (
        "x.npy",
        save("x.npy", np.zeros((8, 8, 3, 60))),
        "has the examples last",
    ),
    "0 and 1 as bytes": (
        "x.npy",
        save("x.npy", np.eye(9, dtype=np.uint8)),
        r"\(train\) has only the values 0 and 1 of 255, which is black; multiply it by 255",
    ),
    "a pickle": (
        "x.npy",
        lambda folder: (folder / "x.npy").write_bytes(pickle.dumps(GREY)),
        "as .npy: it is a pickle, which is not read because it may run code",
    ),
    "a web page": (
        "x.npz",
        lambda folder: (folder / "x.npz").write_text("\n<!DOCTYPE html>"),
        "as .npz: it is a web page, as a failed download leaves it",
    ),
    "a pointer of Git LFS": (
        "x.npy",
        lambda folder: (folder / "x.npy").write_text("version https://git-lfs.github.com/spec/v1"),
        "git lfs pull fetches the file itself",
    ),
    "bytes without a header": (
        "x.npy",
        lambda folder: GREY.tofile(folder / "x.npy"),
        "as .npy: it is no file of NumPy; numpy.save and numpy.savez write them",
    ),
    "bytes as integers": (
        "x.npy",
        save("x.npy", np.full((9, 4), 200, np.uint16)),
        r"but it is uint16; x.astype\(numpy.uint8\) where",
    ),
    "a little more than 1": (
        "x.npy",
        save("x.npy", GREY * np.float32(2.00001)),
        r"spans \[1\.00000\d+, 1\.00000\d+\]",
    ),
    "0 to 255 as floats": ("x.npy", save("x.npy", GREY * 255), r"must lie in \[0, 1\].*127.5"),
    "negative": ("x.npy", save("x.npy", GREY - 1), r"must lie in \[0, 1\], but it spans \[-0.5"),
    "one axis": ("x.npy", save("x.npy", np.zeros(9)), r"must be images \(n, d\).*\(9,\)"),
    "five axes": ("x.npy", save("x.npy", np.zeros((9, 1, 1, 1, 1))), "must be images"),
    "no examples": ("x.npy", save("x.npy", np.zeros((0, 4))), r"with n >= 1.*\(0, 4\)"),
    "too few": ("x.npy", save("x.npy", np.zeros((4, 4))), "at least 5 examples, but it has 4"),
    "scalar": ("x.npy", save("x.npy", np.zeros(())), "must be images"),
    "not a zip": ("x.npz", lambda folder: (folder / "x.npz").write_bytes(b"PK"), "cannot be read"),
    "odd names": (
        "x.npz",
        lambda folder: np.savez(folder / "x.npz", a=GREY, b=GREY),
        "must hold x_train and x_test.*but it holds a, b",
    ),
    "nothing inside": ("x.npz", lambda folder: np.savez(folder / "x.npz"), "holds nothing"),
    "shapes differ": (
        "x.npz",
        lambda folder: np.savez(folder / "x.npz", train=GREY, test=GREY[:, :2]),
        "train images are",
    ),
    "labels are text": (
        "x.npz",
        lambda folder: np.savez(
            folder / "x.npz", x_train=GREY, x_test=GREY, y_train=np.full(10, "a")
        ),
        "must have integer labels",
    ),
    "labels are fractions": (
        "x.npz",
        lambda folder: np.savez(
            folder / "x.npz", x_train=GREY, x_test=GREY, y_train=np.full(10, 0.5)
        ),
        "must have integer labels, but they are float64",
    ),
    "labels are not finite": (
        "x.npz",
        lambda folder: np.savez(
            folder / "x.npz", x_train=GREY, x_test=GREY, y_train=np.full(10, np.nan)
        ),
        "must have integer labels, but they are float64 and one is nan",
    ),
    "labels beyond 64 bits": (
        "x.npz",
        lambda folder: np.savez(
            folder / "x.npz", x_train=GREY, x_test=GREY, y_train=np.full(10, 2**64 - 1, np.uint64)
        ),
        "must have integer labels.* one is 18446744073709551615",
    ),
    "labels are one-hot": (
        "x.npz",
        lambda folder: np.savez(folder / "x.npz", x_train=GREY, x_test=GREY, y_train=np.eye(10)),
        r"labels of shape \(10, 10\); numpy.argmax\(y, axis=1\)",
    ),
    "labels are objects": (
        "x.npz",
        lambda folder: np.savez(
            folder / "x.npz", x_train=GREY, x_test=GREY, y_train=np.zeros(10, object)
        ),
        "y_train.npy: Object arrays",
    ),
    "an empty split": (
        "x.npz",
        lambda folder: np.savez(folder / "x.npz", x_train=GREY[:0], x_test=GREY),
        r"\(train\) must be images .* with n >= 1",
    ),
    "labels differ": (
        "x.npz",
        lambda folder: np.savez(folder / "x.npz", x_train=GREY, x_test=GREY, y_train=np.ones(3)),
        r"has 10 images, but labels of shape \(3,\)",
    ),
}


@pytest.mark.parametrize(("name", "make", "match"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_user_files(tmp_path, name, make, match):
    make(tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        datasets.load(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_truncated_user_files(tmp_path, name):
    if name.endswith("npy"):
        np.save(tmp_path / name, GREY)
    else:
        np.savez_compressed(tmp_path / name, x_train=GREY, x_test=GREY)
    content = (tmp_path / name).read_bytes()
    for size in range(1, len(content), max(1, len(content) // 25)):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(InputError):
            datasets.load(str(tmp_path / name))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_damaged_user_files(tmp_path, name):
    if name.endswith("npy"):
        np.save(tmp_path / name, GREY)
    else:
        np.savez_compressed(tmp_path / name, x_train=GREY, x_test=GREY)
    content = (tmp_path / name).read_bytes()
    refused = 0
    for position in [*range(140), *range(140, len(content), 7)]:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (tmp_path / name).write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                datasets.load(str(tmp_path / name))
            except InputError:  # and nothing else
                refused += 1
    assert refused > 50


def test_an_array_that_claims_to_be_huge(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    content = (tmp_path / "x.npy").read_bytes()
    huge = content.replace(b"(10, 4, 4), }         ", b"(10, 4, 4000000000), }", 1)
    assert len(huge) == len(content) != huge.find(b"4000000000") > 0
    (tmp_path / "x.npy").write_bytes(huge)
    with pytest.raises(InputError, match="cannot be read"):
        datasets.load(str(tmp_path / "x.npy"))


def test_data_dir_goes_with_names_only(tmp_path):
    for dataset in ("digits", "mine.npy"):
        with pytest.raises(InputError, match="--data-dir is for named data sets"):
            datasets.load(dataset, tmp_path)


# TensorFlow Datasets, against a local server


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The four files behind a real HTTP server; yields (url, folder, arrays)."""
    folder = tmp_path_factory.mktemp("server")
    splits = write_four(folder)
    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder, splits
        running.shutdown()
        thread.join()


@contextlib.contextmanager
def mnist_at(url, folder, *, damage=b""):
    """Points the builder of MNIST, and its checksums, to a local server."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo

    def info(path):
        content = path.read_bytes()
        checksum = hashlib.sha256(content + damage).hexdigest()
        return UrlInfo(len(content), checksum, path.name)

    builder = tfds.builder_cls("mnist")
    infos = {url + path.name: info(path) for path in folder.glob("*.gz")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "URL", url)
        patch.setattr(builder, "url_infos", infos)
        yield


@pytest.fixture(scope="module")
def prepared(server, tmp_path_factory):
    """A TFDS folder that this project downloaded and prepared; yields (folder, arrays)."""
    pytest.importorskip("array_record", reason="has no wheel for Windows")
    url, folder, splits = server
    target = tmp_path_factory.mktemp("tfds")
    with mnist_at(url, folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXAE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        datasets.load("mnist", target)
    return target, splits


def test_tensorflow_is_not_needed():
    assert importlib.util.find_spec("tensorflow") is None


def test_download_and_prepare_equals_the_idx_files(prepared, server, tmp_path):
    target, _ = prepared
    _, folder, _ = server
    assert (target / "mnist" / "3.0.1" / "dataset_info.json").is_file()
    from_tfds, from_idx = datasets.load("mnist", target), datasets.load("mnist", folder)
    assert from_tfds.fingerprint() == from_idx.fingerprint()
    version = datasets.load("mnist", target / "mnist" / "3.0.1")
    assert version.fingerprint() == from_idx.fingerprint()


def test_what_we_prepare_tfds_reads_as_its_own(prepared):
    import tensorflow_datasets as tfds

    target, splits = prepared
    source = tfds.data_source("mnist", split="test", data_dir=target, download=False)
    images = np.stack([row["image"][..., 0] for row in source])
    assert rows(images) == rows(splits["t10k"][0])


def test_without_array_record_one_line_says_what_is_missing(prepared, tmp_path, monkeypatch):
    target, _ = prepared
    monkeypatch.setitem(sys.modules, "array_record", None)
    for folder, what in (
        (target, r"mnist-\S+ is in"),
        (tmp_path, "mnist is not prepared in .* in"),
    ):
        match = rf"{what} the array_record format, but .* not installed .* four IDX files"
        with pytest.raises(InputError, match=match):
            datasets.load("mnist", folder)


def test_tfrecord_folders_give_the_same(prepared, tmp_path, monkeypatch):
    from array_record.python.array_record_module import ArrayRecordReader

    target, _ = prepared
    folder = tmp_path / "mnist" / "3.0.1"
    shutil.copytree(target / "mnist" / "3.0.1", folder)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for path in list(folder.glob("*.array_record*")):
        reader = ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
        framed = b"".join(
            struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0) for record in records
        )
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(framed)
        path.unlink()
    expected = datasets.load("mnist", target).fingerprint()
    monkeypatch.setitem(sys.modules, "array_record", None)  # as on Windows
    assert datasets.load("mnist", tmp_path).fingerprint() == expected
    shard = next(folder.glob("*train*tfrecord*"))
    for cut in (-3, 5):
        shard.write_bytes(shard.read_bytes()[:cut])
        with pytest.raises(InputError, match="truncated"):
            datasets.load("mnist", tmp_path)


def test_decoded_images_are_kept_and_stay_on_the_disk(prepared, monkeypatch, tmp_path):
    target, _ = prepared
    first = datasets.load("mnist", target)
    monkeypatch.setattr(tfds_source, "_decode_split", lambda *_: pytest.fail("decoded again"))
    assert datasets.load("mnist", target).fingerprint() == first.fingerprint()
    assert isinstance(tfds_source.load(Name("mnist", None, None), target)["train"][0], RowsFile)


def test_a_damaged_cache_is_made_again(prepared, tmp_path):
    target, _ = prepared
    first = datasets.load("mnist", target)
    (entry,) = (tmp_path / "cache").iterdir()
    for name in ("train_images.npy", "index.json", "test_labels.npy"):
        file = entry / name
        flipped = bytearray(file.read_bytes())
        flipped[-1] ^= 1
        for damage in (file.read_bytes()[:20], bytes(flipped), b"[]", b"null", b'{"train": 3}'):
            file.write_bytes(damage)
            assert datasets.load("mnist", target).fingerprint() == first.fingerprint()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [entry.name]


def test_a_cache_that_cannot_be_written_is_done_without(prepared, tmp_path, monkeypatch, caplog):
    target, _ = prepared
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = datasets.load("mnist", target, has_room=lambda size: False)
    assert found.is_streamed  # from a temporary file, as there is no room in memory
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))
    assert found.fingerprint() == datasets.load("mnist", target).fingerprint()
    assert "not kept" in caplog.text


def test_an_archive_is_unpacked_elsewhere_where_the_cache_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(array_file, "_LARGE", 0)
    x = np.random.default_rng(0).uniform(size=(20, 5, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x)
    found = datasets.load(str(tmp_path / "x.npz"), has_room=lambda size: False)
    assert found.is_streamed
    rows = np.concatenate([found.train[:], found.test[:]]).reshape(x.shape)
    np.testing.assert_array_equal(np.sort(rows, axis=None), np.sort(x, axis=None))


def test_damaged_shards_are_named(prepared, tmp_path):
    target, _ = prepared
    shutil.copytree(target / "mnist", tmp_path / "mnist")
    shard = next((tmp_path / "mnist" / "3.0.1").glob("*train*array_record*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"mnist-train.*") as caught:
        datasets.load("mnist", tmp_path)
    assert "\n" not in str(caught.value)
    shard.unlink()
    with pytest.raises(InputError, match="is missing; prepare the data set mnist again"):
        datasets.load("mnist", tmp_path)
    (shard.parent / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as a prepared data set"):
        datasets.load("mnist", tmp_path)


def test_a_download_with_a_wrong_checksum_is_refused(server, tmp_path):
    url, folder, _ = server
    with mnist_at(url, folder, damage=b"!"), pytest.raises(InputError, match="could not be down"):
        datasets.load("mnist", tmp_path)
    assert not (tmp_path / "mnist" / "3.0.1").exists()


def test_no_network_is_one_line_with_the_commands(tmp_path, server):
    _, folder, _ = server
    with mnist_at("http://127.0.0.1:9/", folder), pytest.raises(InputError) as caught:
        datasets.load("mnist", tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    for part in (
        "cannot be reached",
        'datasets.load("mnist", Path(',
        "--data-dir",
        "--dataset digits",
    ):
        assert part in line


def test_a_server_that_answers_garbage_is_no_network(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert not tfds_prepare._reachable(f"http://127.0.0.1:{port}/")
        thread.join()


def test_configs_and_versions_of_a_name(prepared, tmp_path):
    target, _ = prepared
    plain = datasets.load("mnist", target).fingerprint()
    assert datasets.load("mnist:3.0.1", target).fingerprint() == plain
    unfinished = tmp_path / "mnist" / "3.0.1.incompleteABC"
    shutil.copytree(target / "mnist" / "3.0.1", unfinished)
    shutil.copytree(target / "mnist" / "3.0.1", tmp_path / "mnist" / "3.0.1")
    (unfinished / "features.json").unlink()
    assert datasets.load("mnist", tmp_path).fingerprint() == plain
    place = lambda *parts: folders.find_prepared(tmp_path, *parts)
    for version in ("3.1.0", "3.10.0", "3.9.0"):
        folder = tmp_path / "emnist" / "letters" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert place("emnist", "letters", None).name == "3.10.0"
    assert place("emnist", "letters", "3.9.0").name == "3.9.0"
    assert place("emnist", "digits", None) is None
    with pytest.raises(InputError, match=r"emnist has the configs .*letters"):
        datasets.load("emnist/nonsense", tmp_path)
    with pytest.raises(InputError, match="mnist has no configs"):
        datasets.load("mnist/letters", tmp_path)


def test_configs_and_versions_that_are_not_those_of_the_folder(prepared, tmp_path):
    target, _ = prepared
    version = tmp_path / "any name"
    shutil.copytree(target / "mnist" / "3.0.1", version)
    assert (
        datasets.load("mnist", version).fingerprint()
        == datasets.load("mnist", target).fingerprint()
    )
    with pytest.raises(InputError, match=r"holds mnist:3.0.1, but --dataset is mnist:3.0.2"):
        datasets.load("mnist:3.0.2", version)
    info = version / "dataset_info.json"
    named = json.loads(info.read_text()) | {"name": "emnist", "configName": "digits"}
    info.write_text(json.dumps(named))
    for shard in list(version.glob("mnist-*")):
        shard.rename(shard.with_name(f"e{shard.name}"))
    assert datasets.load("EMNIST/Digits", version).name == "emnist/digits"
    with pytest.raises(InputError, match="holds emnist/digits, but --dataset is emnist/letters"):
        datasets.load("emnist/letters", version)


def commands(line):
    """Returns the commands in a message, as a shell takes them apart, and the code of Python."""
    pasted = re.search(r"(?:once: |run )(.*?)(?: and copy.*)?; --dataset digits|$", line)[1]
    words = shlex.split(pasted.split(" and copy")[0])
    return words, words[words.index("-c") + 1]


def test_preparing_other_data_sets_names_the_command(tmp_path, monkeypatch):
    place = tmp_path / 'it\'s "here"'
    place.mkdir()
    with pytest.raises(InputError, match=r"emnist/letters is not prepared in") as caught:
        datasets.load("EMNIST/letters", place)
    words, code = commands(str(caught.value))
    assert words[:6] == ["pip", "install", "tensorflow", "&&", "python", "-c"]
    import tensorflow_datasets as tfds

    called = []
    monkeypatch.setattr(tfds, "builder", lambda *a, **k: called.append((a, k)) or mock.Mock())
    exec(code, {})
    assert called == [
        (("emnist/letters",), {"data_dir": str(place), "file_format": "array_record"})
    ]


def test_downloading_elsewhere_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_prepare, "_reachable", lambda url: False)
    place = tmp_path / "it's here"
    place.mkdir()
    with pytest.raises(InputError, match="cannot be reached") as caught:
        datasets.load("KMNIST", place)
    words, code = commands(str(caught.value))
    assert words[:5] == ["mkdir", "-p", "--", str(place), "&&"]
    called = []
    monkeypatch.setattr(datasets, "load", lambda *a: called.append(a))
    exec(code, {})
    assert called == [("kmnist", place)]


def zip_of(*names):
    def write(folder):
        with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
            for name in names:
                archive.writestr(name, "content")

    return write


LYING_THERE = {
    "IDX files in a zip file": (
        zip_of("a/train-images-idx3-ubyte"),
        "archive.zip; unpack it there$",
    ),
    "another zip file": (
        zip_of("a.png"),
        "kmnist is not prepared in .*; archive.zip lies there: unp",
    ),
    "no zip file": (
        lambda folder: (folder / "x.zip").write_text("?"),
        "; x.zip lies there: unpack",
    ),
    "an array": (lambda folder: np.save(folder / "x.npy", X), "--dataset .*/x.npy reads it"),
    "images": (
        lambda folder: PIL.Image.fromarray(X[0]).save(folder / "0.png"),
        "images lie there: --dataset .* reads them",
    ),
    "nothing": (lambda folder: None, "is not prepared in [^;]*; http://.* cannot be reached"),
}


@pytest.mark.parametrize(("make", "match"), LYING_THERE.values(), ids=LYING_THERE)
def test_what_lies_in_the_folder_instead(make, match, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_prepare, "_reachable", lambda url: False)
    make(tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        datasets.load("kmnist", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_prepared_folder_that_lacks_a_file(name, prepared, tmp_path):
    target, _ = prepared
    shutil.copytree(target / "mnist", tmp_path / "mnist")
    (tmp_path / "mnist" / "3.0.1" / name).unlink()
    for folder in (tmp_path, tmp_path / "mnist", tmp_path / "mnist" / "3.0.1"):
        with pytest.raises(InputError, match=rf"mnist/3.0.1 .*{name}; copy it there from where"):
            datasets.load("mnist", folder)


def test_versions_that_cannot_be_had(prepared, tmp_path):
    target, _ = prepared
    with pytest.raises(
        InputError, match=r"prepared there is mnist:3.0.1; it has the version 3.0.1$"
    ):
        datasets.load("mnist:9.9.9", target)
    with pytest.raises(
        InputError, match=r"emnist/mnist:9.9.9 is not .*; it has the version 3.1.0$"
    ):
        datasets.load("emnist/mnist:9.9.9", tmp_path)


# the home folder


def test_the_folder_of_tensorflow_datasets(prepared, tmp_path, monkeypatch):
    target, _ = prepared
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = datasets.load("mnist", target).fingerprint()
    monkeypatch.setenv("TFDS_DATA_DIR", "~/mine")
    shutil.copytree(target, tmp_path / "mine")
    assert datasets.load("mnist").fingerprint() == expected
    assert datasets.load("mnist", Path("~/mine")).fingerprint() == expected
    shutil.move(tmp_path / "mine", tmp_path / "tensorflow_datasets")
    for is_set in (True, False):  # an empty variable counts as none
        monkeypatch.setenv("TFDS_DATA_DIR", "") if is_set else monkeypatch.delenv("TFDS_DATA_DIR")
        assert datasets.load("mnist").fingerprint() == expected


def test_a_default_folder_that_is_a_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "train-images-idx3-ubyte"))
    with pytest.raises(InputError, match=r"^TFDS_DATA_DIR .*-ubyte is not a folder; name the one"):
        datasets.load("mnist")


def test_no_home_folder_stops_only_what_needs_it(prepared, tmp_path, monkeypatch):
    target, _ = prepared

    def unknown(path):
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert len(datasets.load("digits").test) == 359
    assert len(datasets.load("mnist", target).test) == 5
    for arguments, match in (
        (("mnist",), "name a folder with --data-dir or TFDS_DATA_DIR"),
        (("~/x.npy",), "--dataset ~/x.npy: there is no such home folder"),
        (("mnist", Path("~/x")), "--data-dir ~/x: there is no such home folder"),
    ):
        with pytest.raises(InputError, match=match):
            datasets.load(*arguments)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mnits", "--dataset mnits is unknown.*did you mean mnist"),
        ("", "is unknown"),
        ("no/such/file.txt", "is unknown.*; there is no file or folder of this name$"),
        ("qqqqzzzz", "allowed are digits"),
        ("Digits", "did you mean digits"),
    ],
)
def test_unknown_data_sets(name, match):
    with pytest.raises(InputError, match=match) as caught:
        datasets.load(name)
    assert "\n" not in str(caught.value)


def test_data_dir_that_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        datasets.load("mnist", tmp_path / "nowhere")
    write_four(tmp_path)
    with pytest.raises(InputError, match="not a folder; name the folder in which it lies"):
        datasets.load("mnist", tmp_path / "train-images-idx3-ubyte.gz")


def test_data_dir_of_another_data_set(prepared):
    target, _ = prepared
    with pytest.raises(InputError, match="holds mnist, but --dataset is kmnist"):
        datasets.load("kmnist", target / "mnist" / "3.0.1")


# the real MNIST


@pytest.mark.thorough
@needs_mnist
def test_real_mnist_from_tfds_and_from_idx_is_the_same(monkeypatch, request):
    # decoding 60,000 PNGs once per checkout is enough
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(request.config.cache.mkdir("decoded")))
    from_idx, from_tfds = (datasets.load("mnist", SHARED / kind) for kind in ("idx", "tfds"))
    assert from_idx.train.shape == (60000, 28, 28, 1)
    assert from_idx.test.shape == (10000, 28, 28, 1)
    assert from_idx.fingerprint() == from_tfds.fingerprint()
    # known facts of MNIST: mean pixel, and the number of zeros among the test labels
    np.testing.assert_allclose(from_idx.train.mean(), 0.1307, atol=1e-4)
    assert int((from_idx.test_labels == 0).sum()) == 980
