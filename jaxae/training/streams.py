r"""Data that do not fit into memory: read in pieces, ahead of the training that uses them.

Contract of this module. A source stays where it is; :func:`jaxae.fit`, :func:`jaxae.fit_many`
and :func:`jaxae.evaluate` take a :class:`Streamed` (the first two also a
:class:`StreamedBatches`) in the place of the array ``x``, and run the same step on it. A thread
reads the next batches and puts them on the device while the device trains on the last ones; two
windows of 32 MiB are in memory at a time for each model that trains by itself, however large the
source is. These classes hold no file open and know no format: they ask the source for rows, and
the source does the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jaxae import _checks
from jaxae.training._data import (
    Stream,
    cast,
    check_finite,
    device_dtype,
    find_conversion,
    is_leaf,
    name_leaves,
    to_native,
)
from jaxae.training.sharding import describe_batches

# Whatever has a length and rows by number: an array, a file, a matrix, a data set of a library.
_Rows: TypeAlias = Any


class Streamed(Stream):
    """Data of which any rows can be had: shuffled and cut as an array would be, to the same bits.

    Every epoch has the order of :func:`jaxae.shuffled_order`, of which only the part that is
    being read is computed; a run therefore goes on in the middle of an epoch without reading
    what is behind it. With several hosts each reads only the rows of its own devices.

    Args:
      source: examples by number, or a tuple or dictionary of such sources with one number of
        examples, ``(images, labels)``. Whatever has a shape and a dtype is asked for many rows at
        a time, ``source[rows]``: an array of NumPy, memory-mapped or not, in the order of the
        shuffle, and everything else (h5py, Zarr) for sorted rows, each once. Rows of a sparse
        matrix of SciPy are made dense. Other sequences, such as a ``grain.MapDataset`` or a data
        source of TensorFlow Datasets, are asked for one by one, ``source[i]``, or
        ``source.__getitems__(rows)`` where there is one; their examples may be tuples or
        dictionaries of arrays. Threads may ask at the same time.
      transform: function of some rows as they were read ``(m, ...)`` to examples
        ``(m, *example)``, each by itself, in NumPy; it takes and may return a pytree of arrays.
        None for rows that are examples already.

    Attributes:
      shape: ``(n, *example)``; of several arrays, a pytree of shapes.
      dtype: type of an example, floating for a single array; of several, a pytree of types.

    Raises:
      TypeError: if ``source`` has no length or no rows, is a data frame, or if its examples are a
        single array that is not floating.
      ValueError: if it is empty, masked, or sources differ in their number of examples.

    Example:
      >>> import numpy as np
      >>> stored = np.arange(12, dtype=np.uint8).reshape(6, 2)  # np.load(..., mmap_mode="r")
      >>> data = Streamed(stored, transform=lambda rows: rows.astype(np.float32) / 255)
      >>> data.shape
      (6, 2)
      >>> Streamed({"image": np.zeros((6, 2)), "label": np.arange(6)}).shape
      {'image': (6, 2), 'label': (6,)}
    """

    def __init__(
        self,
        source: PyTree,
        *,
        transform: Callable[[PyTree], PyTree] | None = None,
    ) -> None:
        if transform is not None:
            _checks.callable_("transform", transform)
        named = name_leaves("source", source)
        self._sources = {name: _check_source(name, part) for name, part in named.items()}
        self._structure = jax.tree.structure(source, is_leaf=is_leaf)
        self._transform = transform
        lengths = {name: _count_rows(part) for name, part in self._sources.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"the parts of source must have the same number of examples, but have {lengths}"
            )
        (n,) = set(lengths.values())
        # One row is read now: only the source, after the transform, knows its shapes and dtypes.
        first = self._read(np.zeros(1, np.int64))
        self.like = _describe_examples(n, jax.tree.map(lambda leaf: leaf[0], first))

    def rows(self, rows: np.ndarray) -> PyTree:
        """Returns some examples ``(m, *example)``, finite, in the dtypes of the first one.

        Args:
          rows: numbers of the examples, integers ``(m,)``.

        Raises:
          TypeError: if a single array is not floating.
          ValueError: if an example is of another shape than the first one, or not finite.
        """
        like = describe_batches(self.like, (len(rows),), None)
        # A window may hold the smaller last batch alone, and many sources refuse an empty index.
        if not len(rows):
            return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        return check_read_arrays(
            self._read(rows), like, f"rows {rows[:3].tolist()}... of the source"
        )

    def _read(self, rows: np.ndarray) -> PyTree:
        """Returns some rows as they are in the source, after the transform."""
        parts = [_read_rows(name, part, rows) for name, part in self._sources.items()]
        found = jax.tree.unflatten(self._structure, parts)
        if self._transform is not None:
            found = self._transform(found)
        return jax.tree.map(partial(_to_numpy, "rows of the source"), found, is_leaf=is_leaf)


class StreamedBatches(Stream):
    """Batches of one's own making, in the order in which they come.

    A pipeline of Grain, for example, with its own shuffles and worker processes. A run that goes
    on in the middle of an epoch asks for the epoch from that step on.

    Args:
      make: ``make(epoch, first_step)`` returns what yields the batches of an epoch, from 0,
        after the first ``first_step`` of them: floating arrays of the run's ``batch_size``
        ``(batch_size, *example)``, and at the end a smaller one where ``examples`` is no
        multiple of it; what comes after is left alone. It must give the same batches for the
        same numbers, or a run that goes on is not the run that was stopped. With several hosts
        each yields whole batches, and its share is taken. A batch may be a pytree of arrays.
      examples: number n of examples in an epoch, at least 1.
      example_shape: shape of one example; for batches that are pytrees, the pytree of
        ``jax.ShapeDtypeStruct`` of one example, which then says the dtypes.
      dtype: floating type of the batches of a single array.

    Attributes:
      shape: ``(n, *example)``; of several arrays, a pytree of shapes.
      dtype: type of an example; of several arrays, a pytree of types.

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
        make: Callable[[int, int], Iterable[PyTree]],
        *,
        examples: int,
        example_shape: Sequence[int] | PyTree[jax.ShapeDtypeStruct],
        dtype: DTypeLike = np.float32,
    ) -> None:
        _checks.callable_("make", make)
        self.make = make
        n = _checks.integer("examples", examples, low=1)
        leaves = jax.tree.leaves(example_shape)
        if leaves and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
            example = example_shape
        else:
            example = jax.ShapeDtypeStruct(tuple(example_shape), np.dtype(dtype))
        self.like = _describe_examples(n, example)

    def check_batch(self, batch: PyTree, size: int, where: str) -> PyTree:
        """Returns a batch in NumPy, if it is what it should be; ``where`` names it in errors."""
        found = jax.tree.map(partial(_to_numpy, where), batch, is_leaf=is_leaf)
        return check_read_arrays(found, describe_batches(self.like, (size,), None), where)


def check_read_arrays(found: PyTree, like: PyTree, where: str) -> PyTree:
    """Returns arrays that were read in the dtypes of ``like``, if they are what they should be."""
    expected, leaves = name_leaves("", like), name_leaves("", found)
    if expected.keys() != leaves.keys():
        raise ValueError(f"{where} must have the arrays {list(expected)}, but have {list(leaves)}")
    arrays = []
    for path, leaf in leaves.items():
        what, wanted = f"{path} of {where}" if path else where, expected[path]
        # Widths may differ, as x64 is a setting of JAX; a float is no integer.
        if _dtype_kind(leaf.dtype) is not _dtype_kind(wanted.dtype):
            kind = _dtype_kind(wanted.dtype).__name__
            raise TypeError(f"{what} must be {kind}, but the dtype is {leaf.dtype}")
        if leaf.shape != wanted.shape:
            raise ValueError(f"{what} must have the shape {wanted.shape}, but it is {leaf.shape}")
        leaf = cast(what, leaf, wanted.dtype)
        check_finite(what, leaf)
        arrays.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def _describe_examples(n: int, example: PyTree) -> PyTree:
    """Returns shapes and dtypes on a device of n such examples."""
    arrays = []
    for name, leaf in name_leaves("examples", example).items():
        if name == "examples" and not jnp.issubdtype(leaf.dtype, jnp.floating):
            remedy = "rows.astype('float32') / 255"
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                remedy = "np.stack([rows.real, rows.imag], axis=-1)"
            raise TypeError(
                f"examples must be floating, but their dtype is {leaf.dtype}; a transform can make "
                f"them so, such as lambda rows: {remedy}"
            )
        shape = n, *leaf.shape
        arrays.append(jax.ShapeDtypeStruct(shape, device_dtype(name, leaf.dtype)))
    return jax.tree.unflatten(jax.tree.structure(example), arrays)


def _check_source(name: str, source: _Rows) -> _Rows:
    """Returns a source, if it gives rows by number and not something else."""
    if isinstance(source, jax.Array | np.ma.MaskedArray):
        source = np.asarray(to_native(name, source))
    method = find_conversion(source)
    is_frame = method == "to_numpy" and not hasattr(source, "dims")  # xarray numbers its rows
    if is_frame or method == "todense":
        to_native(name, source)  # a data frame is asked for columns
    has_rows = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if not has_rows or getattr(source, "shape", None) == ():
        remedy = f"; convert it with {name}.tocsr()" if method == "toarray" else ""
        raise TypeError(
            f"{name} must have a length and rows, but it is a {type(source).__name__}{remedy}"
        )
    if _count_rows(source) == 0:
        raise ValueError(f"{name} must hold at least one example, but it is empty")
    return source


def _count_rows(source: _Rows) -> int:
    """Returns the number of rows; the ``len`` of a sparse matrix raises an error."""
    return source.shape[0] if hasattr(source, "toarray") else len(source)


def _read_rows(name: str, source: _Rows, rows: np.ndarray) -> PyTree:
    """Returns some rows of a source: an array, or what its examples are made of, stacked."""
    # NumPy, memory maps included, takes rows in any order; to sort them would cost a copy.
    if isinstance(source, np.ndarray):
        return source[rows]
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        # h5py takes rising numbers only, and others read faster so.
        rising, places = np.unique(rows, return_inverse=True)
        try:
            found = source[rising]
        except (TypeError, KeyError) as error:
            method = find_conversion(source) or "__array__"
            remedy = f"{name}.{'tocsr' if method == 'toarray' else method}()"
            raise TypeError(
                f"{name} must give rows by an array of their numbers, but a "
                f"{type(source).__name__} does not; pass an array, such as {remedy}"
            ) from error
        return _to_numpy(name, found)[places]
    # A source of that kind, such as Grain's, can read several examples in parallel.
    if hasattr(source, "__getitems__"):
        found = source.__getitems__(rows.tolist())
    else:
        found = [source[row] for row in rows.tolist()]

    def stack(*leaves: PyTree) -> np.ndarray:
        return np.stack([_to_numpy(name, leaf) for leaf in leaves])

    return jax.tree.map(stack, *found, is_leaf=is_leaf)


def _to_numpy(name: str, value: PyTree) -> np.ndarray:
    """Returns what was read as an array of NumPy, made dense; masked entries raise ValueError."""
    if hasattr(value, "toarray"):
        value = value.toarray()
    # asanyarray keeps a masked array what it is, so that it can be refused.
    array = np.asanyarray(value)
    return array if type(array) is np.ndarray and array.dtype.isnative else to_native(name, array)


def _dtype_kind(dtype: DTypeLike) -> type:
    """Returns the kind of number that a dtype holds."""
    kinds = (jnp.floating, jnp.integer, jnp.bool_, jnp.complexfloating)
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), object)
