r"""Full-batch minimisation: L-BFGS and nonlinear conjugate gradient for deterministic losses.

Contract of this module. A *loss* is ``loss(params) -> scalar`` and gives the same value
whenever it is asked: a reconstruction, a contractive or sparse objective on a fixed batch, or a
denoising objective whose noise is frozen. The optimisers are ``optax`` transforms and also fit
:func:`jaxae.make_train_step`. An *evaluation* is one value together with one gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree, ScalarLike

from jaxae import _checks
from jaxae._optax import Optimizer, Params, as_transformation, update_params
from jaxae.optimizers._line_search import (
    LineSearched,
    computes_in,
    end_of_search,
    gradient_norm,
    search_along,
    search_states,
)
from jaxae.training.steps import TrainState, check_state, create_train_state


class ConjugateGradientState(NamedTuple):
    """What the next direction needs.

    Attributes:
      grad: gradient of the last step.
      direction: search direction of the last step; zeros before the first.
    """

    grad: Params
    direction: Params


class Minimum(NamedTuple):
    """What :func:`minimize` found, and how it got there.

    Attributes:
      params: the best parameters seen.
      value: loss there.
      values: loss before each step, ``(steps,)``.
      grad_norms: Euclidean norm of the gradient before each step, ``(steps,)``.
      evaluations: how many evaluations it took to know each of ``values``, int32 ``(steps,)``;
        counted from this call.
      state: the state after the last step, to go on from.
    """

    params: Params
    value: Array
    values: Array
    grad_norms: Array
    evaluations: Array
    state: TrainState


# A state, and what is known there: value and gradient, and the evaluations that it took.
_Position: TypeAlias = tuple[TrainState, tuple[Array, Params], Array]


class _Carry(NamedTuple):
    """What the loop of :func:`minimize` carries from step to step.

    Attributes:
      state: the state before the step.
      known: loss and gradient there.
      best: the best parameters so far, and their loss.
      evaluations: how many evaluations it took to know these.
    """

    state: TrainState
    known: tuple[Array, Params]
    best: tuple[Params, Array]
    evaluations: Array


def lbfgs(
    *, memory_size: int = 10, max_linesearch_steps: int = 20
) -> optax.GradientTransformationExtraArgs:
    """Returns the L-BFGS optimiser with a zoom line search that tries step size 1 first.

    Args:
      memory_size: how many past steps approximate the Hessian, at least 1.
      max_linesearch_steps: evaluations per step at most, at least 1.

    Returns:
      An ``optax`` optimiser whose update needs ``value``, ``grad`` and ``value_fn``, as
      :func:`minimize` and :func:`jaxae.make_train_step` pass them. Never clip before it.

    Raises:
      TypeError: if an argument is no integer.
      ValueError: if an argument is below 1.

    Example:
      >>> result = minimize(lambda w: jnp.sum((w - 3.0) ** 2), jnp.zeros(2), lbfgs(), steps=3)
      >>> result.params.tolist()
      [3.0, 3.0]

    References:
      Nocedal and Wright 1999, algorithms 7.4 and 7.5; optax, ``lbfgs``. Deviation: none.
    """
    memory_size = _checks.integer("memory_size", memory_size, low=1)
    steps = _checks.integer("max_linesearch_steps", max_linesearch_steps, low=1)
    search = optax.scale_by_zoom_linesearch(steps, initial_guess_strategy="one")
    return search_along(optax.lbfgs(memory_size=memory_size, linesearch=None), search)


def conjugate_gradient(
    *, max_linesearch_steps: int = 20, curv_rtol: float = 0.1
) -> optax.GradientTransformationExtraArgs:
    r"""Returns the nonlinear conjugate-gradient optimiser (Polak and Ribiere, restarting).

    .. math:: d_t = -g_t + \beta_t d_{t-1}, \quad
              \beta_t = \max\left(0, \frac{g_t^T (g_t - g_{t-1})}{g_{t-1}^T g_{t-1}}\right)

    A direction that does not descend is replaced by :math:`-g_t`. Step sizes come from a zoom
    line search for the strong Wolfe conditions.

    Args:
      max_linesearch_steps: evaluations per step at most, at least 1.
      curv_rtol: how flat the end of a line search must be, relative to its start, in (0, 1);
        conjugate directions need a smaller number than L-BFGS.

    Returns:
      An ``optax`` optimiser whose update needs ``value``, ``grad`` and ``value_fn``.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument leaves its range.

    Example:
      >>> loss = lambda w: jnp.sum(jnp.array([1.0, 10.0]) * (w - 3.0) ** 2)
      >>> result = minimize(loss, jnp.zeros(2), conjugate_gradient(), steps=5)
      >>> [round(w, 3) for w in result.params.tolist()]
      [3.0, 3.0]

    References:
      Nocedal and Wright 1999, sec. 5.2, eq. 5.44 (PR+). Deviation: none.
    """
    _checks.number("curv_rtol", curv_rtol, low=0.0, high=1.0, strict=True)
    curv_rtol = float(curv_rtol)  # of the argument: what the check returns is traced inside jit
    steps = _checks.integer("max_linesearch_steps", max_linesearch_steps, low=1)
    search = optax.scale_by_zoom_linesearch(steps, curv_rtol=curv_rtol)
    return search_along(_scale_by_conjugate_gradient(), search)


def minimize(
    loss: Callable[[PyTree], Array],
    params: PyTree,
    optimizer: Optimizer,
    *,
    steps: int,
    tol: ScalarLike = 0.0,
    state: TrainState | None = None,
) -> Minimum:
    """Returns the best parameters that an optimiser finds in some steps, and its trace.

    One compiled scan; the best iterate is kept, since a line search in float32 ends in small
    steps up and down. What a line search of :func:`lbfgs` or :func:`conjugate_gradient` has
    evaluated is not evaluated again, unless something is around them or the dtypes of loss and
    parameters differ. The unit of the loss does not matter to these two. Products are
    computed in full precision, on a GPU too, because a line search cannot work with less. Wrap
    what you call often in ``jax.jit``.

    Args:
      loss: deterministic function of the parameters to a scalar.
      params: parameters to start from, a pytree of floating arrays or numbers.
      optimizer: :func:`lbfgs`, :func:`conjugate_gradient`, or any ``optax`` optimiser.
      steps: how many updates, at least 1.
      tol: from a gradient of this norm on, nothing changes and nothing is evaluated any more.
      state: ``state`` of an earlier result, to go on from; ``params`` is not used then. The loss
        may be another one, as along a path of weights: it is evaluated anew once, and if it is
        another one there, line searches forget the earlier one.

    Returns:
      The best parameters and their loss, and the trace of the steps. If the loss is NaN at every
      step, the parameters are those of the start and ``value`` is NaN.

    Raises:
      TypeError: if ``loss`` is no function, ``optimizer`` no ``optax`` optimiser, a leaf of
        ``params`` not floating, or ``state`` no :class:`jaxae.TrainState`.
      ValueError: if ``steps`` is below 1, ``tol`` negative, ``loss`` gives no floating scalar, or
        ``state`` is of another optimiser.

    Example:
      >>> result = minimize(lambda w: (w - 3.0) ** 2, jnp.zeros(()), optax.sgd(0.5), steps=2)
      >>> float(result.params), result.values.tolist()
      (3.0, [9.0, 0.0])
    """
    _checks.callable_("loss", loss)
    steps = _checks.integer("steps", steps, low=1)
    tol = _checks.number("tol", tol, low=0.0)
    is_new = state is None
    state = create_train_state(params, optimizer) if state is None else state
    transformation = as_transformation(optimizer)
    _check_state(state, transformation)
    value = jax.eval_shape(loss, state.params)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape != ():
        raise ValueError(f"loss must return one scalar, but it gave {value}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"loss must return one floating scalar, but its dtype is {value.dtype}")
    step = _make_step(loss, transformation, tol.astype(value.dtype), value.dtype)

    def solve(state: TrainState) -> Minimum:
        # What a given state knows of a loss may be that of another loss: evaluate anew.
        known = jax.value_and_grad(loss)(state.params)
        if isinstance(optimizer, LineSearched) and not is_new:
            state = _restart_after_other_loss(optimizer, state, known)
        begin = _Carry(state, known, (state.params, known[0]), jnp.ones((), jnp.int32))
        end, trace = jax.lax.scan(step, begin, length=steps)
        return Minimum(*end.best, *trace, end.state)

    # Promotion: optax's L-BFGS mixes integer widths in float64.
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        return jax.jit(solve)(state)


def _check_state(state: TrainState, optimizer: optax.GradientTransformation) -> None:
    """Checks that a state to go on from is one of this optimiser."""
    check_state("state", state)
    wanted = jax.eval_shape(optimizer.init, state.params)
    shapes = [jax.tree.map(jnp.shape, opt_state) for opt_state in (wanted, state.opt_state)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "state must come from the same optimiser, but its opt_state has another structure; "
            "begin anew with params=state.params"
        )


def _restart_after_other_loss(
    optimizer: LineSearched, state: TrainState, known: tuple[Array, PyTree]
) -> TrainState:
    """Returns a state without its memory if that is of another loss than gave ``known``.

    Differences between the gradients of two losses are the curvature of neither, and a direction
    made of them may lead uphill. A loss whose value and gradient have changed by less than a
    thousandth there keeps the memory.
    """
    change = jax.tree.map(lambda new, old: new - old, known, end_of_search(state.opt_state))
    is_same = (jnp.abs(change[0]) <= 1e-3 * jnp.abs(known[0])) & (
        gradient_norm(change[1]) <= 1e-3 * gradient_norm(known[1])
    )
    opt_state = jax.tree.map(
        lambda old, new: jnp.where(is_same, old, new.astype(old.dtype)),
        state.opt_state,
        optimizer.init(state.params),
    )
    return state._replace(opt_state=opt_state)


def _make_step(
    loss: Callable[[PyTree], Array],
    optimizer: optax.GradientTransformationExtraArgs,
    tol: Array,
    dtype: np.dtype,
) -> Callable[[_Carry, None], tuple[_Carry, tuple[Array, Array, Array]]]:
    """Returns the body of the loop; ``dtype`` is that of the loss."""

    def step(carry: _Carry, _: None) -> tuple[_Carry, tuple[Array, Array, Array]]:
        state, (value, grad), best, count = carry
        norm = gradient_norm(grad)

        def move() -> _Position:
            params, opt_state = update_params(
                optimizer, state.params, state.opt_state, loss, value, grad
            )
            moved = TrainState(params, opt_state, state.step + 1)
            spent = [jnp.int32(s.info.num_linesearch_steps) for s in search_states(opt_state)]
            if isinstance(optimizer, LineSearched) and computes_in(params, dtype):
                return moved, end_of_search(opt_state), count + sum(spent)
            if not computes_in(params, dtype):
                # Compilers leave out a rounding to half precision that is undone at once.
                params = jax.lax.optimization_barrier(params)
            return moved, jax.value_and_grad(loss)(params), count + sum(spent) + 1

        def stay() -> _Position:
            return state, (value, grad), count

        moved, known, after = jax.lax.cond(norm > tol, move, stay)
        best = _better(best, moved.params, known[0])
        return _Carry(moved, known, best, after), (value, norm, count)

    return step


def _better(best: tuple[Params, Array], params: Params, value: Array) -> tuple[Params, Array]:
    """Returns the better of two pairs of parameters and loss; a number is better than NaN."""
    is_better = (value < best[1]) | (jnp.isnan(best[1]) & ~jnp.isnan(value))
    return jax.tree.map(partial(jnp.where, is_better), (params, value), best)


def _scale_by_conjugate_gradient() -> optax.GradientTransformation:
    """Returns the transform from gradients to conjugate directions."""

    def init(params: PyTree) -> ConjugateGradientState:
        zeros = optax.tree.zeros_like(params)
        return ConjugateGradientState(zeros, zeros)

    def update(
        grad: PyTree, state: ConjugateGradientState, params: PyTree | None = None
    ) -> tuple[PyTree, ConjugateGradientState]:
        change = optax.tree.sub(grad, state.grad)
        before = optax.tree.vdot(state.grad, state.grad)
        beta = optax.tree.vdot(grad, change) / jnp.where(before > 0, before, 1)
        beta = jnp.where(before > 0, jnp.maximum(beta, 0), 0)
        direction = jax.tree.map(lambda g, d: -g + beta * d, grad, state.direction)
        descends = optax.tree.vdot(direction, grad) < 0
        direction = jax.tree.map(lambda g, d: jnp.where(descends, d, -g), grad, direction)
        return direction, ConjugateGradientState(grad, direction)

    return optax.GradientTransformation(init, update)
