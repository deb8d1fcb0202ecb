"""Convolutions as the compiler for CPUs has fast kernels for them, also inside loops.

XLA's compiler for CPUs has a fast kernel for a convolution whose axes are in one order: batch,
space, features. It puts the axes of others into that order, such as those of a derivative, but not
inside a loop; there they get a plain loop nest on one thread, which takes about ten times as long.
So the axes are put in order here, in two ways. :func:`reorder_convolutions` does it in a whole
program, for a run, which is a loop over steps. :func:`with_ordered_convolutions` does it in a
function of which others will take derivatives inside of a loop: a convolution becomes an operation
of its own, of which the derivatives are again such operations.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jaxae._checks import AnyArray

_CONVOLUTION = "conv_general_dilated"


def reorder_convolutions(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr | None:
    """Returns the trace with the axes of all convolutions in order, or None if nothing changes."""
    jaxpr = replace_operations(closed.jaxpr, _CONVOLUTION, _ordered_call)
    return None if jaxpr is closed.jaxpr else closed.replace(jaxpr=jaxpr)


def with_ordered_convolutions(function: Callable[..., Array]) -> Callable[..., Array]:
    """Returns ``function``, of arrays to one array, with its convolutions in order.

    Those of its derivatives and of its batches are in order too.
    """

    def ordered(*arrays: AnyArray) -> Array:
        closed = jax.make_jaxpr(function)(*arrays)
        jaxpr = replace_operations(closed.jaxpr, _CONVOLUTION, _ordered_equation)
        return jex.jaxpr_as_fun(closed.replace(jaxpr=jaxpr))(*arrays)[0]

    return ordered


def has_convolutions(jaxpr: jex.Jaxpr) -> bool:
    """Returns whether there is a convolution in a trace."""
    return replace_operations(jaxpr, _CONVOLUTION, _ordered_equation) is not jaxpr


def replace_operations(
    jaxpr: jex.Jaxpr, name: str, replace: Callable[[jex.JaxprEqn], jex.JaxprEqn]
) -> jex.Jaxpr:
    """Returns the trace with other equations, or the very same if none is replaced.

    Args:
      jaxpr: a trace.
      name: of the operation of the equations to replace.
      replace: from such an equation to another one, or to the very same.
    """

    def in_equation(equation: jex.JaxprEqn) -> jex.JaxprEqn:
        """Returns an equation with those in it replaced: loops and calls have traces."""
        if equation.primitive.name == name:
            return replace(equation)
        params = {key: in_parameter(value) for key, value in equation.params.items()}
        is_same = all(params[key] is value for key, value in equation.params.items())
        return equation if is_same else equation.replace(params=params)

    def in_parameter(value: object) -> object:
        """Returns a parameter with other traces; the branches of a choice are a tuple."""
        if isinstance(value, jex.Jaxpr):  # since JAX 0.12 a closed one is of this class too
            return replace_operations(value, name, replace)
        if isinstance(value, jex.ClosedJaxpr):
            inner = in_parameter(value.jaxpr)
            return value if inner is value.jaxpr else value.replace(jaxpr=inner)
        if type(value) is tuple:
            parts = tuple(map(in_parameter, value))
            return value if all(map(operator.is_, parts, value)) else parts
        return value

    equations = [in_equation(equation) for equation in jaxpr.eqns]
    is_same = all(map(operator.is_, equations, jaxpr.eqns))
    return jaxpr if is_same else jaxpr.replace(eqns=equations)


def _convolve_in_order(x: AnyArray, weights: AnyArray, **params: Any) -> Array:
    """Returns a convolution of any order of axes, with transpositions before and after it."""
    given = params["dimension_numbers"]
    axes = range(len(given.lhs_spec))
    batch, features, *space = given.lhs_spec
    inputs = (batch, *space, features)
    output_features, input_features, *space = given.rhs_spec
    kernel = (*space, input_features, output_features)
    batch, features, *space = given.out_spec
    outputs = (batch, *space, features)
    first, *middle, last = axes
    ordered = jax.lax.ConvDimensionNumbers(
        (first, last, *middle), (last, last - 1, *axes[:-2]), (first, last, *middle)
    )
    x, weights = x.transpose(inputs), weights.transpose(kernel)
    params["dimension_numbers"] = ordered
    result = jax.lax.conv_general_dilated_p.bind(x, weights, **params)
    return result.transpose([outputs.index(axis) for axis in axes])


def _is_in_order(equation: jex.JaxprEqn) -> bool:
    """Returns whether a convolution has the order of axes that is fast."""
    given = equation.params["dimension_numbers"]
    first, *middle, last = range(len(given.lhs_spec))
    batch_first = (first, last, *middle)
    return given.lhs_spec == given.out_spec == batch_first and given.rhs_spec == (
        last,
        last - 1,
        *range(last - 1),
    )


def _ordered_call(equation: jex.JaxprEqn) -> jex.JaxprEqn:
    """Returns a call of the same convolution in order, or the very same if it is in order."""
    if _is_in_order(equation):
        return equation
    return equation_of_call(partial(_convolve_in_order, **equation.params), equation)


def equation_of_call(function: Callable[..., Array], equation: jex.JaxprEqn) -> jex.JaxprEqn:
    """Returns a call of ``function`` in place of an equation, with the same variables."""
    operands: list[Any] = [variable.aval for variable in equation.invars]
    shapes = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in operands]
    (call,) = jax.make_jaxpr(jax.jit(function))(*shapes).eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)


# ------------------------------------------------------------- the operation with its derivatives

_ordered_convolution = jex.Primitive("ordered_convolution")
_convolution = jax.lax.conv_general_dilated_p


def _ordered_equation(equation: jex.JaxprEqn) -> jex.JaxprEqn:
    """Returns the same convolution as the operation of which the derivatives are in order too."""
    return equation.replace(primitive=_ordered_convolution)


def _transposed_in_x(along: Array, x: Any, weights: AnyArray, **params: Any) -> Array:
    """Returns the derivative in the images: the convolution is linear in them."""
    convolve = partial(_convolution.bind, **params)
    return _transposed(lambda x: convolve(x, weights), x.aval, along)


def _transposed_in_weights(along: Array, x: AnyArray, weights: Any, **params: Any) -> Array:
    """Returns the derivative in the weights: the convolution is linear in them."""
    convolve = partial(_convolution.bind, **params)
    return _transposed(lambda weights: convolve(x, weights), weights.aval, along)


def _transposed(linear: Callable[[Array], Array], aval: Any, along: Array) -> Array:
    """Returns the transposed map of an array, with ordered convolutions."""
    shape = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    transposed = jax.linear_transpose(linear, shape)
    return with_ordered_convolutions(lambda along: transposed(along)[0])(along)


def _of_batch(arrays: Sequence[AnyArray], axes: Sequence[int | None], **params: Any) -> Any:
    """Returns the convolutions of a batch, along the first axis."""
    batched = jax.vmap(partial(_convolution.bind, **params), in_axes=tuple(axes))
    return with_ordered_convolutions(batched)(*arrays), 0


def _shape_of_result(*avals: Any, **params: Any) -> Any:
    return _convolution.abstract_eval(*avals, **params)[0]


_ordered_convolution.def_impl(_convolve_in_order)
_ordered_convolution.def_abstract_eval(_shape_of_result)
ad.defbilinear(_ordered_convolution, _transposed_in_x, _transposed_in_weights)
batching.primitive_batchers[_ordered_convolution] = _of_batch
mlir.register_lowering(
    _ordered_convolution, mlir.lower_fun(_convolve_in_order, multiple_results=False)
)
