r"""Early stopping inside a compiled run: the parameters that did best on held-out data.

Contract of this module. An ``optax`` transformation around another one. It changes no update; what
it remembers is part of the optimiser's state, so checkpoints and resumed runs have it too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxae import _checks, _optax
from jaxae._optax import Optimizer, OptState, Params


class BestState(NamedTuple):
    """State of :func:`keep_best`.

    Attributes:
      inner: state of the optimiser inside.
      updates: number of updates so far, an int32 scalar.
      params: the parameters with the least score so far; before the first score the initial ones.
      score: their score, a scalar in the dtype of the score; before the first one the largest
        value there is, infinity for a floating score.
      step: number of updates that led to them.
    """

    inner: OptState
    updates: Array
    params: Params
    score: Array
    step: Array


def keep_best(
    optimizer: Optimizer, score: Callable[[Params], Array], *, every: int
) -> optax.GradientTransformationExtraArgs:
    r"""Returns an optimiser that remembers the parameters with the least score.

    The score, an error on validation data, is computed after every ``every`` updates, inside
    the compiled step; of equal scores the first one counts, and one that is NaN never does.
    Training goes on to the end: nothing is stopped, the best is kept. Data that ``score`` closes
    over become constants of the program. Under ``jax.vmap`` the score is computed at every step.

    Args:
      optimizer: any ``optax`` optimiser.
      score: pure function of the parameters to a scalar, less being better.
      every: number of updates between two scores, at least 1: an epoch.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose state is a :class:`BestState` and
      whose ``update`` needs ``params``.

    Raises:
      TypeError: if ``optimizer`` is no ``optax`` optimiser, ``score`` no function or ``every``
        no integer; ``update`` raises ValueError without ``params``.
      ValueError: if ``every`` is below 1, or ``score`` returns no real scalar.

    Example:
      >>> optimizer = keep_best(optax.sgd(1.0), jnp.square, every=1)  # steps over the minimum
      >>> state = optimizer.init(jnp.array(3.0))
      >>> params = jnp.array(3.0)
      >>> for _ in range(5):
      ...     updates, state = optimizer.update(jnp.array(2.0), state, params)
      ...     params = params + updates
      >>> float(params), float(state.params), int(state.step)
      (-7.0, 1.0, 1)

    References:
      Prechelt 1998, "Early Stopping: but When?". Deviation: no criterion stops the training.
    """
    inner = _optax.as_transformation(optimizer)
    _checks.callable_("score", score)
    every = _checks.integer("every", every, low=1)

    def init(params: Params) -> BestState:
        updates, step = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        start = jax.tree.map(jnp.array, params)  # an array of its own, as states are donated
        return BestState(inner.init(params), updates, start, _worst_score(score, params), step)

    def update(
        gradients: Params, state: BestState, params: Params | None = None, **extra: PyTree
    ) -> tuple[Params, BestState]:
        if params is None:
            raise ValueError("params must be passed to update, because they are scored")
        updates, inner_state = inner.update(gradients, state.inner, params, **extra)
        moved = optax.apply_updates(params, updates)
        count = state.updates + 1

        def scored() -> tuple[Params, Array, Array]:
            value = jnp.asarray(score(moved), state.score.dtype)
            now = moved, value, count
            is_better = value < state.score
            return jax.tree.map(partial(jnp.where, is_better), now, unchanged())

        def unchanged() -> tuple[Params, Array, Array]:
            return state.params, state.score, state.step

        best = jax.lax.cond(count % every == 0, scored, unchanged)
        return updates, BestState(inner_state, count, *best)

    return optax.GradientTransformationExtraArgs(init, update)


def _worst_score(score: Callable[[Params], Array], params: Params) -> Array:
    """Returns the largest value in the dtype of a score."""
    shape = jax.eval_shape(score, params)
    if getattr(shape, "shape", None) != ():
        raise ValueError(f"score must return a scalar, but it gave {shape}")
    if jnp.issubdtype(shape.dtype, jnp.integer):
        return jnp.full((), jnp.iinfo(shape.dtype).max, shape.dtype)
    if jnp.issubdtype(shape.dtype, jnp.floating):
        return jnp.full((), jnp.inf, shape.dtype)
    raise ValueError(f"score must return a scalar that can be compared, but it gave {shape.dtype}")
