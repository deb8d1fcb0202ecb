r"""Data-parallel placement: one batch over several devices, the parameters on each of them.

Contract of this module. A mesh has one axis, ``"data"``, over which the examples of a batch
are divided. What is computed does not depend on it: shuffles, batches and noise are those of
one device, and sums over a batch differ in their order alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jaxae import _checks
from jaxae._checks import advice

_AXIS = "data"


def data_mesh(*, devices: int | Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh that divides a batch over some devices, for :func:`jaxae.make_run`.

    Args:
      devices: the devices, or how many of ``jax.devices()``, at least 1; None for all of them,
        those of other hosts included.

    Returns:
      A mesh with the axis ``"data"``, whose type is ``Auto``: XLA places what follows from it.

    Raises:
      TypeError: if ``devices`` is neither a number, a sequence of devices, nor None.
      ValueError: if there are not so many devices, or none is given.

    Example:
      >>> data_mesh(devices=1).axis_names
      ('data',)
    """
    found = jax.devices()
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        found = list(devices)
        if not found or not all(isinstance(device, jax.Device) for device in found):
            raise ValueError(
                f"devices must be devices of JAX, at least one, but it is {advice.shown(devices)}"
            )
    elif devices is not None:
        count = _checks.integer("devices", devices, low=1)
        if count > len(found):
            raise ValueError(f"devices must be at most {len(found)}, all there are, but is {count}")
        found = found[:count]
    # With explicit axes every operation of a user's loss would have to say how it is sharded.
    return Mesh(np.array(found), (_AXIS,), axis_types=(AxisType.Auto,))


def check_mesh(mesh: Mesh, batch_size: int) -> None:
    """Checks that batches can be divided over the axis ``"data"`` of a mesh.

    Raises:
      TypeError: if ``mesh`` is no mesh.
      ValueError: if it has no such axis, explicit ones, or devices that cannot share a batch.
    """
    if not hasattr(mesh, "axis_names"):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, but it is a {type(mesh).__name__}")
    if _AXIS not in mesh.axis_names or AxisType.Explicit in mesh.axis_types:
        axes = dict(zip(mesh.axis_names, map(str, mesh.axis_types), strict=True))
        raise ValueError(
            f"mesh must have an axis 'data' and Auto axes only, as jaxae.data_mesh() has, but its "
            f"axes are {axes}"
        )
    # An uneven batch would be computed on every device: correct, and no faster than on one.
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size must be a multiple of the {mesh.size} devices, but it is {batch_size}"
        )


def shard_batch(x: PyTree, mesh: Mesh | None) -> PyTree:
    """Returns a batch with its examples divided over the devices, if they divide evenly.

    Called while a program is traced: it constrains where XLA computes, and moves nothing itself.
    """
    if mesh is None:
        return x
    sharding = NamedSharding(mesh, PartitionSpec(_AXIS))

    def shard(leaf: jax.Array) -> jax.Array:
        # XLA refuses an uneven split; the smaller last batch is computed on every device instead.
        if leaf.shape[0] % mesh.size:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return jax.tree.map(shard, x)


def put_batches(read: Callable[[slice], PyTree], like: PyTree, axis: int) -> PyTree:
    """Returns batches on the devices, each of which gets its share of every batch.

    Args:
      read: returns the examples at some positions of a batch, for all batches, in NumPy.
      like: what it returns for all positions, from :func:`describe_batches`.
      axis: the axis of the positions.
    """
    leaves, structure = jax.tree.flatten(like)
    if leaves[0].sharding is None:
        return jax.tree.map(jnp.asarray, read(slice(None)))
    # JAX asks for one array after another, but a source reads all arrays of an example at once:
    # what was read for the first array is kept for the others.
    found: dict[tuple[int | None, int | None], list[np.ndarray]] = {}

    def read_shard(number: int, index: tuple[slice, ...]) -> np.ndarray:
        positions = (index or ())[axis]
        bounds = positions.start, positions.stop  # slices are no keys of a dictionary before 3.12
        if bounds not in found:
            found[bounds] = jax.tree.leaves(read(positions))
        return found[bounds][number]

    # JAX asks only for the shards of this process's devices, so no process reads all examples.
    arrays = [
        jax.make_array_from_callback(leaf.shape, leaf.sharding, partial(read_shard, number))
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, arrays)


def describe_batches(like: PyTree, leading_axes: tuple[int, ...], mesh: Mesh | None) -> PyTree:
    """Returns shapes, dtypes and shardings of batches, for :func:`put_batches`.

    Args:
      like: a pytree of ``jax.ShapeDtypeStruct`` ``(n, *example)``.
      leading_axes: the axes in the place of n, of which the last one is that of the positions in
        a batch.
      mesh: the devices; where they do not divide the positions evenly, each has all of them.
    """
    sharding = None if mesh is None else _batch_sharding(leading_axes, mesh)

    def describe(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (*leading_axes, *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, like)


def _batch_sharding(leading_axes: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding that divides the last of the leading axes, if it divides evenly."""
    *others, positions = leading_axes
    if positions % mesh.size:
        return replicated_sharding(mesh)
    return NamedSharding(mesh, PartitionSpec(*[None] * len(others), _AXIS))


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Returns a pytree with a copy of every array on each device of the mesh.

    Every process gives the same arrays; that they are the same is not compared.
    """
    if mesh is None:
        return tree
    if not mesh.is_multi_process:
        return jax.device_put(tree, replicated_sharding(mesh))

    # ``device_put`` would compare the arrays of all processes, which costs an exchange per array.
    def replicate_leaf(leaf: Array | np.ndarray) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # NumPy holds the data of keys only
            data = replicate_leaf(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(
            value.shape, replicated_sharding(mesh), lambda index: value[index or ()]
        )

    return jax.tree.map(replicate_leaf, tree)


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with one copy on each device."""
    return NamedSharding(mesh, PartitionSpec())
