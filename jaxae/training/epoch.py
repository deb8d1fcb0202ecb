"""One epoch: an order of the examples, and a train step for each batch, as one compiled loop."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae._optax import Optimizer
from jaxae.random import shuffled_order
from jaxae.training._data import Data, Stream, as_arrays, check_not_divided, count_examples
from jaxae.training.sharding import divided
from jaxae.training.steps import Loss, Losses, TrainState, make_train_step, mean_losses, wide_float

# Two steps at a time are a tenth faster where a step is short, and compile twice as long.
_MANY_STEPS = 200


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

    batches: Any
    rest: Any
    first: Any
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
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.5)
      >>> run_epoch = make_epoch(loss, optimizer, batch_size=2)
      >>> state = create_train_state(jnp.zeros(()), optimizer)
      >>> state, value = run_epoch(state, jax.random.key(0), 0, jnp.ones(5))
      >>> int(state.step)
      3
    """
    compiled = jax.jit(Epoch(loss, optimizer, batch_size))

    @wraps(compiled)
    def run_epoch(
        state: TrainState, key: PRNGKeyArray, epoch: ScalarLike, x: Any, *settings: Any
    ) -> tuple[TrainState, Losses]:
        count_examples("x", x)  # jax.jit would take a list for a pytree of its numbers
        return compiled(state, key, epoch, as_arrays("x", x), *settings)

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
        self._first_losses = jax.jit(self._losses_of_first_batch)

    def cut(self, x: Data | Window) -> tuple[int, int, int, int]:
        """Returns examples per step, full steps, examples that are left, and steps per block."""
        n = _examples(x)
        size = min(self._batch_size, n)
        steps, rest = divmod(n, size)
        return size, steps, rest, 2 if steps >= _MANY_STEPS else 1

    def blocks(self, x: Data | Window) -> int:
        """Returns the number of blocks in an epoch over x."""
        _, steps, rest, per_block = self.cut(x)
        return steps // per_block + bool(steps % per_block or rest)

    def steps(self, x: Data | Window) -> int:
        """Returns the number of steps in an epoch over x."""
        _, steps, rest, _ = self.cut(x)
        return steps + bool(rest)

    def steps_per_block(self, x: Data | Window) -> int:
        """Returns the number of steps in each block but the last."""
        return self.cut(x)[3]

    def no_losses(self, state: Any, key: Any, x: Data | Window, *settings: Any) -> Losses:
        """Returns zeros ``(steps,)``, in the place of the mean losses of the steps of an epoch.

        Of the arguments only shapes and dtypes are used.
        """
        x = x.like if isinstance(x, Stream) else x
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(x.batches if isinstance(x, Window) else x)]
        dtype = max(map(wide_float, dtypes), key=lambda dtype: jnp.finfo(dtype).bits)
        means = self._first_losses.eval_shape(state, key, x, *settings)
        zeros = partial(jnp.zeros, self.steps(x))
        if not isinstance(means, tuple):
            return zeros(dtype)
        return zeros(dtype), jax.tree.map(lambda mean: zeros(mean.dtype), means[1])

    def _losses_of_first_batch(
        self, state: TrainState, key: PRNGKeyArray, x: Any, *settings: Any
    ) -> Losses:
        size = self.cut(x)[0]
        if isinstance(x, Window):
            batch = jax.tree.map(lambda leaf: leaf[0], x.batches)
        else:
            batch = jax.tree.map(lambda leaf: leaf[:size], x)
        return mean_losses(self.loss(state.params, key, batch, *settings), batch)

    def mean_loss(self, losses: Losses, x: Data | Window) -> Losses:
        """Returns the mean over the examples from those of all steps."""
        size, steps, rest, _ = self.cut(x)
        share = size / _examples(x)

        def mean(of_steps: Array) -> Array:
            full = share * jnp.sum(of_steps[:steps])
            return full + (1 - steps * share) * of_steps[steps] if rest else full

        return jax.tree.map(mean, losses)

    def part(
        self,
        state: TrainState,
        losses: Losses,
        span: tuple[ScalarLike, ScalarLike],
        key: PRNGKeyArray,
        epoch: ScalarLike,
        x: Data | Window,
        *settings: Any,
    ) -> tuple[TrainState, Losses]:
        """Returns state and losses after the blocks from the first to before the second of span."""
        size, steps, rest, per_block = self.cut(x)
        shuffle_key, noise_key = keys_of_epoch(key, epoch)
        batch_of, last_batch = _batches(x, shuffle_key, size, steps)

        def step(carry: tuple[TrainState, Losses], i: ScalarLike, batch: Any) -> Any:
            state, losses = carry
            state, means = self._train_step(
                state, jax.random.fold_in(noise_key, i), divided(batch, self.mesh), *settings
            )
            write = lambda of_steps, mean: of_steps.at[i].set(mean.astype(of_steps.dtype))
            return state, jax.tree.map(write, losses, means)

        def block(i: Array, carry: tuple[TrainState, Losses]) -> Any:
            for j in range(per_block):
                carry = step(carry, per_block * i + j, batch_of(per_block * i + j))
            return carry

        def tail(carry: tuple[TrainState, Losses]) -> Any:
            for i in range(steps - steps % per_block, steps):
                carry = step(carry, i, batch_of(i))
            return step(carry, steps, last_batch()) if rest else carry

        whole = steps // per_block
        first, end = span
        if isinstance(end, int):  # known when compiled: a loop that can be differentiated
            carry = jax.lax.fori_loop(first, min(end, whole), block, (state, losses))
            return tail(carry) if end > whole else carry
        carry = jax.lax.fori_loop(first, jnp.minimum(end, whole), block, (state, losses))
        has_tail = self.blocks(x) > whole
        is_last = jnp.greater(end, whole)
        return jax.lax.cond(is_last, tail, lambda same: same, carry) if has_tail else carry

    def __call__(
        self, state: TrainState, key: PRNGKeyArray, epoch: ScalarLike, x: Data, *settings: Any
    ) -> tuple[TrainState, Losses]:
        """Returns the state after the whole epoch, and its mean loss."""
        span = 0, self.blocks(x)
        losses = self.no_losses(state, key, x, *settings)
        state, losses = self.part(state, losses, span, key, epoch, x, *settings)
        return state, self.mean_loss(losses, x)


def keys_of_epoch(key: PRNGKeyArray, epoch: ScalarLike) -> tuple[Array, Array]:
    """Returns the keys of the shuffle and of the steps' noise."""
    shuffle_key, noise_key = jax.random.split(jax.random.fold_in(key, epoch))
    return shuffle_key, noise_key


def _examples(x: Data | Window) -> int:
    """Returns the number of examples in an epoch over x."""
    if isinstance(x, Window):
        return x.examples
    return count_examples("x", x.like if isinstance(x, Stream) else x)


def _batches(
    x: Any, shuffle_key: Array, size: int, steps: int
) -> tuple[Callable[[ScalarLike], Any], Callable[[], Any]]:
    """Returns functions for the batch of a full step and for the smaller last one."""
    if isinstance(x, Window):
        at = lambda i: jax.tree.map(lambda leaf: leaf[i - x.first], x.batches)
        return at, lambda: x.rest
    check_not_divided("x", x)
    with jax.named_scope("shuffle"):
        order = shuffled_order(shuffle_key, _examples(x))
    rows = order[: steps * size].reshape(steps, size)

    def gathered(rows: Array) -> Any:
        with jax.named_scope("gather"):
            return jax.tree.map(lambda leaf: leaf[rows], x)

    return lambda i: gathered(rows[i]), lambda: gathered(order[steps * size :])
