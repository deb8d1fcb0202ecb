"""Counts what the derivative of an encoder along one direction costs, from its trace.

A full Jacobian is many such derivatives: along every direction of the input (forward), or of the
code (reverse). Which of the two is cheaper depends on the operations inside, not only on the number
of directions: the forward derivative of a max pooling takes many times as long as the reverse one,
and what does not depend on the example is computed once for the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jax.extend import core as jex

from jaxae.contraction._chain import Equation
from jaxae.contraction._costs import Counts
from jaxae.contraction._rules import MAPS, flops_of

# Operations of pooling that choose an entry of a window, forwards and backwards.
_CHOOSING = ("select_and_gather_add", "select_and_scatter_add", "reduce_window")
# Calls whose operands are those of their trace, one by one.
_CALLS = ("jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call")


class _Dependence(NamedTuple):
    """What a value depends on."""

    example: bool
    direction: bool

    def joined(self, other: _Dependence) -> _Dependence:
        return _Dependence(self.example or other.example, self.direction or other.direction)


_CONSTANT = _Dependence(example=False, direction=False)


def count_derivative(trace: jex.Jaxpr) -> Counts:
    """Returns the counts of the trace of a derivative, a function of an example and a direction."""
    return _count(trace, [_Dependence(True, False), _Dependence(False, True)])[0]


def _count(jaxpr: jex.Jaxpr, operands: Sequence[_Dependence]) -> tuple[Counts, list[_Dependence]]:
    """Returns the counts of a trace, and what its outputs depend on."""
    known = dict(zip(jaxpr.invars, operands, strict=True))

    def look_up(atom: jex.Literal | jex.Var) -> _Dependence:
        return _CONSTANT if isinstance(atom, jex.Literal) else known.get(atom, _CONSTANT)

    total = Counts()
    for eqn in jaxpr.eqns:
        inputs = [look_up(atom) for atom in eqn.invars]
        counts, outputs = _count_equation(eqn, inputs)
        total = total.plus(counts)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return total, [look_up(atom) for atom in jaxpr.outvars]


def _count_equation(
    eqn: Equation, inputs: Sequence[_Dependence]
) -> tuple[Counts, list[_Dependence]]:
    """Returns the counts of an equation, and what its outputs depend on.

    Of several inner traces (the branches of ``jax.lax.cond``) the largest counts, of a loop of
    unknown length one round.
    """
    joined = _CONSTANT
    for dependence in inputs:
        joined = joined.joined(dependence)
    outputs = [joined] * len(eqn.outvars)
    inner = [*jex.jaxprs_in_params(eqn.params)]
    if eqn.primitive.name in _CALLS and len(inner) == 1:
        return _count(inner[0], inputs)
    if not (joined.example and joined.direction):  # shared by the batch, or by all directions
        return Counts(), outputs
    if inner:
        found = [_count(sub, [joined] * len(sub.invars))[0] for sub in inner]
        rounds = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        return max(found, key=sum).times(float(rounds)), outputs
    return count_operation(eqn), outputs


def sum_counts(counts: Iterable[Counts]) -> Counts:
    """Returns the counts of several operations together."""
    total = Counts()
    for one in counts:
        total = total.plus(one)
    return total


def count_operation(eqn: Equation, transposed_in: Sequence[int] = ()) -> Counts:
    """Returns the counts of one operation on a direction.

    Args:
      eqn: the equation of the operation.
      transposed_in: for the counts of its transposition, which operands are the direction.
    """
    name = eqn.primitive.name
    inputs, outputs = ([getattr(v.aval, "size", 0) for v in vs] for vs in (eqn.invars, eqn.outvars))
    written = [inputs[place] for place in transposed_in] or outputs
    counts = Counts(numbers=float(sum(written)))
    # By their beginnings: a maximum is ``reduce_window_max``. A sum of a window chooses nothing.
    if name.startswith(_CHOOSING) and name != "reduce_window_sum":
        window = math.prod(eqn.params["window_dimensions"])
        # The transposed operation has the windows of its result, which is the larger one.
        windows = min(*inputs, *outputs)
        return counts._replace(comparisons=float(windows * window))
    if name not in MAPS:
        return counts
    flops = flops_of(eqn, inputs[0], sum(outputs))
    if name == "dot_general":
        return counts._replace(product_flops=flops)
    return counts._replace(applied_flops=flops)
