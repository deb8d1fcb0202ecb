"""Metrics by hand and against scikit-learn and NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

import jaxae

RNG = np.random.default_rng(10)
mean_squared_error = jax.jit(jaxae.mean_squared_error, static_argnames="example_ndim")
explained_variance = jax.jit(jaxae.explained_variance, static_argnames="example_ndim")
psnr = jax.jit(jaxae.psnr, static_argnames="peak")
active_units = jax.jit(jaxae.active_units)
dead_units = jax.jit(jaxae.dead_units)


def test_mean_squared_error_is_per_feature():
    x_hat, x = RNG.normal(size=(2, 7, 5)).astype(np.float32)
    got = mean_squared_error(x_hat, x)
    np.testing.assert_allclose(got, ((x_hat - x) ** 2).mean(-1), rtol=1e-5)
    image = np.ones((3, 4, 4, 2), np.float32)
    got = mean_squared_error(image, 0 * image, example_ndim=3)
    np.testing.assert_allclose(got, np.ones(3))


def test_psnr_by_hand():
    # MSE 0.01 of a peak of 1: 20 dB; the same error of a peak of 255: 68.13 dB.
    x_hat, x = np.full((2, 4), 0.1, np.float32), np.zeros((2, 4), np.float32)
    np.testing.assert_allclose(psnr(x_hat, x), [20.0, 20.0], rtol=1e-5)
    np.testing.assert_allclose(psnr(x_hat, x, peak=255.0), 68.1308, rtol=1e-5)
    assert float(psnr(x[0], x[0])) == np.inf


def test_half_precision_does_not_overflow_and_an_empty_batch_is_empty():
    x_hat, x = np.full((3, 784), 20, np.float16), np.zeros((3, 784), np.float16)
    np.testing.assert_allclose(mean_squared_error(x_hat, x), 400.0)
    np.testing.assert_allclose(psnr(x_hat, x), -26.02, rtol=1e-2)
    assert mean_squared_error(x_hat[:0], x[:0]).shape == (0,)
    assert psnr(x_hat[:0], x[:0]).shape == (0,)


@pytest.mark.thorough(by_default=["bfloat16"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_singular_values_in_half_precision(dtype):
    singular_values = jax.jit(partial(jaxae.jacobian_singular_values, lambda v: 3 * v))
    values = singular_values(jnp.zeros((2, 4), dtype))
    assert values.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.asarray(values, np.float32), 3.0)


def test_explained_variance_of_one_feature_is_scikit_learns():
    x_hat, x = RNG.normal(size=(2, 30)).astype(np.float32)
    got = explained_variance(x_hat[:, None], x[:, None])
    np.testing.assert_allclose(got, sklearn.metrics.explained_variance_score(x, x_hat), rtol=1e-5)


def test_explained_variance_over_two_batch_axes_and_images():
    x = RNG.normal(size=(12, 6)).astype(np.float32)
    x_hat = x + 0.3 * RNG.normal(size=(12, 6)).astype(np.float32)
    expected = explained_variance(x_hat, x)
    got = explained_variance(x_hat.reshape(3, 4, 6), x.reshape(3, 4, 6))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    images = (12, 3, 2, 1)
    got = explained_variance(x_hat.reshape(images), x.reshape(images), example_ndim=3)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_active_and_dead_units():
    code = np.array([[0.0, 1.0, -0.2], [0.0, 0.0, 0.05]], np.float32)
    assert active_units(code).tolist() == [2.0, 1.0]
    assert active_units(code, threshold=0.1).tolist() == [2.0, 0.0]
    assert dead_units(code).tolist() == [True, False, False]
    assert dead_units(code[1:], threshold=0.1).tolist() == [True, True, True]
    assert dead_units(code.reshape(2, 1, 3)).tolist() == [True, False, False]


def test_active_units_counts_beyond_the_range_of_half_precision():
    assert float(active_units(np.ones(5001, np.float16))) == 5001.0


def test_saturated_share():
    code = np.array([[0.04, 0.05, 0.95, 0.96], [0.5, 0.5, 0.5, 0.0]], np.float32)
    np.testing.assert_allclose(jax.jit(jaxae.saturated_share)(code), [0.5, 0.25])


def test_singular_values_are_numpys():
    w = RNG.normal(size=(3, 5)).astype(np.float32)
    encode = lambda v: jnp.asarray(w) @ v
    got = jax.jit(partial(jaxae.jacobian_singular_values, encode))(jnp.zeros((2, 5)))
    expected = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(got, np.stack([expected, expected]), rtol=1e-4)


def test_contraction_curve_is_jacobian_norm_at_small_radii(key, float64):
    w = jnp.asarray(RNG.normal(size=(4, 6)))
    encode = lambda v: jnp.tanh(w @ v)

    @jax.jit
    def curve_and_penalty(x, radii):
        curve = jaxae.contraction_curve(key, encode, x, radii=radii)
        return curve, jaxae.contractive_penalty(encode, x[0])

    x = np.tile(RNG.normal(size=6), (4000, 1))
    curve, penalty = jax.device_get(curve_and_penalty(x, np.array([1e-5, 1.0, 100.0])))
    assert curve.shape == (4000, 3)
    rms = np.sqrt(np.mean(curve[:, 0] ** 2))
    expected = np.sqrt(penalty / 6)
    np.testing.assert_allclose(rms, expected, rtol=0.03)
    # tanh codes are at most 2 sqrt(4) apart, so far away everything is contracted
    assert float(curve[:, 2].max()) <= 4 / 100


def test_metrics_work_under_jit():
    x = jnp.asarray(RNG.uniform(size=(5, 4)), jnp.float32)
    for metric in (
        lambda v: jaxae.psnr(0.5 * v, v),
        lambda v: jaxae.explained_variance(0.5 * v, v),
        jaxae.active_units,
        jaxae.dead_units,
        jaxae.saturated_share,
    ):
        np.testing.assert_allclose(jax.jit(metric)(x), metric(x), rtol=1e-5)


@pytest.mark.parametrize("metric", [jaxae.mean_squared_error, jaxae.psnr])
def test_metrics_of_one_example_are_scalars(metric):
    assert metric(jnp.ones(4), jnp.zeros(4)).shape == ()


def test_best_cosines_are_those_of_scikit_learn():
    filters, atoms = (RNG.normal(size=(n, 5)).astype(np.float32) for n in (9, 4))
    filters[3] = 0
    best_cosines = jax.jit(jaxae.best_cosines)
    got = best_cosines(filters, atoms)
    table = sklearn.metrics.pairwise.cosine_similarity(filters, atoms)
    np.testing.assert_allclose(got, table.max(axis=0), rtol=1e-5)
    same = best_cosines(7 * atoms, atoms)
    np.testing.assert_allclose(same, 1, rtol=1e-6)
    opposite = best_cosines(-atoms[:1], atoms[:1])
    np.testing.assert_allclose(opposite, -1, rtol=1e-6)
