r"""Data-parallel placement: one batch over several devices, the parameters on each of them.

Contract of this module. A mesh has one axis, ``"data"``, over which the examples of a batch
are divided. What is computed does not depend on it: shuffles, batches and noise are those of
one device, and sums over a batch differ in their order alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size must be a multiple of the {mesh.size} devices, but it is {batch_size}"
        )


def divided(x: Any, mesh: Mesh | None) -> Any:
    """Returns a batch, its leading axis over the devices of the mesh where that comes out even."""
    if mesh is None:
        return x
    place = NamedSharding(mesh, PartitionSpec(_AXIS))

    def divide(leaf: jax.Array) -> jax.Array:
        return leaf if leaf.shape[0] % mesh.size else jax.lax.with_sharding_constraint(leaf, place)

    return jax.tree.map(divide, x)


def batches_on_devices(read: Callable[[slice], Any], like: Any, axis: int) -> Any:
    """Returns batches on the devices, each of which has its part of every batch.

    Args:
      read: returns the examples of a batch in some places, for all batches, in NumPy.
      like: what it returns for all places, from :func:`places_like`, a pytree.
      axis: the axis of the places.
    """
    leaves, structure = jax.tree.flatten(like)
    if leaves[0].sharding is None:
        return jax.tree.map(jnp.asarray, read(slice(None)))
    found: dict[Any, list[np.ndarray]] = {}  # so that the arrays of a part are read together

    def part(number: int, index: tuple[slice, ...]) -> np.ndarray:
        places = (index or ())[axis]
        which = places.start, places.stop
        if which not in found:
            found[which] = jax.tree.leaves(read(places))
        return found[which][number]

    arrays = [
        jax.make_array_from_callback(leaf.shape, leaf.sharding, partial(part, number))
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, arrays)


def places_like(like: Any, before: tuple[int, ...], mesh: Mesh | None) -> Any:
    """Returns shapes, dtypes and placement of :func:`batches_on_devices`, without numbers.

    Args:
      like: a pytree of ``jax.ShapeDtypeStruct`` ``(n, *example)``.
      before: the axes in the place of n, of which the last one is that of the places.
      mesh: the devices; where they do not divide the places evenly, each has all of them.
    """
    place = None if mesh is None else _places(before, mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*before, *leaf.shape[1:]), leaf.dtype, sharding=place),
        like,
    )


def _places(before: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    is_divided = before[-1] % mesh.size == 0
    axes = [*[None] * (len(before) - 1), _AXIS] if is_divided else []
    return NamedSharding(mesh, PartitionSpec(*axes))


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
