"""Finds layers that need the whole batch inside a function of ONE example, before it runs.

``encode`` and ``decode`` see one example. Two common layers then do something else than they do
on a batch, without an error:

- batch normalisation in training mode takes the mean and the variance of a single number, so that
  its output, ``x - mean``, is 0 for every example;
- dropout with a key from outside draws one mask, which serves all examples.

The first is found among the modules of Flax Linen while the function is traced, and for every other
library in its jaxpr: a difference of a value and a mean over one entry of it. A mask is found as a
random boolean, independent of the example, that selects or multiplies something that depends on it.
Each value of the jaxpr is described by a :class:`_Value`. Loops and branches are not looked into,
so that a layer inside a ``scan`` is missed; nothing else is reported by mistake for that reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.extend import core as jex
from jaxtyping import PyTree

NORMALISATION = "batch normalisation of one example against itself"
SHARED_MASK = "one random mask for all examples"
COLLECTIVE = "values of other examples"

PER_EXAMPLE = (
    "write the loss of one example and jax.vmap it over keys and examples, with "
    "axis_name='batch' (docs/recipes.md)"
)

_SAME_ENTRIES = {"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type"}
_SAME_ENTRIES |= {"copy", "copy_p", "stop_gradient"}
_RANDOM = {"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"}
_COLLECTIVES = {"psum", "psum_invariant", "pmean", "pmax", "pmin", "all_gather", "all_to_all"}


class _Value(NamedTuple):
    """Properties of one value of a jaxpr.

    Attributes:
      entries: two values with the same object here have the same entries, in the same order.
      is_mean: whether it is a mean, or a sum, over one entry.
      from_example: whether it depends on the example.
      is_random: whether it is drawn.
      is_mask: whether it is a drawn boolean, or a multiple of one.
    """

    entries: object
    is_mean: bool = False
    from_example: bool = False
    is_random: bool = False
    is_mask: bool = False


@contextmanager
def recorded_normalisations() -> Iterator[list[str]]:
    """Collects the names of Linen's BatchNorm modules that are called in training mode."""
    names: list[str] = []

    def interceptor(
        call: Callable[..., object],
        args: tuple[PyTree, ...],
        kwargs: dict[str, PyTree],
        context: nn.module.InterceptorContext,
    ) -> object:
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == "__call__":
            given = kwargs.get("use_running_average", args[1] if args[1:] else None)
            is_evaluation = module.use_running_average if given is None else given
            if not is_evaluation and module.axis_name is None and not module.is_initializing():
                names.append(module.name or "BatchNorm")
        return call(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        yield names


def check(
    name: str,
    normalisations: list[str],
    jaxpr: jex.ClosedJaxpr,
    examples: int,
    *,
    is_differentiated: bool,
) -> None:
    """Raises, or warns, if a layer of a function of one example needs the whole batch.

    Args:
      name: of the function.
      normalisations: names from :func:`recorded_normalisations`.
      jaxpr: of the function.
      examples: how many there are in the batch.
      is_differentiated: whether its derivative by the example is taken, which is another one if
        there is a mean over the examples of an outer ``jax.vmap``.
    """
    found = find(jaxpr)
    if normalisations or NORMALISATION in found:
        layer = f" ({normalisations[0]})" if normalisations else ""
        raise ValueError(
            f"{name} normalises one example against itself{layer}: batch normalisation in training "
            f"mode sees no batch here; pass it in evaluation mode, or {PER_EXAMPLE}"
        )
    if COLLECTIVE in found and is_differentiated:
        raise ValueError(
            f"{name} uses the other examples of the batch, by axis_name, so it has no Jacobian "
            "of its own; hold the statistics of the batch fixed (docs/recipes.md)"
        )
    if SHARED_MASK in found and examples > 1:
        warnings.warn(
            f"{name} draws one random mask (dropout) for all {examples} examples; for a mask of "
            f"each example {PER_EXAMPLE}",
            stacklevel=2,
        )


def find(closed_jaxpr: jex.ClosedJaxpr) -> set[str]:
    """Returns which of the three findings above are in the jaxpr of a function of one example."""
    found: set[str] = set()
    inputs = [_Value(object(), from_example=True) for _ in closed_jaxpr.jaxpr.invars]
    _walk(closed_jaxpr.jaxpr, inputs, found)
    return found


def _walk(jaxpr: jex.Jaxpr, inputs: list[_Value], found: set[str]) -> list[_Value]:
    """Returns the values that a jaxpr returns, and adds to what was found."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: jex.Literal | jex.Var) -> _Value:
        if isinstance(atom, jex.Literal):  # a literal, which cannot be looked up
            return _Value(object())
        return known.setdefault(atom, _Value(object()))  # not there: a constant

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        inner = _inner_jaxpr(eqn)
        if inner is not None:
            outputs = _walk(inner, operands, found)
        else:
            outputs = [_output(eqn, operands, var.aval) for var in eqn.outvars]
            found |= _findings(eqn, operands)
        known |= zip(eqn.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _inner_jaxpr(eqn: jex.JaxprEqn) -> jex.Jaxpr | None:
    """Returns the jaxpr of a call (``jit``, ``custom_jvp``, ...), or None for anything else."""
    inner = next((eqn.params[n] for n in ("jaxpr", "call_jaxpr") if n in eqn.params), None)
    inner = getattr(inner, "jaxpr", inner)
    if inner is None or eqn.primitive.name in ("scan", "while", "cond"):
        return None
    fits = (len(inner.invars), len(inner.outvars)) == (len(eqn.invars), len(eqn.outvars))
    return inner if fits else None


def _output(eqn: jex.JaxprEqn, operands: list[_Value], aval: jax.core.AbstractValue) -> _Value:
    """Returns the properties of the result of one equation."""
    name = eqn.primitive.name
    from_example = any(operand.from_example for operand in operands)
    is_random = name in _RANDOM or any(operand.is_random for operand in operands)
    is_mask = is_random and not from_example and _is_mask(name, operands, aval)
    first = operands[0] if operands else None
    if first is not None and _keeps_entries(eqn, aval):
        is_mean = first.is_mean or name == "reduce_sum"
        return _Value(first.entries, is_mean, from_example, is_random, is_mask)
    return _Value(object(), False, from_example, is_random, is_mask)


def _is_mask(name: str, operands: list[_Value], aval: jax.core.AbstractValue) -> bool:
    multiple = name in _SAME_ENTRIES | {"mul", "div"} and any(o.is_mask for o in operands)
    return multiple or getattr(aval, "dtype", None) in (bool, np.dtype(bool))


def _keeps_entries(eqn: jex.JaxprEqn, aval: jax.core.AbstractValue) -> bool:
    """Returns whether the result has the entries of the first operand."""
    name, operand = eqn.primitive.name, eqn.invars[0].aval
    if name in _SAME_ENTRIES or name == "reduce_sum":  # which may be over a single entry
        return getattr(operand, "size", None) == getattr(aval, "size", None)
    if name == "div":  # by the number of entries of a mean
        divisor = getattr(eqn.invars[1], "val", None)
        return divisor is not None and getattr(divisor, "size", 1) == 1 and float(divisor) == 1.0
    return False


def _findings(eqn: jex.JaxprEqn, operands: list[_Value]) -> set[str]:
    """Returns the findings in one equation."""
    name = eqn.primitive.name
    if name in _COLLECTIVES and any(operand.from_example for operand in operands):
        return {COLLECTIVE}
    if name == "sub":
        value, mean = operands
        same = value.entries is mean.entries and value.from_example
        return {NORMALISATION} if same and mean.is_mean else set()
    selects = name == "select_n" and operands[0].is_mask
    scales = name == "mul" and any(operand.is_mask for operand in operands)
    if (selects or scales) and any(operand.from_example for operand in operands):
        return {SHARED_MASK}
    return set()
