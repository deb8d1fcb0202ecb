"""The rules by which the structure of a Jacobian is read, one for each operation.

Each takes an equation with a direction among its operands to a direction, or raises
:class:`NotAChain` with the reason. There are three kinds: an operation scales a direction by a
diagonal, selects entries of it, or multiplies it by a constant matrix, which starts a new factor.
The table ``RULES`` also says for which parameters of an operation its rule is right; another
operation, another parameter or another value of one makes this stretch of the encoder no chain. It
may still be a segment, if all that happens in it is linear in the direction: ``is_linear``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxae import _checks
from jaxae.contraction._chain import (
    Direction,
    Equation,
    Known,
    NotAChain,
    Recorder,
    Value,
    Varying,
)
from jaxae.contraction._products import Linear, identity, selection

# What an equation may have as an operand.
Operand: TypeAlias = Value | Direction


def source_line(eqn: Equation) -> str:
    """Returns the line of the encoder that an equation comes from, for the end of a message."""
    place = source_info_util.summarize(eqn.source_info)
    return f" ({place})" if place and place != "unknown" else ""


def _read_cast(recorder: Recorder, eqn: Equation, operands: list[Operand]) -> Operand:
    """A cast or a copy: the derivative of rounding is 1."""
    return operands[0]


def _read_scaling(recorder: Recorder, eqn: Equation, operands: list[Operand]) -> Operand:
    """A direction times or divided by a value; a change of sign."""
    aval = eqn.outvars[0].aval
    direction, by = _direction_and_scale(recorder, eqn, operands)
    if by.is_zero:
        return Known(jnp.zeros(aval.shape, aval.dtype), is_zero=True)
    dtype = _checks.wide(aval.dtype)  # a product of two derivatives may be small in float16

    def entries(value: Array) -> Array:
        return jnp.broadcast_to(value.astype(dtype), aval.shape)

    diagonal = recorder.call(entries, by)
    if direction.diagonal is not None:
        diagonal = recorder.call(_in_wide_dtype(jnp.multiply), direction.diagonal, diagonal)
    return replace(direction, diagonal=diagonal)


def _direction_and_scale(
    recorder: Recorder, eqn: Equation, operands: list[Operand]
) -> tuple[Direction, Value]:
    """Returns the direction among the operands, and the value that multiplies it."""
    match eqn.primitive.name, operands:
        case "neg", [Direction() as direction]:
            return direction, Known(jnp.asarray(-1, eqn.outvars[0].aval.dtype))
        case "div", [Direction() as direction, (Known() | Varying()) as by]:
            return direction, recorder.call(_reciprocal, by)
        case "mul", [Direction() as direction, (Known() | Varying()) as by]:
            return direction, by
        case "mul", [(Known() | Varying()) as by, Direction() as direction]:
            return direction, by
    name = eqn.primitive.name
    raise NotAChain(f"{name} is not linear in the direction{source_line(eqn)}")


def _read_sum(recorder: Recorder, eqn: Equation, operands: list[Operand]) -> Operand:
    """A sum or difference of directions along one path; one of them may be 0."""
    is_difference = eqn.primitive.name == "sub"
    a, b = operands
    if _is_zero(b) or (_is_zero(a) and not is_difference):
        return a if _is_zero(b) else b
    # Along one path D a + E a = (D + E) a: only the diagonals are added.
    direction = _require_one_path(eqn, operands)
    diagonals = [_diagonal(value, eqn.outvars[0].aval) for value in operands]
    combine = _in_wide_dtype(jnp.subtract if is_difference else jnp.add)
    return replace(direction, diagonal=recorder.call(combine, *diagonals))


def _read_choice(recorder: Recorder, eqn: Equation, operands: list[Operand]) -> Operand:
    """A choice, entry by entry, between directions along one path."""
    which, *cases = operands
    if isinstance(which, Direction):
        raise NotAChain(f"a choice that depends on the direction{source_line(eqn)}")
    direction = _require_one_path(eqn, cases)
    diagonals = [_diagonal(value, eqn.outvars[0].aval) for value in cases]

    def select(which: Array, *arrays: Array) -> Array:
        return _in_wide_dtype(partial(jax.lax.select_n, which))(*arrays)

    return replace(direction, diagonal=recorder.call(select, which, *diagonals))


def _read_selection(recorder: Recorder, eqn: Equation, operands: list[Operand]) -> Operand:
    """A selection of entries: every output is one of the inputs, or 0."""
    name, (direction, *others) = eqn.primitive.name, operands
    if not isinstance(direction, Direction) or not all(map(_is_zero, others)):
        raise NotAChain(f"{name} mixes a direction with something else{source_line(eqn)}")
    inputs, outputs = direction.selection.outputs, eqn.outvars[0].aval.shape
    same_size = math.prod(inputs) == math.prod(outputs)
    reshapes = same_size and _keeps_order(eqn)
    # What keeps the number and the order of the entries is a reshape, whatever it is called.
    apply = (lambda v: v.reshape(outputs)) if reshapes else _as_map_of_operand(eqn, 0, operands)
    # All but these two use every entry at most once; these do too if no entry is added.
    injective = same_size or name not in ("broadcast_in_dim", "tile")
    if name == "pad":  # the zeros around become zeros of the diagonal
        ones = _diagonal(direction, eqn.invars[0].aval)
        direction = replace(direction, diagonal=ones)
    next_selection = selection(apply, inputs, outputs, injective=injective, reshapes=reshapes)
    return _select_entries(recorder, direction, next_selection, (name, str(eqn.params)))


def _select_entries(
    recorder: Recorder, direction: Direction, selection: Linear, step: tuple[Hashable, ...]
) -> Direction:
    """Returns ``direction`` with ``selection`` applied to it; ``step`` names it in the path."""
    whole = direction.selection.then(selection)
    path = (*direction.path, selection.outputs if selection.reshapes else step)
    if whole.reshapes:  # of several only the last one matters
        path = () if selection.outputs == direction.linear.outputs else (selection.outputs,)
    # P D a = (P D P^T) P a: the entries of the diagonal are selected as those of a are.
    diagonal = direction.diagonal and recorder.call(selection.apply, direction.diagonal)
    return replace(direction, selection=whole, path=path, diagonal=diagonal)


def broadcast(recorder: Recorder, value: Operand, shape: tuple[int, ...]) -> Operand:
    """Returns an operand of elementwise arithmetic in the shape of the result."""
    if not isinstance(value, Direction) or value.selection.outputs == shape:
        return value
    copies = selection(lambda v: jnp.broadcast_to(v, shape), value.selection.outputs, shape)
    return _select_entries(recorder, value, copies, ("broadcast", shape))


def _read_concatenation(recorder: Recorder, eqn: Equation, operands: list[Operand]) -> Operand:
    """Directions from one map, and zeros, side by side."""
    axis, avals = eqn.params["dimension"], [atom.aval for atom in eqn.invars]
    directions = [value for value in operands if isinstance(value, Direction)]
    linear = directions[0].linear
    if not all(_is_zero(v) for v in operands if not isinstance(v, Direction)) or any(
        direction.linear is not linear for direction in directions
    ):
        raise NotAChain(f"concatenate joins two paths{source_line(eqn)}")

    def apply(v: Array) -> Array:
        pieces = [
            value.selection.apply(v)
            if isinstance(value, Direction)
            else jnp.zeros(aval.shape, v.dtype)
            for value, aval in zip(operands, avals, strict=True)
        ]
        return jax.lax.concatenate(pieces, axis)

    # Two directions may select the same entry.
    injective = len(directions) == 1 and directions[0].selection.injective
    outputs = eqn.outvars[0].aval.shape
    pieces_side_by_side = selection(apply, linear.outputs, outputs, injective=injective)
    parts = [
        value.path if isinstance(value, Direction) else aval.shape
        for value, aval in zip(operands, avals, strict=True)
    ]
    diagonals = [_diagonal(value, aval) for value, aval in zip(operands, avals, strict=True)]
    join = _in_wide_dtype(lambda *arrays: jax.lax.concatenate(arrays, axis))
    return replace(
        directions[0],
        selection=pieces_side_by_side,
        path=(("concatenate", axis, *map(str, parts)),),
        diagonal=recorder.call(join, *diagonals),
    )


def _read_map(recorder: Recorder, eqn: Equation, operands: list[Operand]) -> Operand:
    """A constant linear map: a dense layer, a convolution, a sum. It starts a new factor.

    Only for operations whose matrix has single weights, 1 or 0 as entries: the norm needs the
    squared entries, and takes the operation with squared weights for that.
    """
    name, outputs = eqn.primitive.name, eqn.outvars[0].aval.shape
    selects = name in _INDEXED  # a gather selects entries, but may repeat and leave out any
    places = [i for i, value in enumerate(operands) if isinstance(value, Direction)]
    others = [value for value in operands if not isinstance(value, Direction)]
    if len(places) > 1 or (name != "dot_general" and places != [0]):
        raise NotAChain(f"{name} of two directions, or by one{source_line(eqn)}")
    if not all(isinstance(value, Known) for value in others):
        raise NotAChain(f"{name} with a weight that depends on the example{source_line(eqn)}")
    (place,) = places
    direction = operands[place]
    assert isinstance(direction, Direction)
    inputs = direction.selection.outputs
    apply = _as_map_of_operand(eqn, place, operands)
    linear = Linear(
        apply,
        inputs,
        outputs,
        flops_of(eqn, math.prod(inputs), math.prod(outputs)),
        map_of_squared_entries=_as_map_of_operand(eqn, place, operands, squares_weights=True),
        selects=selects,
        injective=name == "dynamic_slice",
    )
    if name == "dot_general":
        linear = _add_matrix(linear, eqn, place, operands)
    factors, rest = direction.factors_and_rest()
    # The matrix of a factor includes the entries that were selected before it.
    return Direction(factors, rest.then(linear), identity(outputs), (), None)


def _is_zero(value: Operand) -> bool:
    return not isinstance(value, Direction) and value.is_zero


def _require_one_path(eqn: Equation, operands: list[Operand]) -> Direction:
    """Returns the first direction; all must select the same entries of the same map.

    Raises:
      NotAChain: if one does not, or if an operand that is no direction is not zero.
    """
    directions = [value for value in operands if isinstance(value, Direction)]
    first = directions[0]
    if any(d.linear is not first.linear or d.path != first.path for d in directions):
        raise NotAChain(f"{eqn.primitive.name} joins two paths{source_line(eqn)}")
    if not all(_is_zero(value) for value in operands if not isinstance(value, Direction)):
        raise NotAChain(f"{eqn.primitive.name} is not linear in the direction{source_line(eqn)}")
    return first


def _diagonal(value: Operand, aval: jax.core.ShapedArray) -> Value:
    """Returns the diagonal of an operand as a value; 0 where it is no direction."""
    if not isinstance(value, Direction):
        return Known(jnp.zeros(aval.shape, aval.dtype), is_zero=True)
    return value.diagonal or Known(jnp.ones(aval.shape, aval.dtype))


def _in_wide_dtype(function: Callable[..., Array]) -> Callable[..., Array]:
    """Returns ``function`` on arrays of the widest dtype among them, at least float32."""

    def function_in_wide_dtype(*arrays: Array) -> Array:
        dtype = _checks.wide(*(a.dtype for a in arrays))
        return function(*(a.astype(dtype) for a in arrays))

    return function_in_wide_dtype


def _reciprocal(value: Array) -> Array:
    return jnp.reciprocal(value.astype(_checks.wide(value.dtype)))


def _keeps_order(eqn: Equation) -> bool:
    """Returns whether the entries of the result are those of the operand in the same order."""
    name, params = eqn.primitive.name, eqn.params
    if name == "broadcast_in_dim":  # JAX lets it permute axes as well
        return list(params["broadcast_dimensions"]) == sorted(params["broadcast_dimensions"])
    return name == "squeeze" or (name == "reshape" and params["dimensions"] is None)


# The operands of these after the first are indices; of all other maps they are weights, or the
# zeros of a padding. That is known from the operation alone: weights may be integers.
_INDEXED = ("gather", "dynamic_slice")


def _as_map_of_operand(
    eqn: Equation, place: int, operands: Sequence[Operand], *, squares_weights: bool = False
) -> Callable[[Array], Array]:
    """Returns an equation as a function of one operand, in the dtype it is given.

    With ``squares_weights`` it is the map whose matrix has the squared entries: every entry of the
    matrix of a convolution, for example, is one weight or 0.
    """

    def apply(v: Array) -> Array:
        arrays = [
            v if i == place else value.array  # type: ignore[union-attr]
            for i, value in enumerate(operands)
        ]
        for i, array in enumerate(arrays):
            if i != place and eqn.primitive.name not in _INDEXED:
                weights = array.astype(v.dtype)
                arrays[i] = jnp.square(weights) if squares_weights else weights
        params = dict(eqn.params)
        # The trace may have fixed the dtype of the result; here it follows that of ``v``.
        if params.get("preferred_element_type") is not None:
            params["preferred_element_type"] = v.dtype
        # An algorithm is for one dtype, and ``v`` may have another.
        if not _is_precision(params.get("precision"), params):
            params["precision"] = jax.lax.Precision.HIGHEST
        return eqn.primitive.bind(*arrays, **params)

    return apply


def _add_matrix(linear: Linear, eqn: Equation, place: int, operands: Sequence[Operand]) -> Linear:
    """Returns ``linear`` with its matrix, if a ``dot_general`` contracts the whole direction.

    Otherwise (a dense layer on the last axis of an image) the matrix would be block diagonal, with
    the weights in it many times over, and the map stays one that is applied.
    """
    contracting, batch = eqn.params["dimension_numbers"]
    mine, others = contracting[place], contracting[1 - place]
    if batch[0] or len(mine) != eqn.invars[place].aval.ndim:
        return linear
    operand = operands[1 - place]
    assert isinstance(operand, Known)
    weight = operand.array
    free = [axis for axis in range(weight.ndim) if axis not in others]
    # The axes of the weight: first those of the output, then the input's in the input's order.
    order = (*free, *(others[mine.index(axis)] for axis in range(len(mine))))
    shape = eqn.outvars[0].aval.size, eqn.invars[place].aval.size

    def matrix() -> Array:
        return jnp.transpose(weight, order).reshape(shape)

    def row_norms(dtype: DTypeLike) -> Array:
        # From the weight as it lies in memory: transposing a Flax kernel first would copy it.
        return jnp.sum(jnp.square(weight.astype(dtype)), others).reshape(-1)

    return linear._replace(matrix=matrix, row_norms=row_norms)


def flops_of(eqn: Equation, inputs: int, outputs: int) -> float:
    """Returns the floating point operations of one application of a linear map."""
    # A sum of n products has n multiplications and about as many additions, hence the 2.
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracting, _), shape = params["dimension_numbers"][0], eqn.invars[0].aval.shape
        return 2.0 * outputs * math.prod(shape[axis] for axis in contracting)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        # Every output is a sum over the kernel of its own channel.
        return 2.0 * outputs * kernel.size / kernel.shape[params["dimension_numbers"].rhs_spec[0]]
    if name == "reduce_window_sum":
        return 1.0 * outputs * math.prod(params["window_dimensions"])
    return float(inputs)


# Whether a rule is right for a value of a parameter, given all parameters of the operation.
_Understands: TypeAlias = Callable[[Any, dict[str, Any]], bool]


def _any(value: object, params: dict[str, Any]) -> bool:
    return True


def _none(value: object, params: dict[str, Any]) -> bool:
    return value is None


def _is_precision(value: object, params: dict[str, Any]) -> bool:
    """Whether it is a precision, or one for each operand."""
    each = value if isinstance(value, tuple) else (value,)
    return all(one is None or isinstance(one, jax.lax.Precision) for one in each)


def _is_precision_or_algorithm(value: object, params: dict[str, Any]) -> bool:
    """Whether it says how a product is rounded."""
    algorithms = jax.lax.DotAlgorithm, jax.lax.DotAlgorithmPreset
    return isinstance(value, algorithms) or _is_precision(value, params)


def _is_linear_gather_mode(value: object, params: dict[str, Any]) -> bool:
    """Whether the gather is linear, and one that JAX can transpose: what is filled in must be 0."""
    mode = jax.lax.GatherScatterMode
    if value == mode.FILL_OR_DROP:
        fill = params["fill_value"]
        return fill is not None and bool(fill == 0)
    return value in (mode.CLIP, mode.PROMISE_IN_BOUNDS)


class Rule(NamedTuple):
    """How an operation acts on a direction, and the parameters for which that is right."""

    read: Callable[[Recorder, Equation, list[Operand]], Operand]
    parameters: dict[str, _Understands]


def _rule(
    read: Callable[[Recorder, Equation, list[Operand]], Operand], **parameters: _Understands
) -> Rule:
    """Returns a rule, with its parameters written as keywords."""
    return Rule(read, parameters)


# To add an operation: here, with the function that reads it; in ``_LINEAR_IN_...`` below; a map
# also in ``flops_of``, and in ``_INDEXED`` if its operands are indices; arithmetic that stretches
# axes in ``_ELEMENTWISE`` of ``_trace``; in ``_column_sums``, if it keeps entries or moves them.
# A test (``test_primitives.py``) has a use of each.
#
# Every operation that may act on a direction, with all parameters that JAX may give it. A parameter
# that is not listed, or a value that is not understood, is no part of a chain. Left out on purpose:
# ``reduce_precision``, which rounds derivatives forwards and does not do so backwards.
RULES = {
    "convert_element_type": _rule(_read_cast, new_dtype=_any, weak_type=_any, sharding=_none),
    "copy": _rule(_read_cast),
    "mul": _rule(_read_scaling, out_dtype=_any),
    "div": _rule(_read_scaling),
    "neg": _rule(_read_scaling),
    "add": _rule(_read_sum),
    "add_any": _rule(_read_sum),
    "sub": _rule(_read_sum),
    "select_n": _rule(_read_choice),
    "concatenate": _rule(_read_concatenation, dimension=_any),
    # Selections of entries.
    "reshape": _rule(_read_selection, new_sizes=_any, dimensions=_any, sharding=_none),
    "squeeze": _rule(_read_selection, dimensions=_any),
    "broadcast_in_dim": _rule(
        _read_selection, shape=_any, broadcast_dimensions=_any, sharding=_none
    ),
    "transpose": _rule(_read_selection, permutation=_any),
    "slice": _rule(_read_selection, start_indices=_any, limit_indices=_any, strides=_any),
    "rev": _rule(_read_selection, dimensions=_any),
    "pad": _rule(_read_selection, padding_config=_any),
    "tile": _rule(_read_selection, reps=_any),
    # Constant matrices; from ``reduce_sum`` on their entries are 0 and 1.
    "dot_general": _rule(
        _read_map,
        dimension_numbers=_any,
        precision=_is_precision_or_algorithm,
        preferred_element_type=_any,
        out_sharding=_none,
    ),
    "conv_general_dilated": _rule(
        _read_map,
        dimension_numbers=_any,
        window_strides=_any,
        padding=_any,
        lhs_dilation=_any,
        rhs_dilation=_any,
        feature_group_count=_any,
        batch_group_count=_any,
        precision=_is_precision,
        preferred_element_type=_any,
        out_sharding=_none,
    ),
    "reduce_sum": _rule(_read_map, axes=_any, out_sharding=_none),
    "cumsum": _rule(_read_map, axis=_any, reverse=_any),
    "reduce_window_sum": _rule(
        _read_map,
        window_dimensions=_any,
        window_strides=_any,
        padding=_any,
        base_dilation=_any,
        window_dilation=_any,
    ),
    "gather": _rule(
        _read_map,
        dimension_numbers=_any,
        slice_sizes=_any,
        indices_are_sorted=_any,
        unique_indices=_any,
        mode=_is_linear_gather_mode,
        fill_value=_any,
    ),
    "dynamic_slice": _rule(_read_map, slice_sizes=_any),
}
MAPS = [name for name, rule in RULES.items() if rule.read is _read_map]


def check_rule(eqn: Equation, rule: Rule) -> None:
    """Raises :class:`NotAChain` where the rule of an operation may be wrong for this equation."""
    for name, value in eqn.params.items():
        if name not in rule.parameters or not rule.parameters[name](value, eqn.params):
            raise NotAChain(f"{eqn.primitive.name} with {name}={value}{source_line(eqn)}")
    dtypes = [atom.aval.dtype for atom in (*eqn.invars, *eqn.outvars)]
    is_complex = any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)
    if is_complex or not jnp.issubdtype(dtypes[-1], jnp.floating):
        raise NotAChain(f"{eqn.primitive.name} of numbers that are not real{source_line(eqn)}")


# Operations that are linear in their first operand, or in whatever operand is the direction.
_LINEAR_IN_THE_FIRST = (
    *("convert_element_type", "copy", "neg", "reshape", "squeeze", "broadcast_in_dim", "transpose"),
    *("slice", "rev", "tile", "split", "reduce_sum", "cumsum", "reduce_window_sum", "div"),
    *("gather", "dynamic_slice", "select_and_gather_add"),
)
_LINEAR_IN_EACH = ("mul", "dot_general", "conv_general_dilated")
_LINEAR_IN_ALL = ("add", "add_any", "sub", "concatenate", "pad")


def is_linear(eqn: Equation, operands: Sequence[Value | None]) -> bool:
    """Returns whether an operation is known to be linear in the direction.

    A derivative rule of a user may do anything with it. The operation need not be understood any
    further: in a segment it is run as it stands in the trace.

    Args:
      eqn: an equation on the way of the direction.
      operands: its operands, None where they depend on the direction.
    """
    name = eqn.primitive.name
    places = [i for i, value in enumerate(operands) if value is None]
    dtypes = [atom.aval.dtype for atom in (*eqn.outvars, *(eqn.invars[i] for i in places))]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        return False
    if name == "gather" and not _is_linear_gather_mode(eqn.params["mode"], eqn.params):
        return False
    return (
        (name in _LINEAR_IN_THE_FIRST and places == [0])
        or (name in _LINEAR_IN_EACH and len(places) == 1)
        or (name in _LINEAR_IN_ALL and _all_zero(operands))
        or (name == "select_n" and operands[0] is not None and _all_zero(operands[1:]))
    )


def _all_zero(operands: Sequence[Value | None]) -> bool:
    """Returns whether all operands that do not depend on the direction are zero."""
    return all(value is None or value.is_zero for value in operands)
