"""Max pooling with derivatives that remember which entry of a window is the largest.

JAX's derivatives of a max pooling compare the entries of every window again for each direction,
and a Jacobian has many directions. Which entry is the largest does not depend on the direction. So
here it is found once, as a mask of the input, and a derivative keeps the entries of the mask:
forwards it adds up each window of what is left, backwards it repeats each output over its window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jaxtyping import Array

from jaxae._convolutions import equation_of_call, replace_operations


def with_masked_pooling(
    function: Callable[[Array], Array], example: jax.ShapeDtypeStruct
) -> Callable[[Array], Array]:
    """Returns ``function``, of one array to one, with masks for the derivatives of max pooling.

    It is the very same function where no max pooling is replaced. One with windows that overlap is
    left as it is: there an entry may be the largest of several windows.
    """
    if not _replaced(jax.make_jaxpr(function)(example)):
        return function

    def masked(x_i: Array) -> Array:
        closed = jax.make_jaxpr(function)(x_i)
        return jex.jaxpr_as_fun(_replaced(closed) or closed)(x_i)[0]

    return masked


def _replaced(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr | None:
    """Returns the trace with other max poolings, or None if there is none to replace."""
    jaxpr = replace_operations(closed.jaxpr, "reduce_window_max", _masked_call)
    return None if jaxpr is closed.jaxpr else closed.replace(jaxpr=jaxpr)


def _masked_call(equation: jex.JaxprEqn) -> jex.JaxprEqn:
    """Returns a call of the same pooling with a mask, or the very same if its windows overlap."""
    params: dict[str, Any] = equation.params
    window, strides = params["window_dimensions"], params["window_strides"]
    is_dilated = any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
    operand: Any = equation.invars[0].aval
    if strides != window or is_dilated or not jnp.issubdtype(operand.dtype, jnp.floating):
        return equation
    outputs = equation.outvars[0].aval.shape  # type: ignore[attr-defined]
    # The padding before the first window, and what fills the last window or cuts off the rest.
    borders = [
        (before, n * side - size - before, 0)
        for n, side, size, (before, _) in zip(
            outputs, window, operand.shape, params["padding"], strict=True
        )
    ]

    def pool(x: Array) -> Array:
        padded = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), borders)
        return _max_of_windows(padded, window)

    return equation_of_call(pool, equation)


def _max_of_windows(x: Array, window: Sequence[int]) -> Array:
    """Returns the maxima of the windows, which divide the array."""
    # (n_1, s_1, n_2, s_2, ...): every axis as the number of its windows and their side.
    shape = [
        part for size, side in zip(x.shape, window, strict=True) for part in (size // side, side)
    ]
    numbers, sides = range(0, 2 * x.ndim, 2), range(1, 2 * x.ndim, 2)

    @jax.custom_jvp
    def largest(x: Array) -> Array:
        return jnp.max(x.reshape(shape), tuple(sides))

    @largest.defjvp
    def largest_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (x,), (t,) = primals, tangents
        # The mask depends on x alone: under ``jax.vmap`` over directions it is computed once.
        chosen = jnp.where(mask(x), t, jnp.zeros_like(t))
        return largest(x), jnp.sum(chosen.reshape(shape), tuple(sides))

    def mask(x: Array) -> Array:
        """Returns where the largest entry of each window is, the first of several equal ones."""
        windows = x.reshape(shape).transpose(*numbers, *sides)
        flat = windows.reshape(*windows.shape[: x.ndim], math.prod(window))
        places = jax.nn.one_hot(jnp.argmax(flat, axis=-1), flat.shape[-1], dtype=bool)
        back = [axis for i in range(x.ndim) for axis in (i, x.ndim + i)]
        return places.reshape(windows.shape).transpose(back).reshape(x.shape)

    return largest(x)
