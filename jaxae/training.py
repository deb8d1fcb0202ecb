r"""Training: a pure step, a whole epoch in one compiled loop, and exact evaluation.

Contract of this module. A *loss* is ``loss(params, key, x, *settings) -> (batch,)``; the
step takes its mean over the batch. ``settings`` (a noise level, a weight) are passed on
as traced values, so a sweep over them compiles once. Data are an array ``(n, *example)``
on the device. All randomness comes from one ``key``: the shuffle of an epoch and the key
of a step are functions of (key, epoch, step) alone, by ``jax.random.fold_in``.
A key from :func:`jaxae.hash_key` makes the noise cheap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from jaxae import _checks, _optimizers
from jaxae._batching import one_example
from jaxae._optimizers import Optimizer
from jaxae.generator import shuffled_order
from jaxae.sharding import divided

Loss = Callable[..., Array]
Data = Any  # whatever has the shape (n, *example) and the dtype of the data
# Two steps at a time are a tenth faster where a step is short, and compile twice as long.
_MANY_STEPS = 200


class TrainState(NamedTuple):
    """What changes during training.

    Attributes:
      params: parameters of the model, a pytree.
      opt_state: state of the ``optax`` optimiser.
      step: number of updates so far, an int32 scalar.
    """

    params: Any
    opt_state: Any
    step: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("batches", "rest", "first"),
    meta_fields=("examples",),
)
@dataclass(frozen=True)
class Window:
    """Some batches of an epoch, one after another, of data that are read in pieces.

    Attributes:
      batches: batches of full size ``(steps, size, *example)``.
      rest: the smaller last batch of the epoch ``(rest, *example)``; before its turn, anything.
      first: which step of the epoch ``batches`` begins with.
      examples: number n of examples in an epoch.
    """

    batches: Any
    rest: Any
    first: Any
    examples: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(n, *example)`` of all the data."""
        return self.examples, *self.batches.shape[2:]

    @property
    def dtype(self) -> Any:
        """Type of the data."""
        return self.batches.dtype


class NonFiniteLossError(FloatingPointError):
    """Training broke down: a loss, or a parameter at the end, is NaN or infinite.

    Attributes:
      what: what is not finite.
      epoch: the epoch in which it happened, from 1.
      model: which of several models it was, from 0, or None where there is one.
      reason: what is known of the reason, or what to look at.
    """

    def __init__(
        self, what: str, epoch: int, model: int | None = None, reason: str | None = None
    ) -> None:
        which = "" if model is None else f" of model {model}"
        self.what, self.epoch, self.model = what, epoch, model
        self.reason = reason or (
            "lower the learning rate, or look for a division by zero in the loss and for values "
            "outside their range (x in [0, 1] for bernoulli_nll, codes in [0, 1] for "
            "kl_sparsity_penalty, weights of at least 0)"
        )
        super().__init__(f"{what} in epoch {epoch}{which}: {self.reason}")


def create_train_state(params: PyTree, optimizer: Optimizer) -> TrainState:
    """Returns the state before the first step.

    Args:
      params: parameters of the model, a pytree of floating arrays or numbers.
      optimizer: any ``optax`` optimiser, ``optax.MultiSteps`` included.

    Returns:
      State with ``step`` 0. Its arrays are strongly typed, so a step compiles once. Each is a
      copy with a buffer of its own: a step that donates the state leaves ``params`` alone.

    Raises:
      TypeError: if ``optimizer`` is no ``optax`` optimiser, or a leaf of ``params`` is not
        floating.

    Example:
      >>> import optax
      >>> int(create_train_state({"w": jnp.ones(2)}, optax.adam(1e-3)).step)
      0

    References:
      None.
    """
    params = _optimizers.as_params(params)
    opt_state = _optimizers.as_transformation(optimizer).init(params)
    state = TrainState(params, opt_state, jnp.zeros((), jnp.int32))
    # Optimisers use one array twice, or that of a parameter; a buffer can be donated only once.
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf), copy=True), state)


def check_state(name: str, state: Any) -> None:
    """Checks that a value is a state of training, and that its parameters can be trained."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"{name} must be a jaxae.TrainState, as create_train_state(params, optimizer) returns, "
            f"but it is a {type(state).__name__}"
        )
    _optimizers.as_params(state.params)


def make_train_step(loss: Loss, optimizer: Optimizer) -> Callable[..., tuple[TrainState, Array]]:
    """Returns a pure train step for a loss and any ``optax`` optimiser.

    Args:
      loss: ``loss(params, key, x, *settings)``, values ``(batch,)`` or a scalar.
      optimizer: any ``optax`` optimiser. Its update gets the extra arguments ``value``, ``grad``,
        ``value_fn`` and ``obj_fn`` (the loss) and ``grad_fn``, as line searches, ``sam`` and
        ``sophia`` want them.

    Returns:
      ``train_step(state, key, x, *settings) -> (state, mean_loss)``. Not compiled: wrap it in
      ``jax.jit``, or use :func:`make_epoch`.

    Raises:
      TypeError: if ``loss`` is no function or ``optimizer`` no ``optax`` optimiser.

    Example:
      >>> import optax
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.5)
      >>> step = make_train_step(loss, optimizer)
      >>> state = create_train_state(jnp.zeros(()), optimizer)
      >>> state, value = step(state, jax.random.key(0), jnp.array([1.0, 3.0]))
      >>> float(value), float(state.params)
      (5.0, 2.0)

    References:
      Goodfellow, Bengio, Courville 2016, algorithm 8.1. Deviation: none.
    """
    _checks.callable_("loss", loss)
    optimizer = _optimizers.as_transformation(optimizer)

    def train_step(
        state: TrainState, key: PRNGKeyArray, x: Array, *settings: Any
    ) -> tuple[TrainState, Array]:
        def mean_loss(params: Any) -> Array:
            return jnp.mean(_checks.loss_values(loss(params, key, x, *settings), x))

        value, grads = jax.value_and_grad(mean_loss)(state.params)
        with jax.named_scope("optimizer"):  # named for a profile
            params, opt_state = _optimizers.update_params(
                optimizer, state.params, state.opt_state, mean_loss, value, grads
            )
        return TrainState(params, opt_state, state.step + 1), value

    return train_step


def make_epoch(
    loss: Loss, optimizer: Optimizer, *, batch_size: int
) -> Callable[..., tuple[TrainState, Array]]:
    """Returns a function that trains one epoch in one compiled program.

    The data are shuffled, cut into batches and passed through one loop; the rest that
    does not fill a batch makes one smaller step at the end, so every example is used once
    and counts once. The host is not asked in between.

    Args:
      loss: ``loss(params, key, x, *settings)``, values ``(batch,)`` or a scalar.
      optimizer: any ``optax`` optimiser.
      batch_size: examples per step, at least 1; more than there are means one full batch.

    Returns:
      ``run_epoch(state, key, epoch, x, *settings) -> (state, mean_loss)``, compiled. The
      same ``key`` serves the whole run; ``epoch`` counts from 0. ``mean_loss`` is the mean
      over the examples, each at the parameters of its own step.

    Raises:
      TypeError: if ``loss`` is no function or ``batch_size`` no integer.
      ValueError: if ``batch_size`` is below 1; the result raises it for empty data.

    Example:
      >>> import optax
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.5)
      >>> run_epoch = make_epoch(loss, optimizer, batch_size=2)
      >>> state = create_train_state(jnp.zeros(()), optimizer)
      >>> state, value = run_epoch(state, jax.random.key(0), 0, jnp.ones(5))
      >>> int(state.step)
      3

    References:
      None.
    """
    return jax.jit(Epoch(loss, optimizer, batch_size))


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

    def cut(self, x: Data) -> tuple[int, int, int, int]:
        """Returns examples per step, full steps, examples that are left, and steps per block."""
        if x.shape[0] == 0:
            raise ValueError(f"x must hold at least one example, but its shape is {x.shape}")
        size = min(self._batch_size, x.shape[0])
        steps, rest = divmod(x.shape[0], size)
        return size, steps, rest, 2 if steps >= _MANY_STEPS else 1

    def blocks(self, x: Data) -> int:
        """Returns the number of blocks in an epoch over x."""
        _, steps, rest, per_block = self.cut(x)
        return steps // per_block + bool(steps % per_block or rest)

    def steps(self, x: Data) -> int:
        """Returns the number of steps in an epoch over x."""
        _, steps, rest, _ = self.cut(x)
        return steps + bool(rest)

    def steps_per_block(self, x: Data) -> int:
        """Returns the number of steps in each block but the last."""
        return self.cut(x)[3]

    def no_losses(self, x: Data) -> Array:
        """Returns what the losses of the steps are written to, ``(steps,)``."""
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
        return jnp.zeros(self.steps(x), _checks.wide(dtype))

    def mean_loss(self, losses: Array, x: Data) -> Array:
        """Returns the mean loss over the examples from those of all steps."""
        size, steps, rest, _ = self.cut(x)
        share = size / x.shape[0]
        mean = share * jnp.sum(losses[:steps])
        return mean + (1 - steps * share) * losses[steps] if rest else mean

    def part(
        self,
        state: TrainState,
        losses: Array,
        span: tuple[ScalarLike, ScalarLike],
        key: PRNGKeyArray,
        epoch: ScalarLike,
        x: Array | Window,
        *settings: Any,
    ) -> tuple[TrainState, Array]:
        """Returns state and losses after the blocks from the first to before the second of span."""
        size, steps, rest, per_block = self.cut(x)
        shuffle_key, noise_key = keys_of_epoch(key, epoch)
        batch_of, last_batch = _batches(x, shuffle_key, size, steps)

        def step(carry: tuple[TrainState, Array], i: ScalarLike, batch: Array) -> Any:
            state, losses = carry
            state, loss = self._train_step(
                state, jax.random.fold_in(noise_key, i), divided(batch, self.mesh), *settings
            )
            return state, losses.at[i].set(loss.astype(losses.dtype))

        def block(i: Array, carry: tuple[TrainState, Array]) -> Any:
            for j in range(per_block):
                carry = step(carry, per_block * i + j, batch_of(per_block * i + j))
            return carry

        def tail(carry: tuple[TrainState, Array]) -> Any:
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
        self, state: TrainState, key: PRNGKeyArray, epoch: ScalarLike, x: Array, *settings: Any
    ) -> tuple[TrainState, Array]:
        """Returns the state after the whole epoch, and its mean loss."""
        span = 0, self.blocks(x)
        state, losses = self.part(state, self.no_losses(x), span, key, epoch, x, *settings)
        return state, self.mean_loss(losses, x)


def keys_of_epoch(key: PRNGKeyArray, epoch: ScalarLike) -> tuple[Array, Array]:
    """Returns the keys of the shuffle and of the steps' noise."""
    shuffle_key, noise_key = jax.random.split(jax.random.fold_in(key, epoch))
    return shuffle_key, noise_key


def _batches(
    x: Array | Window, shuffle_key: Array, size: int, steps: int
) -> tuple[Callable[[ScalarLike], Array], Callable[[], Array]]:
    """Returns what gives the batch of a full step, and what gives the smaller last one."""
    if isinstance(x, Window):
        return lambda i: x.batches[i - x.first], lambda: x.rest
    with jax.named_scope("shuffle"):
        order = shuffled_order(shuffle_key, x.shape[0])
    rows = order[: steps * size].reshape(steps, size)

    def gathered(rows: Array) -> Array:
        with jax.named_scope("gather"):
            return x[rows]

    return lambda i: gathered(rows[i]), lambda: gathered(order[steps * size :])


def evaluate(
    metric: Callable[..., PyTree], *data: Float[Array, "n *example"], batch_size: int
) -> PyTree:
    """Returns the exact mean of a per-example metric over a data set.

    Batches bound the memory only: the last one may be smaller and every example counts once.
    Called outside ``jax.jit`` it compiles ``metric`` every time: wrap what you call often.

    Args:
      metric: function of ONE example of each of ``data`` to a pytree of scalars.
      *data: arrays with the same number n of examples.
      batch_size: examples at a time, at least 1.

    Returns:
      Means over the n examples, in the pytree of ``metric``.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if the arrays differ in n, are empty or not finite.

    Example:
      >>> float(evaluate(lambda x_i: x_i.sum(), jnp.arange(5.0).reshape(5, 1), batch_size=2))
      2.0

    References:
      None.
    """
    _checks.callable_("metric", metric)
    _checks.integer("batch_size", batch_size, low=1)
    arrays = tuple(_checks.floating(f"data[{i}]", array) for i, array in enumerate(data))
    lengths = {array.shape[:1] for array in arrays}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        shapes = [array.shape for array in arrays]
        raise ValueError(f"data must be arrays of the same n >= 1 examples, but have {shapes}")
    _checks.outputs("metric", metric, *(one_example(array, 1) for array in arrays))
    values = jax.lax.map(lambda row: metric(*row), arrays, batch_size=batch_size)
    return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)
