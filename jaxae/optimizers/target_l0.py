r"""A weight of a sparsity penalty that is adjusted until a given number of units is active.

The idea. Of the problem "the least error with L0 = target" the Lagrangian is error + weight * (L0 -
target). Its derivative for the weight is L0 - target: the parameters minimise it, and the weight
goes up where too many units are active and down where too few are. So the weight can be one of the
parameters of the loss error + weight * L0, and its gradient, the mean L0 of the batch, is all that
this transformation needs. The loss, the train step and the optimiser of the rest stay as they are.

Contract of this module. An ``optax`` transformation for the weights alone;
:func:`optax.partition` gives it some of a pytree.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree, ScalarLike

from jaxae import _checks
from jaxae._optax import Params


class TargetL0State(NamedTuple):
    """State of :func:`target_l0`.

    Attributes:
      excess: for each weight how far L0 was from its target at the last update, in [-1, 1); NaN
        before the first one.
    """

    excess: PyTree


def target_l0(
    *, target: ScalarLike, rate: ScalarLike, damping: ScalarLike = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Returns an optimiser for the weight of a penalty under which L0 approaches a target.

    .. math:: \log \lambda \leftarrow \log \lambda + \rho \, e_t + \kappa \, (e_t - e_{t-1}),
              \qquad e = \frac{L_0 - T}{L_0 + T}

    with :math:`\lambda` the weight, T = ``target``, :math:`\rho` = ``rate``, :math:`\kappa` =
    ``damping`` and L0 the gradient for the weight. It is a controller with an integral and a
    proportional part. Use it as the optimiser of a parameter ``weight`` of the loss

    .. code-block:: python

        error + params["weight"] * jaxae.step_l0_penalty(pre, params["threshold"], bandwidth=...)

    whose mean has exactly the mean L0 of the batch as its gradient for the weight. With another
    penalty, such as L1, write ``weight`` of it under ``jax.lax.stop_gradient`` and add ``(weight -
    stop_gradient(weight)) * stop_gradient(active_units(code))``. Do not clip this gradient together
    with others.

    Start with a small weight: a unit that a large one has switched off for all examples gets no
    gradient any more, and stays off.

    Args:
      target: wanted number of active units per example, above 0; may be traced.
      rate: how fast the logarithm of the weight changes, per update, at least 0 (0 keeps
        it); about one over the number of updates in which L0 follows a change of the weight.
      damping: how much a fall of L0 takes back of it, at least 0.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose ``update`` needs ``params``. Its state is a
      :class:`TargetL0State`. The weights stay positive.

    Raises:
      TypeError: if an argument is no number; ``update`` raises ValueError without ``params``.
      ValueError: if an argument is out of its range; by ``init``, if a weight is not above 0.

    Example:
      >>> optimizer, weight = target_l0(target=10.0, rate=0.1), jnp.array(1.0)
      >>> update, _ = optimizer.update(jnp.array(30.0), optimizer.init(weight), weight)
      >>> round(float(weight + update), 4)  # too many units are active
      1.0513

    References:
      Gallego-Posada et al. 2022, "Controlled Sparsity via Constrained Optimization",
      https://arxiv.org/abs/2208.04425. Deviation: the logarithm of the weight is changed, by the
      relative excess, and there is a proportional part against oscillations.
    """
    target = _checks.number("target", target, low=0.0, strict=True)
    rate = _checks.number("rate", rate, low=0.0)
    damping = _checks.number("damping", damping, low=0.0)

    def init(params: Params) -> TargetL0State:
        for weight in jax.tree.leaves(params):
            _checks.floating("params", weight, above=0.0)
        return TargetL0State(jax.tree.map(lambda weight: jnp.full_like(weight, jnp.nan), params))

    def excess(l0: Array) -> Array:
        return ((l0 - target.astype(l0.dtype)) / (l0 + target.astype(l0.dtype))).astype(l0.dtype)

    def change(weight: Array, now: Array, before: Array) -> Array:
        fall = jnp.where(jnp.isnan(before), 0, now - before)
        exponent = rate.astype(now.dtype) * now + damping.astype(now.dtype) * fall
        return (weight * jnp.expm1(exponent)).astype(weight.dtype)

    def update(
        gradients: Params, state: TargetL0State, params: Params | None = None, **extra: PyTree
    ) -> tuple[Params, TargetL0State]:
        if params is None:
            raise ValueError("params must be passed to update, because weights change by a factor")
        now = jax.tree.map(excess, gradients)
        updates = jax.tree.map(change, params, now, state.excess)
        return updates, TargetL0State(now)

    return optax.GradientTransformationExtraArgs(init, update)
