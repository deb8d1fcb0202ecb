"""Images that stay as they are stored, and become pixels in [0, 1] as they are asked for.

What cannot become such pixels, as NaN or numbers beyond the range, is refused here.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from experiments.common.data.sources.rows_file import Rows, Stored
from experiments.common.errors import InputError

_PIECE_BYTES = 2**24  # of float32 pixels that are in memory at a time


class Pixels:
    """A split of a data set, in an order of its own, that need not be in memory.

    It has the shape, the dtype and the rows of an array; NumPy makes it one where it must.

    Args:
      stored: images ``(n, h, w, c)``, uint8, bool or floating in [0, 1]; an array, or what is
        indexed like one.
      order: which of the stored images are its rows, and in which order ``(m,)``.
      example_shape: shape in which an image is given out.
      is_clipped: whether stored values beyond [0, 1] are given out as 0 and 1.
    """

    def __init__(
        self,
        stored: Stored,
        order: np.ndarray,
        example_shape: tuple[int, ...],
        *,
        is_clipped: bool = False,
    ) -> None:
        self._stored, self._order, self._example_shape = stored, order, example_shape
        self._is_clipped = is_clipped

    dtype = np.dtype(np.float32)

    @property
    def order(self) -> np.ndarray:
        """Which of the stored images are the rows ``(m,)``."""
        return self._order

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(m, *example)``."""
        return len(self._order), *self._example_shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, were they in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Returns some rows: a slice of them, numbers ``(k,)``, a mask, or one."""
        found = as_pixels(np.asarray(self._stored[self._order[rows]]))
        if self._is_clipped:
            found = np.clip(found, 0, 1)
        return found.reshape(*found.shape[:-3], *self._example_shape)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("pixels are stored in another form, and must be copied")
        whole = np.empty(self.shape, np.float32)
        for begin, piece in self.pieces():
            whole[begin : begin + len(piece)] = piece
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        for _, piece in self.pieces():
            yield from piece

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields all rows in turn, some MiB at a time, each piece with its first row."""
        rows = rows_in(_PIECE_BYTES, self._example_shape)
        for begin in range(0, len(self), rows):
            yield begin, self[begin : begin + rows]

    def flat(self) -> "Pixels":
        """Returns the same images as rows ``(m, d)``."""
        shape = (math.prod(self._example_shape),)
        return Pixels(self._stored, self._order, shape, is_clipped=self._is_clipped)

    def subset(self, rows: np.ndarray) -> "Pixels":
        """Returns some of the rows, without reading them."""
        order = self._order[rows]
        return Pixels(self._stored, order, self._example_shape, is_clipped=self._is_clipped)


def rows_in(most_bytes: int, example_shape: Sequence[int]) -> int:
    """Returns how many float32 examples there are in so many bytes, at least one."""
    return max(1, most_bytes // (4 * math.prod(example_shape)))


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Returns float32 in [0, 1]: integers are 8-bit, floats are there already."""
    if images.dtype == np.uint8:
        found = images.astype(np.float32)
        found /= np.float32(255)
        return found
    with np.errstate(over="ignore"):  # what does not fit is infinite, and refused
        return images.astype(np.float32, copy=False)


def canonical(source: str, images: Stored, labels: np.ndarray | None) -> Pixels:
    """Returns images ``(n, h, w, c)`` sorted by a digest of their pixels, ties by their label.

    One pass over the images, some MiB at a time. Values that leave [0, 1] by no more than a
    rounding error are clipped.

    Raises:
      InputError: naming the source, if they are no pixels in [0, 1].
    """
    if images.dtype not in (np.uint8, np.bool_) and not np.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"{source} must be uint8 in [0, 255] or floating in [0, 1], but it is {images.dtype}"
            f"{_as_allowed(images.dtype)}"
        )
    as_stored = Pixels(images, np.arange(len(images)), images.shape[1:])
    digests = np.empty((len(images), 2), ">u8")
    bad, low, high = 0, np.float32(np.inf), np.float32(-np.inf)
    for begin, piece in as_stored.pieces():
        bad += int(np.sum(~np.isfinite(piece)))
        low, high = min(low, piece.min()), max(high, piece.max())
        if low < 0 or high > 1:
            piece = np.clip(piece, 0, 1)
        for row, pixels in enumerate(piece, start=begin):
            digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
            digests[row] = np.frombuffer(digest, ">u8")
    if bad:
        raise InputError(f"{source} must be finite, but {bad} values are NaN or infinite")
    beyond = max(-low, high - 1)
    if beyond > _rounding_error(images.dtype):
        raise InputError(
            f"{source} must lie in [0, 1], but it spans [{low!s}, {high!s}]; "
            "scale it, or store it as uint8"
        )
    if images.dtype == np.uint8 and high == np.float32(1) / np.float32(255):
        raise InputError(
            f"{source} has only the values 0 and 1 of 255, which is black; multiply it by 255, or "
            "store it as bool"
        )
    classes = np.zeros(len(images), np.int64) if labels is None else labels
    order = np.lexsort((classes, digests[:, 1], digests[:, 0]))
    return Pixels(images, order, images.shape[1:], is_clipped=bool(beyond > 0))


def _as_allowed(dtype: np.dtype) -> str:
    """Returns how to make pixels of other integers, after a semicolon."""
    if dtype.kind not in "iu":
        return ""
    return (
        "; x.astype(numpy.uint8) where they are in [0, 255], or x / 65535 where they have 16 bits"
    )


def _rounding_error(dtype: np.dtype) -> float:
    """Returns by how much a pixel may leave [0, 1]; float64 may have been float32 before."""
    is_half = dtype.kind == "f" and dtype.itemsize == 2
    return 4 * float(np.finfo(np.float16 if is_half else np.float32).eps)


def update(digest: "hashlib._Hash", images: "np.ndarray | Pixels") -> None:
    """Adds all pixels, in order, to a digest."""
    pieces = images.pieces() if isinstance(images, Pixels) else [(0, images)]
    for _, piece in pieces:
        digest.update(np.ascontiguousarray(piece).data)
