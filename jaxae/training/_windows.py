"""How a stream is read: a window of batches at a time, ahead of the training that uses it."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxae.random import shuffled_order
from jaxae.training._contexts import in_these_contexts
from jaxae.training._data import Stream, count_examples
from jaxae.training.epoch import Epoch, Window, keys_of_epoch
from jaxae.training.sharding import batches_on_devices, copied, everywhere, places_like
from jaxae.training.streams import Streamed, StreamedBatches

# Of the batches that are read at a time: long enough for a call, short beside any memory.
_WINDOW_BYTES = 2**25
_AHEAD = 1  # windows that wait for the device
# Reads some of the places in each batch: ``(steps, places, *example)``, in the pytree of the data.
Read = Callable[[slice], Any]


class Span(NamedTuple):
    """Steps of one epoch.

    Attributes:
      epoch: which epoch.
      first: the first step.
      steps: how many of them, of full size.
      has_rest: whether the smaller last batch follows.
    """

    epoch: int
    first: int
    steps: int
    has_rest: bool


class Reader:
    """The windows of a run over a stream, each read while the one before it is used.

    Args:
      stream: where the data come from.
      epoch: what an epoch is.
      key: the key of the model, or the keys ``(m,)`` of those that are trained under vmap; then
        a window has a leading axis of m.
      blocks: the block to begin with and the one to end before, counted over all epochs.
    """

    def __init__(self, stream: Stream, epoch: Epoch, key: Array, blocks: tuple[int, int]) -> None:
        self._stream, self._epoch = stream, epoch
        self._begin, self._end = blocks  # of what is not read yet
        self._size, self._steps, self._rest, self._per_block = epoch.cut(stream)
        self._per_epoch = epoch.blocks(stream)
        self._models = key.shape
        self._examples = count_examples("x", stream.like)
        of_step = self._size * sum(
            math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in jax.tree.leaves(stream.like)
        )
        most = max(1, _WINDOW_BYTES // (self._per_block * of_step * math.prod(self._models)))
        windows = -(-self._per_epoch // most)
        self._blocks = -(-self._per_epoch // windows)
        cut = self._size, self._steps, self._capacity
        self._cursor: _Shuffled | _InOrder
        if isinstance(stream, Streamed):
            self._cursor = _Shuffled(stream, key, *cut)
        else:
            assert isinstance(stream, StreamedBatches)
            self._cursor = _InOrder(stream, key, *cut[:2])
        self._pool = ThreadPoolExecutor(1)
        self._read_as_here = in_these_contexts(self._read)
        self._ahead: deque[Future[tuple[Window, int]]] = deque()
        self._now: tuple[Any, int] = None, -1

    @property
    def _capacity(self) -> int:
        """Full steps of a window."""
        return min(self._blocks * self._per_block, self._steps)

    @property
    def like(self) -> Window:
        """A window without numbers, to compile for."""
        mesh = self._epoch.mesh
        first = jax.ShapeDtypeStruct((), np.int32, sharding=mesh and everywhere(mesh))
        return Window(*self._places, first, self._examples)

    @property
    def _places(self) -> tuple[Any, Any]:
        """Shapes, dtypes and placement of the batches of a window, and of the last batch."""
        full, rest = (self._capacity, self._size), (self._rest,)
        like, mesh = self._stream.like, self._epoch.mesh
        batches, last = (places_like(like, self._models + axes, mesh) for axes in (full, rest))
        return batches, last

    def window(self, block: int) -> tuple[Window, int]:
        """Returns the window that holds a block, and the block after it; blocks only rise.

        Raises:
          TypeError: if what was read is of another type than it should be.
          ValueError: if it is of another shape, missing, or not finite.
        """
        while block >= self._now[1]:
            self._now = None, -1
            if not self._ahead:
                self._submit()
            coming = self._ahead.popleft()
            while self._begin < self._end and len(self._ahead) < _AHEAD:
                self._submit()
            self._now = coming.result()
        return self._now

    def close(self) -> None:
        """Stops reading; waits for the read under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._now = None, -1
        self._ahead.clear()

    def _submit(self) -> None:
        epoch, block = divmod(self._begin, self._per_epoch)
        after = min(block + self._blocks, self._per_epoch)  # a window ends with its epoch
        first, end = block * self._per_block, min(after * self._per_block, self._steps)
        has_rest = bool(self._rest) and after == self._per_epoch
        span = Span(epoch, first, end - first, has_rest)
        self._begin += after - block
        self._ahead.append(self._pool.submit(self._read_as_here, span, self._begin))

    def _read(self, span: Span, after: int) -> tuple[Window, int]:
        """Returns the window of a span, on the devices, and the block after it."""
        full, rest = self._cursor.read(span)
        like_full, like_rest = self._places
        axis = len(self._models)  # of the steps; then comes that of the places

        def fill(found: np.ndarray) -> np.ndarray:
            """Returns batches with zeros after them, as many steps as a window has."""
            if span.steps == self._capacity:
                return found
            shape = (*self._models, self._capacity, *found.shape[axis + 1 :])
            filled = np.zeros(shape, found.dtype)
            filled[(*[slice(None)] * axis, slice(span.steps))] = found
            return filled

        def full_places(places: slice) -> Any:
            return jax.tree.map(fill, full(places))

        def rest_places(places: slice) -> Any:
            if span.has_rest:
                return jax.tree.map(lambda found: np.squeeze(found, axis=axis), rest(places))
            width = len(range(*places.indices(self._rest)))
            before = *self._models, width
            zeros = lambda leaf: np.zeros((*before, *leaf.shape[axis + 1 :]), leaf.dtype)
            return jax.tree.map(zeros, like_rest)

        batches = batches_on_devices(full_places, like_full, axis + 1)
        last = batches_on_devices(rest_places, like_rest, axis)
        first = copied(np.int32(span.first), self._epoch.mesh)
        return Window(batches, last, first, self._examples), after


class _Shuffled:
    """Rows of a source in the order of each model's shuffle."""

    def __init__(self, stream: Streamed, key: Array, size: int, steps: int, capacity: int) -> None:
        self._stream, self._size, self._steps, self._capacity = stream, size, steps, capacity
        self._key = _on_the_host(key)

    def read(self, span: Span) -> tuple[Read, Read]:
        n, begin = count_examples("x", self._stream.like), span.first * self._size
        full = np.arange(begin, begin + self._capacity * self._size)
        rest = np.arange(self._steps * self._size, n)
        positions = np.minimum(np.concatenate([full, rest]), n - 1).astype(np.int32)
        order = np.asarray(_order(self._key, np.int32(span.epoch), n, positions))
        models = self._key.shape
        cut = span.steps * self._size
        of_full = order[..., :cut].reshape(*models, span.steps, self._size)
        of_rest = order[..., len(full) :].reshape(*models, 1, len(rest))
        return partial(self._rows, of_full), partial(self._rows, of_rest)

    def _rows(self, order: np.ndarray, places: slice) -> Any:
        rows = order[..., places]
        found = self._stream.rows(rows.reshape(-1))
        return jax.tree.map(lambda leaf: leaf.reshape(*rows.shape, *leaf.shape[1:]), found)


class _InOrder:
    """Batches as they come; models that are trained together get the same ones."""

    def __init__(self, stream: StreamedBatches, key: Array, size: int, steps: int) -> None:
        self._stream, self._size, self._steps = stream, size, steps
        self._models, self._n = key.shape, count_examples("x", stream.like)
        self._coming: Iterator[Any] = iter(())
        self._next = -1, -1  # epoch and step

    def read(self, span: Span) -> tuple[Read, Read]:
        if self._next != (span.epoch, span.first):
            self._coming = iter(self._stream.make(span.epoch, span.first))
        steps = range(span.first, span.first + span.steps)
        full = [self._batch(span.epoch, step, self._size) for step in steps]
        rest = self._n - self._steps * self._size if span.has_rest else 0
        last = [self._batch(span.epoch, self._steps, rest)] if rest else []
        self._next = span.epoch, span.first + span.steps
        return partial(self._places, full), partial(self._places, last)

    def _places(self, batches: list[Any], places: slice) -> Any:
        """Returns some places of each batch, the same ones for every model."""

        def stack(like: Any, *leaves: np.ndarray) -> np.ndarray:
            empty = (0, self._size, *like.shape[1:])
            whole = np.stack(leaves) if leaves else np.zeros(empty, like.dtype)
            some = whole[:, places]
            return np.broadcast_to(some, (*self._models, *some.shape))

        return jax.tree.map(stack, self._stream.like, *batches)

    def _batch(self, epoch: int, step: int, size: int) -> Any:
        missing = object()
        found = next(self._coming, missing)
        where = f"batch {step} of epoch {epoch}"
        if found is missing:
            raise ValueError(
                f"make({epoch}, ...) must yield {self._steps} batches of {self._size} and what is "
                f"left of {self._n} examples, but {where} is missing"
            )
        return self._stream.checked(found, size, where)


@partial(jax.jit, static_argnums=2)
def _order(key: Array, epoch: Array, n: int, positions: Array) -> Array:
    """Returns the rows at some positions of an epoch's shuffle, for each key."""

    def of_key(key: PRNGKeyArray) -> Array:
        return shuffled_order(keys_of_epoch(key, epoch)[0], n, positions=positions)

    return jax.vmap(of_key)(key) if key.ndim else of_key(key)


def _on_the_host(key: Array) -> Array:
    """Returns a key on a CPU, where orders are computed beside the training."""
    try:
        return jax.device_put(key, jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to have accelerators only
        return key
