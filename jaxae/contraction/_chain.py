"""The types that an encoder is read into: values, directions, and the factors of its Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array

from jaxae.contraction._costs import Counts
from jaxae.contraction._products import Linear, identity


# An exception, because it is found out deep inside the reading of a trace. Inside the reader it
# means that no rule fits, so that a segment is tried; outside, that a full Jacobian is taken.
class NotAChain(Exception):
    """This is no product of constant matrices, diagonals and segments; the message says why."""


# Compared by identity: the same object is the same value, also when two arrays happen to be equal.
@dataclass(frozen=True, eq=False)
class Known:
    """A value that does not depend on the example: computed once, outside ``jax.vmap``."""

    array: Array
    is_zero: bool = False


@dataclass(frozen=True, eq=False)
class Varying:
    """A value that depends on the example: the example itself (0) or an output of a step."""

    index: int
    is_zero: bool = False


Value: TypeAlias = Known | Varying
# A ``jex.JaxprEqn``, whose abstract values have no shape in the eyes of a type checker.
Equation: TypeAlias = Any


class Segment(NamedTuple):
    """A stretch of an encoder between two values, the derivative of which is no such product.

    All that depends on the input passes through the first value and through the last one. The
    derivative is a linear map that depends on the example.
    """

    run: Callable[..., Array]
    """From a direction of the first value, and the arrays of ``operands``, to one of the last."""
    operands: tuple[Value, ...]
    """The values of the trace on which the derivative depends."""
    forward: Counts
    """The cost of one forward derivative."""
    reverse: Counts
    """The cost of one reverse derivative."""

    def bind(self, linear: Linear, *arrays: Array) -> Linear:
        """Returns the map of one example."""
        return linear._replace(apply=lambda v: self.run(v, *arrays))

    def transpose(self) -> Segment:
        """Returns the segment with its costs swapped, for a node that is transposed."""
        return self._replace(forward=self.reverse, reverse=self.forward)


class Factor(NamedTuple):
    """One factor of the Jacobian: a diagonal times a constant matrix, D W, or a segment."""

    linear: Linear
    """The constant matrix W as a linear map; of a segment only its shapes."""
    rows: Value | None
    """The diagonal D; None where it is the identity."""
    segment: Segment | None = None


@dataclass(frozen=True, eq=False)
class Direction:
    """A value that is linear in the direction t: ``diagonal * selection(linear(factors(t)))``.

    The last map, the selection and the diagonal are kept apart, because they may still change: the
    next operation may select other entries or scale them. The next constant map ends that, and
    the three become a factor.
    """

    factors: tuple[Factor, ...]
    """The factors that are finished, the first one first."""
    linear: Linear
    """The last constant map. Directions are added only if they share this very object."""
    selection: Linear
    """The entries of its output that were selected (by reshape, slice, transpose, ...)."""
    # Two functions cannot be compared, two paths can: equal paths from one map select the same.
    path: tuple[Hashable, ...]
    """The operations that make the selection, in a form that can be compared."""
    diagonal: Value | None

    def factors_and_rest(self) -> tuple[tuple[Factor, ...], Linear]:
        """Returns the finished factors, and the selection that is still to be applied after them.

        A last map without a diagonal that only selects is no factor yet: the next map takes it in.
        """
        whole = self.linear.then(self.selection)
        # As a factor it would cost a product of matrices, though it only moves entries.
        if self.diagonal is None and whole.selects:
            return self.factors, whole
        return (*self.factors, Factor(whole, self.diagonal)), identity(whole.outputs)


class Chain(NamedTuple):
    """What is known of an encoder whose Jacobian is a product of factors."""

    steps: list[Step]
    """The operations that compute the code and the diagonals of one example, in order."""
    code: Value
    factors: tuple[Factor, ...]
    """D_1 W_1 first, which acts on the input; their product is the Jacobian."""
    why_segments: str = ""
    """Why some of the factors are segments; empty if none is."""


class Step(NamedTuple):
    """An operation on values that depend on the example, to be run for each of them."""

    run: Callable[..., Sequence[Array]]
    operands: tuple[Value, ...]
    outputs: tuple[int, ...]
    """The index of each :class:`Varying` that it computes."""


class Recorder:
    """Records the steps of an encoder; what does not depend on the example is computed at once."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.count = 0

    def new_varying(self, *, is_zero: bool = False) -> Varying:
        """Returns a new value that depends on the example."""
        self.count += 1
        return Varying(self.count - 1, is_zero)

    def call(self, function: Callable[..., Array], *operands: Value) -> Value:
        """Returns ``function`` of values: at once if all are known, else as a step."""

        def run(*arrays: Array) -> list[Array]:
            return [function(*arrays)]

        # Never marked as zero: that a diagonal is 0 would simplify nothing.
        return self.record(run, operands, [False])[0]

    def record(
        self, run: Callable[..., Sequence[Array]], operands: Sequence[Value], zeros: Sequence[bool]
    ) -> list[Value]:
        """Returns the outputs of ``run``, computed now if all operands are known, else as a step.

        Args:
          run: function of arrays to a sequence of arrays.
          operands: the values that it is called with.
          zeros: for each output, whether it is known to be zero.
        """
        known = [value.array for value in operands if isinstance(value, Known)]
        if len(known) == len(operands):
            return [Known(a, zero) for a, zero in zip(run(*known), zeros, strict=True)]
        # Steps are kept, not run: ``jax.vmap`` runs them later for all examples of a batch.
        outputs = [self.new_varying(is_zero=zero) for zero in zeros]
        self.steps.append(Step(run, tuple(operands), tuple(v.index for v in outputs)))
        return list(outputs)
