"""What is trained: the arguments of one fit, a group of models, its data and its program.

A *block* is the least that the device is asked for: a step, or two where an epoch has many. Blocks
are counted from 0 over all epochs of a run, so one number says where a run stands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxae.training._data import Data, Stream
from jaxae.training._windows import WindowReader
from jaxae.training.epoch import EpochLayout, Window
from jaxae.training.programs import Program, Run
from jaxae.training.sharding import replicate
from jaxae.training.snapshots import Checkpoints, Snapshot
from jaxae.training.steps import Losses


class FitArguments(NamedTuple):
    """What all models of one call of ``fit`` or ``fit_many`` have in common.

    Attributes:
      run: how they are trained.
      x: the data.
      first_epoch: epochs behind the start.
      end_epoch: epochs behind the end.
      report: called with model, epoch, mean loss and, where there are some, auxiliary means.
      checkpoints: what keeps snapshots, or None.
      zero_losses: zeros ``(steps,)`` for the losses of the steps of an epoch, in NumPy.
    """

    run: Run
    x: Data
    first_epoch: int
    end_epoch: int
    report: Callable[..., None]
    checkpoints: Checkpoints | None
    zero_losses: Losses

    @property
    def mesh(self) -> Mesh | None:
        """The devices over which batches are divided."""
        return self.run.epoch.mesh

    @property
    def layout(self) -> EpochLayout:
        """The batches and blocks of an epoch."""
        return self.run.epoch.layout(self.x)

    @property
    def end_block(self) -> int:
        """The number of blocks behind the end."""
        return self.end_epoch * self.layout.blocks

    def count_blocks(self, snapshot: Snapshot) -> int:
        """Returns the number of blocks behind a snapshot."""
        layout = self.layout
        # Exact: a snapshot is taken between two blocks, never inside one.
        return snapshot.epoch * layout.blocks + snapshot.step // layout.steps_per_block

    def report_epoch(
        self, model: int, epoch: int, losses: Losses, index: int | tuple[int, int]
    ) -> None:
        """Reports the means of one epoch, at ``index`` in arrays of them."""
        means = jax.tree.map(lambda values: float(values[index]), losses)
        self.report(model, epoch, *(means if isinstance(means, tuple) else (means,)))


class ModelGroup(NamedTuple):
    """The models that one program trains: a single one, or several under vmap.

    Attributes:
      models: their numbers among all models of the call.
      key: PRNG key of the model, or keys ``(m,)`` if the group is stacked.
      settings: arguments of the loss, with a leading axis of m if the group is stacked.
      is_stacked: whether the arrays have a leading axis of models.
      others_ended: set when a model in another thread has failed or was stopped; None where no
        other thread trains.
      program: the compiled program, if there is one already.
    """

    models: Sequence[int]
    key: Array
    settings: tuple[PyTree, ...]
    is_stacked: bool = False
    others_ended: threading.Event | None = None
    program: Program | None = None

    def must_end(self) -> bool:
        """Returns whether a model in another thread has failed, or was stopped."""
        # Asked between two calls: a program that runs on a device cannot be interrupted.
        return self.others_ended is not None and self.others_ended.is_set()


class InMemoryData:
    """Data that are on the devices from the start: one window that never ends.

    Attributes:
      like: the data, of which a program is compiled for the shapes.
    """

    def __init__(self, x: Data, mesh: Mesh | None, end_block: int) -> None:
        # Placed once, before the first call, and then used by every call.
        self.like, self._end_block = replicate(x, mesh), end_block

    def window(self, block: int) -> tuple[Data, int]:
        """Returns the data, and the block after the last one that they hold."""
        return self.like, self._end_block

    def close(self) -> None:
        """Does nothing; a :class:`WindowReader` has a thread to end."""


DataSource = InMemoryData | WindowReader


def open_data(arguments: FitArguments, group: ModelGroup, begin: Snapshot) -> DataSource:
    """Returns the data source of a group, positioned at the step of a snapshot."""
    if not isinstance(arguments.x, Stream):
        return InMemoryData(arguments.x, arguments.mesh, arguments.end_block)
    # The reader tells one key from several by their shape, which raw keys do not show.
    is_typed = jnp.issubdtype(group.key.dtype, jax.dtypes.prng_key)
    key = group.key if is_typed else jax.random.wrap_key_data(group.key)
    first_block = arguments.count_blocks(begin)
    return WindowReader(
        arguments.x, arguments.run.epoch, key, first_block, end_block=arguments.end_block
    )


def compile_program(
    arguments: FitArguments, group: ModelGroup, begin: Snapshot, like: Data | Window
) -> Program:
    """Returns the compiled program of a group; of all arguments only the shapes are used."""
    changing = jax.tree.map(jnp.asarray, (begin.state, begin.step_losses))
    # Placed as in the calls: a program is compiled for where its arguments are, too.
    state, step_losses, key, settings = replicate(
        (*changing, group.key, group.settings), arguments.mesh
    )
    block = np.int32(0)  # a traced argument, so that its value is no part of the program
    return arguments.run.program(
        state, step_losses, key, block, block, like, *settings, is_batched=group.is_stacked
    )


def take_model(stacked: PyTree, index: int) -> PyTree:
    """Returns the arrays of one of several stacked models."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def stack_models(models: Sequence[PyTree]) -> PyTree:
    """Returns the arrays of several models, with a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
