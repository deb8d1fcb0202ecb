r"""The structure of an encoder's Jacobian, read from its trace.

An encoder of affine maps and elementwise functions has the Jacobian

.. math:: J(x) = D_L W_L D_{L-1} \cdots D_1 W_1

with constant matrices W and diagonals D that depend on the example. It is read from the trace of
``jax.jvp(encode, (x,), (t,))``: every operation on the direction t is linear, so that a handful of
rules decides whether it multiplies by a constant W or by a diagonal D, and what JAX does with x on
the way need not be understood at all. Where something else is on the way of t (two different paths
that meet, a product of two values that depend on x), the stretch of the trace between two values
through which everything passes becomes one factor, a :class:`Segment`. What cannot be a segment
either (a loop) raises :class:`NotAChain`: then the full Jacobian is taken instead. The mathematics
is in ``docs/contraction.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxae.contraction._chain import (
    Chain,
    Direction,
    Equation,
    Factor,
    Known,
    NotAChain,
    Recorder,
    Segment,
    Value,
)
from jaxae.contraction._counting import count_operation, sum_counts
from jaxae.contraction._cuts import CALLS, called_jaxpr, find_cuts
from jaxae.contraction._products import Linear, identity
from jaxae.contraction._rules import (
    RULES,
    Operand,
    broadcast,
    check_rule,
    is_linear,
    source_line,
)


def read_chain(encode: Callable[[Array], Array], example: jax.ShapeDtypeStruct) -> Chain:
    """Returns the factors of the Jacobian of ``encode``, and the steps to their diagonals.

    Raises:
      NotAChain: if the Jacobian is no product of constant matrices, diagonals and segments, or of
        one segment only.
    """

    def code_and_derivative(x_i: Array, t: Array) -> tuple[Array, Array]:
        return jax.jvp(encode, (x_i,), (t,))

    trace = jax.make_jaxpr(code_and_derivative)(example, example)
    jaxpr = trace.jaxpr
    code_shape = jaxpr.outvars[0].aval.shape
    start = Direction((), identity(example.shape), identity(example.shape), (), None)
    reader = Reader(jaxpr, Tangent(example.dtype, start))
    code, derivative = reader.read_jaxpr(jaxpr, trace.consts, [reader.new_varying(), reader.first])
    assert not isinstance(code, Tangent)  # the code of jvp does not depend on t
    direction = derivative.structure if isinstance(derivative, Tangent) else derivative
    if not isinstance(direction, Direction):
        # J t without t: right only if it is 0, else a custom derivative rule is not linear.
        if direction is None or not direction.is_zero:
            raise NotAChain(reader.reason or "a derivative rule ignores the direction")
        return Chain(reader.steps, code, (Factor(_zero_map(example.shape, code_shape), None),))
    factors, rest = direction.factors_and_rest()
    if len(factors) == 1 and factors[0].segment:
        raise NotAChain(reader.reason)
    # A reshape at the end changes no norm; any other selection leaves out or repeats entries.
    if not rest.reshapes or not factors:
        factors = (*factors, Factor(rest, None))
    has_segments = any(factor.segment for factor in factors)
    return Chain(reader.steps, code, factors, reader.reason if has_segments else "")


def _zero_map(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Linear:
    """Returns the linear map that is 0 everywhere."""

    def zeros(v: Array) -> Array:
        return jnp.zeros(outputs, v.dtype)

    return Linear(zeros, inputs, outputs, 0.0, map_of_squared_entries=zeros)


@dataclass(eq=False)
class Tangent:
    """A variable of the trace that is linear in the direction t, and its structure if known."""

    dtype: DTypeLike
    structure: Operand | None = None
    """A direction, or a value where t has no effect; None if the rules do not understand it."""


class TangentEquation(NamedTuple):
    """An equation on the way of t."""

    eqn: Equation
    operands: list[Value | Tangent]
    outputs: list[Tangent]

    def tangent_places(self) -> list[int]:
        """Returns which operands depend on t."""
        return [i for i, operand in enumerate(self.operands) if isinstance(operand, Tangent)]


class Reader(Recorder):
    """Walks a trace, and turns each equation into a recorded step or, along t, into a direction.

    What the rules do not understand becomes a segment, from the last cut before to the next one.
    """

    def __init__(self, jaxpr: jex.Jaxpr, start: Tangent) -> None:
        super().__init__()
        # Equal equations of equal operands give one object: two paths of which each computes, for
        # example, its own W t share one map then, and can be added. Operands are kept beside the
        # outputs, because the key has only their ids, which Python gives anew once they are gone.
        self.cache: dict[Hashable, tuple[list[Operand], list[Operand]]] = {}
        self.literals: dict[Hashable, Known] = {}
        # One for each equation with a tangent among its operands, in the order they are read.
        self.cuts = iter(find_cuts(jaxpr))
        self.first = start
        """The last cut, where the segment begins that is read now."""
        self.segment: list[TangentEquation] = []
        self.reason = ""
        """Why the first stretch that is no chain is none."""

    def read_jaxpr(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Any], operands: Sequence[Value | Tangent]
    ) -> list[Value | Tangent]:
        """Returns the outputs of a jaxpr on values and tangents."""
        values: dict[jex.Var, Value | Tangent] = {
            v: Known(jnp.asarray(c)) for v, c in zip(jaxpr.constvars, consts, strict=True)
        }
        values |= dict(zip(jaxpr.invars, operands, strict=True))

        def look_up(atom: jex.Literal | jex.Var) -> Value | Tangent:
            return self._literal(atom) if isinstance(atom, jex.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            outputs = self._read_equation(eqn, [look_up(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def _read_equation(
        self, eqn: Equation, operands: list[Value | Tangent]
    ) -> Sequence[Value | Tangent]:
        """Returns the outputs of an equation."""
        values = [operand for operand in operands if not isinstance(operand, Tangent)]
        if len(values) == len(operands):
            return self._values_of(self._cached_outputs(eqn, [*values]))
        if eqn.primitive.name in CALLS:
            body = called_jaxpr(eqn)
            if isinstance(body, jex.ClosedJaxpr):
                return self.read_jaxpr(body.jaxpr, body.consts, operands)
            return self.read_jaxpr(body, (), operands)
        found = next(self.cuts)
        outputs = [Tangent(v.aval.dtype) for v in eqn.outvars]
        if not found.is_needed:
            return outputs
        self.segment.append(TangentEquation(eqn, operands, outputs))
        self._read_by_rule(*self.segment[-1])
        if found.cut is not None:
            cut = outputs[found.cut]
            if cut.structure is None:
                cut.structure = self._segment_direction(cut)
            self.first, self.segment = cut, []
        return outputs

    def _values_of(self, outputs: list[Operand]) -> list[Value]:
        """Returns the outputs of an operation on values, which are values."""
        return [output for output in outputs if not isinstance(output, Direction)]

    def _read_by_rule(
        self, eqn: Equation, operands: list[Value | Tangent], outputs: list[Tangent]
    ) -> None:
        """Reads the outputs of an equation on the way of t, if there is a rule for it."""
        given = [o.structure if isinstance(o, Tangent) else o for o in operands]
        understood = [operand for operand in given if operand is not None]
        if len(understood) < len(given):
            return
        try:
            found = self._cached_outputs(eqn, understood)
        except NotAChain as error:
            self.reason = self.reason or str(error)
            return
        for output, structure in zip(outputs, found, strict=True):
            output.structure = structure

    def _segment_direction(self, last: Tangent) -> Direction:
        """Returns the direction at a cut: its last factor is the segment since the cut before."""
        start, equations, first = self.first.structure, self.segment, self.first
        for eqn, operands, _ in equations:
            if not is_linear(eqn, [None if isinstance(o, Tangent) else o for o in operands]):
                raise NotAChain(self.reason)
        if not isinstance(start, Direction):
            raise NotAChain(self.reason)
        given = [o for equation in equations for o in equation.operands]
        values = [*dict.fromkeys(o for o in given if not isinstance(o, Tangent))]
        factors, rest = start.factors_and_rest()

        def run(v: Array, *arrays: Array) -> Array:
            """Returns the direction at the last cut for one at the first."""
            known: dict[Value | Tangent, Array] = dict(zip(values, arrays, strict=True))
            known[first] = rest.apply(v).astype(first.dtype)
            for eqn, operands, outputs in equations:
                found = _as_function(eqn)(*(known[o] for o in operands))
                known |= dict(zip(outputs, found, strict=True))
            return known[last].astype(v.dtype)

        forward = sum_counts(count_operation(equation.eqn) for equation in equations)
        reverse = sum_counts(
            count_operation(equation.eqn, equation.tangent_places()) for equation in equations
        )
        outputs = equations[-1].eqn.outvars[equations[-1].outputs.index(last)].aval.shape
        linear = Linear(run, rest.inputs, outputs, forward.flops, varies=True)
        factor = Factor(linear, None, Segment(run, tuple(values), forward, reverse))
        return Direction((*factors, factor), identity(outputs), identity(outputs), (), None)

    def _literal(self, literal: jex.Literal) -> Known:
        """Returns the value of a constant in the trace; equal constants are one object."""
        # An abstract value has a dtype, though not in the eyes of a type checker.
        array = np.asarray(literal.val, literal.aval.dtype)  # type: ignore[attr-defined]
        key = (array.tobytes(), array.dtype, array.shape)
        if key not in self.literals:
            self.literals[key] = Known(jnp.asarray(array), bool(np.all(array == 0)))
        return self.literals[key]

    def _cached_outputs(self, eqn: Equation, operands: list[Operand]) -> list[Operand]:
        """Returns the outputs of an equation; an equal one gives the same objects."""
        key: Hashable = (eqn.primitive, *map(id, operands), *sorted(eqn.params.items(), key=str))
        try:
            hash(key)
        except TypeError:  # a parameter is an array or a jaxpr
            key = None
        if key is None or eqn.effects:
            return self._outputs(eqn, operands)
        if key not in self.cache:
            self.cache[key] = operands, self._outputs(eqn, operands)
        return self.cache[key][1]

    def _outputs(self, eqn: Equation, operands: list[Operand]) -> list[Operand]:
        """Returns the outputs of an equation: values, or directions where t is among the inputs."""
        name = eqn.primitive.name
        values = [value for value in operands if not isinstance(value, Direction)]
        if len(values) == len(operands):
            # Zeros are followed, because jax.jvp adds and multiplies by zeros that mean nothing.
            is_zero = name in _KEEP_ZERO and values[0].is_zero
            is_zero |= name == "mul" and any(value.is_zero for value in values)
            return [*self.record(_as_function(eqn), values, [is_zero] * len(eqn.outvars))]
        if name not in RULES:
            raise NotAChain(f"{name} is no map or scaling that is known{source_line(eqn)}")
        check_rule(eqn, RULES[name])
        if name in _ELEMENTWISE:
            # In a trace an operand may have length 1 where the result is longer.
            operands = [broadcast(self, v, eqn.outvars[0].aval.shape) for v in operands]
        return [RULES[name].read(self, eqn, operands)]


# Arithmetic that stretches axes of length 1.
_ELEMENTWISE = ("mul", "div", "add", "add_any", "sub")
# Operations that give 0 of 0, whatever their parameters are.
_KEEP_ZERO = ("broadcast_in_dim", "reshape", "convert_element_type", "neg", "copy", "squeeze")


def _as_function(eqn: Equation) -> Callable[..., Sequence[Array]]:
    """Returns a function of arrays that runs an equation."""

    def run(*arrays: Array) -> Sequence[Array]:
        outputs = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
        return outputs if eqn.primitive.multiple_results else [outputs]

    return run
