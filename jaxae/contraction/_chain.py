"""What an encoder is read into: values, directions, and the factors of its Jacobian."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array

from jaxae.contraction._products import Linear, identity


class NotAChain(Exception):
    """The Jacobian is not a product of constant matrices and diagonals; says why."""


@dataclass(frozen=True, eq=False)
class Known:
    """A value that does not depend on the example: computed once, outside ``jax.vmap``."""

    array: Array
    is_zero: bool = False


@dataclass(frozen=True, eq=False)
class Varying:
    """A value that depends on the example: the output of a recorded step."""

    index: int
    is_zero: bool = False


Value: TypeAlias = Known | Varying
# A ``jex.JaxprEqn``, whose abstract values have no shape in the eyes of a type checker.
Equation: TypeAlias = Any


class Factor(NamedTuple):
    """One factor ``diag(rows) linear`` of the Jacobian; no diagonal is one of ones."""

    linear: Linear
    rows: Value | None


@dataclass(frozen=True, eq=False)
class Direction:
    """A value that is linear in the direction t: ``diagonal * move(linear(factors(t)))``."""

    factors: tuple[Factor, ...]
    linear: Linear
    """The last constant map. Directions are added only if they share this very object."""
    move: Linear
    """A selection of its outputs (reshape, slice, transpose, ...), and the ``path`` to it."""
    path: tuple[Any, ...]
    diagonal: Value | None

    def closed(self) -> tuple[tuple[Factor, ...], Linear]:
        """Returns the finished factors, and the selection that is still to be applied."""
        whole = self.linear.then(self.move)
        if self.diagonal is None and whole.selects:
            return self.factors, whole
        return (*self.factors, Factor(whole, self.diagonal)), identity(whole.outputs)


class Chain(NamedTuple):
    """An encoder read: its steps, its code, and the factors of its Jacobian, the first first."""

    steps: list["Step"]
    code: Value
    factors: tuple[Factor, ...]


class Step(NamedTuple):
    """An operation on values that depend on the example, to be run for each of them."""

    run: Callable[..., Sequence[Array]]
    operands: tuple[Value, ...]
    outputs: tuple[int, ...]


class Recorder:
    """Records the steps of an encoder; what does not depend on the example is computed at once."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.count = 0

    def varying(self, *, is_zero: bool = False) -> Varying:
        """Returns a new value that depends on the example."""
        self.count += 1
        return Varying(self.count - 1, is_zero)

    def call(self, function: Callable[..., Array], *operands: Value) -> Value:
        """Returns ``function`` of values: at once if all are known, else as a step."""
        return self.record(lambda *arrays: [function(*arrays)], operands, [False])[0]

    def record(
        self, run: Callable[..., Sequence[Array]], operands: Sequence[Value], zeros: Sequence[bool]
    ) -> list[Any]:
        """Returns the outputs of ``run``, computed now if all operands are known, else as a step.

        Args:
          run: function of arrays to a sequence of arrays.
          operands: what it is called with.
          zeros: for each output, whether it is known to be zero.
        """
        if all(isinstance(value, Known) for value in operands):
            arrays = run(*(value.array for value in operands))  # type: ignore[union-attr]
            return [Known(a, zero) for a, zero in zip(arrays, zeros, strict=True)]
        outputs = [self.varying(is_zero=zero) for zero in zeros]
        self.steps.append(Step(run, tuple(operands), tuple(v.index for v in outputs)))
        return outputs
