"""The compiled program of a run: some epochs, or some blocks of their steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree, ScalarLike

from jaxae._convolutions import reorder_convolutions
from jaxae.training._data import Data, drop_leading_axis
from jaxae.training.epoch import Epoch, Window
from jaxae.training.sharding import replicated_sharding
from jaxae.training.steps import Losses, TrainState

# Without it XLA's CPU compiler copies a kernel that is read after its update might have begun.
_CPU_OPTIONS: dict[str, str | bool] = {"xla_cpu_copy_insertion_use_region_analysis": True}
# State, losses of the steps of the epoch under way, and mean losses of the epochs.
_Carry: TypeAlias = tuple[TrainState, Losses, Losses]
Program: TypeAlias = Callable[..., _Carry]


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
        # Compiled ahead of the first call and kept here: jax.jit would compile in each of several
        # threads that call it at the same time.
        self._compiled: dict[Hashable, jax.stages.Compiled] = {}
        self._compiling = threading.Lock()

    def __call__(
        self,
        state: TrainState,
        key: PRNGKeyArray,
        first_epoch: ScalarLike,
        epochs: ScalarLike,
        x: Data | Window,
        *settings: PyTree,
    ) -> tuple[TrainState, Losses]:
        """Returns the state after the epochs, and the mean loss of each, NaN beyond them."""
        blocks = self.epoch.layout(x).blocks
        first = jnp.asarray(first_epoch) * blocks
        end = first + jnp.minimum(epochs, self.epochs_per_call) * blocks
        step_losses = self.epoch.zero_losses(state, key, x, *settings)
        state, _, losses = self.train_blocks(state, step_losses, key, first, end, x, *settings)
        is_done = jnp.arange(self.epochs_per_call) < epochs
        return state, jax.tree.map(lambda means: jnp.where(is_done, means, jnp.nan), losses)

    def train_blocks(
        self,
        state: TrainState,
        step_losses: Losses,
        key: PRNGKeyArray,
        first: Array,
        end: Array,
        x: Data | Window,
        *settings: PyTree,
    ) -> tuple[TrainState, Losses, Losses]:
        """Returns state, losses of the last epoch's steps, and mean losses after some blocks.

        Args:
          state: state before the blocks.
          step_losses: losses of the steps of the epoch under way.
          key: key of the run.
          first: the first block, counted from 0 over all epochs.
          end: the block after the last, within ``epochs_per_call`` epochs.
          x: data; of those that are read in pieces, a window that has all of these blocks.
          *settings: passed on to the loss.
        """
        blocks = self.epoch.layout(x).blocks
        first_epoch = first // blocks

        def train_epoch(i: Array, carry: _Carry) -> _Carry:
            state, step_losses, losses = carry
            begin = (first_epoch + i) * blocks
            # The first epoch may be under way already, and the last one may not end here.
            epoch_first = jnp.maximum(first - begin, 0)
            epoch_end = jnp.minimum(end - begin, blocks)
            state, step_losses = self.epoch.train_blocks(
                state, step_losses, epoch_first, epoch_end, key, first_epoch + i, x, *settings
            )

            def write(means: Array, mean: Array) -> Array:
                return means.at[i].set(mean.astype(means.dtype))

            losses = jax.tree.map(write, losses, self.epoch.mean_loss(step_losses, x))
            return state, step_losses, losses

        # Room for the most epochs of a call: their number is traced, and shapes cannot depend on
        # it. So a run of any length is one program.
        def zeros(_: Array) -> Array:
            return jnp.zeros(self.epochs_per_call, jnp.result_type(float))

        start = state, step_losses, jax.tree.map(zeros, step_losses)
        epochs = (end + blocks - 1) // blocks - first_epoch
        return jax.lax.fori_loop(0, jnp.minimum(epochs, self.epochs_per_call), train_epoch, start)

    def arguments(
        self, state: TrainState, key: Array, x: Data | Window, *settings: PyTree, epoch: int = 0
    ) -> tuple[PyTree, ...]:
        """Returns the arguments of :meth:`train_blocks` for one whole epoch.

        Of one model or, with keys ``(m,)`` and stacked arrays, of several.
        """
        one_state, one_key, one_settings = state, key, settings
        if key.ndim:
            one_state, one_key, one_settings = drop_leading_axis((state, key, settings))
        zero_losses = self.epoch.zero_losses(one_state, one_key, x, *one_settings)
        step_losses = jax.tree.map(
            lambda zeros: jnp.zeros((*key.shape, *zeros.shape), zeros.dtype), zero_losses
        )
        blocks = self.epoch.layout(x).blocks
        first, end = np.int32(epoch * blocks), np.int32((epoch + 1) * blocks)
        return state, step_losses, key, first, end, x, *settings

    def program(
        self,
        state: TrainState,
        step_losses: Losses,
        key: Array,
        first: ArrayLike,
        end: ArrayLike,
        x: Data | Window,
        *settings: PyTree,
        is_batched: bool = False,
    ) -> jax.stages.Compiled:
        """Returns the compiled :meth:`train_blocks` for such arguments; each is compiled once.

        Of the arguments, those of a call, only shapes, dtypes and placement are used. The program
        uses up the state and the losses that it is given. Threads may ask at the same time.

        Args:
          state: state, with a leading axis of models if ``is_batched``.
          step_losses: losses of the steps, likewise.
          key: key of the run, or keys.
          first: the first block, which all models share.
          end: the block after the last, which all models share.
          x: data, which all models share, or a window, which has a leading axis of models.
          *settings: passed on to the loss, with a leading axis of models if ``is_batched``.
          is_batched: whether to compile for several models under vmap.
        """
        arguments = state, step_losses, key, first, end, x, *settings
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        config: Any = jax.config
        # Contexts of JAX that change the program though all shapes are the same.
        context = (config.jax_default_matmul_precision, config.jax_default_device)
        signature = (is_batched, tree, shapes, context)
        # Compiled under the lock: of several threads that ask for the same, one compiles.
        with self._compiling:
            if signature not in self._compiled:
                function = self.train_blocks
                if is_batched:
                    function = jax.vmap(function, in_axes=_vmap_axes(x, len(settings)))
                # State and losses are donated: a call needs no second copy of the parameters.
                jit = partial(jax.jit, donate_argnums=(0, 1))
                if self.epoch.mesh is not None:
                    # What comes out of a call goes into the next one, so it must lie where that
                    # expects it, and not where XLA would leave it.
                    jit = partial(jit, out_shardings=replicated_sharding(self.epoch.mesh))
                self._compiled[signature] = _compile(_lower(function, jit, arguments))
            return self._compiled[signature]


def _vmap_axes(x: Data | Window, settings: int) -> tuple[PyTree, ...]:
    """Returns the ``in_axes`` of :meth:`Run.train_blocks` for several models.

    The block numbers and data in memory are shared; a window holds the batches of each model,
    which has a shuffle of its own, but the number of its first step is shared.
    """
    x_axes = Window(0, 0, None, x.examples) if isinstance(x, Window) else None
    state, step_losses, key, first, end = 0, 0, 0, None, None
    return state, step_losses, key, first, end, x_axes, *[0] * settings


def _lower(
    function: Callable[..., PyTree],
    jit: Callable[..., jax.stages.Wrapped],
    arguments: tuple[PyTree, ...],
) -> jax.stages.Lowered:
    """Returns the lowered program; on a CPU with convolutions in the order that is fast there."""
    traced = jit(function).trace(*arguments)
    if jax.default_backend() != "cpu":
        return traced.lower()
    reordered = reorder_convolutions(traced.jaxpr)
    if reordered is None:
        return traced.lower()
    results = jax.tree.structure(traced.out_info)

    def run_reordered(*arguments: PyTree) -> PyTree:
        leaves = jex.jaxpr_as_fun(reordered)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(results, leaves)

    return jit(run_reordered).lower(*arguments)


def _compile(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Returns the compiled program, with options that make it faster where there are some."""
    if jax.default_backend() == "cpu":
        try:
            return lowered.compile(compiler_options=_CPU_OPTIONS)
        except jax.errors.JaxRuntimeError:  # a compiler that does not know this option
            pass
    return lowered.compile()
