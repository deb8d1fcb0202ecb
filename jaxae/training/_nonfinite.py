"""Losses and parameters that became NaN or infinite: how they are noticed and explained.

The compiled program checks nothing: a test in every step would make each of them slower, and a
value that is not finite stays so through the mean of an epoch. The host looks at those means, and
at the parameters before they are kept or returned.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxae._optax import Params
from jaxae.training._data import Stream
from jaxae.training._job import FitArguments, ModelGroup, take_model
from jaxae.training._processes import spans_processes, to_numpy
from jaxae.training.errors import NonFiniteLossError
from jaxae.training.snapshots import Snapshot
from jaxae.training.steps import Losses, TrainState, main_loss

_LOSS = "the training loss is {}"
_PARAMETER = "a parameter became {}"


def check_epoch_loss(group: ModelGroup, values: np.ndarray, epoch: int) -> None:
    """Raises NonFiniteLossError for the mean losses of an epoch, one for each model."""
    _check_values(group, values, _LOSS, epoch)


def check_first_steps(group: ModelGroup, step_losses: Losses, epoch: int, steps: int) -> None:
    """Raises NonFiniteLossError for the first steps after some epochs."""
    # The sum is not finite if one of the losses is not, and one number per model is quick to read.
    sums = np.asarray(to_numpy(main_loss(step_losses))[..., :steps].sum(axis=-1))
    _check_values(group, sums, _LOSS, epoch + 1)


def check_snapshot(group: ModelGroup, snapshot: Snapshot) -> None:
    """Raises NonFiniteLossError for what the mean loss of no epoch has shown yet."""
    if snapshot.step:
        check_first_steps(group, snapshot.step_losses, snapshot.epoch, snapshot.step)
    _check_params(group, snapshot.state, snapshot.epoch + bool(snapshot.step))


def _check_params(group: ModelGroup, state: TrainState, epoch: int) -> None:
    """Raises NonFiniteLossError for parameters after an epoch."""
    # A loss is taken before its update: the last update of all is seen in the parameters alone.
    for total in _sums_of_nonfinite(state.params, is_stacked=group.is_stacked):
        _check_values(group, np.asarray(total), _PARAMETER, epoch)


@partial(jax.jit, static_argnames="is_stacked")  # one program instead of three for each array
def _sums_of_nonfinite(params: Params, *, is_stacked: bool) -> list[Array]:
    """Returns for each array of parameters, and each model, a sum that is 0 if all are finite."""

    def total(leaf: Array) -> Array:
        axes = tuple(range(1 if is_stacked else 0, leaf.ndim))
        # A plain sum of large finite parameters could overflow, so these count as 0.
        return jnp.sum(jnp.where(jnp.isfinite(leaf), 0, leaf), axis=axes)

    return [total(leaf) for leaf in jax.tree.leaves(params)]


def _check_values(group: ModelGroup, values: np.ndarray, what: str, epoch: int) -> None:
    """Raises NonFiniteLossError for the first of the values, one a model, that is not finite."""
    for position in np.flatnonzero(~np.isfinite(values)):
        value = float(np.ravel(values)[position])
        is_only_model = not group.is_stacked and group.others_ended is None
        model = None if is_only_model else group.models[int(position)]
        raise NonFiniteLossError(what.format(value), epoch, model)


def explain_error(
    arguments: FitArguments, group: ModelGroup, begin: Snapshot, error: NonFiniteLossError
) -> str | None:
    """Returns why a loss or a parameter is not finite, as far as it can be found out.

    In the compiled program a value outside its range is a NaN without a name. Called again with
    arrays whose values can be seen, the loss says which argument it was.
    """
    if not isinstance(arguments.x, Stream) and not spans_processes(arguments.mesh):
        try:
            _call_loss_eagerly(arguments, group, begin, error.model or 0)
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


def _call_loss_eagerly(
    arguments: FitArguments, group: ModelGroup, begin: Snapshot, model: int
) -> None:
    """Calls the loss of a model, with the parameters that it began with, outside of ``jax.jit``."""
    params, key, settings = begin.state.params, group.key, group.settings
    if group.is_stacked:
        index = group.models.index(model)
        params, key, settings = take_model((params, key, settings), index)
    # A batch alone may have no example outside its range; the extreme ones do if any does.
    extremes = [row for leaf in jax.tree.leaves(arguments.x) for row in _find_extreme_rows(leaf)]
    rows = jnp.asarray([*extremes, *range(arguments.layout.batch_size)])
    batch = jax.tree.map(lambda leaf: leaf[rows], arguments.x)
    params = jax.tree.map(jnp.asarray, params)
    arguments.run.epoch.loss(params, key, batch, *settings)


def _find_extreme_rows(values: Array) -> list[int]:
    """Returns which examples have the smallest and the largest entry of an array."""
    rows = np.asarray(values).reshape(len(values), -1)
    if not rows.size:
        return []
    return [int(np.argmin(rows.min(axis=1))), int(np.argmax(rows.max(axis=1)))]
