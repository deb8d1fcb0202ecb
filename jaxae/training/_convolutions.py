"""Convolutions as the compiler for CPUs has fast kernels for them, also inside loops.

XLA's compiler for CPUs has a fast kernel for a convolution whose axes are in one order: batch,
space, features. It puts the axes of others into that order, such as those of a derivative, but not
inside a loop; there they get a plain loop nest, which takes about ten times as long. A run is a
loop over steps, so the axes are put in order here.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
from jax.extend import core as jex
from jaxtyping import Array


def reorder_convolutions(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr | None:
    """Returns the trace with the axes of all convolutions in order, or None if nothing changes."""
    jaxpr = _reordered(closed.jaxpr)
    return None if jaxpr is closed.jaxpr else closed.replace(jaxpr=jaxpr)


def _reordered(jaxpr: jex.Jaxpr) -> jex.Jaxpr:
    """Returns the trace with ordered convolutions, or the very same if it has none to order."""
    equations = [_reordered_equation(equation) for equation in jaxpr.eqns]
    is_same = all(map(operator.is_, equations, jaxpr.eqns))
    return jaxpr if is_same else jaxpr.replace(eqns=equations)


def _reordered_equation(equation: jex.JaxprEqn) -> jex.JaxprEqn:
    """Returns an equation with all convolutions in it in order: loops and calls have traces."""
    if equation.primitive.name == "conv_general_dilated":
        return _ordered_convolution(equation)
    params = {name: _reordered_parameter(value) for name, value in equation.params.items()}
    is_same = all(params[name] is value for name, value in equation.params.items())
    return equation if is_same else equation.replace(params=params)


def _reordered_parameter(value: object) -> object:
    """Returns a parameter with the traces in it reordered; the branches of a choice are a tuple."""
    if isinstance(value, jex.ClosedJaxpr):
        return reorder_convolutions(value) or value
    if isinstance(value, jex.Jaxpr):
        return _reordered(value)
    if type(value) is tuple:
        parts = tuple(map(_reordered_parameter, value))
        return value if all(map(operator.is_, parts, value)) else parts
    return value


def _ordered_convolution(equation: jex.JaxprEqn) -> jex.JaxprEqn:
    """Returns a call of the same convolution, with transpositions before and after it."""
    given = equation.params["dimension_numbers"]
    axes = range(len(given.lhs_spec))
    batch, features, *space = given.lhs_spec
    inputs = (batch, *space, features)
    output_features, input_features, *space = given.rhs_spec
    kernel = (*space, input_features, output_features)
    batch, features, *space = given.out_spec
    outputs = (batch, *space, features)
    if inputs == kernel == outputs == tuple(axes):
        return equation
    first, *middle, last = axes
    ordered = jax.lax.ConvDimensionNumbers(
        (first, last, *middle), (last, last - 1, *axes[:-2]), (first, last, *middle)
    )
    params = {**equation.params, "dimension_numbers": ordered}

    def convolve(x: Array, weights: Array) -> Array:
        x, weights = x.transpose(inputs), weights.transpose(kernel)
        result = equation.primitive.bind(x, weights, **params)
        return result.transpose([outputs.index(axis) for axis in axes])

    # A call takes the place of the equation: it has the variables that the trace around it knows.
    operands: list[Any] = [variable.aval for variable in equation.invars]
    shapes = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in operands]
    (call,) = jax.make_jaxpr(jax.jit(convolve))(*shapes).eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)
