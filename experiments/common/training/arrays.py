"""Arrays of parameters."""

import jax.numpy as jnp
from jaxtyping import Array


def unit_rows(kernel: Array) -> Array:
    """Returns the rows of a kernel ``(k, d)``, each divided by its norm."""
    norms = jnp.linalg.norm(kernel, axis=1, keepdims=True)
    return kernel / jnp.maximum(norms, 1e-12)
