"""Stochastic decoders and encoders: log-probabilities, means and samples agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import jaxae

N = 100_000


def test_bernoulli_probabilities_sum_to_one(float64):
    logits = np.array([[-1.3, 0.4]] * 4)
    values = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    log_probs = np.asarray(jax.jit(jaxae.Bernoulli().log_prob)(logits, values))
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1.0, rtol=1e-12)


def test_gaussian_density_is_scipys(float64):
    mean, x = np.array([0.5, -1.0]), np.array([0.0, 2.0])
    got = jax.jit(jaxae.Gaussian(stddev=0.3).log_prob)(mean, x)
    expected = scipy.stats.multivariate_normal(mean, 0.09 * np.eye(2)).logpdf(x)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_diagonal_gaussian_density_is_scipys(float64):
    output, x = np.array([0.5, -1.0, np.log(0.2), np.log(3.0)]), np.array([0.0, 2.0])
    got = jax.jit(jaxae.DiagonalGaussian().log_prob)(output, x)
    expected = scipy.stats.multivariate_normal([0.5, -1.0], np.diag([0.04, 9.0])).logpdf(x)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_samples_have_the_stated_mean_and_spread(key):
    logits = np.array([-1.0, 0.0, 2.0], np.float32)
    p = scipy.special.expit(logits)
    cases = [
        (jaxae.Bernoulli(), logits, p, p * (1 - p)),
        (jaxae.Gaussian(stddev=0.3), logits, logits, np.full(3, 0.09)),
        (
            jaxae.DiagonalGaussian(),
            np.array([1.0, 2.0, 0.0, np.log(0.5)], np.float32),
            np.array([1.0, 2.0]),
            np.array([1.0, 0.25]),
        ),
    ]
    for distribution, output, mean, variance in cases:
        np.testing.assert_allclose(jax.jit(distribution.mean)(output), mean, rtol=1e-6)
        sample = jax.jit(distribution.sample)
        draws = np.asarray(sample(key, np.tile(output, (N, 1))), np.float64)
        assert (np.abs(draws.mean(0) - mean) < 4 * np.sqrt(variance / N)).all()
        np.testing.assert_allclose(draws.var(0), variance, rtol=0.05)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rare_events_keep_their_rate_in_low_precision(key, dtype):
    logits = np.full(400_000, np.log(0.002 / 0.998), jnp.dtype(dtype))
    p = scipy.special.expit(np.float32(logits[0]))
    sample = jax.jit(jaxae.Bernoulli().sample)
    for given, rate in ((logits, p), (-logits, 1 - p)):
        share = np.asarray(sample(key, given), np.float32).mean()
        assert abs(share - rate) < 4 * np.sqrt(p / 400_000)


@pytest.mark.parametrize(("dtype", "log_stddev"), [("float16", -6.0), ("float32", -44.0)])
def test_tiny_learned_spreads_have_finite_gradients(dtype, log_stddev):
    output = np.array([0.5, log_stddev], dtype)
    log_prob = jax.jit(jax.value_and_grad(jaxae.DiagonalGaussian().log_prob))
    value, gradient = log_prob(output, output[:1])
    np.testing.assert_allclose(value, -log_stddev - 0.5 * np.log(2 * np.pi), rtol=1e-3)
    np.testing.assert_allclose(gradient, [0.0, -1.0], atol=1e-6)


def test_a_decoder_with_a_learned_spread_trains_in_every_objective(key):
    weights = 0.1 * jax.random.normal(key, (8, 3))  # a code of 3 to 4 means and 4 log stddevs
    encode, decode = (lambda x_i: x_i[:3]), (lambda z: weights @ z)
    nll = lambda output, x_i: -jaxae.DiagonalGaussian().log_prob(output, x_i)
    x = np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4)
    options = {"corrupt": jaxae.compose(), "reconstruction": nll}

    @jax.jit
    def losses(x):
        return (
            -jaxae.DiagonalGaussian().log_prob(jax.vmap(decode)(x[:, :3]), x),
            jaxae.reconstruction_loss(encode, decode, x, reconstruction=nll),
            jaxae.denoising_loss(key, encode, decode, x, **options),
        )

    expected, plain, denoising = losses(x)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    np.testing.assert_allclose(denoising, expected, rtol=1e-5)


def test_bernoulli_samples_are_zeros_and_ones(key):
    draws = jax.jit(jaxae.Bernoulli().sample)(key, np.zeros(100, np.float32))
    assert set(draws.tolist()) == {0.0, 1.0}


def test_gradients_reach_mean_and_spread_through_a_sample(key):
    draw = lambda output: jaxae.DiagonalGaussian().sample(key, output).sum()
    gradient = np.asarray(jax.jit(jax.grad(draw))(np.array([1, 2, 0, 0], np.float32)))
    np.testing.assert_array_equal(gradient[:2], [1.0, 1.0])
    assert (gradient[2:] != 0).all()


def test_reconstruction_distribution_of_a_denoising_autoencoder(key):
    # p(x | x~) is the decoder's distribution at dec(enc(x~)).
    init, encode, decode = jaxae.as_functions(jaxae.DenseAutoencoder((6,), code_dim=3))

    @jax.jit
    def log_prob_and_mean(key, x_noisy):
        params = init(key)
        logits = decode(params, encode(params, x_noisy))
        x = jaxae.Bernoulli().sample(key, logits)
        return jaxae.Bernoulli().log_prob(logits, x), jaxae.Bernoulli().mean(logits)

    log_prob, mean = log_prob_and_mean(key, np.linspace(0, 1, 6, dtype=np.float32))
    assert float(log_prob) < 0
    assert mean.shape == (6,)


def test_stddev_may_be_traced(key):
    spread = jax.jit(lambda s: jaxae.Gaussian(s).log_prob(jnp.zeros(2), jnp.ones(2)))
    np.testing.assert_allclose(
        spread(0.5), jaxae.Gaussian(0.5).log_prob(jnp.zeros(2), jnp.ones(2)), rtol=1e-6
    )
