r"""Data that do not fit into memory: read in pieces, ahead of the training that uses them.

Contract of this module. A source stays where it is; :func:`jaxae.fit` and
:func:`jaxae.fit_many` take a :class:`Streamed` or :class:`StreamedBatches` in the place of the
array ``x``, and run the same step on it. A thread reads the next batches and puts them on the
device while the device trains on the last ones; two windows of 32 MiB are in memory at a time for
each model that trains by itself, however large the source is. These classes hold no file open and
know no format: they ask the source for rows, and the source does the reading.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import _checks


class Streamed:
    """Data of which any rows can be had: shuffled and cut as an array would be, to the same bits.

    Every epoch has the order of :func:`jaxae.shuffled_order`, of which only the part that is
    being read is computed; a run therefore goes on in the middle of an epoch without reading
    what is behind it. With several hosts each reads only the rows of its own devices.

    Args:
      source: examples by number. Whatever has a shape and a dtype (a memory-mapped array of
        NumPy, say) is asked for many rows at a time, ``source[rows]``, in the order of the
        shuffle (h5py wants them sorted, and needs a function around it); other sequences, such
        as a ``grain.MapDataset`` or a data source of TensorFlow Datasets, for one by one,
        ``source[i]``, or ``source.__getitems__(rows)`` where there is one. Threads may ask at
        the same time.
      transform: function of some rows as they were read ``(m, ...)`` to floating examples
        ``(m, *example)``, each by itself, in NumPy; None for rows that are that already.

    Attributes:
      shape: ``(n, *example)``.
      dtype: floating type of an example.

    Raises:
      TypeError: if ``source`` has no length or no rows, or its examples are not floating.
      ValueError: if it is empty.

    Example:
      >>> import numpy as np
      >>> stored = np.arange(12, dtype=np.uint8).reshape(6, 2)  # np.load(..., mmap_mode="r")
      >>> data = Streamed(stored, transform=lambda rows: rows.astype(np.float32) / 255)
      >>> data.shape
      (6, 2)
    """

    def __init__(
        self, source: Any, *, transform: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(f"source must have a length and rows, but it is a {_kind(source)}")
        if transform is not None:
            _checks.callable_("transform", transform)
        if len(source) == 0:
            raise ValueError("source must hold at least one example, but it is empty")
        self._source, self._transform = source, transform
        self._is_array = hasattr(source, "shape") and hasattr(source, "dtype")
        self._examples = len(source)
        first = self._read(np.zeros(1, np.int64))
        self._example_shape = first.shape[1:]
        self.dtype = _floating_dtype(first)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._examples, *self._example_shape

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Returns some examples ``(m, *example)``, finite, in the dtype of the first one.

        Args:
          rows: numbers of the examples, integers ``(m,)``.

        Raises:
          TypeError: if an example is not floating.
          ValueError: if one is of another shape than the first one, or not finite.
        """
        shape = len(rows), *self._example_shape
        if not len(rows):
            return np.zeros(shape, self.dtype)
        return checked(self._read(rows), shape, self.dtype, rows)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        if self._is_array:
            found = np.asarray(self._source[rows])
        elif hasattr(self._source, "__getitems__"):
            found = np.stack([np.asarray(row) for row in self._source.__getitems__(rows.tolist())])
        else:
            found = np.stack([np.asarray(self._source[row]) for row in rows.tolist()])
        return found if self._transform is None else np.asarray(self._transform(found))


class StreamedBatches:
    """Batches of one's own making, in the order in which they come.

    A pipeline of Grain, for example, with its own shuffles and worker processes. A run that goes
    on in the middle of an epoch asks for the epoch from that step on.

    Args:
      make: ``make(epoch, first_step)`` returns what yields the batches of an epoch, from 0,
        after the first ``first_step`` of them: floating arrays of the run's ``batch_size``
        ``(batch_size, *example)``, and at the end a smaller one where ``examples`` is no
        multiple of it; what comes after is left alone. It must give the same batches for the
        same numbers, or a run that goes on is not the run that was stopped. With several hosts
        each yields whole batches, and its share is taken.
      examples: number n of examples in an epoch, at least 1.
      example_shape: shape of one example.
      dtype: floating type of the batches.

    Attributes:
      shape: ``(n, *example)``.
      dtype: floating type of an example.

    Raises:
      TypeError: if ``make`` is no function, ``examples`` no integer or ``dtype`` not floating.
      ValueError: if ``examples`` is below 1.

    Example:
      >>> import itertools, numpy as np
      >>> def make(epoch, first_step):
      ...     batches = (np.full((2, 3), float(i)) for i in range(5))
      ...     return itertools.islice(batches, first_step, None)
      >>> StreamedBatches(make, examples=10, example_shape=(3,)).shape
      (10, 3)
    """

    def __init__(
        self,
        make: Callable[[int, int], Iterable[Any]],
        *,
        examples: int,
        example_shape: Sequence[int],
        dtype: Any = np.float32,
    ) -> None:
        _checks.callable_("make", make)
        self.make = make
        self._examples = _checks.integer("examples", examples, low=1)
        self._example_shape = tuple(example_shape)
        self.dtype = _floating_dtype(np.zeros(0, dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._examples, *self._example_shape


Stream = Streamed | StreamedBatches


def checked(found: np.ndarray, shape: tuple[int, ...], dtype: Any, where: Any) -> np.ndarray:
    """Returns what was read in the dtype of the stream, if it is what it should be."""
    what = where if isinstance(where, str) else f"rows {where[:3].tolist()}... of the source"
    if not np.issubdtype(found.dtype, np.floating) and not jnp.issubdtype(
        found.dtype, jnp.floating
    ):
        raise TypeError(f"{what} must be floating, but the dtype is {found.dtype}")
    if found.shape != shape:
        raise ValueError(f"{what} must have the shape {shape}, but it is {found.shape}")
    found = found.astype(dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(found, dtype=np.float32)  # cheap, and not finite if one of them is not
    if not np.isfinite(total) and not np.isfinite(found).all():
        raise ValueError(f"{what} must be finite, but there are NaN or infinite values")
    return found


def _floating_dtype(found: np.ndarray) -> np.dtype[Any]:
    """Returns the dtype that examples will have on a device."""
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(
            f"examples must be floating, but their dtype is {found.dtype}; a transform can make "
            "them so, such as lambda rows: rows.astype('float32') / 255"
        )
    return np.dtype(jax.dtypes.canonicalize_dtype(found.dtype))


def _kind(value: Any) -> str:
    return type(value).__name__
