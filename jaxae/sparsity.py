r"""Sparsity of a code: penalties on it, and the k-sparse projection.

Contract of this module. ``code`` is ``(*batch, k)``; units (the last axis) are summed,
the batch is kept, weights are left to the objective. The KL penalty is the exception: it
is about batch means, so it returns a scalar.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from jaxae import _checks


def l1_penalty(code: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    r"""Returns the L1 norm of each code.

    .. math:: \Omega(z) = \sum_j |z_j|

    The gradient at exactly 0 is taken as 0.

    Args:
      code: codes ``(*batch, k)``, floating, any unit.

    Returns:
      Norm in the unit of ``code``, at least 0, shape ``(*batch,)``.

    Raises:
      TypeError: if ``code`` is not floating point.
      ValueError: if ``code`` has no axis or is not finite.

    Example:
      >>> float(l1_penalty(jnp.array([1.0, -2.0, 0.0])))
      3.0

    References:
      Goodfellow, Bengio, Courville 2016, sec. 14.2.1. Deviation: none.
    """
    code = _checks.codes(code)
    return jnp.sum(jnp.sign(code) * code, axis=-1)  # jnp.abs has gradient 1 at 0


def kl_sparsity_penalty(code: Float[Array, "*batch k"], *, target: ScalarLike) -> Float[Array, ""]:
    r"""Returns the KL divergence of the units' mean activations from a target, summed.

    .. math:: \sum_j \rho \log \frac{\rho}{\hat\rho_j}
              + (1 - \rho) \log \frac{1 - \rho}{1 - \hat\rho_j}

    with :math:`\rho` = ``target`` and :math:`\hat\rho_j` the mean of unit j over the whole
    batch. A mean at 0 or 1 is evaluated just inside (1e-19 from 0 in float32, one rounding
    step from 1), where value and gradient are finite and the gradient still points inwards.

    Args:
      code: activations in [0, 1] (a sigmoid code), ``(*batch, k)`` with at least one
        batch axis. Call it on the batch: under ``vmap`` the batch mean is not seen.
      target: wanted mean activation, in (0, 1).

    Returns:
      Nats, at least 0, a SCALAR for the whole batch.

    Raises:
      TypeError: if ``code`` is not floating point or ``target`` not a number.
      ValueError: if ``target`` is outside (0, 1), ``code`` leaves [0, 1] or has no batch.

    Example:
      >>> round(float(kl_sparsity_penalty(jnp.full((4, 2), 0.5), target=0.1)), 4)
      0.7361

    References:
      Ng 2011, CS294A lecture notes, "Autoencoders and sparsity". Deviation: none.
    """
    code = _checks.codes(code, low=0.0, high=1.0)
    if code.ndim < 2 or code.size == 0:
        raise ValueError(
            f"code must be a batch of codes (*batch, k) of at least one, "
            f"because the penalty is about batch means, but its shape is {code.shape}"
        )
    dtype = _checks.wide(code.dtype)
    rho = _checks.number("target", target, dtype, low=0.0, high=1.0, strict=True)
    rho_hat = jnp.mean(code, axis=tuple(range(code.ndim - 1)), dtype=dtype)
    lowest, highest = math.sqrt(jnp.finfo(dtype).tiny), 1 - jnp.finfo(dtype).epsneg
    inside = jnp.clip(rho_hat, lowest, highest)
    rho_hat = rho_hat + jax.lax.stop_gradient(inside - rho_hat)
    on = rho * (jnp.log(rho) - jnp.log(rho_hat))
    off = (1 - rho) * (jnp.log1p(-rho) - jnp.log1p(-rho_hat))
    return jnp.sum(on + off).astype(code.dtype)


def keep_top_k(code: Float[Array, "*batch units"], *, k: int) -> Float[Array, "*batch units"]:
    r"""Returns each code with its ``k`` largest entries kept and the rest set to 0.

    Largest by value, not by magnitude; among equals the first ones win, so never more
    than ``k`` stay. The gradient passes through the entries that stay.

    Args:
      code: codes ``(*batch, units)``, floating.
      k: static number of entries to keep, between 1 and the number of units.

    Returns:
      Codes of the same shape, dtype and unit, at most ``k`` entries not 0.

    Raises:
      TypeError: if ``code`` is not floating point or ``k`` not an integer.
      ValueError: if ``k`` is not between 1 and units, or ``code`` is not finite.

    Example:
      >>> keep_top_k(jnp.array([3.0, 1.0, 2.0]), k=2).tolist()
      [3.0, 0.0, 2.0]

    References:
      Makhzani and Frey 2014, "k-Sparse Autoencoders", https://arxiv.org/abs/1312.5663.
      Deviation: none.
    """
    code = _checks.codes(code)
    k = _checks.integer("k", k, low=1, high=code.shape[-1])
    values, units = jax.lax.top_k(code, k)
    return jnp.put_along_axis(jnp.zeros_like(code), units, values, axis=-1, inplace=False)
