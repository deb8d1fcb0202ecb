"""Reconstruction losses: SciPy's densities, extremes, gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

import jaxae

RNG = np.random.default_rng(1)
LOSSES = [jaxae.squared_error, jaxae.gaussian_nll, jaxae.bernoulli_nll]
bernoulli_nll = jax.jit(jaxae.bernoulli_nll)
bernoulli_nll_with_gradient = jax.jit(jax.value_and_grad(jaxae.bernoulli_nll))


@jax.jit
def gaussian_nll(mean, x, stddev):
    return jaxae.gaussian_nll(mean, x, stddev=stddev)


def test_squared_error_by_hand():
    # (1-0)^2 + (2-4)^2 = 5 and 9 + 0 = 9
    got = jaxae.squared_error(jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([[0.0, 4.0], [0, 1]]))
    np.testing.assert_array_equal(got, [5.0, 9.0])


def test_gaussian_nll_is_scipys(float64):
    x, mean = RNG.normal(size=(2, 4, 3))
    for stddev in (0.1, 1.0, 7.0):
        expected = -scipy.stats.norm(mean, stddev).logpdf(x).sum(-1)
        np.testing.assert_allclose(gaussian_nll(mean, x, stddev), expected, rtol=1e-12)
    spread = np.exp(RNG.normal(size=(4, 3)))
    got = gaussian_nll(mean, x, spread)
    np.testing.assert_allclose(got, -scipy.stats.norm(mean, spread).logpdf(x).sum(-1), rtol=1e-12)


def test_gaussian_nll_is_squared_error_up_to_constants(float64):
    # The lecture: linear output = mean of a Gaussian, its NLL equals the MSE up to constants.
    x, mean = RNG.normal(size=(2, 5, 3))
    nll = np.asarray(gaussian_nll(mean, x, 0.5))
    rest = nll - jax.jit(jaxae.squared_error)(mean, x) / (2 * 0.5**2)
    np.testing.assert_allclose(rest, 3 * (np.log(0.5) + 0.5 * np.log(2 * np.pi)), rtol=1e-10)


def test_bernoulli_nll_is_scipys(float64):
    logits, x = RNG.normal(size=(4, 3)) * 4, RNG.integers(0, 2, (4, 3)).astype(float)
    expected = -scipy.stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(x.astype(int)).sum(-1)
    np.testing.assert_allclose(bernoulli_nll(logits, x), expected, rtol=1e-9)


def test_bernoulli_nll_of_grey_pixels_is_the_cross_entropy(float64):
    logits, x = RNG.normal(size=5), RNG.uniform(size=5)
    p = 1 / (1 + np.exp(-logits))
    expected = -np.sum(x * np.log(p) + (1 - x) * np.log(1 - p))
    np.testing.assert_allclose(bernoulli_nll(logits, x), expected, rtol=1e-12)


@examples(200)
@given(st.floats(-1e4, 1e4, width=32), st.floats(0, 1, width=32))
def test_bernoulli_nll_is_finite_and_its_gradient_is_sigmoid_minus_x(logit, x):
    logits, targets = np.array([logit], np.float32), np.array([x], np.float32)
    value, gradient = bernoulli_nll_with_gradient(logits, targets)
    assert np.isfinite(value)
    assert float(value) >= 0
    expected = scipy.special.expit(logits) - targets
    np.testing.assert_allclose(gradient, expected, atol=5e-7)


@pytest.mark.parametrize("logit", [104.0, 1000.0, 88.0])
def test_bernoulli_nll_in_the_tails(logit):
    # A product of sigmoid and log is NaN at logit 104; the tail is e^-a on the right side
    # and a on the wrong one.
    wrong = bernoulli_nll(np.float32([logit]), np.float32([0]))
    np.testing.assert_allclose(wrong, logit, rtol=1e-6)
    right = bernoulli_nll(np.float32([30]), np.float32([1]))
    np.testing.assert_allclose(right, np.exp(-30.0), rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_features_are_summed_and_the_batch_is_kept(loss, batch):
    output = RNG.normal(size=(*batch, 4)).astype(np.float32)
    x = RNG.uniform(size=(*batch, 4)).astype(np.float32)
    compiled = jax.jit(loss)
    got = loss(jnp.asarray(output), jnp.asarray(x))
    assert got.shape == batch
    rows = zip(output.reshape(-1, 4), x.reshape(-1, 4), strict=True)
    np.testing.assert_allclose(np.ravel(got), [compiled(*row) for row in rows], rtol=1e-6)
    np.testing.assert_allclose(compiled(output, x), got, rtol=1e-6)


@pytest.mark.thorough(by_default=["squared_error"])
@pytest.mark.parametrize("loss", LOSSES)
def test_images_need_example_ndim(loss):
    output, x = np.full((5, 4, 4, 2), 0.3, np.float32), np.full((5, 4, 4, 2), 0.6, np.float32)
    got = jax.jit(partial(loss, example_ndim=3))(output, x)
    assert got.shape == (5,)
    flat = jax.jit(loss)(output.reshape(5, -1), x.reshape(5, -1))
    np.testing.assert_allclose(got, flat, rtol=1e-5)


@pytest.mark.thorough(by_default=["bernoulli_nll"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_in_both_arguments(loss, float64):
    output, x = RNG.normal(size=(3, 4)), RNG.uniform(0.1, 0.9, (3, 4))
    check_grads(jax.jit(lambda o, t: loss(o, t).sum()), (output, x), order=2, modes=["rev", "fwd"])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_is_kept(loss, dtype):
    output, x = np.zeros(3, jnp.dtype(dtype)), np.ones(3, jnp.dtype(dtype))
    assert jax.jit(loss)(output, x).dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("loss", LOSSES)
def test_numpy_arrays_are_welcome(loss, no_type_hook):
    assert isinstance(loss(np.zeros(3, np.float32), np.ones(3, np.float32)), jax.Array)
