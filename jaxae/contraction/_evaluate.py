"""The norm of a Jacobian that is read as a chain, for a whole batch, by the cheapest order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxae._batching import replicated
from jaxae.contraction._chain import Chain, Known, Value, Varying
from jaxae.contraction._products import CANCELLATION, PRODUCT, Scaled, dense
from jaxae.contraction._search import Node, Order, Search, any_varies

# Bytes of per-example matrices for which examples are taken in groups, and of all that is kept
# for the gradient before it is computed again instead.
_GROUP = {"cpu": 2**21}
_GROUP_ELSEWHERE = 2**28
MOST_KEPT = 2**29


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

    def codes_and_norms(self, x: Array) -> tuple[Array, Array]:
        """Returns the codes ``(n, k)`` and squared norms ``(n,)`` of ``(n, *example)``."""
        codes, diagonals = _codes_and_diagonals(self, x)
        values = lambda diagonals, cores: _Values(self.search.dtype, diagonals, cores)
        return codes, _norms(self, self.orders, values, diagonals, len(x))

    def difference_norms(self, x: Array, other: Array) -> Array:
        """Returns the squared norms ``(n,)`` of J(x) - J(other)."""
        search, dtype = self.search, self.search.dtype
        first, count = search.leaves[0], len(search.leaves)
        pair = tuple(_codes_and_diagonals(self, v)[1] for v in (x, other))
        if not pair[0]:
            return jnp.zeros(len(x), dtype)
        if count == 1 and not any_varies(first.cols):  # J is linear in its only diagonal
            change = jax.tree.map(jnp.subtract, *pair)
            values = lambda diagonals, cores: _Values(dtype, diagonals, cores)
            return _norms(self, self.orders, values, change, len(x))

        # J = X W with W constant, as far as there is one: the norm of (X(x) - X(other)) W.
        whole = search.products[0, count]
        top = whole if any_varies(first.cols) else search.products[1, count]
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
        return _norms(self, orders, of_pair, pair, len(x), hoist=(top,))


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
    return Plan(chain, search, orders, max(1, group), each * batch <= MOST_KEPT)


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
