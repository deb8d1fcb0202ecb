"""The Jacobians of the trained encoders, by their singular values and vectors.

Not by ``jaxae.jacobian_singular_values``, since the tangents need the right singular vectors too.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.common.training.arrays import Function, Params

LEADING = 10  # right singular vectors that are kept


class Decomposition(NamedTuple):
    """The Jacobians of one encoder at some examples.

    Attributes:
      values: singular values ``(s, r)``.
      vectors: leading right singular vectors ``(s, LEADING, d)``, or ``(s, r, d)`` if r is less.
    """

    values: Array
    vectors: Array


def jacobian_svd(encode: Function, x_i: Array) -> tuple[Array, Array]:
    """Returns singular values ``(r,)`` and right singular vectors ``(r, d)`` at one example."""
    _, values, vectors = jnp.linalg.svd(jax.jacfwd(encode)(x_i), full_matrices=False)
    return values, vectors


def make_decompose(
    make_encoder: Callable[[Params], Function],
) -> Callable[[Params, Array], Decomposition]:
    """Returns the compiled ``decompose(params, x)``: the Jacobians at the examples ``x``."""

    @jax.jit
    def decompose(params: Params, x: Array) -> Decomposition:
        def decompose_example(x_i: Array) -> Decomposition:
            values, vectors = jacobian_svd(make_encoder(params), x_i)
            return Decomposition(values, vectors[:LEADING])

        return jax.lax.map(decompose_example, x, batch_size=50)

    return decompose
