"""Chooses how the penalty of an encoder is computed: by its structure, or by a full Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
from jaxtyping import Array

from jaxae import _checks
from jaxae._batching import one_example
from jaxae.contraction._chain import NotAChain
from jaxae.contraction._column_sums import find_sums
from jaxae.contraction._evaluate import FactoredJacobian, factored_jacobian
from jaxae.contraction._full import FullJacobian, cheapest_full_jacobian, for_loops
from jaxae.contraction._pooling import with_masked_pooling
from jaxae.contraction._trace import read_chain

# Both have the same methods: ``codes_and_norms`` and ``difference_norms``.
Jacobian: TypeAlias = FactoredJacobian | FullJacobian

# An encoder is cut into segments if that is estimated to take at most this share of the work.
_WORTH_CUTTING = 0.75


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
    encode = with_masked_pooling(encode, example)

    def cheapest_full() -> FullJacobian:
        sums = find_sums(encode, example, code)
        return cheapest_full_jacobian(encode, example, code, size, chunk_size, sums)

    # ``chunk_size`` rows of every example are the memory of this many whole Jacobians.
    group = chunk_size and max(1, size * chunk_size // max(1, code.size))
    try:
        chain = read_chain(encode, example)
    except NotAChain as error:
        return cheapest_full(), str(error)
    jacobian = factored_jacobian(chain, size, dtype, group)
    if not jacobian.equals_reverse_mode and not chain.why_segments:
        return jacobian, ""
    full = cheapest_full()
    if jacobian.equals_reverse_mode:
        return full, "a map without a matrix is applied to rows, as reverse derivatives do"
    # Groups are taken in a loop, which is slow for convolutions.
    is_slow = jacobian.group < size and for_loops(encode, example) is not encode
    if not is_slow and jacobian.orders[0].cost.work <= _WORTH_CUTTING * full.work:
        return jacobian, ""
    return full, chain.why_segments
