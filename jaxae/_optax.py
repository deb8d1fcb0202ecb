"""Optimisers and parameters of training: what is accepted, and how one update is made.

The optimisers of ``optax`` and ``optax.contrib`` differ in what their ``update`` wants beside the
gradient: a line search the loss as a function, ``sam`` its gradient, ``sophia`` the loss under
another name. Every update of this library is made here, with all of these at hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, PyTree

Optimizer: TypeAlias = optax.GradientTransformation | optax.MultiSteps
# Pytrees of arrays. What they are made of is up to the library of the model, and to optax.
Params: TypeAlias = PyTree
OptState: TypeAlias = PyTree


def as_transformation(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
    """Returns an optimiser as an ``optax`` transformation that takes any extra argument.

    Args:
      optimizer: an ``optax`` transformation, or ``optax.MultiSteps``.

    Raises:
      TypeError: if it is neither.
    """
    if isinstance(optimizer, optax.MultiSteps):
        # Its own gradient_transformation() would take no extra arguments.
        optimizer = optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    if not isinstance(optimizer, optax.GradientTransformation):
        text, name = repr(optimizer).split("\n")[0][:60], type(optimizer).__name__
        raise TypeError(
            f"optimizer must be an optax optimiser, but it is {text} ({name}); "
            "pass one such as optax.adam(1e-3)"
        )
    optimizer = optax.with_extra_args_support(optimizer)
    accepted = inspect.signature(optimizer.update).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted):
        return optimizer
    names = {parameter.name for parameter in accepted}  # as of optax.contrib.sam

    def update(
        gradient: Params, state: OptState, params: Params | None = None, **extra: PyTree
    ) -> tuple[Params, OptState]:
        known = {name: value for name, value in extra.items() if name in names}
        return optimizer.update(gradient, state, params, **known)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def update_params(
    optimizer: optax.GradientTransformationExtraArgs,
    params: Params,
    opt_state: OptState,
    loss: Callable[[Params], Array],
    value: Array,
    gradient: Params,
) -> tuple[Params, OptState]:
    """Returns parameters and optimiser state after one update.

    Args:
      optimizer: what :func:`as_transformation` returned.
      params: parameters before the update.
      opt_state: state of the optimiser before the update.
      loss: deterministic function of the parameters to a scalar: the loss of this step.
      value: ``loss(params)``.
      gradient: its gradient at ``params``.

    Raises:
      TypeError: if the optimiser needs something else than these.
      ValueError: if its updates have not the shapes of the parameters.
    """

    # Line searches of optax refuse an extra argument that the loss does not take.
    def value_fn(params: Params, obj_fn: object = None, grad_fn: object = None) -> Array:
        return loss(params)

    def grad_fn(params: Params, step: int = 0) -> Params:
        return jax.grad(loss)(params)

    try:
        updates, opt_state = optimizer.update(
            gradient,
            opt_state,
            params,
            value=value,
            grad=gradient,
            value_fn=value_fn,
            obj_fn=loss,
            grad_fn=grad_fn,
        )
    except (AttributeError, TypeError) as error:  # the loss itself has just been evaluated
        reason = str(error).split("\n")[0]
        raise TypeError(
            f"optimizer cannot be used here ({reason}): its update gets the mean gradient, the "
            "parameters, and as extra arguments value, grad, value_fn, obj_fn and grad_fn; one "
            "that takes only some of them, as sam, must be the outermost"
        ) from error
    jax.tree.map_with_path(_check_shape, params, updates)
    return optax.apply_updates(params, updates), opt_state


def _check_shape(path: KeyPath, param: Array, update: Array) -> None:
    """Checks that an update would not be broadcast."""
    if jnp.shape(update) != jnp.shape(param):
        raise ValueError(
            f"optimizer must return updates in the shapes of the parameters, but for "
            f"params{jax.tree_util.keystr(path)} of shape {jnp.shape(param)} it gave "
            f"{jnp.shape(update)}; those for a gradient per example, as dpsgd, cannot be used, "
            "because a train step gives them the mean gradient"
        )


def as_params(params: Params) -> Params:
    """Returns parameters whose leaves are strongly typed floating arrays, or says which is not.

    Raises:
      TypeError: if ``params`` is the state of a training run, or a leaf is not floating.
    """
    if hasattr(params, "params") and hasattr(params, "opt_state"):
        raise TypeError(
            f"params must be the parameters alone, but it is a {type(params).__name__}; "
            "pass its field params"
        )
    return jax.tree.map_with_path(_as_floating_leaf, params)


def _as_floating_leaf(path: KeyPath, leaf: PyTree) -> Array:
    """Returns one leaf of the parameters as an array."""
    name = "params" + jax.tree_util.keystr(path)
    try:
        dtype = jnp.result_type(leaf)
    except (TypeError, ValueError):
        raise TypeError(
            f"params must hold floating arrays only, but {name} is a {type(leaf).__name__}; "
            "take the arrays apart from the rest first, in Equinox by "
            "params, static = eqx.partition(model, eqx.is_inexact_array)"
        ) from None
    if not jnp.issubdtype(dtype, jnp.floating):
        remedy = "make it floating if it is trained, else let the loss close over it"
        if jnp.issubdtype(dtype, jnp.complexfloating):
            remedy = "keep its real and imaginary parts as two leaves"
        raise TypeError(
            f"params must be floating, but {name} has dtype {dtype}; {remedy} "
            "(in Flax NNX: params = nnx.state(model, nnx.Param))"
        )
    return jnp.asarray(leaf, dtype)
