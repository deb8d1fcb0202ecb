"""Full Jacobians, for encoders that are no chain: which of the two ways, and the norm in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jaxtyping import Array, PRNGKeyArray

from jaxae import _checks
from jaxae._batching import varying_as
from jaxae._derivatives import times_jacobian
from jaxae.contraction._evaluate import MAX_KEPT_BYTES
from jaxae.contraction._rules import MAPS, flops_of

# Numbers that a derivative holds for each number of the encoder's trace: the number, its derivative
# along the direction, and the derivative of the loss in that.
_HELD_PER_NUMBER = 3
# Nothing is known of such an encoder, and chunks cost time: they may hold several times as much as
# the products of a chain before they are divided.
_MAX_CHUNK_BYTES = 4 * MAX_KEPT_BYTES

# One reverse derivative costs about as much as this many forward ones. Measured on a CPU with
# value and gradient, 784 or 64 inputs, batches of 8 to 128: 2 to 5 with two sigmoid layers, 3 to
# 15 with one; where a single layer is misjudged, both cost nearly the same.
_REVERSE_COST = 5


class FullJacobian(NamedTuple):
    """A full Jacobian by ``jax.jacfwd`` or ``jax.jacrev``, so many columns or rows at a time."""

    encode: Callable[[Array], Array]
    method: str
    chunk_size: int | None
    flops: float = math.nan
    """Of the value, per example."""
    numbers: float = math.nan
    """Held per example."""

    def codes_and_norms(self, x: Array) -> tuple[Array, Array]:
        """Returns the codes ``(n, k)`` and squared norms ``(n,)`` of ``(n, *example)``."""
        return self._codes_and_norms(x)

    def difference_norms(self, x: Array, other: Array) -> Array:
        """Returns the squared norms ``(n,)`` of J(x) - J(other)."""
        return self._codes_and_norms(x, other)[1]

    def _codes_and_norms(self, *points: Array) -> tuple[Array, Array]:
        norm = norm_by_columns if self.method == "jacfwd" else norm_by_rows
        return jax.vmap(partial(norm, self.encode, self.chunk_size))(*points)


def full_jacobians(
    encode: Callable[[Array], Array],
    example: jax.ShapeDtypeStruct,
    code: jax.ShapeDtypeStruct,
    batch: int,
    chunk_size: int | None,
) -> list[FullJacobian]:
    """Returns ``jax.jacfwd`` and ``jax.jacrev``, the cheaper first; one of them may not work."""
    numbers, flops = _contents(jax.make_jaxpr(encode)(example).jaxpr)
    directions = {"jacfwd": math.prod(example.shape), "jacrev": math.prod(code.shape)}
    cost = {"jacfwd": directions["jacfwd"], "jacrev": _REVERSE_COST * directions["jacrev"]}
    each = _HELD_PER_NUMBER * numbers * batch * jnp.dtype(code.dtype).itemsize
    found = []
    for method in sorted(cost, key=cost.__getitem__):
        size = max(1, directions[method])
        # ``chunk_size`` is the user's word; without it, as many as memory allows.
        chunk = min(size, chunk_size or max(1, _MAX_CHUNK_BYTES // max(1, each)))
        found.append(FullJacobian(encode, method, chunk, size * flops, chunk * numbers))
    return found


def _contents(jaxpr: jex.Jaxpr) -> tuple[int, float]:
    """Returns how many numbers a trace computes, and with how many operations.

    Of several inner traces (the branches of ``jax.lax.cond``) the largest counts, of a loop of
    unknown length one round.
    """
    numbers, flops = 0, 0.0
    for eqn in jaxpr.eqns:
        inner = [_contents(sub) for sub in jex.jaxprs_in_params(eqn.params)]
        sizes = [getattr(v.aval, "size", 0) for v in (*eqn.invars[:1], *eqn.outvars)]
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        numbers += repeats * max((count for count, _ in inner), default=sum(sizes[1:]))
        own = flops_of(eqn, *sizes[:2]) if eqn.primitive.name in MAPS else sum(sizes[1:])
        flops += repeats * max((count for _, count in inner), default=float(own))
    return numbers, flops


def norm_by_columns(
    encode: Callable[[Array], Array], chunk_size: int | None, x_i: Array, *other: Array
) -> tuple[Array, Array]:
    """Returns the code of x, and ||J(x)||^2 or ||J(x) - J(other)||^2 from chunks of columns."""
    if not other and (chunk_size is None or chunk_size >= x_i.size):
        # The code comes with the forward derivatives for nothing.
        jacobian, code = jax.jacfwd(lambda v: (encode(v),) * 2, has_aux=True)(x_i)
        return code, _sum_of_squares(jacobian)

    def block(directions: Array) -> Array:
        return _sum_of_squares(*(_columns(encode, v, directions) for v in (x_i, *other)))

    return encode(x_i), _sum_over_basis(block, x_i.size, chunk_size or x_i.size, x_i.dtype)


def norm_by_rows(
    encode: Callable[[Array], Array], chunk_size: int | None, x_i: Array, *other: Array
) -> tuple[Array, Array]:
    """Returns the code of x, and ||J(x)||^2 or ||J(x) - J(other)||^2 from chunks of rows."""
    code, pullback = jax.vjp(encode, x_i)
    pullbacks = [pullback, *(jax.vjp(encode, v)[1] for v in other)]

    def block(directions: Array) -> Array:  # (chunk, k) -> rows of J, (chunk, *example)
        directions = varying_as(directions, code)
        return _sum_of_squares(*(jax.vmap(f)(directions)[0] for f in pullbacks))

    return code, _sum_over_basis(block, code.size, chunk_size or code.size, code.dtype)


def _columns(encode: Callable[[Array], Array], x_i: Array, directions: Array) -> Array:
    """Returns J directions^T, ``(k, chunk)``, for directions ``(chunk, d)``."""

    # The Jacobian at 0 of this function of ``chunk`` numbers, and no more of J than that.
    def code_along(t: Array) -> Array:
        return encode(x_i + (t @ directions).reshape(x_i.shape))

    return jax.jacfwd(code_along)(jnp.zeros(len(directions), x_i.dtype))


def probed_norm(
    encode: Callable[[Array], Array],
    probes: str,
    num_samples: int,
    chunk_size: int,
    x_i: Array,
    key: PRNGKeyArray,
) -> Array:
    """Returns the mean of ||J v||^2 over random probes v with E[v v^T] = I."""
    draw: Callable[..., Array] = (
        jax.random.rademacher if probes == "rademacher" else jax.random.normal
    )

    def squared_length(sample: Array) -> Array:
        wide = draw(jax.random.fold_in(key, sample), x_i.shape, _checks.wide(x_i.dtype))
        # Drawn in float32 for narrower inputs too, so that the draws are the same in every dtype.
        v = wide.astype(x_i.dtype)
        return _sum_of_squares(times_jacobian(encode, x_i, v))

    def block(samples: Array) -> Array:
        # The last chunk is filled up with samples that do not count.
        lengths = jax.vmap(squared_length)(samples)
        return jnp.sum(jnp.where(samples < num_samples, lengths, jnp.zeros_like(lengths)))

    return _sum_over_chunks(block, num_samples, chunk_size) / num_samples


def _sum_of_squares(a: Array, b: Array | None = None) -> Array:
    """Returns ||a||^2, or ||a - b||^2. In half precision small squares would be 0."""
    dtype = _checks.wide(a.dtype)
    change = a.astype(dtype) if b is None else a.astype(dtype) - b.astype(dtype)
    return jnp.sum(jnp.square(change))


def _sum_over_basis(
    block: Callable[[Array], Array], size: int, chunk_size: int, dtype: jnp.dtype
) -> Array:
    """Returns the sum of ``block`` over chunks of the standard basis of R^size."""

    def block_of_indices(indices: Array) -> Array:
        # A padding index beyond the last gives a row of zeros, which adds nothing.
        return block(jax.nn.one_hot(indices, size, dtype=dtype))

    return _sum_over_chunks(block_of_indices, size, chunk_size)


def _sum_over_chunks(block: Callable[[Array], Array], size: int, chunk_size: int) -> Array:
    """Returns the sum of ``block(indices)`` over 0 ... size - 1 in padded chunks."""
    if chunk_size >= size:
        return block(jnp.arange(size))
    count = -(-size // chunk_size)
    indices = jnp.arange(count * chunk_size).reshape(count, chunk_size)
    # Checkpointed, so that a gradient recomputes a chunk instead of keeping all of them.
    return jnp.sum(jax.lax.map(jax.checkpoint(block), indices))
