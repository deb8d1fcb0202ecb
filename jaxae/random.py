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
from jax.extend import random as extend_random
from jaxtyping import Array, Key, PRNGKeyArray

from jaxae import _checks
from jaxae._hash import mix, word

# Odd numbers without a pattern, one for each use of a key: sqrt(5), sqrt(2), ... as fractions.
_SEED, _SPLIT, _FOLD, _DRAW = 0x9E3779B9, 0x6A09E667, 0xBB67AE85, 0x3C6EF372
_SECOND = 0x510E527F


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


def _hashed(key: Array, counter: Array, use: int) -> Array:
    """Returns h(h(counter ^ k0) + k1), with a key of its own for every use."""
    first = mix(counter ^ key[..., 0] ^ word(use))
    return mix(first + (key[..., 1] ^ word(use * 0x9E3779B1)))


# Compiled as a whole where it is called by itself; inside another program it leaves no trace.
@functools.partial(jax.jit, static_argnames="use", inline=True)
def _two_words(key: Array, counter: Array, use: int) -> Array:
    """Returns new keys ``(..., 2)``: two hashes of each counter."""
    words = [_hashed(key, counter, use), _hashed(key, counter, use ^ _SECOND)]
    return jnp.stack(words, axis=-1)


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
