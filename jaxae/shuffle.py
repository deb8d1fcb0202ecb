r"""The order of the examples in an epoch: a shuffle without a sort."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from jaxae import _checks
from jaxae._checks import AnyArray
from jaxae._hash import mix, word

_FEISTEL_ROUNDS = 6
_SORTED_BELOW = 256  # a shuffle of fewer is sorted: the network mixes too few states


def shuffled_order(
    key: PRNGKeyArray, n: int, *, positions: Int[AnyArray, " m"] | None = None
) -> Int[Array, " m"]:
    r"""Returns the numbers 0 ... n - 1 in a random order, all of them or those at some positions.

    The numbers are written as pairs :math:`(l, r)` with :math:`l < a`, :math:`r < b` and
    :math:`n \le a b`, and mixed in six rounds, :math:`l \gets l + F(r) \bmod a` and
    :math:`r \gets r + F(l) \bmod b` in turn, with a keyed hash :math:`F`; what falls
    outside goes around again. This is a bijection by construction, so nothing is sorted:
    60,000 numbers take half a millisecond on a CPU, where ``jax.random.permutation`` takes 30.
    A part of the order costs as much as it is long, in time and in memory.
    Below 256 numbers it is ``jax.random.permutation``.

    Args:
      key: PRNG key, consumed here; any generator.
      n: how many numbers, at least 1 and below 2^31.
      positions: places in the order, integers in [0, n) ``(m,)`` of any integer dtype, such as
        those of a batch; None for all n.

    Returns:
      The numbers at these positions, int32 ``(m,)``; a position outside counts as the nearest one.

    Raises:
      TypeError: if ``key`` is no key, ``n`` no integer or ``positions`` no array of integers.
      ValueError: if ``n`` is out of range.

    Example:
      >>> sorted(shuffled_order(jax.random.key(0), 300).tolist()) == list(range(300))
      True

    References:
      Black, Rogaway 2002, "Ciphers with arbitrary finite domains", the generalised Feistel
      network with cycle walking. Deviation: the round function is a hash, not a cipher.
    """
    _checks.prng_key("key", key)
    n = _checks.integer("n", n, low=1, high=2**31 - 1)
    if positions is not None:
        _checks.unmasked("positions", positions)
        if not jnp.issubdtype(dtype := getattr(positions, "dtype", object), jnp.integer):
            raise TypeError(f"positions must be an array of integers, but its dtype is {dtype}")
        positions = _within(positions, n)  # beyond them it could go around for ever
    if n < _SORTED_BELOW:
        order = jax.random.permutation(key, n).astype(jnp.int32)
        return order if positions is None else order[positions]
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    round_keys = jax.random.bits(key, (_FEISTEL_ROUNDS,), jnp.uint32)

    def once(numbers: Array) -> Array:
        left, right = numbers // word(b), numbers % word(b)
        for i in range(0, _FEISTEL_ROUNDS, 2):
            left = (left + _below(a, right ^ round_keys[i])) % word(a)
            right = (right + _below(b, left ^ round_keys[i + 1])) % word(b)
        return left * word(b) + right

    def again(numbers: Array) -> Array:
        return jnp.where(numbers >= word(n), once(numbers), numbers)

    def is_outside(numbers: Array) -> Array:
        return jnp.any(numbers >= word(n))

    places = jax.lax.iota(jnp.uint32, n) if positions is None else positions.astype(jnp.uint32)
    first = once(places)
    return jax.lax.while_loop(is_outside, again, first).astype(jnp.int32)


def _within(positions: AnyArray, n: int) -> Array:
    """Returns integers of any dtype as the nearest ones in [0, n), in 32 bits."""
    last = min(n - 1, int(jnp.iinfo(positions.dtype).max))  # int8 cannot hold more
    clip = np.clip if isinstance(positions, np.ndarray) else jnp.clip  # JAX would cut 64 bits first
    return jnp.asarray(clip(positions, 0, last).astype(np.int32))


def _below(limit: int, x: Array) -> Array:
    """Returns a hash of x in [0, limit), limit at most 2^16."""
    return ((mix(x) >> 16) * word(limit)) >> 16
