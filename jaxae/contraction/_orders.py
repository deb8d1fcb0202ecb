"""The cheapest way to the squared norm of a Jacobian, and the norm.

In this order: the search for the order of multiplication, evaluation, and the full Jacobians that
are left where there is no structure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import Array

from jaxae._batching import replicated
from jaxae.contraction._products import (
    CANCELLATION,
    PRODUCT,
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
from jaxae.contraction._structure import MAPS, Chain, Factor, Known, Value, Varying, flops_of

# ---------------------------------------------------------------------- search

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
        is_constant &= not _any_varies(left.cols, right.rows)
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
        is_constant = node.is_constant and not _any_varies(node.cols)
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
        is_product = not node.is_constant or _any_varies(node.cols)
        cost = self._cost(2.0 * p * q, 0, not is_product, products=_NUMBER / 4)
        cost = cost.plus(self._cost(2.0 * p, 0, False, products=1.0), node.cost)
        value = lambda a: (squared_norm(a, self.dtype), None)
        return Order(f"‖{node.name}‖²", (node,), value, cost)

    def by_gram(self, node: Node, symmetric: Node) -> Order:
        (p, n), name = node.shape, f"<X, X S>, X = {node.name}, S = {symmetric.name}"
        is_constant = node.is_constant and symmetric.is_constant
        is_constant &= not _any_varies(node.rows, node.cols, symmetric.rows)
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
        is_constant &= not _any_varies(left.rows, right.rows)
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


def _any_varies(*values: Value | None) -> bool:
    return any(isinstance(value, Varying) for value in values)


# ---------------------------------------------------------------------- evaluation

# Bytes of per-example matrices for which examples are taken in groups, and of all that is kept
# for the gradient before it is computed again instead.
_GROUP = {"cpu": 2**21}
_GROUP_ELSEWHERE = 2**28
_KEPT = 2**29


class Plan(NamedTuple):
    """How the penalty of a chain is computed."""

    chain: Chain
    search: "Search"
    orders: list[Order]
    group: int
    """Examples at a time."""
    keeps: bool
    """Whether products are kept for the gradient, not computed again."""

    @property
    def is_reverse(self) -> bool:
        """Whether it is what ``jax.jacrev`` does, with maps that are applied row by row."""
        applied = any(leaf.linear and leaf.linear.is_applied for leaf in self.search.leaves)
        return applied and len(self.search.leaves) > 1 and len(self.orders[0].parts) == 1


def plan_for(chain: Chain, batch: int, dtype: Any, group: int | None = None) -> Plan:
    """Returns the cheapest plan for a batch; ``group`` bounds the examples at a time."""
    search = Search(chain.factors, max(1, batch), dtype)
    orders = search.orders()
    each = max(1.0, orders[0].cost.numbers * jnp.dtype(dtype).itemsize)
    bound = _GROUP.get(jax.default_backend(), _GROUP_ELSEWHERE)
    if orders[0].cost.numbers == 0:  # no matrix per example, nothing to bound
        group = batch
    elif group is None:
        group = batch if each * batch <= 4 * bound else int(bound // each)
    return Plan(chain, search, orders, max(1, group), each * batch <= _KEPT)


class _Values:
    """Diagonals of one example, or of none; and the constant matrices of the batch."""

    def __init__(self, dtype: Any, diagonals: dict[int, Array], cores: dict[Node, Any]) -> None:
        self.dtype, self.diagonals, self.cores = dtype, diagonals, cores

    def of(self, value: Value | None) -> Array | None:
        if isinstance(value, Varying):
            # What is constant is computed without an example, and looks at no diagonal of it.
            return self.diagonals[value.index] if self.diagonals else None
        return None if value is None else value.array.astype(self.dtype).reshape(-1)

    def matrix(self, node: Node) -> Scaled:
        core = self.cores.get(node)
        if core is None:
            core = node.core(*map(self.matrix, node.parts))
        return Scaled(core, self.of(node.rows), self.of(node.cols))

    def hoist(self, node: Node) -> None:
        """Computes what is constant once, before the examples are taken up."""
        if node.is_constant and node.linear is None:
            self.cores[node] = self.matrix(node).core
        elif node.linear is not None and node.linear.matrix is not None:
            core = dense(node.linear, self.dtype)
            self.cores[node] = node.linear._replace(matrix=lambda: core)
        else:
            for part in node.parts:
                self.hoist(part)


def codes_and_norms(plan: Plan, x: Array) -> tuple[Array, Array]:
    """Returns the codes ``(n, k)`` and the squared norms ``(n,)`` of examples ``(n, *example)``."""
    codes, diagonals = _codes_and_diagonals(plan, x)
    values = lambda diagonals, cores: _Values(plan.search.dtype, diagonals, cores)
    return codes, _norms(plan, plan.orders, values, diagonals, len(x))


def difference_norms(plan: Plan, x: Array, other: Array) -> Array:
    """Returns the squared norms ``(n,)`` of J(x) - J(other)."""
    search, dtype = plan.search, plan.search.dtype
    first, count = search.leaves[0], len(search.leaves)
    pair = tuple(_codes_and_diagonals(plan, v)[1] for v in (x, other))
    if not pair[0]:
        return jnp.zeros(len(x), dtype)
    if count == 1 and not _any_varies(first.cols):  # J is linear in its only diagonal
        change = jax.tree.map(jnp.subtract, *pair)
        values = lambda diagonals, cores: _Values(dtype, diagonals, cores)
        return _norms(plan, plan.orders, values, change, len(x))

    # J = X W with W constant, as far as there is one: the norm of (X(x) - X(other)) W.
    whole = search.products[0, count]
    top = whole if _any_varies(first.cols) else search.products[1, count]
    change = Node("X(x) - X(other)", top.shape, top.core, is_constant=False)
    orders = [search.plain(change)]
    if top is not whole:
        right = replace(first, rows=None)
        orders = [search.plain(search.times(change, right))]
        orders.append(search.by_gram(change, search.gram(right)))

    def of_pair(pair: Any, cores: dict[Node, Any]) -> _Values:
        each = [_Values(dtype, diagonals, cores) for diagonals in pair]
        scale = lambda v: None if top is whole else v.of(first.rows)
        written = [v.matrix(top).written(dtype, scale(v)) for v in each]
        return _Values(dtype, {}, {**cores, change: written[0] - written[1]})

    orders.sort(key=lambda order: order.cost.work)
    return _norms(plan, orders, of_pair, pair, len(x), hoist=(top,))


def _codes_and_diagonals(plan: Plan, x: Array) -> tuple[Array, dict[int, Array]]:
    """Returns the codes ``(n, k)`` and the diagonals that depend on the example ``(n, size)``."""
    chain = plan.chain
    needed = {v.index for factor in chain.factors if isinstance(v := factor.rows, Varying)}
    array = lambda value, values: value.array if isinstance(value, Known) else values[value.index]

    def along(x_i: Array) -> tuple[Array, dict[int, Array]]:
        values = {0: x_i}
        for step in chain.steps:
            outputs = step.run(*(array(value, values) for value in step.operands))
            values.update(zip(step.outputs, outputs, strict=True))
        flat = {index: values[index].astype(plan.search.dtype).reshape(-1) for index in needed}
        return array(chain.code, values), flat

    return jax.vmap(along)(x)


def _norms(
    plan: Plan,
    orders: Sequence[Order],
    values_of: Callable[[Any, dict[Node, Any]], _Values],
    diagonals: Any,
    size: int,
    hoist: Sequence[Node] = (),
) -> Array:
    """Returns the value of the first order for every example, ``(size,)``."""
    best, *_ = orders
    constants = _Values(plan.search.dtype, {}, {})
    for part in (*best.parts, *hoist):
        if len(best.parts) > 1 or part.linear is None:
            constants.hoist(part)

    def value(order: Order, diagonals: Any) -> tuple[Array, Array | None]:
        values = values_of(diagonals, constants.cores)
        return order.value(*map(values.matrix, order.parts))

    def of_group(diagonals: Any) -> Array:
        leaves = jax.tree.leaves(diagonals)
        if leaves and len(leaves[0]) == 1:  # XLA does better without an axis of one example
            return of_some(jax.tree.map(lambda a: a[0], diagonals), lambda f: f)[None]
        return of_some(diagonals, jax.vmap if leaves else lambda f: f)

    def of_some(diagonals: Any, each: Any) -> Array:
        values, bounds = each(partial(value, best))(diagonals)
        if best.finish is not None:
            constant = _Values(plan.search.dtype, {}, constants.cores)
            return best.finish(values, *map(constant.matrix, best.parts[1:]))
        if bounds is None:
            return values
        # Where large terms cancel, their rounding errors remain: then a sum of squares instead.
        is_safe = jnp.all(jax.lax.stop_gradient(bounds <= CANCELLATION * values))
        plain = next(order for order in orders if len(order.parts) == 1)
        squares = jax.checkpoint(lambda diagonals: each(partial(value, plain))(diagonals)[0])
        return jax.lax.cond(is_safe, lambda: values, lambda: squares(diagonals))

    if not jax.tree.leaves(diagonals):
        return jnp.broadcast_to(of_group(diagonals), size)
    return _in_groups(of_group, diagonals, plan)


def _in_groups(function: Callable[[Any], Array], diagonals: Any, plan: Plan) -> Array:
    """Returns ``function`` of groups of examples; a remainder is filled with zeros."""
    leaves, tree = jax.tree.flatten(diagonals)
    size = len(leaves[0])
    if plan.group >= size:
        return function(diagonals)
    group = max(g for g in range(1, plan.group + 1) if size % g == 0)
    if group <= plan.group // 2:
        group = plan.group
    # One array of all diagonals, so that the loop has one to cut and one to fill.
    packed = replicated(jnp.concatenate(leaves, axis=1))
    packed = jnp.pad(packed, ((0, -size % group), (0, 0)))
    ends = np.cumsum([leaf.shape[1] for leaf in leaves])[:-1]
    policies = jax.checkpoint_policies
    policy = policies.save_only_these_names(*[PRODUCT] * plan.keeps)
    unpack = lambda packed: jax.tree.unflatten(tree, jnp.split(packed, ends, axis=1))
    of_group = jax.checkpoint(lambda packed: function(unpack(packed)), policy=policy)
    return jax.lax.map(of_group, packed.reshape(-1, group, packed.shape[1])).reshape(-1)[:size]


# ---------------------------------------------------------------------- fallback

# One reverse derivative costs about as much as this many forward ones. Measured on a CPU with
# value and gradient, 784 or 64 inputs, batches of 8 to 128: 2 to 5 with two sigmoid layers, 3 to
# 15 with one; where a single layer is misjudged, both cost nearly the same.
_REVERSE_COST = 5


class Full(NamedTuple):
    """A full Jacobian by ``jax.jacfwd`` or ``jax.jacrev``, so many columns or rows at a time."""

    method: str
    chunk_size: int
    flops: float
    """Of the value, per example."""
    numbers: float
    """Held per example."""


def full_jacobians(
    encode: Callable[[Array], Array], example: Any, code: Any, batch: int, chunk_size: int | None
) -> list[Full]:
    """Returns ``jax.jacfwd`` and ``jax.jacrev``, the cheaper first; one of them may not work."""
    numbers, flops = _contents(jax.make_jaxpr(encode)(example).jaxpr)
    directions = {"jacfwd": math.prod(example.shape), "jacrev": math.prod(code.shape)}
    cost = {"jacfwd": directions["jacfwd"], "jacrev": _REVERSE_COST * directions["jacrev"]}
    each = 3 * numbers * batch * jnp.dtype(code.dtype).itemsize
    found = []
    for method in sorted(cost, key=cost.__getitem__):
        size = max(1, directions[method])
        chunk = min(size, chunk_size or max(1, 4 * _KEPT // max(1, each)))
        found.append(Full(method, chunk, size * flops, chunk * numbers))
    return found


def _contents(jaxpr: jex.Jaxpr) -> tuple[int, float]:
    """Returns how many numbers a trace makes, and its operations."""
    numbers, flops = 0, 0.0
    for eqn in jaxpr.eqns:
        inner = [_contents(sub) for sub in jex.jaxprs_in_params(eqn.params)]
        sizes = [getattr(v.aval, "size", 0) for v in (*eqn.invars[:1], *eqn.outvars)]
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        numbers += repeats * max((count for count, _ in inner), default=sum(sizes[1:]))
        own = flops_of(eqn, *sizes[:2]) if eqn.primitive.name in MAPS else sum(sizes[1:])
        flops += repeats * max((count for _, count in inner), default=float(own))
    return numbers, flops
