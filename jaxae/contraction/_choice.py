"""Chooses how the penalty of an encoder is computed: by its structure, or by a full Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
from jaxtyping import Array

from jaxae import _checks
from jaxae._batching import one_example
from jaxae.contraction._chain import NotAChain
from jaxae.contraction._evaluate import FactoredJacobian, factored_jacobian
from jaxae.contraction._full import FullJacobian, cheapest_full_jacobian
from jaxae.contraction._trace import read_chain

# Both have the same methods: ``codes_and_norms`` and ``difference_norms``.
Jacobian: TypeAlias = FactoredJacobian | FullJacobian


def check_inputs(
    encode: Callable[[Array], Array], x: object, chunk_size: int | None, example_ndim: int
) -> tuple[Array, tuple[int, ...], jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns ``x``, its batch shape, and what one example and one code look like."""
    x = _checks.floating("x", x)
    batch = _checks.batch_shape("x", x, example_ndim)
    if chunk_size is not None:
        _checks.integer("chunk_size", chunk_size, low=1)
    example = one_example(x, len(batch))
    code = _checks.code_shape(encode, example, x.shape, is_differentiated=True)
    return x, batch, example, code


def choose(
    encode: Callable[[Array], Array],
    example: jax.ShapeDtypeStruct,
    code: jax.ShapeDtypeStruct,
    size: int,
    chunk_size: int | None,
) -> tuple[Jacobian, str]:
    """Returns the Jacobian for a batch of ``size`` examples, and why it is not factored.

    The reason is empty where the structure is used.
    """
    dtype = _checks.wide(example.dtype, code.dtype)
    # ``chunk_size`` rows of every example are the memory of this many whole Jacobians.
    group = chunk_size and max(1, size * chunk_size // max(1, code.size))
    try:
        jacobian = factored_jacobian(read_chain(encode, example), size, dtype, group)
    except NotAChain as error:
        reason = str(error)
    else:
        if not jacobian.is_reverse:
            return jacobian, ""
        reason = "a map without a matrix is applied to rows, as reverse derivatives do"
    return cheapest_full_jacobian(encode, example, code, size, chunk_size), reason
