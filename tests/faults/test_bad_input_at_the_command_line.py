"""Bad input at the command line of every experiment: one line that says what is wrong, status 2.

Each row of the table: what is wrong, the experiment, its arguments, and a pattern of the line.
``{in}`` is a folder with the faulty files that are made below. Nothing is trained, and no row may
create or change a file.
"""

import gzip
import importlib
import json
import os
import re
import shutil
import struct
import zipfile

import jax
import numpy as np
import pytest
from idx_files import idx_bytes, write_four
from jax_settings import as_on_the_command_line

from experiments.common.data import datasets
from experiments.common.data.sources import tfds_prepare
from experiments.common.run import command_line

GREY = np.full((10, 4, 4), 0.5, np.float32)
IDX = idx_bytes(np.zeros((2, 3, 3), np.uint8))
LONG = "x" * 300

# The faulty files, by name


def npy(array):
    return lambda path: np.save(path, array, allow_pickle=True)


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def content(value):
    return lambda path: path.write_bytes(value)


def cut(make, size):
    """Returns a maker of the first ``size`` bytes of what ``make`` writes."""

    def write(path):
        make(path)
        path.write_bytes(path.read_bytes()[:size])

    return write


def claiming(shape):
    """Returns a maker of a short .npy file whose header claims a huge shape."""

    def write(path):
        with open(path, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(100))

    return write


def bomb(path):
    """Writes a small .npz file whose directory says that it expands to almost 4 GiB."""
    np.savez_compressed(path, x_train=GREY, x_test=GREY)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, raw.find(b"PK\x01\x02") + 24, 2**32 - 2)
    path.write_bytes(raw)


def zipped(**members):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)

    return write


def encrypted(path):
    np.savez(path, x_train=GREY, x_test=GREY)
    raw = bytearray(path.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.find(magic) + flags] |= 1
    path.write_bytes(raw)


FILES = {
    "empty.npy": content(b""),
    "text.npy": content(b"1,2,3"),
    "folder.npy": lambda path: path.mkdir(),
    "pipe.npy": os.mkfifo,
    "pipe.npz": os.mkfifo,
    "device.npy": lambda path: path.symlink_to("/dev/zero"),
    "loop.npy": lambda path: path.symlink_to(path),
    "locked.npy": lambda path: (npy(GREY)(path), path.chmod(0)),
    "cut.npy": cut(npy(GREY), 300),
    "header.npy": cut(npy(GREY), 30),
    "huge.npy": claiming((10, 4, 4_000_000_000)),
    "beyond.npy": claiming((2**62, 2**62)),
    "objects.npy": npy(np.array([{}, 3], object)),
    "ragged.npy": npy(np.array([[1.0], [1.0, 2.0]], object)),
    "int64.npy": npy(np.ones((9, 4), np.int64)),
    "int8.npy": npy(np.ones((9, 4), np.int8)),
    "words.npy": npy(np.full((9, 4), "a")),
    "complex.npy": npy(np.ones((9, 4), complex)),
    "dates.npy": npy(np.zeros((9, 4), "datetime64[D]")),
    "records.npy": npy(np.zeros((9, 4), [("a", "f4"), ("b", "f4")])),
    "nan.npy": npy(np.where(GREY > 0, np.nan, GREY)),
    "inf.npy": npy(np.full((9, 4), -np.inf)),
    "bytes.npy": npy(GREY * 255),
    "negative.npy": npy(GREY - 1),
    "scalar.npy": npy(np.zeros(())),
    "one_axis.npy": npy(np.zeros(9)),
    "five_axes.npy": npy(np.zeros((9, 1, 1, 1, 1))),
    "no_examples.npy": npy(np.zeros((0, 4))),
    "no_pixels.npy": npy(np.zeros((9, 0))),
    "few.npy": npy(np.zeros((4, 4))),
    "equal.npy": npy(np.zeros((20, 4, 4))),
    "small.npy": npy(np.tile(np.eye(4, dtype=np.float32), (10, 1, 1))),
    "strips.npy": npy(np.tile(np.eye(7, dtype=np.float32), (10, 1))),
    "one_pixel.npy": npy(np.tile(np.eye(2, dtype=np.float32)[0][:, None], (10, 1))),
    "no_zip.npz": content(b"PK"),
    "cut.npz": cut(npz(x_train=GREY, x_test=GREY), 500),
    "bomb.npz": bomb,
    "encrypted.npz": encrypted,
    "nothing.npz": npz(),
    "objects.npz": npz(x_train=np.array([{}], object), x_test=GREY),
    "odd.npz": npz(a=GREY, b=GREY),
    "no_test.npz": npz(x_train=GREY, x_tset=GREY, y_train=np.zeros(10, int)),
    "text_inside.npz": zipped(x_train="1,2,3", x_test="4,5,6"),
    "two_lines.npz": npz(**{"a\nb": GREY, "c": GREY}),
    "shapes.npz": npz(train=GREY, test=GREY[:, :2]),
    "words_as_labels.npz": npz(x_train=GREY, x_test=GREY, y_train=np.full(10, "a")),
    "fractions.npz": npz(x_train=GREY, x_test=GREY, y_train=np.full(10, 0.5)),
    "short_labels.npz": npz(x_train=GREY, x_test=GREY, y_train=np.ones(3, int)),
    "one_hot.npz": npz(x_train=GREY, x_test=GREY, y_test=np.eye(10, dtype=int)),
    "first.npy": npy(np.zeros((9, 3, 8, 8), np.float32)),
    "depth.npy": npy(np.ones((9, 4), np.uint16)),
    "ragged.csv": content(b"label,1x1\n1,2\n1,2,3\n"),
    "no_square.csv": content(b"1,2,3,4,5,6,7\n"),
    "no_images": lambda path: path.mkdir(),
    "images": lambda path: (path.mkdir(), (path / "x.PNG").write_bytes(b"no image")),
    "zipped": lambda path: (
        path.mkdir(),
        zipped(**{"train-images-idx3-ubyte": ""})(path / "a.zip"),
    ),
    "file": content(b"keep me"),
    "full": lambda path: (path / "metrics.json").mkdir(parents=True),
    "listing": lambda path: (path / ".files.json").mkdir(parents=True),
    "lock": lambda path: (path.mkdir(), (path / ".lock").write_text("of another program")),
    "no_checkpoints": lambda path: (path.mkdir(), (path / "checkpoints").write_text("a list")),
    "read_only": lambda path: path.mkdir(mode=0o500),
    "shared": lambda path: (path.mkdir(), path.chmod(0o777)),
    "theirs": lambda path: (
        (path.mkdir(), os.chown(path, 12345, 12345)) if os.geteuid() == 0 else path.symlink_to("/")
    ),
}

# Folders of IDX files, one of them damaged: its images of the train split


IDX_FILES = {
    "idx_empty": b"",
    "idx_text": b"hello, this is no IDX file",
    "idx_of_labels": idx_bytes(np.zeros(9, np.uint8)),
    "idx_of_floats": bytes((0, 0, 13, 3)) + IDX[4:],
    "idx_header": IDX[:9],
    "idx_cut": IDX[:-1],
    "idx_more": IDX + b"x",
    "idx_huge": struct.pack(">IIII", 0x803, *3 * [2**32 - 1]),
    "idx_none": struct.pack(">IIII", 0x803, 0, 28, 28),
    "idx_cut_gzip": gzip.compress(IDX)[:-9],
    "idx_bad_gzip": b"\x1f\x8b" + b"\x00" * 40,
    "idx_bad_checksum": gzip.compress(IDX)[:-8] + b"12345678",
}


def make_idx(folder):
    good = folder / "idx"
    write_four(good)
    for name, damaged in IDX_FILES.items():
        shutil.copytree(good, folder / name)
        (folder / name / "train-images-idx3-ubyte.gz").write_bytes(damaged)
    shutil.copytree(good, folder / "idx_three")
    (folder / "idx_three" / "t10k-labels-idx1-ubyte.gz").unlink()
    shutil.copytree(good, folder / "idx_labels")
    (folder / "idx_labels" / "train-labels-idx1-ubyte.gz").write_bytes(
        idx_bytes(np.zeros(7, np.uint8))
    )


# Folders prepared by TensorFlow Datasets with one fault each, of the folder and its train shard


def change_train(**changes):
    def write(folder, _):
        info = json.loads((folder / "dataset_info.json").read_text())
        next(split for split in info["splits"] if split["name"] == "train").update(changes)
        (folder / "dataset_info.json").write_text(json.dumps(info))

    return write


def as_tfrecord(raw):
    def write(folder, _):
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
        for path in list(folder.glob("*array_record*")):
            path.unlink()
            path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(raw)

    return write


def without_image(folder, _):
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"].pop("image")
    (folder / "features.json").write_text(json.dumps(features))


TFDS = {
    "tfds_no_shard": lambda _, shard: shard.unlink(),
    "tfds_cut": lambda _, shard: shard.write_bytes(shard.read_bytes()[:-200]),
    "tfds_empty": lambda _, shard: shard.write_bytes(b""),
    "tfds_noise": lambda _, shard: shard.write_bytes(bytes(range(256)) * 600),
    "tfds_bad_info": lambda folder, _: (folder / "dataset_info.json").write_text("{"),
    "tfds_bad_features": lambda folder, _: (folder / "features.json").write_text("[3"),
    "tfds_no_features": lambda folder, _: (folder / "features.json").unlink(),
    "tfds_no_info": lambda folder, _: (folder / "dataset_info.json").unlink(),
    "tfds_no_image": without_image,
    "tfds_no_train": change_train(name="other"),
    "tfds_fewer": change_train(shardLengths=["29"]),
    "tfds_record_header": as_tfrecord(b"\x05"),
    "tfds_record_cut": as_tfrecord(struct.pack("<QI", 100, 0) + b"short"),
    "tfds_record_huge": as_tfrecord(struct.pack("<QI", 2**63, 0) + b"short"),
    "tfds_record_text": as_tfrecord(struct.pack("<QI", 5, 0) + b"hello" + bytes(4)),
    "tfds_no_records": as_tfrecord(b""),
}


def make_tfds(folder, cache):
    """Prepares MNIST from IDX files without a network, then damages copies of it."""
    import tensorflow_datasets as tfds

    builder = tfds_prepare._idx_builder(tfds.builder_cls("mnist"))
    builder._split_generators = lambda self, manager: {
        split: tfds_prepare._idx_examples(files)
        for split, files in tfds_prepare.idx.find(folder / "idx", "mnist").items()
    }
    builder(data_dir=folder / "tfds", file_format="array_record").download_and_prepare()
    for name, damage in TFDS.items():
        shutil.copytree(folder / "tfds", folder / name)
        version = folder / name / "mnist" / "3.0.1"
        damage(version, next(version.glob("*train*array_record*")))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The folder with all faulty files."""
    folder = tmp_path_factory.mktemp("in")
    for name, make in FILES.items():
        make(folder / name)
    make_idx(folder)
    make_tfds(folder, tmp_path_factory.mktemp("cache"))
    return folder


# The table

NUMBERS = """
no epochs           | denoising         | --epochs 0               | --epochs must be at least 1 and at most 1000000, but it is 0$
too many epochs     | sparse            | --epochs 1000001         | --epochs must be .* but it is 1000001
negative batch      | denoising         | --batch-size -3          | --batch-size must be at least 1 .* but it is -3
huge batch          | vector_field      | --batch-size 99999999999 | --batch-size must be at least 1 and at most
no seeds            | contractive       | --num-seeds 0            | --num-seeds must be at least 1
too many seeds      | overcomplete_copy | --num-seeds 9999999      | --num-seeds must be .* at most 1000, but
negative seed       | denoising         | --seed -1                | --seed must be at least 0 and at most 4294967295, but it is -1
seed too large      | lecture           | --seed 4294967296        | --seed must be at least 0 and at most
zero rate           | denoising         | --learning-rate 0        | --learning-rate must be a finite number above 0
NaN rate            | sparse            | --learning-rate nan      | --learning-rate must be .* but it is nan
infinite rate       | vector_field      | --learning-rate inf      | --learning-rate must be .* but it is inf
rate of divergence  | denoising         | --learning-rate 1e30     | above 0 and at most 10, but it is 1e.30
dimension 0         | denoising         | --code-dims 8 0          | --code-dims must be at least 1 .* but it is 0
dimension too large | denoising         | --code-dims 99999999     | --code-dims must be at least 1 and at most
dimension twice     | denoising         | --code-dims 8 8          | --code-dims must be different values.*\\[8, 8\\]
no dimensions       | denoising         | --code-dims              | --code-dims must name at least one value
negative noise      | denoising         | --noise-levels -0.5      | --noise-levels must be a finite number at least 0
NaN noise           | denoising         | --noise-levels nan       | --noise-levels must be a finite number
no noise levels     | denoising         | --noise-levels           | --noise-levels must name at least one value
noise twice         | denoising         | --noise-levels 1 1       | --noise-levels must be different values
noise of 1e39       | denoising         | --noise-levels 1e39      | --noise-levels must be .* at most 1000
rate above 1        | denoising         | --corruption masking --noise-levels 1.5       | at most 1, but it is 1.5
salt above 1        | denoising         | --corruption salt-and-pepper --noise-levels 2 | at most 1, but it is 2
L1 not from 0       | sparse            | --sparsity-weights 0.1 0.2                    | --sparsity-weights must start with 0
L1 falling          | sparse            | --sparsity-weights 0 0.2 0.1                  | --sparsity-weights must start with 0
L1 only 0           | sparse            | --sparsity-weights 0     | --sparsity-weights must start with 0
no L1               | sparse            | --sparsity-weights       | --sparsity-weights must start with 0
NaN L1              | sparse            | --sparsity-weights 0 nan | --sparsity-weights must be a finite number
infinite L1         | sparse            | --sparsity-weights 0 inf | --sparsity-weights must be a finite number
too many kept       | sparse            | --top-k 129              | --top-k must be at most 128
more kept than made | sparse            | --code-dim 8 --top-k 9   | --top-k must be at least 1 and at most 8
none kept           | sparse            | --top-k 0                | --top-k must be at least 1
no top k            | sparse            | --top-k                  | --top-k must name at least one value
one unit            | sparse            | --code-dim 1             | --code-dim must be at least 2
one unit            | contractive       | --code-dim 1             | --code-dim must be at least 2
too many units      | contractive       | --code-dim 4097          | --code-dim must be .* at most 4096
no weights          | contractive       | --weights                | --weights must be values that rise
weights falling     | contractive       | --weights 1 0.3          | --weights must be values that rise
weight twice        | contractive       | --weights 1 1            | --weights must be values that rise
weight 0            | contractive       | --weights 0 1            | --weights must be a finite number above 0
infinite weight     | contractive       | --weights 1 inf          | --weights must be a finite number
another weight      | contractive       | --weight 0.2             | --weight must be one of .* but it is 0.2
NaN weight          | contractive       | --weight nan             | --weight must be one of .* but it is nan
NaN noise           | contractive       | --noise nan              | --noise must be a finite number above 0
no noise            | dae_vs_cae        | --noise 0                | --noise must be a finite number above 0
no race             | dae_vs_cae        | --race-seeds 0           | --race-seeds must be at least 1
too many races      | dae_vs_cae        | --race-seeds 1001        | --race-seeds must be .* at most 1000
code too small      | overcomplete_copy | --code-dim 63            | --code-dim must be at least 64, the number of inputs
code too large      | overcomplete_copy | --code-dim 99999999      | --code-dim must be .* at most 65536
no noise            | overcomplete_copy | --noise-stddev 0         | --noise-stddev must be a finite number above 0
negative L1         | overcomplete_copy | --sparsity-weight -1     | --sparsity-weight must be a finite number above 0
infinite penalty    | overcomplete_copy | --contraction-weight inf | --contraction-weight must be a finite number
large blocks        | overcomplete_copy | --pool 9                 | --pool must be at most 8, a side of the images, not 9
no blocks           | overcomplete_copy | --pool 0                 | --pool must be at least 1
no jobs             | lecture           | --jobs 0                 | --jobs must be at least 1
too many jobs       | lecture           | --jobs 65                | --jobs must be at least 1 and at most 64
too little memory   | denoising         | --memory 0.5             | --memory must be a finite number at least 1, but it is 0.5
NaN of memory       | lecture           | --memory nan             | --memory must be a finite number
hosts without index | denoising         | --distributed a:1,2      | --distributed must be auto, or ADDRESS:PORT.*but it is a:1,2$
port too large      | denoising         | --distributed a:70000,2,0 | --distributed must have a port from 1 to 65535, but it is a:70000,2,0$
index beyond hosts  | sparse            | --distributed a:1,2,2    | a:1,2,2 is process 2 of 2; they are counted from 0
hosts and devices   | contractive       | --distributed auto --devices 2                | --distributed takes all there are
hosts of a lecture  | lecture           | --distributed a:1,2,0    | --distributed is for one experiment at a time
bfloat16 on a CPU   | denoising         | --products bfloat16      | --products bfloat16 is for accelerators
"""  # noqa: E501
FILES_OF_USERS = """
missing             | denoising         | --dataset nowhere/x.npy          | --dataset nowhere/x.npy does not exist$
missing             | lecture           | --dataset nowhere/x.npy          | --dataset nowhere/x.npy does not exist$
name too long       | sparse            | --dataset {long}.npy             | cannot be read as .npy: .*File name too long
leading dash        | contractive       | --dataset=-x.npy                 | --dataset -x.npy does not exist
link to itself      | dae_vs_cae        | --dataset {in}/loop.npy          | cannot be read as .npy: .*symbolic links
empty               | overcomplete_copy | --dataset {in}/empty.npy         | cannot be read as .npy: No data left in file
text                | lecture           | --dataset {in}/text.npy          | cannot be read as .npy
folder              | denoising         | --dataset {in}/folder.npy        | cannot be read as .npy: it is no regular file
named pipe          | sparse            | --dataset {in}/pipe.npy          | cannot be read as .npy: it is no regular file
named pipe          | lecture           | --dataset {in}/pipe.npz          | cannot be read as .npz: it is no regular file
device              | contractive       | --dataset {in}/device.npy        | cannot be read as .npy: it is no regular file
no permission       | denoising         | --dataset {in}/locked.npy        | cannot be read as .npy: .*Permission denied
ends in the data    | dae_vs_cae        | --dataset {in}/cut.npy           | cannot be read as .npy
ends in the header  | overcomplete_copy | --dataset {in}/header.npy        | cannot be read as .npy
claims 640 GB       | denoising         | --dataset {in}/huge.npy          | cannot be read as .npy
claims 2^124 pixels | sparse            | --dataset {in}/beyond.npy        | cannot be read as .npy
objects             | contractive       | --dataset {in}/objects.npy       | Object arrays cannot be loaded
ragged              | dae_vs_cae        | --dataset {in}/ragged.npy        | Object arrays cannot be loaded
int64               | overcomplete_copy | --dataset {in}/int64.npy         | \\(train\\) must be uint8 .* but it is int64
int8                | lecture           | --dataset {in}/int8.npy          | must be uint8 in \\[0, 255\\] or floating .* int8
words               | denoising         | --dataset {in}/words.npy         | must be uint8 .* but it is <U1
complex             | sparse            | --dataset {in}/complex.npy       | but it is complex128
dates               | contractive       | --dataset {in}/dates.npy         | but it is datetime64
records             | dae_vs_cae        | --dataset {in}/records.npy       | must be uint8 .* but it is \\[\\('a'
NaN                 | overcomplete_copy | --dataset {in}/nan.npy           | must be finite, but 160 values are NaN or infinite
infinite            | lecture           | --dataset {in}/inf.npy           | must be finite, but 36 values
0 to 255 as floats  | denoising         | --dataset {in}/bytes.npy         | must lie in \\[0, 1\\].*127.5
negative            | sparse            | --dataset {in}/negative.npy      | must lie in \\[0, 1\\], but it spans \\[-0.5
channels first      | sparse            | --dataset {in}/first.npy         | np.moveaxis\\(x, 1, -1\\)
16 bits             | denoising         | --dataset {in}/depth.npy         | must be uint8 .* x / 65535 where
no CSV              | lecture           | --dataset nowhere/x.CSV          | --dataset nowhere/x.CSV does not exist$
ragged CSV          | contractive       | --dataset {in}/ragged.csv        | ragged.csv line 3 has 3 values, but the first line 2
CSV of no squares   | dae_vs_cae        | --dataset {in}/no_square.csv     | name the columns in its first line
folder of nothing   | sparse            | --dataset {in}/no_images/        | holds no PNG or JPEG images.* are for --data-dir
folder of IDX files | overcomplete_copy | --dataset {in}/idx               | holds no PNG or JPEG images.* are for --data-dir
no image in it      | lecture           | --dataset {in}/images            | x.PNG cannot be read as an image
address             | contractive       | --dataset https://example.org/x.csv | --dataset https:.*x.csv is an address; only files of this machine
address of a folder | lecture           | --dataset file:///home/me/images | --dataset file:///home/me/images is an address
another file        | denoising         | --dataset {in}/file              | is a file, but of files only
no home             | sparse            | --dataset ~nobody-here/x.npy     | there is no such home folder; write the path without ~
scalar              | contractive       | --dataset {in}/scalar.npy        | must be images .* but its shape is \\(\\)
one axis            | dae_vs_cae        | --dataset {in}/one_axis.npy      | must be images \\(n, d\\).*\\(9,\\)
five axes           | overcomplete_copy | --dataset {in}/five_axes.npy     | must be images
no examples         | lecture           | --dataset {in}/no_examples.npy   | with n >= 1.*\\(0, 4\\)
no pixels           | denoising         | --dataset {in}/no_pixels.npy     | must be images .*\\(9, 0\\)
too few             | sparse            | --dataset {in}/few.npy           | at least 5 examples, but it has 4
all equal           | overcomplete_copy | --dataset {in}/equal.npy         | images are all equal
small images        | overcomplete_copy | --dataset {in}/small.npy --pool 5 | --pool must be at most 4
strips              | contractive       | --dataset {in}/strips.npy        | need 2 x 2 pixels, not 1 x 7
one pixel           | overcomplete_copy | --dataset {in}/one_pixel.npy     | must have at least 2 pixels
one pixel           | sparse            | --dataset {in}/one_pixel.npy     | --top-k must be at most 2
no zip              | contractive       | --dataset {in}/no_zip.npz        | cannot be read as .npz
truncated zip       | dae_vs_cae        | --dataset {in}/cut.npz           | cannot be read as .npz
bomb                | overcomplete_copy | --dataset {in}/bomb.npz          | it expands to 429496\\d+ bytes
encrypted           | lecture           | --dataset {in}/encrypted.npz     | cannot be read as .npz: .*encrypted
nothing inside      | denoising         | --dataset {in}/nothing.npz       | but it holds nothing
objects inside      | sparse            | --dataset {in}/objects.npz       | Object arrays cannot be loaded
odd names           | contractive       | --dataset {in}/odd.npz           | must hold x_train and x_test.*but it holds a, b
no test split       | dae_vs_cae        | --dataset {in}/no_test.npz       | but it holds x_train, x_tset, y_train
text inside         | overcomplete_copy | --dataset {in}/text_inside.npz   | must hold x_train and x_test
shapes differ       | lecture           | --dataset {in}/shapes.npz        | train images are \\(4, 4, 1\\), but test \\(2, 4, 1\\)
words as labels     | denoising         | --dataset {in}/words_as_labels.npz | must have integer labels, but they are <U1
fractions as labels | sparse            | --dataset {in}/fractions.npz     | must have integer labels, but they are float64
labels differ       | contractive       | --dataset {in}/short_labels.npz  | has 10 images, but labels of shape \\(3,\\)
one-hot labels      | dae_vs_cae        | --dataset {in}/one_hot.npz       | has 10 images, but labels of shape \\(10, 10\\)
a folder beside it  | denoising         | --dataset x.npy --data-dir .     | --data-dir is for named data sets
a folder of digits  | lecture           | --dataset digits --data-dir .    | --data-dir is for named data sets
"""  # noqa: E501
NAMED = """
folder of addresses | denoising         | --dataset mnist --data-dir s3://bucket | --data-dir s3:/+bucket is an address
near MNIST          | denoising         | --dataset mnits                  | --dataset mnits is unknown.*did you mean mnist
far from anything   | sparse            | --dataset qqqqzzzz               | is unknown: allowed are digits
no name             | contractive       | --dataset=                       | --dataset has an empty value
path of no array    | dae_vs_cae        | --dataset no/such/file.txt       | is unknown
above the folder    | lecture           | --dataset mnist/../../x          | --dataset mnist/../../x is unknown
IDX in a zip file   | contractive       | --dataset mnist --data-dir {in}/zipped | holds a.zip; unpack it there$
folder with a name  | dae_vs_cae        | --dataset {in}/images --data-dir {in}/idx | --data-dir is for named data sets
home of nobody      | denoising         | --dataset mnist --data-dir ~nobody-here/x | --data-dir ~nobody-here/x: there is no such home folder
config ..           | denoising         | --dataset mnist/..               | mnist has no configs
needs TensorFlow    | overcomplete_copy | --dataset cifar10 --data-dir {in}/idx | needs TensorFlow once: pip install tensorflow
odd config          | denoising         | --dataset emnist/nonsense        | emnist has the configs .*letters
no folder           | sparse            | --dataset mnist --data-dir nowhere  | --data-dir nowhere is not a folder
a file              | contractive       | --dataset mnist --data-dir {in}/file | file is not a folder
name too long       | dae_vs_cae        | --dataset mnist --data-dir {long} | --dataset mnist cannot be read: .*name too long
IDX empty           | denoising         | --dataset mnist --data-dir {in}/idx_empty        | train-images.* has the magic number 0x,
IDX text            | sparse            | --dataset mnist --data-dir {in}/idx_text         | magic number 0x68656c6c, but an IDX file
IDX of labels       | contractive       | --dataset mnist --data-dir {in}/idx_of_labels    | starts with 0x00000803
IDX of floats       | dae_vs_cae        | --dataset mnist --data-dir {in}/idx_of_floats    | magic number 0x00000d03
IDX header          | overcomplete_copy | --dataset mnist --data-dir {in}/idx_header       | ends within its header
IDX truncated       | lecture           | --dataset mnist --data-dir {in}/idx_cut          | should hold 18 bytes .* \\[2, 3, 3\\], but there are only 17
IDX left over       | denoising         | --dataset mnist --data-dir {in}/idx_more         | but there are more
IDX of 2^96 bytes   | sparse            | --dataset mnist --data-dir {in}/idx_huge         | has the sizes \\[4294967295, .* must be 1 to
IDX of no images    | contractive       | --dataset mnist --data-dir {in}/idx_none         | has the sizes \\[0, 28, 28\\]
IDX truncated gzip  | dae_vs_cae        | --dataset mnist --data-dir {in}/idx_cut_gzip     | cannot be read
IDX damaged gzip    | overcomplete_copy | --dataset mnist --data-dir {in}/idx_bad_gzip     | cannot be read
IDX bad checksum    | lecture           | --dataset mnist --data-dir {in}/idx_bad_checksum | cannot be read: CRC check failed
IDX three of four   | denoising         | --dataset mnist --data-dir {in}/idx_three        | but not t10k-labels-idx1-ubyte
IDX other labels    | sparse            | --dataset mnist --data-dir {in}/idx_labels       | holds 12 images, but .* 7 labels
IDX of no relative  | lecture           | --dataset cifar10 --data-dir {in}/idx            | cifar10 is not prepared in
no network          | denoising         | --dataset mnist --data-dir {in}/tfds/mnist/3.0.1/none | is not a folder
another version     | contractive       | --dataset mnist:9.9.9 --data-dir {in}/tfds       | mnist:9.9.9 is not prepared .*; prepared there is mnist:3.0.1; it has the version 3.0.1$
another data set    | dae_vs_cae        | --dataset kmnist --data-dir {in}/tfds/mnist/3.0.1 | holds mnist, but --dataset is kmnist
shard missing       | overcomplete_copy | --dataset mnist --data-dir {in}/tfds_no_shard    | is missing; prepare the data set mnist again
shard truncated     | lecture           | --dataset mnist --data-dir {in}/tfds_cut         | mnist-train.* cannot be decoded
shard empty         | denoising         | --dataset mnist --data-dir {in}/tfds_empty       | mnist-train
shard of noise      | sparse            | --dataset mnist --data-dir {in}/tfds_noise       | mnist-train
damaged info        | contractive       | --dataset mnist --data-dir {in}/tfds_bad_info    | cannot be read as a prepared data set
damaged features    | dae_vs_cae        | --dataset mnist --data-dir {in}/tfds_bad_features | cannot be read as a prepared data set
no features         | overcomplete_copy | --dataset mnist --data-dir {in}/tfds_no_features | holds no features.json; copy it there
no information      | sparse            | --dataset mnist --data-dir {in}/tfds_no_info     | but not dataset_info.json; copy it there
no image            | lecture           | --dataset mnist --data-dir {in}/tfds_no_image    | holds no images, but label
no split train      | denoising         | --dataset mnist --data-dir {in}/tfds_no_train    | has no split named train, but
fewer than stored   | sparse            | --dataset mnist --data-dir {in}/tfds_fewer       | holds 12 examples of 29|cannot be decoded
record header       | contractive       | --dataset mnist --data-dir {in}/tfds_record_header | ends within a record header
record truncated    | dae_vs_cae        | --dataset mnist --data-dir {in}/tfds_record_cut  | ends within a record;
record of 2^63      | overcomplete_copy | --dataset mnist --data-dir {in}/tfds_record_huge | ends within a record;
record of text      | lecture           | --dataset mnist --data-dir {in}/tfds_record_text | cannot be decoded
no records          | denoising         | --dataset mnist --data-dir {in}/tfds_no_records  | cannot be decoded|holds 0 examples
"""  # noqa: E501
FOLDERS = """
out is a file       | denoising         | --out {in}/file          | --out .*/file cannot be written as a folder
out under a file    | sparse            | --out {in}/file/below    | --out .*/below cannot be written as a folder: Not a directory
out is a device     | vector_field      | --out /dev/null          | --out /dev/null cannot be written as a folder
out not to be made  | contractive       | --out /proc/new/folder   | --out /proc/new/folder cannot be written as a folder
out too long        | dae_vs_cae        | --out {long}             | cannot be written as a folder: File name too long
out is read-only    | overcomplete_copy | --out {in}/read_only/new | Permission denied
out is a file       | lecture           | --out {in}/file          | --out .*/file cannot be written as a folder
out has a folder    | denoising         | --out {in}/full          | has a folder named metrics.json; move it away$
out has a folder    | vector_field      | --out {in}/listing       | has a folder named .files.json; move it away$
out has a folder    | lecture           | --out {in}/full          | has a folder named metrics.json; move it away$
out is an address   | sparse            | --out gs://bucket/results | --out gs:/+bucket/results is an address; only files of this machine
lock of another     | denoising         | --out {in}/lock          | .lock is there, and no lock of this program.*; move it away$
file checkpoints    | denoising         | --out {in}/no_checkpoints | has checkpoints, which is no folder that can be written
cache is a file     | denoising         | --compilation-cache {in}/file       | --compilation-cache .* cannot be made a folder
cache under a file  | lecture           | --compilation-cache {in}/file/below | cannot be made a folder: Not a directory
cache not made      | sparse            | --compilation-cache /proc/new       | cannot be made a folder
cache too long      | contractive       | --compilation-cache {long}          | cannot be made a folder: File name too long
cache of everybody  | dae_vs_cae        | --compilation-cache {in}/shared     | can be written by others
cache of another    | vector_field      | --compilation-cache {in}/theirs     | belongs to another user
"""  # noqa: E501
MISTYPED = """
unknown option      | denoising         | --epoch-count 3          | epoch-count
no number           | denoising         | --epochs three           | three
a fraction          | sparse            | --seed 1.5               | 1.5
no value            | contractive       | --out                    | out
unknown word        | denoising         | --corruption fog         | fog
unknown word        | lecture           | --products float8        | float8
number with comma   | sparse            | --top-k 4,8              | 4,8
words for weights   | contractive       | --weights low high       | low
option of another   | vector_field      | --code-dim 3             | code-dim
left over           | dae_vs_cae        | extra                    | extra
value of a flag     | lecture           | --again yes              | yes
"""


def table(text):
    """Returns the rows of a table as parameters of a test."""
    rows = [[part.strip() for part in line.split("|", 3)] for line in text.strip().splitlines()]
    return [
        pytest.param(script, args.split(), match, id=f"{script}-{name.replace(' ', '_')}")
        for name, script, args, match in rows
    ]


ROWS = [row for text in (NUMBERS, FILES_OF_USERS, NAMED, FOLDERS) for row in table(text)]


def listing(folder):
    """Returns everything below a folder with kind, size and time of change.

    A folder has no time: a damaged shard is noticed on the way into the cache, and what was made
    there is removed.
    """
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        changed = 0 if path.is_dir() else status.st_mtime_ns
        found[str(path)] = status.st_mode, status.st_size, changed
    return found


@pytest.fixture
def folders(inputs, tmp_path, monkeypatch):
    """Where a row may look, and a check that it has left everything as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds_prepare, "_reachable", lambda url: False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tensorflow_datasets"))
    before = listing(inputs) | listing(tmp_path)
    with as_on_the_command_line():
        yield {"in": inputs, "long": LONG}
    assert listing(inputs) | listing(tmp_path) == before, "a file was created or changed"


def run(script, args, folders):
    module = importlib.import_module(f"experiments.{script}")
    given = [word.format_map(folders) for word in args]
    if not any(word.startswith("--dataset") for word in given) and script != "vector_field":
        given = ["--dataset", "digits", *given]
    if "--out" not in given:
        given = ["--out", "results/here", *given]
    return command_line.run(module.main, module.Config, given)


@pytest.mark.parametrize(("script", "args", "match"), ROWS)
def test_bad_input_is_one_line_and_status_2(script, args, match, folders, capsys):
    if "bfloat16" in args and jax.default_backend() != "cpu":
        pytest.skip("an accelerator has these products")
    if os.geteuid() == 0 and match.endswith("Permission denied"):
        pytest.skip("root may read and write everything")
    assert run(script, args, folders) == 2
    shown = capsys.readouterr().err
    assert shown.endswith("\n")
    (line,) = shown.splitlines()
    assert line.startswith("error: ")
    assert re.search(match, line)
    assert "Traceback" not in line


@pytest.mark.parametrize(("script", "args", "word"), table(MISTYPED))
def test_mistyped_options_show_the_parsers_usage(script, args, word, folders, capsys):
    with pytest.raises(SystemExit) as caught:
        run(script, args, folders)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert "Traceback" not in shown


def test_a_name_in_a_message_breaks_no_line_and_moves_no_cursor(folders, capsys):
    for name in ("a\nb.npy", "\x1b[31mred", "\u202eypn.x", "a\rerror: fine.npy", "\udcff.npy"):
        assert run("denoising", [f"--dataset={name}"], folders) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.isprintable()
        assert line.startswith("error: --dataset ")
    assert run("denoising", ["--dataset", "{in}/two_lines.npz"], folders) == 2
    assert "\\n" in capsys.readouterr().err


def test_the_help_ends_in_a_narrow_terminal(folders, capsys, monkeypatch):
    """The parser alone breaks lines for ever there."""
    for columns in ("1", "39"):
        monkeypatch.setenv("COLUMNS", columns)
        for args, status, shown in ((["--help"], 0, "--batch-size"), (["--epo", "3"], 2, "--epo")):
            with pytest.raises(SystemExit) as caught:
                run("denoising", args, folders)
            assert caught.value.code == status
            assert shown in "".join(capsys.readouterr())
        assert os.environ["COLUMNS"] == columns


def test_fortran_order_is_fine(tmp_path):
    images = np.random.default_rng(0).uniform(size=(10, 3, 4)).astype(np.float32)
    for name, order in (("c", "C"), ("fortran", "F")):
        np.save(tmp_path / f"{name}.npy", np.asarray(images, order=order))
    found = [datasets.load(str(tmp_path / f"{name}.npy")) for name in ("c", "fortran")]
    assert found[0].fingerprint() == found[1].fingerprint()
