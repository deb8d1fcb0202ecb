"""Filters at unit norm under any optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Adam needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def unit(w, axis):
    return w / np.linalg.norm(w, axis=axis, keepdims=True)


def make_step(optimizer):
    """Returns a compiled update: parameters, state and gradient to parameters and state."""

    @jax.jit
    def step(w, state, gradient):
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state

    return step


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("inner", [optax.adam(0.1), optax.sgd(0.5, momentum=0.9)])
def test_norms_stay_at_one(axis, inner, float64):
    target = RNG.normal(size=(4, 6))
    optimizer = jaxae.unit_norm(inner, axis=axis)
    w = unit(RNG.normal(size=(4, 6)), axis)
    step, state = make_step(optimizer), optimizer.init(jnp.asarray(w))
    for _ in range(20):
        w, state = jax.device_get(step(w, state, w - target))
        np.testing.assert_allclose(np.linalg.norm(w, axis=axis), 1, rtol=1e-12)


def test_it_finds_the_nearest_point_of_the_sphere(float64):
    target = RNG.normal(size=(4, 6))
    optimizer = jaxae.unit_norm(optax.sgd(0.3))
    w = unit(RNG.normal(size=(4, 6)), -1)
    step, state = make_step(optimizer), optimizer.init(jnp.asarray(w))
    for _ in range(300):
        w, state = jax.device_get(step(w, state, w - target))
    np.testing.assert_allclose(w, unit(target, -1), atol=1e-9)


def test_moments_never_see_the_gradient_along_the_filter(float64):
    w = unit(RNG.normal(size=(3, 5)), -1)
    optimizer = jaxae.unit_norm(optax.trace(decay=0.0))
    gradient = RNG.normal(size=(3, 5))
    _, state = jax.device_get(make_step(optimizer)(w, optimizer.init(jnp.asarray(w)), gradient))
    np.testing.assert_allclose(np.sum(state.trace * w, -1), 0, atol=1e-12)
    by_hand = gradient - np.sum(gradient * w, -1, keepdims=True) * w
    np.testing.assert_allclose(state.trace, by_hand, rtol=1e-10, atol=1e-12)


def test_filters_of_another_norm_are_brought_to_one_and_those_of_zero_once_they_move():
    w = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    for rate, first in ((0.0, [0.0, 0.0]), (0.1, [-0.6, -0.8])):
        optimizer = jaxae.unit_norm(optax.sgd(rate))
        gradient = jnp.array([[3.0, 4.0], [3.0, 4.0]])
        moved, _ = make_step(optimizer)(w, optimizer.init(w), gradient)
        np.testing.assert_allclose(moved, [first, [0.6, 0.8]], rtol=1e-6)


def test_some_parameters_of_a_compiled_run_are_kept_at_norm_one(key):
    free = optax.adam(0.05)
    label = lambda params: {name: name for name in params}
    optimizer = optax.partition({"atoms": jaxae.unit_norm(free), "bias": free}, label)

    def loss(params, key, x):
        return jnp.sum((x - x @ params["atoms"].T @ params["atoms"] - params["bias"][None]) ** 2, 1)

    x = jnp.asarray((RNG.normal(size=(40, 6)) + 1).astype(np.float32))
    atoms = unit(RNG.normal(size=(3, 6)).astype(np.float32), -1)
    state = jaxae.create_train_state({"atoms": atoms, "bias": np.zeros(6, np.float32)}, optimizer)
    run = jaxae.make_run(loss, optimizer, batch_size=10)
    trained = jax.device_get(jaxae.fit(run, state, key, x, epochs=3).params)
    np.testing.assert_allclose(np.linalg.norm(trained["atoms"], axis=1), 1, rtol=1e-5)
    assert np.linalg.norm(trained["bias"]) > 0.1
    assert np.abs(trained["atoms"] - atoms).max() > 0.05


@pytest.mark.parametrize(
    ("dtype", "norm", "first", "second"),
    [
        ("float16", 4e-4, 2e-3, 2e-3),
        ("float16", 256, 0.13, 2e-3),
        ("bfloat16", 60, 0.3, 1e-2),
        ("float32", 1e6, 0.06, 1e-6),
    ],
)
def test_norms_far_from_one_are_brought_to_one_by_two_updates(dtype, norm, first, second):
    direction = unit(RNG.normal(size=(3, 16)).astype(np.float32), -1)
    w = jnp.asarray(direction * norm, dtype)
    optimizer = jaxae.unit_norm(optax.sgd(0.0))
    update = jax.jit(optimizer.update)
    for tolerance in (first, second):
        updates, _ = update(jnp.zeros_like(w), optimizer.init(w), w)
        assert updates.dtype == w.dtype
        w = optax.apply_updates(w, updates)
        wide = np.asarray(w, np.float32)
        np.testing.assert_allclose(np.linalg.norm(wide, axis=1), 1, rtol=tolerance)
    assert (np.sum(wide * direction, axis=1) > 0.95).all()


def test_a_row_too_long_for_one_update_is_shortened_and_not_lost():
    w = np.array([[6e8, 8e8], [0.6, 0.8]], np.float32)
    optimizer = jaxae.unit_norm(optax.sgd(0.0))
    step, state, norms = make_step(optimizer), optimizer.init(jnp.asarray(w)), []
    for _ in range(3):
        w, _ = jax.device_get(step(w, state, np.zeros_like(w)))
        norms.append(np.linalg.norm(w[0]))
    assert 1 < norms[0] < 1000
    np.testing.assert_allclose(w, [[0.6, 0.8]] * 2, rtol=0.1)
    np.testing.assert_allclose(norms[-1], 1, rtol=1e-6)


def test_rows_of_zero_make_no_nan():
    w = jnp.zeros((1, 2))
    optimizer = jaxae.unit_norm(optax.sgd(0.1))
    with jax.debug_nans(True):
        updates, _ = optimizer.update(jnp.array([[3.0, 4.0]]), optimizer.init(w), w)
        np.testing.assert_allclose(updates, [[-0.6, -0.8]], rtol=1e-6)
        np.testing.assert_array_equal(jaxae.best_cosines(w, jnp.eye(2)), 0)


def test_biases_are_refused():
    params = {"atoms": jnp.eye(3), "bias": jnp.zeros(3)}
    message = r"^params must be filters .* params\['bias'\] has shape \(3,\).* optax\.partition\("
    with pytest.raises(ValueError, match=message):
        jaxae.unit_norm(optax.adam(0.1)).init(params)
