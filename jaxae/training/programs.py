"""The compiled program of a run: some epochs, or some blocks of their steps."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, ScalarLike

from jaxae.training._data import like_of_one
from jaxae.training.epoch import Epoch, Window
from jaxae.training.sharding import everywhere
from jaxae.training.steps import Losses, TrainState

# Without it XLA's CPU compiler copies a kernel that is read after its update might have begun.
_CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}


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
        x: Any,
        *settings: Any,
    ) -> tuple[TrainState, Losses]:
        """Returns the state after the epochs, and the mean loss of each, NaN beyond them."""
        blocks = self.epoch.blocks(x)
        first = jnp.asarray(first_epoch) * blocks
        end = first + jnp.minimum(epochs, self.epochs_per_call) * blocks
        start = state, self.epoch.no_losses(state, key, x, *settings)
        state, _, losses = self.part(*start, key, first, end, x, *settings)
        is_done = jnp.arange(self.epochs_per_call) < epochs
        return state, jax.tree.map(lambda means: jnp.where(is_done, means, jnp.nan), losses)

    def part(
        self,
        state: TrainState,
        step_losses: Losses,
        key: PRNGKeyArray,
        first: Array,
        end: Array,
        x: Any,
        *settings: Any,
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
        blocks = self.epoch.blocks(x)
        first_epoch = first // blocks

        def body(i: Array, carry: Any) -> Any:
            state, step_losses, losses = carry
            begin = (first_epoch + i) * blocks
            span = jnp.maximum(first - begin, 0), jnp.minimum(end - begin, blocks)
            inputs = key, first_epoch + i, x, *settings
            state, step_losses = self.epoch.part(state, step_losses, span, *inputs)
            write = lambda means, mean: means.at[i].set(mean.astype(means.dtype))
            losses = jax.tree.map(write, losses, self.epoch.mean_loss(step_losses, x))
            return state, step_losses, losses

        no_losses = jax.tree.map(
            lambda _: jnp.zeros(self.epochs_per_call, jnp.result_type(float)), step_losses
        )
        start = state, step_losses, no_losses
        epochs = (end + blocks - 1) // blocks - first_epoch
        return jax.lax.fori_loop(0, jnp.minimum(epochs, self.epochs_per_call), body, start)

    def arguments(
        self, state: TrainState, key: Array, x: Any, *settings: Any, epoch: int = 0
    ) -> tuple[Any, ...]:
        """Returns those of :meth:`part` for a whole epoch, of one model or, with keys, of many."""
        one = state, key, settings
        if key.ndim:
            one = like_of_one(one)
        no_losses = self.epoch.no_losses(*one[:2], x, *one[2])
        step_losses = jax.tree.map(
            lambda zeros: jnp.zeros((*key.shape, *zeros.shape), zeros.dtype), no_losses
        )
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
                x = arguments[5]
                of_x = Window(0, 0, None, x.examples) if isinstance(x, Window) else None
                axes = (0, 0, 0, None, None, of_x, *[0] * (len(arguments) - 6))
                function = jax.vmap(self.part, in_axes=axes) if is_batched else self.part
                mesh = self.epoch.mesh
                options: Any = {} if mesh is None else {"out_shardings": everywhere(mesh)}
                lowered = jax.jit(function, donate_argnums=(0, 1), **options).lower(*arguments)
                self._compiled[signature] = _compiled(lowered)
            return self._compiled[signature]


def _compiled(lowered: Any) -> Callable[..., Any]:
    if jax.default_backend() == "cpu":
        try:
            return lowered.compile(compiler_options=_CPU_OPTIONS)
        except jax.errors.JaxRuntimeError:  # a compiler that does not know this option
            pass
    return lowered.compile()
