"""The readers on any bytes: an array or ``InputError``, soon, and in little memory.

Each test takes 50 examples, and 200 with ``--thorough``.
"""

import contextlib
import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from functools import partial
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from idx_files import idx_bytes

import jaxae
from experiments.common.data import datasets
from experiments.common.data.sources import array_file, decoded, idx, image_folder, tfrecord
from experiments.common.errors import InputError
from experiments.common.files import atomic
from experiments.common.results import checkpoint_files, trained

ROOT = Path(__file__).parents[2]
GIB = 2**30
fuzz = examples(
    200,
    deadline=2000,  # milliseconds of one example
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def little_memory():
    """What all tests of this file add to the memory of their process."""
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    yield
    assert peak() - before < GIB / 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@st.composite
def damaged(draw, *valid):
    """Bytes of a valid file after some accidents."""
    raw = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(raw) - 1, 0)))
        end = min(start + draw(st.integers(1, 8)), len(raw))
        accident = draw(
            st.sampled_from(["change", "change", "cut", "leave out", "twice", "insert"])
        )
        if accident == "change":
            raw[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif accident == "cut":
            del raw[start:]
        elif accident == "leave out":
            del raw[start:end]
        elif accident == "twice":
            raw[start:start] = raw[start:end]
        else:
            raw[start:start] = draw(st.binary(max_size=8))
    return bytes(raw)


def anything_like(*valid):
    """Bytes of any kind, with the first bytes of a valid file or not, and damaged valid files."""
    starts = st.sampled_from([raw[:size] for raw in valid for size in (2, 4, 6, 8, 10)])
    noise = st.binary(max_size=100)
    return noise | st.builds(bytes.__add__, starts, noise) | damaged(*valid)


def read_or_refuse(read, path, content):
    """Returns what a reader makes of some bytes, or None if it refuses them as it should."""
    path.write_bytes(content)
    try:
        return read(path)
    except InputError:
        return None


# IDX

IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
IDX = [idx_bytes(IMAGES), idx_bytes(IMAGES[:, 0, 0]), gzip.compress(idx_bytes(IMAGES))]
SIZES = st.sampled_from([0, 1, 3, 2**16, 2**28, 2**31, 2**32 - 1])


@fuzz
@given(anything_like(*IDX), st.integers(1, 3))
def test_idx(folder, content, ndim):
    found = read_or_refuse(lambda path: idx.read(path, ndim=ndim), folder / "idx", content)
    if found is not None:
        assert found.dtype == np.uint8
        assert found.ndim == ndim


@fuzz
@given(st.lists(SIZES, min_size=1, max_size=3), st.binary(max_size=30), st.booleans())
def test_idx_of_any_sizes(folder, sizes, body, compress):
    content = struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + body
    content = gzip.compress(content) if compress else content
    found = read_or_refuse(lambda path: idx.read(path, ndim=len(sizes)), folder / "idx", content)
    assert found is None or found.tobytes() == body


@fuzz
@given(anything_like(*IDX), anything_like(IDX[1]))
def test_idx_splits(folder, images, labels):
    (folder / "labels").write_bytes(labels)
    read = lambda path: idx.read_split(idx.IdxFiles(path, folder / "labels"))
    found = read_or_refuse(read, folder / "images", images)
    assert found is None or len(found[0]) == len(found[1])


# .npy and .npz

GREY = np.linspace(0, 1, 60, dtype=np.float32).reshape(10, 2, 3)


def npy_bytes(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


def npz_bytes(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def zip_bytes(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


NPY = [
    npy_bytes(GREY),
    npy_bytes((GREY * 255).astype(np.uint8), (2, 0)),
    npy_bytes(np.asfortranarray(GREY.astype(">f8")), (3, 0)),
    npy_bytes(GREY.reshape(10, 6) > 0.5),
    npy_bytes(np.array([{}, 3], object)),
]
SPLITS = {"x_train": GREY, "x_test": GREY, "y_train": np.arange(10), "y_test": np.arange(10)}
NPZ = [npz_bytes(np.savez, **SPLITS), npz_bytes(np.savez_compressed, **SPLITS)]
WORDS = """
    <f4 >f8 <f2 |u1 |i1 |b1 <i8 <u8 <c8 <c16 <f16 |O |V0 |V7 <U0 <U3 |S0 |S5 <M8[D] <m8[ns] f4,f4
    (2,3)f4 3f4 f object bool float T <f3 =f4 !f4 %f4 <f-4 <f99999999999
"""
DESCRIPTIONS = st.one_of(
    st.sampled_from(WORDS.split()),
    st.sampled_from([None, 3, [], {"a": "<f4"}, [["a", "<f4"]], (("t", "a"),)]),
    st.sampled_from([[("a", "<f4")], [("a", "<f4", (2,))], [("a", [("b", "|O")])]]),
    st.sampled_from([("<f4", (2, 3)), ("<f4", (2**40,)), [("a", "<f4"), ("a", "<f4")]]),
    st.text(max_size=8),
)
AXES = st.integers(-1, 12) | st.sampled_from([2**31, 2**40, 2**63 - 1, 2**64, 10**30])
SHAPES = st.one_of(
    st.lists(AXES | st.sampled_from([True, None, 2.0, "3"]), max_size=5).map(tuple),
    st.lists(AXES, max_size=3),
    st.none(),
)


@st.composite
def odd_headers(draw):
    """A .npy file whose header is a Python literal of the right kind, or nearly so."""
    header = {
        "descr": draw(DESCRIPTIONS),
        "fortran_order": draw(st.sampled_from([False, True, 1, None, "no"])),
        "shape": draw(SHAPES),
    }
    for key in draw(st.sets(st.sampled_from(sorted(header)), max_size=1)):
        del header[key]
    text = draw(
        st.sampled_from([repr(header)] * 5 + ["[" * 3000, "{" + "-" * 9000, "1L", "\n " * 9])
    )
    version = draw(st.sampled_from([1, 1, 2, 3, 4]))
    size = struct.pack("<H" if version == 1 else "<I", len(encoded := text.encode()))
    body = draw(st.binary(max_size=200) | st.just(bytes(2000)))
    return b"\x93NUMPY" + bytes((version, 0)) + size + encoded + body


@st.composite
def odd_archives(draw):
    """A zip file with some of the names we look for, and members of all kinds in it."""
    member = st.one_of(
        st.sampled_from([*NPY, NPZ[0], b"", b"text"]), odd_headers(), st.binary(max_size=20)
    )
    stems = st.sampled_from(
        ["x_train", "x_test", "y_train", "y_test", "train", "test", "../x", "a\nb"]
    )
    names = st.builds(str.__add__, stems, st.sampled_from([".npy", "", ".npz", "/"]))
    members = draw(st.lists(st.tuples(names, member), max_size=5, unique_by=lambda pair: pair[0]))
    archive = zip_bytes(members, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))
    return zip_bytes([("x_train.npy", archive)]) if draw(st.integers(0, 9)) == 0 else archive


def load(path):
    found = datasets.load(str(path))
    for images in (found.train, found.test):
        assert images.dtype == np.float32
        assert images.ndim == 4
        assert 0 <= images.min() <= images.max() <= 1
    for images, labels in ((found.train, found.train_labels), (found.test, found.test_labels)):
        assert labels is None or labels.shape == (len(images),)
    return found


@pytest.mark.parametrize("largest", [0, 2**26], ids=["row by row", "at once"])
@fuzz
@given(st.sampled_from(["x.npy", "x.npz"]), anything_like(*NPY) | odd_headers())
def test_npy(largest, folder, name, content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_file, "_LARGE", largest)  # beyond it a file stays where it is
        read_or_refuse(load, folder / name, content)


@fuzz
@given(st.sampled_from(["x.npy", "x.npz"]), anything_like(*NPZ) | odd_archives())
def test_npz(folder, name, content):
    read_or_refuse(load, folder / name, content)


# CSV and images

CSV = [b"label,1x1\n" + b"1,255\r\n" * 6, b"\xef\xbb\xbf" + b"7,0,1,2,3\n" * 5, b"0,9,0,9\n\n" * 5]


@fuzz
@given(anything_like(*CSV))
def test_csv(folder, content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXAE_CACHE_DIR", str(folder / "cache of csv"))
        read_or_refuse(load, folder / "x.csv", content)


def picture(mode, kind, **options):
    file = io.BytesIO()
    PIL.Image.new(mode, (3, 2), 1).save(file, kind, **options)
    return file.getvalue()


PICTURES = [
    *(picture(mode, "PNG") for mode in ("L", "RGB", "P", "RGBA", "1", "I;16")),
    picture("L", "PNG", transparency=1),
    picture("L", "JPEG"),
    picture("RGB", "JPEG", progressive=True),
]


@fuzz
@given(anything_like(*PICTURES))
def test_image(folder, content):
    found = read_or_refuse(image_folder._read_image, folder / "x.png", content)
    if found is not None:
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] in (1, 3)


# TFRecord

RECORDS = [b"", b"one", bytes(100)]
TFRECORD = b"".join(struct.pack("<QI", len(r), 0) + r + bytes(4) for r in RECORDS)
LENGTHS = st.sampled_from([0, 1, 2**31, 2**40, 2**63, 2**64 - 1])


@fuzz
@given(
    anything_like(TFRECORD)
    | st.builds(lambda n, rest: struct.pack("<QI", n, 0) + rest, LENGTHS, st.binary(max_size=40))
)
def test_tfrecord(folder, content):
    read = lambda path: list(tfrecord.read_tfrecord(path))
    found = read_or_refuse(read, folder / "tfrecord", content)
    if found is not None:
        assert sum(len(record) + 16 for record in found) == len(content)


# the cache of decoded images

DECODED = {"train": (IMAGES[..., None], np.arange(4)), "test": (IMAGES[:2, ..., None], None)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["train", "test", "images", "labels", "../x"]), inner)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def entry(folder):
    """A cache entry: the file it was made from, and the bytes of the entry's own files."""
    (folder / "shard").write_bytes(b"the data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXAE_CACHE_DIR", str(folder / "cache"))
        cached(folder)
        (made,) = (folder / "cache").iterdir()
        yield made, {path.name: path.read_bytes() for path in made.iterdir()}


def decode(split):
    images, labels = DECODED[split]
    rows = zip(images, np.zeros(len(images), int) if labels is None else labels, strict=True)
    return decoded.Decoded(len(images), iter(rows), labels is not None)


def cached(folder):
    return decoded.load({"train": [folder / "shard"], "test": []}, decode)


@fuzz
@given(st.data())
def test_cache(folder, entry, data):
    made, files = entry
    name = data.draw(st.sampled_from(sorted(files)))
    kinds = anything_like(files[name])
    if name == "index.json":
        nested = st.sampled_from([b"[" * 10**5, b'{"train": ' * 10**4])
        kinds |= nested | JSON.map(lambda value: json.dumps(value).encode())
    for other, content in files.items():
        (made / other).write_bytes(content)
    (made / name).write_bytes(data.draw(kinds))
    found = cached(folder)
    assert found.keys() == DECODED.keys()
    for split, (images, labels) in DECODED.items():
        np.testing.assert_array_equal(found[split][0], images)
        assert (labels is None) == (found[split][1] is None)
        if labels is not None:
            np.testing.assert_array_equal(found[split][1], labels)


# checkpoints and exported models


@pytest.fixture(scope="module")
def checkpoint(folder):
    """A checkpoint, its files, its arrays, and what its manifest says."""
    place = folder / "000002"
    arrays = {"losses": np.arange(3.0), "none": np.zeros((0, 2)), "w": np.ones((4, 5), np.float32)}
    header = {"identity": {"a": 1}, "environment": {}, "leaves": [], "epoch": 2, "step": 0}
    checkpoint_files.write(place, arrays, header | {"loss": 1.5, "model": None, "epochs": 2})
    files = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
    return place, files, arrays, checkpoint_files.read_manifest(place)


def read_checkpoint(place):
    """Returns the arrays of a checkpoint, or None if it is refused as it should be."""
    try:
        return checkpoint_files.read_arrays(place, checkpoint_files.read_manifest(place))
    except checkpoint_files.DamagedError:
        return None


def put_back(files):
    for path, content in files.items():
        path.write_bytes(content)


@fuzz
@given(st.data())
def test_checkpoint(checkpoint, data):
    place, files, arrays, _ = checkpoint
    put_back(files)
    path = data.draw(st.sampled_from(list(files)))
    content = data.draw(anything_like(files[path]) | JSON.map(lambda v: json.dumps(v).encode()))
    path.write_bytes(content)
    found = read_checkpoint(place)
    is_same = content == files[path] or (path.name == "manifest.json" and found is not None)
    assert (found is not None) == is_same  # other bytes are never believed
    for name, array in (found or {}).items():
        np.testing.assert_array_equal(array, arrays[name])


@fuzz
@given(st.sampled_from(["arrays", "files", "leaves", "identity", "epoch", "loss", "model"]), JSON)
def test_manifest_with_a_digest_that_fits(checkpoint, name, value):
    place, files, _, manifest = checkpoint
    put_back(files)
    body = manifest | {name: value}
    whole = json.dumps(body | {"sha256": atomic.json_digest(body)})
    (place / "manifest.json").write_text(whole)
    found = read_checkpoint(place)
    assert found is None or name not in ("arrays", "files") or value in ({}, manifest[name])
    with contextlib.suppress(InputError):  # and nothing else
        trained.load(place)


@pytest.fixture(scope="module")
def exported(folder):
    """The files of an exported model."""
    model = jaxae.DenseAutoencoder((3,), 2)
    functions = jaxae.as_functions(model)
    params = functions.init(jax.random.key(0))
    bound = partial(functions.encode, params), partial(functions.decode, params)
    place = folder / "exported"
    trained.export(trained.TrainedAutoencoder(*bound, params, model, {}), place)
    return place, {path: path.read_bytes() for path in sorted(place.iterdir())}


@fuzz
@given(st.data())
def test_exported_model(exported, data):
    place, files = exported
    put_back(files)
    path = data.draw(st.sampled_from([place / "model.safetensors", place / "model.json"]))
    content = data.draw(anything_like(files[path]) | JSON.map(lambda v: json.dumps(v).encode()))
    path.write_bytes(content)
    with contextlib.suppress(InputError):  # and nothing else
        found = trained.load(place)
        assert content == files[path] or path.name == "model.json"
        assert found.params["encoder_kernel_0"].shape == (3, 2)


# bombs: small files that say, or are, gigabytes; in a process that may have 1 GiB more


def deflated(head, zeros):
    """Returns a raw deflate stream of some bytes and zeros, without compressing them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (zeros // 2**24) + packer.flush()


def archive(head, zeros, *, says, names=("x_train.npy",)):
    """Returns a zip file of members that share one stream, with the size that the file says."""
    stream = deflated(head, zeros)
    fields = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0, 0, len(stream), says)
    member = b"PK\x03\x04" + fields + struct.pack("<HH", len(names[0]), 0) + names[0].encode()
    directory = b"".join(
        b"PK\x01\x02\x14\x00" + fields + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0)
        + name.encode()
        for name in names
    )  # fmt: skip
    start = len(member) + len(stream)
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), start, 0)
    return member + stream + directory + b"PK\x05\x06" + end


def npy_head(shape):
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def idx_head(*shape):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)


def gzip_bomb(head, zeros=4 * GIB):
    stream = deflated(head, zeros)
    return b"\x1f\x8b\x08" + bytes(7) + stream + bytes(8)


def png_head(width, height=None):
    """Returns the start of a grey PNG: its signature, its header and an end."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height or width, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
    )


LARGE = npy_head((10, 2**27))
MEMBERS = [f"{number}.npy" for number in range(1000)]
BOMBS = {
    "more than its header.idx": lambda: gzip_bomb(idx_head(60000, 28, 28)),
    "as its header.idx": lambda: gzip_bomb(idx_head(2**16, 2**8, 2**8)),
    "just too large.idx": lambda: gzip_bomb(idx_head(2**28 + 1, 1, 1), 2**29),
    "huge header.idx": lambda: gzip_bomb(idx_head(*3 * [2**32 - 1])),
    "plain header.idx": lambda: idx_head(*3 * [2**32 - 1]),
    "honest.npz": lambda: archive(LARGE, 2 * GIB, says=2 * GIB),
    "lying.npz": lambda: archive(LARGE, 2 * GIB, says=1000),
    "lying about 600 GiB.npz": lambda: archive(npy_head((600, GIB)), 0, says=1000),
    "overlapping.npz": lambda: archive(npy_head((10, 10**7)), 10**8, says=10**8, names=MEMBERS),
    "claims 600 GiB.npy": lambda: npy_head((600, GIB)) + bytes(100),
    "claims 900 MB.npy": lambda: npy_head((9, 10**8)) + bytes(100),
    "one line.csv": lambda: b"1," * 2**21 + b"1",
    "claims 12000 x 12000.png": lambda: png_head(12000),
    "is 9000 x 9000.png": lambda: PICTURES[0].replace(png_head(3, 2)[8:33], png_head(9000)[8:33]),
    "claims 2^40.tfrecord": lambda: struct.pack("<QI", 2**40, 0) + bytes(100),
    "claims 900 MB.tfrecord": lambda: struct.pack("<QI", 9 * 10**8, 0) + bytes(100),
}
CHILD = """
import json, resource, sys, time
from pathlib import Path
from experiments.common.data import datasets
from experiments.common.data.sources import idx, image_folder, tfrecord
from experiments.common.errors import InputError

readers = {
    ".idx": lambda path: idx.read(path, ndim=3),
    ".csv": lambda path: datasets.load(str(path)),
    ".npy": lambda path: datasets.load(str(path)),
    ".npz": lambda path: datasets.load(str(path)),
    ".png": image_folder._read_image,
    ".tfrecord": lambda path: list(tfrecord.read_tfrecord(path)),
}
import PIL.Image
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.perf_counter()
    try:
        readers[path.suffix](path)
        outcome = "read"
    except BaseException as error:
        outcome = type(error).__name__
    seconds = time.perf_counter() - start
    print(json.dumps([path.name, outcome, seconds, peak() - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs the /proc of Linux")
def test_bombs_are_refused_at_once_in_little_memory(tmp_path):
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
        assert (tmp_path / name).stat().st_size < 2**23
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row[0] for row in found} == BOMBS.keys()
    for name, outcome, seconds, memory in found:
        assert outcome == "InputError", name
        assert seconds < 2, name
        assert memory < GIB / 2, name


def test_zeros_are_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", np.zeros((1000, 28, 28), np.uint8))
    assert len(datasets.load(str(tmp_path / "zeros.npz")).train) == 800
