"""Snapshots: where a model begins, whether a stored snapshot is one of this run, and saving.

A snapshot is taken between two blocks. With the key, the data and the settings, which are not in
it, it determines the rest of a run to the bit; so what can be compared with them is compared.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.tree_util import PyTreeDef
from jaxtyping import PyTree

from jaxae.training._job import FitArguments, ModelGroup, take_model
from jaxae.training._processes import (
    broadcast_snapshot,
    call_on_all_processes,
    is_first_process,
    restore_key,
    spans_processes,
    to_numpy,
)
from jaxae.training.snapshots import Snapshot
from jaxae.training.steps import Losses, TrainState, main_loss


def restore_or_start(arguments: FitArguments, model: int, state: TrainState) -> Snapshot:
    """Returns where a model begins: at its stored snapshot, or at its start."""
    return restore_snapshot(arguments, model, state) or make_start(arguments, state)


def make_start(arguments: FitArguments, state: TrainState) -> Snapshot:
    """Returns the snapshot of a model of which nothing is trained yet."""
    no_epochs = jax.tree.map(lambda _: np.zeros(0), arguments.zero_losses)
    return Snapshot(state, arguments.first_epoch, 0, no_epochs, arguments.zero_losses)


def restore_snapshot(arguments: FitArguments, model: int, state: TrainState) -> Snapshot | None:
    """Returns the stored snapshot of a model, or None; reports the epochs behind it.

    Args:
      arguments: what all models have in common.
      model: the number of the model.
      state: the state that it would start from, for its structure and shapes.

    Raises:
      LostProcessError: if another process has refused the snapshot, or is gone.
      ValueError: if the snapshot is one of another run.
    """
    if arguments.checkpoints is None:
        return None

    def find() -> Snapshot | None:
        return _find_snapshot(arguments, model, state)

    if spans_processes(arguments.mesh):
        found = call_on_all_processes(broadcast_snapshot, find, state, arguments.zero_losses)
    else:
        found = find()
    if found is not None:
        _report_past_epochs(arguments, model, found)
    return found


def _report_past_epochs(arguments: FitArguments, model: int, snapshot: Snapshot) -> None:
    """Reports the epochs behind a snapshot, so that ``on_epoch`` sees a whole curve."""
    count = len(main_loss(snapshot.losses))
    before = snapshot.epoch - count  # where the run of the snapshot began, which may be earlier
    for i in range(max(0, arguments.first_epoch - before), count):
        arguments.report_epoch(model, before + i + 1, snapshot.losses, i)


def _find_snapshot(arguments: FitArguments, model: int, state: TrainState) -> Snapshot | None:
    """Returns what the checkpoints hold of a model, or None. Raises ValueError for another run's.

    Compared are the state with that of this run's start, the losses of the steps with the number
    of steps in an epoch, and the epochs with those asked for.
    """
    assert arguments.checkpoints is not None
    found = arguments.checkpoints.restore(model, state)
    if found is None:
        return None
    if _shapes_and_dtypes(found.state) != _shapes_and_dtypes(state):
        raise ValueError(f"the snapshot of model {model} is of another model or optimiser")
    # A program begins with a block: a step inside one is of a run that was cut otherwise.
    is_inside_block = bool(found.step % arguments.layout.steps_per_block)
    if _shapes(found.step_losses) != _shapes(arguments.zero_losses) or is_inside_block:
        raise ValueError(
            f"the snapshot of model {model} is of other data or another batch size, or of a loss "
            "with other auxiliary outputs"
        )
    # An epoch that is under way counts, as it has to end within this run.
    if not arguments.first_epoch <= found.epoch + bool(found.step) <= arguments.end_epoch:
        raise ValueError(
            f"the snapshot of model {model} has {found.epoch} epochs behind it, but this run goes "
            f"from {arguments.first_epoch} to {arguments.end_epoch}"
        )
    return found


def _shapes_and_dtypes(state: PyTree) -> tuple[PyTreeDef, list[tuple]]:
    """Returns what tells two states apart; one that was stored may be a pytree of any kind."""
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _shapes(losses: Losses) -> PyTree:
    return jax.tree.map(lambda values: values.shape, losses)


def save_snapshots(arguments: FitArguments, group: ModelGroup, snapshot: Snapshot) -> None:
    """Hands over a snapshot of each model of a group, in arrays that no program will use up."""
    assert arguments.checkpoints is not None
    # Every process has the same state; one of them stores it, or all would write the same files.
    if spans_processes(arguments.mesh) and not is_first_process():
        return
    changing = to_numpy(snapshot.state), snapshot.losses, snapshot.step_losses
    for i, model in enumerate(group.models):
        of_model = take_model(changing, i) if group.is_stacked else changing
        # Copies: the next call donates the state, and would write over what is being stored.
        state, losses, step_losses = jax.tree.map(np.array, of_model)
        state = jax.tree.map(restore_key, state, snapshot.state)
        arguments.checkpoints.save(
            model, Snapshot(state, snapshot.epoch, snapshot.step, losses, step_losses)
        )
