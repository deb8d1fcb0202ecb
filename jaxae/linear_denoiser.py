r"""Closed-form optima of linear autoencoders: the yardstick for trained ones.

Contract of this module. Data are rows, ``(n, d)``. Means and covariances are those of the
rows given; nothing is trained.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import _checks
from jaxae._checks import AnyArray


class LinearDenoiser(NamedTuple):
    r"""The best linear map from noisy to clean data, for every rank at once.

    Attributes:
      x_mean: mean of the clean data, ``(d,)``.
      noisy_mean: mean of the noisy data, ``(d,)``.
      gain: full-rank map, ``(d, d)``: :math:`\hat x = \bar x + G (\tilde x - \bar{\tilde x})`.
      basis: orthonormal columns ``(d, d)``, the first k span the best k-dimensional code.
    """

    x_mean: Array
    noisy_mean: Array
    gain: Array
    basis: Array

    def encode(self, x_noisy: Float[Array, "*batch d"], *, rank: int) -> Float[Array, "*batch k"]:
        """Returns the best linear code of ``rank`` numbers."""
        rank = min(_checks.integer("rank", rank, low=1), self.basis.shape[1])
        basis = self.basis[:, :rank]
        x_noisy = self._in_its_dtype(_checks.floating("x_noisy", x_noisy))
        centred = _centred(x_noisy, self.noisy_mean)
        return _product(centred, _product(self.gain.T, basis))

    def decode(self, code: Float[Array, "*batch k"]) -> Float[Array, "*batch d"]:
        """Returns the reconstruction from a code of any rank up to d."""
        code = _checks.floating("code", code)
        if code.ndim == 0 or code.shape[-1] > self.basis.shape[1]:
            raise ValueError(
                f"code must have at most d={self.basis.shape[1]} numbers on its last axis, "
                f"but its shape is {code.shape}"
            )
        basis = self.basis[:, : code.shape[-1]]
        return _centred(_product(self._in_its_dtype(code), basis.T), -self.x_mean)

    def __call__(self, x_noisy: Float[Array, "*batch d"], *, rank: int) -> Float[Array, "*batch d"]:
        """Returns the best linear reconstruction through ``rank`` numbers."""
        return self.decode(self.encode(x_noisy, rank=rank))

    def _in_its_dtype(self, x: Array) -> Array:
        """Returns ``x`` in the dtype of the map, or its own if that is wider."""
        return x.astype(max(x.dtype, self.basis.dtype, key=lambda dtype: jnp.finfo(dtype).bits))


def fit_linear_denoiser(
    x_noisy: Float[AnyArray, "n d"], x: Float[AnyArray, "n d"]
) -> LinearDenoiser:
    r"""Returns the linear map with the least squared error from ``x_noisy`` to ``x``.

    With centred covariances :math:`S_{xy}, S_{yy}` of clean x and noisy y the full-rank map
    is :math:`G = S_{xy} S_{yy}^{+}`, and the best map of rank k is
    :math:`U_k U_k^T G` with the leading eigenvectors U of :math:`G S_{yx}`. For noise
    N(0, s^2 I) that is a gain l / (l + s^2) on the k leading principal axes; without noise,
    PCA. The covariances are estimated from the pairs, so noise that is clipped or depends
    on the data is covered too. Cost: O(n d^2 + d^3), and
    O(n d^2) if there are at least twice as many features as pairs.

    Args:
      x_noisy: corrupted rows ``(n, d)``, floating.
      x: the clean rows, same shape. float64 is worth it for d in the hundreds.

    Returns:
      The map for every rank; a rank above d is d. Directions of the noisy data whose variance
      is below d times the rounding error of the largest one are left out.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, are not ``(n, d)`` with n >= 2, or are not finite.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
      >>> fit_linear_denoiser(x, x)(x, rank=1)[0].tolist()
      [1.0, 0.0]

    References:
      Reduced-rank regression: Izenman 1975, https://doi.org/10.1016/0047-259X(75)90042-1.
      Baldi and Hornik 1989 for the noise-free case. Deviation: none.
    """
    x_noisy, x = _pairs(x_noisy, x, least=2)
    pairs, features = x.shape
    if _MORE_FEATURES * pairs <= features:
        return _denoiser_of_few_pairs(x_noisy, x)
    return _moments(x_noisy, x).denoiser()


# From so many features for each pair on, the problem in the space of the pairs is the smaller one:
# its decompositions, of n x n and d x n numbers, then cost less than the two of d x d.
_MORE_FEATURES = 2


def _denoiser_of_few_pairs(x_noisy: Array, x: Array) -> LinearDenoiser:
    r"""Returns the best linear map of every rank from an n x n problem, for n below d.

    With the centred rows X and Y and the Gram matrix :math:`K = Y Y^T` the full-rank map
    :math:`G = S_{xy} S_{yy}^{+}` is :math:`X^T K^{+} Y`, since Y has the same non-zero singular
    values as :math:`S_{yy}` up to the factor n. :math:`G S_{yx}` is :math:`M M^T / n` with
    :math:`M = X^T P`, where P projects on the range of K: the basis has the left singular
    vectors of M, and behind them any directions that complete it, which no code uses.
    """
    pairs, features = x.shape
    x_mean, noisy_mean = jnp.mean(x, axis=0), jnp.mean(x_noisy, axis=0)
    xc, yc = _centred(x, x_mean), _centred(x_noisy, noisy_mean)
    values, vectors = jnp.linalg.eigh(_product(yc, yc.T))
    inverse = _inverse_eigenvalues(values, features)
    into = _product(xc.T, vectors * jnp.sign(inverse)[None, :])
    gain = _product(_product(into, (vectors * inverse[None, :]).T), yc)
    leading = jnp.linalg.svd(into, full_matrices=False)[0]
    rest = jnp.linalg.qr(leading, mode="complete")[0][:, pairs:]
    return LinearDenoiser(x_mean, noisy_mean, gain, jnp.concatenate([leading, rest], axis=1))


def _inverse_eigenvalues(values: Array, features: int) -> Array:
    """Returns the inverse of each eigenvalue, 0 where it is only a rounding error."""
    floor = values[-1] * features * jnp.finfo(values.dtype).eps
    return jnp.where(values > floor, 1 / jnp.where(values > floor, values, 1), 0)


class PairMoments(NamedTuple):
    """What the best linear denoiser needs to know of some pairs; parts of a data set add up.

    Attributes:
      pairs: how many there are, a floating scalar.
      x_mean: mean of the clean rows ``(d,)``.
      noisy_mean: mean of the noisy rows ``(d,)``.
      cross: sum over the pairs of clean times noisy, both about their means ``(d, d)``.
      noisy: sum over the pairs of noisy times noisy, about its mean ``(d, d)``.
    """

    pairs: Array
    x_mean: Array
    noisy_mean: Array
    cross: Array
    noisy: Array

    def merged(self, other: PairMoments) -> PairMoments:
        """Returns the moments of both parts together."""
        pairs = self.pairs + other.pairs
        share = other.pairs / pairs
        by_x, by_noisy = other.x_mean - self.x_mean, other.noisy_mean - self.noisy_mean
        between = self.pairs * share
        return PairMoments(
            pairs,
            self.x_mean + share * by_x,
            self.noisy_mean + share * by_noisy,
            self.cross + other.cross + between * jnp.outer(by_x, by_noisy),
            self.noisy + other.noisy + between * jnp.outer(by_noisy, by_noisy),
        )

    def denoiser(self) -> LinearDenoiser:
        """Returns the best linear map of every rank, as :func:`fit_linear_denoiser` does."""
        s_xy, s_yy = self.cross / self.pairs, self.noisy / self.pairs
        values, vectors = jnp.linalg.eigh(s_yy)
        inverse = _inverse_eigenvalues(values, len(values))
        gain = _product(_product(s_xy, vectors * inverse[None, :]), vectors.T)
        basis = jnp.linalg.eigh(_product(gain, s_xy.T))[1][:, ::-1]
        return LinearDenoiser(self.x_mean, self.noisy_mean, gain, basis)


def pair_moments(x_noisy: Float[AnyArray, "n d"], x: Float[AnyArray, "n d"]) -> PairMoments:
    r"""Returns the moments of some pairs, for data that do not fit into memory.

    Those of the pieces of a data set are put together by ``merged``, about their means, so
    nothing is lost to cancellation; ``denoiser`` of the result is :func:`fit_linear_denoiser`
    of all pairs up to rounding. Cost: O(n d^2), and O(d^2) to merge.

    Args:
      x_noisy: corrupted rows ``(n, d)``, floating.
      x: the clean rows, same shape.

    Returns:
      The moments, in float32 or wider.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, are not ``(n, d)`` with n >= 1, or are not finite.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
      >>> moments = pair_moments(x[:1], x[:1]).merged(pair_moments(x[1:], x[1:]))
      >>> [round(number, 6) for number in moments.denoiser()(x, rank=1)[0].tolist()]
      [1.0, 0.0]

    References:
      Chan, Golub, LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115, for merging.
    """
    return _moments(*_pairs(x_noisy, x, least=1))


def _pairs(x_noisy: AnyArray, x: AnyArray, *, least: int) -> tuple[Array, Array]:
    """Returns the checked rows, in float32 or wider."""
    x_noisy, x = _checks.floating("x_noisy", x_noisy), _checks.floating("x", x)
    _checks.same_shape("x_noisy", x_noisy, "x", x)
    if x.ndim != 2 or x.shape[0] < least:
        raise ValueError(f"x must be rows (n, d) with n >= {least}, but its shape is {x.shape}")
    dtype = _checks.wide(x.dtype)  # there are no eigenvalues in half precision
    return x_noisy.astype(dtype), x.astype(dtype)


def _moments(x_noisy: Array, x: Array) -> PairMoments:
    """Returns the moments of checked rows."""
    x_mean, noisy_mean = jnp.mean(x, axis=0), jnp.mean(x_noisy, axis=0)
    xc, yc = _centred(x, x_mean), _centred(x_noisy, noisy_mean)
    pairs = jnp.asarray(x.shape[0], x.dtype)
    return PairMoments(pairs, x_mean, noisy_mean, _product(xc.T, yc), _product(yc.T, yc))


def _product(a: Array, b: Array) -> Array:
    """Returns a @ b in full precision, on a GPU too: a yardstick must not be rounded."""
    return jnp.matmul(a, b, precision="highest")


def _centred(x: Array, mean: Array) -> Array:
    return x - jnp.broadcast_to(mean, x.shape)
