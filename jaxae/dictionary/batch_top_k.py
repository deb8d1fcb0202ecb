r"""BatchTopK: so many units per example on average, chosen from the whole batch.

Contract of this module. Pre-activations and codes are ``(*batch, units)`` with at least one batch
axis, because the choice is made among all entries of the batch: under ``jax.vmap`` the batch is not
seen. The code of an example depends on the others of its batch. At inference, where it must not, a
fixed threshold takes the place of the choice.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import _checks
from jaxae._batching import placed_as, replicated
from jaxae._checks import AnyArray


def batch_top_k(pre: Float[AnyArray, "*batch units"], *, k: int) -> Float[Array, "*batch units"]:
    r"""Returns the ``k * batch`` largest positive entries of a whole batch, and 0 for the others.

    An example with much to explain gets more units and another one fewer; ``k`` is the mean, and
    less where fewer entries are positive. Among equals the first ones win. The gradient passes
    through the entries that stay.

    Args:
      pre: pre-activations ``(*batch, units)``, floating, with at least one batch axis.
      k: static mean number of entries that an example keeps, between 1 and ``units``.

    Returns:
      Codes of the same shape, dtype and unit, at least 0.

    Raises:
      TypeError: if ``pre`` is not floating point or ``k`` not an integer.
      ValueError: if ``k`` is not between 1 and ``units``, ``pre`` has no batch or is not finite.

    Example:
      >>> batch_top_k(jnp.array([[3.0, 2.0], [1.0, -1.0]]), k=1).tolist()
      [[3.0, 2.0], [0.0, 0.0]]

    References:
      Bussmann, Leask and Nanda 2024, "BatchTopK Sparse Autoencoders",
      https://arxiv.org/abs/2412.06410. Deviation: none.
    """
    pre = _batch("pre", pre)
    k = _checks.integer("k", k, low=1, high=pre.shape[-1])
    count = k * math.prod(pre.shape[:-1])
    # The choice is among all of the batch, also where it is divided over several devices.
    flat = replicated(jax.lax.stop_gradient(pre)).reshape(-1)
    chosen = jax.lax.top_k(flat, count)[1]
    is_chosen = jnp.zeros(flat.shape, bool).at[chosen].set(True).reshape(pre.shape)
    is_chosen = placed_as(is_chosen, pre, pre.ndim - 1)
    return jnp.where(is_chosen & (pre > 0), pre, 0)


def batch_top_k_threshold(code: Float[AnyArray, "*batch units"]) -> Float[Array, ""]:
    r"""Returns the smallest positive entry of a batch of codes, its threshold for inference.

    The mean of it over many batches of :func:`batch_top_k`, or a running mean during training, is
    the threshold :math:`\theta` for inference. There the code of one example does not depend on
    others: z where :math:`z > \theta`, and 0 elsewhere, as of :func:`jaxae.jump_relu`.

    Args:
      code: codes of :func:`batch_top_k`, ``(*batch, units)`` with at least one batch axis.

    Returns:
      A SCALAR for the whole batch in float32 or wider, in the unit of ``code``; 0 if no entry is
      positive. It has no gradient.

    Raises:
      TypeError: if ``code`` is not floating point.
      ValueError: if ``code`` has no batch or is not finite.

    Example:
      >>> code = batch_top_k(jnp.array([[3.0, 2.0], [1.0, -1.0]]), k=1)
      >>> float(batch_top_k_threshold(code))
      2.0

    References:
      Bussmann, Leask and Nanda 2024, "BatchTopK Sparse Autoencoders",
      https://arxiv.org/abs/2412.06410. Deviation: none.
    """
    code = jax.lax.stop_gradient(_checks.widen(_batch("code", code)))
    least = jnp.min(jnp.where(code > 0, code, jnp.inf))
    return jnp.where(jnp.isinf(least), 0, least)


def _batch(name: str, values: AnyArray) -> Array:
    """Returns ``values`` if they have at least one batch axis and hold something."""
    values = _checks.floating(name, values)
    if values.ndim < 2 or values.size == 0:
        raise ValueError(
            f"{name} must be a batch (*batch, units) of at least one, because the choice is made "
            f"among all of it, but its shape is {values.shape}"
        )
    return values
