r"""Reconstruction losses: negative log-likelihoods -log p(x | z) of a decoder's output.

Contract of this module. The first argument is what the decoder returns, the second the
clean target; both have the shape ``(*batch, *example)``. The ``example_ndim`` last axes
(1 unless told) are features and are summed, the batch axes are kept, so every function
returns ``(*batch,)``. Nothing is averaged and nothing is weighted.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from jaxae import _checks
from jaxae._checks import AnyArray


def squared_error(
    x_hat: Float[AnyArray, " *shape"], x: Float[AnyArray, " *shape"], *, example_ndim: int = 1
) -> Float[Array, "..."]:
    r"""Returns the squared Euclidean distance of reconstruction and target.

    .. math:: L(x, \hat x) = \sum_i (\hat x_i - x_i)^2

    Not halved and not averaged over the features.

    Args:
      x_hat: reconstruction, ``(*batch, *example)``, in the unit of ``x``.
      x: target, same shape.
      example_ndim: how many trailing axes one example has.

    Returns:
      Distance in squared units of ``x``, at least 0, shape ``(*batch,)``.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, hold too few axes, or a value is not finite.

    Example:
      >>> float(squared_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
      5.0

    References:
      Goodfellow, Bengio, Courville 2016, sec. 14.1. Deviation: none.
    """
    x_hat, x, features = _checks.pair("x_hat", x_hat, x, example_ndim)
    squares = jnp.square(_checks.widen(x_hat) - _checks.widen(x))
    return jnp.sum(squares, axis=features).astype(jnp.result_type(x_hat, x))


def gaussian_nll(
    mean: Float[AnyArray, " *shape"],
    x: Float[AnyArray, " *shape"],
    *,
    stddev: ScalarLike | Float[AnyArray, " *shape"] = 1.0,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the exact negative log-likelihood of a diagonal Gaussian.

    .. math:: -\log p(x | \mu, \sigma)
              = \sum_i \frac{(x_i - \mu_i)^2}{2 \sigma_i^2} + \log \sigma_i + \frac{\log 2\pi}{2}

    With one fixed ``stddev`` this is the squared error over 2 stddev^2, up to a constant.

    Args:
      mean: mean of the Gaussian, ``(*batch, *example)``, in the unit of ``x``.
      x: target, same shape.
      stddev: standard deviation above 0: a number, or an array of the shape of ``x``.
      example_ndim: how many trailing axes one example has.

    Returns:
      Nats (a density, so it may be negative), shape ``(*batch,)``.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, ``stddev`` is not above 0, or a value is not finite.

    Example:
      >>> round(float(gaussian_nll(jnp.zeros(1), jnp.zeros(1))), 4)
      0.9189

    References:
      Bishop 2006, eq. 2.42. Deviation: none.
    """
    mean, x, features = _checks.pair("mean", mean, x, example_ndim)
    dtype = jnp.result_type(mean, x)
    mean, x = _checks.widen(mean), _checks.widen(x)
    if jnp.ndim(stddev) == 0:
        stddev = jnp.full_like(x, _checks.number("stddev", stddev, x.dtype, low=0.0, strict=True))
    else:
        stddev = _checks.widen(_checks.floating("stddev", stddev, above=0.0))
        _checks.same_shape("stddev", stddev, "x", x)
    return jnp.sum(gaussian_nll_terms(mean, jnp.log(stddev), x), axis=features).astype(dtype)


def gaussian_nll_terms(mean: Array, log_stddev: Array, x: Array) -> Array:
    """Returns the negative log-density of each entry; log_stddev keeps tiny spreads exact.

    The arguments are in float32 or wider.
    """
    standard = (x - mean) * jnp.exp(-log_stddev)
    return 0.5 * jnp.square(standard) + log_stddev + 0.5 * math.log(2 * math.pi)


def bernoulli_nll(
    logits: Float[AnyArray, " *shape"], x: Float[AnyArray, " *shape"], *, example_ndim: int = 1
) -> Float[Array, "..."]:
    r"""Returns the cross-entropy between targets and sigmoid(logits).

    .. math:: L = -\sum_i x_i \log s(a_i) + (1 - x_i) \log (1 - s(a_i))

    with logits a and the logistic sigmoid s; computed from the logits, so that value
    and gradient stay exact where the sigmoid is saturated.

    Args:
      logits: log odds of each feature being 1, ``(*batch, *example)``.
      x: target in [0, 1], same shape; a value between 0 and 1 is a probability.
      example_ndim: how many trailing axes one example has.

    Returns:
      Nats, at least 0, shape ``(*batch,)``.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, a value is not finite, or ``x`` leaves [0, 1]. A traced
        ``x`` that leaves [0, 1] gives NaN.

    Example:
      >>> round(float(bernoulli_nll(jnp.zeros(2), jnp.array([0.0, 1.0]))), 4)
      1.3863

    References:
      Vincent et al. 2010, eq. 4, https://jmlr.org/papers/v11/vincent10a.html.
      Deviation: none.
    """
    x = _checks.array("x", x)
    logits, _, features = _checks.pair("logits", logits, x, example_ndim, low=0.0, high=1.0)
    dtype = jnp.result_type(logits, x)
    logits, x = map(_checks.widen, (logits, x))
    log_on, log_off = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    terms = x * log_on + (1 - x) * log_off
    if _checks.is_traced(x):  # its range is not checked yet
        # Apart from x, which the gradient reads.
        terms = terms + _checks.nan_flags(x, low=0.0, high=1.0)
    return -jnp.sum(terms, axis=features).astype(dtype)
