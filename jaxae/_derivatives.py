"""Which derivatives an encoder has, and its Jacobian by those.

JAX has no forward derivative of a ``jax.custom_vjp`` on the way of the input, and no reverse
derivative of a ``jax.lax.while_loop``. Which of the two an encoder has cannot be read off the
operations in it, since they may act on its weights alone. So JAX is asked: the derivative is traced
without being run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae._batching import varying_as
from jaxae._checks.remedies import Example


def _one_column(encode: Callable[[Array], Array], x_i: Array) -> Array:
    """Returns one column of the Jacobian as ``jax.jacfwd`` computes it; any direction will do."""
    return jax.vmap(lambda t: jax.jvp(encode, (x_i,), (t,))[1])(x_i[None])


def _one_row(encode: Callable[[Array], Array], x_i: Array) -> tuple[Array]:
    """Returns one row of the Jacobian as ``jax.jacrev`` computes it; any direction will do."""
    code, of_direction = jax.vjp(encode, x_i)
    return jax.vmap(of_direction)(code[None])


def failure(method: str, encode: Callable[[Array], Array], example: Example) -> str:
    """Returns why ``jax.jacfwd`` or ``jax.jacrev`` of an encoder fails, or nothing if it works."""
    try:
        one = _one_column if method == "jacfwd" else _one_row
        jax.eval_shape(partial(one, encode), example)
    except Exception as error:  # of any class: a rule that is missing, or the user's own
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def first_working_method(
    encode: Callable[[Array], Array],
    example: Example,
    methods: Sequence[str] = ("jacfwd", "jacrev"),
) -> str:
    """Returns the first of ``methods`` that works; raises ``TypeError`` if none does."""
    reasons = []
    for method in methods:
        reason = failure(method, encode, example)
        if not reason:
            return method
        reasons.append(f"{method}: {reason}")
    raise TypeError(
        "encode must have forward or reverse derivatives in its input, but it has neither "
        f"({'; '.join(reasons)})"
    )


def check_method(method: str, encode: Callable[[Array], Array], example: Example) -> None:
    """Checks that ``method``, ``"jacfwd"`` or ``"jacrev"``, works for an encoder."""
    if reason := failure(method, encode, example):
        raise ValueError(
            f"method must be one that works for this encode, such as 'auto', but {method!r} "
            f"does not ({reason})"
        )


def times_jacobian(encode: Callable[[Array], Array], x_i: Array, v: Array) -> Array:
    """Returns J v for a direction ``v`` of the shape of ``x_i``."""
    if first_working_method(encode, x_i) == "jacfwd":
        return jax.jvp(encode, (x_i,), (v,))[1]
    # J^T u is linear in u, so that its transposed derivative, anywhere, is J.
    code, pull_back = pullback(encode, x_i)
    # Inside ``jax.shard_map`` the 0 must vary as the code does, or J v is summed over devices.
    _, transposed = jax.vjp(pull_back, varying_as(jnp.zeros_like(code), code))
    (along,) = transposed(varying_as(v, x_i))
    return along


def pullback(
    encode: Callable[[Array], Array], x_i: Array
) -> tuple[Array, Callable[[Array], Array]]:
    """Returns the code, and the function from a direction u of the code to J^T u."""
    if first_working_method(encode, x_i, ("jacrev", "jacfwd")) == "jacrev":
        code, of_direction = jax.vjp(encode, x_i)
        return code, lambda u: of_direction(varying_as(u, code))[0]
    whole = jax.jacfwd(encode)(x_i)
    return encode(x_i), lambda u: jnp.tensordot(u, whole, 1)
