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
from jaxae._optimizers import as_transformation, update_params
from jaxae.training import TrainState, create_train_state


class ConjugateGradientState(NamedTuple):
    """What the next direction needs.

    Attributes:
      grad: gradient of the last step.
      direction: search direction of the last step; zeros before the first.
    """

    grad: Any
    direction: Any


class LineSearchState(NamedTuple):
    """State of :func:`lbfgs` and :func:`conjugate_gradient`.

    Attributes:
      scale: power of two by which the loss is multiplied inside; 0 before the first step.
      direction: state of the transform from gradients to search directions.
      search: state of the line search; its value and gradient are those of the scaled loss.
    """

    scale: Array
    direction: Any
    search: optax.ScaleByZoomLinesearchState


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
    memory_size = _checks.integer("memory_size", memory_size, low=1)
    steps = _checks.integer("max_linesearch_steps", max_linesearch_steps, low=1)
    search = optax.scale_by_zoom_linesearch(steps, initial_guess_strategy="one")
    return _search_along(optax.lbfgs(memory_size=memory_size, linesearch=None), search)


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
    steps = _checks.integer("max_linesearch_steps", max_linesearch_steps, low=1)
    search = optax.scale_by_zoom_linesearch(steps, curv_rtol=curv_rtol)
    return _search_along(_scale_by_conjugate_gradient(), search)


class _LineSearched(optax.GradientTransformationExtraArgs):
    """An optimiser whose last part is a line search: it moves where that has evaluated last."""


def _search_along(
    directions: optax.GradientTransformation, search: optax.GradientTransformationExtraArgs
) -> _LineSearched:
    """Returns the optimiser that searches along the directions of a transform.

    A line search has absolute tolerances: its first step size is 1, and it ends at an interval of
    1e-5. A loss in other units (volts squared) would make all steps too short or too long, so it
    is multiplied by a power of two, which changes no digit, and in at least single precision.
    """
    directions = optax.with_extra_args_support(directions)

    def init(params: PyTree) -> LineSearchState:
        dtype = _dtype_of_search(params)
        params = optax.tree.cast(params, dtype)
        return LineSearchState(jnp.zeros((), dtype), directions.init(params), search.init(params))

    def update(
        updates: PyTree,
        state: LineSearchState,
        params: PyTree,
        *,
        value: Array,
        grad: PyTree,
        value_fn: Callable[[PyTree], Array],
        **extra: Any,
    ) -> tuple[PyTree, LineSearchState]:
        dtype = _dtype_of_search(params)
        value = value.astype(dtype)
        updates, grad, wide_params = optax.tree.cast((updates, grad, params), dtype)
        scale = jnp.where(state.scale == 0, _scale_of_loss(value, grad), state.scale)

        def scaled_loss(moved: PyTree) -> Array:
            return scale * value_fn(optax.tree.cast_like(moved, params)).astype(dtype)

        updates, direction_state = directions.update(
            optax.tree.scale(scale, updates), state.direction, wide_params
        )
        updates, search_state = search.update(
            updates,
            state.search,
            wide_params,
            value=scale * value,
            grad=optax.tree.scale(scale, grad),
            value_fn=scaled_loss,
        )
        state = LineSearchState(scale, direction_state, search_state)
        return optax.tree.cast_like(updates, params), state

    return _LineSearched(init, update)


def _dtype_of_search(params: PyTree) -> Any:
    """Returns the widest dtype of the parameters, or float32 if that is narrower."""
    dtypes = [jnp.dtype(jnp.float32), *(leaf.dtype for leaf in jax.tree.leaves(params))]
    return max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)


def _scale_of_loss(value: Array, gradient: PyTree) -> Array:
    """Returns the power of two that brings a loss to the order of 1, and 1 if it is near that.

    A small gradient alone does not make a loss small: it may begin near its minimum. Hence its
    value counts too, but not beyond 1, since a constant may be added to any loss.
    """
    size = jnp.maximum(_largest_entry(gradient, value.dtype), jnp.minimum(jnp.abs(value), 1))
    is_far = (size < 1e-3) | (size > 1e3)
    return jnp.where(is_far, _inverse_power_of_two(size), jnp.ones_like(size))


def _largest_entry(gradient: PyTree, dtype: Any) -> Array:
    """Returns the largest absolute value in a pytree, 0 if it is empty."""
    largest = [jnp.max(jnp.abs(g), initial=0).astype(dtype) for g in jax.tree.leaves(gradient)]
    return jnp.max(jnp.stack(largest), initial=0)


def _inverse_power_of_two(size: Array) -> Array:
    """Returns the power of two p with 1 <= p * size < 2, or 1 if there is none."""
    limits = jnp.finfo(size.dtype)
    _, exponent = jnp.frexp(size)
    power = jnp.ldexp(jnp.ones_like(size), jnp.clip(1 - exponent, limits.minexp, -limits.minexp))
    return jnp.where(jnp.isfinite(size) & (size > 0), power, 1)


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
    elif not isinstance(state, TrainState):
        raise TypeError(
            "state must be the field state of an earlier result, "
            f"but it is a {type(state).__name__}"
        )
    value = jax.eval_shape(loss, state.params)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape != ():
        raise ValueError(f"loss must return one scalar, but it gave {value}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"loss must return one floating scalar, but its dtype is {value.dtype}")
    step = _make_step(loss, optimizer, tol.astype(value.dtype), value.dtype)

    def solve(state: TrainState) -> Minimum:
        # What a given state knows of a loss may be that of another loss: evaluate anew.
        known = jax.value_and_grad(loss)(state.params)
        carry = (state, known, (state.params, known[0]), jnp.ones((), jnp.int32))
        (state, _, best, _), trace = jax.lax.scan(step, carry, length=steps)
        return Minimum(*best, *trace, state)

    # Promotion: optax's L-BFGS mixes integer widths in float64.
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        return jax.jit(solve)(state)


def _make_step(
    loss: Callable[[PyTree], Array],
    optimizer: optax.GradientTransformation,
    tol: Array,
    dtype: Any,
) -> Callable[[Any, None], tuple[Any, tuple[Array, Array, Array]]]:
    """Returns the body of the scan.

    Its carry is the state, value and gradient there, the best parameters and their value, and
    the count of evaluations; ``dtype`` is that of the loss.
    """
    transformation = as_transformation(optimizer)

    def step(carry: Any, _: None) -> tuple[Any, tuple[Array, Array, Array]]:
        state, (value, grad), best, count = carry
        norm = _norm(grad)

        def move() -> Any:
            params, opt_state = update_params(
                transformation, state.params, state.opt_state, loss, value, grad
            )
            moved = TrainState(params, opt_state, state.step + 1)
            spent = [jnp.int32(s.info.num_linesearch_steps) for s in _searches(opt_state)]
            if isinstance(optimizer, _LineSearched) and _searches_in(params, dtype):
                return moved, _end_of_search(opt_state), count + sum(spent)
            return moved, jax.value_and_grad(loss)(params), count + sum(spent) + 1

        def stay() -> Any:
            return state, (value, grad), count

        moved, known, after = jax.lax.cond(norm > tol, move, stay)
        best = _better(best, moved.params, known[0])
        return (moved, known, best, after), (value, norm, count)

    return step


def _searches_in(params: PyTree, dtype: Any) -> bool:
    """Returns whether a line search computes in the dtype of the parameters and of the loss."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    return dtypes == {dtype} == {_dtype_of_search(params)}


def _end_of_search(state: LineSearchState) -> tuple[Array, PyTree]:
    """Returns loss and gradient where a line search ended, without its scale."""
    value, grad = state.search.value, state.search.grad
    return value / state.scale, jax.tree.map(lambda g: g / state.scale, grad)


def _norm(gradient: PyTree) -> Array:
    """Returns the Euclidean norm of a gradient whose squares may leave the range of its dtype."""
    dtype = _dtype_of_search(gradient)
    scale = _inverse_power_of_two(_largest_entry(gradient, dtype))
    return optax.tree.norm(optax.tree.scale(scale, optax.tree.cast(gradient, dtype))) / scale


def _better(best: tuple[Any, Array], params: Any, value: Array) -> tuple[Any, Array]:
    """Returns the better of two pairs of parameters and loss; a number is better than NaN."""
    is_better = (value < best[1]) | (jnp.isnan(best[1]) & ~jnp.isnan(value))
    return jax.tree.map(lambda new, old: jnp.where(is_better, new, old), (params, value), best)


def _searches(opt_state: Any) -> list[Any]:
    """Returns the states of the line searches inside an optimiser's state."""
    kinds = optax.ScaleByZoomLinesearchState | optax.ScaleByBacktrackingLinesearchState
    is_search = lambda node: isinstance(node, kinds)
    return [node for node in jax.tree.leaves(opt_state, is_leaf=is_search) if is_search(node)]


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
