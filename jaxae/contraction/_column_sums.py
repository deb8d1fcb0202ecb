"""Which entries of a Jacobian may differ from 0, and which columns fit into one derivative.

A network that treats every token, patch or neighbourhood by itself has a Jacobian with few
entries. Columns without a common row can be added up: the sum has their entries, each in a row of
its own, so that one derivative along the sum of their directions has the sum of their squared norms
(Curtis, Powell and Reid 1974, "On the estimation of sparse Jacobian matrices", IMA Journal of
Applied Mathematics 13). Of n tokens, n times fewer derivatives are left.

The pattern is found from the trace of the derivative: every operation along the direction is run
on patterns of ones and zeros, with ones in place of all weights. So no entries cancel, and what is
0 in the result is 0 for every example. An operation that is not in the table ends the search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import Array

from jaxae.contraction._chain import Equation
from jaxae.contraction._cuts import CALLS, called_jaxpr

# A Jacobian with more entries than this is not looked at: to group its columns takes too long.
_MAX_ENTRIES = 2**20
# Nor is one of an encoder of which the patterns on the way have more, 128 MiB.
_MAX_ENTRIES_ON_THE_WAY = 2**25

# Operations along a direction, by what they do to a pattern.
_ENTRYWISE = ("convert_element_type", "copy", "neg", "mul", "div", "add", "add_any", "sub")
_PRODUCTS = ("mul", "div", "dot_general", "conv_general_dilated")
_MOVES = (
    *("reshape", "squeeze", "broadcast_in_dim", "transpose", "slice", "rev", "tile", "pad"),
    *("concatenate", "reduce_sum", "cumsum", "reduce_window_sum", "split"),
    *("dot_general", "conv_general_dilated"),
)


_Found = TypeVar("_Found")


class Sums(NamedTuple):
    """Directions of which the derivatives have the norm of the Jacobian, one in each row."""

    columns: np.ndarray
    """Of the input, for forward derivatives; ones and zeros."""
    rows: np.ndarray
    """Of the code, for reverse derivatives."""


class _UnknownPattern(Exception):
    """An operation that does something unknown to a pattern."""


def find_sums(
    encode: Callable[[Array], Array], example: jax.ShapeDtypeStruct, code: jax.ShapeDtypeStruct
) -> Sums | None:
    """Returns sums of columns and of rows with the norm of the Jacobian; None if useless."""
    # A Jacobian of one entry has nothing to add up.
    entries = example.size * code.size
    if not 1 < entries <= _MAX_ENTRIES:
        return None
    pattern = _find_pattern(encode, example)
    if pattern is None:
        return None
    sums = Sums(_group(pattern), _group(pattern.T))
    saves = len(sums.columns) < example.size or len(sums.rows) < code.size
    return sums if saves else None


def _find_pattern(
    encode: Callable[[Array], Array], example: jax.ShapeDtypeStruct
) -> np.ndarray | None:
    """Returns where the transposed Jacobian ``(d, k)`` may differ from 0; None if not known."""

    def derivative(x_i: Array, t: Array) -> Array:
        return jax.jvp(encode, (x_i,), (t,))[1]

    jaxpr = jax.make_jaxpr(derivative)(example, example).jaxpr
    (is_full,) = _run(jaxpr, [None, False], _is_full)
    if is_full is None or is_full:
        return None
    basis = np.eye(example.size, dtype=np.float32).reshape(-1, *example.shape)
    # Also while another program is traced: patterns are numbers that are needed now.
    with jax.ensure_compile_time_eval():
        try:
            # Of a full Jacobian the first column is full.
            for directions in (basis[:1], basis):
                (found,) = _run(jaxpr, [None, jnp.asarray(directions)], _run_equation)
                if found is None or bool(jnp.all(found > 0)):
                    return None
                pattern = np.asarray(found).reshape(len(directions), -1) > 0
        except _UnknownPattern:
            return None
    return pattern


def _run(
    jaxpr: jex.Jaxpr,
    operands: Sequence[_Found | None],
    of_equation: Callable[[Equation, Sequence[_Found | None]], Sequence[_Found]],
) -> list[_Found | None]:
    """Returns what is found of the outputs; None is a value without the direction."""
    known = dict(zip(jaxpr.invars, operands, strict=True))

    def look_up(atom: jex.Literal | jex.Var) -> _Found | None:
        return None if isinstance(atom, jex.Literal) else known.get(atom)

    for eqn in jaxpr.eqns:
        given = [look_up(atom) for atom in eqn.invars]
        if all(found is None for found in given):
            continue
        outputs: Sequence[_Found | None]
        if eqn.primitive.name in CALLS:
            body = called_jaxpr(eqn)
            body = body.jaxpr if isinstance(body, jex.ClosedJaxpr) else body
            outputs = _run(body, given, of_equation)
        else:
            outputs = of_equation(eqn, given)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [look_up(atom) for atom in jaxpr.outvars]


def _is_full(eqn: Equation, given: Sequence[bool | None]) -> list[bool]:
    """Returns whether every entry of a result is known to depend on the same entries of the input.

    A dense layer makes it so. This takes no time, and most encoders end with one.
    """
    name = eqn.primitive.name
    of_directions = [is_full for is_full in given if is_full is not None]
    is_full = all(of_directions)
    if name in ("pad", "concatenate"):
        is_full = all(given)
    elif name in _ENTRYWISE or name == "select_n":
        is_full = any(of_directions)
    elif name == "dot_general" and len(of_directions) == 1:
        place = given.index(of_directions[0])
        contracted = eqn.params["dimension_numbers"][0][place]
        is_full |= len(contracted) == eqn.invars[place].aval.ndim
    return [is_full] * len(eqn.outvars)


def _run_equation(eqn: Equation, given: Sequence[Array | None]) -> list[Array]:
    """Returns the patterns of the outputs of one operation."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    places = [i for i, pattern in enumerate(given) if pattern is not None]
    patterns = [pattern for pattern in given if pattern is not None]
    if len(patterns[0]) * max(v.aval.size for v in eqn.outvars) > _MAX_ENTRIES_ON_THE_WAY:
        raise _UnknownPattern
    # A derivative rule of a user may multiply or divide by the direction, which is not linear.
    if name in _PRODUCTS and (len(places) > 1 or (name == "div" and places != [0])):
        raise _UnknownPattern
    if name in _ENTRYWISE or (name == "select_n" and given[0] is None):
        return [jnp.max(jnp.stack([_broadcast(p, shape) for p in patterns]), axis=0)]
    if name == "select_and_gather_add" and places == [0]:
        return [_largest_of_windows(eqn, patterns[0])]
    if name not in _MOVES:
        raise _UnknownPattern
    # Weights are ones; what is put around or beside a direction is 0.
    fill = jnp.zeros if name in ("pad", "concatenate") else jnp.ones
    params = dict(eqn.params)
    if params.get("preferred_element_type") is not None:
        params["preferred_element_type"] = jnp.float32

    def run(*directions: Array) -> Sequence[Array]:
        operands = [fill(atom.aval.shape, jnp.float32) for atom in eqn.invars]
        for place, direction in zip(places, directions, strict=True):
            operands[place] = direction
        outputs = eqn.primitive.bind(*operands, **params)
        return outputs if eqn.primitive.multiple_results else [outputs]

    return [(output > 0).astype(jnp.float32) for output in jax.vmap(run)(*patterns)]


def _largest_of_windows(eqn: Equation, pattern: Array) -> Array:
    """Returns the pattern of a max pooling, which may choose any entry of a window."""
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    options = {name: eqn.params[name] for name in names}

    def pool(direction: Array) -> Array:
        return jax.lax.reduce_window(direction, np.float32(0), jax.lax.max, **options)

    return jax.vmap(pool)(pattern)


def _broadcast(pattern: Array, shape: tuple[int, ...]) -> Array:
    """Returns patterns of an operand in the shape of the result; a number is for all entries."""
    count, *own = pattern.shape
    pattern = pattern.reshape(count, *(own or (1,) * len(shape)))
    return jnp.broadcast_to(pattern, (count, *shape))


def _group(pattern: np.ndarray) -> np.ndarray:
    """Returns groups of rows of a pattern that have no common column, as ones, ``(groups, rows)``.

    Each row goes into the first group that has room for it.
    """
    taken: list[np.ndarray] = []
    members: list[np.ndarray] = []
    for index, row in enumerate(pattern):
        if not row.any():  # a row of zeros adds nothing to the norm
            continue
        place = next((i for i, used in enumerate(taken) if not (used & row).any()), len(taken))
        if place == len(taken):
            taken.append(np.zeros_like(row))
            members.append(np.zeros(len(pattern), np.float32))
        taken[place] |= row
        members[place][index] = 1
    return np.stack(members) if members else np.zeros((0, len(pattern)), np.float32)
