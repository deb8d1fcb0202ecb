"""What the processes of one run, on one host or on many, tell each other.

All of them make the same calls in the same order, or they wait for each other for ever.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxae.training.snapshots import LostProcessError, Snapshot
from jaxae.training.steps import Losses, TrainState, loss_of

_SIGNS = ("gloo", "nccl", "rccl", "connection", "socket", "unavailable", "peer", "deadline", "task")


def spans_hosts(mesh: Mesh | None) -> bool:
    """Returns whether some devices of a mesh belong to another process."""
    return mesh is not None and mesh.is_multi_process


def is_first() -> bool:
    """Returns whether this is the process that keeps and reports things."""
    return jax.process_index() == 0


def agreed(is_told: bool, blocks: int) -> tuple[bool, int]:
    """Returns whether any process was told to stop, and the least number of blocks."""
    mine = np.array([is_told, -min(blocks, 2**31 - 1)], np.int32)
    told, least = multihost_utils.process_allgather(mine).max(axis=0)
    return bool(told), -int(least)


def of_the_first(
    find: Callable[[], Snapshot | None], like: TrainState, steps: Losses
) -> Snapshot | None:
    """Returns the snapshot that the first process finds, which the others may not see.

    Raises:
      Exception: in the first process what ``find`` raises, and then in the others
        LostProcessError.
    """
    found, error = None, None
    if is_first():
        try:
            found = find()
        except Exception as refused:
            error = refused
    place = [0, 0, -1] if found is None else [*found[1:3], len(loss_of(found.losses))]
    epoch, step, losses, failed = (
        int(number) for number in _sent(np.array([*place, error is not None], np.int32))
    )
    if error is not None:
        raise error
    if failed:
        raise LostProcessError("the first one has refused what it should go on from")
    if losses < 0:
        return None
    none = jax.tree.map(lambda _: np.zeros(losses), steps)
    empty = Snapshot(jax.tree.map(np.zeros_like, plain(like)), 0, 0, none, steps)
    mine = empty if found is None else found._replace(state=plain(found.state))
    wide = jax.tree.map(lambda means: np.asarray(means, np.float64), mine.losses)
    state, *rest = _sent((mine.state, wide, mine.step_losses))
    return Snapshot(jax.tree.map(_as_key, state, like), epoch, step, *rest)


def is_loss(error: Exception) -> bool:
    """Returns whether an error of a computation says that another process is gone."""
    return any(sign in str(error).lower() for sign in _SIGNS)


def plain(state: Any) -> Any:
    """Returns a state with the data of PRNG keys in their place, in NumPy."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    plain = lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    return jax.tree.map(plain, state)


def _sent(tree: Any) -> Any:
    """Returns a tree of the first process; its bytes travel, so no dtype is changed."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(leaf, order="C") for leaf in leaves]
    packed = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(packed)).tobytes()
    found, at = [], 0
    for array in arrays:
        piece = np.frombuffer(received, array.dtype, array.size, at)
        found.append(piece.reshape(array.shape).copy())
        at += array.nbytes
    return jax.tree.unflatten(structure, found)


def _as_key(found: Any, like: Any) -> Any:
    if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return found
    return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(like))
