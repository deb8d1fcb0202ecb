"""Derivative rules of a user's own layers, in a form that the structure of an encoder is read from.

The reader of an encoder (``_trace``) looks at the trace of its derivative, not at the encoder. So a
rule for a layer is a derivative rule that is written as a product with a diagonal or a matrix.
Nothing is registered globally: the rule belongs to the function that is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from jaxae import _checks

# A tangent of ``jax.custom_jvp``: zero where an argument is not differentiated.
_Tangent: TypeAlias = Array | SymbolicZero


def register_contraction_rule(
    function: Callable[..., Array],
    *,
    diagonal: Callable[..., Array] | None = None,
    matrix: Callable[..., Array] | None = None,
) -> Callable[..., Array]:
    r"""Returns ``function`` with a closed form of its Jacobian, as all derivatives then use.

    For a layer that :func:`jaxae.contractive_penalty` cannot read, such as one that solves an
    equation in a loop, although its Jacobian is known. With ``diagonal`` the layer is an
    elementwise function, with ``matrix`` a matrix that may depend on the input. The rule is
    used by ``jax.grad`` as well, forwards and backwards, and is not checked: compare it with finite
    differences by ``jax.test_util.check_grads``.

    Args:
      function: pure function of one array, and of further arrays such as weights, to one array.
        The derivative in the further arrays stays that of JAX.
      diagonal: function of the same arguments to the derivatives of all entries, of the shape of
        the first argument, which is that of the result too.
      matrix: function of the same arguments to the Jacobian in the first, ``(k, d)`` for d entries
        of the argument and k of the result. Constant if it does not use the first argument.

    Returns:
      A function with the values of ``function``.

    Raises:
      TypeError: if an argument is no function.
      ValueError: if not exactly one of ``diagonal`` and ``matrix`` is given, or, when it is
        used, if its result has another shape than stated.

    Example:
      >>> import jaxae
      >>> def cube_root(a):
      ...     return jax.lax.fori_loop(0, 30, lambda _, z: (2 * z + a / z**2) / 3, jnp.ones_like(a))
      >>> layer = register_contraction_rule(cube_root, diagonal=lambda a: 1 / (3 * layer(a) ** 2))
      >>> weights = jnp.array([[8.0, 0.0]])
      >>> jaxae.explain_contraction(lambda x_i: layer(weights @ x_i), jnp.ones((1, 2))).formula
      '‖D1 W1‖²'
    """
    for name, value in (("function", function), ("diagonal", diagonal), ("matrix", matrix)):
        if value is not None or name == "function":
            _checks.callable_(name, value)
    given = diagonal or matrix
    if given is None or (diagonal and matrix):
        found = "both are" if given else "neither is"
        raise ValueError(f"exactly one of diagonal and matrix must be given, but {found}")

    @jax.custom_jvp
    def function_with_rule(x: Array, *others: Array) -> Array:
        return function(x, *others)

    def derivative(primals: Sequence[Array], tangents: Sequence[_Tangent]) -> tuple[Array, Array]:
        (x, *others), (along, *along_others) = primals, tangents
        # The function with its rule: a derivative of this derivative uses the rule again.
        code = function_with_rule(x, *others)
        parts: list[Array] = []
        if not isinstance(along, SymbolicZero):
            parts.append(_times(given(x, *others), along, code, is_diagonal=diagonal is not None))
        if not all(isinstance(t, SymbolicZero) for t in along_others):
            full = [
                jnp.zeros_like(p) if isinstance(t, SymbolicZero) else t
                for p, t in zip(others, along_others, strict=True)
            ]
            parts.append(jax.jvp(partial(function, x), tuple(others), tuple(full))[1])
        return code, sum(parts[1:], parts[0])  # one of them is there, or JAX would not ask

    function_with_rule.defjvp(derivative, symbolic_zeros=True)
    return function_with_rule


def _times(jacobian: Array, along: Array, code: Array, *, is_diagonal: bool) -> Array:
    """Returns a diagonal or a matrix times a direction, in the shape of the code."""
    name = "diagonal" if is_diagonal else "matrix"
    wanted = along.shape if is_diagonal else (code.size, along.size)
    if jacobian.shape != wanted or (is_diagonal and code.shape != wanted):
        raise ValueError(
            f"{name} must return shape {wanted} for an argument of shape {along.shape} and a "
            f"result of shape {code.shape}, but it is {jacobian.shape}"
        )
    if is_diagonal:
        return jacobian * along
    return (jacobian @ along.reshape(-1)).reshape(code.shape)
