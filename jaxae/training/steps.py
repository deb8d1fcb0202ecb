r"""Training: a pure step; ``epoch`` loops over steps. What holds for both:

A *loss* is ``loss(params, key, x, *settings) -> (batch,)``; the step takes its mean over the
batch. A loss may return ``(values, aux)``: then the means of the
arrays in ``aux`` go with that of the values wherever it goes, as a pair. ``settings`` (a noise
level, a weight) are passed on as traced values, so a sweep over them compiles once. Data are an
array ``(n, *example)`` on the device, or a pytree of arrays with one leading axis of n, of which
the loss gets a batch as the same pytree. All randomness comes from one ``key``: the shuffle of
an epoch and the key of a step are functions of (key, epoch, step) alone, by
``jax.random.fold_in``.
A key from :func:`jaxae.hash_key` makes the noise cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxae import _checks, _optax
from jaxae._optax import Optimizer, OptState, Params
from jaxae.training._data import count_examples, to_native_arrays

Loss: TypeAlias = Callable[..., PyTree]
Losses: TypeAlias = (
    PyTree  # the means of a loss: an array or, with auxiliary outputs, a pair (array, pytree)
)


class TrainState(NamedTuple):
    """What changes during training.

    Attributes:
      params: parameters of the model, a pytree.
      opt_state: state of the ``optax`` optimiser.
      step: number of updates so far, an int32 scalar.
    """

    params: Params
    opt_state: OptState
    step: Array


def create_train_state(params: Params, optimizer: Optimizer) -> TrainState:
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
    """
    params = _optax.as_params(params)
    opt_state = _optax.as_transformation(optimizer).init(params)
    state = TrainState(params, opt_state, jnp.zeros((), jnp.int32))
    # Optimisers use one array twice, or that of a parameter; a buffer can be donated only once.
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf), copy=True), state)


def check_state(name: str, state: object) -> None:
    """Checks that a value is a state of training, and that its parameters can be trained."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"{name} must be a jaxae.TrainState, as create_train_state(params, optimizer) returns, "
            f"but it is a {type(state).__name__}"
        )
    _optax.as_params(state.params)


def make_train_step(loss: Loss, optimizer: Optimizer) -> Callable[..., tuple[TrainState, Array]]:
    """Returns a pure train step for a loss and any ``optax`` optimiser.

    Args:
      loss: ``loss(params, key, x, *settings)``, values ``(batch,)`` or a scalar; or a pair
        ``(values, aux)`` with a pytree of more such values, which are not trained on.
      optimizer: any ``optax`` optimiser. Its update gets the extra arguments ``value``, ``grad``,
        ``value_fn`` and ``obj_fn`` (the loss) and ``grad_fn``, as line searches, ``sam`` and
        ``sophia`` want them.

    Returns:
      ``train_step(state, key, x, *settings) -> (state, mean_loss)``; with auxiliary outputs
      ``(state, (mean_loss, mean_aux))``. Not compiled: wrap it in ``jax.jit``, or use
      :func:`make_epoch`.

    Raises:
      TypeError: if ``loss`` is no function or ``optimizer`` no ``optax`` optimiser; the result
        raises it for a loss that returns something else.
      ValueError: the result raises it for auxiliary outputs of other shapes.

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
    optimizer = _optax.as_transformation(optimizer)

    def train_step(
        state: TrainState, key: PRNGKeyArray, x: PyTree, *settings: PyTree
    ) -> tuple[TrainState, Losses]:
        # Outside of jit x may be NumPy's, in the byte order of another machine.
        x = to_native_arrays("x", x)

        def mean_loss(params: Params) -> tuple[Array, Losses]:
            means = mean_losses(loss(params, key, x, *settings), x)
            return main_loss(means), means

        (value, means), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)

        # For line searches, which call the loss again with the same batch and the same draws.
        def value_fn(params: Params) -> Array:
            return mean_loss(params)[0]

        with jax.named_scope("optimizer"):  # named for a profile
            params, opt_state = _optax.update_params(
                optimizer, state.params, state.opt_state, value_fn, value, grads
            )
        return TrainState(params, opt_state, state.step + 1), means

    return train_step


def mean_losses(output: PyTree, batch: PyTree) -> Losses:
    """Returns the means over a batch of what a loss returned.

    Raises:
      TypeError: if it is neither an array nor a pair of an array and a pytree of arrays.
      ValueError: if one of the arrays is neither a scalar nor ``(batch,)``.
    """
    pair = output if isinstance(output, tuple) else (output, None)
    if len(pair) != 2 or not _is_number(pair[0]):
        kinds = ", ".join(type(part).__name__ for part in pair)
        found = f"({kinds})" if isinstance(output, tuple) else type(output).__name__
        raise TypeError(
            f"loss must return values (batch,), a scalar, or a pair (values, aux), but it returned "
            f"{found}"
        )
    values = _checks.loss_values(pair[0], batch)
    if not isinstance(output, tuple):
        return jnp.mean(values)
    # An array of any other shape is refused: over which axes to take a mean would be a guess.
    size = count_examples("x", batch)
    paths, structure = jax.tree_util.tree_flatten_with_path(pair[1])
    means = [_mean_aux(f"aux{jax.tree_util.keystr(path)}", leaf, size) for path, leaf in paths]
    return jnp.mean(values), jax.tree.unflatten(structure, means)


def _is_number(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic | float | int)


def _mean_aux(name: str, leaf: PyTree, size: int) -> Array:
    """Returns the mean of an auxiliary output in float32 or wider."""
    if not _is_number(leaf) or jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
        raise TypeError(
            f"{name} of the loss must be an array of real numbers, but it is a "
            f"{getattr(leaf, 'dtype', type(leaf).__name__)}"
        )
    if jnp.shape(leaf) not in ((), (size,)):
        raise ValueError(
            f"{name} of the loss must be a scalar or have the shape ({size},) of a batch, but its "
            f"shape is {jnp.shape(leaf)}; take its sum or mean over the other axes"
        )
    # A sum over a batch is rounded coarsely in bfloat16, and integers have no mean of their dtype.
    return jnp.mean(leaf, dtype=wide_float(jnp.result_type(leaf)))


def wide_float(dtype: DTypeLike) -> DTypeLike:
    """Returns a floating dtype of 32 bits or more for means of numbers of this dtype."""
    is_floating = jnp.issubdtype(dtype, jnp.floating)
    return _checks.wide(dtype if is_floating else jnp.result_type(float))


def main_loss(losses: Losses) -> Losses:
    """Returns the losses themselves, without auxiliary outputs."""
    return losses[0] if isinstance(losses, tuple) else losses
