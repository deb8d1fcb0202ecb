"""The search for the cheapest order in which to multiply the factors of a Jacobian."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from jaxae.contraction._chain import Factor, Value, Varying
from jaxae.contraction._products import (
    Linear,
    Scaled,
    dense,
    gram,
    multiply,
    norm_by_gram,
    norm_by_grams,
    norms_of_products,
    squared_norm,
)

# What the search minimises, per example and with the gradient, in operations of a matrix product
# on a CPU: a number written costs as much as this many of them, an operation of a map that is
# applied (a convolution) as much as so many.
_NUMBER = 32
_APPLIED = 4
_WITH_GRADIENT = 3


@dataclass(frozen=True, eq=False)
class Node:
    """A matrix ``diag(rows) core diag(cols)`` and a way to compute its core."""

    name: str
    shape: tuple[int, int]
    core: Callable[..., Any]
    """From the matrices of the parts to an array or a :class:`Linear`."""
    parts: tuple["Node", ...] = ()
    rows: Value | None = None
    cols: Value | None = None
    is_constant: bool = True
    """Whether the core is one matrix for the whole batch."""
    cost: "Cost" = field(default_factory=lambda: Cost())
    linear: Linear | None = None


class Cost(NamedTuple):
    """Per example; what is constant is shared among the batch."""

    work: float = 0.0
    """With the gradient, in operations of a matrix product."""
    flops: float = 0.0
    """Floating point operations of the value."""
    numbers: float = 0.0
    """Entries of per-example matrices that are held."""

    def plus(self, *others: "Cost") -> "Cost":
        return Cost(*(sum(column) for column in zip(self, *others, strict=True)))


@dataclass(frozen=True, eq=False)
class Order:
    """A way to the squared norm of the whole product."""

    name: str
    parts: tuple[Node, ...]
    value: Callable[..., tuple[Array, Array | None]]
    """From the matrices of the parts to the value, and how large its terms are if they cancel."""
    cost: Cost
    finish: Callable[..., Array] | None = None
    """From what ``value`` gave for all examples, and the matrices of the parts, to the values."""


class Search:
    """Finds the cheapest order in which to multiply the factors of a Jacobian.

    Cut anywhere, J = L R, and the squared norm is that of the product; or <L, L R R^T>; or
    <L^T L R, R>; or <L^T L, R R^T>. Each side is multiplied in its own best order, and the square
    matrices come from such a product or are built up factor by factor. R R^T of the first factor
    and L^T L of a last one without a diagonal are constant: with them the input, or the code,
    disappears from the work per example.
    """

    def __init__(self, factors: Sequence[Factor], batch: int, dtype: Any) -> None:
        self.batch, self.dtype = batch, dtype
        first, *others = factors
        cols = None
        if others and first.linear.injective:
            # Entries of x that are scaled and moved around: the scale belongs to the columns of
            # the next matrix, and moving columns around does not change a norm.
            cols, factors = first.rows, others
        self.leaves = [
            self._leaf(i, factor, cols if i == 0 else None) for i, factor in enumerate(factors)
        ]
        self.products: dict[tuple[int, int], Node] = {}
        for length in range(1, len(self.leaves) + 1):
            for start in range(len(self.leaves) - length + 1):
                self.products[start, start + length] = self._product(start, start + length)

    def orders(self) -> list[Order]:
        """Returns the best of each kind, the cheapest first."""
        count = len(self.leaves)
        found = [self.plain(self.products[0, count])]
        right, left = self._grams(), self._left_grams()
        for cut in range(1, count):
            low, high = self.products[0, cut], self.products[cut, count]
            found.append(self.by_gram(high, right[cut]))
            found.append(self.by_gram(self._flip(low), left[cut]))
            found.append(self._by_grams(left[cut], right[cut]))
        return sorted(found, key=lambda order: order.cost.work)

    def _leaf(self, index: int, factor: Factor, cols: Value | None) -> Node:
        linear, rows = factor
        number = index + 1
        name = f"W{number}" if not linear.reshapes else "" if rows or cols else "I"
        name = f"{f'D{number} ' if rows else ''}{name}{' D0' if cols else ''}".strip()
        shape = math.prod(linear.outputs), math.prod(linear.inputs)
        return Node(name, shape, lambda: linear, rows=rows, cols=cols, linear=linear)

    def _product(self, start: int, stop: int) -> Node:
        """Returns the cheapest product of the factors start ... stop - 1."""
        if stop == start + 1:
            return self.leaves[start]
        cuts = range(start + 1, stop)
        ways = (self.times(self.products[c, stop], self.products[start, c]) for c in cuts)
        return min(ways, key=lambda node: node.cost.work)

    def times(self, left: Node, right: Node) -> Node:
        (p, n), (_, q) = left.shape, right.shape
        is_constant = left.is_constant and right.is_constant
        is_constant &= not any_varies(left.cols, right.rows)
        flops, dear = 2.0 * p * n * q, 1.0
        if right.linear and right.linear.is_applied:
            flops, dear = right.linear.flops * p, _APPLIED
        elif left.linear and left.linear.is_applied:
            flops, dear = left.linear.flops * q, _APPLIED
        own = self._cost(flops, p * q, is_constant, products=3.0 * dear)
        return Node(
            f"{left.name} {right.name if right.linear else f'({right.name})'}",
            (p, q),
            lambda a, b: multiply(a, b, self.dtype).core,
            (left, right),
            left.rows,
            right.cols,
            is_constant,
            own.plus(left.cost, right.cost),
        )

    def _flip(self, node: Node) -> Node:
        """Returns the transposed matrix."""
        linear = node.linear and node.linear.flipped()
        core = (lambda _: linear) if linear else (lambda a: dense(a.core, self.dtype).T)
        return replace(
            node,
            name=_transposed(node.name),
            shape=node.shape[::-1],
            core=core,
            parts=(node,),
            rows=node.cols,
            cols=node.rows,
            linear=linear,
        )

    def gram(self, node: Node) -> Node:
        """Returns M M^T."""
        size, inner = node.shape
        is_constant = node.is_constant and not any_varies(node.cols)
        own = self._cost(2.0 * size * size * inner, size * size, is_constant, products=3.0)
        return Node(
            f"{node.name} {_transposed(node.name)}",
            (size, size),
            lambda a: gram(a, self.dtype),
            (node,),
            node.rows,
            node.rows,
            is_constant,
            own.plus(node.cost),
        )

    def _around(self, node: Node, symmetric: Node) -> Node:
        """Returns M S M^T."""
        name = f"{node.name} ({symmetric.name}) {_transposed(node.name)}"
        # S is symmetric, so that M (M S)^T is the same.
        return replace(self.times(node, self._flip(self.times(node, symmetric))), name=name)

    def _grams(self) -> dict[int, Node]:
        """Returns R R^T for the product R of the first factors, by how many they are."""
        best: dict[int, Node] = {}
        for cut in range(1, len(self.leaves)):
            ways = [self.gram(self.products[0, cut])]
            if cut > 1 and not ways[0].is_constant:
                ways.append(self._around(self.leaves[cut - 1], best[cut - 1]))
            best[cut] = min(ways, key=lambda node: node.cost.work)
        return best

    def _left_grams(self) -> dict[int, Node]:
        """Returns L^T L for the product L of the factors after the first ones."""
        best: dict[int, Node] = {}
        count = len(self.leaves)
        for cut in range(count - 1, 0, -1):
            ways = [self.gram(self._flip(self.products[cut, count]))]
            if cut < count - 1 and not ways[0].is_constant:
                ways.append(self._around(self._flip(self.leaves[cut]), best[cut + 1]))
            best[cut] = min(ways, key=lambda node: node.cost.work)
        return best

    def plain(self, node: Node) -> Order:
        p, q = node.shape
        is_product = not node.is_constant or any_varies(node.cols)
        cost = self._cost(2.0 * p * q, 0, not is_product, products=_NUMBER / 4)
        cost = cost.plus(self._cost(2.0 * p, 0, False, products=1.0), node.cost)
        value = lambda a: (squared_norm(a, self.dtype), None)
        return Order(f"‖{node.name}‖²", (node,), value, cost)

    def by_gram(self, node: Node, symmetric: Node) -> Order:
        (p, n), name = node.shape, f"<X, X S>, X = {node.name}, S = {symmetric.name}"
        is_constant = node.is_constant and symmetric.is_constant
        is_constant &= not any_varies(node.rows, node.cols, symmetric.rows)
        # Two products, of the value and of the gradient in S; that in X is the first again.
        cost = self._cost(2.0 * p * n * n, 2 * p * n, is_constant, products=2.0)
        cost = cost.plus(node.cost, symmetric.cost)
        if not symmetric.is_constant or is_constant:
            value = lambda x, s: norm_by_gram(x, s, self.dtype)
            return Order(name, (node, symmetric), value, cost)
        (right,) = symmetric.parts
        written = lambda x, s, _: (x.written(self.dtype, s.rows), None)
        finish = lambda xs, s, r: norms_of_products(
            xs, s.core, Scaled(r.core, None, r.cols).written(self.dtype)
        )
        return Order(name, (node, symmetric, right), written, cost, finish)

    def _by_grams(self, left: Node, right: Node) -> Order:
        size = left.shape[0]
        is_constant = left.is_constant and right.is_constant
        is_constant &= not any_varies(left.rows, right.rows)
        cost = self._cost(4.0 * size * size, 0, is_constant, products=3.0)
        value = lambda t, s: norm_by_grams(t, s, self.dtype)
        name = f"<T, S>, T = {left.name}, S = {right.name}"
        return Order(name, (left, right), value, cost.plus(left.cost, right.cost))

    def _cost(self, flops: float, numbers: int, is_constant: bool, products: float) -> Cost:
        work = products * flops + _WITH_GRADIENT * _NUMBER * numbers
        if is_constant:
            return Cost(work / self.batch, flops / self.batch, 0.0)
        return Cost(work, flops, float(numbers))


def _transposed(name: str) -> str:
    """Returns how the transposed matrix is called: (A B)ᵀ, and of that A B."""
    depth = np.cumsum([(c == "(") - (c == ")") for c in name])
    is_transposed = name.startswith("(") and name.endswith(")ᵀ") and bool(np.all(depth[:-2] > 0))
    return name[1:-2] if is_transposed else f"({name})ᵀ"


def any_varies(*values: Value | None) -> bool:
    return any(isinstance(value, Varying) for value in values)
