"""Reconstruction field and score estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae

RNG = np.random.default_rng(11)
W = RNG.normal(size=(3, 4)).astype(np.float32)


def encode(x_i):
    return jnp.tanh(jnp.asarray(W) @ x_i)


def decode(z):
    return jnp.asarray(W).T @ z


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_field_is_reconstruction_minus_input(batch):
    x = RNG.normal(size=(*batch, 4)).astype(np.float32)
    got = np.asarray(jaxae.reconstruction_field(encode, decode, jnp.asarray(x)))
    assert got.shape == x.shape
    rows = x.reshape(-1, 4)
    flat = np.tanh(rows @ W.T) @ W - rows
    np.testing.assert_allclose(got.reshape(-1, 4), flat, rtol=1e-5, atol=1e-6)
    jitted = jax.jit(lambda v: jaxae.reconstruction_field(encode, decode, v))(x)
    np.testing.assert_allclose(jitted, got, rtol=1e-5, atol=1e-6)


def test_score_divides_by_the_variance():
    @jax.jit
    def field_and_score(x):
        field = jaxae.reconstruction_field(encode, decode, x)
        return field, jaxae.score_estimate(encode, decode, x, stddev=0.5)

    field, score = jax.device_get(field_and_score(RNG.normal(size=(5, 4)).astype(np.float32)))
    np.testing.assert_allclose(score, field / 0.25, rtol=1e-6)


def test_identity_has_no_field_and_images_work():
    images = jnp.asarray(RNG.normal(size=(2, 3, 3, 1)), jnp.float32)
    flatten, unflatten = (lambda v: v.reshape(-1)), (lambda z: z.reshape(3, 3, 1))
    field = jaxae.reconstruction_field(flatten, unflatten, images, example_ndim=3)
    np.testing.assert_array_equal(field, np.zeros((2, 3, 3, 1)))


@pytest.mark.thorough
def test_score_of_a_mixture_from_the_posterior_mean(float64):
    # r*(y) = E[x | y] of a finite sample is the softmax-weighted mean of its points; the score
    # of the smoothed sample, differentiated by JAX, must agree.
    points, stddev = jnp.asarray(RNG.normal(size=(7, 2))), 0.8

    def log_density(y):
        return jax.nn.logsumexp(-jnp.sum((points - y[None]) ** 2, -1) / (2 * stddev**2))

    def posterior_mean(y):
        weights = jax.nn.softmax(-jnp.sum((points - y[None]) ** 2, -1) / (2 * stddev**2))
        return weights @ points

    @jax.jit
    def scores(y):
        estimate = jaxae.score_estimate(posterior_mean, lambda z: z, y, stddev=stddev)
        return estimate, jax.vmap(jax.grad(log_density))(y)

    np.testing.assert_allclose(*scores(RNG.normal(size=(9, 2)) * 2), rtol=1e-9, atol=1e-12)


def add_level(key, x_i, level):
    return x_i + level


def test_a_chain_keeps_every_few_states_and_follows_its_schedule(key):
    x = jnp.zeros((5, 2))
    schedule = jnp.arange(1.0, 7.0)
    chain = jaxae.markov_chain(key, add_level, x, steps=6, thin=2, schedule=schedule)
    assert chain.shape == (3, 5, 2)
    np.testing.assert_array_equal(chain, np.broadcast_to([[[3]], [[10]], [[21]]], chain.shape))
    run = lambda v: jaxae.markov_chain(key, add_level, v, steps=6, thin=2, schedule=schedule)
    np.testing.assert_array_equal(jax.jit(run)(x), chain)


@pytest.mark.thorough(by_default=["batch1"])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_every_step_of_every_chain_has_its_own_draw(batch, key):
    step = lambda key_i, x_i: jax.random.normal(key_i, x_i.shape)
    run = jax.jit(lambda key: jaxae.markov_chain(key, step, jnp.zeros((*batch, 3)), steps=7))
    states = np.asarray(run(key))
    assert states.shape == (7, *batch, 3)
    assert len(np.unique(states)) == states.size
    np.testing.assert_array_equal(run(key), states)
    assert not (states == np.asarray(run(jax.random.key(1)))).any()


@pytest.mark.thorough(by_default=["True"])
@pytest.mark.parametrize("of_all", [False, True])
def test_fixed_entries_stay_and_the_others_move(of_all, key):
    x = RNG.normal(size=(6, 2, 2)).astype(np.float32)
    fixed = np.array([[True, False], [False, False]])
    if of_all:
        fixed = np.broadcast_to(fixed, x.shape)
    step = lambda key_i, x_i: x_i + jax.random.normal(key_i, x_i.shape)
    options = {"steps": 3, "fixed": jnp.asarray(fixed), "example_ndim": 2}
    states = np.asarray(jax.jit(lambda x: jaxae.markov_chain(key, step, x, **options))(x))
    assert (states[:, :, 0, 0] == x[None, :, 0, 0]).all()
    assert (states[:, :, 0, 1] != x[None, :, 0, 1]).all()


def last_states(key, step, x, steps):
    """Returns the last state of every chain."""
    run = jax.jit(lambda x: jaxae.markov_chain(key, step, x, steps=steps, thin=steps))
    return np.asarray(run(x)[-1])


def within_four_errors(variance, truth, count):
    """Whether the variance of so many normal draws is the true one: its error is a chi-square's."""
    return abs(variance / truth - 1) < 4 * np.sqrt(2 / count)


def test_the_denoising_chain_of_gaussian_data_samples_them(key):
    # Data N(0, 1), noise N(0, s^2): x given x~ is N(x~ / (1 + s^2), s^2 / (1 + s^2)).
    stddev, count = 0.7, 20_000
    shrink = 1 / (1 + stddev**2)
    spread = stddev * np.sqrt(shrink)
    corrupt = lambda key_i, x_i: jaxae.gaussian_noise(key_i, x_i, stddev=stddev)
    common = (lambda x_i: x_i, lambda z: shrink * z)
    drawn = jaxae.denoising_transition(
        *common, corrupt=corrupt, sample=jaxae.Gaussian(spread).sample
    )
    x = np.full((count, 1), 3, np.float32)
    last = last_states(key, drawn, x, 20)
    assert within_four_errors(last.var(), 1.0, count)
    assert abs(last.mean()) < 4 / np.sqrt(count) + 3 * shrink**20
    # The mean instead of a draw is too narrow: v = shrink^2 (v + s^2).
    mean = jaxae.denoising_transition(*common, corrupt=corrupt)
    last = last_states(key, mean, x, 20)
    narrow = shrink**2 * stddev**2 / (1 - shrink**2)
    assert narrow < 0.5
    assert within_four_errors(last.var(), narrow, count)


def test_langevin_on_a_gaussian_has_the_variance_of_its_step(key):
    # x' = (1 - e/2) x + sqrt(e) n is stationary at e / (1 - (1 - e/2)^2) = 1 / (1 - e/4)
    count, size = 20_000, 0.8
    step = jaxae.langevin_transition(lambda x_i: -x_i, step_size=size)
    last = last_states(key, step, np.zeros((count, 1), np.float32), 30)
    assert within_four_errors(last.var(), 1 / (1 - size / 4), count)


def test_annealed_langevin_steps_with_the_square_of_the_level(key):
    # Data N(0, 1): the score at noise s is -x / (1 + s^2), and a step is linear in x.
    count, size = 20_000, 0.5
    levels = jnp.array([2.0, 1.0, 0.5, 0.25])
    step = jaxae.langevin_transition(lambda x_i, s: -x_i / (1 + s**2), step_size=size)
    run = jax.jit(lambda x: jaxae.markov_chain(key, step, x, steps=4, schedule=levels))
    chain = np.asarray(run(np.zeros((count, 1), np.float32)))
    variance = 0.0
    for state, level in zip(chain, levels.tolist(), strict=True):
        each = size * level**2
        variance = (1 - each / 2 / (1 + level**2)) ** 2 * variance + each
        assert within_four_errors(state.var(), variance, count)


def test_the_tangent_step_is_the_one_of_the_full_jacobian(float64, key):
    w = jnp.asarray(RNG.normal(size=(3, 4)))
    enc, dec = lambda x_i: jnp.tanh(w @ x_i), lambda z: w.T @ z
    x_i = RNG.normal(size=4)

    @jax.jit
    def by_hand(x_i):
        jacobian = jax.jacfwd(enc)(x_i)
        draw = 0.3 * jax.random.normal(key, (3,), jnp.float64)
        return dec(enc(x_i) + jacobian @ jacobian.T @ draw), dec(enc(x_i))

    expected, unmoved = by_hand(x_i)
    got = jax.jit(jaxae.tangent_transition(enc, dec, stddev=0.3))(key, x_i)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    still = jax.jit(jaxae.tangent_transition(enc, dec, stddev=0.0))(key, x_i)
    np.testing.assert_allclose(still, unmoved, rtol=1e-12)


@pytest.mark.parametrize("kind", ["langevin", "tangent"])
def test_noise_of_a_step_in_half_precision_has_no_drift(kind, key):
    x = jnp.zeros(2**18, jnp.bfloat16)
    same = lambda x_i: x_i
    step = {
        "langevin": jaxae.langevin_transition(lambda x_i: 0 * x_i, step_size=1.0),
        "tangent": jaxae.tangent_transition(same, same, stddev=1.0),
    }[kind]
    noise = np.asarray(jax.jit(step)(key, x), np.float32)
    assert abs(noise.mean()) < 4 / 2**9
    np.testing.assert_allclose(noise.std(), 1, rtol=0.01)
