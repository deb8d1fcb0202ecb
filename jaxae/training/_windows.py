"""How a stream is read: a window of batches at a time, ahead of the training that uses it.

The program of a run gets its data as an argument, all at once, so it cannot ask for more. A
*window* holds as many batches as are worth a call. While the device trains on one, a thread reads
the next and puts it on the device; a run over a stream then takes no longer than one over an
array, as long as reading is faster than training. Positions are places in a batch: with several
devices, each reads the examples at its own positions only.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxae.shuffle import shuffled_order
from jaxae.training._contexts import bind_jax_settings
from jaxae.training._data import Stream, count_examples
from jaxae.training.epoch import Epoch, EpochLayout, Window, epoch_keys
from jaxae.training.sharding import describe_batches, put_batches, replicate, replicated_sharding
from jaxae.training.streams import Streamed, StreamedBatches

# Of the batches that are read at a time: long enough for a call, short beside any memory.
_WINDOW_BYTES = 2**25
# Windows that wait for the device. One hides the time of reading; more would only take memory.
_AHEAD = 1
# Reads the examples at some positions of each batch: ``(steps, positions, *example)``, in the
# pytree of the data.
ReadPositions = Callable[[slice], PyTree]


class WindowSteps(NamedTuple):
    """The steps of one window, which all are of one epoch.

    Attributes:
      epoch: which epoch.
      first: the first step.
      num_steps: how many steps of full size.
      has_rest: whether the smaller last batch follows.
    """

    epoch: int
    first: int
    num_steps: int
    has_rest: bool


class BatchReaders(NamedTuple):
    """Functions that read the batches of a window, at some positions of each.

    Attributes:
      full: reads the batches of full size.
      rest: reads the smaller last batch, as the only one of its kind.
    """

    full: ReadPositions
    rest: ReadPositions


class _WindowShapes(NamedTuple):
    """Shapes, dtypes and shardings of the arrays in a window."""

    batches: PyTree
    rest: PyTree


class WindowReader:
    """The windows of a run over a stream, each read while the one before it is used.

    Args:
      stream: where the data come from.
      epoch: what an epoch is.
      key: the key of the model, or the keys ``(m,)`` of those that are trained under vmap; then
        a window has a leading axis of m.
      first_block: the block to begin with, counted over all epochs.
      end_block: the block to end before.
    """

    def __init__(
        self, stream: Stream, epoch: Epoch, key: Array, first_block: int, *, end_block: int
    ) -> None:
        self._stream, self._mesh = stream, epoch.mesh
        self._layout = epoch.layout(stream)
        self._next_block, self._end_block = first_block, end_block  # of what is not read yet
        self._models = key.shape
        self._examples = count_examples("x", stream.like)
        self._blocks = _count_window_blocks(stream, self._layout, math.prod(key.shape))
        # Full steps of a window. All windows have room for as many, or each size would be a
        # program of its own.
        self._capacity = min(self._blocks * self._layout.steps_per_block, self._layout.full_steps)
        self._batches: _ShuffledRows | _BatchesInOrder
        if isinstance(stream, Streamed):
            self._batches = _ShuffledRows(stream, key, self._layout, self._capacity)
        else:
            assert isinstance(stream, StreamedBatches)
            self._batches = _BatchesInOrder(stream, key, self._layout)
        # One thread: batches of one's own making come one after another, and a disk is no faster
        # for two.
        self._pool = ThreadPoolExecutor(1)
        self._read_with_settings = bind_jax_settings(self._read)
        self._ahead: deque[Future[tuple[Window, int]]] = deque()
        self._now: tuple[Window, int] | None = None

    @property
    def like(self) -> Window:
        """A window without numbers, to compile for."""
        sharding = None if self._mesh is None else replicated_sharding(self._mesh)
        first = jax.ShapeDtypeStruct((), np.int32, sharding=sharding)
        shapes = self._shapes
        return Window(shapes.batches, shapes.rest, first, self._examples)

    @property
    def _shapes(self) -> _WindowShapes:
        full = *self._models, self._capacity, self._layout.batch_size
        rest = *self._models, self._layout.rest
        like = self._stream.like
        return _WindowShapes(
            describe_batches(like, full, self._mesh), describe_batches(like, rest, self._mesh)
        )

    def window(self, block: int) -> tuple[Window, int]:
        """Returns the window that holds a block, and the block after it; blocks only rise.

        Raises:
          TypeError: if what was read is of another type than it should be.
          ValueError: if it is of another shape, missing, or not finite.
        """
        while self._now is None or block >= self._now[1]:
            # Given up before the next one is waited for, so that two are in memory and not three.
            self._now = None
            if not self._ahead:
                self._submit()
            coming = self._ahead.popleft()
            while self._next_block < self._end_block and len(self._ahead) < _AHEAD:
                self._submit()
            self._now = coming.result()
        return self._now

    def close(self) -> None:
        """Stops reading; waits for the read under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._now = None
        self._ahead.clear()

    def _submit(self) -> None:
        """Asks the thread to read the next window."""
        layout = self._layout
        epoch, block = divmod(self._next_block, layout.blocks)
        # A window ends with its epoch: the next one has another shuffle.
        after = min(block + self._blocks, layout.blocks)
        first = block * layout.steps_per_block
        end = min(after * layout.steps_per_block, layout.full_steps)
        has_rest = bool(layout.rest) and after == layout.blocks
        steps = WindowSteps(epoch, first, end - first, has_rest)
        self._next_block += after - block
        self._ahead.append(self._pool.submit(self._read_with_settings, steps, self._next_block))

    def _read(self, steps: WindowSteps, next_block: int) -> tuple[Window, int]:
        """Returns the window of some steps, on the devices, and the block after it."""
        readers, shapes = self._batches.read(steps), self._shapes
        axis = len(self._models)  # of the steps; then comes that of the positions

        def read_full(positions: slice) -> PyTree:
            pad = partial(_pad_steps, axis=axis, steps=self._capacity)
            return jax.tree.map(pad, readers.full(positions))

        def read_rest(positions: slice) -> PyTree:
            if steps.has_rest:
                found = readers.rest(positions)
                return jax.tree.map(lambda leaf: np.squeeze(leaf, axis=axis), found)
            # Never looked at, but the program wants an array there.
            width = len(range(*positions.indices(self._layout.rest)))

            def zeros(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
                return np.zeros((*self._models, width, *leaf.shape[axis + 1 :]), leaf.dtype)

            return jax.tree.map(zeros, shapes.rest)

        batches = put_batches(read_full, shapes.batches, axis + 1)
        rest = put_batches(read_rest, shapes.rest, axis)
        first = replicate(np.int32(steps.first), self._mesh)
        return Window(batches, rest, first, self._examples), next_block


def _count_window_blocks(stream: Stream, layout: EpochLayout, models: int) -> int:
    """Returns the number of blocks in each window but the last one of an epoch."""
    leaves = jax.tree.leaves(stream.like)
    example_bytes = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in leaves)
    block_bytes = layout.steps_per_block * layout.batch_size * example_bytes * models
    most = max(1, _WINDOW_BYTES // block_bytes)
    # As many windows as are needed, of one size: none is read that is nearly empty.
    windows = math.ceil(layout.blocks / most)
    return math.ceil(layout.blocks / windows)


def _pad_steps(batches: np.ndarray, *, axis: int, steps: int) -> np.ndarray:
    """Returns batches followed by zeros, so that there are ``steps`` of them along an axis."""
    missing = steps - batches.shape[axis]
    if not missing:
        return batches
    padded = np.zeros((*batches.shape[:axis], steps, *batches.shape[axis + 1 :]), batches.dtype)
    padded[(*[slice(None)] * axis, slice(batches.shape[axis]))] = batches
    return padded


class _ShuffledRows:
    """Rows of a source in the order of each model's shuffle."""

    def __init__(self, stream: Streamed, key: Array, layout: EpochLayout, capacity: int) -> None:
        self._stream, self._layout, self._capacity = stream, layout, capacity
        self._key = _put_on_host(key)

    def read(self, steps: WindowSteps) -> BatchReaders:
        """Returns what reads the rows of some steps."""
        layout, n = self._layout, count_examples("x", self._stream.like)
        begin = steps.first * layout.batch_size
        full = np.arange(begin, begin + self._capacity * layout.batch_size)
        rest = np.arange(layout.full_steps * layout.batch_size, n)
        # As many positions each time, though fewer may be wanted: another number of them would
        # be compiled anew. Those beyond the end are cut off below.
        positions = np.minimum(np.concatenate([full, rest]), n - 1).astype(np.int32)
        order = np.asarray(_find_rows(self._key, np.int32(steps.epoch), n, positions))
        models = self._key.shape
        full_order = order[..., : steps.num_steps * layout.batch_size]
        rest_order = order[..., len(full) :]
        return BatchReaders(
            partial(
                self._read_rows, full_order.reshape(*models, steps.num_steps, layout.batch_size)
            ),
            partial(self._read_rows, rest_order.reshape(*models, 1, len(rest))),
        )

    def _read_rows(self, order: np.ndarray, positions: slice) -> PyTree:
        """Returns the rows at some positions of batches with this order."""
        rows = order[..., positions]
        found = self._stream.rows(rows.reshape(-1))  # (models * steps * positions, *example)
        return jax.tree.map(lambda leaf: leaf.reshape(*rows.shape, *leaf.shape[1:]), found)


class _BatchesInOrder:
    """Batches as they come; models that are trained together get the same ones."""

    def __init__(self, stream: StreamedBatches, key: Array, layout: EpochLayout) -> None:
        self._stream, self._layout, self._models = stream, layout, key.shape
        self._examples = count_examples("x", stream.like)
        self._coming: Iterator[PyTree] = iter(())
        self._next = -1, -1  # epoch and step

    def read(self, steps: WindowSteps) -> BatchReaders:
        """Returns what reads some steps; their batches are taken from the stream at once."""
        # Asked for anew at the begin of an epoch, and where a run goes on inside of one.
        if self._next != (steps.epoch, steps.first):
            self._coming = iter(self._stream.make(steps.epoch, steps.first))
        layout = self._layout
        numbers = range(steps.first, steps.first + steps.num_steps)
        full = [self._take_batch(steps.epoch, step, layout.batch_size) for step in numbers]
        rest = []
        if steps.has_rest:
            rest = [self._take_batch(steps.epoch, layout.full_steps, layout.rest)]
        self._next = steps.epoch, steps.first + steps.num_steps
        return BatchReaders(
            partial(self._take_positions, full), partial(self._take_positions, rest)
        )

    def _take_positions(self, batches: list[PyTree], positions: slice) -> PyTree:
        """Returns some positions of each batch, the same ones for every model."""

        def stack(like: jax.ShapeDtypeStruct, *leaves: np.ndarray) -> np.ndarray:
            empty = (0, self._layout.batch_size, *like.shape[1:])
            stacked = np.stack(leaves) if leaves else np.zeros(empty, like.dtype)
            some = stacked[:, positions]
            # A view: the models share one copy on the host.
            return np.broadcast_to(some, (*self._models, *some.shape))

        return jax.tree.map(stack, self._stream.like, *batches)

    def _take_batch(self, epoch: int, step: int, size: int) -> PyTree:
        """Returns the next batch of the stream, if it is what it should be."""
        missing = object()  # a batch may be anything, None included
        found = next(self._coming, missing)
        where = f"batch {step} of epoch {epoch}"
        if found is missing:
            layout = self._layout
            raise ValueError(
                f"make({epoch}, ...) must yield {layout.full_steps} batches of "
                f"{layout.batch_size} and what is left of {self._examples} examples, but {where} "
                "is missing"
            )
        return self._stream.check_batch(found, size, where)


@partial(jax.jit, static_argnums=2)
def _find_rows(key: Array, epoch: Array, n: int, positions: Array) -> Array:
    """Returns the rows at some positions of an epoch's shuffle, for each key."""

    def find_rows_of_key(key: PRNGKeyArray) -> Array:
        return shuffled_order(epoch_keys(key, epoch)[0], n, positions=positions)

    return jax.vmap(find_rows_of_key)(key) if key.ndim else find_rows_of_key(key)


def _put_on_host(key: Array) -> Array:
    """Returns a key on a CPU, where orders are computed beside the training."""
    # On the accelerator an order would wait in line behind the call that is training.
    try:
        return jax.device_put(key, jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to have accelerators only
        return key
