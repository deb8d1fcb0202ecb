"""Random draws in float32 or wider, whatever the dtype of the data: in half precision they are
few and their mean is not 0."""

import jax
from jaxtyping import Array, PRNGKeyArray

from jaxae._checks import wide


def normal(key: PRNGKeyArray, x: Array) -> Array:
    """Returns N(0, 1) draws of the shape and the dtype of ``x``."""
    return jax.random.normal(key, x.shape, wide(x.dtype)).astype(x.dtype)
