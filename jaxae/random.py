r"""Random numbers for noise and shuffles, cheaper than the default generator.

Contract of this module. A JAX key carries its generator with it, so a key from
:func:`hash_key` makes every function of ``jax.random`` (``uniform``, ``normal``, ``split``,
``fold_in``) draw from the generator of this module, under ``jax.jit`` and ``jax.vmap`` as
ever. It is for simulation, not for secrets: a draw is a hash of (key, counter) of two rounds,
each two multiplications; a key has 64 bits; one call draws at most 2^32 numbers.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as extend_random
from jaxtyping import Array, Int, Key, PRNGKeyArray

from jaxae import _checks
from jaxae._checks import AnyArray

# Odd numbers without a pattern, one for each use of a key: sqrt(5), sqrt(2), ... as fractions.
_SEED, _SPLIT, _FOLD, _DRAW = 0x9E3779B9, 0x6A09E667, 0xBB67AE85, 0x3C6EF372
_SECOND = 0x510E527F
_FEISTEL_ROUNDS = 6
_SORTED_BELOW = 256  # a shuffle of fewer is sorted: the network mixes too few states


def hash_key(key: PRNGKeyArray | Key[Array, " *batch"]) -> Key[Array, " *batch"]:
    r"""Returns a key, derived from ``key``, whose draws come from a counter-based hash.

    .. math:: u_i = h(h(i \oplus k_0) + k_1), \quad i = 0, 1, \dots

    with :math:`(k_0, k_1)` the two words of the key and :math:`h` a bijective 32-bit
    finaliser. The default generator, Threefry, takes 20 rounds to be worth its name in
    cryptography, and on a CPU they are a third of the epoch of a small denoising autoencoder;
    this one is for noise, where the statistics count. Within one call no 32-bit word comes twice.

    Args:
      key: any PRNG key, typed or raw, also an array of typed keys; not to be used again.

    Returns:
      A typed key of the shape of ``key``; ``key`` itself, if it is of this kind already.

    Raises:
      TypeError: if ``key`` is no key.

    Example:
      >>> key = hash_key(jax.random.key(0))
      >>> jax.random.uniform(key, (3,)).shape
      (3,)

    References:
      Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", for counter-based
      generators; Wellons 2018, https://github.com/skeeto/hash-prospector, for the constants.
      Deviation: two rounds of a hash with the key between them instead of a cipher.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype == _dtype():
            return key
        data = jax.random.key_data(key)
    else:
        _checks.prng_key("key", key)
        data = jnp.asarray(key)
    words = jnp.zeros((*data.shape[:-1], 2), jnp.uint32)
    for position in range(data.shape[-1]):
        words = _two_words(words, data[..., position], _SEED + position)
    return jax.random.wrap_key_data(words, impl=_HASH)


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
        left, right = numbers // _word(b), numbers % _word(b)
        for i in range(0, _FEISTEL_ROUNDS, 2):
            left = (left + _below(a, right ^ round_keys[i])) % _word(a)
            right = (right + _below(b, left ^ round_keys[i + 1])) % _word(b)
        return left * _word(b) + right

    def again(numbers: Array) -> Array:
        return jnp.where(numbers >= _word(n), once(numbers), numbers)

    def is_outside(numbers: Array) -> Array:
        return jnp.any(numbers >= _word(n))

    places = jax.lax.iota(jnp.uint32, n) if positions is None else positions.astype(jnp.uint32)
    first = once(places)
    return jax.lax.while_loop(is_outside, again, first).astype(jnp.int32)


def _within(positions: AnyArray, n: int) -> Array:
    """Returns integers of any dtype as the nearest ones in [0, n), in 32 bits."""
    last = min(n - 1, int(jnp.iinfo(positions.dtype).max))  # int8 cannot hold more
    clip = np.clip if isinstance(positions, np.ndarray) else jnp.clip  # JAX would cut 64 bits first
    return jnp.asarray(clip(positions, 0, last).astype(np.int32))


def _word(value: int) -> Array:
    return jnp.uint32(value & 0xFFFFFFFF)


def _mix(x: Array) -> Array:
    """Returns a bijection of 32-bit words in which every input bit moves every output bit."""
    x = (x ^ (x >> 16)) * _word(0x21F0AAAD)
    x = (x ^ (x >> 15)) * _word(0xD35A2D97)
    return x ^ (x >> 15)


def _hashed(key: Array, counter: Array, use: int) -> Array:
    """Returns h(h(counter ^ k0) + k1), with a key of its own for every use."""
    first = _mix(counter ^ key[..., 0] ^ _word(use))
    return _mix(first + (key[..., 1] ^ _word(use * 0x9E3779B1)))


# Compiled as a whole where it is called by itself; inside another program it leaves no trace.
@functools.partial(jax.jit, static_argnames="use", inline=True)
def _two_words(key: Array, counter: Array, use: int) -> Array:
    """Returns new keys ``(..., 2)``: two hashes of each counter."""
    words = [_hashed(key, counter, use), _hashed(key, counter, use ^ _SECOND)]
    return jnp.stack(words, axis=-1)


def _below(limit: int, x: Array) -> Array:
    """Returns a hash of x in [0, limit), limit at most 2^16."""
    return ((_mix(x) >> 16) * _word(limit)) >> 16


def _seed(seed: Array) -> Array:
    low = seed.astype(jnp.uint32)
    is_wide = seed.dtype.itemsize > 4
    high = (seed >> 32).astype(jnp.uint32) if is_wide else jnp.zeros_like(low)
    return _two_words(_two_words(jnp.zeros(2, jnp.uint32), low, _SEED), high, _SEED + 1)


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    return _two_words(key, _counters(count), _SPLIT).reshape(*shape, 2)


def _fold_in(key: Array, data: Array | int) -> Array:
    return _two_words(key, jnp.asarray(data, jnp.uint32), _FOLD)


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    counters = _counters(math.prod(shape)).reshape(shape)
    words = _hashed(key, counters, _DRAW)
    if bit_width == 64:
        low = _hashed(key, counters, _DRAW ^ _SECOND).astype(jnp.uint64)
        return (words.astype(jnp.uint64) << 32) | low
    return (words >> (32 - bit_width)).astype(f"uint{bit_width}")


def _counters(count: int) -> Array:
    if count > 2**32:
        raise ValueError(
            f"a key of jaxae.hash_key draws at most 2**32 numbers at a time, but {count} are "
            "asked for; split the key"
        )
    return jax.lax.iota(jnp.uint32, count)


_HASH = extend_random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="jaxae_hash",
    tag="jh",
)


@functools.cache
def _dtype() -> object:
    """Returns the dtype of a key of this generator."""
    return jax.eval_shape(
        lambda: jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl=_HASH)
    ).dtype
