"""L-BFGS and conjugate gradient: closed forms, SciPy as the oracle, evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from sklearn.datasets import load_digits

import jaxae

OPTIMIZERS = {"lbfgs": jaxae.lbfgs, "conjugate_gradient": jaxae.conjugate_gradient}
SCIPY = {"lbfgs": "L-BFGS-B", "conjugate_gradient": "CG"}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
RNG = np.random.default_rng(4)


def quadratic(w):
    # minimum 0 at i, i = 0 ... 5; condition number 100
    curvature = jnp.asarray(np.geomspace(1, 100, 6), w.dtype)
    return 0.5 * jnp.sum(curvature * (w - jnp.arange(6, dtype=w.dtype)) ** 2)


def rosenbrock(w):
    return jnp.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)


def contractive_objective():
    """A sigmoid contractive autoencoder on some digits, as a function of one flat vector."""
    x = jnp.asarray(load_digits().data[:60] / 16)
    start = np.concatenate([0.3 * RNG.normal(size=5 * 64), np.zeros(5), np.zeros(64)])

    def loss(flat):
        w, b, c = jnp.split(flat, [5 * 64, 5 * 64 + 5])
        w = w.reshape(5, 64)
        encode = lambda x_i: jax.nn.sigmoid(w @ x_i + b)
        decode = lambda code: w.T @ code + c
        return jaxae.contractive_loss(encode, decode, x, weight=0.1).mean()

    return loss, start


def minimize(loss, start, optimizer, steps, **options):
    """Returns what ``jaxae.minimize`` does, from one compiled program, in NumPy arrays."""
    solve = jax.jit(lambda w: jaxae.minimize(loss, w, optimizer, steps=steps, **options))
    return jax.device_get(solve(start))


def run(loss, start, name, steps, **options):
    return minimize(loss, start, OPTIMIZERS[name](), steps, **options)


@each_optimizer
def test_an_optimizer_may_be_made_inside_of_jit(name):
    made_inside = lambda w: jaxae.minimize(quadratic, w, OPTIMIZERS[name](), steps=2).values
    values = jax.jit(made_inside)(jnp.zeros(6))
    np.testing.assert_array_equal(values, run(quadratic, jnp.zeros(6), name, 2).values)


@pytest.mark.thorough(by_default=["lbfgs"])
@each_optimizer
def test_quadratic_is_solved_in_about_as_many_steps_as_it_has_directions(name, float64):
    # With exact line searches both need 6 steps (Nocedal and Wright 1999, theorem 5.1).
    result = run(quadratic, jnp.zeros(6), name, 25)
    np.testing.assert_allclose(result.params, np.arange(6), atol=1e-5)
    assert result.values[12] < 1e-3 * result.values[0]


STARTS = (np.linspace(-1, 1.5, 8), np.linspace(1.5, -1, 8), np.zeros(8), np.full(8, -0.5),
          np.linspace(0, 2, 8))  # fmt: skip


@pytest.mark.thorough(by_default=["conjugate_gradient"])
@each_optimizer
def test_rosenbrock_ends_where_scipy_ends_at_a_similar_price(name, float64):
    grad, value = jax.jit(jax.grad(rosenbrock)), jax.jit(rosenbrock)
    optimizer = OPTIMIZERS[name]()
    solve = jax.jit(lambda w: jaxae.minimize(rosenbrock, w, optimizer, steps=300, tol=1e-6))
    ours, theirs = 0, 0  # over all starts: the count from one depends on the last bits
    for start in STARTS:
        oracle = scipy.optimize.minimize(
            lambda w: float(value(w)),
            start,
            jac=lambda w: np.asarray(grad(w)),
            method=SCIPY[name],
            options={"gtol": 1e-6, "maxiter": 2000},
        )
        result = jax.device_get(solve(start))
        np.testing.assert_allclose(result.params, 1.0, atol=1e-4)
        np.testing.assert_allclose(oracle.x, 1.0, atol=1e-4)
        ours, theirs = ours + int(result.evaluations[-1]), theirs + oracle.nfev
    assert ours < 2 * theirs


@pytest.mark.thorough(by_default=["lbfgs"])
@each_optimizer
def test_contractive_autoencoder_gets_as_low_as_with_scipy(name, float64):
    loss, start = contractive_objective()
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    oracle = scipy.optimize.minimize(
        lambda w: tuple(map(np.asarray, value_and_grad(w))),
        start,
        jac=True,
        method=SCIPY[name],
        options={"maxiter": 100, "gtol": 1e-9},
    )
    result = run(loss, start, name, 100)
    # Not convex: the two may end at slightly different places.
    np.testing.assert_allclose(result.value, oracle.fun, rtol=0.01)
    assert result.value < 0.5 * result.values[0]


@pytest.mark.thorough(by_default=["lbfgs"])
@each_optimizer
def test_evaluations_are_counted_as_they_happen(name):
    asked = []

    def loss(w):
        jax.debug.callback(lambda _: asked.append(1), w[0])
        return rosenbrock(w)

    state = None
    counts = []
    for _ in range(2):
        before = len(asked)
        optimizer = OPTIMIZERS[name]()
        result = jaxae.minimize(loss, jnp.full(3, -1.0), optimizer, steps=4, state=state)
        state = result.state
        jax.effects_barrier()
        counts.append(len(asked) - before)
        # the last step's search is beyond the last count
        last = state.opt_state[-1].info.num_linesearch_steps
        assert counts[-1] == result.evaluations[-1] + last
    assert counts[1] < counts[0] + 8


@pytest.mark.thorough(by_default=["scale-conjugate_gradient"])
@each_optimizer
@pytest.mark.parametrize("around", ["scale", "unit_norm"])
def test_what_changes_the_step_of_a_search_is_seen(name, around):
    start = jnp.array([[0.6, 0.8]])
    wrapped = {"scale": optax.chain, "unit_norm": jaxae.unit_norm}[around]
    extra = {"scale": (optax.scale(0.5),), "unit_norm": ()}[around]
    optimizer = wrapped(OPTIMIZERS[name](), *extra)
    loss = jax.jit(lambda w: jnp.sum(jnp.array([[1.0, 10.0]]) * (w - 3.0) ** 2))
    result = minimize(loss, start, optimizer, 4)
    np.testing.assert_allclose(result.value, loss(result.params), rtol=1e-6)

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(loss)(params)
        known = {"value": value, "grad": grad, "value_fn": loss}
        updates, state = optimizer.update(grad, state, params, **known)
        return value, optax.apply_updates(params, updates), state

    params, state = start, optimizer.init(start)
    for value in result.values:
        now, params, state = step(params, state)
        np.testing.assert_allclose(value, now, rtol=1e-5)


@pytest.mark.thorough(by_default=["lbfgs"])
@each_optimizer
def test_going_on_equals_going_through(name):
    start = jnp.linspace(-1, 1.5, 8)
    whole = run(rosenbrock, start, name, 10)
    first = run(rosenbrock, start, name, 4)
    optimizer = OPTIMIZERS[name]()
    go_on = jax.jit(lambda s: jaxae.minimize(rosenbrock, s.params, optimizer, steps=6, state=s))
    rest = go_on(first.state)
    np.testing.assert_array_equal(np.append(first.values, rest.values), whole.values)
    np.testing.assert_array_equal(rest.params, whole.params)
    assert int(rest.state.step) == 10


@pytest.mark.thorough(by_default=["lbfgs"])
@each_optimizer
def test_nothing_moves_and_nothing_is_evaluated_once_the_gradient_is_small(name, float64):
    result = run(quadratic, jnp.zeros(6), name, 40, tol=1e-4)
    done = int(np.argmax(result.grad_norms <= 1e-4))
    assert 0 < done < 35
    assert np.ptp(result.values[done:]) == 0
    assert np.ptp(result.evaluations[done:]) == 0
    assert int(result.state.step) == done


@pytest.mark.thorough(by_default=["conjugate_gradient"])
@each_optimizer
def test_start_at_the_minimum_stays_finite(name):
    result = run(quadratic, jnp.arange(6.0), name, 5)
    np.testing.assert_array_equal(result.params, np.arange(6.0))
    assert result.value == 0


def test_conjugate_directions_by_hand():
    # g0 = (1, 0), g1 = (1, 2): beta = <g1, g1 - g0> / <g0, g0> = 4, d1 = -g1 + 4 d0 = (-5, -2)
    # g2 = (0.5, 1): <g2, g2 - g1> < 0, so beta = 0 and d2 = -g2
    transform = jaxae.optimizers.full_batch._scale_by_conjugate_gradient()
    state = transform.init(jnp.zeros(2))
    wanted = {(1.0, 0.0): [-1.0, 0.0], (1.0, 2.0): [-5.0, -2.0], (0.5, 1.0): [-0.5, -1.0]}
    for gradient, direction in wanted.items():
        found, state = transform.update(jnp.array(gradient), state)
        np.testing.assert_allclose(found, direction)
    # A direction that would climb is replaced: d = -(-4, 1) + beta (-1, 0) * ... with g opposite.
    state = state._replace(grad=jnp.array([0.1, 0.0]), direction=jnp.array([-9.0, 0.0]))
    found, _ = transform.update(jnp.array([-1.0, 0.0]), state)
    np.testing.assert_allclose(found, [1.0, 0.0])


def test_first_order_optimisers_follow_optax_step_by_step():
    optimizer = optax.adam(0.1)

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(quadratic)(params)
        updates, state = optimizer.update(grad, state)
        return value, optax.apply_updates(params, updates), state

    params, state = jnp.zeros(6), optimizer.init(jnp.zeros(6))
    values = []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(5):
            value, params, state = step(params, state)
            values.append(float(value))
    result = minimize(quadratic, jnp.zeros(6), optimizer, 5)
    np.testing.assert_allclose(result.values, values, rtol=1e-6)
    np.testing.assert_allclose(result.state.params, params, rtol=1e-6)
    assert result.evaluations.tolist() == [1, 2, 3, 4, 5]


def test_the_best_iterate_is_kept_when_the_last_one_is_worse():
    result = minimize(quadratic, jnp.zeros(6), optax.sgd(0.03), 8)
    assert not np.all(np.diff(result.values) < 0), "this rate overshoots"
    value_of = jax.jit(quadratic)
    assert result.value == min(result.values.min(), value_of(result.state.params))
    np.testing.assert_allclose(value_of(result.params), result.value, rtol=1e-6)


def test_a_loss_that_is_not_a_number_is_never_the_best():
    loss = lambda w: jnp.where(w > 1.5, jnp.nan, (w - 3) ** 2)
    result = minimize(loss, jnp.zeros(()), optax.sgd(0.1), 8)
    assert np.isnan(result.values[-1])
    assert np.isfinite(result.value)
    assert float(result.params) < 1.5


@each_optimizer
def test_they_fit_the_train_step(name):
    optimizer = OPTIMIZERS[name]()
    step = jax.jit(
        jaxae.make_train_step(lambda w, key, x: jnp.sum((w[None] - x) ** 2, -1), optimizer)
    )
    state = jaxae.create_train_state(jnp.zeros(3), optimizer)
    x = RNG.normal(size=(20, 3)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"):
        for key in jax.random.split(jax.random.key(0), 4):
            state, _ = step(state, key, x)
    np.testing.assert_allclose(state.params, x.mean(0), atol=1e-4)


@pytest.mark.thorough(by_default=["float64-conjugate_gradient"])
@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_tree_are_kept(name, dtype, float64):
    start = {"a": jnp.zeros(2, dtype), "b": (jnp.ones((), dtype),)}
    loss = lambda p: jnp.sum((p["a"] - 1) ** 2) + (p["b"][0] - 2) ** 4
    result = run(loss, start, name, 3)
    assert jax.tree.structure(result.params) == jax.tree.structure(start)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(result.params)} == {dtype}
    assert result.value.dtype == result.values.dtype == dtype


# ---- going on with another loss -----------------------------------------------------------------


@pytest.mark.thorough(by_default=["conjugate_gradient"])
@each_optimizer
def test_along_a_path_of_weights_each_value_is_that_of_its_own_loss(name):
    optimizer = OPTIMIZERS[name]()
    loss = jax.jit(lambda w, weight: quadratic(w) + weight * jnp.sum(w**2))

    @jax.jit
    def go_on(state, weight):
        return jaxae.minimize(lambda w: loss(w, weight), None, optimizer, steps=5, state=state)

    state = go_on(jaxae.create_train_state(jnp.zeros(6), optimizer), 0.0).state
    # At the minimum for 1e5 the loss with no weight has nearly the same value.
    for weight, is_same in ((0.0, True), (10.0, False), (1e5, False), (0.0, False)):
        result = go_on(state, weight)
        np.testing.assert_allclose(result.values[0], loss(state.params, weight), rtol=1e-5)
        np.testing.assert_allclose(result.value, loss(result.params, weight), rtol=1e-5, atol=1e-8)
        assert result.evaluations[0] == 1
        # the memory of a loss that was quite another one is forgotten
        fresh = go_on(jaxae.create_train_state(state.params, optimizer), weight)
        assert np.array_equal(result.values, fresh.values) == (not is_same)
        state = result.state
    assert int(state.step) > 20
    assert result.value < 0.1 * result.values[0]


def test_the_value_of_a_given_state_is_not_believed():
    # Both steps of the one end at its minimum; the other is 228 there.
    first = jaxae.minimize(lambda w: (w - 3.0) ** 2, 0.0, jaxae.lbfgs(), steps=3)
    other = lambda w: (w - 3.0) ** 2 + 228.0
    result = jaxae.minimize(other, 0.0, jaxae.lbfgs(), steps=1, state=first.state)
    assert (float(first.value), float(result.value)) == (0.0, 228.0)


def test_states_of_something_else_are_refused():
    state = jaxae.create_train_state(jnp.zeros(6), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"^state must come from the same optimiser, .*anew with"):
        jaxae.minimize(quadratic, None, optax.adam(0.1), steps=1, state=state)


# ---- units and precisions -----------------------------------------------------------------------


@pytest.mark.thorough(by_default=["lbfgs"])
@each_optimizer
def test_the_unit_of_the_loss_does_not_matter(name):
    optimizer = OPTIMIZERS[name]()
    solve = jax.jit(
        lambda unit: jaxae.minimize(
            lambda w: unit * quadratic(w), jnp.zeros(6), optimizer, steps=25
        )
    )
    for unit in (1e-30, 1e-12, 1e-6, 1.0, 1e6, 1e12, 1e30):
        result = jax.device_get(solve(np.float32(unit)))
        np.testing.assert_allclose(result.params, np.arange(6), atol=1e-3, err_msg=str(unit))
        at_start = 0.5 * np.sum(np.geomspace(1, 100, 6) * np.arange(6) ** 2)
        np.testing.assert_allclose(result.values[0] / unit, at_start, rtol=1e-5)
        grad = np.linalg.norm(np.geomspace(1, 100, 6) * np.arange(6))
        np.testing.assert_allclose(result.grad_norms[0] / unit, grad, rtol=1e-5)
        assert result.evaluations[-1] < 100


def test_a_loss_near_one_is_not_scaled_and_a_far_one_by_a_power_of_two():
    gradient = {"a": jnp.array([0.0, -3e-12]), "b": jnp.zeros(0)}
    scale_of = jaxae.optimizers._line_search._scale_of_loss
    # 3e-12 = 1.65 * 2^-39
    assert scale_of(jnp.float32(2e-12), gradient) == 2.0**39
    assert scale_of(jnp.float32(1.0), gradient) == 1
    for value, entry, scale in ((1e9, 2.0, 1.0), (0.0, 0.0, 1.0), (1.0, np.nan, 1.0),
                                (7.0, 5000.0, 2.0**-12), (np.inf, 5000.0, 2.0**-12)):  # fmt: skip
        assert scale_of(jnp.float32(value), jnp.float32(entry)) == scale


DTYPES = [
    ("bfloat16", "float32"),
    ("float16", "float16"),
    ("float32", "float64"),
    ("float64", "float32"),
]


@pytest.mark.thorough(by_default=["float32-float64-conjugate_gradient"])
@each_optimizer
@pytest.mark.parametrize(("params", "data"), DTYPES, ids=["-".join(pair) for pair in DTYPES])
def test_loss_and_parameters_may_differ_in_dtype(name, params, data, float64):
    target = jnp.array([1.0, -2.0], data)
    curvature = jnp.array([1.0, 4.0], data)
    loss = jax.jit(lambda w: jnp.sum(curvature * (w.astype(data) - target) ** 2))
    result = run(loss, jnp.zeros(2, params), name, 6)
    np.testing.assert_allclose(np.asarray(result.params, np.float64), [1.0, -2.0], atol=0.02)
    assert result.params.dtype == params
    assert result.value.dtype == data
    np.testing.assert_allclose(result.value, loss(result.params), rtol=1e-3)


def test_a_start_whose_loss_is_no_number_is_said_to_be_none():
    result = minimize(lambda w: jnp.log(w - 1), 0.0, optax.sgd(0.1), 2)
    assert np.isnan(result.value)
    assert result.params == 0
    # one that comes out of it is better
    loss = lambda w: jnp.where(w > 0, (w - 3) ** 2, jnp.nan * w)
    climb = optax.stateless(lambda updates, params: jnp.full_like(updates, 1.0))
    escaped = minimize(loss, -0.5, optax.chain(optax.zero_nans(), climb), 1)
    assert np.isnan(escaped.value)  # a gradient that is NaN stops everything


def test_numbers_are_parameters_and_a_loss_of_integers_is_none():
    result = jaxae.minimize(lambda w: (w["a"] - 3.0) ** 2, {"a": 1.0}, optax.sgd(0.5), steps=1)
    assert result.params["a"] == 3
    with pytest.raises(ValueError, match=r"^loss must return one floating scalar, .* int32$"):
        jaxae.minimize(lambda w: jnp.int32(3), 0.0, optax.sgd(0.5), steps=1)


def test_evaluations_of_a_backtracking_search_are_counted():
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10))
    result = minimize(lambda w: 5 * w**2, 1.0, optimizer, 2)
    # a step of 1 goes to -9; what it tries until it is below counts, and the gradient there
    tried = result.state.opt_state[-1].info.num_linesearch_steps
    assert tried > 1
    assert result.evaluations[1] >= 1 + 1 + 1
