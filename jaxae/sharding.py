r"""Data-parallel placement: one batch over several devices, the parameters on each of them.

Contract of this module. A mesh has one axis, ``"data"``, over which the examples of a batch
are divided. What is computed does not depend on it: shuffles, batches and noise are those of
one device, and sums over a batch differ in their order alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxae import _advice, _checks

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

    References:
      None.
    """
    found = jax.devices()
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        found = list(devices)
        if not found or not all(isinstance(device, jax.Device) for device in found):
            raise ValueError(
                f"devices must be devices of JAX, at least one, but it is {_advice.shown(devices)}"
            )
    elif devices is not None:
        count = _checks.integer("devices", devices, low=1)
        if count > len(found):
            raise ValueError(f"devices must be at most {len(found)}, all there are, but is {count}")
        found = found[:count]
    return Mesh(np.array(found), (_AXIS,), axis_types=(AxisType.Auto,))


def divided(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Returns x, its leading axis over the devices of the mesh where that comes out even."""
    if mesh is None or x.shape[0] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(_AXIS)))


def batches_on_devices(
    read: Callable[[slice], np.ndarray], shape: tuple[int, ...], axis: int, mesh: Mesh | None
) -> jax.Array:
    """Returns batches of that shape on the devices, each of which has its part of every batch.

    Args:
      read: returns the examples of a batch in some places, for all batches.
      shape: the shape of all.
      axis: the axis of the places.
      mesh: the devices; where they do not divide the axis evenly, each has all of it.
    """
    if mesh is None:
        return jnp.asarray(read(slice(None)))
    place = _places(shape, axis, mesh)
    return jax.make_array_from_callback(shape, place, lambda index: read((index or ())[axis]))


def places_like(
    shape: tuple[int, ...], axis: int, *, dtype: Any, mesh: Mesh | None
) -> jax.ShapeDtypeStruct:
    """Returns what :func:`batches_on_devices` returns, without numbers."""
    place = None if mesh is None else _places(shape, axis, mesh)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _places(shape: tuple[int, ...], axis: int, mesh: Mesh) -> NamedSharding:
    is_divided = shape[axis] % mesh.size == 0
    return NamedSharding(
        mesh, PartitionSpec(*[None] * axis, _AXIS) if is_divided else PartitionSpec()
    )


def copied(tree: Any, mesh: Mesh | None) -> Any:
    """Returns a pytree with a copy of every array on each device of the mesh.

    Every process gives the same arrays; that they are the same is not compared.
    """
    if mesh is None:
        return tree
    if not mesh.is_multi_process:
        return jax.device_put(tree, everywhere(mesh))

    def on_all(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = on_all(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(
            value.shape, everywhere(mesh), lambda index: value[index or ()]
        )

    return jax.tree.map(on_all, tree)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Returns the placement of one copy on each device."""
    return NamedSharding(mesh, PartitionSpec())
