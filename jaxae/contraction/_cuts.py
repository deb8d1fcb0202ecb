"""Where the derivative of an encoder can be cut: at values through which everything passes.

The trace of ``jax.jvp`` has a graph of values that are linear in the direction t. A value that is
on every path from t to the code's derivative is a cut: the Jacobian is the product of those of the
segments between the cuts. A residual network, for example, has a cut between any two blocks, and
none inside of a block, where the skip connection goes around.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax.extend import core as jex

from jaxae.contraction._chain import Equation

# Calls whose body is read as if it stood in the trace. Calls with a derivative rule of their own
# (``jax.custom_jvp``) are not among them: ``jax.jvp`` has replaced those by their rule.
CALLS = ("jit", "closed_call", "remat2")


class CutInfo(NamedTuple):
    """What is known of an equation on the way of the direction."""

    is_needed: bool
    """Whether the code's derivative depends on it."""
    cut: int | None
    """Which of its outputs is a cut; None if none is."""


def called_jaxpr(eqn: Equation) -> jex.ClosedJaxpr | jex.Jaxpr:
    """Returns the body of a call."""
    return eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]


def find_cuts(jaxpr: jex.Jaxpr) -> list[CutInfo]:
    """Returns a :class:`CutInfo` for every equation that depends on the direction, in order.

    Args:
      jaxpr: the trace of a function of the input and the direction to the code and its derivative.
        The bodies of calls are read as if they stood in it.
    """
    graph = _Graph()
    first = graph.new_number()
    _, last = graph.add_equations(jaxpr, [None, first])
    # Backwards, from the code's derivative to the direction: what it needs, and where last.
    needed: set[int | None] = {last}
    last_use = {last: len(graph.equations)}
    for position, (inputs, outputs) in reversed(list(enumerate(graph.equations))):
        if needed.intersection(outputs):
            needed |= inputs
            for number in inputs:  # the first position that is met backwards is the last use
                last_use.setdefault(number, position)
    # A value is a cut if, once it is there, it is the only one that is still needed.
    infos = []
    pending = {first} & needed
    for position, (_, outputs) in enumerate(graph.equations):
        is_needed = not needed.isdisjoint(outputs)
        pending |= {number for number in outputs if number in needed}
        pending = {number for number in pending if last_use[number] > position}
        cuts = [i for i, number in enumerate(outputs) if pending == {number}]
        infos.append(CutInfo(is_needed, cuts[0] if is_needed and cuts else None))
    return infos


class _Node(NamedTuple):
    """An equation, by the numbers of the values that depend on the direction."""

    inputs: frozenset[int]
    outputs: list[int]


class _Graph:
    """The equations that depend on the direction, without calls."""

    def __init__(self) -> None:
        self.equations: list[_Node] = []
        self.count = 0

    def new_number(self) -> int:
        self.count += 1
        return self.count - 1

    def add_equations(self, jaxpr: jex.Jaxpr, operands: Sequence[int | None]) -> list[int | None]:
        """Adds the equations of a jaxpr; takes and returns numbers, None for other values."""
        numbers = dict(zip(jaxpr.invars, operands, strict=True))

        def look_up(atom: jex.Literal | jex.Var) -> int | None:
            return None if isinstance(atom, jex.Literal) else numbers.get(atom)

        for eqn in jaxpr.eqns:
            given = [look_up(atom) for atom in eqn.invars]
            inputs = frozenset(n for n in given if n is not None)
            if not inputs:
                continue
            if eqn.primitive.name in CALLS:
                body = called_jaxpr(eqn)
                body = body.jaxpr if isinstance(body, jex.ClosedJaxpr) else body
                outputs = self.add_equations(body, given)
            else:
                new = [self.new_number() for _ in eqn.outvars]
                self.equations.append(_Node(inputs, new))
                outputs = [*new]
            numbers |= dict(zip(eqn.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]
