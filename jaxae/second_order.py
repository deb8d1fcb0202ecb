r"""Full-batch minimisation: L-BFGS and nonlinear conjugate gradient for deterministic losses.

Contract of this module. A *loss* is ``loss(params) -> scalar`` and gives the same value
whenever it is asked: a reconstruction, a contractive or sparse objective on a fixed batch, or a
denoising objective whose noise is frozen. The optimisers are ``optax`` transforms and also fit
:func:`jaxae.make_train_step`. An *evaluation* is one value together with one gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree, ScalarLike

from jaxae import _checks
from jaxae.training import TrainState, create_train_state


class ConjugateGradientState(NamedTuple):
    """What the next direction needs.

    Attributes:
      grad: gradient of the last step.
      direction: search direction of the last step; zeros before the first.
    """

    grad: Any
    direction: Any


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

    params: Any
    value: Array
    values: Array
    grad_norms: Array
    evaluations: Array
    state: TrainState


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
    optimizer = optax.lbfgs(
        memory_size=_checks.integer("memory_size", memory_size, low=1),
        linesearch=optax.scale_by_zoom_linesearch(
            max_linesearch_steps=_checks.integer(
                "max_linesearch_steps", max_linesearch_steps, low=1
            ),
            initial_guess_strategy="one",
        ),
    )
    return _LineSearched(*optimizer)


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
    curv_rtol = float(_checks.number("curv_rtol", curv_rtol, low=0.0, high=1.0, strict=True))
    optimizer = optax.chain(
        _scale_by_conjugate_gradient(),
        optax.scale_by_zoom_linesearch(
            max_linesearch_steps=_checks.integer(
                "max_linesearch_steps", max_linesearch_steps, low=1
            ),
            curv_rtol=curv_rtol,
        ),
    )
    return _LineSearched(*optimizer)


class _LineSearched(optax.GradientTransformationExtraArgs):
    """An optimiser whose last part is a line search: it moves where that has evaluated last."""


def minimize(
    loss: Callable[[PyTree], Array],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    tol: ScalarLike = 0.0,
    state: TrainState | None = None,
) -> Minimum:
    """Returns the best parameters that an optimiser finds in some steps, and its trace.

    One compiled scan; the best iterate is kept, since a line search in float32 ends in small
    steps up and down. What a line search of :func:`lbfgs` or :func:`conjugate_gradient` has
    evaluated is not evaluated again, unless something is around them. Products are
    computed in full precision, on a GPU too, because a line search cannot work with less. Wrap
    what you call often in ``jax.jit``.

    Args:
      loss: deterministic function of the parameters to a scalar.
      params: parameters to start from, a pytree of floating arrays.
      optimizer: :func:`lbfgs`, :func:`conjugate_gradient`, or any ``optax`` optimiser.
      steps: how many updates, at least 1.
      tol: from a gradient of this norm on, nothing changes and nothing is evaluated any more.
      state: ``state`` of an earlier result, to go on from; ``params`` is not used then.

    Returns:
      The best parameters and their loss, and the trace of the steps.

    Raises:
      TypeError: if ``loss`` is no function or ``optimizer`` no ``optax`` optimiser.
      ValueError: if ``steps`` is below 1, ``tol`` negative, or ``loss`` gives no scalar.

    Example:
      >>> result = minimize(lambda w: (w - 3.0) ** 2, jnp.zeros(()), optax.sgd(0.5), steps=2)
      >>> float(result.params), result.values.tolist()
      (3.0, [9.0, 0.0])

    References:
      None.
    """
    _checks.callable_("loss", loss)
    steps = _checks.integer("steps", steps, low=1)
    tol = _checks.number("tol", tol, low=0.0)
    if state is None:
        state = create_train_state(params, optimizer)
    value = jax.eval_shape(loss, state.params)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape != ():
        raise ValueError(f"loss must return one scalar, but it gave {value}")
    # Promotion: optax's L-BFGS mixes integer widths in float64.
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        step = _make_step(loss, optimizer, tol.astype(value.dtype))
        worst = jnp.full((), jnp.inf, value.dtype)
        carry = (state, (state.params, worst), jnp.zeros((), jnp.int32))
        (state, best, _), trace = jax.lax.scan(step, carry, length=steps)
        best = _better(best, state.params, loss(state.params))
    return Minimum(*best, *trace, state)


def _make_step(
    loss: Callable[[PyTree], Array], optimizer: optax.GradientTransformation, tol: Array
) -> Callable[[Any, None], tuple[Any, tuple[Array, Array, Array]]]:
    """Returns the body of the scan; its carry is the state, the best yet, and the count."""
    update = optax.with_extra_args_support(optimizer).update
    is_searched = isinstance(optimizer, _LineSearched)

    def step(carry: Any, _: None) -> tuple[Any, tuple[Array, Array, Array]]:
        state, best, count = carry
        (value, grad), asked = _evaluate(loss, state, is_searched=is_searched)
        count = count + asked
        norm = optax.tree.norm(grad)

        def move() -> tuple[TrainState, Array]:
            updates, opt_state = update(
                grad, state.opt_state, state.params, value=value, grad=grad, value_fn=loss
            )
            params = optax.apply_updates(state.params, updates)
            moved = TrainState(params, opt_state, state.step + 1)
            spent = [jnp.int32(s.info.num_linesearch_steps) for s in _searches(opt_state)]
            return moved, count + sum(spent)

        best = _better(best, state.params, value)
        state, after = jax.lax.cond(norm > tol, move, lambda: (state, count))
        return (state, best, after), (value, norm, count)

    return step


def _better(best: tuple[Any, Array], params: Any, value: Array) -> tuple[Any, Array]:
    """Returns the better of two pairs of parameters and loss; NaN is never better."""
    is_better = value < best[1]
    return jax.tree.map(lambda new, old: jnp.where(is_better, new, old), (params, value), best)


def _searches(opt_state: Any) -> list[optax.ScaleByZoomLinesearchState]:
    """Returns the states of the line searches inside an optimiser's state."""
    is_search = lambda node: isinstance(node, optax.ScaleByZoomLinesearchState)
    return [node for node in jax.tree.leaves(opt_state, is_leaf=is_search) if is_search(node)]


def _evaluate(
    loss: Callable[[PyTree], Array], state: TrainState, *, is_searched: bool
) -> tuple[tuple[Array, PyTree], Array]:
    """Returns value and gradient at a state, and how many evaluations that took, 0 or 1."""
    evaluate = lambda: (jax.value_and_grad(loss)(state.params), jnp.ones((), jnp.int32))
    if not is_searched:
        return evaluate()
    # A line search ends with an evaluation at the new parameters; before the first it is inf.
    (search,) = _searches(state.opt_state)
    known = ((search.value, search.grad), jnp.zeros((), jnp.int32))
    return jax.lax.cond(jnp.isfinite(search.value), lambda: known, evaluate)


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
