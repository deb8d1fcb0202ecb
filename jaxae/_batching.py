"""From one example to a batch: nested ``jax.vmap`` over the leading axes, and its random draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from jaxae._checks import wide

Output = TypeVar("Output")


def over_batch(function: Callable[..., Output], batch_ndim: int) -> Callable[..., Output]:
    """Returns ``function`` vmapped over the ``batch_ndim`` leading axes of every argument."""
    for _ in range(batch_ndim):
        function = jax.vmap(function)
    return function


def one_example(x: Array, batch_ndim: int) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of one example of a batch, for tracing.

    Inside ``jax.shard_map`` also over which axes of the mesh it varies.
    """
    if varying_axes(x):
        return jax.eval_shape(lambda x: jnp.sum(x, axis=tuple(range(batch_ndim))), x)
    return jax.ShapeDtypeStruct(x.shape[batch_ndim:], x.dtype)


def varying_axes(x: Array | jax.ShapeDtypeStruct) -> tuple[str, ...]:
    """Returns over which axes of the mesh of a ``jax.shard_map`` an array varies."""
    return tuple(jax.typeof(x).manual_axis_type.varying)


def replicated(x: Array) -> Array:
    """Returns ``x``, all of it on every device, where the mesh of ``x`` has explicit axes."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def varying_as(x: Array, other: Array | jax.ShapeDtypeStruct) -> Array:
    """Returns ``x`` as something that varies over the axes of the mesh that ``other`` does."""
    missing = tuple(axis for axis in varying_axes(other) if axis not in varying_axes(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def split_keys(key: PRNGKeyArray, x: Array, batch_ndim: int) -> Array:
    """Returns an independent key for every example of ``x``, in the batch shape of ``x``."""
    return placed_as(jax.random.split(key, x.shape[:batch_ndim]), x, batch_ndim)


def normal_like(key: PRNGKeyArray, x: Array) -> Array:
    """Returns N(0, 1) draws of the shape and the dtype of ``x``.

    They are drawn in float32 or wider: in half precision there are few different draws, and their
    mean is not 0.
    """
    return jax.random.normal(key, x.shape, wide(x.dtype)).astype(x.dtype)


def placed_as(value: Array, x: Array, batch_ndim: int) -> Array:
    """Returns ``value`` with its batch axes divided over an explicit mesh as those of ``x`` are.

    ``jax.vmap`` takes arguments that are divided in different ways for an error.
    """
    if not is_divided(x, batch_ndim):
        return value
    sharding = jax.typeof(x).sharding
    spec = PartitionSpec(*sharding.spec[:batch_ndim])
    return jax.sharding.reshard(value, NamedSharding(sharding.mesh, spec))


def is_divided(x: Array, batch_ndim: int) -> bool:
    """Returns whether batch axes of ``x`` are divided over axes of an explicit mesh."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec[:batch_ndim])
