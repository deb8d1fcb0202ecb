"""The search for the cheapest order in which to multiply the factors of a Jacobian.

The orders, and where the costs come from, are explained in ``docs/contraction.md``.

To read this, begin with :class:`Node` (a matrix that could be computed) and :class:`Order` (a
formula for the norm, made of nodes). :class:`Search` makes nodes without computing anything: a node
only knows its shape, its cost, and a function that would compute it. ``product`` and ``gram`` make
a node of others, ``_cheapest_product``, ``_grams`` and ``_left_grams`` compare such nodes by their
cost, and ``orders`` puts the formulas together. ``_evaluate`` runs the order that has won.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxae.contraction._chain import Factor, Segment, Value, Varying
from jaxae.contraction._costs import (
    APPLIED_COST,
    NUMBER_COST,
    PRODUCTS_OF_A_NORM_BY_GRAM,
    PRODUCTS_OF_A_NORM_BY_GRAMS,
    PRODUCTS_OF_A_PRODUCT,
    SQUARE_COST,
    WRITES_WITH_GRADIENT,
    Cost,
    Counts,
    exact_cost,
)
from jaxae.contraction._products import (
    Linear,
    ScaledMatrix,
    dense_matrix,
    gram,
    jacobian_matrix,
    multiply,
    norm_by_gram,
    norm_by_grams,
    norms_of_products,
    squared_norm,
)


@dataclass(frozen=True, eq=False)
class Node:
    """A matrix ``diag(rows) core diag(cols)`` and a way to compute its core."""

    name: str
    shape: tuple[int, int]
    compute_core: Callable[..., Array | Linear]
    """From the matrices of the parts and the arrays of ``operands`` to the core."""
    parts: tuple[Node, ...] = ()
    operands: tuple[Value, ...] = ()
    rows: Value | None = None
    cols: Value | None = None
    is_constant: bool = True
    """Whether the core is one matrix for the whole batch."""
    cost: Cost = field(default_factory=lambda: Cost())
    linear: Linear | None = None
    segment: Segment | None = None
    """The segment, if the node is one; its costs are those of this orientation."""


@dataclass(frozen=True, eq=False)
class Order:
    """A formula for the squared norm of the whole product, and how to evaluate it."""

    name: str
    parts: tuple[Node, ...]
    value: Callable[..., tuple[Array, Array | None]]
    """From the matrices of the parts to the value, and a bound on its terms if they may cancel."""
    cost: Cost
    finish: Callable[..., Array] | None = None
    """From what ``value`` gave for all examples, and the matrices of the parts, to the values."""

    @property
    def is_sum_of_squares(self) -> bool:
        """Whether it is the norm of the product itself, in which nothing cancels."""
        return len(self.parts) == 1


class Search:
    """Finds the cheapest order in which to multiply the factors of a Jacobian.

    Cut anywhere, J = L R, and the squared norm is that of the product; or <L, L R R^T>; or
    <L^T L R, R>; or <L^T L, R R^T>. Each side is multiplied in its own best order, and the square
    matrices come from such a product or are built up factor by factor. R R^T of the first factor
    and L^T L of a last one without a diagonal are constant: with them the input, or the code,
    disappears from the work per example.

    The cheapest product of factors i ... j is that of the cheapest products on both sides of some
    cut between them: the dynamic programme for chains of matrix products (Cormen et al.,
    "Introduction to Algorithms", section 15.2), here with the costs of this module. A square matrix
    in the middle of the chain is not considered, nor a common factor of several products, except
    for the M of M S M^T.

    A segment is a map that depends on the example. It is applied to the columns of what stands on
    its right, as forward derivatives are, or its transpose to the rows of what stands on its left,
    as reverse ones are; or its own matrix is formed and then multiplied. With all factors applied
    one after the other this is the full Jacobian (Griewank and Naumann 2003, "Accumulating
    Jacobians as chained sparse matrix products", Mathematical Programming 95).
    """

    def __init__(self, factors: Sequence[Factor], batch: int, dtype: DTypeLike) -> None:
        self.batch, self.dtype, self.exact_cost = batch, dtype, exact_cost(dtype)
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
        # The ways in which a leaf may be a factor of a product: a segment is a map that is applied,
        # or the matrix of that map. The matrix comes last, because it is a product by itself.
        self.forms = [
            [leaf, self._formed(leaf)] if leaf.segment else [leaf] for leaf in self.leaves
        ]
        # Short products first: a longer one is made of two shorter ones.
        for length in range(1, len(self.leaves) + 1):
            for start in range(len(self.leaves) - length + 1):
                self.products[start, start + length] = self._cheapest_product(start, start + length)

    def orders(self) -> list[Order]:
        """Returns the best of each kind, the cheapest first."""
        count = len(self.leaves)
        found = [self.product_order(self.products[0, count])]
        right, left = self._grams(), self._left_grams()
        for cut in range(1, count):
            low, high = self.products[0, cut], self.products[cut, count]
            found.append(self.gram_order(high, right[cut]))
            found.append(self.gram_order(self._transpose(low), left[cut]))
            found.append(self._two_grams_order(left[cut], right[cut]))
        return sorted(found, key=lambda order: order.cost.work)

    def _leaf(self, index: int, factor: Factor, cols: Value | None) -> Node:
        """Returns the node of one factor, named as people write it: D1 W1."""
        linear, rows, segment = factor
        number = index + 1
        shape = math.prod(linear.outputs), math.prod(linear.inputs)
        if segment:
            name, bind = f"G{number}{' D0' if cols else ''}", partial(segment.bind, linear)
            return Node(
                name,
                shape,
                bind,
                operands=segment.operands,
                cols=cols,
                is_constant=False,
                linear=linear,
                segment=segment,
            )
        name = f"W{number}" if not linear.reshapes else "" if rows or cols else "I"
        name = f"{f'D{number} ' if rows else ''}{name}{' D0' if cols else ''}".strip()
        return Node(name, shape, lambda: linear, rows=rows, cols=cols, linear=linear)

    def _formed(self, leaf: Node) -> Node:
        """Returns the matrix of a segment, by forward or by reverse derivatives."""
        (p, q), segment = leaf.shape, leaf.segment
        assert segment is not None
        # q columns by forward derivatives, or p rows by reverse ones.
        is_reverse = p * segment.reverse.work < q * segment.forward.work
        count, counts = (p, segment.reverse) if is_reverse else (q, segment.forward)

        def core(matrix: ScaledMatrix) -> Array:
            assert isinstance(matrix.core, Linear)
            return jacobian_matrix(matrix.core, self.dtype, is_reverse=is_reverse)

        cost = self._applied_cost(count, counts)
        return replace(
            leaf,
            compute_core=core,
            parts=(leaf,),
            operands=(),
            linear=None,
            segment=None,
            cost=cost,
        )

    def _applied_cost(self, count: int, counts: Counts) -> Cost:
        """Returns the cost of applying a segment to so many directions."""
        return Cost(count * counts.work, count * counts.flops, count * counts.held)

    def _cheapest_product(self, start: int, stop: int) -> Node:
        """Returns the cheapest product of the factors start ... stop - 1."""
        if stop == start + 1:
            return self.forms[start][-1]  # the form that has a matrix
        ways = [
            self.product(left, right)
            for cut in range(start + 1, stop)
            for left in self._factors(cut, stop)
            for right in self._factors(start, cut)
            if _one_is_a_matrix(left, right)
        ]
        return min(ways, key=lambda node: node.cost.work)

    def _factors(self, start: int, stop: int) -> list[Node]:
        """Returns the forms in which the product of some factors may be part of a larger one."""
        return self.forms[start] if stop == start + 1 else [self.products[start, stop]]

    def product(self, left: Node, right: Node, *, is_exact: bool = False) -> Node:
        """Returns the product of two matrices, with all digits or those of the device's default."""
        (p, n), (_, q) = left.shape, right.shape
        is_constant = left.is_constant and right.is_constant
        # The outer diagonals are not multiplied in, only those between the two cores.
        is_constant &= not any_varies(left.cols, right.rows)
        flops, operation_cost = 2.0 * p * n * q, 1.0
        if right.linear and right.linear.is_applied:
            flops, operation_cost = right.linear.flops * p, float(APPLIED_COST)
        elif left.linear and left.linear.is_applied:
            flops, operation_cost = left.linear.flops * q, float(APPLIED_COST)
        operation_cost *= self.exact_cost if is_exact else 1.0
        work_per_flop = PRODUCTS_OF_A_PRODUCT * operation_cost
        own = self._cost(flops, p * q, is_constant, work_per_flop)
        # A segment has a cost of its own, which includes what it writes on the way.
        if right.segment:
            own = self._applied_cost(p, right.segment.reverse)
        elif left.segment:
            own = self._applied_cost(q, left.segment.forward)
        # Brackets where the order is not from left to right: W3 (D2 W2 D1 W1).
        needs_brackets = right.linear is None and " " in right.name
        return Node(
            f"{left.name} {f'({right.name})' if needs_brackets else right.name}",
            (p, q),
            lambda a, b: multiply(a, b, self.dtype, is_exact=is_exact).core,
            (left, right),
            rows=left.rows,
            cols=right.cols,
            is_constant=is_constant,
            cost=own.plus(left.cost, right.cost),
        )

    def _transpose(self, node: Node) -> Node:
        """Returns the transposed matrix."""
        linear, segment = node.linear and node.linear.transpose(), node.segment

        def core(matrix: ScaledMatrix) -> Array | Linear:
            if segment and isinstance(matrix.core, Linear):
                return matrix.core.transpose()
            return linear or dense_matrix(matrix.core, self.dtype).T

        return replace(
            node,
            name=_transpose_name(node.name),
            shape=node.shape[::-1],
            compute_core=core,
            parts=(node,),
            operands=(),
            rows=node.cols,
            cols=node.rows,
            linear=linear,
            segment=segment and segment.transpose(),
        )

    def gram(self, node: Node) -> Node:
        """Returns M M^T."""
        size, inner = node.shape
        is_constant = node.is_constant and not any_varies(node.cols)
        flops = 2.0 * size * size * inner
        work_per_flop = PRODUCTS_OF_A_PRODUCT * self.exact_cost
        own = self._cost(flops, size * size, is_constant, work_per_flop)
        return Node(
            f"{node.name} {_transpose_name(node.name)}",
            (size, size),
            lambda a: gram(a, self.dtype),
            (node,),
            rows=node.rows,
            cols=node.rows,
            is_constant=is_constant,
            cost=own.plus(node.cost),
        )

    def _congruence(self, node: Node, symmetric: Node) -> Node:
        """Returns M S M^T for a symmetric S: the Gram matrix of a product from that of a part."""
        name = f"{node.name} ({symmetric.name}) {_transpose_name(node.name)}"
        # S is symmetric, so that M (M S)^T is the same.
        half = self.product(node, symmetric, is_exact=True)
        whole = self.product(node, self._transpose(half), is_exact=True)
        # M is part of both products, and computed once.
        return replace(whole, name=name, cost=whole.cost.minus(node.cost))

    def _grams(self) -> dict[int, Node]:
        """Returns R R^T for the product R of the first factors, by how many they are."""
        best: dict[int, Node] = {}
        for cut in range(1, len(self.leaves)):
            ways = [self.gram(self.products[0, cut])]
            # A constant one costs next to nothing per example, and no other way is cheaper.
            if cut > 1 and not ways[0].is_constant and self._can_be_exact(self.leaves[cut - 1]):
                ways += [self._congruence(form, best[cut - 1]) for form in self.forms[cut - 1]]
                ways += [
                    self._congruence(self.products[start, cut], best[start])
                    for start in range(1, cut - 1)
                    if self._has_segment(start, cut)
                ]
            best[cut] = min(ways, key=lambda node: node.cost.work)
        return best

    def _has_segment(self, start: int, stop: int) -> bool:
        """Returns whether one of the factors start ... stop - 1 is a segment."""
        return any(leaf.segment for leaf in self.leaves[start:stop])

    def _can_be_exact(self, node: Node) -> bool:
        """Returns whether products with a matrix keep all digits: a map applied does as it says."""
        return self.exact_cost == 1 or not (node.linear and node.linear.is_applied)

    def _left_grams(self) -> dict[int, Node]:
        """Returns L^T L for the product L of the factors after the first ones."""
        best: dict[int, Node] = {}
        count = len(self.leaves)
        for cut in range(count - 1, 0, -1):
            ways = [self.gram(self._transpose(self.products[cut, count]))]
            if cut < count - 1 and not ways[0].is_constant and self._can_be_exact(self.leaves[cut]):
                forms = map(self._transpose, self.forms[cut])
                ways += [self._congruence(form, best[cut + 1]) for form in forms]
                ways += [
                    self._congruence(self._transpose(self.products[cut, stop]), best[stop])
                    for stop in range(cut + 2, count)
                    if self._has_segment(cut, stop)
                ]
            best[cut] = min(ways, key=lambda node: node.cost.work)
        return best

    def product_order(self, node: Node) -> Order:
        """Returns the squared norm of the product itself, a sum of squares."""
        p, q = node.shape
        varies = not node.is_constant or any_varies(node.cols)
        # Of a constant core the squares are summed once, and 2 p operations are left per example.
        cost = self._cost(2.0 * p * q, 0, not varies, work_per_flop=SQUARE_COST)
        cost = cost.plus(self._cost(2.0 * p, 0, False, work_per_flop=1.0), node.cost)

        def value(matrix: ScaledMatrix) -> tuple[Array, None]:
            return squared_norm(matrix, self.dtype), None

        return Order(f"‖{node.name}‖²", (node,), value, cost)

    def gram_order(self, node: Node, symmetric: Node) -> Order:
        """Returns <X, X S> for the product X of one side and the Gram matrix S of the other."""
        (p, n), name = node.shape, f"<X, X S>, X = {node.name}, S = {symmetric.name}"
        is_constant = node.is_constant and symmetric.is_constant
        is_constant &= not any_varies(node.rows, node.cols, symmetric.rows)
        # Two matrices are written: X with the diagonals multiplied in, and X S.
        flops, numbers = 2.0 * p * n * n, 2 * p * n
        work_per_flop = PRODUCTS_OF_A_NORM_BY_GRAM * self.exact_cost
        cost = self._cost(flops, numbers, is_constant, work_per_flop)
        cost = cost.plus(node.cost, symmetric.cost)
        if not symmetric.is_constant or is_constant:

            def value(x: ScaledMatrix, s: ScaledMatrix) -> tuple[Array, Array]:
                return norm_by_gram(x, s, self.dtype)

            return Order(name, (node, symmetric), value, cost)
        # One S for the whole batch: all X are multiplied by it in one large product. A constant S
        # is always a Gram matrix R R^T, never M (R R^T) M^T, so that R is its only part.
        (right,) = symmetric.parts

        def scaled(x: ScaledMatrix, s: ScaledMatrix, _: ScaledMatrix) -> tuple[Array, None]:
            return x.to_array(self.dtype, s.rows), None

        def norms(xs: Array, s: ScaledMatrix, r: ScaledMatrix) -> Array:
            without_rows = ScaledMatrix(r.core, None, r.cols).to_array(self.dtype)
            assert not isinstance(s.core, Linear)
            return norms_of_products(xs, s.core, without_rows)

        return Order(name, (node, symmetric, right), scaled, cost, norms)

    def _two_grams_order(self, left: Node, right: Node) -> Order:
        """Returns <T, S> for the Gram matrices T = L^T L and S = R R^T of the two sides."""
        size = left.shape[0]
        is_constant = left.is_constant and right.is_constant
        is_constant &= not any_varies(left.rows, right.rows)
        # Two operations to multiply the entries of T and S, two for the product with diagonals.
        flops = 4.0 * size * size
        work_per_flop = PRODUCTS_OF_A_NORM_BY_GRAMS * self.exact_cost
        cost = self._cost(flops, 0, is_constant, work_per_flop)

        def value(t: ScaledMatrix, s: ScaledMatrix) -> tuple[Array, Array]:
            return norm_by_grams(t, s, self.dtype)

        name = f"<T, S>, T = {left.name}, S = {right.name}"
        return Order(name, (left, right), value, cost.plus(left.cost, right.cost))

    def _cost(self, flops: float, numbers: int, is_constant: bool, work_per_flop: float) -> Cost:
        """Returns the cost of an operation with so many ``flops``, and of writing its result."""
        work = work_per_flop * flops + WRITES_WITH_GRADIENT * NUMBER_COST * numbers
        # A constant matrix is computed once for the batch, and no example holds a copy of it.
        if is_constant:
            return Cost(work / self.batch, flops / self.batch, 0.0)
        return Cost(work, flops, float(numbers))


def _one_is_a_matrix(left: Node, right: Node) -> bool:
    """Returns whether one of two factors is a matrix, to whose rows or columns the other applies.

    A map without segments can be written out as a matrix, if need be, and a segment cannot.
    """
    return not (left.segment and (right.segment or (right.linear and right.linear.is_applied)))


def _transpose_name(name: str) -> str:
    """Returns how the transposed matrix is called: (A B)ᵀ, and of that A B."""
    depth = np.cumsum([(c == "(") - (c == ")") for c in name])
    is_transposed = name.startswith("(") and name.endswith(")ᵀ") and bool(np.all(depth[:-2] > 0))
    return name[1:-2] if is_transposed else f"({name})ᵀ"


def any_varies(*values: Value | None) -> bool:
    """Returns whether one of the values depends on the example."""
    return any(isinstance(value, Varying) for value in values)
