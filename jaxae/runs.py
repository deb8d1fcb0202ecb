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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae.training import Loss, NonFiniteLossError, TrainState, epoch_of

# A call lasts about so long, so that a log goes on and an interrupt is heard.
_SECONDS_PER_CALL = 1.0
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# However many threads there are, so many programs run at a time.
_SLOTS = threading.BoundedSemaphore(_CORES)
# Models that train at a time in threads shall fit into the last cache together.
_CACHE_BYTES = 2**25
# Without it XLA's CPU compiler copies a kernel that is read after its update might have begun.
_CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}


class Run:
    """Several epochs of training in one compiled program; :func:`make_run` makes it.

    ``run(state, key, first_epoch, epochs, x, *settings) -> (state, losses)``, a pure function.

    Attributes:
      epochs_per_call: the most epochs of one call, and the length of ``losses``.
    """

    def __init__(self, run_epoch: Callable[..., Any], epochs_per_call: int) -> None:
        self.epochs_per_call = epochs_per_call
        self._run_epoch = run_epoch
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
        dtype = jnp.result_type(float)

        def body(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, losses = carry
            state, mean_loss = self._run_epoch(state, key, first_epoch + i, x, *settings)
            return state, losses.at[i].set(mean_loss.astype(dtype))

        start = state, jnp.full(self.epochs_per_call, jnp.nan, dtype)
        return jax.lax.fori_loop(0, jnp.minimum(epochs, self.epochs_per_call), body, start)

    def program(self, *arguments: Any, is_batched: bool = False) -> Callable[..., Any]:
        """Returns the compiled program for such arguments; each is compiled once.

        The state is donated. Threads may ask at the same time.

        Args:
          *arguments: those of a call.
          is_batched: whether all but ``first_epoch``, ``epochs`` and ``x`` have a leading axis
            of models.
        """
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        config: Any = jax.config
        context = (config.jax_default_matmul_precision, config.jax_default_device)
        signature = (is_batched, tree, shapes, context)
        with self._compiling:
            if signature not in self._compiled:
                axes = (0, 0, None, None, None, *[0] * (len(arguments) - 5))
                function = jax.vmap(self, in_axes=axes) if is_batched else self
                lowered = jax.jit(function, donate_argnums=0).lower(*arguments)
                self._compiled[signature] = _compiled(lowered)
            return self._compiled[signature]


def make_run(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    epochs_per_call: int = 64,
) -> Run:
    """Returns a run of several epochs in one program, for :func:`fit` and :func:`fit_many`.

    Every epoch is that of :func:`jaxae.make_epoch`, with the same shuffles and draws. How many
    there are is a traced number, so a run of any length compiles once.

    Args:
      loss: ``loss(params, key, x, *settings)``, values ``(batch,)`` or a scalar.
      optimizer: any ``optax`` optimiser.
      batch_size: examples per step, at least 1; more than there are means one full batch.
      epochs_per_call: the most epochs of one call, at least 1.

    Returns:
      ``run(state, key, first_epoch, epochs, x, *settings) -> (state, losses)``: not compiled,
      to be passed to ``jax.jit``, ``jax.vmap`` or :func:`fit`. The same ``key`` serves the
      whole run; ``first_epoch`` counts from 0. ``losses`` is ``(epochs_per_call,)``: the mean
      loss of each epoch, and NaN beyond ``epochs``.

    Raises:
      TypeError: if ``loss`` is no function or ``batch_size`` no integer.
      ValueError: if ``batch_size`` or ``epochs_per_call`` is below 1; the result raises it for
        empty data.

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
    return Run(epoch_of(loss, optimizer, batch_size), epochs_per_call)


def fit(
    run: Run,
    state: TrainState,
    key: PRNGKeyArray,
    x: Float[Array, "n *example"],
    *settings: Any,
    epochs: int,
    first_epoch: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TrainState:
    """Returns the state after some epochs, or stops at the first epoch that broke down.

    Calls of about a second, however short an epoch is: the host reads the losses once a call.

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
        mean loss.

    Returns:
      The final state.

    Raises:
      NonFiniteLossError: naming the epoch, when its mean loss is NaN or infinite, or a
        parameter after the last one is.
      TypeError: if ``x`` is not floating point, or ``run`` not from :func:`make_run`.
      ValueError: if ``epochs`` is below 1, or ``x`` is empty or not finite.

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

    def report(epoch: int, losses: np.ndarray) -> None:
        if on_epoch is not None:
            on_epoch(epoch, float(losses))

    arguments = (state, key, *span[:1], *span[:1], x, *_arrays(settings))
    return _train(run.program(*arguments), arguments, span, report)


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

    Returns:
      The final states, every leaf with a leading axis of m.

    Raises:
      NonFiniteLossError: naming the epoch and the model, as in :func:`fit`.
      TypeError: if ``x`` is not floating point, ``keys`` no array of typed keys, or ``run`` not
        from :func:`make_run`.
      ValueError: if ``epochs`` is below 1, ``x`` is empty or not finite, leading axes differ,
        or ``method`` is unknown.

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
    settings = _arrays(settings)
    models = _check_models(states, keys, settings)
    _checks.choice("method", method, ("auto", "vmap", "threads"))
    if (sweep_method() if method == "auto" else method) == "threads":
        return _in_threads(run, (states, keys, x, settings), models, span, on_epoch)

    def report(epoch: int, losses: np.ndarray) -> None:
        if on_epoch is not None:
            for model, loss in enumerate(losses):
                on_epoch(model, epoch, float(loss))

    arguments = (states, keys, *span[:1], *span[:1], x, *settings)
    return _train(run.program(*arguments, is_batched=True), arguments, span, report)


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


def _check(
    run: Any, x: Any, first_epoch: int, epochs: int
) -> tuple[Array, tuple[np.int32, np.int32]]:
    """Returns the data, and the first epoch and the one after the last."""
    if not isinstance(run, Run):
        raise TypeError(f"run must be what jaxae.make_run returned, but it is {run!r}")
    first = _checks.integer("first_epoch", first_epoch, low=0)
    count = _checks.integer("epochs", epochs, low=1)
    return _checks.floating("x", x), (np.int32(first), np.int32(first + count))


def _arrays(settings: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns strongly typed arrays, so that 1 and 2.0 do not compile apart."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), settings)


def _check_models(states: TrainState, keys: Any, settings: Sequence[Any]) -> int:
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


def _in_threads(
    run: Run,
    stacked: tuple[TrainState, Array, Array, Sequence[Any]],
    models: int,
    span: tuple[np.int32, np.int32],
    on_epoch: Callable[[int, int, float], None] | None,
) -> TrainState:
    """Returns the stacked states of models trained each by itself, a thread a core."""
    states, keys, x, settings = stacked

    def arguments(model: int) -> tuple[Any, ...]:
        state, key, of_one = jax.tree.map(lambda leaf: leaf[model], (states, keys, tuple(settings)))
        return (state, key, *span[:1], *span[:1], x, *of_one)

    program = run.program(*arguments(0))
    is_over, turn = threading.Event(), threading.Lock()

    def train(model: int) -> TrainState:
        def report(epoch: int, loss: np.ndarray) -> None:
            with turn:
                if on_epoch is not None:
                    on_epoch(model, epoch, float(loss))

        return _train(program, arguments(model), span, report, model, is_over)

    of_one = sum(leaf.nbytes for leaf in jax.tree.leaves(states)) // models
    at_a_time = min(models, _CORES, max(1, _CACHE_BYTES // max(1, of_one)))
    with ThreadPoolExecutor(at_a_time) as pool:
        futures = [pool.submit(train, model) for model in range(models)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # after an error or an interrupt the others stop at their next call
            is_over.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, _StoppedError):
            raise error
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[f.result() for f in futures])


class _StoppedError(Exception):
    """A model was stopped because another one broke down."""


def _train(
    program: Callable[..., tuple[TrainState, Array]],
    arguments: tuple[Any, ...],
    span: tuple[np.int32, np.int32],
    report: Callable[[int, np.ndarray], None],
    model: int | None = None,
    is_over: threading.Event | None = None,
) -> TrainState:
    """Returns the state after the epochs of ``span``, in calls of about a second."""
    state, key, _, _, *others = arguments
    state = jax.tree.map(jnp.copy, state)  # a program uses up what it is given
    epoch, end = map(int, span)
    at_once, is_first = 1, True
    while epoch < end:
        count = min(at_once, end - epoch)
        with _SLOTS:
            if is_over is not None and is_over.is_set():
                raise _StoppedError
            started = time.perf_counter()
            state, device_losses = program(state, key, np.int32(epoch), np.int32(count), *others)
            losses = np.asarray(device_losses)[..., :count]
            seconds = time.perf_counter() - started
        for i in range(count):
            _check_finite(losses[..., i], "the training loss is {}", epoch + i + 1, model)
            report(epoch + i + 1, losses[..., i])
        if not is_first:  # the first call touches its memory for the first time
            at_once = max(1, min(int(_SECONDS_PER_CALL * count / seconds), device_losses.shape[-1]))
        epoch, is_first = epoch + count, False
    # The very last update is seen by no loss.
    for leaf in jax.tree.leaves(state.params):
        axes = tuple(range(losses.ndim - 1, leaf.ndim))
        total = np.asarray(jnp.sum(jnp.where(jnp.isfinite(leaf), 0, leaf), axis=axes))
        _check_finite(total, "a parameter became {}", end, model)
    return state


def _check_finite(values: np.ndarray, what: str, epoch: int, model: int | None) -> None:
    """Raises NonFiniteLossError for the first of the values, one for each model, that is not."""
    for position in np.flatnonzero(~np.isfinite(values)):
        value = float(np.ravel(values)[position])
        which = int(position) if values.ndim else model
        raise NonFiniteLossError(what.format(value), epoch, which)
