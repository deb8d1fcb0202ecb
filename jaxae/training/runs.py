r"""Whole training runs: many epochs in a call, many models on one machine.

Contract of this module. The loss, the optimiser, the key and the data decide what is trained, and
in which bits: neither the number of epochs in a call, nor the number of threads, nor whether the
data are in memory changes a result. Several models under vmap may differ in the last bits from
each by itself. These functions drive the device from the host; they are not to be traced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree, Shaped, UInt32

from jaxae import _checks
from jaxae._checks import AnyArray, advice
from jaxae._optax import Optimizer
from jaxae.training._data import Data, Stream, drop_leading_axis, put_on_device
from jaxae.training._drive import train_group
from jaxae.training._job import FitArguments, ModelGroup
from jaxae.training._processes import spans_processes
from jaxae.training._resume import restore_or_start
from jaxae.training.epoch import Epoch
from jaxae.training.many import StackedModels, sweep_method, train_in_threads, train_under_vmap
from jaxae.training.programs import Run
from jaxae.training.sharding import check_mesh
from jaxae.training.snapshots import Checkpoints
from jaxae.training.steps import Loss, Losses, TrainState, check_state
from jaxae.training.streams import Streamed


def make_run(
    loss: Loss,
    optimizer: Optimizer,
    *,
    batch_size: int,
    epochs_per_call: int = 64,
    mesh: Mesh | None = None,
) -> Run:
    """Returns a run of several epochs in one program, for :func:`fit` and :func:`fit_many`.

    Every epoch is that of :func:`jaxae.make_epoch`, with the same shuffles and draws. How many
    there are is a traced number, so a run of any length compiles once.

    Args:
      loss: ``loss(params, key, x, *settings)``, as for :func:`jaxae.make_train_step`.
      optimizer: any ``optax`` optimiser.
      batch_size: examples per step, at least 1; more than there are means one full batch.
      epochs_per_call: the most epochs of one call, at least 1.
      mesh: devices over which every batch is divided, from :func:`jaxae.data_mesh`; by default
        one device. Neither shuffles nor noise depend on it.

    Returns:
      ``run(state, key, first_epoch, epochs, x, *settings) -> (state, losses)``: not compiled,
      to be passed to ``jax.jit``, ``jax.vmap`` or :func:`fit`. The same ``key`` serves the
      whole run; ``first_epoch`` counts from 0. ``losses`` is ``(epochs_per_call,)``: the mean
      loss of each epoch, and NaN beyond ``epochs``; for a loss with auxiliary outputs it is a
      pair ``(losses, aux)`` of such arrays.

    Raises:
      TypeError: if ``loss`` is no function, ``batch_size`` no integer or ``mesh`` no mesh.
      ValueError: if ``batch_size`` or ``epochs_per_call`` is below 1, ``batch_size`` is no
        multiple of the devices, or ``mesh`` has no axis ``"data"`` or explicit ones; the result
        raises it for empty data.

    Example:
      >>> import optax
      >>> import jaxae
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.25)
      >>> run = make_run(loss, optimizer, batch_size=5)
      >>> state = jaxae.create_train_state(jnp.zeros(()), optimizer)
      >>> state, losses = jax.jit(run)(state, jax.random.key(0), 0, 3, jnp.ones(5))
      >>> losses[:3].tolist()
      [1.0, 0.25, 0.0625]
    """
    epochs_per_call = _checks.integer("epochs_per_call", epochs_per_call, low=1)
    epoch = Epoch(loss, optimizer, batch_size, mesh)
    if mesh is not None:
        check_mesh(mesh, batch_size)
    return Run(epoch, epochs_per_call)


def fit(
    run: Run,
    state: TrainState,
    key: PRNGKeyArray,
    x: Float[AnyArray, "n *example"] | PyTree[Shaped[Array | np.ndarray, "n ..."]] | Stream,
    *settings: PyTree,
    epochs: int,
    first_epoch: int = 0,
    on_epoch: Callable[..., None] | None = None,
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
      x: data ``(n, *example)``, floating and finite; or a pytree of arrays with one leading
        axis of n, such as ``(x, mask)``, of any dtype; or :class:`Streamed` or
        :class:`StreamedBatches`. The loss gets a batch as the same pytree.
      *settings: passed on to the loss.
      epochs: how many passes over the data, at least 1.
      first_epoch: how many epochs ``state`` has behind it with this ``key``, so that going on
        takes the next shuffles and draws instead of repeating the first ones.
      on_epoch: called for each epoch, in order, with its number, from first_epoch + 1, its mean
        loss and, for a loss that returns ``(values, aux)``, the means of ``aux``; on going on
        from a snapshot, for the epochs behind it too. An error that it raises is raised here,
        after a snapshot was handed over.
      checkpoints: restores the snapshot to go on from, is given those to keep, and says when
        to stop; see :class:`Checkpoints`.

    Returns:
      The final state.

    Raises:
      NonFiniteLossError: naming the epoch, when its mean loss is NaN or infinite, or a
        parameter after the last one is. Such a state is never kept. Auxiliary outputs may be
        NaN: nothing is trained on them.
      StoppedError: when ``checkpoints`` said so, after its snapshot was handed over.
      TypeError: if ``x`` is a single array that is not floating point, or ``run`` not from
        :func:`make_run`.
      ValueError: if ``epochs`` is below 1, ``x`` is empty, not finite, masked, of arrays of
        different n or divided over a mesh of explicit axes, or a snapshot is of another state,
        data set or number of epochs; or under ``jax.disable_jit``.

    Example:
      >>> import optax
      >>> import jaxae
      >>> loss = lambda params, key, x: jnp.square(params - x)
      >>> optimizer = optax.sgd(0.5)
      >>> run = make_run(loss, optimizer, batch_size=5)
      >>> state = jaxae.create_train_state(jnp.zeros(()), optimizer)
      >>> float(fit(run, state, jax.random.key(0), jnp.ones(5), epochs=2).params)
      1.0
    """
    _check_run(run)
    first, end = _check_epochs(first_epoch, epochs)
    x = _prepare_data(run, x)
    check_state("state", state)
    _checks.prng_key("key", key)

    def report(model: int, epoch: int, *means: PyTree) -> None:
        if on_epoch is not None:
            on_epoch(epoch, *means)

    arrays = _as_strong_arrays(settings)
    # Traced here, so that a loss with an error fails before anything is compiled or restored.
    zero_losses = _zero_losses(run, state, key, x, arrays)
    arguments = FitArguments(run, x, first, end, report, checkpoints, zero_losses)
    group = ModelGroup([0], key, arrays)
    return train_group(arguments, group, restore_or_start(arguments, 0, state))


def fit_many(
    run: Run,
    states: TrainState,
    keys: Key[Array, " m"] | UInt32[Array, "m words"],
    x: Float[AnyArray, "n *example"] | PyTree[Shaped[Array | np.ndarray, "n ..."]] | Stream,
    *settings: PyTree,
    epochs: int,
    first_epoch: int = 0,
    on_epoch: Callable[..., None] | None = None,
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
      keys: PRNG keys ``(m,)``, or raw ones ``(m, words)``, one for each model.
      x: data as in :func:`fit`, shared.
      *settings: passed on to the loss, arrays with a leading axis of m, or pytrees of them.
      epochs: how many passes over the data, at least 1.
      first_epoch: how many epochs the states have behind them with these keys.
      on_epoch: called with the model, from 0, the epoch, from first_epoch + 1, its mean loss
        and, where there are some, the means of its auxiliary outputs: in order for each model,
        and never twice at the same time.
      method: ``"vmap"``, ``"threads"``, or ``"auto"``: threads on a CPU, vmap elsewhere.
      checkpoints: as in :func:`fit`, for each model by itself. Under vmap those that go on from
        different epochs go on one group after another.

    Returns:
      The final states, every leaf with a leading axis of m.

    Raises:
      NonFiniteLossError: naming the epoch and the model, as in :func:`fit`.
      StoppedError: as in :func:`fit`.
      TypeError: if ``x`` is a single array that is not floating point, ``keys`` no array of
        keys, or ``run`` not from :func:`make_run`.
      ValueError: as in :func:`fit`, or if leading axes differ or ``method`` is unknown.

    Example:
      >>> import optax
      >>> import jaxae
      >>> loss = lambda params, key, x, target: jnp.square(params - target * x)
      >>> optimizer = optax.sgd(0.5)
      >>> run = make_run(loss, optimizer, batch_size=5)
      >>> states = jax.vmap(lambda p: jaxae.create_train_state(p, optimizer))(jnp.zeros(2))
      >>> keys, targets = jax.random.split(jax.random.key(0)), jnp.array([1.0, 3.0])
      >>> fit_many(run, states, keys, jnp.ones(5), targets, epochs=2).params.tolist()
      [1.0, 3.0]
    """
    _check_run(run)
    first, end = _check_epochs(first_epoch, epochs)
    x = _prepare_data(run, x)
    check_state("states", states)
    stacked = StackedModels(states, _as_typed_keys(keys), _as_strong_arrays(settings))
    _check_leading_axes(stacked)
    _checks.choice("method", method, ("auto", "vmap", "threads"))
    # Models in threads end their epochs at any time; a user's function need not be thread-safe.
    report_lock = threading.Lock()

    def report(model: int, epoch: int, *means: PyTree) -> None:
        with report_lock:
            if on_epoch is not None:
                on_epoch(model, epoch, *means)

    # All models have the shapes of one, of which the losses are traced.
    one = drop_leading_axis(stacked)
    zero_losses = _zero_losses(run, one.states, one.keys, x, one.settings)
    arguments = FitArguments(run, x, first, end, report, checkpoints, zero_losses)
    chosen = sweep_method() if method == "auto" else method
    train = train_in_threads if chosen == "threads" else train_under_vmap
    return train(arguments, stacked)


def _check_run(run: object) -> None:
    """Raises TypeError for what is no run."""
    if not isinstance(run, Run):
        raise TypeError(f"run must be what jaxae.make_run returned, but it is {advice.shown(run)}")


def _check_epochs(first_epoch: int, epochs: int) -> tuple[int, int]:
    """Returns how many epochs are behind the start and behind the end."""
    first = _checks.integer("first_epoch", first_epoch, low=0)
    return first, first + _checks.integer("epochs", epochs, low=1)


def _prepare_data(run: Run, x: Data) -> Data:
    """Returns checked data: on the device, or a stream."""
    config: Any = jax.config
    if config.jax_disable_jit:
        raise ValueError(
            "fit compiles its run and cannot work under jax.disable_jit; to look into a step, call "
            "jaxae.make_train_step(loss, optimizer) there"
        )
    if isinstance(x, Stream):
        return x
    x = put_on_device("x", x)
    if not spans_processes(run.epoch.mesh):
        return x
    # Each process shall place only the rows of its own devices. A stream is read like that, and
    # in the order that a program would give an array in memory.
    leaves, structure = jax.tree.flatten(x)
    rows = tuple(map(np.asarray, leaves))  # a tuple is what a stream takes of several sources
    return Streamed(rows, transform=partial(jax.tree.unflatten, structure))


def _zero_losses(
    run: Run, state: TrainState, key: PyTree, x: Data, settings: tuple[PyTree, ...]
) -> Losses:
    """Returns zeros in the place of the losses of the steps of an epoch, in NumPy."""
    return jax.tree.map(np.asarray, run.epoch.zero_losses(state, key, x, *settings))


def _as_strong_arrays(settings: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
    """Returns strongly typed arrays, so that 1 and 2.0 do not compile apart."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), settings)


def _as_typed_keys(keys: object) -> Array:
    """Returns typed keys ``(m,)``, also for the raw ones ``(m, words)`` of jax.random.PRNGKey."""
    if isinstance(keys, jax.Array | np.ndarray):
        if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
            return jnp.asarray(keys)
        # Raw keys have lost their generator: taken for the default one, if the length fits.
        words = jax.random.key_data(jax.random.key(0)).shape
        if keys.dtype == jnp.uint32 and keys.ndim == 2 and keys.shape[1:] == words:
            return jax.random.wrap_key_data(jnp.asarray(keys))
    raise TypeError(
        "keys must be PRNG keys, one for each of the m models, such as jax.random.split(key, m)"
    )


def _check_leading_axes(stacked: StackedModels) -> None:
    """Raises ValueError unless everything has the leading axis m of the keys."""
    keys = stacked.keys
    if keys.ndim != 1 or not len(keys):
        raise ValueError(f"keys must have shape (m,) with m >= 1, but it is {keys.shape}")
    settings = {f"settings[{i}]": value for i, value in enumerate(stacked.settings)}
    for name, tree in {"states": stacked.states, **settings}.items():
        for leaf in jax.tree.leaves(tree):
            if np.shape(leaf)[:1] != keys.shape:
                raise ValueError(
                    f"every leaf of {name} must have a leading axis of {len(keys)}, one for each "
                    f"key, but one has shape {np.shape(leaf)}"
                )
