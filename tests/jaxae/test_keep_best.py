"""The parameters that did best on held-out data, kept inside a compiled run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae

RNG = np.random.default_rng(6)
X = jnp.asarray(RNG.normal(size=(20, 3)), jnp.float32)
HELD_OUT = jnp.full(3, 0.4)  # on the way from the start, 1, to the mean of the data


def loss(params, key, x):
    return jnp.sum((x - params[None]) ** 2, axis=1)


def score(params):
    return jnp.sum((params - HELD_OUT) ** 2)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Adam needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def trained(every, epochs=12, method=None):
    optimizer = jaxae.keep_best(optax.adam(0.1), score, every=every)
    run = jaxae.make_run(loss, optimizer, batch_size=5)
    state = jaxae.create_train_state(jnp.ones(3), optimizer)
    return run, state, jaxae.fit(run, state, jax.random.key(0), X, epochs=epochs)


def path_of_plain_adam(steps):
    optimizer = optax.adam(0.1)
    run = jaxae.make_run(loss, optimizer, batch_size=5)
    state = jaxae.create_train_state(jnp.ones(3), optimizer)
    key = jax.random.key(0)
    return [jaxae.fit(run, state, key, X, epochs=epoch).params for epoch in range(1, steps + 1)]


def test_the_path_is_that_of_the_optimiser_inside_and_the_best_of_it_is_kept():
    _, _, state = trained(every=4)  # 4 steps are an epoch
    path = path_of_plain_adam(12)
    np.testing.assert_allclose(state.params, path[-1], rtol=1e-5)
    scores = [float(score(params)) for params in path]
    best = state.opt_state
    assert 0 < np.argmin(scores) < 11, "neither the first nor the last is best"
    assert int(best.step) == 4 * (np.argmin(scores) + 1)
    np.testing.assert_allclose(best.params, path[np.argmin(scores)], rtol=1e-5)
    np.testing.assert_allclose(best.score, min(scores), rtol=1e-5)
    assert int(best.updates) == 48


def test_going_on_remembers_the_best_so_far():
    run, state, whole = trained(every=4)
    key = jax.random.key(0)
    for first in range(0, 12, 3):
        state = jaxae.fit(run, state, key, X, epochs=3, first_epoch=first)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.thorough(by_default=["vmap"])
@pytest.mark.parametrize("method", ["threads", "vmap"])
def test_many_models_each_have_their_own_best(method):
    run, _, alone = trained(every=4)
    optimizer = jaxae.keep_best(optax.adam(0.1), score, every=4)
    starts = jnp.stack([jnp.ones(3), -jnp.ones(3)])
    states = jax.vmap(lambda p: jaxae.create_train_state(p, optimizer))(starts)
    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    both = jaxae.fit_many(run, states, keys, X, epochs=12, method=method).opt_state
    np.testing.assert_allclose(both.params[0], alone.opt_state.params, rtol=1e-5)
    assert float(jnp.abs(both.params[0] - both.params[1]).max()) > 1e-4


def test_nan_is_never_best_and_of_equals_the_first_is():
    values = jnp.array([jnp.nan, 2.0, 1.0, 1.0, 3.0])
    optimizer = jaxae.keep_best(
        optax.sgd(1.0), lambda w: values[jnp.round(w).astype(jnp.int32) - 1], every=1
    )
    w = jnp.zeros(())
    state = optimizer.init(w)
    assert float(state.score) == np.inf
    for _ in range(5):
        updates, state = optimizer.update(jnp.array(-1.0), state, w)
        w = optax.apply_updates(w, updates)
    assert (float(state.params), float(state.score), int(state.step)) == (3.0, 1.0, 3)


SCORES = [
    ("float64", [1 + 1e-9, 1 - 1e-9, 1 - 3e-9, 1.0, 1.0], 3),  # all 1 in float32
    ("bfloat16", [2.0, 1.0, 3.0, 0.5, 0.5], 4),
    ("int32", [2**24 + 3, 2**24 + 2, 2**24 + 1, 2**24 + 2, 2**24 + 2], 3),
]


@pytest.mark.thorough(by_default=["int32"])
@pytest.mark.parametrize(("dtype", "values", "best"), SCORES, ids=[s[0] for s in SCORES])
def test_scores_are_compared_in_their_own_dtype(dtype, values, best, float64):
    values = jnp.asarray(values, dtype)
    optimizer = jaxae.keep_best(
        optax.sgd(1.0), lambda w: values[jnp.round(w).astype(jnp.int32) - 1], every=1
    )
    w = jnp.zeros(())
    state = optimizer.init(w)
    for _ in range(5):
        updates, state = optimizer.update(jnp.full_like(w, -1), state, w)
        w = optax.apply_updates(w, updates)
    assert (int(state.step), state.score) == (best, values[best - 1])
    assert state.score.dtype == dtype


def test_scores_that_cannot_be_compared_are_refused():
    for score in (lambda w: w > 0, lambda w: w.astype("complex64")):
        with pytest.raises(ValueError, match=r"^score must return a scalar that can be compared"):
            jaxae.keep_best(optax.sgd(1.0), score, every=1).init(jnp.zeros(()))
