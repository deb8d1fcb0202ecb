"""Small IDX files for the tests: a writer, and the four files of a made-up data set."""

import gzip
import struct

import numpy as np


def idx_bytes(array):
    """Returns the IDX encoding of an array of unsigned bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def random_split(n, seed):
    """Returns images (n, 28, 28) that differ from each other, and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)


def write_four(folder, train=12, test=5, compress=True):
    """Writes the four files as the original distribution does, and returns the arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": random_split(train, 0), "t10k": random_split(test, 1)}
    for stem, (images, labels) in splits.items():
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            name = f"{stem}-{kind}" + (".gz" if compress else "")
            (folder / name).write_bytes(gzip.compress(data) if compress else data)
    return splits
