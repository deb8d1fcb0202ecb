"""Full Jacobians, for encoders that ``_trace`` cannot read: by forward or reverse mode, in chunks.

A full Jacobian of a whole batch may need too much memory. Then some columns or rows of all examples
are computed at a time, in a loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxae import _checks
from jaxae._batching import varying_as
from jaxae._convolutions import has_convolutions, with_ordered_convolutions
from jaxae._derivatives import first_working_method
from jaxae.contraction._column_sums import Sums
from jaxae.contraction._costs import Counts
from jaxae.contraction._counting import count_derivative
from jaxae.contraction._evaluate import MAX_PART_BYTES


class FullJacobian(NamedTuple):
    """A full Jacobian by ``jax.jacfwd`` or ``jax.jacrev``, all of it or a part at a time."""

    encode: Callable[[Array], Array]
    method: str
    directions: int
    """Columns for ``jax.jacfwd``, rows for ``jax.jacrev``."""
    chunk_size: int | None
    """Columns or rows at a time; None is all."""
    flops: float = math.nan
    """Of the value, per example."""
    numbers: float = math.nan
    """Held at a time, per example of the batch."""
    work: float = math.nan
    """Of value and gradient, per example, in the unit of ``_costs``."""
    sums: np.ndarray | None = None
    """Sums of columns or rows that have the same norm as all of them; None is each by itself."""

    @property
    def num_derivatives(self) -> int:
        """How many derivatives the norm takes."""
        return self.directions if self.sums is None else len(self.sums)

    def codes_and_norms(self, x: Array) -> tuple[Array, Array]:
        """Returns the codes ``(n, k)`` and squared norms ``(n,)`` of ``(n, *example)``."""
        return self._codes_and_norms(x)

    def difference_norms(self, x: Array, other: Array) -> Array:
        """Returns the squared norms ``(n,)`` of J(x) - J(other)."""
        return self._codes_and_norms(x, other)[1]

    def _codes_and_norms(self, *points: Array) -> tuple[Array, Array]:
        norm = norm_by_columns if self.method == "jacfwd" else norm_by_rows
        return jax.vmap(partial(norm, self.encode, self.chunk_size, self.sums))(*points)

    def matrix(self, x_i: Array) -> Array:
        """Returns the Jacobian of one example, ``(k, d)``."""
        is_forward = self.method == "jacfwd"
        if self.chunk_size is None or self.chunk_size >= self.directions:
            whole = (jax.jacfwd if is_forward else jax.jacrev)(self.encode)(x_i)
            return whole.reshape(len(whole), x_i.size)
        if is_forward:
            code, along = jax.linearize(self.encode, x_i)
            direction = x_i
        else:
            code, pullback = jax.vjp(self.encode, x_i)
            along, direction = (lambda u: pullback(u)[0]), code

        def column_or_row(index: Array) -> Array:
            one = jax.nn.one_hot(index, direction.size, dtype=direction.dtype)
            return along(varying_as(one.reshape(direction.shape), direction)).reshape(-1)

        parts = jax.lax.map(column_or_row, jnp.arange(direction.size), batch_size=self.chunk_size)
        return parts.T if is_forward else parts


def full_jacobian(
    encode: Callable[[Array], Array],
    method: str,
    example: jax.ShapeDtypeStruct,
    code: jax.ShapeDtypeStruct,
    chunk_size: int | None,
) -> FullJacobian:
    """Returns the full Jacobian by ``method``, so many columns or rows at a time."""
    directions = math.prod(example.shape if method == "jacfwd" else code.shape)
    if chunk_size is not None and chunk_size < directions:
        encode = for_loops(encode, example)
    return FullJacobian(encode, method, directions, chunk_size)


def for_loops(
    encode: Callable[[Array], Array], example: jax.ShapeDtypeStruct
) -> Callable[[Array], Array]:
    """Returns an encoder of which the derivatives are as fast inside a loop as outside."""
    is_slow = jax.default_backend() == "cpu" and has_convolutions(
        jax.make_jaxpr(encode)(example).jaxpr
    )
    return with_ordered_convolutions(encode) if is_slow else encode


def full_jacobians(
    encode: Callable[[Array], Array],
    example: jax.ShapeDtypeStruct,
    code: jax.ShapeDtypeStruct,
    batch: int,
    chunk_size: int | None,
    sums: Sums | None = None,
) -> list[FullJacobian]:
    """Returns those of ``jax.jacfwd`` and ``jax.jacrev`` that work, the cheaper first.

    ``sums`` are those of ``find_sums``, for norms.
    """

    # Under ``jax.vmap``, as they are used: some rules that are missing are missed only there.
    def column(x_i: Array, t: Array) -> Array:
        return jax.vmap(lambda t: jax.jvp(encode, (x_i,), (t,))[1])(t[None])

    def row(x_i: Array, u: Array) -> Array:
        code, pullback = jax.vjp(encode, x_i)
        return jax.vmap(pullback)(varying_as(u[None], code))[0]

    of_columns, of_rows = sums or (None, None)
    ways = (("jacfwd", column, example, of_columns), ("jacrev", row, code, of_rows))
    found = []
    for method, derivative, direction, own_sums in ways:
        try:
            trace = jax.make_jaxpr(derivative)(example, direction)
        except Exception:  # of any class: a rule that is missing, or the user's own
            continue
        # The directions themselves are written too.
        counts = count_derivative(trace.jaxpr)
        counts = counts.plus(Counts(numbers=float(math.prod(direction.shape))))
        size = max(1, math.prod(direction.shape) if own_sums is None else len(own_sums))
        each = max(1.0, counts.held * batch * jnp.dtype(code.dtype).itemsize)
        # ``chunk_size`` is the user's word; without it, as many as memory allows.
        chunk = min(size, chunk_size or max(1, int(MAX_PART_BYTES // each)))
        jacobian = full_jacobian(encode, method, example, code, chunk)
        costs = size * counts.flops, chunk * counts.held, size * counts.work
        found.append(FullJacobian(*jacobian[:4], *costs, own_sums))
    return sorted(found, key=lambda jacobian: jacobian.work)


def cheapest_full_jacobian(
    encode: Callable[[Array], Array],
    example: jax.ShapeDtypeStruct,
    code: jax.ShapeDtypeStruct,
    batch: int,
    chunk_size: int | None,
    sums: Sums | None = None,
) -> FullJacobian:
    """Returns the cheaper of the full Jacobians that work; raises ``TypeError`` if none does."""
    found = full_jacobians(encode, example, code, batch, chunk_size, sums)
    if not found:
        first_working_method(encode, example)  # raises the error that says why
    return found[0]


def norm_by_columns(
    encode: Callable[[Array], Array],
    chunk_size: int | None,
    sums: np.ndarray | None,
    x_i: Array,
    *other: Array,
) -> tuple[Array, Array]:
    """Returns the code of x, and ||J(x)||^2 or ||J(x) - J(other)||^2 from chunks of columns."""
    if not other and sums is None and (chunk_size is None or chunk_size >= x_i.size):
        # The code comes with the forward derivatives for nothing.
        jacobian, code = jax.jacfwd(lambda v: (encode(v),) * 2, has_aux=True)(x_i)
        return code, sum_of_squares(jacobian)

    def block(directions: Array) -> Array:
        return sum_of_squares(*(_columns(encode, v, directions) for v in (x_i, *other)))

    return encode(x_i), _sum_over_directions(block, x_i, chunk_size, sums)


def norm_by_rows(
    encode: Callable[[Array], Array],
    chunk_size: int | None,
    sums: np.ndarray | None,
    x_i: Array,
    *other: Array,
) -> tuple[Array, Array]:
    """Returns the code of x, and ||J(x)||^2 or ||J(x) - J(other)||^2 from chunks of rows."""
    code, pullback = jax.vjp(encode, x_i)
    pullbacks = [pullback, *(jax.vjp(encode, v)[1] for v in other)]

    def block(directions: Array) -> Array:  # (chunk, k) -> rows of J, (chunk, *example)
        directions = varying_as(directions, code)
        return sum_of_squares(*(jax.vmap(f)(directions)[0] for f in pullbacks))

    return code, _sum_over_directions(block, code, chunk_size, sums)


def _columns(encode: Callable[[Array], Array], x_i: Array, directions: Array) -> Array:
    """Returns J directions^T, ``(k, chunk)``, for directions ``(chunk, d)``."""

    # The Jacobian at 0 of this function of ``chunk`` numbers, and no more of J than that.
    def code_along(t: Array) -> Array:
        return encode(x_i + (t @ directions).reshape(x_i.shape))

    return jax.jacfwd(code_along)(jnp.zeros(len(directions), x_i.dtype))


def sum_of_squares(a: Array, b: Array | None = None) -> Array:
    """Returns ||a||^2, or ||a - b||^2. In half precision small squares would be 0."""
    dtype = _checks.wide(a.dtype)
    change = a.astype(dtype) if b is None else a.astype(dtype) - b.astype(dtype)
    return jnp.sum(jnp.square(change))


def _sum_over_directions(
    block: Callable[[Array], Array], value: Array, chunk_size: int | None, sums: np.ndarray | None
) -> Array:
    """Returns the sum of ``block`` over chunks of directions of ``value``, flat."""
    count = value.size if sums is None else len(sums)

    # A padding index beyond the last gives a row of zeros, which adds nothing.
    def block_of_indices(indices: Array) -> Array:
        if sums is None:
            return block(jax.nn.one_hot(indices, value.size, dtype=value.dtype))
        directions = jnp.asarray(sums, value.dtype)
        return block(jnp.take(directions, indices, axis=0, mode="fill", fill_value=0))

    return _sum_over_chunks(block_of_indices, count, chunk_size or count)


def _sum_over_chunks(block: Callable[[Array], Array], size: int, chunk_size: int) -> Array:
    """Returns the sum of ``block(indices)`` over 0 ... size - 1 in padded chunks."""
    if chunk_size >= size:
        return block(jnp.arange(size))
    count = -(-size // chunk_size)
    # Chunks of equal size: of 32 rows, 25 at a time, two chunks of 16, and not 18 rows of padding.
    even = -(-size // count)
    indices = jnp.arange(count * even).reshape(count, even)
    # Checkpointed, so that a gradient recomputes a chunk instead of keeping all of them.
    return jnp.sum(jax.lax.map(jax.checkpoint(block), indices))
