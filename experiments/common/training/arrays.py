"""Types of networks and of their parameters, and arrays of these."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

Function = Callable[[Array], Array]  # of one example, as encoders and decoders are
Params = Any  # a pytree of parameters; only the network that made it knows its form


def unit_rows(kernel: Array) -> Array:
    """Returns the rows of a kernel ``(k, d)``, each divided by its norm."""
    norms = jnp.linalg.norm(kernel, axis=1, keepdims=True)
    return kernel / jnp.maximum(norms, 1e-12)
