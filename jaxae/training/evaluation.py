r"""Exact means of a metric over a data set, in memory or read in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from jaxae import _checks
from jaxae.training._data import Data, count_examples, drop_leading_axis, put_on_device
from jaxae.training.streams import Streamed, StreamedBatches


def evaluate(
    metric: Callable[..., PyTree],
    *data: Float[Array, "n *example"] | PyTree[Shaped[Array | np.ndarray, "n ..."]] | Streamed,
    batch_size: int,
) -> PyTree:
    """Returns the exact mean of a per-example metric over a data set.

    Batches bound the memory only: the last one may be smaller and every example counts once.
    Called outside ``jax.jit`` it compiles ``metric`` every time: wrap what you call often. Data
    that are :class:`Streamed` are read a batch at a time, and summed in float64 on the host.

    Args:
      metric: function of ONE example of each of ``data`` to a pytree of scalars.
      *data: arrays, or pytrees of arrays, or :class:`Streamed`, with the same number n of
        examples.
      batch_size: examples at a time, at least 1.

    Returns:
      Means over the n examples, in the pytree of ``metric``.

    Raises:
      TypeError: if a single array is not floating point.
      ValueError: if the arrays differ in n, are empty or not finite.

    Example:
      >>> float(evaluate(lambda x_i: x_i.sum(), jnp.arange(5.0).reshape(5, 1), batch_size=2))
      2.0
    """
    _checks.callable_("metric", metric)
    size = _checks.integer("batch_size", batch_size, low=1)
    if not data:
        raise ValueError("data must be at least one array, but there is none")
    parts = tuple(_check_part(f"data[{i}]", part) for i, part in enumerate(data))
    likes = tuple(part.like if isinstance(part, Streamed) else part for part in parts)
    n = count_examples("data", likes)
    _checks.outputs("metric", metric, *drop_leading_axis(likes))
    if any(isinstance(part, Streamed) for part in parts):
        return _mean_of_pieces(metric, _pieces(parts, n, size), n)
    # A loop over batches in one program; only the values (n,) are kept, so n may be large.
    values = jax.lax.map(lambda row: metric(*row), parts, batch_size=size)
    return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)


def _check_part(name: str, part: Data) -> Data:
    """Returns one of the data: arrays on the device, or a Streamed as it is."""
    if isinstance(part, StreamedBatches):
        raise TypeError(
            f"{name} must be arrays or a Streamed, whose rows can be read one after another, but "
            "it is a StreamedBatches"
        )
    return part if isinstance(part, Streamed) else put_on_device(name, part)


def _pieces(parts: tuple[Data, ...], n: int, size: int) -> Iterator[tuple[PyTree, ...]]:
    """Yields the examples of all parts, ``size`` at a time, in their order."""
    for first in range(0, n, size):
        rows = np.arange(first, min(first + size, n))
        yield tuple(
            part.rows(rows)
            if isinstance(part, Streamed)
            else jax.tree.map(lambda leaf, rows=rows: leaf[rows[0] : rows[-1] + 1], part)
            for part in parts
        )


def _mean_of_pieces(
    metric: Callable[..., PyTree], pieces: Iterator[tuple[PyTree, ...]], n: int
) -> PyTree:
    """Returns the mean of a metric over n examples that come in pieces."""
    # The last piece may be smaller, and then compiles once more: two programs, however long n is.
    over_piece = jax.jit(jax.vmap(metric))
    total, values = None, None
    for piece in pieces:
        values = over_piece(*piece)
        # In float64, so that the mean does not show how the data were cut into pieces.
        sums = jax.tree.map(lambda value: np.asarray(value).sum(0, np.float64), values)
        total = sums if total is None else jax.tree.map(np.add, total, sums)

    # The dtype that the mean over an array has, so that both kinds of data give the same type.
    def mean(total: np.ndarray, value: Array) -> Array:
        return jnp.asarray(total / n, jnp.mean(value[:1]).dtype)

    return jax.tree.map(mean, total, values)
