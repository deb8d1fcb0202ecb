r"""Gated codes: one path decides which units are active, another one how strongly.

Contract of this module. ``gate`` and ``magnitude`` are the pre-activations of the two paths,
``(*batch, k)``; they usually share their weights up to a scale of each unit. The loss of a gated
autoencoder has three terms, of which the weight is left to the objective:

.. math:: \|x - \mathrm{dec}(f)\|^2 + \lambda \sum_j \mathrm{relu}(\pi_j)
          + \|x - \mathrm{dec}_\mathrm{frozen}(\mathrm{relu}(\pi))\|^2

with :math:`\pi` = ``gate``, f = :func:`gated_relu` and the last one :func:`gated_auxiliary_loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import _checks
from jaxae._batching import one_example, over_batch
from jaxae._checks import AnyArray


def gated_relu(
    gate: Float[AnyArray, "*batch k"], magnitude: Float[AnyArray, "*batch k"]
) -> Float[Array, "*batch k"]:
    r"""Returns the positive magnitudes of the units whose gate is positive, and 0 for the others.

    .. math:: f_j = H(\pi_j) \, \mathrm{relu}(m_j)

    with :math:`\pi` = ``gate`` and m = ``magnitude``. The L1 norm is for ``relu(gate)``, so it does
    not shrink the magnitudes. No gradient reaches the gate from here, it gets its own from the L1
    norm and from :func:`gated_auxiliary_loss`.

    Args:
      gate: which units are active ``(*batch, k)``, floating.
      magnitude: how strongly, same shape and dtype.

    Returns:
      Codes in the shape, dtype and unit of ``magnitude``, at least 0.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ, have no axis, or a value is not finite.

    Example:
      >>> gated_relu(jnp.array([1.0, -1.0, 2.0]), jnp.array([3.0, 3.0, -3.0])).tolist()
      [3.0, 0.0, 0.0]

    References:
      Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
      https://arxiv.org/abs/2404.16014. Deviation: none.
    """
    gate = _checks.codes(gate, name="gate")
    magnitude = _checks.floating("magnitude", magnitude)
    _checks.same_shape("gate", gate, "magnitude", magnitude)
    return jnp.where(gate > 0, jax.nn.relu(magnitude), 0)


def gated_auxiliary_loss(
    gate: Float[AnyArray, "*batch k"],
    decode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
) -> Float[Array, "*batch"]:
    r"""Returns the squared error of the reconstruction from the gates alone.

    .. math:: \| x - \mathrm{dec}_\mathrm{frozen}(\mathrm{relu}(\pi)) \|^2

    with :math:`\pi` = ``gate``. It teaches the gates, which have no other gradient than that of the
    L1 norm, to open where their unit is needed. The parameters of ``decode`` get no gradient,
    whatever ``decode`` closes over: they would serve codes that are never used. It costs one more
    decoder pass and its derivative. Second derivatives for those parameters are wrong.

    Args:
      gate: pre-activations of the gates ``(*batch, k)``, floating.
      decode: decoder of ONE code ``(k,)`` to ``(*example,)``, WITH its bias.
      x: targets ``(*batch, *example)``.

    Returns:
      Squared unit of ``x``, summed over the features, shape ``(*batch,)``.

    Raises:
      TypeError: if an array is not floating point or ``decode`` is no function.
      ValueError: if the shapes do not fit or a value is not finite.

    Example:
      >>> gate, x = jnp.array([2.0, -1.0]), jnp.array([1.0, 1.0])
      >>> float(gated_auxiliary_loss(gate, lambda z: z, x))
      2.0

    References:
      Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
      https://arxiv.org/abs/2404.16014. Deviation: none.
    """
    gate, x = _checks.codes(gate, name="gate"), _checks.floating("x", x)
    _checks.same_batch("x", x, "gate", gate)
    batch_ndim = gate.ndim - 1
    one_code, example = one_example(gate, batch_ndim), one_example(x, batch_ndim)
    _checks.decoded_example(decode, gate, one_code, example)

    def one(gate_i: Array, x_i: Array) -> Array:
        error = _checks.widen(x_i) - _checks.widen(_decode_frozen(decode, jax.nn.relu(gate_i)))
        return jnp.sum(error * error).astype(x.dtype)

    return over_batch(one, batch_ndim)(gate, x)


def _decode_frozen(decode: Callable[[Array], Array], code: Array) -> Array:
    """Returns ``decode(code)``, with the gradient for ``code`` and none for anything else.

    The parameters are inside ``decode``, where ``stop_gradient`` cannot reach them. But the tangent
    map of ``decode`` is applied to a vector that is 0: the derivative for the vector is the
    Jacobian, and that for the parameters is 0.
    """
    fixed = jax.lax.stop_gradient(code)
    value, moved = jax.jvp(decode, (fixed,), (code - fixed,))
    return jax.lax.stop_gradient(value) + moved
