r"""JumpReLU, whose thresholds are trained by straight-through gradients, and its penalties.

The idea. A unit is active where its pre-activation exceeds a threshold of its own, so sparsity is
a matter of the threshold and the values of active units do not shrink. But the step at the
threshold has the derivative 0 almost everywhere: no example would ever move a threshold. What has a
derivative is the mean over the examples, because moving the threshold changes how many of them lie
above it. The straight-through gradient estimates that derivative from the examples near the
threshold: of all that lie within a window of width ``bandwidth`` around it, each counts 1 /
``bandwidth``. So it is a kernel density estimate, biased of the order of the bandwidth.

Contract of this module. ``pre`` are pre-activations ``(*batch, k)``, before any relu; ``threshold``
is ``(k,)``, one for each unit, in the unit of ``pre`` and in float32 or float64; ``bandwidth`` is
in the unit of ``pre`` too, so it has to grow with the data: too narrow a window holds no examples.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from jaxae import _checks
from jaxae._batching import over_batch
from jaxae._checks import AnyArray
from jaxae._filters import checked_decoder, row_norms


def jump_relu(
    pre: Float[AnyArray, "*batch k"],
    threshold: Float[AnyArray, " k"],
    *,
    bandwidth: ScalarLike,
    trains_input: bool = False,
) -> Float[Array, "*batch k"]:
    r"""Returns the pre-activations that exceed the threshold of their unit, and 0 for the others.

    .. math:: f_j(z) = z_j \, H(z_j - \theta_j)

    with H the step function and :math:`\theta` = ``threshold``. The gradient for z is that of the
    units that are active. The gradient for the threshold is a straight-through one,

    .. math:: \frac{\partial f_j}{\partial \theta_j} := -\frac{\theta_j}{\varepsilon}
              K\!\left(\frac{z_j - \theta_j}{\varepsilon}\right)

    with :math:`\varepsilon` = ``bandwidth`` and K the rectangle of width and area 1 around 0.

    A threshold below 0 counts as 0, with the gradients at 0, so that it can come back. Train the
    threshold itself and not its logarithm, which Adam moves by at most the step size times the
    threshold.

    Args:
      pre: pre-activations z ``(*batch, k)``, floating, any unit.
      threshold: one for each unit ``(k,)``, in the unit of ``pre``; float32 or float64.
      bandwidth: width of the window, above 0, in the unit of ``pre``; without a gradient. Choose it
        so that some percent of the pre-activations lie in the window.
      trains_input: whether z also gets the straight-through gradient, the opposite of that of the
        threshold, by which units that are just too weak learn to become active.

    Returns:
      Codes in the shape, dtype and unit of ``pre``.

    Raises:
      TypeError: if an array is not floating point, or ``threshold`` in half precision.
      ValueError: if ``threshold`` is not ``(k,)``, ``bandwidth`` is not above 0 or an array is not
        finite.

    Example:
      >>> pre, threshold = jnp.array([0.5, 2.0]), jnp.array([1.0, 1.0])
      >>> jump_relu(pre, threshold, bandwidth=0.1).tolist()
      [0.0, 2.0]

    References:
      Rajamanoharan et al. 2024, "Jumping Ahead", https://arxiv.org/abs/2407.14435; for
      ``trains_input`` Conerly et al. 2025, "Circuits Updates, January 2025",
      https://transformer-circuits.pub/2025/january-update. Deviation: the threshold is trained
      and not its logarithm.
    """
    pre, wide, threshold = _checked(pre, threshold)
    is_active = _step(wide, threshold, bandwidth, trains_input)
    axes = (1,) * (pre.ndim - 1) + threshold.shape
    kept = wide * jax.lax.stop_gradient(is_active)
    # The second term is 0. Its gradient is the straight-through one.
    jump = is_active - jax.lax.stop_gradient(is_active)
    height = jax.lax.stop_gradient(jnp.maximum(threshold, 0)).reshape(axes)
    return (kept + height * jump).astype(pre.dtype)


def step_l0_penalty(
    pre: Float[AnyArray, "*batch k"],
    threshold: Float[AnyArray, " k"],
    *,
    bandwidth: ScalarLike,
    trains_input: bool = False,
) -> Float[Array, "*batch"]:
    r"""Returns the number of units that exceed their threshold, the L0 norm of a JumpReLU code.

    .. math:: \Omega(z) = \sum_j H(z_j - \theta_j), \qquad
              \frac{\partial \Omega}{\partial \theta_j} := -\frac{1}{\varepsilon}
              K\!\left(\frac{z_j - \theta_j}{\varepsilon}\right)

    with the symbols of :func:`jump_relu`. With a weight above some value all thresholds rise as
    fast as the optimiser lets them, whatever the weight is: :func:`jaxae.target_l0` finds the
    weight for a number of active units.

    Args:
      pre: pre-activations z ``(*batch, k)``, floating, any unit.
      threshold: one for each unit ``(k,)``, in the unit of ``pre``; float32 or float64.
      bandwidth: width of the window, above 0, in the unit of ``pre``; without a gradient.
      trains_input: whether z also gets the straight-through gradient; else it gets none.

    Returns:
      Counts in the dtype of ``pre``, shape ``(*batch,)``.

    Raises:
      TypeError: if an array is not floating point, or ``threshold`` in half precision.
      ValueError: if ``threshold`` is not ``(k,)``, ``bandwidth`` is not above 0 or an array is not
        finite.

    Example:
      >>> pre, threshold = jnp.array([0.5, 2.0, 3.0]), jnp.ones(3)
      >>> float(step_l0_penalty(pre, threshold, bandwidth=0.1))
      2.0

    References:
      Rajamanoharan et al. 2024, "Jumping Ahead", https://arxiv.org/abs/2407.14435.
      Deviation: the threshold is trained and not its logarithm.
    """
    pre, wide, threshold = _checked(pre, threshold)
    return jnp.sum(_step(wide, threshold, bandwidth, trains_input), axis=-1).astype(pre.dtype)


def tanh_l0_penalty(
    code: Float[AnyArray, "*batch k"], decoder: Float[AnyArray, "k d"], *, scale: ScalarLike = 4.0
) -> Float[Array, "*batch"]:
    r"""Returns a smooth count of the active units of each code.

    .. math:: \Omega(z, W) = \sum_j \tanh(c \, |z_j| \, \|W_j\|_2)

    with c = ``scale``. A unit that is off counts 0, one that adds much to the reconstruction counts
    1, and making it stronger costs nothing more: strong units do not shrink, as they do with L1.
    Like :func:`jaxae.decoder_weighted_l1_penalty` it does not change if filters are longer and
    codes smaller. It needs no straight-through gradient; the thresholds of the code get theirs
    through :func:`jump_relu`.

    Args:
      code: codes z ``(*batch, k)``, floating, any unit.
      decoder: filters W ``(k, d)``, one row for each unit.
      scale: c, above 0, over the unit of ``code`` times that of ``decoder``.

    Returns:
      Smooth counts, between 0 and k, shape ``(*batch,)``.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if ``decoder`` is not ``(k, d)``, ``scale`` is not above 0 or an array is not
        finite.

    Example:
      >>> round(float(tanh_l0_penalty(jnp.array([9.0, 0.0]), jnp.eye(2))), 5)
      1.0

    References:
      Conerly et al. 2025, "Circuits Updates, January 2025", "Dictionary learning optimization
      techniques", https://transformer-circuits.pub/2025/january-update. Deviation: the penalty on
      the pre-activations of dead units is not part of it.
    """
    code = _checks.codes(code)
    decoder = checked_decoder(code, decoder)
    dtype = jnp.result_type(code, decoder)
    wide = _checks.wide(dtype)
    norms = row_norms(decoder.astype(wide))
    scale = _checks.number("scale", scale, wide, low=0.0, strict=True)

    def count(code_i: Array) -> Array:
        return jnp.sum(jnp.tanh(scale * jnp.sign(code_i) * code_i * norms))

    return over_batch(count, code.ndim - 1)(code.astype(wide)).astype(dtype)


def _checked(pre: AnyArray, threshold: AnyArray) -> tuple[Array, Array, Array]:
    """Returns ``pre``, and both arrays in the dtype in which they are compared."""
    pre = _checks.codes(pre, name="pre")
    threshold = _checks.floating("threshold", threshold)
    _checks.one_per_unit("threshold", threshold, pre)
    if jnp.finfo(threshold.dtype).bits < 32:
        raise TypeError(
            f"threshold must be float32 or float64, but its dtype is {threshold.dtype}, in which "
            "an update of usual size is rounded away; keep it in float32 beside other parameters"
        )
    dtype = _checks.wide(pre.dtype, threshold.dtype)
    return pre, pre.astype(dtype), threshold.astype(dtype)


def _step(pre: Array, threshold: Array, bandwidth: ScalarLike, trains_input: bool) -> Array:
    """Returns 1 where ``pre`` exceeds its threshold and 0 elsewhere, with its gradients."""
    bandwidth = _checks.number("bandwidth", bandwidth, pre.dtype, low=0.0, strict=True)
    if not trains_input:
        pre = jax.lax.stop_gradient(pre)
    # At a threshold below 0 value and gradients are those at 0, but its gradient goes through.
    at_least_0 = threshold + jax.lax.stop_gradient(jnp.maximum(threshold, 0) - threshold)
    axes = (1,) * (pre.ndim - 1) + threshold.shape
    return _straight_through_step(pre - at_least_0.reshape(axes), bandwidth)


@jax.custom_jvp
def _straight_through_step(above: Array, bandwidth: Array) -> Array:
    """Returns the step function, whose derivative is a rectangle of width ``bandwidth``."""
    return (above > 0).astype(above.dtype)


@_straight_through_step.defjvp
def _straight_through_step_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    above, bandwidth = primals
    is_near = jnp.abs(above) < bandwidth / 2
    slope = jnp.where(is_near, 1 / bandwidth, 0)
    return _straight_through_step(above, bandwidth), slope * tangents[0]
