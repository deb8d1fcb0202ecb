r"""Optimisers that stay on a constraint: the filters of a dictionary at unit norm.

Contract of this module. An ``optax`` transformation around another one. The constraint holds for
the parameters that it is given to; :func:`optax.partition` gives it some of a pytree. Biases are
refused, since a norm of 1 would be wrong for them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, PyTree

from jaxae import _checks, _optax
from jaxae._optax import Optimizer, OptState, Params


def unit_norm(optimizer: Optimizer, *, axis: int = -1) -> optax.GradientTransformationExtraArgs:
    r"""Returns an optimiser under which vectors along an axis keep a Euclidean norm of 1.

    .. math:: g \leftarrow g - \langle g, w \rangle w, \quad
              w \leftarrow \frac{w + u(g)}{\|w + u(g)\|}

    with w one vector, g its gradient and u(g) the update of ``optimizer``. The part of the
    gradient along w, which would only lengthen w, is taken away before the moments of Adam see
    it. An L1 norm of the code then cannot be lowered by longer filters and smaller codes.

    Args:
      optimizer: any ``optax`` optimiser.
      axis: axis of every parameter along which the vectors lie; -1 for the atoms of a Flax
        kernel ``(k, d)`` of a decoder.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose ``update`` needs ``params``. Vectors
      of another norm than 1 are brought to it by the first update, those of norm 0 by the
      first one that moves them. The sum w + u is rounded where w is: after the first update
      the norm is 1 up to ``eps`` times the norm before, after the second up to ``eps``. A vector
      longer than 1 / (2 ``eps``), 512 in float16, would be rounded away, so each update shortens
      it by no more than that factor.

    Raises:
      TypeError: if ``optimizer`` is no ``optax`` optimiser or ``axis`` no integer; ``update``
        raises ValueError without ``params``.
      ValueError: by ``init``, if a parameter has fewer than 2 axes, as a bias.

    Example:
      >>> optimizer = unit_norm(optax.sgd(0.1))
      >>> w = jnp.array([[1.0, 0.0]])
      >>> update, _ = optimizer.update(jnp.array([[5.0, 0.0]]), optimizer.init(w), w)
      >>> update.tolist()  # a gradient along w changes nothing
      [[0.0, 0.0]]

    References:
      Bricken et al. 2023, "Towards Monosemanticity", appendix, https://transformer-circuits.pub.
      Deviation: none.
    """
    inner = _optax.as_transformation(optimizer)
    axis = _checks.integer("axis", axis, low=-(2**31))

    def squared_norm(w: Array) -> Array:
        return jnp.sum(jnp.square(_checks.widen(w)), axis=axis, keepdims=True)

    def tangential(gradient: Array, w: Array) -> Array:
        squared, wide, g = squared_norm(w), _checks.widen(w), _checks.widen(gradient)
        along = jnp.sum(g * wide, axis=axis, keepdims=True)
        return (g - along / jnp.where(squared > 0, squared, 1) * wide).astype(gradient.dtype)

    def back(update: Array, w: Array) -> Array:
        wide = _checks.widen(w)
        moved = wide + _checks.widen(update)
        length = jnp.linalg.norm(moved, axis=axis, keepdims=True)
        # What the caller adds up, w + update, is a multiple of the rounding step of w.
        least = 2 * float(jnp.finfo(w.dtype).eps) * jnp.sqrt(squared_norm(w))
        length = length / jnp.maximum(least, 1)
        unit = jnp.where(length > 0, moved / jnp.where(length > 0, length, 1), wide)
        return (unit - wide).astype(update.dtype)

    def update(
        gradients: Params, state: OptState, params: Params | None = None, **extra: PyTree
    ) -> tuple[Params, OptState]:
        if params is None:
            raise ValueError("params must be passed to update, because their norm is kept")
        gradients = jax.tree.map(tangential, gradients, params)
        updates, state = inner.update(gradients, state, params, **extra)
        return jax.tree.map(back, updates, params), state

    def init(params: Params) -> OptState:
        jax.tree.map_with_path(_check_filters, params)
        return inner.init(params)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_filters(path: KeyPath, w: Array) -> None:
    """Checks that a parameter is no bias, which has no norm to keep."""
    if jnp.ndim(w) < 2:
        raise ValueError(
            f"params must be filters of at least 2 axes, but params{jax.tree_util.keystr(path)} "
            f"has shape {jnp.shape(w)}, as a bias; keep only filters at norm 1, by optax.partition("
            "{'filters': unit_norm(optimizer), 'rest': optimizer}, labels)"
        )
