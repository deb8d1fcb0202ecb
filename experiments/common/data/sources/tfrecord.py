"""TFRecord files, read without TensorFlow."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from experiments.common.errors import InputError


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file: length, its checksum, bytes, their checksum.

    The lengths must add up to the file; the checksums are not verified.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while header := file.read(12):
            if len(header) < 12:
                raise InputError(f"{path} ends within a record header; is it truncated?")
            (length,) = struct.unpack("<Q", header[:8])
            if length + 4 > size - file.tell():
                raise InputError(f"{path} ends within a record; is it damaged or truncated?")
            yield file.read(length + 4)[:length]
