r"""Corruption processes C(x~ | x) of a denoising autoencoder.

Contract of this module. A *corruption* is a pure function ``corrupt(key, x)`` that
returns an array with the shape, dtype and unit of ``x``; ``x`` is finite and floating.
The four noises act on each entry independently, so they take any shape; for a batch
in which every example shall have a key of its own use :func:`corrupt_batch`. Strengths
(``rate``, ``stddev``, ``scale``) may be traced, so a sweep over them compiles once.
Strength 0 gives ``x`` back (uniform noise still clips where bounds are given), and a traced
strength outside its range NaN. Noise is drawn in float32 or wider, whatever the dtype of ``x``;
a rate is resolved to 2^-23.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae._batching import one_example, over_batch, split_keys
from jaxae._checks import AnyArray

Corruption: TypeAlias = Callable[[PRNGKeyArray, Array], Array]


def masking_noise(
    key: PRNGKeyArray, x: Float[AnyArray, " *shape"], *, rate: ScalarLike
) -> Float[Array, " *shape"]:
    r"""Returns ``x`` with each entry zeroed with probability ``rate``.

    .. math:: \tilde x_i = m_i x_i, \quad m_i \sim \mathrm{Bernoulli}(1 - \nu)

    with :math:`\nu` = ``rate``. Survivors are not rescaled (this is corruption,
    not dropout), hence :math:`E[\tilde x] = (1 - \nu) x`.

    Args:
      key: PRNG key, consumed here; the caller splits.
      x: clean input, any shape, floating, any unit in which 0 means "absent".
      rate: probability in [0, 1].

    Returns:
      Corrupted copy of ``x``: same shape, dtype and unit.

    Raises:
      TypeError: if ``x`` is not floating point, ``rate`` not a number or ``key`` no key.
      ValueError: if ``rate`` is outside [0, 1] or ``x`` is not finite.

    Example:
      >>> float(masking_noise(jax.random.key(0), jnp.ones(3), rate=1.0).sum())
      0.0

    References:
      Vincent et al. 2008, sec. 2.3, https://doi.org/10.1145/1390156.1390294.
      Deviation: the paper zeroes exactly :math:`\nu d` entries per example;
      here that count is binomial with the same mean.
    """
    _checks.prng_key("key", key)
    x = _checks.floating("x", x)
    rate = _checks.number("rate", rate, low=0.0, high=1.0)
    zero = _unless_nan(rate, jnp.zeros((), x.dtype))
    return jnp.where(_uniform(key, x) >= rate, x, zero)


def gaussian_noise(
    key: PRNGKeyArray, x: Float[AnyArray, " *shape"], *, stddev: ScalarLike
) -> Float[Array, " *shape"]:
    r"""Returns ``x`` plus isotropic Gaussian noise.

    .. math:: \tilde x = x + \sigma \epsilon, \quad \epsilon \sim N(0, I)

    with :math:`\sigma` = ``stddev``. Nothing is clipped.

    Args:
      key: PRNG key, consumed here; the caller splits.
      x: clean input, any shape, floating, any unit.
      stddev: standard deviation in the unit of ``x``, at least 0.

    Returns:
      Corrupted copy of ``x``: same shape, dtype and unit.

    Raises:
      TypeError: if ``x`` is not floating point, ``stddev`` not a number or ``key`` no key.
      ValueError: if ``stddev`` is negative or not finite, or ``x`` is not finite.

    Example:
      >>> gaussian_noise(jax.random.key(0), jnp.ones(2), stddev=0.0).tolist()
      [1.0, 1.0]

    References:
      Vincent et al. 2010, sec. 3.3, https://jmlr.org/papers/v11/vincent10a.html.
      Deviation: none.
    """
    _checks.prng_key("key", key)
    x = _checks.floating("x", x)
    dtype = _checks.wide(x.dtype)
    stddev = _checks.number("stddev", stddev, dtype, low=0.0)
    noise = jax.random.normal(key, x.shape, dtype)
    return (x.astype(dtype) + stddev * noise).astype(x.dtype)


def uniform_noise(
    key: PRNGKeyArray,
    x: Float[AnyArray, " *shape"],
    *,
    scale: ScalarLike,
    low: ScalarLike | None = None,
    high: ScalarLike | None = None,
) -> Float[Array, " *shape"]:
    r"""Returns ``x`` plus uniform noise, clipped to [low, high] where these are given.

    .. math:: \tilde x = \mathrm{clip}(x + u), \quad u_i \sim U(-a, a)

    with :math:`a` = ``scale``; the standard deviation before clipping is
    :math:`a / \sqrt 3`. The lecture uses ``scale=0.55, low=0, high=1``.

    Args:
      key: PRNG key, consumed here; the caller splits.
      x: clean input, any shape, floating, any unit.
      scale: half-width of the noise in the unit of ``x``, at least 0.
      low: smallest value of the result, or None for no bound.
      high: largest value of the result, or None for no bound.

    Returns:
      Corrupted copy of ``x``: same shape, dtype and unit.

    Raises:
      TypeError: if ``x`` is not floating point, a number is not a number or ``key`` no key.
      ValueError: if ``scale`` is negative, a number or ``x`` is not finite, or low > high.

    Example:
      >>> noisy = uniform_noise(jax.random.key(0), jnp.ones(9), scale=0.5, high=1.0)
      >>> bool((noisy >= 0.5).all() and (noisy <= 1.0).all())
      True

    References:
      LMU Munich, Deep Learning, chapter 9, ``denoising_autoencoder_mnist.R``.
      Deviation: the lecture draws the noise once and keeps it; here the key decides.
    """
    _checks.prng_key("key", key)
    x = _checks.floating("x", x)
    dtype = _checks.wide(x.dtype)
    scale = _checks.number("scale", scale, dtype, low=0.0)
    _check_bounds(low, high)
    unit = jax.random.uniform(key, x.shape, dtype, minval=-1.0, maxval=1.0)
    noisy = (x.astype(dtype) + scale * unit).astype(x.dtype)
    if low is not None:
        noisy = jnp.maximum(noisy, jnp.asarray(low, x.dtype))
    if high is not None:
        noisy = jnp.minimum(noisy, jnp.asarray(high, x.dtype))
    return noisy


def salt_and_pepper_noise(
    key: PRNGKeyArray,
    x: Float[AnyArray, " *shape"],
    *,
    rate: ScalarLike,
    low: ScalarLike = 0.0,
    high: ScalarLike = 1.0,
) -> Float[Array, " *shape"]:
    r"""Returns ``x`` with entries replaced, at ``rate``, by ``low`` or ``high``.

    Each entry is replaced with probability :math:`\nu` = ``rate`` by the toss of a
    fair coin, hence :math:`E[\tilde x] = (1 - \nu) x + \nu (low + high) / 2`.

    Args:
      key: PRNG key, consumed here; the caller splits.
      x: clean input, any shape, floating, any unit.
      rate: probability in [0, 1] of being replaced.
      low: the "pepper" value, in the unit of ``x``.
      high: the "salt" value, in the unit of ``x``, at least ``low``.

    Returns:
      Corrupted copy of ``x``: same shape, dtype and unit.

    Raises:
      TypeError: if ``x`` is not floating point, a number is not a number or ``key`` no key.
      ValueError: if ``rate`` is outside [0, 1], low > high, or ``x`` is not finite.

    Example:
      >>> noisy = salt_and_pepper_noise(jax.random.key(0), jnp.full(8, 0.5), rate=1.0)
      >>> sorted(set(noisy.tolist()))
      [0.0, 1.0]

    References:
      Vincent et al. 2010, sec. 3.3, https://jmlr.org/papers/v11/vincent10a.html.
      Deviation: the paper replaces a fixed fraction; here the count is binomial.
    """
    _checks.prng_key("key", key)
    x = _checks.floating("x", x)
    rate = _checks.number("rate", rate, low=0.0, high=1.0)
    _check_bounds(low, high)
    u = _uniform(key, x)
    salt = _unless_nan(rate, jnp.asarray(high, x.dtype))
    noise = jnp.where(u < rate / 2, jnp.asarray(low, x.dtype), salt)
    return jnp.where(u >= rate, x, noise)


def compose(*corruptions: Corruption) -> Corruption:
    r"""Returns the corruption that applies the given ones in order, each with its own key.

    As a kernel it is the composition :math:`C_2(\cdot \mid C_1(\cdot \mid x))`.

    Args:
      *corruptions: functions ``corrupt(key, x)``; none of them gives the identity.

    Returns:
      A corruption ``corrupt(key, x)``. The key is split into as many as there are parts.

    Raises:
      TypeError: if one of them is not a function; the result raises it for a bad key.

    Example:
      >>> from functools import partial
      >>> both = compose(partial(masking_noise, rate=0.5), partial(gaussian_noise, stddev=0.1))
      >>> both(jax.random.key(0), jnp.ones(4)).shape
      (4,)
    """
    for position, corruption in enumerate(corruptions):
        _checks.callable_(f"corruptions[{position}]", corruption)

    def composed(key: PRNGKeyArray, x: Array) -> Array:
        _checks.prng_key("key", key)
        for part_key, corruption in zip(
            jax.random.split(key, len(corruptions)), corruptions, strict=True
        ):
            x = corruption(part_key, x)
        return x

    return composed


def corrupt_batch(
    key: PRNGKeyArray,
    corrupt: Corruption,
    x: Float[AnyArray, " *shape"],
    *,
    batch_ndim: int = 1,
) -> Float[Array, " *shape"]:
    """Returns every example of a batch corrupted with a key of its own.

    ``corrupt(key_i, x_i)`` under ``jax.vmap``, where the keys are
    ``jax.random.split(key, batch_shape)``.

    Args:
      key: PRNG key, consumed here; the caller splits.
      corrupt: corruption of ONE example that keeps its shape and dtype.
      x: clean batch ``(*batch, *example)``, floating, any unit.
      batch_ndim: how many leading axes are batch axes, at least 0.

    Returns:
      Corrupted copy of ``x``: same shape, dtype and unit.

    Raises:
      TypeError: if ``x`` is not floating point, ``key`` no key or ``corrupt`` no function.
      ValueError: if ``x`` has fewer axes than ``batch_ndim``, or ``corrupt`` changes
        the shape or dtype of an example.

    Example:
      >>> from functools import partial
      >>> corrupt = partial(gaussian_noise, stddev=0.1)
      >>> corrupt_batch(jax.random.key(0), corrupt, jnp.zeros((5, 3))).shape
      (5, 3)

    References:
      Vincent et al. 2008, sec. 2.3, https://doi.org/10.1145/1390156.1390294.
      Deviation: none.
    """
    _checks.prng_key("key", key)
    x = _checks.floating("x", x)
    _checks.integer("batch_ndim", batch_ndim, low=0)
    if x.ndim < batch_ndim:
        raise ValueError(
            f"x must have at least batch_ndim={batch_ndim} axes, but its shape is {x.shape}"
        )
    example = one_example(x, batch_ndim)
    noisy = _checks.output_shape("corrupt", corrupt, key, example)
    if (noisy.shape, noisy.dtype) != (example.shape, example.dtype):
        raise ValueError(
            f"corrupt must keep shape and dtype of an example, but it turned "
            f"{example.dtype}{list(example.shape)} into {noisy.dtype}{list(noisy.shape)}"
        )
    keys = split_keys(key, x, batch_ndim)
    return over_batch(corrupt, batch_ndim)(keys, x)


def _uniform(key: PRNGKeyArray, x: Array) -> Array:
    """Returns U[0, 1) draws in float32: u < 0 never holds and u < 1 always does."""
    return jax.random.uniform(key, x.shape, jnp.float32)


def _unless_nan(rate: Array, value: Array) -> Array:
    """Returns the scalar ``value``, or NaN if ``rate`` is NaN: a traced one outside [0, 1].

    No ``u`` is at least NaN, so that such a rate makes all of ``x`` NaN, and not all of it clean.
    """
    return jnp.where(jnp.isnan(rate), jnp.nan, value)


def _check_bounds(low: ScalarLike | None, high: ScalarLike | None) -> None:
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            _checks.number(name, bound)
    _checks.ordered(low, high)
