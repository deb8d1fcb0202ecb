r"""Metrics: how good a reconstruction, how sparse and how contractive a code is.

Contract of this module. Reconstructions and targets are ``(*batch, *example)`` with
``example_ndim`` trailing feature axes; codes are ``(*batch, k)``. Metrics of one example
keep the batch, ``(*batch,)``; metrics of a data set return a scalar and say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae._batching import normal_like, one_example, over_batch, split_keys
from jaxae._checks import AnyArray
from jaxae._filters import checked_dictionaries, unit_rows


def mean_squared_error(
    x_hat: Float[AnyArray, " *shape"], x: Float[AnyArray, " *shape"], *, example_ndim: int = 1
) -> Float[Array, "..."]:
    """Returns the squared error per feature: the sum over an example, over its size.

    Args:
      x_hat: reconstruction, ``(*batch, *example)``, in the unit of ``x``.
      x: target, same shape.
      example_ndim: how many trailing axes one example has.

    Returns:
      Mean square per feature in squared units of ``x``, shape ``(*batch,)``.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, hold too few axes, or a value is not finite.

    Example:
      >>> float(mean_squared_error(jnp.array([1.0, 3.0]), jnp.zeros(2)))
      5.0
    """
    x_hat, x, features = _checks.pair("x_hat", x_hat, x, example_ndim)
    return _mean_square(x_hat, x, features).astype(jnp.result_type(x_hat, x))


def _mean_square(x_hat: Array, x: Array, features: tuple[int, ...]) -> Array:
    """Returns the squared error per feature in float32 or wider."""
    return jnp.mean(jnp.square(_checks.widen(x_hat) - _checks.widen(x)), axis=features)


def psnr(
    x_hat: Float[AnyArray, " *shape"],
    x: Float[AnyArray, " *shape"],
    *,
    peak: ScalarLike = 1.0,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the peak signal-to-noise ratio of every example.

    .. math:: 10 \log_{10} \frac{\mathrm{peak}^2}{\mathrm{MSE}}

    with the MSE over the features of that example. Infinite for a perfect reconstruction.

    Args:
      x_hat: reconstruction, ``(*batch, *example)``, in the unit of ``x``.
      x: target, same shape.
      peak: the largest possible value minus the smallest, above 0, in the unit of ``x``.
      example_ndim: how many trailing axes one example has.

    Returns:
      Decibels, shape ``(*batch,)``.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if ``peak`` is not above 0, the shapes differ, or a value is not finite.

    Example:
      >>> round(float(psnr(jnp.array([0.1]), jnp.array([0.0]))), 3)
      20.0

    References:
      Gonzalez and Woods, Digital Image Processing, sec. 8.1. Deviation: none.
    """
    x_hat, x, features = _checks.pair("x_hat", x_hat, x, example_ndim)
    error = _mean_square(x_hat, x, features)
    peak = _checks.number("peak", peak, error.dtype, low=0.0, strict=True)
    decibels = 20 * jnp.log10(peak) - 10 * jnp.log10(error)
    return decibels.astype(jnp.result_type(x_hat, x))


def explained_variance(
    x_hat: Float[AnyArray, " *shape"], x: Float[AnyArray, " *shape"], *, example_ndim: int = 1
) -> Float[Array, ""]:
    r"""Returns the share of the data's variance that a reconstruction explains.

    .. math:: 1 - \frac{\sum_i \mathrm{Var}(x_i - \hat x_i)}{\sum_i \mathrm{Var}(x_i)}

    with variances over the examples and sums over the features. 1 is perfect, 0 is as good
    as a constant, and it may be negative. The mean of the error is not counted: a reconstruction
    that is off by the same vector for all examples still explains 1. The coefficient of
    determination, which SAELens calls explained variance, counts it,
    :math:`1 - \sum_n \|x_n - \hat x_n\|^2 / \sum_n \|x_n - \bar x\|^2`; the two are equal where
    the error has the mean 0, as it has at the optimum of a decoder with a bias.

    Args:
      x_hat: reconstructions, ``(*batch, *example)``.
      x: targets, same shape, at least two examples that are not all equal.
      example_ndim: how many trailing axes one example has.

    Returns:
      A dimensionless SCALAR of the whole batch, at most 1.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, there are fewer than two examples, or a value is not
        finite.

    Example:
      >>> x = jnp.array([[0.0], [2.0]])
      >>> float(explained_variance(x + 7.0, x))
      1.0

    References:
      scikit-learn, ``explained_variance_score``; ``r2_score`` there is the other one. Deviation:
      summed over the features before the ratio, so a feature counts by its variance.
    """
    x_hat, x, features = _checks.pair("x_hat", x_hat, x, example_ndim)
    examples = tuple(range(features[0]))
    if math.prod(x.shape[: features[0]]) < 2:
        raise ValueError(f"x must hold at least two examples, but its shape is {x.shape}")
    dtype = jnp.result_type(x_hat, x)
    x_hat, x = _checks.widen(x_hat), _checks.widen(x)
    left = jnp.sum(jnp.var(x - x_hat, axis=examples))
    return (1 - left / jnp.sum(jnp.var(x, axis=examples))).astype(dtype)


def active_units(
    code: Float[AnyArray, "*batch k"], *, threshold: ScalarLike = 0.0
) -> Float[Array, "*batch"]:
    """Returns how many units of each code are active, the L0 norm.

    Args:
      code: codes ``(*batch, k)``, floating.
      threshold: a unit is active if its magnitude is above this, at least 0.

    Returns:
      Counts as floats (so that they can be averaged), shape ``(*batch,)``.

    Raises:
      TypeError: if ``code`` is not floating point.
      ValueError: if ``threshold`` is negative or ``code`` is not finite.

    Example:
      >>> float(active_units(jnp.array([0.0, -2.0, 0.5])))
      2.0
    """
    code, threshold = _magnitudes(code, threshold)
    count = jnp.sum(code > threshold, axis=-1, dtype=jnp.result_type(float))
    return jnp.where(jnp.isnan(threshold), jnp.nan, count)


def dead_units(
    code: Float[AnyArray, "*batch k"], *, threshold: ScalarLike = 0.0
) -> Bool[Array, " k"]:
    """Returns which units are active for no example at all.

    Args:
      code: codes of a data set ``(*batch, k)``, floating.
      threshold: a unit is active if its magnitude is above this, at least 0.

    Returns:
      True where a unit is dead, shape ``(k,)``; its mean is the share of dead units.

    Raises:
      TypeError: if ``code`` is not floating point.
      ValueError: if ``threshold`` is negative or ``code`` is not finite.

    Example:
      >>> dead_units(jnp.array([[0.0, 1.0], [0.0, 0.0]])).tolist()
      [True, False]
    """
    code, threshold = _magnitudes(code, threshold)
    return ~jnp.any(code > threshold, axis=tuple(range(code.ndim - 1)))


def saturated_share(
    code: Float[AnyArray, "*batch k"], *, low: ScalarLike = 0.05, high: ScalarLike = 0.95
) -> Float[Array, "*batch"]:
    """Returns the share of units of each code that are below ``low`` or above ``high``.

    Args:
      code: activations of a sigmoid code ``(*batch, k)``, in [0, 1].
      low: upper end of the lower saturated range.
      high: lower end of the upper saturated range.

    Returns:
      Share in [0, 1], shape ``(*batch,)``; NaN under ``jit`` for a code that leaves [0, 1].

    Raises:
      TypeError: if ``code`` is not floating point.
      ValueError: if ``low`` or ``high`` is not finite or ``code`` leaves [0, 1].

    Example:
      >>> float(saturated_share(jnp.array([0.01, 0.5, 0.7, 0.99])))
      0.5

    References:
      Rifai et al. 2011, sec. 5.1, "Contractive Auto-Encoders", ICML. Deviation: none.
    """
    code = _checks.codes(code, low=0.0, high=1.0)
    low = _checks.number("low", low, code.dtype)
    high = _checks.number("high", high, code.dtype)
    is_saturated = (code < low) | (code > high)
    counted = jnp.where(jnp.isnan(code), jnp.nan, is_saturated.astype(_checks.wide(code.dtype)))
    return jnp.mean(counted, axis=-1).astype(code.dtype)


def contraction_curve(
    key: PRNGKeyArray,
    encode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
    *,
    radii: Float[AnyArray, " radii"],
    example_ndim: int = 1,
) -> Float[Array, "*batch radii"]:
    r"""Returns how much the encoder shrinks distances, against the distance.

    .. math:: \frac{\|\mathrm{enc}(x + r u) - \mathrm{enc}(x)\|}{r}

    with one uniformly random direction u per example, the same for all radii. For small r
    its root mean square is :math:`\|J(x)\|_F / \sqrt d`.

    Args:
      key: PRNG key, consumed here.
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating.
      radii: distances r above 0, in the unit of ``x``.
      example_ndim: how many trailing axes one example has.

    Returns:
      Ratio of distances, at least 0, shape ``(*batch, len(radii))``; below 1: contracted. In half
      precision a radius below the rounding step of ``x`` moves nothing and gives NaN.

    Raises:
      TypeError: if an array is not floating point, or ``encode`` no function.
      ValueError: if a radius is not above 0, the code is not ``(k,)``, or ``x`` not finite.

    Example:
      >>> halve = lambda x_i: 0.5 * x_i
      >>> ratio = contraction_curve(jax.random.key(0), halve, jnp.zeros(3), radii=jnp.ones(1))
      >>> round(float(ratio[0]), 5)
      0.5

    References:
      Rifai et al. 2011, sec. 5.2 (contraction curves). Deviation: random directions from
      each example instead of pairs of points on a sphere.
    """
    _checks.prng_key("key", key)
    x = _checks.floating("x", x)
    dtype = _checks.wide(x.dtype)
    radii = _checks.floating("radii", _checks.floating("radii", radii).astype(dtype), above=0.0)
    if radii.ndim != 1:
        raise ValueError(f"radii must have one axis, but its shape is {radii.shape}")
    batch = _checks.batch_shape("x", x, example_ndim)
    _checks.code_shape(encode, one_example(x, len(batch)), x.shape)

    def ratios(key_i: PRNGKeyArray, x_i: Array) -> Array:
        x_i, u = _checks.widen(x_i), _checks.widen(normal_like(key_i, x_i))
        u = u / jnp.linalg.norm(u.reshape(-1))

        def code_and_distance(r: Array) -> tuple[Array, Array]:
            moved = (x_i + r * u).astype(x.dtype)
            if x.dtype == dtype:
                return encode(moved), r
            # In half precision x + r u is rounded: the distance is that of the two inputs.
            return encode(moved), jnp.linalg.norm((moved.astype(dtype) - x_i).reshape(-1))

        code = encode(x_i.astype(x.dtype))
        moved, distances = jax.vmap(code_and_distance)(radii)
        change = jnp.linalg.norm(_checks.widen(moved) - _checks.widen(code)[None], axis=-1)
        return (change / distances.astype(change.dtype)).astype(code.dtype)

    return over_batch(ratios, len(batch))(split_keys(key, x, len(batch)), x)


def _magnitudes(code: AnyArray, threshold: ScalarLike) -> tuple[Array, Array]:
    """Returns the magnitudes of a code, and the threshold that an active unit exceeds."""
    code = _checks.codes(code)
    return jnp.abs(code), _checks.number("threshold", threshold, code.dtype, low=0.0)


def best_cosines(
    filters: Float[AnyArray, "k d"], atoms: Float[AnyArray, "m d"]
) -> Float[Array, " m"]:
    r"""Returns for each atom its cosine with the filter that is nearest to it.

    .. math:: c_i = \max_j \frac{\langle W_j, a_i \rangle}{\|W_j\| \, \|a_i\|}

    Its mean is the mean max cosine similarity; the share above 0.9 is that of the atoms that
    were recovered. Signs count, since a relu code cannot turn a filter around, and one filter
    may be the nearest of several atoms.

    Args:
      filters: learned dictionary ``(k, d)``, one row for each unit; a row of 0 has cosine 0.
      atoms: true dictionary ``(m, d)``, no row 0.

    Returns:
      Cosines ``(m,)`` in [-1, 1].

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if they are no matrices of the same d, empty or not finite.

    Example:
      >>> best_cosines(jnp.array([[2.0, 0.0], [0.0, -1.0]]), jnp.eye(2)).tolist()
      [1.0, 0.0]

    References:
      Sharkey, Braun and Millidge 2022, "Taking features out of superposition with sparse
      autoencoders". Deviation: none.
    """
    filters, atoms = checked_dictionaries(filters, atoms)
    rows, columns = (unit_rows(_checks.widen(array)) for array in (atoms, filters))
    along = jnp.inner(rows, columns)
    return jnp.max(along, axis=1).astype(jnp.result_type(filters, atoms))
