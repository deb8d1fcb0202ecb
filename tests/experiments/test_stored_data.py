"""Data that stay on the disk: their rows, their order, and whether they fit into memory."""

import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from experiments.common.data import datasets, pixels
from experiments.common.data.pixels import Pixels
from experiments.common.data.sources import array_file
from experiments.common.data.sources.rows_file import RowsFile
from experiments.common.errors import InputError
from experiments.common.files import atomic
from experiments.common.run import memory

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(8)
IMAGES = RNG.integers(0, 256, (57, 5, 4)).astype(np.uint8)


def no_room(count):
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@examples(60)
@given(data=st.data())
def test_rows_of_a_file_are_those_of_the_array(data, folder):
    kinds = st.sampled_from([np.uint8, np.float32, np.dtype(">f8"), np.bool_, np.int16])
    shapes = st_numpy.array_shapes(min_dims=1, max_dims=4, max_side=6)
    array = data.draw(st_numpy.arrays(data.draw(kinds), data.draw(shapes)))
    np.save(folder / "x.npy", array)
    file, n = RowsFile(folder / "x.npy"), len(array)
    assert (file.shape, file.dtype, file.ndim, len(file)) == (
        array.shape,
        array.dtype,
        array.ndim,
        n,
    )
    rows = st_numpy.arrays(
        np.int64, st_numpy.array_shapes(max_dims=2), elements=st.integers(0, n - 1)
    )
    for chosen in (
        data.draw(rows),
        data.draw(st.slices(n)),
        np.arange(n),
        data.draw(st.integers(0, n - 1)),
    ):
        found = file[chosen]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array[chosen])
    flat = file.reshape(n, array[0].size)
    np.testing.assert_array_equal(flat[:], array.reshape(n, -1))


def test_a_file_that_becomes_shorter_is_an_error_and_not_the_end(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    file = RowsFile(tmp_path / "x.npy")
    with open(tmp_path / "x.npy", "r+b") as opened:
        opened.truncate(600)
    np.testing.assert_array_equal(file[:10], IMAGES[:10])
    with pytest.raises(OSError, match="has become shorter"):
        file[:]
    with pytest.raises(IndexError, match="row 57 of 57"):
        file[np.array([57])]


BAD = {
    "Fortran order": (lambda p: np.save(p, np.asfortranarray(IMAGES)), "C order"),
    "objects": (lambda p: np.save(p, np.array([{}], object)), "Python objects"),
    "a scalar": (lambda p: np.save(p, np.zeros(())), "row by row"),
    "no array": (lambda p: p.write_bytes(b"x" * 100), "magic"),
    "a negative size": (lambda p: claim(p, (-5, 4)), "header says"),
    "too short": (lambda p: (np.save(p, IMAGES), truncate(p)), "only 600 bytes"),
}


def claim(path, shape):
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(100))


def truncate(path):
    path.write_bytes(path.read_bytes()[:600])


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_read_row_by_row(name, tmp_path, monkeypatch):
    make, match = BAD[name]
    make(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=match):
        RowsFile(tmp_path / "x.npy")
    monkeypatch.setattr(array_file, "_LARGE", 0)
    with pytest.raises(InputError, match=f"cannot be read as .npy: .*{match}"):
        datasets.load(str(tmp_path / "x.npy"), has_room=no_room)


def test_fortran_order_is_read_at_once_where_there_is_room(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", IMAGES)
    expected = datasets.load(str(tmp_path / "x.npy")).fingerprint()
    monkeypatch.setattr(array_file, "_LARGE", 0)
    np.save(tmp_path / "x.npy", np.asfortranarray(IMAGES))
    assert datasets.load(str(tmp_path / "x.npy")).fingerprint() == expected


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Lets every file be a large one, and the cache be in a folder that is not there yet."""
    monkeypatch.setattr(array_file, "_LARGE", 0)
    monkeypatch.setattr(pixels, "_PIECE_BYTES", 1000)  # twelve images
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(57, 5, 4), (57, 20), (57, 5, 2, 2), (57, 25)])
def test_stored_images_are_those_in_memory(dtype, shape, large, tmp_path):
    values = np.resize(IMAGES, shape)
    values = {"uint8": values, "bool": values > 100}.get(dtype, values / 255)
    np.save(tmp_path / "x.npy", values.astype(dtype))
    in_memory = datasets.load(str(tmp_path / "x.npy"))
    stored = datasets.load(str(tmp_path / "x.npy"), has_room=no_room)
    assert isinstance(in_memory.train, np.ndarray)
    assert (stored.is_streamed, in_memory.is_streamed) == (True, False)
    assert stored.fingerprint() == in_memory.fingerprint() == stored.source
    assert stored.example_shape == in_memory.example_shape
    assert stored.nbytes == in_memory.nbytes == 4 * values.size
    for of_memory, of_disk in zip(in_memory.flat(), stored.flat(), strict=True):
        assert isinstance(of_disk, Pixels)
        assert (of_disk.shape, of_disk.dtype) == (of_memory.shape, of_memory.dtype)
        np.testing.assert_array_equal(np.asarray(of_disk), of_memory)
        np.testing.assert_array_equal(list(of_disk), of_memory)
        for rows in (slice(3, 40, 2), np.array([5, 0, 5]), 4, of_memory[:, 0] > 0.5):
            np.testing.assert_array_equal(of_disk[rows], of_memory[rows])
    head = stored.head(train=5, test=2)
    np.testing.assert_array_equal(head.train, in_memory.train[:5])
    assert head.source == stored.source


def test_a_small_file_keeps_its_digest_whichever_way_it_is_read(large, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", IMAGES)
    large_file = datasets.load(str(tmp_path / "x.npy")).fingerprint()
    monkeypatch.setattr(array_file, "_LARGE", 2**40)
    assert datasets.load(str(tmp_path / "x.npy")).fingerprint() == large_file


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_without_room_is_unpacked_once(save, large, tmp_path, monkeypatch):
    labels = np.arange(57) % 3
    path = tmp_path / "x.npz"
    save(path, x_train=IMAGES, y_train=labels, x_test=IMAGES[:9], y_test=labels[:9])
    in_memory = datasets.load(str(path))
    assert not (tmp_path / "cache").exists()
    stored = datasets.load(str(path), has_room=no_room)
    assert stored.is_streamed
    assert stored.fingerprint() == in_memory.fingerprint()
    np.testing.assert_array_equal(stored.train_labels, in_memory.train_labels)
    monkeypatch.setattr(atomic, "write_folder", lambda *_: pytest.fail("unpacked again"))
    assert datasets.load(str(path), has_room=no_room).fingerprint() == in_memory.fingerprint()


def test_a_damaged_unpacked_array_is_unpacked_again(large, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x_train=IMAGES, x_test=IMAGES[:9], about=np.array([{}], object))
    expected = datasets.load(str(path), has_room=no_room).fingerprint()
    (unpacked,) = (tmp_path / "cache").glob("*/x_train.npy")
    truncate(unpacked)
    assert datasets.load(str(path), has_room=no_room).fingerprint() == expected
    assert sorted(p.name for p in unpacked.parent.iterdir()) == ["x_test.npy", "x_train.npy"]


def test_two_at_a_time_unpack_once(large, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x_train=IMAGES, x_test=IMAGES[:9])
    real, written = atomic.write_folder, []
    monkeypatch.setattr(atomic, "write_folder", lambda *a: (written.append(a), real(*a)))
    with ThreadPoolExecutor(4) as pool:
        load = lambda _: datasets.load(str(tmp_path / "x.npz"), has_room=no_room).fingerprint()
        assert len(set(pool.map(load, range(8)))) == 1
    assert len(written) == 1


def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path):
    atomic.write_folder(tmp_path / "x", lambda folder: (folder / "old").write_text("1"))

    def fail(folder):
        (folder / "new").write_text("2")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        atomic.write_folder(tmp_path / "x", fail)
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "old"]
    atomic.write_folder(tmp_path / "x", lambda folder: (folder / "new").write_text("2"))
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "new"]


def test_an_npz_that_cannot_be_unpacked_leaves_nothing(large, tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x_train=IMAGES, x_test=IMAGES)

    def full(packed, file, size):
        file.write(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(InputError, match="No space left on device"):
        datasets.load(str(tmp_path / "x.npz"), has_room=no_room)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 1.5, 1e300])
def test_bad_pixels_in_the_middle_of_a_large_file(bad, large, tmp_path):
    values = IMAGES / 255
    values[40, 2, 2] = bad
    np.save(tmp_path / "x.npy", values)
    match = "must lie in" if abs(bad) < 2 else "must be finite, but 1 values"
    with pytest.raises(InputError, match=match):
        datasets.load(str(tmp_path / "x.npy"), has_room=no_room)


def test_a_copy_of_stored_pixels_is_refused_where_there_must_be_none():
    stored = Pixels(IMAGES[..., None], np.arange(57), (5, 4, 1))
    with pytest.raises(ValueError, match="must be copied"):
        np.asarray(stored, copy=False)
    assert np.asarray(stored, dtype=np.float64).dtype == np.float64


# how much memory there is


def test_the_least_limit_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_on_machine", lambda: 9 * memory.GIB)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert memory.limit(None) == 9 * memory.GIB  # no control group
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.limit(None) == 9 * memory.GIB
    (tmp_path / "memory.max").write_text(f"{5 * memory.GIB}\n")
    assert memory.limit(None) == 5 * memory.GIB
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (3 * memory.GIB, -1))
    assert memory.limit(None) == 3 * memory.GIB
    assert memory.limit(1.5) == 1.5 * memory.GIB  # what is said counts alone


def test_what_fits(monkeypatch):
    monkeypatch.setattr(memory, "on_the_device", lambda: None)
    room = 4.0 * memory.GIB - memory.PROGRAMS
    assert memory.fits(int(room / memory.COPIES), 4.0)
    assert not memory.fits(int(room / memory.COPIES) + 1, 4.0)
    monkeypatch.setattr(memory, "on_the_device", lambda: memory.GIB)
    assert memory.fits(memory.GIB // 2, 4.0)
    assert not memory.fits(memory.GIB // 2 + 1, 4.0)


def test_this_machine_has_memory():
    assert memory.GIB / 4 < memory.limit(None) < 2**60
    assert memory.shown(1.26e9) == "1.2 GiB"
    assert memory.shown(40e9) == "37 GiB"
    assert memory.shown(460_000) == "0.44 MiB"


# A stream of a file larger than the process may be: its numbers are a hole in the file.
LIMITED = """
import re, resource, sys
import numpy as np
import jax, jax.numpy as jnp, optax
import jaxae
from experiments.common.data.sources.rows_file import RowsFile

limit = 768 * 2**20
path, n, d = sys.argv[1], int(float(sys.argv[2]) * limit) // (4 * 784), 784
with open(path, "wb") as file:
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (n, d)})
    file.truncate(file.tell() + 4 * n * d)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
loss = lambda params, key, x: jnp.square(x @ params - 1.0).sum(-1)
optimizer = optax.sgd(0.1)
run = jaxae.make_run(loss, optimizer, batch_size=1024)
state = jaxae.create_train_state(jnp.ones((d, 2)), optimizer)
data = jaxae.Streamed(RowsFile(path))
losses = []
jaxae.fit(run, state, jax.random.key(0), data, epochs=1, on_epoch=lambda *e: losses.append(e))
assert losses == [(1, 2.0)], losses
try:
    np.asarray(RowsFile(path)[:])
except MemoryError:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    print(1024 * int(peak) / limit)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of Linux")
@pytest.mark.thorough(by_default=["1.1"])
@pytest.mark.parametrize("times", ["1.1", "4"])
def test_data_larger_than_the_process_may_be(times, tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x.npy"), times]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 1.1  # what is mapped of libraries is no data
