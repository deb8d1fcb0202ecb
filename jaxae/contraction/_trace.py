r"""The structure of an encoder's Jacobian, read from its trace.

An encoder of affine maps and elementwise functions has the Jacobian

.. math:: J(x) = D_L W_L D_{L-1} \cdots D_1 W_1

with constant matrices W and diagonals D that depend on the example. It is read from the trace of
``jax.jvp(encode, (x,), (t,))``: every operation on the direction t is linear, so that a handful of
rules decides whether it multiplies by a constant W or by a diagonal D, and what JAX does with x on
the way need not be understood at all. Anything else on the way of t (two different paths that
meet, a product of two values that depend on x, a loop) raises :class:`NotAChain`: then the full
Jacobian is taken instead.
"""

from collections.abc import Callable, Sequence
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
from jaxae.contraction._rules import RULES, check_rule, place_of, spread


def read(encode: Callable[[Array], Array], example: jax.ShapeDtypeStruct) -> Chain:
    """Returns the structure of ``encode``; raises :class:`NotAChain` where there is none."""
    along = lambda x_i, t: jax.jvp(encode, (x_i,), (t,))
    trace = jax.make_jaxpr(along)(example, example)
    code_shape = trace.jaxpr.outvars[0].aval.shape
    reader = Reader()
    start = Direction((), identity(example.shape), identity(example.shape), (), None)
    code, direction = reader.inline(trace.jaxpr, trace.consts, [reader.varying(), start])
    if not isinstance(direction, Direction):
        if not direction.is_zero:
            raise NotAChain("a derivative rule ignores the direction")
        nothing = lambda v: jnp.zeros(code_shape, v.dtype)
        zero = Linear(nothing, example.shape, code_shape, 0.0, squared=nothing)
        return Chain(reader.steps, code, (Factor(zero, None),))
    factors, rest = direction.closed()
    if not rest.reshapes or not factors:
        factors = (*factors, Factor(rest, None))
    return Chain(reader.steps, code, factors)


class Reader(Recorder):
    """Walks a trace, and turns each equation into a recorded step or, along t, into a direction."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Any, Any] = {}
        self.literals: dict[Any, Known] = {}

    def inline(self, jaxpr: jex.Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        """Returns the outputs of a jaxpr on values and directions."""
        values = {v: Known(jnp.asarray(c)) for v, c in zip(jaxpr.constvars, consts, strict=True)}
        values |= dict(zip(jaxpr.invars, operands, strict=True))
        look_up = lambda a: self._literal(a) if isinstance(a, jex.Literal) else values[a]
        for eqn in jaxpr.eqns:
            outputs = self._once(eqn, [look_up(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def _literal(self, literal: Any) -> Known:
        array = np.asarray(literal.val, literal.aval.dtype)
        key = (array.tobytes(), array.dtype, array.shape)
        if key not in self.literals:
            self.literals[key] = Known(jnp.asarray(array), bool(np.all(array == 0)))
        return self.literals[key]

    def _once(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        """Returns the outputs of an equation; an equal one gives the same objects."""
        key: Any = (eqn.primitive, *map(id, operands), *sorted(eqn.params.items(), key=str))
        try:
            hash(key)
        except TypeError:
            key = None
        if key is None or eqn.effects:
            return self._outputs(eqn, operands)
        if key not in self.seen:
            self.seen[key] = operands, self._outputs(eqn, operands)  # operands keep their ids
        return self.seen[key][1]

    def _outputs(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if not any(isinstance(value, Direction) for value in operands):
            is_zero = name in _KEEP_ZERO and operands[0].is_zero
            is_zero |= name == "mul" and any(value.is_zero for value in operands)
            return self.record(_binder(eqn), operands, [is_zero] * len(eqn.outvars))
        if name in _CALLS:
            inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
            closed = isinstance(inner, jex.ClosedJaxpr)
            return self.inline(
                inner.jaxpr if closed else inner, inner.consts if closed else (), operands
            )
        if name not in RULES:
            raise NotAChain(f"{name} is no map or scaling that is known{place_of(eqn)}")
        check_rule(eqn, RULES[name])
        if name in _ELEMENTWISE:
            operands = [spread(self, v, eqn.outvars[0].aval.shape) for v in operands]
        return [RULES[name].read(self, eqn, operands)]


# Arithmetic that stretches axes of length 1.
_ELEMENTWISE = ("mul", "div", "add", "add_any", "sub")
# Calls that are read through; their zeros stay zeros.
_CALLS = ("jit", "closed_call", "remat2")
_KEEP_ZERO = ("broadcast_in_dim", "reshape", "convert_element_type", "neg", "copy", "squeeze")


def _binder(eqn: Equation) -> Callable[..., Sequence[Array]]:
    """Returns a function of arrays that runs an equation."""

    def run(*arrays: Array) -> Sequence[Array]:
        outputs = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
        return outputs if eqn.primitive.multiple_results else [outputs]

    return run
