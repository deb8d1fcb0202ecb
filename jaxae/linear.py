r"""Closed-form optima of linear autoencoders: the yardstick for trained ones.

Contract of this module. Data are rows, ``(n, d)``. Means and covariances are those of the
rows given; nothing is trained.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import _checks


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
        basis = self.basis[:, : self._rank(rank)]
        return _centred(_checks.floating("x_noisy", x_noisy), self.noisy_mean) @ (
            self.gain.T @ basis
        )

    def decode(self, code: Float[Array, "*batch k"]) -> Float[Array, "*batch d"]:
        """Returns the reconstruction from a code of any rank up to d."""
        code = _checks.floating("code", code)
        if code.ndim == 0 or code.shape[-1] > self.basis.shape[1]:
            raise ValueError(
                f"code must have at most d={self.basis.shape[1]} numbers on its last axis, "
                f"but its shape is {code.shape}"
            )
        basis = self.basis[:, : code.shape[-1]]
        return _centred(code @ basis.T, -self.x_mean)

    def __call__(self, x_noisy: Float[Array, "*batch d"], *, rank: int) -> Float[Array, "*batch d"]:
        """Returns the best linear reconstruction through ``rank`` numbers."""
        return self.decode(self.encode(x_noisy, rank=rank))

    def _rank(self, rank: int) -> int:
        return min(_checks.integer("rank", rank, low=1), self.basis.shape[1])


def fit_linear_denoiser(x_noisy: Float[Array, "n d"], x: Float[Array, "n d"]) -> LinearDenoiser:
    r"""Returns the linear map with the least squared error from ``x_noisy`` to ``x``.

    With centred covariances :math:`S_{xy}, S_{yy}` of clean x and noisy y the full-rank map
    is :math:`G = S_{xy} S_{yy}^{+}`, and the best map of rank k is
    :math:`U_k U_k^T G` with the leading eigenvectors U of :math:`G S_{yx}`. For noise
    N(0, s^2 I) that is a gain l / (l + s^2) on the k leading principal axes; without noise,
    PCA. The covariances are estimated from the pairs, so noise that is clipped or depends
    on the data is covered too. Cost: O(n d^2 + d^3).

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
    x_noisy, x = _checks.floating("x_noisy", x_noisy), _checks.floating("x", x)
    _checks.same_shape("x_noisy", x_noisy, "x", x)
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"x must be rows (n, d) with n >= 2, but its shape is {x.shape}")
    dtype = _checks.wide(x.dtype)  # there are no eigenvalues in half precision
    x_noisy, x = x_noisy.astype(dtype), x.astype(dtype)
    x_mean, noisy_mean = jnp.mean(x, axis=0), jnp.mean(x_noisy, axis=0)
    xc, yc = _centred(x, x_mean), _centred(x_noisy, noisy_mean)
    s_xy, s_yy = xc.T @ yc / x.shape[0], yc.T @ yc / x.shape[0]

    values, vectors = jnp.linalg.eigh(s_yy)
    floor = values[-1] * x.shape[1] * jnp.finfo(x.dtype).eps
    inverse = jnp.where(values > floor, 1 / jnp.where(values > floor, values, 1), 0)
    gain = s_xy @ (vectors * inverse[None, :]) @ vectors.T
    basis = jnp.linalg.eigh(gain @ s_xy.T)[1][:, ::-1]
    return LinearDenoiser(x_mean, noisy_mean, gain, basis)


def _centred(x: Array, mean: Array) -> Array:
    return x - jnp.broadcast_to(mean, x.shape)
