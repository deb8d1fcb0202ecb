"""The hash of 32-bit words on which the generator and the shuffle are built."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array


def word(value: int) -> Array:
    """Returns the lowest 32 bits of a number."""
    return jnp.uint32(value & 0xFFFFFFFF)


def mix(x: Array) -> Array:
    """Returns a bijection of 32-bit words in which every input bit moves every output bit."""
    x = (x ^ (x >> 16)) * word(0x21F0AAAD)
    x = (x ^ (x >> 15)) * word(0xD35A2D97)
    return x ^ (x >> 15)
