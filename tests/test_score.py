"""Reconstruction field and score estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae

RNG = np.random.default_rng(11)
W = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)


def encode(x_i):
    return jnp.tanh(W @ x_i)


def decode(z):
    return W.T @ z


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_field_is_reconstruction_minus_input(batch):
    x = jnp.asarray(RNG.normal(size=(*batch, 4)), jnp.float32)
    got = jaxae.reconstruction_field(encode, decode, x)
    assert got.shape == x.shape
    flat = [decode(encode(v)) - v for v in x.reshape(-1, 4)]
    np.testing.assert_allclose(got.reshape(-1, 4), np.stack(flat), rtol=1e-5, atol=1e-6)
    jitted = jax.jit(lambda v: jaxae.reconstruction_field(encode, decode, v))(x)
    np.testing.assert_allclose(jitted, got, rtol=1e-5, atol=1e-6)


def test_score_divides_by_the_variance():
    x = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    field = jaxae.reconstruction_field(encode, decode, x)
    got = jaxae.score_estimate(encode, decode, x, stddev=0.5)
    np.testing.assert_allclose(got, field / 0.25, rtol=1e-6)


def test_identity_has_no_field_and_images_work():
    images = jnp.asarray(RNG.normal(size=(2, 3, 3, 1)), jnp.float32)
    flatten, unflatten = (lambda v: v.reshape(-1)), (lambda z: z.reshape(3, 3, 1))
    field = jaxae.reconstruction_field(flatten, unflatten, images, example_ndim=3)
    np.testing.assert_array_equal(field, np.zeros((2, 3, 3, 1)))


def test_score_of_a_mixture_from_the_posterior_mean(float64):
    # r*(y) = E[x | y] of a finite sample is the softmax-weighted mean of its points; the score
    # of the smoothed sample, differentiated by JAX, must agree.
    points, stddev = jnp.asarray(RNG.normal(size=(7, 2))), 0.8

    def log_density(y):
        return jax.nn.logsumexp(-jnp.sum((points - y[None]) ** 2, -1) / (2 * stddev**2))

    def posterior_mean(y):
        weights = jax.nn.softmax(-jnp.sum((points - y[None]) ** 2, -1) / (2 * stddev**2))
        return weights @ points

    y = jnp.asarray(RNG.normal(size=(9, 2)) * 2)
    got = jaxae.score_estimate(posterior_mean, lambda z: z, y, stddev=stddev)
    np.testing.assert_allclose(got, jax.vmap(jax.grad(log_density))(y), rtol=1e-9, atol=1e-12)
