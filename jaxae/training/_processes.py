"""What the processes of one run, on one host or on many, tell each other.

Every process runs the same Python program and holds only its own devices. A program of all devices,
and every function here that sends something, must be called by all processes in the same order:
one that leaves a call out makes the others wait for it for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxae.training.errors import LostProcessError
from jaxae.training.snapshots import Snapshot
from jaxae.training.steps import Losses, TrainState, main_loss

# JAX has no error class of its own for a process that is gone: these words, in lower case, occur
# in the messages of gloo, NCCL, RCCL, sockets and the coordination service when that happens.
# (docs/design.md has what was measured of multihost_utils.live_devices, which has a class.)
_LOST_PROCESS_WORDS = (
    *("gloo", "nccl", "rccl", "connection", "socket"),
    *("unavailable", "peer", "deadline", "task"),
)
# The number of blocks is sent as int32: without x64, JAX would narrow int64 without a word.
_MOST_BLOCKS = 2**31 - 1

Returned = TypeVar("Returned")


class _SnapshotHeader(NamedTuple):
    """The numbers that all processes must know before the arrays of a snapshot can be sent.

    Attributes:
      epoch: epochs behind the snapshot.
      step: steps of the next epoch behind it.
      losses: length of ``Snapshot.losses``; -1 if there is no snapshot.
      is_refused: whether the first process raised an error.
    """

    epoch: int
    step: int
    losses: int
    is_refused: bool


def spans_processes(mesh: Mesh | None) -> bool:
    """Returns whether some devices of a mesh belong to another process."""
    return mesh is not None and mesh.is_multi_process


def is_first_process() -> bool:
    """Returns whether this is the process that keeps snapshots for all."""
    return jax.process_index() == 0


def call_on_all_processes(function: Callable[..., Returned], *arguments: Any) -> Returned:
    """Calls a function that communicates, in every process, and returns its value.

    Raises:
      LostProcessError: if another process is gone; other errors are passed on.
    """
    try:
        return function(*arguments)
    # Depending on the backend, a lost peer is a JaxRuntimeError or a ValueError.
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if any(word in str(error).lower() for word in _LOST_PROCESS_WORDS):
            raise LostProcessError(str(error).splitlines()[0]) from error
        raise


def agree_on_next_call(should_stop: bool, blocks: int) -> tuple[bool, int]:
    """Returns whether any process was told to stop, and the least number of blocks."""
    # The blocks are negated, so that one maximum, and one exchange, serves both.
    mine = np.array([should_stop, -min(blocks, _MOST_BLOCKS)], np.int32)
    any_stop, negated_least = multihost_utils.process_allgather(mine).max(axis=0)
    return bool(any_stop), -int(negated_least)


def broadcast_snapshot(
    find: Callable[[], Snapshot | None], like: TrainState, zero_losses: Losses
) -> Snapshot | None:
    """Returns, in every process, the snapshot that ``find`` returns in the first one.

    The others may not see the folder that it is in, so they do not look.

    Raises:
      Exception: in the first process what ``find`` raises, and then in the others
        LostProcessError.
    """
    found, error = None, None
    if is_first_process():
        # An error waits until the others were told: they are about to receive something.
        try:
            found = find()
        except Exception as refused:
            error = refused
    header = _broadcast_header(found, is_refused=error is not None)
    if error is not None:
        raise error
    if header.is_refused:
        raise LostProcessError("the first one has refused what it should go on from")
    if header.losses < 0:
        return None
    if found is None:  # a receiver needs arrays of the same shapes to receive into
        mine = Snapshot(
            state=jax.tree.map(np.zeros_like, to_numpy(like)),
            epoch=header.epoch,
            step=header.step,
            losses=jax.tree.map(lambda _: np.zeros(header.losses), zero_losses),
            step_losses=zero_losses,
        )
    else:
        mine = found._replace(state=to_numpy(found.state))
    # The receivers made room in float64, and all must take part with as many bytes.
    losses = jax.tree.map(lambda means: np.asarray(means, np.float64), mine.losses)
    state, losses, step_losses = _broadcast_tree((mine.state, losses, mine.step_losses))
    state = jax.tree.map(restore_key, state, like)
    return Snapshot(state, header.epoch, header.step, losses, step_losses)


def _broadcast_header(found: Snapshot | None, *, is_refused: bool) -> _SnapshotHeader:
    """Returns the header of the first process's snapshot, in every process."""
    mine = _SnapshotHeader(0, 0, -1, is_refused)
    if found is not None:
        mine = _SnapshotHeader(found.epoch, found.step, len(main_loss(found.losses)), is_refused)
    epoch, step, losses, refused = _broadcast_tree(np.array(mine, np.int32)).tolist()
    return _SnapshotHeader(epoch, step, losses, bool(refused))


def to_numpy(state: PyTree) -> PyTree:
    """Returns a state in NumPy, with the data of PRNG keys in the place of the keys."""

    def convert(leaf: Array) -> np.ndarray:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # which NumPy cannot hold
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(convert, state)


def _broadcast_tree(tree: PyTree) -> PyTree:
    """Returns the pytree of arrays of the first process, in every process."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(leaf, order="C") for leaf in leaves]
    # Sent as bytes: JAX would turn float64 into float32 where x64 is off, and a run that goes on
    # would no longer have the bits of the one that was stopped.
    packed = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(packed)).tobytes()
    unpacked, offset = [], 0
    for array in arrays:
        flat = np.frombuffer(received, array.dtype, array.size, offset)
        unpacked.append(flat.reshape(array.shape).copy())  # frombuffer is read-only
        offset += array.nbytes
    return jax.tree.unflatten(structure, unpacked)


def restore_key(received: np.ndarray, like: Any) -> Any:
    """Returns a PRNG key where there was one before :func:`to_numpy`, else the array itself."""
    if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return received
    return jax.random.wrap_key_data(jnp.asarray(received), impl=jax.random.key_impl(like))
