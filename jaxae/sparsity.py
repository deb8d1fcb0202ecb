r"""Sparsity of a code: penalties on it, the k-sparse projection, and its dead units.

Contract of this module. ``code`` is ``(*batch, k)``; units (the last axis) are summed,
the batch is kept, weights are left to the objective. The KL penalty is the exception: it
is about batch means, so it returns a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from jaxae import _checks
from jaxae._batching import is_divided, one_example, over_batch, placed_as, varying_as
from jaxae._checks import AnyArray
from jaxae._filters import checked_decoder, row_norms


def l1_penalty(code: Float[AnyArray, "*batch k"]) -> Float[Array, "*batch"]:
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


def decoder_weighted_l1_penalty(
    code: Float[AnyArray, "*batch k"], decoder: Float[AnyArray, "k d"]
) -> Float[Array, "*batch"]:
    r"""Returns the L1 norm of each code, units weighted by the norms of their filters.

    .. math:: \Omega(z, W) = \sum_j |z_j| \, \|W_j\|_2

    What a unit adds to the reconstruction has length :math:`|z_j| \|W_j\|`, so the penalty does
    not change if filters are longer and codes smaller, and the filters may be free. Pass the
    decoder without ``stop_gradient``: its gradient is what keeps the filters short.

    Args:
      code: codes ``(*batch, k)``, floating, any unit.
      decoder: filters ``(k, d)``, one row for each unit (the kernel of a Flax layer).

    Returns:
      Unit of ``code`` times that of ``decoder``, at least 0, shape ``(*batch,)``.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if ``decoder`` is not ``(k, d)`` or an argument not finite.

    Example:
      >>> filters = jnp.array([[3.0, 4.0], [0.0, 1.0]])
      >>> float(decoder_weighted_l1_penalty(jnp.array([1.0, -2.0]), filters))
      7.0

    References:
      Conerly et al. 2024, "Update on how we train SAEs", https://transformer-circuits.pub.
      Deviation: none.
    """
    code = _checks.codes(code)
    decoder = checked_decoder(code, decoder)
    dtype = jnp.result_type(code, decoder)
    code, norms = _checks.widen(code), row_norms(_checks.widen(decoder))
    return jnp.inner(jnp.sign(code) * code, norms).astype(dtype)


def kl_sparsity_penalty(
    code: Float[AnyArray, "*batch k"], *, target: ScalarLike
) -> Float[Array, ""]:
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
        Traced values outside their range give NaN.

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
    # So far inside that the derivatives are finite, in the dtype of the code too.
    least = 2 / float(jnp.finfo(code.dtype).max)
    lowest = max(math.sqrt(float(jnp.finfo(dtype).tiny)), least)
    highest = 1 - max(float(jnp.finfo(dtype).epsneg), least)
    inside = jnp.clip(rho_hat, lowest, highest)
    rho_hat = rho_hat + jax.lax.stop_gradient(inside - rho_hat)
    on = rho * (jnp.log(rho) - jnp.log(rho_hat))
    off = (1 - rho) * (jnp.log1p(-rho) - jnp.log1p(-rho_hat))
    return jnp.sum(on + off).astype(code.dtype)


def keep_top_k(code: Float[AnyArray, "*batch units"], *, k: int) -> Float[Array, "*batch units"]:
    r"""Returns each code with its ``k`` largest entries kept and the rest set to 0.

    Largest by value, not by magnitude; among equals the first ones win, so never more
    than ``k`` stay; -0 equals 0. The gradient passes through the entries that stay.

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
    if is_divided(code, code.ndim - 1):  # a scatter of one code has no divided axis
        return over_batch(partial(keep_top_k, k=k), code.ndim - 1)(code)
    ordered = jnp.where(code == 0, 0, jax.lax.stop_gradient(code))  # top_k puts -0 below 0
    units = jax.lax.top_k(ordered, k)[1]
    none = jnp.zeros_like(code, dtype=bool)
    is_kept = jnp.put_along_axis(none, units, True, axis=-1, inplace=False)
    return jnp.where(is_kept, code, 0)


def dead_unit_loss(
    code: Float[AnyArray, "*batch units"],
    decode: Callable[[Array], Array],
    residual: Float[AnyArray, " *shape"],
    *,
    is_dead: Bool[AnyArray, " units"],
    k: int,
) -> Float[Array, "*batch"]:
    r"""Returns the auxiliary loss of top-k: the error left after dead units tried to explain it.

    .. math:: \| e - \mathrm{dec}(\mathrm{relu}(\mathrm{top}_k(z_\mathrm{dead}))) \|^2,
              \quad e = x - \hat x

    A unit that is never among the k largest has no gradient and stays dead. Here the ``k``
    largest of the dead ones alone explain the residual e, through which no gradient passes, so
    they move to where the dictionary fails. 0 where no unit is dead. Add it with a small weight.
    Negative pre-activations count as 0, by the relu of the formula; SAELens (version 6) lets them
    in, so the two differ where an example has fewer than ``k`` dead units above 0.

    While no unit is dead this costs nothing. It costs a product with the decoder where each example
    has at most ``k`` dead units above 0, and a choice among all units only where one has more.

    Args:
      code: codes before the choice of units ``(*batch, units)``, floating.
      decode: decoder of ONE code ``(units,)`` to ``(*example,)``, without its bias.
      residual: x minus its reconstruction, ``(*batch, *example)``.
      is_dead: which units are dead, boolean ``(units,)``.
      k: static number of dead units that may explain one example, between 1 and ``units``.

    Returns:
      Squared unit of ``residual``, summed over the features, shape ``(*batch,)``.

    Raises:
      TypeError: if an array has the wrong type or ``decode`` is no function.
      ValueError: if the shapes do not fit or ``k`` is not between 1 and units.

    Example:
      >>> code, residual = jnp.array([3.0, 2.0, 1.0]), jnp.array([0.0, 0.0, 5.0])
      >>> is_dead = jnp.array([False, True, True])
      >>> float(dead_unit_loss(code, lambda z: z, residual, is_dead=is_dead, k=1))
      29.0

    References:
      Gao et al. 2024, appendix A.2, https://arxiv.org/abs/2406.04093; the relu is in their code,
      https://github.com/openai/sparse_autoencoder. Deviation: a sum of squares, not divided by the
      size of the residual.
    """
    code, residual = _checks.codes(code), _checks.floating("residual", residual)
    k = _checks.integer("k", k, low=1, high=code.shape[-1])
    _checks.unmasked("is_dead", is_dead)
    if not hasattr(is_dead, "dtype") or is_dead.dtype != bool:
        raise TypeError("is_dead must be a boolean array, one entry for each unit")
    _checks.one_per_unit("is_dead", is_dead, code)
    _checks.same_batch("residual", residual, "code", code)
    batch_ndim = code.ndim - 1
    one_code, example = one_example(code, batch_ndim), one_example(residual, batch_ndim)
    _checks.decoded_example(decode, code, one_code, example)

    def one(active_i: Array, residual_i: Array) -> Array:
        error = _checks.widen(residual_i) - _checks.widen(decode(active_i))
        return jnp.sum(error * error).astype(residual.dtype)

    def losses(code: Array, residual: Array) -> Array:
        is_dead_unit = jnp.reshape(is_dead, (1,) * batch_ndim + is_dead.shape)
        active = jnp.where(is_dead_unit & (code > 0), code, 0)
        # The choice among units takes longer than the decoder. Where each example has at most k
        # dead units above 0, all of them stay, and there is nothing to choose.
        is_choice_needed = jnp.any(jnp.sum(active > 0, axis=-1) > k)
        active = jax.lax.cond(is_choice_needed, partial(keep_top_k, k=k), lambda z: z, active)
        return over_batch(one, batch_ndim)(active, residual)

    def zeros(code: Array, residual: Array) -> Array:
        zero = placed_as(jnp.zeros(code.shape[:-1], residual.dtype), residual, batch_ndim)
        return varying_as(zero, jax.eval_shape(losses, code, residual))

    # While no unit is dead, as in most steps, neither the choice among units nor the decoder runs.
    residual = jax.lax.stop_gradient(residual)
    return jax.lax.cond(jnp.any(is_dead), losses, zeros, code, residual)
