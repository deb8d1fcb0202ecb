"""Training: optimisers, shuffles, the last batch, reproducibility, divergence."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae

RNG = np.random.default_rng(9)


@pytest.fixture(autouse=True)
def optax_promotes():
    """optax's Adam mixes a Python float with an int32 count, which is not strict."""
    with jax.numpy_dtype_promotion("standard"):
        yield


X = jnp.asarray(RNG.uniform(size=(37, 6)), jnp.float32)
MODEL = jaxae.DenseAutoencoder((6,), 3, output_activation=jax.nn.sigmoid)
INIT, ENCODE, DECODE = jaxae.as_functions(MODEL)


def dae_loss(params, key, x, stddev):
    f = partial(ENCODE, params), partial(DECODE, params)
    return jaxae.denoising_loss(key, *f, x, corrupt=partial(jaxae.gaussian_noise, stddev=stddev))


def distance(params, key, x):
    """A loss whose optimum is the mean of the data."""
    return jaxae.squared_error(jnp.broadcast_to(params, x.shape), x)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1),
        optax.adam(0.05),
        optax.lbfgs(),
        optax.chain(optax.clip(1.0), optax.adamw(0.05)),
    ],
    ids=["sgd", "adam", "lbfgs", "clipped adamw"],
)
def test_any_optax_optimiser_trains(optimizer, key):
    step = jax.jit(jaxae.make_train_step(distance, optimizer))
    state = jaxae.create_train_state(jnp.zeros(6), optimizer)
    for _ in range(60):
        state, loss = step(state, key, X)
    assert int(state.step) == 60
    # distance is quadratic about the mean: its minimum is the total variance
    np.testing.assert_allclose(loss, np.asarray(X).var(0).sum(), rtol=0.02)


def test_a_step_is_compiled_once(key):
    optimizer = optax.adam(0.1)
    step = jax.jit(jaxae.make_train_step(distance, optimizer))
    state = jaxae.create_train_state(jnp.zeros(6), optimizer)
    for _ in range(3):
        state, _ = step(state, key, X)
    assert step._cache_size() == 1


def test_step_takes_the_mean_over_the_batch(key):
    optimizer = optax.sgd(1.0)
    step = jaxae.make_train_step(lambda p, k, x: p * x.sum(-1), optimizer)
    state, loss = step(jaxae.create_train_state(jnp.ones(()), optimizer), key, X)
    mean = float(X.sum(-1).mean())
    np.testing.assert_allclose(loss, mean, rtol=1e-6)
    np.testing.assert_allclose(state.params, 1 - mean, rtol=1e-6)


def batches_of_an_epoch(key, epoch, n, batch_size):
    """Returns the rows of each step, in order, as the loss saw them."""
    seen = []

    def loss(params, step_key, x):
        # ordered, so that the callbacks arrive in the order of the steps
        jax.debug.callback(lambda v: seen.append(np.asarray(v).ravel().tolist()), x, ordered=True)
        return params * x[:, 0]

    optimizer = optax.sgd(0.0)
    run_epoch = jaxae.make_epoch(loss, optimizer, batch_size=batch_size)
    state = jaxae.create_train_state(jnp.zeros(()), optimizer)
    state, _ = run_epoch(state, key, epoch, jnp.arange(float(n))[:, None])
    jax.effects_barrier()
    assert int(state.step) == -(-n // batch_size)
    return seen


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (9, 3), (2, 5), (1, 1), (7, 7)])
def test_every_example_is_used_once_per_epoch(key, n, batch_size):
    seen = batches_of_an_epoch(key, 0, n, batch_size)
    assert sorted(itertools.chain(*seen)) == list(range(n))
    assert [len(batch) for batch in seen[:-1]] == [batch_size] * (len(seen) - 1)


def test_the_shuffle_depends_on_key_and_epoch_alone(key):
    first = batches_of_an_epoch(key, 0, 20, 4)
    assert batches_of_an_epoch(key, 0, 20, 4) == first
    assert batches_of_an_epoch(key, 1, 20, 4) != first
    assert batches_of_an_epoch(jax.random.fold_in(key, 1), 0, 20, 4) != first
    assert list(itertools.chain(*first)) != list(range(20))


def test_epoch_equals_the_loop_of_steps(key):
    # The documented keys: split(fold_in(key, epoch)) is (shuffle, noise); fold_in(noise, step).
    optimizer = optax.adam(0.01)
    run_epoch = jaxae.make_epoch(dae_loss, optimizer, batch_size=8)
    start = jaxae.create_train_state(INIT(key), optimizer)
    got, mean_loss = run_epoch(start, key, 3, X, 0.2)

    step = jax.jit(jaxae.make_train_step(dae_loss, optimizer))
    shuffle_key, noise_key = jax.random.split(jax.random.fold_in(key, 3))
    order = jaxae.shuffled_order(shuffle_key, 37)
    state, total = start, 0.0
    for i in range(5):
        rows = order[8 * i : 8 * i + 8]
        state, loss = step(state, jax.random.fold_in(noise_key, i), X[rows], 0.2)
        total += float(loss) * len(rows)
    np.testing.assert_allclose(mean_loss, total / 37, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), got, state)


def test_a_run_is_reproducible_and_settings_do_not_recompile(key):
    optimizer = optax.adam(0.01)
    run_epoch = jaxae.make_epoch(dae_loss, optimizer, batch_size=8)

    def run(seed, level):
        state = jaxae.create_train_state(INIT(key), optimizer)
        for epoch in range(3):
            state, _ = run_epoch(state, jax.random.key(seed), epoch, X, level)
        return state.params

    first = run(0, 0.2)
    jax.tree.map(np.testing.assert_array_equal, run(0, 0.2), first)
    other = run(1, 0.5)
    assert not np.array_equal(other["encoder_kernel_0"], first["encoder_kernel_0"])
    assert run_epoch._cache_size() == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mean_loss_of_an_epoch_is_summed_in_float32(dtype, key):
    optimizer = optax.sgd(0.0)
    run_epoch = jaxae.make_epoch(lambda p, k, x: 50 + p * x[:, 0], optimizer, batch_size=2)
    state = jaxae.create_train_state(jnp.zeros((), dtype), optimizer)
    _, mean_loss = run_epoch(state, key, 0, jnp.ones((6401, 1), dtype))
    np.testing.assert_allclose(mean_loss, 50.0, rtol=1e-3)


def test_a_batch_larger_than_the_data_is_one_step(key):
    optimizer = optax.sgd(0.1)
    run_epoch = jaxae.make_epoch(distance, optimizer, batch_size=10**12)
    state, _ = run_epoch(jaxae.create_train_state(jnp.zeros(6), optimizer), key, 0, X)
    assert int(state.step) == 1


def test_training_denoises(key):
    optimizer = optax.adam(0.02)
    run = jaxae.make_run(dae_loss, optimizer, batch_size=16)
    losses = []
    state = jaxae.create_train_state(INIT(key), optimizer)
    jaxae.fit(run, state, key, X, 0.1, epochs=40, on_epoch=lambda e, v: losses.append((e, v)))
    assert [epoch for epoch, _ in losses] == list(range(1, 41))
    assert losses[-1][1] < 0.8 * losses[0][1]
