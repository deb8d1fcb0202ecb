"""How the contractive penalty of an encoder is computed, as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Array, Float

from jaxae._checks import AnyArray
from jaxae.contraction._choice import check_inputs, choose
from jaxae.contraction._column_sums import find_sums
from jaxae.contraction._evaluate import FactoredJacobian
from jaxae.contraction._full import FullJacobian, full_jacobians
from jaxae.contraction._pooling import with_masked_pooling


class ContractionPlan(NamedTuple):
    """What :func:`explain_contraction` found; ``str`` of it is a table."""

    method: str
    """``"structure"``, ``"jacfwd"`` or ``"jacrev"``."""
    formula: str
    """How the squared norm is computed, with factors D_l W_l numbered from the input."""
    reason: str
    """Why the structure could not be used, or nothing."""
    flops: float
    """Floating point operations of the value for the whole batch, as counted from shapes."""
    bytes: int
    """Of per-example matrices held at a time."""
    rejected: tuple[tuple[str, float, int], ...]
    """Formula, flops and bytes of what was dearer, the cheapest first."""
    probe_flops: float = math.nan
    """Floating point operations of one probe of every example, by Hutchinson's estimator."""
    probe_error: float = math.nan
    """The largest relative standard error of one probe, whatever the Jacobian is.

    Of n probes it is this over the square root of n, and of ``"hutch++"`` not known beforehand.
    """

    def __str__(self) -> str:
        rows = [(self.formula, self.flops, self.bytes), *self.rejected]
        lines = [f"{'':8}  {'MFLOP':>10}  {'MiB':>8}"]
        for i, (formula, flops, size) in enumerate(rows):
            label = "rejected" if i else "chosen"
            lines.append(f"{label:8}  {flops / 1e6:10.4g}  {size / 2**20:8.3g}  {formula}")
        if not math.isnan(self.probe_flops):
            what = f"one probe, relative standard error at most {self.probe_error:.3g}"
            lines.append(f"{'estimate':8}  {self.probe_flops / 1e6:10.4g}  {'':8}  {what}")
        return "\n".join([*lines, *([f"because {self.reason}"] if self.reason else [])])


def explain_contraction(
    encode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
    *,
    chunk_size: int | None = None,
    example_ndim: int = 1,
) -> ContractionPlan:
    """Returns how ``contractive_penalty(encode, x)`` computes its value, and what it rejected.

    The encoder is traced, the penalty is not computed. What is chosen minimises an estimate of
    the time of value and gradient, in which numbers that are written count beside operations,
    so that it need not have the fewest operations. The last line is for
    :func:`jaxae.contractive_penalty_estimate`: what one probe costs, and how far off it may be.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating; only the shape and the dtype matter.
      chunk_size: bound on the memory, see :func:`contractive_penalty`.
      example_ndim: how many trailing axes one example has.

    Returns:
      The method, the formula, the operations and the bytes of what is chosen and of the rest.

    Raises:
      TypeError: if ``x`` is not floating point or ``encode`` no function.
      ValueError: if the code is not ``(k,)`` or ``x`` is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = jnp.ones((3, 4))
      >>> explain_contraction(lambda x_i: jnp.tanh(weights @ x_i), jnp.ones((8, 4))).formula
      '‖D1 W1‖²'
      >>> explain_contraction(lambda x_i: x_i + jnp.tanh(x_i), jnp.ones((8, 4))).formula
      '‖D1‖²'
    """
    x, batch, example, code = check_inputs(encode, x, chunk_size, example_ndim)
    size, item = math.prod(batch), x.dtype.itemsize
    encode = with_masked_pooling(encode, example)  # as ``choose`` does
    # Full Jacobians are listed in either case, so that a reader sees what the structure saves.
    sums = find_sums(encode, example, code)
    full = full_jacobians(encode, example, code, size, chunk_size, sums)
    whole = [(_name_of_full(f), f.flops * size, round(f.numbers * size) * item) for f in full]
    probe_flops, probe_error = _probe_cost(full, example.size, code.size)
    probe = {"probe_flops": probe_flops * size, "probe_error": probe_error}
    jacobian, reason = choose(encode, example, code, size, chunk_size)
    if not isinstance(jacobian, FactoredJacobian):  # the cheaper full one comes first
        (name, flops, size), *rest = whole
        return ContractionPlan(full[0].method, name, reason, flops, size, tuple(rest), **probe)
    # Operations are those of the batch; memory is held for one group of examples at a time.
    ways = [
        (order.name, order.cost.flops * size, round(order.cost.numbers * jacobian.group) * item)
        for order in jacobian.orders
    ]
    (name, flops, size), *rest = ways
    return ContractionPlan("structure", name, "", flops, size, (*rest, *whole), **probe)


def _name_of_full(jacobian: FullJacobian) -> str:
    """Returns the method of a full Jacobian, and how many derivatives it takes if not all."""
    if jacobian.sums is None:
        return jacobian.method
    return f"{jacobian.method}, {jacobian.num_derivatives} for {jacobian.directions}"


def _probe_cost(full: Sequence[FullJacobian], inputs: int, outputs: int) -> tuple[float, float]:
    """Returns the operations of one probe of one example, and its largest relative error."""
    method, entries = ("jacrev", outputs) if outputs < inputs else ("jacfwd", inputs)
    # A probe is one of the derivatives of a full Jacobian.
    flops = [f.flops / max(1, f.num_derivatives) for f in full if f.method == method]
    # The variance is 2 (|A|^2 - sum_i A_ii^2) with |A| <= tr A and sum_i A_ii^2 >= (tr A)^2 / n.
    return (flops[0] if flops else math.nan), math.sqrt(2 * (1 - 1 / max(1, entries)))
