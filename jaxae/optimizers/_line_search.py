r"""Line searches for losses in any unit and parameters of any precision.

A line search of ``optax`` has absolute tolerances: its first step size is 1, and it ends at an
interval of 1e-5. Where a loss is 1e-12 (volts squared) its steps are far too short, where it is
1e12 far too long. So the loss is multiplied by a power of two inside, which changes no digit, and
all is computed in at least single precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from jaxae import _checks
from jaxae._optax import OptState

_SearchState: TypeAlias = (
    optax.ScaleByZoomLinesearchState | optax.ScaleByBacktrackingLinesearchState
)


class LineSearchState(NamedTuple):
    """State of :func:`jaxae.lbfgs` and :func:`jaxae.conjugate_gradient`.

    Attributes:
      scale: power of two by which the loss is multiplied inside; 0 before the first step.
      direction: state of the transform from gradients to search directions.
      search: state of the line search; its value and gradient are those of the scaled loss.
    """

    scale: Array
    direction: OptState
    search: optax.ScaleByZoomLinesearchState


class LineSearched(optax.GradientTransformationExtraArgs):
    """An optimiser whose last part is a line search: it moves where that has evaluated last."""


def search_along(
    directions: optax.GradientTransformation, search: optax.GradientTransformationExtraArgs
) -> LineSearched:
    """Returns the optimiser that searches along the directions of a transform."""
    directions = optax.with_extra_args_support(directions)

    def init(params: PyTree) -> LineSearchState:
        dtype = _dtype_of_search(params)
        params = optax.tree.cast(params, dtype)
        return LineSearchState(jnp.zeros((), dtype), directions.init(params), search.init(params))

    def update(
        updates: PyTree,
        state: LineSearchState,
        params: PyTree,
        *,
        value: Array,
        grad: PyTree,
        value_fn: Callable[[PyTree], Array],
        **extra: PyTree,
    ) -> tuple[PyTree, LineSearchState]:
        dtype = _dtype_of_search(params)
        value = jnp.asarray(value, dtype)
        updates, grad, wide_params = optax.tree.cast((updates, grad, params), dtype)
        scale = jnp.where(state.scale == 0, _scale_of_loss(value, grad), state.scale)

        def scaled_loss(moved: PyTree) -> Array:
            return scale * value_fn(optax.tree.cast_like(moved, params)).astype(dtype)

        updates, direction_state = directions.update(
            optax.tree.scale(scale, updates), state.direction, wide_params
        )
        updates, search_state = search.update(
            updates,
            state.search,
            wide_params,
            value=scale * value,
            grad=optax.tree.scale(scale, grad),
            value_fn=scaled_loss,
        )
        state = LineSearchState(scale, direction_state, search_state)
        return optax.tree.cast_like(updates, params), state

    return LineSearched(init, update)


def _dtype_of_search(params: PyTree) -> np.dtype:
    """Returns the widest dtype of the parameters, or float32 if that is narrower."""
    return np.dtype(_checks.wide(*(leaf.dtype for leaf in jax.tree.leaves(params))))


def _scale_of_loss(value: Array, gradient: PyTree) -> Array:
    """Returns the power of two that brings a loss to the order of 1, and 1 if it is near that.

    A small gradient alone does not make a loss small: it may begin near its minimum. Hence its
    value counts too, but not beyond 1, since a constant may be added to any loss.
    """
    size = jnp.maximum(_largest_entry(gradient, value.dtype), jnp.minimum(jnp.abs(value), 1))
    is_far = (size < 1e-3) | (size > 1e3)
    return jnp.where(is_far, _inverse_power_of_two(size), jnp.ones_like(size))


def _largest_entry(gradient: PyTree, dtype: np.dtype) -> Array:
    """Returns the largest absolute value in a pytree, 0 if it is empty."""
    largest = [jnp.max(jnp.abs(g), initial=0).astype(dtype) for g in jax.tree.leaves(gradient)]
    return jnp.max(jnp.stack(largest), initial=0)


def _inverse_power_of_two(size: Array) -> Array:
    """Returns the power of two p with 1 <= p * size < 2, or 1 if there is none."""
    limits = jnp.finfo(size.dtype)
    _, exponent = jnp.frexp(size)
    power = jnp.ldexp(jnp.ones_like(size), jnp.clip(1 - exponent, limits.minexp, -limits.minexp))
    return jnp.where(jnp.isfinite(size) & (size > 0), power, 1)


def end_of_search(state: LineSearchState) -> tuple[Array, PyTree]:
    """Returns loss and gradient where a line search ended, without its scale."""
    value, grad = state.search.value, state.search.grad
    return value / state.scale, jax.tree.map(lambda g: g / state.scale, grad)


def gradient_norm(gradient: PyTree) -> Array:
    """Returns the Euclidean norm of a gradient whose squares may leave the range of its dtype."""
    dtype = _dtype_of_search(gradient)
    scale = _inverse_power_of_two(_largest_entry(gradient, dtype))
    return optax.tree.norm(optax.tree.scale(scale, optax.tree.cast(gradient, dtype))) / scale


def computes_in(params: PyTree, dtype: np.dtype) -> bool:
    """Returns whether a line search computes in the dtype of the parameters and of the loss."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    return dtypes == {dtype} == {_dtype_of_search(params)}


def search_states(opt_state: OptState) -> list[_SearchState]:
    """Returns the states of the line searches inside an optimiser's state."""

    def is_search(node: PyTree) -> bool:
        return isinstance(node, _SearchState)

    return [node for node in jax.tree.leaves(opt_state, is_leaf=is_search) if is_search(node)]
