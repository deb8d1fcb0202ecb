"""The loop that drives the device from the host, in calls of about a second.

One call for a whole run would be the fastest, but the host could neither report an epoch, nor hear
an interrupt, nor keep a snapshot before its end. One call per step would cost more than the step
where models are small. So the loop measures how long a block takes, and asks for as many as fill
about a second. Where a call ends decides nothing about the bits of a result: a program that does
some blocks, and then some more, does what one that does all of them would do.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.training._data import Data
from jaxae.training._job import DataSource, FitArguments, ModelGroup, compile_program, open_data
from jaxae.training._nonfinite import (
    check_epoch_loss,
    check_first_steps,
    check_snapshot,
    explain_error,
)
from jaxae.training._processes import agree_on_next_call, call_on_all_processes, spans_processes
from jaxae.training._resume import save_snapshots
from jaxae.training.epoch import Window
from jaxae.training.errors import NonFiniteLossError, StoppedError
from jaxae.training.sharding import replicate
from jaxae.training.snapshots import Snapshot
from jaxae.training.steps import Losses, TrainState, main_loss

# Long beside what a call costs the host, short enough for a log and for somebody at a keyboard.
_SECONDS_PER_CALL = 1.0
# Of the first call, before a block was timed: enough for a look at the loss, and never long.
_FIRST_BLOCKS = 16
# The cores that this process may use, which in a container can be fewer than the machine has.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# However many threads there are, and however many calls of fit, so many programs run at a time.
_CORE_SLOTS = threading.BoundedSemaphore(CORES)
# A program of several devices waits for all of them: two at a time could wait for each other.
_ALL_DEVICES = threading.Lock()


class _FinishedCall(NamedTuple):
    """A call of the program that has come back.

    Attributes:
      first_epoch: the epoch of its first block, from 0.
      losses: mean losses of the epochs that ended in it, ``(epochs,)`` or ``(models, epochs)``.
      blocks: how many blocks it did.
      seconds: how long it took.
      is_first: whether it was the first one of this fit.
    """

    first_epoch: int
    losses: Losses
    blocks: int
    seconds: float
    is_first: bool


def train_group(arguments: FitArguments, group: ModelGroup, begin: Snapshot) -> TrainState:
    """Returns the state of a group of models after the last epoch, trained from a snapshot on.

    Raises:
      NonFiniteLossError: when a loss or a parameter is not finite, with what is known of why.
      StoppedError: when the checkpoints said so, or a model in another thread has ended.
    """
    data = open_data(arguments, group, begin)
    try:
        if arguments.count_blocks(begin) == arguments.end_block:
            return jax.tree.map(jnp.array, begin.state)
        return _Driver(arguments, group, begin, data).train()
    except NonFiniteLossError as error:
        reason = explain_error(arguments, group, begin, error)
        raise NonFiniteLossError(error.what, error.epoch, error.model, reason) from None
    finally:
        data.close()


class _Driver:
    """Drives the program of one group of models to the end of its epochs."""

    def __init__(
        self, arguments: FitArguments, group: ModelGroup, begin: Snapshot, data: DataSource
    ) -> None:
        self._arguments, self._group, self._data = arguments, group, data
        self._begin, self._layout = begin, arguments.layout
        self._several_processes = spans_processes(arguments.mesh)
        self._program = group.program or compile_program(arguments, group, begin, data.like)
        # Copies: the program uses up the state that it is given, and a caller may need the first.
        changing = jax.tree.map(jnp.array, (begin.state, begin.step_losses))
        self._state, self._step_losses, self._key, self._settings = replicate(
            (*changing, group.key, group.settings), arguments.mesh
        )
        self._all_losses = [begin.losses]  # of the epochs so far, a piece a call
        self._block, self._end_block = arguments.count_blocks(begin), arguments.end_block
        self._blocks_per_call = min(self._layout.blocks, _FIRST_BLOCKS)

    def train(self) -> TrainState:
        """Returns the state after the last block."""
        if self._group.must_end():  # before anything of it is trained
            raise StoppedError(self._begin.epoch, self._begin.step, self._group.models[0])
        is_first = True
        while self._block < self._end_block:
            call = self._make_call(is_first)
            user_error = self._report_epochs(call)
            self._all_losses.append(call.losses)
            self._check_unfinished_epoch(call)
            self._choose_blocks_of_next_call(call)
            should_stop = self._decide_to_stop(user_error)
            if should_stop or self._is_snapshot_due():
                self._keep_snapshot()
            if user_error is not None:
                raise user_error
            if should_stop:
                raise StoppedError(*self._epoch_and_step(), self._group.models[0])
            is_first = False
        return self._state

    def _make_call(self, is_first: bool) -> _FinishedCall:
        """Calls the program for the next blocks, and waits until it has done them."""
        first_block, first_epoch = self._block, self._block // self._layout.blocks
        window, window_end = self._data.window(first_block)
        end = min(
            first_block + self._blocks_per_call,
            self._find_last_block_of_call(),
            window_end,
            self._end_block,
        )
        with self._choose_lock():
            started = time.perf_counter()
            losses = self._run_program(window, end)
            seconds = time.perf_counter() - started
        self._block = end
        # The program has room for as many epochs as a call may have; take those that ended.
        ended = end // self._layout.blocks - first_epoch
        losses = jax.tree.map(lambda means: means[..., :ended], losses)
        return _FinishedCall(first_epoch, losses, end - first_block, seconds, is_first)

    def _find_last_block_of_call(self) -> int:
        """Returns the block that the next call must not pass: that of a snapshot, for example."""
        epoch, epochs = self._block // self._layout.blocks, self._arguments.run.epochs_per_call
        if every := self._find_epochs_between_snapshots():
            epochs = min(epochs, every - epoch % every)
        return (epoch + epochs) * self._layout.blocks

    def _find_epochs_between_snapshots(self) -> int | None:
        """Returns the epochs between two snapshots, or None for a snapshot at the end alone."""
        checkpoints = self._arguments.checkpoints
        return None if checkpoints is None else checkpoints.every

    def _choose_lock(self) -> AbstractContextManager[object]:
        """Returns the lock to hold while the program runs."""
        mesh = self._arguments.mesh
        return _CORE_SLOTS if mesh is None or mesh.size == 1 else _ALL_DEVICES

    def _run_program(self, window: Data | Window, end: int) -> Losses:
        """Runs the blocks before ``end``; returns the mean losses of all epochs, in NumPy."""

        def run() -> tuple[TrainState, Losses, Losses]:
            state, step_losses, losses = self._program(
                self._state,
                self._step_losses,
                self._key,
                np.int32(self._block),
                np.int32(end),
                window,
                *self._settings,
            )
            # A program returns before it has run; its errors, and its time, show when a result
            # is read. So this is inside the function that looks for lost processes.
            return state, step_losses, jax.tree.map(np.asarray, losses)

        results = call_on_all_processes(run) if self._several_processes else run()
        self._state, self._step_losses, losses = results
        return losses

    def _report_epochs(self, call: _FinishedCall) -> Exception | None:
        """Reports the epochs that ended; returns an error of the user's ``on_epoch``.

        It is raised after a snapshot was saved, so that it does not cost what is trained. A loss
        that is not finite is raised at once: such a state is never saved.
        """
        values = main_loss(call.losses)
        try:
            for i in range(values.shape[-1]):
                epoch = call.first_epoch + i + 1
                check_epoch_loss(self._group, values[..., i], epoch)
                for j, model in enumerate(self._group.models):
                    index = (j, i) if self._group.is_stacked else i
                    self._arguments.report_epoch(model, epoch, call.losses, index)
        except NonFiniteLossError:
            raise
        except Exception as error:
            return error
        return None

    def _check_unfinished_epoch(self, call: _FinishedCall) -> None:
        """Checks the steps of the first call: an epoch may be long, and all of it in vain."""
        epoch, step = self._epoch_and_step()
        if call.is_first and step:
            check_first_steps(self._group, self._step_losses, epoch, step)

    def _choose_blocks_of_next_call(self, call: _FinishedCall) -> None:
        """Sets how many blocks the next call shall do, from the time that this one took."""
        # The first call touches its memory for the first time, and says little of the others.
        if not call.is_first:
            blocks = int(_SECONDS_PER_CALL * call.blocks / call.seconds)
            self._blocks_per_call = max(1, blocks)

    def _decide_to_stop(self, user_error: Exception | None) -> bool:
        """Returns whether to stop here, which all processes of a run decide alike."""
        checkpoints = self._arguments.checkpoints
        should_stop = user_error is not None or self._group.must_end()
        # Always asked: whoever counts the questions counts the calls.
        should_stop |= checkpoints is not None and checkpoints.should_stop()
        if self._several_processes:
            # Processes measure different times, and only one may have had the signal. If they made
            # calls of different lengths, they would wait for each other for ever.
            should_stop, self._blocks_per_call = call_on_all_processes(
                agree_on_next_call, should_stop, self._blocks_per_call
            )
        return should_stop and self._block < self._end_block

    def _is_snapshot_due(self) -> bool:
        """Returns whether this is the end, or the end of as many epochs as checkpoints ask for."""
        every = self._find_epochs_between_snapshots()
        is_due = every and self._block % (every * self._layout.blocks) == 0
        return bool(is_due) or self._block == self._end_block

    def _keep_snapshot(self) -> None:
        """Checks the state and, where there are checkpoints, hands it to them."""
        epoch, step = self._epoch_and_step()
        losses = jax.tree.map(lambda *pieces: np.concatenate(pieces, axis=-1), *self._all_losses)
        snapshot = Snapshot(self._state, epoch, step, losses, self._step_losses)
        check_snapshot(self._group, snapshot)
        if self._arguments.checkpoints is not None:
            save_snapshots(self._arguments, self._group, snapshot)

    def _epoch_and_step(self) -> tuple[int, int]:
        """Returns the epochs, and the steps of the next one, behind the next block."""
        epoch, block = divmod(self._block, self._layout.blocks)
        return epoch, block * self._layout.steps_per_block
