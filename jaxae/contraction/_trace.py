r"""The structure of an encoder's Jacobian, read from its trace.

An encoder of affine maps and elementwise functions has the Jacobian

.. math:: J(x) = D_L W_L D_{L-1} \cdots D_1 W_1

with constant matrices W and diagonals D that depend on the example. It is read from the trace of
``jax.jvp(encode, (x,), (t,))``: every operation on the direction t is linear, so that a handful of
rules decides whether it multiplies by a constant W or by a diagonal D, and what JAX does with x on
the way need not be understood at all. Anything else on the way of t (two different paths that
meet, a product of two values that depend on x, a loop) raises :class:`NotAChain`: then the full
Jacobian is taken instead. The mathematics is in ``docs/contraction.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import Array

from jaxae.contraction._chain import (
    Chain,
    Direction,
    Equation,
    Factor,
    Known,
    NotAChain,
    Recorder,
)
from jaxae.contraction._products import Linear, identity
from jaxae.contraction._rules import RULES, Operand, broadcast, check_rule, source_line


def read_chain(encode: Callable[[Array], Array], example: jax.ShapeDtypeStruct) -> Chain:
    """Returns the factors of the Jacobian of ``encode``, and the steps to their diagonals.

    Raises:
      NotAChain: if the Jacobian is no product of constant matrices and diagonals.
    """

    def code_and_derivative(x_i: Array, t: Array) -> tuple[Array, Array]:
        return jax.jvp(encode, (x_i,), (t,))

    trace = jax.make_jaxpr(code_and_derivative)(example, example)
    code_shape = trace.jaxpr.outvars[0].aval.shape
    reader = Reader()
    start = Direction((), identity(example.shape), identity(example.shape), (), None)
    code, direction = reader.read_jaxpr(trace.jaxpr, trace.consts, [reader.new_varying(), start])
    assert not isinstance(code, Direction)  # the code of jvp does not depend on t
    if not isinstance(direction, Direction):
        # J t without t: right only if it is 0, else a custom derivative rule is not linear.
        if not direction.is_zero:
            raise NotAChain("a derivative rule ignores the direction")
        return Chain(reader.steps, code, (Factor(_zero_map(example.shape, code_shape), None),))
    factors, rest = direction.factors_and_rest()
    # A reshape at the end changes no norm; any other selection leaves out or repeats entries.
    if not rest.reshapes or not factors:
        factors = (*factors, Factor(rest, None))
    return Chain(reader.steps, code, factors)


def _zero_map(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Linear:
    """Returns the linear map that is 0 everywhere."""

    def zeros(v: Array) -> Array:
        return jnp.zeros(outputs, v.dtype)

    return Linear(zeros, inputs, outputs, 0.0, squared_map=zeros)


class Reader(Recorder):
    """Walks a trace, and turns each equation into a recorded step or, along t, into a direction."""

    def __init__(self) -> None:
        super().__init__()
        # Equal equations of equal operands give one object: two paths of which each computes, for
        # example, its own W t share one map then, and can be added. Operands are kept beside the
        # outputs, because the key has only their ids, which Python gives anew once they are gone.
        self.cache: dict[Hashable, tuple[list[Operand], list[Operand]]] = {}
        self.literals: dict[Hashable, Known] = {}

    def read_jaxpr(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Any], operands: Sequence[Operand]
    ) -> list[Operand]:
        """Returns the outputs of a jaxpr on values and directions."""
        values: dict[jex.Var, Operand] = {
            v: Known(jnp.asarray(c)) for v, c in zip(jaxpr.constvars, consts, strict=True)
        }
        values |= dict(zip(jaxpr.invars, operands, strict=True))

        def look_up(atom: jex.Literal | jex.Var) -> Operand:
            return self._literal(atom) if isinstance(atom, jex.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            outputs = self._cached_outputs(eqn, [look_up(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

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
        if name in _CALLS:
            inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
            if isinstance(inner, jex.ClosedJaxpr):
                return self.read_jaxpr(inner.jaxpr, inner.consts, operands)
            return self.read_jaxpr(inner, (), operands)
        if name not in RULES:
            raise NotAChain(f"{name} is no map or scaling that is known{source_line(eqn)}")
        check_rule(eqn, RULES[name])
        if name in _ELEMENTWISE:
            # In a trace an operand may have length 1 where the result is longer.
            operands = [broadcast(self, v, eqn.outvars[0].aval.shape) for v in operands]
        return [RULES[name].read(self, eqn, operands)]


# Arithmetic that stretches axes of length 1.
_ELEMENTWISE = ("mul", "div", "add", "add_any", "sub")
# Calls whose body is read as if it stood in the trace. Calls with a derivative rule of their own
# (``jax.custom_jvp``) are not among them: ``jax.jvp`` has replaced those by their rule.
_CALLS = ("jit", "closed_call", "remat2")
# Operations that give 0 of 0, whatever their parameters are.
_KEEP_ZERO = ("broadcast_in_dim", "reshape", "convert_element_type", "neg", "copy", "squeeze")


def _as_function(eqn: Equation) -> Callable[..., Sequence[Array]]:
    """Returns a function of arrays that runs an equation."""

    def run(*arrays: Array) -> Sequence[Array]:
        outputs = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
        return outputs if eqn.primitive.multiple_results else [outputs]

    return run
