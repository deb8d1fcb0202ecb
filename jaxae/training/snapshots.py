r"""What a run needs in order to be stopped after any step and to go on to the same bits.

Contract of this module. It says what is kept and when; how it is kept is up to whoever
implements :class:`Checkpoints`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxae.training.steps import Losses, TrainState


class Snapshot(NamedTuple):
    """All that changes in a run, between two of its steps: with the key, the data and the settings
    it determines the rest of it to the bit.

    Attributes:
      state: parameters, state of the optimiser and number of updates.
      epoch: how many epochs are behind it.
      step: how many steps of the next epoch are behind it.
      losses: mean loss of each epoch behind it since its run began ``(epochs,)``; these are
        ``epoch`` many unless the run began at a ``first_epoch``.
      step_losses: losses of an epoch's steps ``(steps,)``; those from ``step`` on mean nothing.

    Of a loss with auxiliary outputs ``losses`` and ``step_losses`` are pairs ``(losses, aux)``,
    with such an array in the place of each output.
    """

    # No key, no data, no settings: whoever goes on passes them again, and they may be large.
    state: TrainState
    epoch: int
    step: int
    losses: Losses
    step_losses: Losses


@runtime_checkable
class Checkpoints(Protocol):
    """What :func:`fit` and :func:`fit_many` need in order to keep snapshots and to go on from them.

    Threads may call at the same time, each for a model of its own. :func:`fit` is model 0.

    Attributes:
      every: epochs between two snapshots, or None for none but the last.
    """

    # Methods, not paths: where snapshots are kept, and in which format, is the user's choice.
    every: int | None

    def restore(self, model: int, like: TrainState) -> Snapshot | None:
        """Returns the snapshot to go on from, its state built as ``like``, or None."""

    def save(self, model: int, snapshot: Snapshot) -> None:
        """Keeps a snapshot, whose arrays are nobody else's."""

    def should_stop(self) -> bool:
        """Returns whether to save, after the next steps, and to raise :class:`StoppedError`."""
