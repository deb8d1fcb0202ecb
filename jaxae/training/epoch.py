"""One epoch as one compiled loop: a train step for each batch, in the order of a shuffle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray, PyTree, ScalarLike

from jaxae import _checks
from jaxae._optax import Optimizer
from jaxae.shuffle import shuffled_order
from jaxae.training._data import Data, Stream, check_not_divided, count_examples, to_native_arrays
from jaxae.training.sharding import shard_batch
from jaxae.training.steps import Loss, Losses, TrainState, make_train_step, mean_losses, wide_float

# From so many steps on, a block has two of them. Two steps at a time are a tenth faster where a
# step is short, and compile twice as long, which pays only if there are many.
_MANY_STEPS = 200
# What a step changes: the state, and the losses of the epoch's steps.
_Carry: TypeAlias = tuple[TrainState, Losses]


class EpochLayout(NamedTuple):
    """How an epoch is cut into batches, and these into blocks.

    Attributes:
      batch_size: examples in each full step.
      full_steps: steps with a batch of this size.
      rest: examples in the smaller last step; 0 if there is none.
      steps_per_block: steps in each block but the last.
    """

    batch_size: int
    full_steps: int
    rest: int
    steps_per_block: int

    @property
    def steps(self) -> int:
        """The number of steps in an epoch."""
        return self.full_steps + bool(self.rest)

    @property
    def full_blocks(self) -> int:
        """The number of blocks of ``steps_per_block`` full steps."""
        return self.full_steps // self.steps_per_block

    @property
    def has_tail(self) -> bool:
        """Whether one more block has the steps that fill no block, the smaller one included."""
        return bool(self.full_steps % self.steps_per_block or self.rest)

    @property
    def blocks(self) -> int:
        """The number of blocks in an epoch."""
        return self.full_blocks + self.has_tail


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("batches", "rest", "first"),
    meta_fields=("examples",),
)
@dataclass(frozen=True)
class Window:
    """Some batches of an epoch, one after another, of data that are read in pieces.

    Attributes:
      batches: batches of full size ``(steps, size, *example)``, in the pytree of the data.
      rest: the smaller last batch of the epoch ``(rest, *example)``; before its turn, anything.
      first: which step of the epoch ``batches`` begins with.
      examples: number n of examples in an epoch.
    """

    batches: PyTree
    rest: PyTree
    first: PyTree
    examples: int


def make_epoch(
    loss: Loss, optimizer: Optimizer, *, batch_size: int
) -> Callable[..., tuple[TrainState, Array]]:
    """Returns a function that trains one epoch in one compiled program.

    The data are shuffled, cut into batches and passed through one loop; the rest that
    does not fill a batch makes one smaller step at the end, so every example is used once
    and counts once. The host is not asked in between.

    Args:
      loss: ``loss(params, key, x, *settings)``, as for :func:`make_train_step`.
      optimizer: any ``optax`` optimiser.
      batch_size: examples per step, at least 1; more than there are means one full batch.

    Returns:
      ``run_epoch(state, key, epoch, x, *settings) -> (state, mean_loss)``, compiled. The
      same ``key`` serves the whole run; ``epoch`` counts from 0. ``mean_loss`` is the mean
      over the examples, each at the parameters of its own step; with auxiliary outputs a pair
      ``(mean_loss, mean_aux)``. ``x`` is an array, or a pytree of arrays with one leading axis.

    Raises:
      TypeError: if ``loss`` is no function or ``batch_size`` no integer.
      ValueError: if ``batch_size`` is below 1; the result raises it for empty data, or arrays
        that differ in their number of examples.

    Example:
      >>> import optax
      >>> import jaxae
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.5)
      >>> run_epoch = make_epoch(loss, optimizer, batch_size=2)
      >>> state = jaxae.create_train_state(jnp.zeros(()), optimizer)
      >>> state, value = run_epoch(state, jax.random.key(0), 0, jnp.ones(5))
      >>> int(state.step)
      3
    """
    compiled = jax.jit(Epoch(loss, optimizer, batch_size))

    @wraps(compiled)
    def run_epoch(
        state: TrainState, key: PRNGKeyArray, epoch: ScalarLike, x: Data, *settings: PyTree
    ) -> tuple[TrainState, Losses]:
        count_examples("x", x)  # jax.jit would take a list for a pytree of its numbers
        return compiled(state, key, epoch, to_native_arrays("x", x), *settings)

    return run_epoch


class Epoch:
    """An epoch, not compiled, that can be done in parts; :func:`make_epoch` compiles a whole one.

    It is cut into blocks: one step each, or two where there are many, and at the end one more
    for what is left. Parts of whole blocks give the bits of the whole.

    Args:
      loss: as in :func:`make_epoch`.
      optimizer: as in :func:`make_epoch`.
      batch_size: as in :func:`make_epoch`.
      mesh: devices over which a batch is divided.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int,
        mesh: Mesh | None = None,
    ) -> None:
        self.mesh, self.loss = mesh, loss
        self._batch_size = _checks.integer("batch_size", batch_size, low=1)
        self._train_step = make_train_step(loss, optimizer)
        # Only its shapes are asked for. Under jit they are remembered from call to call.
        self._first_losses = jax.jit(self._compute_first_losses)

    def layout(self, x: Data | Window) -> EpochLayout:
        """Returns the batches and blocks of an epoch over x."""
        n = _count_epoch_examples(x)
        size = min(self._batch_size, n)
        steps, rest = divmod(n, size)
        return EpochLayout(size, steps, rest, 2 if steps >= _MANY_STEPS else 1)

    def zero_losses(
        self, state: TrainState, key: PyTree, x: Data | Window, *settings: PyTree
    ) -> Losses:
        """Returns zeros ``(steps,)`` that the mean losses of an epoch's steps are written into.

        Of the arguments only shapes and dtypes are used.
        """
        x = x.like if isinstance(x, Stream) else x
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(x.batches if isinstance(x, Window) else x)]
        # As wide as the widest array of the data: a user's x64 data have float64 losses.
        dtype = _checks.wide(*map(wide_float, dtypes))
        means = self._first_losses.eval_shape(state, key, x, *settings)
        zeros = partial(jnp.zeros, self.layout(x).steps)
        if not isinstance(means, tuple):
            return zeros(dtype)
        return zeros(dtype), jax.tree.map(lambda mean: zeros(mean.dtype), means[1])

    def _compute_first_losses(
        self, state: TrainState, key: PRNGKeyArray, x: Data | Window, *settings: PyTree
    ) -> Losses:
        """Returns the mean losses of the first batch, whose tree shows which outputs there are."""
        if isinstance(x, Window):
            batch = jax.tree.map(lambda leaf: leaf[0], x.batches)
        else:
            size = self.layout(x).batch_size
            batch = jax.tree.map(lambda leaf: leaf[:size], x)
        return mean_losses(self.loss(state.params, key, batch, *settings), batch)

    def mean_loss(self, losses: Losses, x: Data | Window) -> Losses:
        """Returns the mean over the examples from those of all steps."""
        layout = self.layout(x)
        steps = layout.full_steps
        # Each example counts once: the smaller last batch has the weight of its examples.
        share = layout.batch_size / _count_epoch_examples(x)

        def mean(step_means: Array) -> Array:
            full = share * jnp.sum(step_means[:steps])
            return full + (1 - steps * share) * step_means[steps] if layout.rest else full

        return jax.tree.map(mean, losses)

    def train_blocks(
        self,
        state: TrainState,
        losses: Losses,
        first: ScalarLike,
        end: ScalarLike,
        key: PRNGKeyArray,
        epoch: ScalarLike,
        x: Data | Window,
        *settings: PyTree,
    ) -> tuple[TrainState, Losses]:
        """Returns state and losses after the blocks from ``first`` to before ``end``.

        Args:
          state: state before the blocks.
          losses: mean losses of the steps of this epoch, those before ``first`` filled in.
          first: first block, counted from 0 in this epoch.
          end: block after the last one.
          key: key of the run.
          epoch: number of this epoch.
          x: data, or a window of them that has all of these blocks.
          *settings: passed on to the loss.
        """
        layout = self.layout(x)
        steps, per_block = layout.full_steps, layout.steps_per_block
        # All randomness is a function of (key, epoch, step). Nothing random is carried along, so
        # an epoch that is begun in the middle has the draws of one that was not interrupted.
        shuffle_key, noise_key = epoch_keys(key, epoch)
        batches = _make_batches(x, shuffle_key, layout)

        def step(carry: _Carry, i: ScalarLike, batch: PyTree) -> _Carry:
            state, losses = carry
            state, means = self._train_step(
                state, jax.random.fold_in(noise_key, i), shard_batch(batch, self.mesh), *settings
            )

            def write(step_means: Array, mean: Array) -> Array:
                return step_means.at[i].set(mean.astype(step_means.dtype))

            return state, jax.tree.map(write, losses, means)

        def block(i: Array, carry: _Carry) -> _Carry:
            # Written out, not a loop: this is what makes two steps faster than one and one.
            for j in range(per_block):
                carry = step(carry, per_block * i + j, batches.take_full(per_block * i + j))
            return carry

        def tail(carry: _Carry) -> _Carry:
            for i in range(layout.full_blocks * per_block, steps):
                carry = step(carry, i, batches.take_full(i))
            return step(carry, steps, batches.take_rest()) if layout.rest else carry

        full_blocks = layout.full_blocks
        if isinstance(end, int):  # known when compiled: a loop that can be differentiated
            carry = jax.lax.fori_loop(first, min(end, full_blocks), block, (state, losses))
            return tail(carry) if end > full_blocks else carry
        # A last batch has another shape, so it cannot be a turn of the loop; and whether it is
        # reached is known only when the program runs.
        carry = jax.lax.fori_loop(first, jnp.minimum(end, full_blocks), block, (state, losses))
        is_last = jnp.greater(end, full_blocks)
        return jax.lax.cond(is_last, tail, lambda same: same, carry) if layout.has_tail else carry

    def __call__(
        self, state: TrainState, key: PRNGKeyArray, epoch: ScalarLike, x: Data, *settings: PyTree
    ) -> tuple[TrainState, Losses]:
        """Returns the state after the whole epoch, and its mean loss."""
        blocks = self.layout(x).blocks
        losses = self.zero_losses(state, key, x, *settings)
        state, losses = self.train_blocks(state, losses, 0, blocks, key, epoch, x, *settings)
        return state, self.mean_loss(losses, x)


def epoch_keys(key: PRNGKeyArray, epoch: ScalarLike) -> tuple[Array, Array]:
    """Returns the keys of the shuffle and of the steps' noise."""
    shuffle_key, noise_key = jax.random.split(jax.random.fold_in(key, epoch))
    return shuffle_key, noise_key


def _count_epoch_examples(x: Data | Window) -> int:
    """Returns the number of examples in an epoch over x."""
    if isinstance(x, Window):
        return x.examples
    return count_examples("x", x.like if isinstance(x, Stream) else x)


class _Batches(NamedTuple):
    """Functions that take the batches of an epoch out of its data.

    Attributes:
      take_full: returns the batch of a full step.
      take_rest: returns the smaller last batch.
    """

    take_full: Callable[[ScalarLike], PyTree]
    take_rest: Callable[[], PyTree]


def _make_batches(x: Data | Window, shuffle_key: Array, layout: EpochLayout) -> _Batches:
    """Returns the batches of an epoch; data in memory are shuffled, a window is already."""
    if isinstance(x, Window):
        return _Batches(
            lambda i: jax.tree.map(lambda leaf: leaf[i - x.first], x.batches), lambda: x.rest
        )
    check_not_divided("x", x)
    with jax.named_scope("shuffle"):
        order = shuffled_order(shuffle_key, _count_epoch_examples(x))
    cut = layout.full_steps * layout.batch_size
    rows = order[:cut].reshape(layout.full_steps, layout.batch_size)

    # One batch is gathered in each step. A shuffled copy of the data would need their memory twice.
    def gather(rows: Array) -> PyTree:
        with jax.named_scope("gather"):
            return jax.tree.map(lambda leaf: leaf[rows], x)

    return _Batches(lambda i: gather(rows[i]), lambda: gather(order[cut:]))
