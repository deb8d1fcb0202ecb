"""How a run is driven from the host: in calls of about a second, models beside each other."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jaxae.training import _processes
from jaxae.training._contexts import in_these_contexts
from jaxae.training._data import Data, Stream
from jaxae.training._windows import Reader
from jaxae.training.programs import Run
from jaxae.training.sharding import copied
from jaxae.training.snapshots import Checkpoints, LostProcessError, Snapshot, StoppedError
from jaxae.training.steps import Losses, NonFiniteLossError, TrainState, loss_of

# A call lasts about so long, so that a log goes on and an interrupt is heard.
_SECONDS_PER_CALL = 1.0
_FIRST_BLOCKS = 16
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# However many threads there are, so many programs run at a time.
_SLOTS = threading.BoundedSemaphore(_CORES)
# A program of several devices waits for all of them: two at a time could wait for each other.
_ALL_DEVICES = threading.Lock()
# Models that train at a time in threads shall fit into the last cache together.
_CACHE_BYTES = 2**25


class Job(NamedTuple):
    """Arguments that all models of one call have in common.

    Attributes:
      run: how they are trained.
      x: the data.
      span: epochs behind the start, and at the end.
      report: called with model, epoch, mean loss and, where there are some, auxiliary means.
      checkpoints: what keeps snapshots, or None.
      no_losses: zeros in the place of the losses of the steps of an epoch, in NumPy.
    """

    run: Run
    x: Data
    span: tuple[int, int]
    report: Callable[..., None]
    checkpoints: Checkpoints | None
    no_losses: Losses


class Part(NamedTuple):
    """What is trained by one program: a model, or all those of ``together`` under vmap."""

    key: Array
    settings: tuple[Any, ...]
    together: list[int] | None
    model: int = 0
    is_over: threading.Event | None = None
    program: Callable[..., Any] | None = None


class _InMemory:
    """Data on the devices, in the place of a Reader."""

    def __init__(self, x: Data, mesh: Mesh | None, end: int) -> None:
        self.like, self._end = copied(x, mesh), end

    def window(self, block: int) -> tuple[Data, int]:
        """Returns the data, and where they end."""
        return self.like, self._end

    def close(self) -> None:
        """Does nothing."""


def begin_of(job: Job, model: int, state: TrainState) -> Snapshot:
    """Returns where a model begins: at its snapshot or at its start."""
    none = jax.tree.map(lambda _: np.zeros(0), job.no_losses)
    return _restored(job, model, state) or Snapshot(state, job.span[0], 0, none, job.no_losses)


def _restored(job: Job, model: int, state: TrainState) -> Snapshot | None:
    """Returns the snapshot of a model, after its losses were reported, or None."""
    if job.checkpoints is None:
        return None
    if _processes.spans_hosts(job.run.epoch.mesh):
        find = partial(_found, job, model, state)
        found = _together(_processes.of_the_first, find, state, job.no_losses)
    else:
        found = _found(job, model, state)
    if found is not None:
        count = len(loss_of(found.losses))
        before = found.epoch - count  # where its run began
        for i in range(max(0, job.span[0] - before), count):
            job.report(model, before + i + 1, *_means(found.losses, i))
    return found


def _found(job: Job, model: int, state: TrainState) -> Snapshot | None:
    """Returns the snapshot of a model, if it is one of this run, or None."""
    assert job.checkpoints is not None
    found = job.checkpoints.restore(model, state)
    if found is None:
        return None
    first, end = job.span
    shapes = lambda state: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    lengths = partial(jax.tree.map, lambda losses: losses.shape)
    trees: list[Any] = [jax.tree.structure(state) for state in (found.state, state)]
    if trees[0] != trees[1] or shapes(found.state) != shapes(state):
        raise ValueError(f"the snapshot of model {model} is of another model or optimiser")
    if lengths(found.step_losses) != lengths(job.no_losses) or found.step % _per_block(job):
        raise ValueError(
            f"the snapshot of model {model} is of other data or another batch size, or of a loss "
            "with other auxiliary outputs"
        )
    if not first <= found.epoch + bool(found.step) <= end:
        raise ValueError(
            f"the snapshot of model {model} has {found.epoch} epochs behind it, but this run goes "
            f"from {first} to {end}"
        )
    return found


def _per_block(job: Job) -> int:
    return job.run.epoch.steps_per_block(job.x)


def under_vmap(job: Job, stacked: tuple[TrainState, Array, Any], models: int) -> TrainState:
    """Returns the stacked states of models that go through each step together."""
    if job.checkpoints is None:
        losses = jax.tree.map(lambda zeros: np.stack([zeros] * models), job.no_losses)
        none = jax.tree.map(lambda _: np.zeros((models, 0)), job.no_losses)
        begin = Snapshot(stacked[0], job.span[0], 0, none, losses)
        return train(job, Part(*stacked[1:], list(range(models))), begin)
    begins = [begin_of(job, model, _one(stacked[0], model)) for model in range(models)]
    trained: dict[int, TrainState] = {}
    for place in sorted({(begin.epoch, begin.step) for begin in begins}):
        group = [i for i, begin in enumerate(begins) if (begin.epoch, begin.step) == place]
        arrays = [Snapshot(begins[i].state, 0, 0, *begins[i][3:]) for i in group]
        begin = _stack(arrays)._replace(epoch=place[0], step=place[1])
        key, settings = jax.tree.map(lambda leaf, i=group: leaf[jnp.asarray(i)], stacked[1:])
        states = train(job, Part(key, settings, group), begin)
        trained |= {model: _one(states, i) for i, model in enumerate(group)}
    return _stack([trained[model] for model in range(models)])


def in_threads(job: Job, stacked: tuple[TrainState, Array, Any], models: int) -> TrainState:
    """Returns the stacked states of models trained each by itself, a thread a core."""
    is_over = threading.Event()
    restored: list[Snapshot | None] = [None] * models
    if job.checkpoints is not None:
        restored = [_restored(job, model, _one(stacked[0], model)) for model in range(models)]
    left = [i for i, found in enumerate(restored) if not (found and found.epoch == job.span[1])]

    def part(model: int) -> Part:
        key, settings = _one(stacked[1:], model)
        return Part(key, settings, None, model, is_over)

    def begin(model: int) -> Snapshot:
        fresh = job._replace(checkpoints=None)
        return restored[model] or begin_of(fresh, model, _one(stacked[0], model))

    # Compiled in the thread of the caller, whose contexts of JAX no other thread sees.
    program = None
    if left:
        first = part(left[0]), begin(left[0])
        program = _program(job, *first, _data(job, *first).like)

    def alone(model: int) -> TrainState:
        return train(job, part(model)._replace(program=program), begin(model))

    if _processes.spans_hosts(job.run.epoch.mesh):  # the same, in the same order, in every process
        return _stack([alone(model) for model in range(models)])
    of_one = sum(leaf.nbytes for leaf in jax.tree.leaves(stacked[0])) // models
    at_a_time = min(models, _CORES, max(1, _CACHE_BYTES // max(1, of_one)))
    with ThreadPoolExecutor(at_a_time) as pool:
        as_here = in_these_contexts(alone)
        futures = [pool.submit(as_here, model) for model in range(models)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # after an error or an interrupt the others stop at their next call
            is_over.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error
    return _stack([future.result() for future in futures])


def _one(stacked: Any, model: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[model], stacked)


def _stack(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def _data(job: Job, part: Part, begin: Snapshot) -> _InMemory | Reader:
    """Returns the data source of ``part``, positioned at the step of ``begin``."""
    epoch = job.run.epoch
    blocks = epoch.blocks(job.x)
    at = begin.epoch * blocks + begin.step // _per_block(job)
    end = job.span[1] * blocks
    if isinstance(job.x, Stream):
        is_typed = jnp.issubdtype(part.key.dtype, jax.dtypes.prng_key)
        key = part.key if is_typed else jax.random.wrap_key_data(part.key)
        return Reader(job.x, epoch, key, (at, end))
    return _InMemory(job.x, epoch.mesh, end)


def _program(job: Job, part: Part, begin: Snapshot, like: Any) -> Callable[..., Any]:
    """Returns the compiled program of a part; what it is given only says the shapes."""
    changing = jax.tree.map(jnp.asarray, (begin.state, begin.step_losses))
    *arrays, settings = copied((*changing, part.key, part.settings), job.run.epoch.mesh)
    given = (*arrays, np.int32(0), np.int32(0), like, *settings)
    return job.run.program(*given, is_batched=part.together is not None)


def train(job: Job, part: Part, begin: Snapshot) -> TrainState:
    """Returns the state at the end of the span."""
    data = _data(job, part, begin)
    try:
        return _train_on(data, job, part, begin)
    except NonFiniteLossError as error:
        reason = _reason(job, part, begin, error)
        raise NonFiniteLossError(error.what, error.epoch, error.model, reason) from None
    finally:
        data.close()


def _reason(job: Job, part: Part, begin: Snapshot, error: NonFiniteLossError) -> str | None:
    """Returns why a loss or a parameter is not finite, as far as it can be found out.

    In the compiled program a value outside its range is a NaN without a name. Called again with
    arrays whose values can be seen, the loss says which argument it was.
    """
    x: Any = job.x
    is_here = not isinstance(x, Stream) and not _processes.spans_hosts(job.run.epoch.mesh)
    if is_here:
        given = begin.state.params, part.key, part.settings
        if part.together is not None:
            given = _one(given, part.together.index(error.model or 0))
        params, key, settings = given
        extremes = [row for leaf in jax.tree.leaves(x) for row in _extreme_rows(leaf)]
        rows = jnp.asarray([*extremes, *range(job.run.epoch.cut(x)[0])])
        batch = jax.tree.map(lambda leaf: leaf[rows], x)
        try:
            job.run.epoch.loss(jax.tree.map(jnp.asarray, params), key, batch, *settings)
        except ValueError as refused:
            return str(refused).splitlines()[0]
        except Exception:  # a loss that cannot be called outside jax.jit
            return None
    if any(leaf.dtype == jnp.float16 for leaf in jax.tree.leaves(begin.state.params)):
        return (
            "in float16 the eps=1e-8 of Adam is 0, so pass eps=1e-4; or lower the learning rate, "
            "or look for a division by zero in the loss"
        )
    return None


def _train_on(data: _InMemory | Reader, job: Job, part: Part, begin: Snapshot) -> TrainState:
    """Returns the state at the end of the span, in calls of about a second."""
    blocks, epochs_per_call = job.run.epoch.blocks(job.x), job.run.epochs_per_call
    at, end = begin.epoch * blocks + begin.step // _per_block(job), job.span[1] * blocks
    # A program uses up what it is given.
    state, step_losses = jax.tree.map(jnp.array, (begin.state, begin.step_losses))
    if at == end:
        return state
    mesh = job.run.epoch.mesh
    several = _processes.spans_hosts(mesh)
    state, step_losses, key, settings = copied((state, step_losses, part.key, part.settings), mesh)
    program = part.program or _program(job, part, begin, data.like)
    all_losses = [begin.losses]
    every = None if job.checkpoints is None else job.checkpoints.every
    at_once, is_first = min(blocks, _FIRST_BLOCKS), True
    if _is_over(part):  # nothing of it is trained yet
        raise StoppedError(begin.epoch, begin.step, part.model)
    while at < end:
        epoch = at // blocks
        last = (epoch + min(epochs_per_call, every - epoch % every if every else end)) * blocks
        x: Any = None
        given: Any = None  # the memory of the last window is free while the next one is waited for
        x, until = data.window(at)
        to = min(at + at_once, last, until, end)
        with _SLOTS if mesh is None or mesh.size == 1 else _ALL_DEVICES:
            started = time.perf_counter()
            given = state, step_losses, key, np.int32(at), np.int32(to), x, *settings
            state, step_losses, device_losses = _called(program, given, several)
            losses = jax.tree.map(
                lambda means, end=to // blocks - epoch: means[..., :end], device_losses
            )
            seconds = time.perf_counter() - started
        failed = _reported(job, part, epoch, losses)
        if is_first and to % blocks:  # an epoch may be long, and all of it in vain
            _check_steps(part, step_losses, to // blocks, to % blocks * _per_block(job))
        all_losses.append(losses)
        if not is_first:  # the first call touches its memory for the first time
            at_once = max(1, int(_SECONDS_PER_CALL * (to - at) / seconds))
        at, is_first = to, False
        is_told = failed is not None or _is_over(part)
        is_told |= job.checkpoints is not None and job.checkpoints.should_stop()
        if several:
            is_told, at_once = _together(_processes.agreed, is_told, at_once)
        is_told = is_told and at < end
        is_kept = bool(is_told or (every and at % (every * blocks) == 0))
        if is_kept or at == end:
            epoch, block = divmod(at, blocks)
            step = block * _per_block(job)
            means = jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *all_losses)
            now = Snapshot(state, epoch, step, means, step_losses)
            _check_snapshot(part, now)
            if job.checkpoints is not None:
                _save(job, part, now)
        if failed is not None:
            raise failed
        if is_told:
            raise StoppedError(epoch, step, part.model)
    return state


def _extreme_rows(values: Array) -> list[int]:
    """Returns which examples have the smallest and the largest entry of an array."""
    rows = np.asarray(values).reshape(len(values), -1)
    if not rows.size:
        return []
    return [int(np.argmin(rows.min(axis=1))), int(np.argmax(rows.max(axis=1)))]


def _called(program: Callable[..., Any], given: tuple[Any, ...], several: bool) -> Any:
    """Returns what a program returns, with the mean losses on the host, once it is there."""

    def call() -> Any:
        state, step_losses, losses = program(*given)
        return state, step_losses, jax.tree.map(np.asarray, losses)

    return _together(call) if several else call()


def _together(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls ``function(*arguments)`` on every process; raises LostProcessError if one is gone."""
    try:
        return function(*arguments)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if _processes.is_loss(error):
            raise LostProcessError(str(error).splitlines()[0]) from error
        raise


def _save(job: Job, part: Part, now: Snapshot) -> None:
    """Hands over a snapshot of each model, in arrays that no program will use up."""
    assert job.checkpoints is not None
    keys = jax.tree.map(_impl_of_key, now.state)
    changing = _processes.plain(now.state), now.losses, now.step_losses
    if _processes.spans_hosts(job.run.epoch.mesh) and not _processes.is_first():
        return
    for i, model in enumerate(part.together or [part.model]):
        of_one = changing if part.together is None else _one(changing, i)
        state, *losses = jax.tree.map(np.array, of_one)
        state = jax.tree.map(_with_keys, state, keys)
        job.checkpoints.save(model, Snapshot(state, now.epoch, now.step, *losses))


def _impl_of_key(leaf: Any) -> Any:
    """Returns the generator of PRNG keys, and of other arrays 0."""
    return jax.random.key_impl(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else 0


def _with_keys(leaf: np.ndarray, impl: Any) -> Any:
    return leaf if impl == 0 else jax.random.wrap_key_data(jnp.asarray(leaf), impl=impl)


def _is_over(part: Part) -> bool:
    """Returns whether a model beside this one has failed, or was stopped."""
    return part.is_over is not None and part.is_over.is_set()


def _reported(job: Job, part: Part, epoch: int, losses: Losses) -> Exception | None:
    """Reports losses; an error of a user's ``on_epoch`` is returned, to be raised after a save."""
    try:
        _report(job, part, epoch, losses)
    except NonFiniteLossError:
        raise
    except Exception as error:
        return error
    return None


def _report(job: Job, part: Part, epoch: int, losses: Losses) -> None:
    """Reports the mean losses of some epochs, ``(epochs,)`` or ``(models, epochs)``."""
    values = loss_of(losses)
    for i in range(values.shape[-1]):
        _check_finite(values[..., i], "the training loss is {}", epoch + i + 1, part)
        for j, model in enumerate(part.together or [part.model]):
            index = i if part.together is None else (j, i)
            job.report(model, epoch + i + 1, *_means(losses, index))


def _means(losses: Losses, index: int | tuple[int, int]) -> tuple[Any, ...]:
    """Returns the mean loss of an epoch and, where there are some, its auxiliary means."""
    of_epoch = jax.tree.map(lambda means: float(means[index]), losses)
    return of_epoch if isinstance(of_epoch, tuple) else (of_epoch,)


def _check_snapshot(part: Part, now: Snapshot) -> None:
    """Raises NonFiniteLossError for what no loss of a whole epoch has seen yet."""
    if now.step:
        _check_steps(part, now.step_losses, now.epoch, now.step)
    _check_params(part, now.state, now.epoch + bool(now.step))


def _check_steps(part: Part, step_losses: Any, epoch: int, steps: int) -> None:
    """Raises NonFiniteLossError for the first steps after some epochs."""
    so_far = np.asarray(_processes.plain(loss_of(step_losses))[..., :steps].sum(axis=-1))
    _check_finite(so_far, "the training loss is {}", epoch + 1, part)


def _check_params(part: Part, state: TrainState, epoch: int) -> None:
    for leaf in jax.tree.leaves(state.params):
        axes = tuple(range(0 if part.together is None else 1, leaf.ndim))
        total = np.asarray(jnp.sum(jnp.where(jnp.isfinite(leaf), 0, leaf), axis=axes))
        _check_finite(total, "a parameter became {}", epoch, part)


def _check_finite(values: np.ndarray, what: str, epoch: int, part: Part) -> None:
    """Raises NonFiniteLossError for the first of the values, one for each model, that is not."""
    for position in np.flatnonzero(~np.isfinite(values)):
        value = float(np.ravel(values)[position])
        is_alone = part.together is None and part.is_over is None
        model = None if is_alone else (part.together or [part.model])[int(position)]
        raise NonFiniteLossError(what.format(value), epoch, model)
