"""The norm of a Jacobian that is read as a chain, for a whole batch, by the cheapest order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from jaxae._batching import replicated
from jaxae.contraction._chain import Chain, Known, Value, Varying
from jaxae.contraction._products import CANCELLATION, PRODUCT, Linear, ScaledMatrix, dense_matrix
from jaxae.contraction._search import Node, Order, Search, any_varies

# Bytes of per-example matrices that are held at a time: more are taken in groups of examples. On a
# CPU they should stay in the cache of a core between one operation and the next; an accelerator
# needs many examples at a time to be busy, and only memory bounds them.
_GROUP_BYTES = {"cpu": 2**21}
_GROUP_BYTES_ELSEWHERE = 2**28
# A batch that is not larger than so many groups is not divided: the loop would cost more.
_MIN_GROUPS = 2
# Bytes of products that are kept for the gradient; where they are more, they are computed again.
MAX_KEPT_BYTES = 2**29
# Nothing is known of an encoder that is no chain, and parts cost time: a part of a full Jacobian
# may hold several times as much as the products of a chain.
MAX_PART_BYTES = 4 * MAX_KEPT_BYTES


class ExampleValues(NamedTuple):
    """What the factors of one example, or of a batch, depend on, by the index of the value."""

    diagonals: dict[int, Array]
    """Flat, in the dtype of the products."""
    arrays: dict[int, Array]
    """As segments need them: in their own shapes and dtypes."""


# The cores that are computed already.
_Cores: TypeAlias = dict[Node, Array | Linear]
# ``jax.vmap``, or what leaves a function as it is.
_Transform: TypeAlias = Callable[[Callable[..., PyTree]], Callable[..., PyTree]]


class FactoredJacobian(NamedTuple):
    """A Jacobian as a product of factors, and the cheapest order to multiply them."""

    chain: Chain
    search: Search
    orders: list[Order]
    """The cheapest first, which is the one that is used; the others are there to be explained."""
    group: int
    """Examples at a time."""
    keeps_products: bool
    """Whether products are kept for the gradient, not computed again."""

    @property
    def equals_reverse_mode(self) -> bool:
        """Whether it is what ``jax.jacrev`` does, with maps that are applied row by row."""
        linears = [leaf.linear for leaf in self.search.leaves if not leaf.segment]
        applied = any(linear and linear.is_applied for linear in linears)
        return applied and len(self.search.leaves) > 1 and self.orders[0].is_sum_of_squares

    def codes_and_norms(self, x: Array) -> tuple[Array, Array]:
        """Returns the codes ``(n, k)`` and squared norms ``(n,)`` of ``(n, *example)``."""
        codes, values = codes_and_values(self.chain, self.search.dtype, x)
        return codes, _norms(self, self.orders, self._matrix_values, values, len(x))

    def _matrix_values(self, values: ExampleValues, cores: _Cores) -> MatrixValues:
        return MatrixValues(self.search.dtype, values, cores)

    def difference_norms(self, x: Array, other: Array) -> Array:
        """Returns the squared norms ``(n,)`` of J(x) - J(other)."""
        search, dtype = self.search, self.search.dtype
        first, count = search.leaves[0], len(search.leaves)
        pair = tuple(codes_and_values(self.chain, self.search.dtype, v)[1] for v in (x, other))
        if not jax.tree.leaves(pair[0]):
            return jnp.zeros(len(x), dtype)
        is_first_constant = not (first.segment or any_varies(first.cols))
        if count == 1 and is_first_constant:  # J is linear in its only diagonal
            change = jax.tree.map(jnp.subtract, *pair)
            return _norms(self, self.orders, self._matrix_values, change, len(x))

        # J = X W with W constant, as far as there is one: the norm of (X(x) - X(other)) W. So no
        # rounding error of W enters a difference of nearly equal numbers.
        whole = search.products[0, count]
        left = search.products[1, count] if is_first_constant else whole
        change = Node("X(x) - X(other)", left.shape, left.compute_core, is_constant=False)
        orders = [search.product_order(change)]
        if left is not whole:
            right = replace(first, rows=None)
            orders = [search.product_order(search.product(change, right))]
            orders.append(search.gram_order(change, search.gram(right)))

        def change_values(pair: tuple[ExampleValues, ExampleValues], cores: _Cores) -> MatrixValues:
            arrays = []
            for of_point in pair:
                values = MatrixValues(dtype, of_point, cores)
                # The diagonal of the first factor belongs to X, it differs between the two.
                scale = None if left is whole else values.diagonal(first.rows)
                arrays.append(values.matrix(left).to_array(dtype, scale))
            # ``change`` is no product of its parts: its core is given, and found in the table.
            return MatrixValues(dtype, None, {**cores, change: arrays[0] - arrays[1]})

        orders.sort(key=lambda order: order.cost.work)
        return _norms(self, orders, change_values, pair, len(x), more_nodes=(left,))


def factored_jacobian(
    chain: Chain, batch: int, dtype: DTypeLike, group: int | None = None
) -> FactoredJacobian:
    """Returns the Jacobian of a chain for a batch; ``group`` bounds the examples at a time."""
    search = Search(chain.factors, max(1, batch), dtype)
    orders = search.orders()
    each = _bytes_per_example(orders[0], search)
    if each == 0:  # no matrix per example, nothing to bound
        group = batch
    elif group is None:
        group = _group_size(orders[0], search, batch)
    return FactoredJacobian(chain, search, orders, max(1, group), each * batch <= MAX_KEPT_BYTES)


def _bytes_per_example(order: Order, search: Search) -> float:
    """Returns the size of the matrices that an order holds for one example."""
    return order.cost.numbers * jnp.dtype(search.dtype).itemsize


def _group_size(order: Order, search: Search, batch: int) -> int:
    """Returns how many examples an order takes at a time; all of them if there is room."""
    bound = _GROUP_BYTES.get(jax.default_backend(), _GROUP_BYTES_ELSEWHERE)
    if any(leaf.segment for leaf in search.leaves):
        # Of a segment more is held than its matrix, and one large product for all examples is
        # faster than one for each: what a full Jacobian may hold.
        bound = MAX_PART_BYTES // _MIN_GROUPS
    each = _bytes_per_example(order, search)
    if each * batch <= _MIN_GROUPS * bound:
        return batch
    group = max(1, int(bound // each))
    # A divisor of the batch that is near needs no padding, also if it is a little larger.
    divisors = [g for g in range(1, 3 * group // 2 + 1) if batch % g == 0]
    nearest = min(divisors, key=lambda divisor: max(divisor / group, group / divisor))
    return nearest if nearest > 2 * group // 3 else group


class MatrixValues:
    """Computes the matrices of nodes for one example, from its values and the constant cores.

    Without an example (no values) it computes what is constant, for the whole batch.
    """

    def __init__(self, dtype: DTypeLike, values: ExampleValues | None, cores: _Cores) -> None:
        self.dtype, self.values, self.cores = dtype, values, cores
        # The cores of this example. Without them a node that is part of two others would be
        # computed twice: the compiler finds that out for the value, but not for the gradient.
        self.own_cores: _Cores = {}

    def diagonal(self, value: Value | None) -> Array | None:
        """Returns a diagonal as a vector; None is a diagonal of ones."""
        if isinstance(value, Varying):
            # Without an example only constant cores are computed, and ``Node.is_constant`` says
            # that none of them contains a diagonal that varies. So what is left out is not used.
            return self.values.diagonals[value.index] if self.values else None
        return None if value is None else value.array.astype(self.dtype).reshape(-1)

    def array(self, value: Value) -> Array:
        """Returns an operand of a segment."""
        if isinstance(value, Known):
            return value.array
        assert self.values is not None  # a segment is no constant
        return self.values.arrays[value.index]

    def matrix(self, node: Node) -> ScaledMatrix:
        """Returns the matrix of a node; a core that was computed before is taken from there."""
        core = self.cores.get(node, self.own_cores.get(node))
        if core is None:
            core = node.compute_core(*map(self.matrix, node.parts), *map(self.array, node.operands))
            self.own_cores[node] = core
        return ScaledMatrix(core, self.diagonal(node.rows), self.diagonal(node.cols))

    def store_constant_cores(self, node: Node, *, is_for_loop: bool) -> None:
        """Computes the constant cores in a node, so that no example computes them again.

        Args:
          node: whose cores, and those of its parts, are stored.
          is_for_loop: whether a loop over groups of examples uses them.
        """
        if node.is_constant and node.linear is None:
            self.cores[node] = self.matrix(node).core
        elif node.linear is not None and node.linear.matrix is not None:
            # The map stays, because its row norms and its squares may still be of use.
            core = dense_matrix(node.linear, self.dtype)
            # The barrier keeps a transposition out of the loop. Without a loop it would only make a
            # copy, where the product can read the weights as they are.
            core = jax.lax.optimization_barrier(core) if is_for_loop else core
            self.cores[node] = node.linear._replace(matrix=lambda: core)
        else:
            for part in node.parts:
                self.store_constant_cores(part, is_for_loop=is_for_loop)


def codes_and_values(chain: Chain, dtype: DTypeLike, x: Array) -> tuple[Array, ExampleValues]:
    """Returns the codes ``(n, k)``, and what the factors depend on, for all examples."""
    diagonals = {v.index for factor in chain.factors if isinstance(v := factor.rows, Varying)}
    segments = [factor.segment for factor in chain.factors if factor.segment]
    operands = [v for segment in segments for v in segment.operands]
    arrays = {v.index for v in operands if isinstance(v, Varying)}

    def array(value: Value, values: dict[int, Array]) -> Array:
        return value.array if isinstance(value, Known) else values[value.index]

    def run_steps(x_i: Array) -> tuple[Array, ExampleValues]:
        values = {0: x_i}  # the reader gave the example the first index
        for step in chain.steps:
            outputs = step.run(*(array(value, values) for value in step.operands))
            values.update(zip(step.outputs, outputs, strict=True))
        flat = {index: values[index].astype(dtype).reshape(-1) for index in diagonals}
        return array(chain.code, values), ExampleValues(flat, {i: values[i] for i in arrays})

    return jax.vmap(run_steps)(x)


def _norms(
    jacobian: FactoredJacobian,
    orders: Sequence[Order],
    values_of: Callable[[PyTree, _Cores], MatrixValues],
    example_values: PyTree,
    size: int,
    more_nodes: Sequence[Node] = (),
) -> Array:
    """Returns the squared norm by the first order for every example, ``(size,)``.

    From outside to inside: a loop over groups of examples; for a group the first order, and where
    its terms cancel another one; ``jax.vmap`` over the examples of the group.

    Args:
      jacobian: says how many examples are taken at a time.
      orders: the order to use, and others; of those only the sum of squares may be needed.
      values_of: from the values of an example and the constant cores to its matrices.
      example_values: a pytree of the values of all examples.
      size: number of examples.
      more_nodes: nodes that ``values_of`` needs besides, whose constant cores are computed once.
    """
    best, *_ = orders
    squares_order = next(order for order in orders if order.is_sum_of_squares)
    is_for_loop = jacobian.group < size
    constants = _constant_cores(jacobian, best, more_nodes, is_for_loop=is_for_loop)
    # It takes long to compute products again, and little memory to keep them; for elementwise
    # results it is the other way round. What is not taken in groups is kept anyway.
    kept_names = [PRODUCT] if jacobian.keeps_products else []
    policy = jax.checkpoint_policies.save_only_these_names(*kept_names)
    keeping = partial(jax.checkpoint, policy=policy) if is_for_loop else _unchanged

    def value(order: Order, example_values: PyTree) -> tuple[Array, Array | None]:
        values = values_of(example_values, constants)
        return order.value(*map(values.matrix, order.parts))

    def best_values(batched: _Transform, example_values: PyTree) -> tuple[Array, Array | None]:
        values, bounds = batched(partial(value, best))(example_values)
        if best.finish is None:
            return values, bounds
        constant = MatrixValues(jacobian.search.dtype, None, constants)
        return best.finish(values, *map(constant.matrix, best.parts[1:])), None

    # It is hardly ever needed, but the program reserves memory for it, and for what it keeps. So
    # it keeps nothing, and holds few Jacobians at a time.
    def sums_of_squares(batched: _Transform, example_values: PyTree) -> Array:
        @jax.checkpoint
        def of_group(example_values: PyTree) -> Array:
            return batched(partial(value, squares_order))(example_values)[0]

        if batched is _unchanged:
            return of_group(example_values)
        count = len(jax.tree.leaves(example_values)[0])
        group = _group_size(squares_order, jacobian.search, count)
        return _in_groups(of_group, example_values, jacobian._replace(group=group))

    def group_norms(batched: _Transform, example_values: PyTree) -> Array:
        values, bounds = keeping(partial(best_values, batched))(example_values)
        if bounds is None:
            return values
        # Where large terms cancel, their rounding errors remain: then a sum of squares instead.
        is_safe = jnp.all(jax.lax.stop_gradient(bounds <= CANCELLATION * values))
        squares = partial(sums_of_squares, batched, example_values)
        return jax.lax.cond(is_safe, lambda: values, squares)

    leaves = jax.tree.leaves(example_values)
    if not leaves:  # a constant Jacobian, one norm for all
        return jnp.broadcast_to(group_norms(_unchanged, example_values), size)

    def norms_of(example_values: PyTree) -> Array:
        if len(jax.tree.leaves(example_values)[0]) > 1:
            return group_norms(jax.vmap, example_values)
        # XLA does better without an axis of one example.
        return group_norms(_unchanged, jax.tree.map(lambda a: a[0], example_values))[None]

    return _in_groups(norms_of, example_values, jacobian)


def _constant_cores(
    jacobian: FactoredJacobian, order: Order, more_nodes: Sequence[Node], *, is_for_loop: bool
) -> _Cores:
    """Returns the cores of an order that are the same for all examples."""
    constants = MatrixValues(jacobian.search.dtype, None, {})
    for part in (*order.parts, *more_nodes):
        # The norm of a single factor needs the norms of its rows, and no matrix.
        if not order.is_sum_of_squares or part.linear is None:
            constants.store_constant_cores(part, is_for_loop=is_for_loop)
    return constants.cores


def _unchanged(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Returns ``function``: stands where ``jax.vmap`` would, if there is no batch."""
    return function


def _in_groups(
    function: Callable[[PyTree], Array], example_values: PyTree, jacobian: FactoredJacobian
) -> Array:
    """Returns ``function`` of groups of examples; a remainder is filled with zeros."""
    leaves, tree = jax.tree.flatten(example_values)
    size = len(leaves[0])
    if jacobian.group >= size:
        return function(example_values)
    group = max(g for g in range(1, jacobian.group + 1) if size % g == 0)
    # As ``chunk_size`` sets it the group need not divide the batch. A divisor needs no padding; but
    # not one so small that the loop gets twice as long.
    if group <= jacobian.group // 2:
        group = jacobian.group
    # One array of all diagonals, so that the loop has one to cut and one to fill.
    is_row = [leaf.ndim == 2 and leaf.dtype == jacobian.search.dtype for leaf in leaves]
    rows = [leaf for leaf, is_one in zip(leaves, is_row, strict=True) if is_one]
    others = [leaf for leaf, is_one in zip(leaves, is_row, strict=True) if not is_one]
    ends = np.cumsum([leaf.shape[1] for leaf in rows])[:-1]

    def group_norms(packed: list[Array]) -> Array:
        in_rows = iter(jnp.split(packed[0], ends, axis=1) if rows else [])
        in_others = iter(packed[1:] if rows else packed)
        found = [next(in_rows if is_one else in_others) for is_one in is_row]
        return function(jax.tree.unflatten(tree, found))

    def groups(array: Array) -> Array:
        array = replicated(array)
        array = jnp.pad(array, ((0, -size % group), *(((0, 0),) * (array.ndim - 1))))
        return array.reshape(-1, group, *array.shape[1:])

    packed = [*([jnp.concatenate(rows, axis=1)] if rows else []), *others]
    return jax.lax.map(group_norms, [groups(a) for a in packed]).reshape(-1)[:size]
