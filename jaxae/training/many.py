"""Several models at a time: stacked under vmap, or each by itself in a thread.

Under vmap one program takes all models through each step, so a product of matrices becomes a
batch of products: an accelerator is filled. In threads each model runs the program that it would
run alone, to the same bits: a CPU has cores to spare between the small products of one model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxae.training._contexts import bind_jax_settings
from jaxae.training._drive import CORES, train_group
from jaxae.training._job import (
    FitArguments,
    ModelGroup,
    compile_program,
    open_data,
    stack_models,
    take_model,
)
from jaxae.training._processes import spans_processes
from jaxae.training._resume import make_start, restore_or_start, restore_snapshot
from jaxae.training.errors import StoppedError
from jaxae.training.programs import Program
from jaxae.training.snapshots import Snapshot
from jaxae.training.steps import TrainState

# Models that train at a time in threads shall fit into the last cache together: beyond it each
# waits for memory that the others use, and more threads are slower than fewer.
_CACHE_BYTES = 2**25


class StackedModels(NamedTuple):
    """Models whose arrays have a leading axis of m, one entry for each model.

    Attributes:
      states: the states to start from.
      keys: typed PRNG keys ``(m,)``.
      settings: arguments of the loss.
    """

    states: TrainState
    keys: Array
    settings: tuple[PyTree, ...]

    @property
    def num_models(self) -> int:
        """The number m of models."""
        return len(self.keys)


def sweep_method() -> str:
    """Returns how :func:`jaxae.fit_many` trains several models, unless it is told.

    The choice depends on the platform alone. It is not timed, so that results repeat;
    ``experiments.benchmarks.growth`` measures both ways.

    Args:
      None.

    Returns:
      ``"threads"`` on a CPU, ``"vmap"`` elsewhere.

    Raises:
      Nothing.

    Example:
      >>> sweep_method() in ("threads", "vmap")
      True
    """
    return "threads" if jax.default_backend() == "cpu" else "vmap"


def train_under_vmap(arguments: FitArguments, stacked: StackedModels) -> TrainState:
    """Returns the stacked states of models that go through each step together."""
    if arguments.checkpoints is None:
        group = ModelGroup(
            range(stacked.num_models), stacked.keys, stacked.settings, is_stacked=True
        )
        return train_group(arguments, group, _make_stacked_start(arguments, stacked))
    begins = [
        restore_or_start(arguments, model, take_model(stacked.states, model))
        for model in range(stacked.num_models)
    ]
    trained: dict[int, TrainState] = {}
    # One program has one block number for all of its models, so those that stopped at different
    # steps go on one group after another.
    for epoch, step in sorted({(begin.epoch, begin.step) for begin in begins}):
        models = [i for i, begin in enumerate(begins) if (begin.epoch, begin.step) == (epoch, step)]
        group = _make_group(stacked, models)
        states = train_group(arguments, group, _stack_snapshots([begins[i] for i in models]))
        trained |= {model: take_model(states, i) for i, model in enumerate(models)}
    return stack_models([trained[model] for model in range(stacked.num_models)])


def _make_stacked_start(arguments: FitArguments, stacked: StackedModels) -> Snapshot:
    """Returns the snapshot of stacked models of which nothing is trained yet."""
    start = make_start(arguments, stacked.states)

    def repeat(zeros: np.ndarray) -> np.ndarray:
        return np.stack([zeros] * stacked.num_models)

    return start._replace(
        losses=jax.tree.map(repeat, start.losses),
        step_losses=jax.tree.map(repeat, start.step_losses),
    )


def _make_group(stacked: StackedModels, models: list[int]) -> ModelGroup:
    """Returns the group of some of several stacked models."""
    rows = jnp.asarray(models)
    key, settings = jax.tree.map(lambda leaf: leaf[rows], (stacked.keys, stacked.settings))
    return ModelGroup(models, key, settings, is_stacked=True)


def _stack_snapshots(snapshots: list[Snapshot]) -> Snapshot:
    """Returns one snapshot of several models that are at the same step."""
    first = snapshots[0]
    return Snapshot(
        state=stack_models([snapshot.state for snapshot in snapshots]),
        epoch=first.epoch,
        step=first.step,
        losses=stack_models([snapshot.losses for snapshot in snapshots]),
        step_losses=stack_models([snapshot.step_losses for snapshot in snapshots]),
    )


def train_in_threads(arguments: FitArguments, stacked: StackedModels) -> TrainState:
    """Returns the stacked states of models trained each by itself, at most a thread a core."""
    models = range(stacked.num_models)
    others_ended = threading.Event()
    restored: list[Snapshot | None] = [None] * stacked.num_models
    if arguments.checkpoints is not None:
        # All of them before any training: several processes receive them in this order, and one
        # that is refused ends the call before it has begun.
        restored = [
            restore_snapshot(arguments, model, take_model(stacked.states, model))
            for model in models
        ]

    def make_group(model: int) -> ModelGroup:
        key, settings = take_model((stacked.keys, stacked.settings), model)
        return ModelGroup([model], key, settings, others_ended=others_ended)

    def make_begin(model: int) -> Snapshot:
        # Taken out of the stack when its turn comes, so that not all states are there twice.
        start = restored[model]
        return start or make_start(arguments, take_model(stacked.states, model))

    program = _compile_for_first_unfinished(arguments, restored, make_group, make_begin)

    def train_model(model: int) -> TrainState:
        group = make_group(model)._replace(program=program)
        return train_group(arguments, group, make_begin(model))

    if spans_processes(arguments.mesh):  # the same, in the same order, in every process
        return stack_models([train_model(model) for model in models])
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(stacked.states)) // stacked.num_models
    threads = min(stacked.num_models, CORES, max(1, _CACHE_BYTES // max(1, state_bytes)))
    return stack_models(_call_in_threads(train_model, models, threads, others_ended))


def _compile_for_first_unfinished(
    arguments: FitArguments,
    restored: list[Snapshot | None],
    make_group: Callable[[int], ModelGroup],
    make_begin: Callable[[int], Snapshot],
) -> Program | None:
    """Returns the program of all models, or None if every one of them has ended before."""
    # Compiled in the thread of the caller, whose contexts of JAX no other thread sees; and once,
    # as all models have the same shapes.
    for model, snapshot in enumerate(restored):
        if snapshot is None or snapshot.epoch != arguments.end_epoch:
            group, begin = make_group(model), make_begin(model)
            with closing(open_data(arguments, group, begin)) as data:
                return compile_program(arguments, group, begin, data.like)
    return None


def _call_in_threads(
    train_model: Callable[[int], TrainState],
    models: range,
    threads: int,
    others_ended: threading.Event,
) -> list[TrainState]:
    """Returns the value of ``train_model`` for each model, some of them trained at a time.

    Raises:
      Exception: what one of the models raised; then the others stop at their next call.
    """
    with ThreadPoolExecutor(threads) as pool:
        train_bound = bind_jax_settings(train_model)
        futures = [pool.submit(train_bound, model) for model in models]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # an interrupt too: the pool waits for its threads, so they have to end
            others_ended.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    # The first error makes the others raise StoppedError, which says nothing of the cause.
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error
    return [future.result() for future in futures]
