"""The rules by which the structure of a Jacobian is read, one for each operation.

Each takes an equation with a direction among its operands to a direction, or says why not. The
table also says for which parameters of an operation its rule is right; another operation, another
parameter or another value of one makes the encoder no chain, and the full Jacobian is taken.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jaxtyping import Array

from jaxae import _checks
from jaxae.contraction._chain import Direction, Equation, Known, NotAChain, Recorder, Value
from jaxae.contraction._products import Linear, identity, selection


def place_of(eqn: Equation) -> str:
    """Returns the line of the encoder that an equation comes from, for the end of a message."""
    place = source_info_util.summarize(eqn.source_info)
    return f" ({place})" if place and place != "unknown" else ""


def _same(recorder: Recorder, eqn: Equation, operands: list[Any]) -> Any:
    """A cast or a copy: the derivative of rounding is 1."""
    return operands[0]


def _scale(recorder: Recorder, eqn: Equation, operands: list[Any]) -> Any:
    """A direction times or divided by a value; a change of sign."""
    name, aval = eqn.primitive.name, eqn.outvars[0].aval
    if name == "neg":
        by: Value = Known(jnp.asarray(-1, aval.dtype))
        (direction,) = operands
    elif name == "div" and not isinstance(operands[1], Direction):
        direction, by = operands[0], recorder.call(_reciprocal, operands[1])
    elif name == "mul" and not all(isinstance(value, Direction) for value in operands):
        direction, by = sorted(operands, key=lambda value: not isinstance(value, Direction))
    else:
        raise NotAChain(f"{name} is not linear in the direction{place_of(eqn)}")
    if by.is_zero:
        return Known(jnp.zeros(aval.shape, aval.dtype), is_zero=True)
    dtype = _checks.wide(aval.dtype)  # a product of two derivatives may be small in float16
    diagonal = recorder.call(lambda value: jnp.broadcast_to(value.astype(dtype), aval.shape), by)
    if direction.diagonal is not None:
        diagonal = recorder.call(_promoting(jnp.multiply), direction.diagonal, diagonal)
    return replace(direction, diagonal=diagonal)


def _sum(recorder: Recorder, eqn: Equation, operands: list[Any]) -> Any:
    """A sum or difference of directions along one path; one of them may be 0."""
    is_difference = eqn.primitive.name == "sub"
    a, b = operands
    if _is_zero(b) or (_is_zero(a) and not is_difference):
        return a if _is_zero(b) else b
    direction = _one_path(eqn, operands)
    diagonals = [_diagonal(value, eqn.outvars[0].aval) for value in operands]
    combine = _promoting(jnp.subtract if is_difference else jnp.add)
    return replace(direction, diagonal=recorder.call(combine, *diagonals))


def _choose(recorder: Recorder, eqn: Equation, operands: list[Any]) -> Any:
    """A choice, entry by entry, between directions along one path."""
    which, *cases = operands
    if isinstance(which, Direction):
        raise NotAChain(f"a choice that depends on the direction{place_of(eqn)}")
    direction = _one_path(eqn, cases)
    diagonals = [_diagonal(value, eqn.outvars[0].aval) for value in cases]
    choose = lambda which, *arrays: _promoting(partial(jax.lax.select_n, which))(*arrays)
    return replace(direction, diagonal=recorder.call(choose, which, *diagonals))


def _move(recorder: Recorder, eqn: Equation, operands: list[Any]) -> Any:
    """A selection of entries: every output is one of the inputs, or 0."""
    name, (direction, *others) = eqn.primitive.name, operands
    if not isinstance(direction, Direction) or not all(map(_is_zero, others)):
        raise NotAChain(f"{name} mixes a direction with something else{place_of(eqn)}")
    inputs, outputs = direction.move.outputs, eqn.outvars[0].aval.shape
    same_size = math.prod(inputs) == math.prod(outputs)
    reshapes = same_size and _keeps_order(eqn)
    apply = (lambda v: v.reshape(outputs)) if reshapes else _linear_in(eqn, 0, operands)
    injective = same_size or name not in ("broadcast_in_dim", "tile")
    if name == "pad":  # the zeros around become zeros of the diagonal
        ones = _diagonal(direction, eqn.invars[0].aval)
        direction = replace(direction, diagonal=ones)
    move = selection(apply, inputs, outputs, injective=injective, reshapes=reshapes)
    return _moved(recorder, direction, move, (name, str(eqn.params)))


def _moved(recorder: Recorder, direction: Direction, move: Linear, step: Any) -> Direction:
    """Returns a direction of which ``move`` selects."""
    whole = direction.move.then(move)
    path = (*direction.path, move.outputs if move.reshapes else step)
    if whole.reshapes:  # of several only the last one matters
        path = () if move.outputs == direction.linear.outputs else (move.outputs,)
    diagonal = direction.diagonal and recorder.call(move.apply, direction.diagonal)
    return replace(direction, move=whole, path=path, diagonal=diagonal)


def spread(recorder: Recorder, value: Any, shape: tuple[int, ...]) -> Any:
    """Returns an operand of elementwise arithmetic in the shape of the result."""
    if not isinstance(value, Direction) or value.move.outputs == shape:
        return value
    apply = lambda v: jnp.broadcast_to(v, shape)
    move = selection(apply, value.move.outputs, shape)
    return _moved(recorder, value, move, ("broadcast", shape))


def _concatenate(recorder: Recorder, eqn: Equation, operands: list[Any]) -> Any:
    """Directions from one map, and zeros, side by side."""
    axis, avals = eqn.params["dimension"], [atom.aval for atom in eqn.invars]
    directions = [value for value in operands if isinstance(value, Direction)]
    linear = directions[0].linear
    if not all(_is_zero(v) or (v in directions and v.linear is linear) for v in operands):
        raise NotAChain(f"concatenate joins two paths{place_of(eqn)}")

    def apply(v: Array) -> Array:
        pieces = [
            value.move.apply(v) if value in directions else jnp.zeros(aval.shape, v.dtype)
            for value, aval in zip(operands, avals, strict=True)
        ]
        return jax.lax.concatenate(pieces, axis)

    injective = len(directions) == 1 and directions[0].move.injective
    outputs = eqn.outvars[0].aval.shape
    move = selection(apply, linear.outputs, outputs, injective=injective)
    parts = [
        value.path if value in directions else aval.shape
        for value, aval in zip(operands, avals, strict=True)
    ]
    diagonals = [_diagonal(value, aval) for value, aval in zip(operands, avals, strict=True)]
    join = _promoting(lambda *arrays: jax.lax.concatenate(arrays, axis))
    return replace(
        directions[0],
        move=move,
        path=(("concatenate", axis, *map(str, parts)),),
        diagonal=recorder.call(join, *diagonals),
    )


def _map(recorder: Recorder, eqn: Equation, operands: list[Any]) -> Any:
    """A constant linear map: a dense layer, a convolution, a sum. It starts a new factor."""
    name, outputs = eqn.primitive.name, eqn.outvars[0].aval.shape
    selects = name in _INDEXED
    places = [i for i, value in enumerate(operands) if isinstance(value, Direction)]
    others = [value for value in operands if not isinstance(value, Direction)]
    if len(places) > 1 or (name != "dot_general" and places != [0]):
        raise NotAChain(f"{name} of two directions, or by one{place_of(eqn)}")
    if not all(isinstance(value, Known) for value in others):
        raise NotAChain(f"{name} with a weight that depends on the example{place_of(eqn)}")
    (place,) = places
    direction = operands[place]
    inputs = direction.move.outputs
    apply = _linear_in(eqn, place, operands)
    linear = Linear(
        apply,
        inputs,
        outputs,
        flops_of(eqn, math.prod(inputs), math.prod(outputs)),
        squared=_linear_in(eqn, place, operands, squared=True),
        selects=selects,
        injective=name == "dynamic_slice",
    )
    if name == "dot_general":
        linear = linear._replace(**_matrix(eqn, place, operands))
    factors, rest = direction.closed()
    return Direction(factors, rest.then(linear), identity(outputs), (), None)


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Direction) and value.is_zero


def _one_path(eqn: Equation, operands: list[Any]) -> Direction:
    """Returns one of the directions, all of which must select the same from the same map."""
    directions = [value for value in operands if isinstance(value, Direction)]
    first = directions[0]
    if any(d.linear is not first.linear or d.path != first.path for d in directions):
        raise NotAChain(f"{eqn.primitive.name} joins two paths{place_of(eqn)}")
    if not all(_is_zero(value) for value in operands if not isinstance(value, Direction)):
        raise NotAChain(f"{eqn.primitive.name} is not linear in the direction{place_of(eqn)}")
    return first


def _diagonal(value: Any, aval: Any) -> Value:
    if not isinstance(value, Direction):
        return Known(jnp.zeros(aval.shape, aval.dtype), is_zero=True)
    return value.diagonal or Known(jnp.ones(aval.shape, aval.dtype))


def _promoting(function: Callable[..., Array]) -> Callable[..., Array]:
    """Returns ``function`` on arrays of the widest dtype among them, at least float32."""

    def promoted(*arrays: Array) -> Array:
        dtype = _checks.wide(*(a.dtype for a in arrays))
        return function(*(a.astype(dtype) for a in arrays))

    return promoted


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


def _linear_in(
    eqn: Equation, place: int, operands: Sequence[Any], *, squared: bool = False
) -> Callable[[Array], Array]:
    """Returns an equation as a function of one operand, in the dtype it is given."""

    def apply(v: Array) -> Array:
        arrays = [v if i == place else value.array for i, value in enumerate(operands)]
        for i, array in enumerate(arrays):
            if i != place and eqn.primitive.name not in _INDEXED:
                weights = array.astype(v.dtype)
                arrays[i] = jnp.square(weights) if squared else weights
        params = dict(eqn.params)
        if params.get("preferred_element_type") is not None:
            params["preferred_element_type"] = v.dtype
        return eqn.primitive.bind(*arrays, **params)

    return apply


def _matrix(eqn: Equation, place: int, operands: Sequence[Any]) -> dict[str, Any]:
    """Returns the matrix and its row norms if a ``dot_general`` contracts the whole direction."""
    contracting, batch = eqn.params["dimension_numbers"]
    mine, others = contracting[place], contracting[1 - place]
    if batch[0] or len(mine) != eqn.invars[place].aval.ndim:
        return {}
    weight = operands[1 - place].array
    free = [axis for axis in range(weight.ndim) if axis not in others]
    order = (*free, *(others[mine.index(axis)] for axis in range(len(mine))))
    shape = eqn.outvars[0].aval.size, eqn.invars[place].aval.size
    return {
        "matrix": lambda: jnp.transpose(weight, order).reshape(shape),
        "row_norms": lambda dtype: jnp.sum(jnp.square(weight.astype(dtype)), others).reshape(-1),
    }


def flops_of(eqn: Equation, inputs: int, outputs: int) -> float:
    """Returns the floating point operations of one application of a linear map."""
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracting, _), shape = params["dimension_numbers"][0], eqn.invars[0].aval.shape
        return 2.0 * outputs * math.prod(shape[axis] for axis in contracting)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        return 2.0 * outputs * kernel.size / kernel.shape[params["dimension_numbers"].rhs_spec[0]]
    if name == "reduce_window_sum":
        return 1.0 * outputs * math.prod(params["window_dimensions"])
    return float(inputs)


# Whether a rule is right for a value of a parameter, given all parameters of the operation.
_Understands: TypeAlias = Callable[[Any, dict[str, Any]], bool]


def _any(value: Any, params: dict[str, Any]) -> bool:
    return True


def _none(value: Any, params: dict[str, Any]) -> bool:
    return value is None


def _precision(value: Any, params: dict[str, Any]) -> bool:
    """A precision, or one for each operand; not an algorithm, which is for one dtype only."""
    each = value if isinstance(value, tuple) else (value,)
    return all(one is None or isinstance(one, jax.lax.Precision) for one in each)


def _gather_mode(value: Any, params: dict[str, Any]) -> bool:
    """What JAX can transpose; what is filled in must be 0."""
    mode = jax.lax.GatherScatterMode
    if value == mode.FILL_OR_DROP:
        fill = params["fill_value"]
        return fill is not None and bool(fill == 0)
    return value in (mode.CLIP, mode.PROMISE_IN_BOUNDS)


class Rule(NamedTuple):
    """How an operation acts on a direction, and the parameters for which that is right."""

    read: Callable[[Recorder, Equation, list[Any]], Any]
    parameters: dict[str, _Understands]


def _rule(read: Callable[..., Any], **parameters: _Understands) -> Rule:
    return Rule(read, parameters)


# Every operation that may act on a direction, with all parameters that JAX may give it. A parameter
# that is not listed, or a value that is not understood, is no part of a chain. Left out on purpose:
# ``reduce_precision``, which rounds derivatives forwards and does not do so backwards.
RULES = {
    "convert_element_type": _rule(_same, new_dtype=_any, weak_type=_any, sharding=_none),
    "copy": _rule(_same),
    "mul": _rule(_scale, out_dtype=_any),
    "div": _rule(_scale),
    "neg": _rule(_scale),
    "add": _rule(_sum),
    "add_any": _rule(_sum),
    "sub": _rule(_sum),
    "select_n": _rule(_choose),
    "concatenate": _rule(_concatenate, dimension=_any),
    # Selections of entries.
    "reshape": _rule(_move, new_sizes=_any, dimensions=_any, sharding=_none),
    "squeeze": _rule(_move, dimensions=_any),
    "broadcast_in_dim": _rule(_move, shape=_any, broadcast_dimensions=_any, sharding=_none),
    "transpose": _rule(_move, permutation=_any),
    "slice": _rule(_move, start_indices=_any, limit_indices=_any, strides=_any),
    "rev": _rule(_move, dimensions=_any),
    "pad": _rule(_move, padding_config=_any),
    "tile": _rule(_move, reps=_any),
    # Constant matrices; from ``reduce_sum`` on their entries are 0 and 1.
    "dot_general": _rule(
        _map,
        dimension_numbers=_any,
        precision=_precision,
        preferred_element_type=_any,
        out_sharding=_none,
    ),
    "conv_general_dilated": _rule(
        _map,
        dimension_numbers=_any,
        window_strides=_any,
        padding=_any,
        lhs_dilation=_any,
        rhs_dilation=_any,
        feature_group_count=_any,
        batch_group_count=_any,
        precision=_precision,
        preferred_element_type=_any,
        out_sharding=_none,
    ),
    "reduce_sum": _rule(_map, axes=_any, out_sharding=_none),
    "cumsum": _rule(_map, axis=_any, reverse=_any),
    "reduce_window_sum": _rule(
        _map,
        window_dimensions=_any,
        window_strides=_any,
        padding=_any,
        base_dilation=_any,
        window_dilation=_any,
    ),
    "gather": _rule(
        _map,
        dimension_numbers=_any,
        slice_sizes=_any,
        indices_are_sorted=_any,
        unique_indices=_any,
        mode=_gather_mode,
        fill_value=_any,
    ),
    "dynamic_slice": _rule(_map, slice_sizes=_any),
}
MAPS = [name for name, rule in RULES.items() if rule.read is _map]


def check_rule(eqn: Equation, rule: Rule) -> None:
    """Raises :class:`NotAChain` where the rule of an operation may be wrong for this equation."""
    for name, value in eqn.params.items():
        if name not in rule.parameters or not rule.parameters[name](value, eqn.params):
            raise NotAChain(f"{eqn.primitive.name} with {name}={value}{place_of(eqn)}")
    dtypes = [atom.aval.dtype for atom in (*eqn.invars, *eqn.outvars)]
    is_complex = any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)
    if is_complex or not jnp.issubdtype(dtypes[-1], jnp.floating):
        raise NotAChain(f"{eqn.primitive.name} of numbers that are not real{place_of(eqn)}")
