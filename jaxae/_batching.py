"""From one example to a batch: nested ``jax.vmap`` over the leading axes."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array


def over_batch(function: Callable[..., Any], batch_ndim: int) -> Callable[..., Any]:
    """Returns ``function`` vmapped over the ``batch_ndim`` leading axes of every argument."""
    for _ in range(batch_ndim):
        function = jax.vmap(function)
    return function


def one_example(x: Array, batch_ndim: int) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of one example of a batch, for tracing."""
    return jax.ShapeDtypeStruct(x.shape[batch_ndim:], x.dtype)
