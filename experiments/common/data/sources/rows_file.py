"""A ``.npy`` file whose rows are read as they are asked for.

Unlike a memory-mapped file it takes no memory for what was read before, and a file that becomes
shorter in the meantime is an error in Python and not the end of the process.
"""

import math
import os
import threading
import weakref
from pathlib import Path
from typing import TypeAlias

import numpy as np

Rows: TypeAlias = slice | int | np.ndarray  # which rows: a slice, numbers or a mask
Stored: TypeAlias = "np.ndarray | RowsFile"


class NotByRowsError(ValueError):
    """A file is not in C order."""


class RowsFile:
    """Rows of an array in a file, with the shape, the dtype and the indexing of an array.

    Args:
      path: a ``.npy`` file in C order.

    Raises:
      OSError: if it cannot be opened.
      ValueError: if it is no such file, holds objects, or is shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "rb") as file:
            major, _ = np.lib.format.read_magic(file)
            headers = np.lib.format
            read = headers.read_array_header_1_0 if major == 1 else headers.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
            self._begin = file.tell()
            size = os.fstat(file.fileno()).st_size
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not read")
        if is_fortran or not shape:
            raise NotByRowsError(
                "it is not stored row by row (C order); "
                "numpy.save(path, numpy.ascontiguousarray(x)) stores it so"
            )
        if min(shape) < 0:
            raise ValueError(f"its header says {shape}")
        if self._begin + math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"its header says {shape} of {dtype}, but it has only {size} bytes")
        self._examples, self._example_shape, self.dtype = shape[0], shape[1:], dtype
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._turn = threading.Lock()
        weakref.finalize(self, self._file.close)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(n, *example)``."""
        return self._examples, *self._example_shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self._examples

    def reshape(self, *shape: int) -> "RowsFile":
        """Returns the same rows ``(n, *example)`` with examples of another shape."""
        if shape[0] != self._examples or math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"cannot make {self.shape} to {shape}")
        other = RowsFile(self._path)
        other._example_shape = shape[1:]
        return other

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Returns some rows: numbers of any shape, or a slice.

        Raises:
          OSError: if the file has become shorter.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self._examples))
        rows = np.asarray(rows)
        found = np.empty((rows.size, *self._example_shape), self.dtype)
        width = math.prod(self._example_shape) * self.dtype.itemsize
        buffer = memoryview(found.reshape(-1).view(np.uint8).data)
        wanted = rows.reshape(-1).tolist()
        for first, count in _stretches(wanted):
            at = wanted[first]
            if not 0 <= at <= at + count <= self._examples:
                raise IndexError(f"row {at} of {self._examples}")
            part = buffer[first * width : (first + count) * width]
            self._fill(part, self._begin + at * width)
        return found.reshape((*rows.shape, *self._example_shape))

    def _fill(self, buffer: memoryview, at: int) -> None:
        while len(buffer):
            count = self._read(buffer, at)
            if not count:
                raise OSError(f"{self._path} has become shorter while it is read")
            buffer, at = buffer[count:], at + count

    def _read(self, buffer: memoryview, at: int) -> int | None:
        """Fills the begin of a buffer with what the file has at a position, from any thread."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [buffer], at)
        with self._turn:  # Windows: the position belongs to the open file, not to the call
            self._file.seek(at)
            return self._file.readinto(buffer)


def _stretches(rows: list[int]) -> list[tuple[int, int]]:
    """Returns where runs of consecutive numbers begin in a list, and how long they are."""
    if not rows:
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = [0, *breaks.tolist()]
    return list(zip(starts, np.diff([*starts, len(rows)]).tolist(), strict=True))
