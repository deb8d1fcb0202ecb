"""Corruptions: closed-form moments, edge strengths, keys, compilation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae


def compiled(noise, **options):
    return jax.jit(partial(noise, **options))


NOISES = {
    "masking": compiled(jaxae.masking_noise, rate=0.3),
    "gaussian": compiled(jaxae.gaussian_noise, stddev=0.7),
    "uniform": compiled(jaxae.uniform_noise, scale=0.55),
    "uniform clipped": compiled(jaxae.uniform_noise, scale=0.55, low=0.0, high=1.0),
    "salt and pepper": compiled(jaxae.salt_and_pepper_noise, rate=0.4, low=-1.0, high=3.0),
}
OFF = {
    "masking": compiled(jaxae.masking_noise, rate=0.0),
    "gaussian": compiled(jaxae.gaussian_noise, stddev=0.0),
    "uniform": compiled(jaxae.uniform_noise, scale=0.0),
    "salt and pepper": compiled(jaxae.salt_and_pepper_noise, rate=0.0),
    "composed of nothing": jaxae.compose(),
}
noise_kinds = pytest.mark.parametrize("corrupt", NOISES.values(), ids=NOISES.keys())

# Mean and variance of one corrupted entry x = 0.4, by hand:
# masking: q x and q (1 - q) x^2 with q = 0.7; salt and pepper: mean (1-v) x + v (low+high)/2,
# second moment (1-v) x^2 + v (low^2+high^2)/2; uniform: a^2/3; clipped: integrals over the parts.
_A, _X = 0.55, 0.4
_INSIDE = (_X + _A) / (2 * _A)  # the noise takes x below 0 with probability 1 - _INSIDE
_CLIP_MEAN = (_X + _A) ** 2 / (4 * _A)
_CLIP_SQUARE = (_X + _A) ** 3 / (6 * _A)
MOMENTS = {
    "masking": (0.7 * _X, 0.7 * 0.3 * _X**2),
    "gaussian": (_X, 0.49),
    "uniform": (_X, _A**2 / 3),
    "uniform clipped": (_CLIP_MEAN, _CLIP_SQUARE - _CLIP_MEAN**2),
    "salt and pepper": (0.6 * _X + 0.4, 0.6 * _X**2 + 0.4 * 5 - (0.6 * _X + 0.4) ** 2),
}


@pytest.mark.parametrize("kind", NOISES)
def test_moments_are_those_of_the_formula(key, kind):
    n = 200_000
    draws = np.asarray(NOISES[kind](key, np.full(n, _X, np.float32)), np.float64)
    mean, variance = MOMENTS[kind]
    assert abs(draws.mean() - mean) < 4 * np.sqrt(variance / n)
    fourth = np.mean((draws - draws.mean()) ** 4)
    assert abs(draws.var() - variance) < 4 * np.sqrt((fourth - variance**2) / n)


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "masking", "salt and pepper"])
def test_draws_in_low_precision_are_not_biased(key, kind):
    # Drawn in bfloat16 itself, noise of mean 0 has mean -0.01 and few distinct values.
    n = 400_000
    x = np.full(n, 0.5, np.float32)  # a number that bfloat16 holds exactly
    draws = np.asarray(NOISES[kind](key, x.astype(jnp.bfloat16)), np.float64)
    wide = np.asarray(NOISES[kind](key, x), np.float64)
    np.testing.assert_allclose(draws, wide, atol=2e-2)  # the same draw, rounded
    assert abs(draws.mean() - wide.mean()) < 4e-4


@noise_kinds
def test_entries_are_independent(key, corrupt):
    draws = np.asarray(corrupt(key, np.full((50_000, 3), _X, np.float32)), np.float64)
    correlation = np.corrcoef(draws.T) - np.eye(3)
    assert np.abs(correlation).max() < 4 / np.sqrt(50_000)


@pytest.mark.parametrize("corrupt", OFF.values(), ids=OFF.keys())
def test_strength_zero_gives_x_back(key, corrupt):
    x = jnp.array([-1.0, 0.0, 0.3, 7.0])
    np.testing.assert_array_equal(corrupt(key, x), x)


def test_rate_one_replaces_everything(key):
    x = np.full(1000, 0.3, np.float32)
    assert not np.any(compiled(jaxae.masking_noise, rate=1.0)(key, x))
    salt = compiled(jaxae.salt_and_pepper_noise, rate=1.0, low=-2.0, high=5.0)
    salted = np.asarray(salt(key, x))
    assert set(salted.tolist()) == {-2.0, 5.0}
    assert abs(float((salted == 5.0).mean()) - 0.5) < 4 * 0.5 / np.sqrt(1000)


def test_masking_does_not_rescale_survivors(key):
    x = np.arange(1, 101, dtype=np.float32)
    masked = np.asarray(compiled(jaxae.masking_noise, rate=0.5)(key, x))
    assert ((masked == x) | (masked == 0)).all()


def test_uniform_noise_stays_in_its_bounds(key):
    x = np.full(10_000, 0.5, np.float32)
    noisy = np.asarray(compiled(jaxae.uniform_noise, scale=3.0, low=0.0, high=1.0)(key, x))
    assert noisy.min() == 0.0
    assert noisy.max() == 1.0
    free = np.asarray(compiled(jaxae.uniform_noise, scale=3.0)(key, x))
    assert np.abs(free - 0.5).max() <= 3.0


@noise_kinds
def test_key_decides_the_draw(key, corrupt):
    x = np.full(64, _X, np.float32)
    np.testing.assert_array_equal(corrupt(key, x), corrupt(key, x))
    assert not np.array_equal(corrupt(key, x), corrupt(jax.random.fold_in(key, 1), x))


@noise_kinds
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_shape_and_dtype_are_kept(key, corrupt, dtype):
    x = np.full((2, 3, 4), 0.5, jnp.dtype(dtype))
    noisy = corrupt(key, x)
    assert (noisy.shape, noisy.dtype) == (x.shape, x.dtype)


@noise_kinds
def test_float64_is_kept(key, corrupt, float64):
    assert corrupt(key, np.full(3, 0.5)).dtype == jnp.float64


@noise_kinds
def test_a_raw_uint32_key_works(corrupt):
    assert corrupt(jax.random.PRNGKey(0), jnp.ones(3)).shape == (3,)


@pytest.mark.parametrize(
    ("corrupt", "name"),
    [
        (jaxae.masking_noise, "rate"),
        (jaxae.gaussian_noise, "stddev"),
        (jaxae.uniform_noise, "scale"),
        (jaxae.salt_and_pepper_noise, "rate"),
    ],
)
def test_a_sweep_over_levels_compiles_once_and_equals_eager(key, corrupt, name):
    traces = 0

    @jax.jit
    def corrupt_at(key, x, level):
        nonlocal traces
        traces += 1
        return corrupt(key, x, **{name: level})

    x = jnp.linspace(0.0, 1.0, 32)
    for level in (0.0, 0.2, 0.5, 1.0):
        got = corrupt_at(key, x, level)
        np.testing.assert_allclose(got, corrupt(key, x, **{name: level}), rtol=1e-6)
    assert traces == 1


def test_compose_applies_in_order_with_split_keys(key):
    mask, noise = partial(jaxae.masking_noise, rate=0.5), partial(jaxae.gaussian_noise, stddev=0.1)
    first, second = jax.random.split(key)
    x = np.ones(16, np.float32)
    expected = jax.jit(lambda x: noise(second, mask(first, x)))(x)
    np.testing.assert_array_equal(compiled(jaxae.compose(mask, noise))(key, x), expected)


@noise_kinds
def test_corrupt_batch_is_the_loop_over_split_keys(key, corrupt):
    x = np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4)
    keys = jax.random.split(key, 5)
    loop = np.stack([corrupt(k, row) for k, row in zip(keys, x, strict=True)])
    np.testing.assert_allclose(jaxae.corrupt_batch(key, corrupt, jnp.asarray(x)), loop, rtol=1e-6)
    jitted = jax.jit(partial(jaxae.corrupt_batch, corrupt=corrupt))(key, x=x)
    np.testing.assert_allclose(jitted, loop, rtol=1e-6)


def test_examples_of_a_batch_get_different_noise(key):
    corrupt = partial(jaxae.gaussian_noise, stddev=1.0)
    draw = compiled(jaxae.corrupt_batch, corrupt=corrupt)
    noise = np.asarray(draw(key, x=np.zeros((100, 50), np.float32)))
    gram = np.corrcoef(noise) - np.eye(100)
    assert np.abs(gram).max() < 6 / np.sqrt(50)
    assert len(np.unique(noise)) > 4990


def test_corrupt_batch_takes_several_batch_axes_and_images(key):
    corrupt = partial(jaxae.gaussian_noise, stddev=1.0)

    def draw(shape, **options):
        corrupt_zeros = lambda key: jaxae.corrupt_batch(key, corrupt, jnp.zeros(shape), **options)
        return np.asarray(jax.jit(corrupt_zeros)(key))

    assert draw((4, 8, 8, 1)).shape == (4, 8, 8, 1)
    two = draw((3, 2, 6), batch_ndim=2)
    assert two.shape == (3, 2, 6)
    assert len(np.unique(two)) == 36
    assert draw((6,), batch_ndim=0).shape == (6,)


def test_gradient_flows_through_the_kept_entries(key):
    mask = compiled(jaxae.masking_noise, rate=0.5)
    x = np.ones(100, np.float32)
    gradient = jax.jit(jax.grad(lambda x: mask(key, x).sum()))(x)
    np.testing.assert_array_equal(gradient, mask(key, x))


@pytest.mark.parametrize("name", ["masking", "salt", "gaussian", "uniform"])
def test_a_traced_strength_outside_its_range_gives_nan(name, key):
    noises = {
        "masking": lambda x, s: jaxae.masking_noise(key, x, rate=s),
        "salt": lambda x, s: jaxae.salt_and_pepper_noise(key, x, rate=s),
        "gaussian": lambda x, s: jaxae.gaussian_noise(key, x, stddev=s),
        "uniform": lambda x, s: jaxae.uniform_noise(key, x, scale=s, low=0.0, high=1.0),
    }
    noise = jax.jit(noises[name])
    for strength in (-0.5, 1.5) if name in ("masking", "salt") else (-0.5,):
        assert np.isnan(noise(np.ones(4, np.float32), strength)).all()
    assert np.isfinite(noise(np.ones(4, np.float32), 0.5)).all()
