r"""Whole training runs: many epochs in a call, many models on one machine.

Contract of this module. What is trained, and in which bits, is decided by ``jaxae.training``
alone: neither the number of epochs in a call nor the number of threads changes a result.
These functions drive the device from the host; they are not to be traced.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae.sharding import copied, everywhere
from jaxae.training import Epoch, Loss, NonFiniteLossError, TrainState

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
# Without it XLA's CPU compiler copies a kernel that is read after its update might have begun.
_CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}


class Snapshot(NamedTuple):
    """All that changes in a run, between two of its steps: with the key, the data and the settings
    it determines the rest of it to the bit.

    Attributes:
      state: parameters, state of the optimiser and number of updates.
      epoch: how many epochs are behind it.
      step: how many steps of the next epoch are behind it.
      losses: mean loss of each epoch behind it ``(epoch,)``.
      step_losses: losses of an epoch's steps ``(steps,)``; those from ``step`` on mean nothing.
    """

    state: TrainState
    epoch: int
    step: int
    losses: np.ndarray
    step_losses: np.ndarray


@runtime_checkable
class Checkpoints(Protocol):
    """What :func:`fit` and :func:`fit_many` need in order to keep snapshots and to go on from them.

    Threads may call at the same time, each for a model of its own. :func:`fit` is model 0.

    Attributes:
      every: epochs between two snapshots, or None for none but the last.
    """

    every: int | None

    def restore(self, model: int, like: TrainState) -> Snapshot | None:
        """Returns the snapshot to go on from, its state built as ``like``, or None."""

    def save(self, model: int, snapshot: Snapshot) -> None:
        """Keeps a snapshot, whose arrays are nobody else's."""

    def should_stop(self) -> bool:
        """Returns whether to save, after the next steps, and to raise :class:`StoppedError`."""


class StoppedError(Exception):
    """Training stopped before its end, because it was told to.

    Attributes:
      model: which of several models it was, from 0.
    """

    def __init__(self, epoch: int, step: int, model: int = 0) -> None:
        super().__init__(f"stopped after {epoch} epochs and {step} steps")
        self.model = model


class Run:
    """Several epochs of training in one compiled program; :func:`make_run` makes it.

    ``run(state, key, first_epoch, epochs, x, *settings) -> (state, losses)``, a pure function.

    Attributes:
      epochs_per_call: the most epochs of one call, and the length of ``losses``.
      epoch: what an epoch is.
    """

    def __init__(self, epoch: Epoch, epochs_per_call: int) -> None:
        self.epochs_per_call = epochs_per_call
        self.epoch = epoch
        self._compiled: dict[Any, Any] = {}
        self._compiling = threading.Lock()

    def __call__(
        self,
        state: TrainState,
        key: PRNGKeyArray,
        first_epoch: ScalarLike,
        epochs: ScalarLike,
        x: Array,
        *settings: Any,
    ) -> tuple[TrainState, Array]:
        """Returns the state after the epochs, and the mean loss of each, NaN beyond them."""
        blocks = self.epoch.blocks(x)
        first = jnp.asarray(first_epoch) * blocks
        end = first + jnp.minimum(epochs, self.epochs_per_call) * blocks
        start = state, self.epoch.no_losses(x)
        state, _, losses = self.part(*start, key, first, end, x, *settings)
        return state, losses

    def part(
        self,
        state: TrainState,
        step_losses: Array,
        key: PRNGKeyArray,
        first: Array,
        end: Array,
        x: Array,
        *settings: Any,
    ) -> tuple[TrainState, Array, Array]:
        """Returns state, losses of the last epoch's steps, and mean losses after some blocks.

        Args:
          state: state before the blocks.
          step_losses: losses of the steps of the epoch under way.
          key: key of the run.
          first: the first block, counted from 0 over all epochs.
          end: the block after the last, within ``epochs_per_call`` epochs.
          x: data.
          *settings: passed on to the loss.
        """
        blocks = self.epoch.blocks(x)
        first_epoch = first // blocks

        def body(i: Array, carry: Any) -> Any:
            state, step_losses, losses = carry
            begin = (first_epoch + i) * blocks
            span = jnp.maximum(first - begin, 0), jnp.minimum(end - begin, blocks)
            inputs = key, first_epoch + i, x, *settings
            state, step_losses = self.epoch.part(state, step_losses, span, *inputs)
            mean = self.epoch.mean_loss(step_losses, x).astype(losses.dtype)
            return state, step_losses, losses.at[i].set(mean)

        start = state, step_losses, jnp.full(self.epochs_per_call, jnp.nan, jnp.result_type(float))
        epochs = (end + blocks - 1) // blocks - first_epoch
        return jax.lax.fori_loop(0, jnp.minimum(epochs, self.epochs_per_call), body, start)

    def arguments(
        self, state: TrainState, key: Array, x: Array, *settings: Any, epoch: int = 0
    ) -> tuple[Any, ...]:
        """Returns those of :meth:`part` for a whole epoch, of one model or, with keys, of many."""
        no_losses = self.epoch.no_losses(x)
        step_losses = jnp.zeros((*key.shape, *no_losses.shape), no_losses.dtype)
        blocks = self.epoch.blocks(x)
        span = np.int32(epoch * blocks), np.int32((epoch + 1) * blocks)
        return state, step_losses, key, *span, x, *settings

    def program(self, *arguments: Any, is_batched: bool = False) -> Callable[..., Any]:
        """Returns the compiled :meth:`part` for such arguments; each is compiled once.

        State and losses are donated. Threads may ask at the same time.

        Args:
          *arguments: those of a call.
          is_batched: whether all but ``first``, ``end`` and ``x`` have a leading axis of models.
        """
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        config: Any = jax.config
        context = (config.jax_default_matmul_precision, config.jax_default_device)
        signature = (is_batched, tree, shapes, context)
        with self._compiling:
            if signature not in self._compiled:
                axes = (0, 0, 0, None, None, None, *[0] * (len(arguments) - 6))
                function = jax.vmap(self.part, in_axes=axes) if is_batched else self.part
                mesh = self.epoch.mesh
                options: Any = {} if mesh is None else {"out_shardings": everywhere(mesh)}
                lowered = jax.jit(function, donate_argnums=(0, 1), **options).lower(*arguments)
                self._compiled[signature] = _compiled(lowered)
            return self._compiled[signature]


def make_run(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    epochs_per_call: int = 64,
    mesh: Mesh | None = None,
) -> Run:
    """Returns a run of several epochs in one program, for :func:`fit` and :func:`fit_many`.

    Every epoch is that of :func:`jaxae.make_epoch`, with the same shuffles and draws. How many
    there are is a traced number, so a run of any length compiles once.

    Args:
      loss: ``loss(params, key, x, *settings)``, values ``(batch,)`` or a scalar.
      optimizer: any ``optax`` optimiser.
      batch_size: examples per step, at least 1; more than there are means one full batch.
      epochs_per_call: the most epochs of one call, at least 1.
      mesh: devices over which every batch is divided, from :func:`jaxae.data_mesh`; by default
        one device. Neither shuffles nor noise depend on it.

    Returns:
      ``run(state, key, first_epoch, epochs, x, *settings) -> (state, losses)``: not compiled,
      to be passed to ``jax.jit``, ``jax.vmap`` or :func:`fit`. The same ``key`` serves the
      whole run; ``first_epoch`` counts from 0. ``losses`` is ``(epochs_per_call,)``: the mean
      loss of each epoch, and NaN beyond ``epochs``.

    Raises:
      TypeError: if ``loss`` is no function or ``batch_size`` no integer.
      ValueError: if ``batch_size`` or ``epochs_per_call`` is below 1, or ``batch_size`` no
        multiple of the devices; the result raises it for empty data.

    Example:
      >>> import jaxae
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.25)
      >>> run = make_run(loss, optimizer, batch_size=5)
      >>> state = jaxae.create_train_state(jnp.zeros(()), optimizer)
      >>> state, losses = jax.jit(run)(state, jax.random.key(0), 0, 3, jnp.ones(5))
      >>> losses[:3].tolist()
      [1.0, 0.25, 0.0625]

    References:
      None.
    """
    epochs_per_call = _checks.integer("epochs_per_call", epochs_per_call, low=1)
    epoch = Epoch(loss, optimizer, batch_size, mesh)
    if mesh is not None and batch_size % mesh.size:
        raise ValueError(
            f"batch_size must be a multiple of the {mesh.size} devices, but it is {batch_size}"
        )
    return Run(epoch, epochs_per_call)


def fit(
    run: Run,
    state: TrainState,
    key: PRNGKeyArray,
    x: Float[Array, "n *example"],
    *settings: Any,
    epochs: int,
    first_epoch: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainState:
    """Returns the state after some epochs, or stops at the first epoch that broke down.

    Calls of about a second, however short or long an epoch is: the host reads the losses, and
    hears an interrupt, once a call. With ``checkpoints`` a run that was killed, or told to stop,
    goes on in the middle of an epoch where need be, to the bits of a run that was left alone.

    Args:
      run: what :func:`make_run` returned.
      state: state to start from; it is not used up.
      key: PRNG key of the whole run.
      x: data ``(n, *example)``, floating and finite.
      *settings: passed on to the loss.
      epochs: how many passes over the data, at least 1.
      first_epoch: how many epochs ``state`` has behind it with this ``key``, so that going on
        takes the next shuffles and draws instead of repeating the first ones.
      on_epoch: called for each epoch, in order, with its number, from first_epoch + 1, and its
        mean loss; on going on from a snapshot, for the epochs behind it too.
      checkpoints: restores the snapshot to go on from, is given those to keep, and says when
        to stop; see :class:`Checkpoints`.

    Returns:
      The final state.

    Raises:
      NonFiniteLossError: naming the epoch, when its mean loss is NaN or infinite, or a
        parameter after the last one is. Such a state is never kept.
      StoppedError: when ``checkpoints`` said so, after its snapshot was handed over.
      TypeError: if ``x`` is not floating point, or ``run`` not from :func:`make_run`.
      ValueError: if ``epochs`` is below 1, ``x`` is empty or not finite, or a snapshot is of
        another state, data set or number of epochs.

    Example:
      >>> import jaxae
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.5)
      >>> run = make_run(loss, optimizer, batch_size=5)
      >>> state = jaxae.create_train_state(jnp.zeros(()), optimizer)
      >>> float(fit(run, state, jax.random.key(0), jnp.ones(5), epochs=2).params)
      1.0

    References:
      None.
    """
    x, span = _check(run, x, first_epoch, epochs)
    _checks.prng_key("key", key)

    def report(model: int, epoch: int, loss: float) -> None:
        if on_epoch is not None:
            on_epoch(epoch, loss)

    job = _Job(run, x, span, report, checkpoints)
    return _train(job, _Part(key, _arrays(settings), None), _begin(job, 0, state))


def fit_many(
    run: Run,
    states: TrainState,
    keys: Key[Array, " m"],
    x: Float[Array, "n *example"],
    *settings: Any,
    epochs: int,
    first_epoch: int = 0,
    on_epoch: Callable[[int, int, float], None] | None = None,
    method: str = "auto",
    checkpoints: Checkpoints | None = None,
) -> TrainState:
    """Returns the states of m models trained alike on the same data: seeds, noise levels, weights.

    They share their shapes, and so one program. ``"vmap"`` takes all of them through each step
    together, which fills an accelerator. ``"threads"`` trains as many at a time as there are
    cores, or fit into 32 MiB, each to the bits of :func:`fit`: on a CPU a product of m matrices
    is no faster than m products, and a small model leaves cores idle between its products.

    Args:
      run: what :func:`make_run` returned.
      states: states to start from, every leaf with a leading axis of m; they are not used up.
      keys: typed PRNG keys ``(m,)``, one for each model.
      x: data ``(n, *example)``, floating and finite, shared.
      *settings: passed on to the loss, arrays with a leading axis of m, or pytrees of them.
      epochs: how many passes over the data, at least 1.
      first_epoch: how many epochs the states have behind them with these keys.
      on_epoch: called with the model, from 0, the epoch, from first_epoch + 1, and its mean
        loss: in order for each model, and never twice at the same time.
      method: ``"vmap"``, ``"threads"``, or ``"auto"``: threads on a CPU, vmap elsewhere.
      checkpoints: as in :func:`fit`, for each model by itself. Under vmap those that go on from
        different epochs go on one group after another.

    Returns:
      The final states, every leaf with a leading axis of m.

    Raises:
      NonFiniteLossError: naming the epoch and the model, as in :func:`fit`.
      StoppedError: as in :func:`fit`.
      TypeError: if ``x`` is not floating point, ``keys`` no array of typed keys, or ``run`` not
        from :func:`make_run`.
      ValueError: if ``epochs`` is below 1, ``x`` is empty or not finite, leading axes differ,
        ``method`` is unknown, or a snapshot is not of this run.

    Example:
      >>> import jaxae
      >>> loss = lambda params, key, x, target: jnp.square(params - target * x)
      >>> optimizer = optax.sgd(0.5)
      >>> run = make_run(loss, optimizer, batch_size=5)
      >>> states = jax.vmap(lambda p: jaxae.create_train_state(p, optimizer))(jnp.zeros(2))
      >>> keys, targets = jax.random.split(jax.random.key(0)), jnp.array([1.0, 3.0])
      >>> fit_many(run, states, keys, jnp.ones(5), targets, epochs=2).params.tolist()
      [1.0, 3.0]

    References:
      None.
    """
    x, span = _check(run, x, first_epoch, epochs)
    stacked = states, keys, _arrays(settings)
    models = _check_models(*stacked)
    _checks.choice("method", method, ("auto", "vmap", "threads"))
    turn = threading.Lock()

    def report(model: int, epoch: int, loss: float) -> None:
        with turn:
            if on_epoch is not None:
                on_epoch(model, epoch, loss)

    job = _Job(run, x, span, report, checkpoints)
    in_threads = (sweep_method() if method == "auto" else method) == "threads"
    return (_in_threads if in_threads else _under_vmap)(job, stacked, models)


def sweep_method() -> str:
    """Returns how :func:`fit_many` trains several models, unless it is told.

    The choice depends on the platform alone. It is not timed, so that results repeat.

    Args:
      None.

    Returns:
      ``"threads"`` on a CPU, ``"vmap"`` elsewhere.

    Raises:
      Nothing.

    Example:
      >>> sweep_method() in ("threads", "vmap")
      True

    References:
      None; measured by ``experiments.benchmarks.growth``.
    """
    return "threads" if jax.default_backend() == "cpu" else "vmap"


def _compiled(lowered: Any) -> Callable[..., Any]:
    if jax.default_backend() == "cpu":
        try:
            return lowered.compile(compiler_options=_CPU_OPTIONS)
        except jax.errors.JaxRuntimeError:  # a compiler that does not know this option
            pass
    return lowered.compile()


class _Job(NamedTuple):
    """What all models of a call share; ``span``: epochs behind the start, and at the end."""

    run: Run
    x: Array
    span: tuple[int, int]
    report: Callable[[int, int, float], None]
    checkpoints: Checkpoints | None


class _Part(NamedTuple):
    """What is trained by one program: a model, or all those of ``together`` under vmap."""

    key: Array
    settings: tuple[Any, ...]
    together: list[int] | None
    model: int = 0
    is_over: threading.Event | None = None
    program: Callable[..., Any] | None = None


def _check(run: Any, x: Any, first_epoch: int, epochs: int) -> tuple[Array, tuple[int, int]]:
    """Returns the data, and how many epochs are behind the start and at the end."""
    if not isinstance(run, Run):
        raise TypeError(f"run must be what jaxae.make_run returned, but it is {run!r}")
    first = _checks.integer("first_epoch", first_epoch, low=0)
    count = _checks.integer("epochs", epochs, low=1)
    return _checks.floating("x", x), (first, first + count)


def _arrays(settings: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns strongly typed arrays, so that 1 and 2.0 do not compile apart."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), settings)


def _check_models(states: TrainState, keys: Any, settings: tuple[Any, ...]) -> int:
    """Returns the number m of models, the leading axis of everything."""
    if not (isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)):
        raise TypeError("keys must be typed PRNG keys (m,), such as jax.random.split(key, m)")
    if keys.ndim != 1 or not len(keys):
        raise ValueError(f"keys must have shape (m,) with m >= 1, but it is {keys.shape}")
    parts = {"states": states, **{f"settings[{i}]": value for i, value in enumerate(settings)}}
    for name, part in parts.items():
        for leaf in jax.tree.leaves(part):
            if np.shape(leaf)[:1] != keys.shape:
                raise ValueError(
                    f"every leaf of {name} must have a leading axis of {len(keys)}, one for each "
                    f"key, but one has shape {np.shape(leaf)}"
                )
    return len(keys)


def _begin(job: _Job, model: int, state: TrainState) -> Snapshot:
    """Returns where a model begins: at its snapshot or at its start."""
    no_losses = np.asarray(job.run.epoch.no_losses(job.x))
    return _restored(job, model, state) or Snapshot(state, job.span[0], 0, np.zeros(0), no_losses)


def _restored(job: _Job, model: int, state: TrainState) -> Snapshot | None:
    """Returns the snapshot of a model, after its losses were reported, or None."""
    found = None if job.checkpoints is None else job.checkpoints.restore(model, state)
    if found is None:
        return None
    first, end = job.span
    step_losses = job.run.epoch.no_losses(job.x)
    shapes = lambda state: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    trees: list[Any] = [jax.tree.structure(state) for state in (found.state, state)]
    if trees[0] != trees[1] or shapes(found.state) != shapes(state):
        raise ValueError(f"the snapshot of model {model} is of another model or optimiser")
    if found.step_losses.shape != step_losses.shape or found.step % _per_block(job):
        raise ValueError(f"the snapshot of model {model} is of other data or another batch size")
    if not first <= found.epoch + bool(found.step) <= end:
        raise ValueError(
            f"the snapshot of model {model} has {found.epoch} epochs behind it, but this run goes "
            f"from {first} to {end}"
        )
    for i, loss in enumerate(found.losses):
        job.report(model, first + i + 1, float(loss))
    return found


def _per_block(job: _Job) -> int:
    return job.run.epoch.steps_per_block(job.x)


def _under_vmap(job: _Job, stacked: tuple[TrainState, Array, Any], models: int) -> TrainState:
    """Returns the stacked states of models that go through each step together."""
    if job.checkpoints is None:
        losses = np.stack([np.asarray(job.run.epoch.no_losses(job.x))] * models)
        begin = Snapshot(stacked[0], job.span[0], 0, np.zeros((models, 0)), losses)
        return _train(job, _Part(*stacked[1:], list(range(models))), begin)
    begins = [_begin(job, model, _one(stacked[0], model)) for model in range(models)]
    trained: dict[int, TrainState] = {}
    for place in sorted({(begin.epoch, begin.step) for begin in begins}):
        group = [i for i, begin in enumerate(begins) if (begin.epoch, begin.step) == place]
        arrays = [Snapshot(begins[i].state, 0, 0, *begins[i][3:]) for i in group]
        begin = _stack(arrays)._replace(epoch=place[0], step=place[1])
        key, settings = jax.tree.map(lambda leaf, i=group: leaf[jnp.asarray(i)], stacked[1:])
        states = _train(job, _Part(key, settings, group), begin)
        trained |= {model: _one(states, i) for i, model in enumerate(group)}
    return _stack([trained[model] for model in range(models)])


def _in_threads(job: _Job, stacked: tuple[TrainState, Array, Any], models: int) -> TrainState:
    """Returns the stacked states of models trained each by itself, a thread a core."""
    is_over = threading.Event()
    restored: list[Snapshot | None] = [None] * models
    if job.checkpoints is not None:
        restored = [_restored(job, model, _one(stacked[0], model)) for model in range(models)]
    left = [i for i, found in enumerate(restored) if not (found and found.epoch == job.span[1])]

    def part(model: int) -> _Part:
        key, settings = _one(stacked[1:], model)
        return _Part(key, settings, None, model, is_over)

    def begin(model: int) -> Snapshot:
        fresh = job._replace(checkpoints=None)
        return restored[model] or _begin(fresh, model, _one(stacked[0], model))

    # Compiled in the thread of the caller, whose contexts of JAX no other thread sees.
    program = _program(job, part(left[0]), begin(left[0])) if left else None

    def train(model: int) -> TrainState:
        return _train(job, part(model)._replace(program=program), begin(model))

    of_one = sum(leaf.nbytes for leaf in jax.tree.leaves(stacked[0])) // models
    at_a_time = min(models, _CORES, max(1, _CACHE_BYTES // max(1, of_one)))
    with ThreadPoolExecutor(at_a_time) as pool:
        futures = [pool.submit(train, model) for model in range(models)]
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


def _program(job: _Job, part: _Part, begin: Snapshot) -> Callable[..., Any]:
    """Returns the compiled program of a part; what it is given only says the shapes."""
    changing = jax.tree.map(jnp.asarray, (begin.state, begin.step_losses))
    given = (*changing, part.key, np.int32(0), np.int32(0), job.x, *part.settings)
    arrays = copied((*given[:3], *given[5:]), job.run.epoch.mesh)
    given = (*arrays[:3], *given[3:5], *arrays[3:])
    return job.run.program(*given, is_batched=part.together is not None)


def _train(job: _Job, part: _Part, begin: Snapshot) -> TrainState:
    """Returns the state at the end of the span, in calls of about a second."""
    blocks, epochs_per_call = job.run.epoch.blocks(job.x), job.run.epochs_per_call
    at, end = begin.epoch * blocks + begin.step // _per_block(job), job.span[1] * blocks
    # A program uses up what it is given.
    state, step_losses = jax.tree.map(jnp.array, (begin.state, begin.step_losses))
    if at == end:
        return state
    mesh = job.run.epoch.mesh
    fixed = copied((part.key, job.x, part.settings), mesh)
    state, step_losses = copied((state, step_losses), mesh)
    program = part.program or _program(job, part, begin)
    all_losses = [begin.losses]
    every = None if job.checkpoints is None else job.checkpoints.every
    at_once, is_first = min(blocks, _FIRST_BLOCKS), True
    while at < end:
        epoch = at // blocks
        _check_stopped(part, epoch, at % blocks)
        last = (epoch + min(epochs_per_call, every - epoch % every if every else end)) * blocks
        to = min(at + at_once, last, end)
        with _SLOTS if mesh is None or mesh.size == 1 else _ALL_DEVICES:
            started = time.perf_counter()
            span = np.int32(at), np.int32(to)
            state, step_losses, device_losses = program(
                state, step_losses, fixed[0], *span, fixed[1], *fixed[2]
            )
            losses = np.asarray(device_losses)[..., : to // blocks - epoch]
            seconds = time.perf_counter() - started
        _report(job, part, epoch, losses)
        all_losses.append(losses)
        if not is_first:  # the first call touches its memory for the first time
            at_once = max(1, int(_SECONDS_PER_CALL * (to - at) / seconds))
        at, is_first = to, False
        if at == end:  # the very last update is seen by no loss
            _check_params(part, state, job.span[1])
        if job.checkpoints is not None:
            is_told = at < end and job.checkpoints.should_stop()
            if is_told or at == end or (every and at % (every * blocks) == 0):
                epoch, block = divmod(at, blocks)
                means = np.concatenate(all_losses, axis=-1)
                step = block * _per_block(job)
                _save(job, part, Snapshot(state, epoch, step, means, step_losses))
            if is_told:
                raise StoppedError(epoch, step, part.model)
    return state


def _save(job: _Job, part: _Part, now: Snapshot) -> None:
    """Hands over a snapshot of each model, in arrays that no program will use up."""
    assert job.checkpoints is not None
    changing = now.state, now.losses, now.step_losses
    for i, model in enumerate(part.together or [part.model]):
        of_one = changing if part.together is None else _one(changing, i)
        state, *losses = jax.tree.map(_copied, of_one)
        job.checkpoints.save(model, Snapshot(state, now.epoch, now.step, *losses))


def _copied(leaf: Any) -> Any:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf.copy() if is_key else np.array(leaf)


def _check_stopped(part: _Part, epoch: int, block: int) -> None:
    if part.is_over is not None and part.is_over.is_set():
        raise StoppedError(epoch, block, part.model)


def _report(job: _Job, part: _Part, epoch: int, losses: np.ndarray) -> None:
    """Reports the mean losses of some epochs, ``(epochs,)`` or ``(models, epochs)``."""
    for i in range(losses.shape[-1]):
        _check_finite(losses[..., i], "the training loss is {}", epoch + i + 1, part)
        for j, model in enumerate(part.together or [part.model]):
            loss = losses[i] if part.together is None else losses[j, i]
            job.report(model, epoch + i + 1, float(loss))


def _check_params(part: _Part, state: TrainState, epoch: int) -> None:
    for leaf in jax.tree.leaves(state.params):
        axes = tuple(range(0 if part.together is None else 1, leaf.ndim))
        total = np.asarray(jnp.sum(jnp.where(jnp.isfinite(leaf), 0, leaf), axis=axes))
        _check_finite(total, "a parameter became {}", epoch, part)


def _check_finite(values: np.ndarray, what: str, epoch: int, part: _Part) -> None:
    """Raises NonFiniteLossError for the first of the values, one for each model, that is not."""
    for position in np.flatnonzero(~np.isfinite(values)):
        value = float(np.ravel(values)[position])
        is_alone = part.together is None and part.is_over is None
        model = None if is_alone else (part.together or [part.model])[int(position)]
        raise NonFiniteLossError(what.format(value), epoch, model)
