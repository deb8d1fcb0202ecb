"""Denoising objectives beyond the plain one: emphasis, walkback, many noise levels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxae

RNG = np.random.default_rng(8)
W = RNG.normal(size=(4, 6))
X = RNG.uniform(size=(5, 6))
MASK = partial(jaxae.masking_noise, rate=0.4)
IDENTITY = lambda v: v


def of_width(dtype):
    w = jnp.asarray(W, dtype)
    return (lambda x_i: jax.nn.sigmoid(w @ x_i)), (lambda z: w.T @ z), jnp.asarray(X, dtype)


@pytest.mark.thorough(by_default=["squared_error"])
@pytest.mark.parametrize("reconstruction", [jaxae.squared_error, jaxae.bernoulli_nll])
def test_equal_emphasis_is_the_plain_loss_and_the_two_parts_add_up(reconstruction, key):
    encode, decode, x = of_width(jnp.float32)
    loss = partial(
        jaxae.denoising_loss, key, encode, decode, x, corrupt=MASK, reconstruction=reconstruction
    )

    @jax.jit
    def losses(alpha):
        pairs = ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (alpha, 0.5))
        return loss(), *(loss(emphasis=pair) for pair in pairs)

    plain, equal, *parts, mixed = jax.device_get(losses(2.0))
    np.testing.assert_allclose(equal, plain, rtol=1e-5)
    assert all(float(part.max()) > 0 for part in parts)
    np.testing.assert_allclose(parts[0] + parts[1], plain, rtol=1e-5)
    np.testing.assert_allclose(mixed, 2 * parts[0] + 0.5 * parts[1], rtol=1e-5)


def test_zeros_that_are_masked_count_as_corrupted(key):
    x = RNG.integers(0, 2, size=(200, 6)).astype(np.float32)
    far = lambda z: z * 0 + 2  # an error of 1 or 4 everywhere

    @jax.jit
    def loss_and_chosen(x):
        loss = jaxae.denoising_loss(key, IDENTITY, far, x, corrupt=MASK, emphasis=(1.0, 0.0))
        return loss, jaxae.corrupt_batch(key, MASK, jnp.ones_like(x)) == 0

    loss, chosen = jax.device_get(loss_and_chosen(x))
    assert (chosen & (x == 0)).any()
    np.testing.assert_allclose(loss, np.where(chosen, (2 - x) ** 2, 0).sum(-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("corrupt", "share"),
    [
        (partial(jaxae.salt_and_pepper_noise, rate=0.3), 0.3),
        (partial(jaxae.gaussian_noise, stddev=0.1), 1.0),
        (partial(jaxae.uniform_noise, scale=0.5, low=0.0, high=1.0), 1.0),
        (jaxae.compose(), 0.0),
    ],
    ids=["salt-and-pepper", "gaussian", "uniform", "none"],
)
def test_the_share_of_corrupted_entries_is_that_of_the_noise(corrupt, share, key):
    x = RNG.integers(0, 2, size=(500, 20)).astype(np.float32)
    opposite = lambda z: z * 0 + 2

    @jax.jit
    def count(x):
        return jaxae.denoising_loss(
            key,
            IDENTITY,
            opposite,
            x,
            corrupt=corrupt,
            emphasis=(1.0, 0.0),
            reconstruction=lambda x_hat, x: jnp.ones_like(x),
        )

    found = np.asarray(count(x)).mean() / 20
    assert abs(found - share) <= 4 * np.sqrt(share * (1 - share) / x.size)


def test_emphasis_works_with_a_stochastic_encoder_and_images(key):
    @jax.jit
    def loss(images):
        return jaxae.denoising_loss(
            key,
            lambda image: image.reshape(-1),
            lambda z: z.reshape(3, 3, 1),
            images,
            corrupt=MASK,
            sample_code=jaxae.Gaussian(stddev=0.1).sample,
            emphasis=(1.0, 0.0),
            example_ndim=3,
        )

    losses = np.asarray(loss(RNG.uniform(size=(2, 3, 3, 1)).astype(np.float32)))
    assert losses.shape == (2,)
    assert (losses > 0).all()


def test_one_step_of_walkback_is_the_denoising_loss(key):
    encode, decode, x = of_width(jnp.float32)
    sample = jaxae.Gaussian(stddev=0.1).sample

    @jax.jit
    def losses(key):
        got = jaxae.walkback_loss(key, encode, decode, x, corrupt=MASK, sample=sample, steps=1)
        noise_key = jax.random.split(jax.random.split(key, 1)[0])[0]
        return got, jaxae.denoising_loss(noise_key, encode, decode, x, corrupt=MASK)

    got, want = losses(key)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_walkback_corrects_where_the_chain_went_and_not_through_it(float64, key):
    # r(x) = a x from x = 1 without noise: a, a * a against 1; the second a is only where it went
    def loss(a):
        decode = lambda z: a * z
        mean = lambda key, output: output
        common = {"corrupt": jaxae.compose(), "sample": mean, "steps": 2}
        return jaxae.walkback_loss(key, IDENTITY, decode, jnp.ones((1, 1)), **common)[0]

    a = 0.3
    value, slope = jax.jit(jax.value_and_grad(loss))(a)
    np.testing.assert_allclose(value, ((1 - a) ** 2 + (1 - a * a) ** 2) / 2, rtol=1e-12)
    np.testing.assert_allclose(slope, -(1 - a) - a * (1 - a * a), rtol=1e-12)


def test_noise_conditional_loss_of_gaussian_data_in_closed_form(key):
    # Data N(0, 1): r(x, s) = x / (1 + s^2) loses s^2 / (1 + s^2), over s^2 and log-uniform s:
    # [log s - log(1 + s^2) / 2] from low to high, over log(high / low).
    low, high, count = 0.2, 3.0, 40_000
    x = RNG.normal(size=(count, 2)).astype(np.float32)
    shrink = lambda z, stddev: z / (1 + stddev**2)
    keep = lambda x_i, stddev: x_i

    @jax.jit
    def losses(x):
        conditional = partial(jaxae.noise_conditional_loss, key, x=x, low=low, high=high)
        by_square = lambda stddev: stddev**2
        return (
            conditional(encode=keep, decode=shrink),
            conditional(encode=shrink, decode=keep),
            conditional(encode=keep, decode=shrink, weight=by_square),
        )

    loss, other, weighted = jax.device_get(losses(x))
    antiderivative = lambda s: np.log(s) - np.log(1 + s**2) / 2
    want = 2 * (antiderivative(high) - antiderivative(low)) / np.log(high / low)
    assert loss.shape == (count,)
    assert abs(float(loss.mean()) - want) < 4 * float(loss.std()) / np.sqrt(count)
    np.testing.assert_allclose(other, loss, rtol=1e-5)  # both are told the level
    # with weight s^2 it is s^4 / (1 + s^2): [s^2 - log(1 + s^2)] / 2 over log(high / low)
    antiderivative = lambda s: (s**2 - np.log(1 + s**2)) / 2
    want = 2 * (antiderivative(high) - antiderivative(low)) / np.log(high / low)
    assert abs(float(weighted.mean()) - want) < 4 * float(weighted.std()) / np.sqrt(count)


def test_gradients_of_the_new_losses(float64, key):
    encode, _, x = of_width(jnp.float64)
    sample = lambda key, output: jax.lax.stop_gradient(output)

    def walkback(w):
        decode = lambda z: w.T @ z
        common = {"corrupt": MASK, "sample": sample, "steps": 1}
        return jaxae.walkback_loss(key, encode, decode, x, **common).sum()

    def conditional(w):
        at_level = lambda x_i, stddev: jnp.tanh(w @ x_i + stddev)
        decode = lambda z, stddev: w.T @ z
        return jaxae.noise_conditional_loss(key, at_level, decode, x, low=0.1, high=1.0).sum()

    def emphasised(w):
        decode = lambda z: w.T @ z
        options = {"corrupt": MASK, "emphasis": (1.0, 0.3)}
        return jaxae.denoising_loss(key, encode, decode, x, **options).sum()

    for loss in (walkback, conditional, emphasised):
        check_grads(jax.jit(loss), (W,), order=1, modes=("rev",))


def test_emphasis_takes_reconstructions_of_images(key):
    options = {
        "corrupt": MASK,
        "example_ndim": 3,
        "reconstruction": partial(jaxae.squared_error, example_ndim=3),
    }

    @jax.jit
    def losses(images):
        arguments = key, lambda image: image.reshape(-1), lambda z: z.reshape(3, 3, 1), images
        plain = jaxae.denoising_loss(*arguments, **options)
        return plain, jaxae.denoising_loss(*arguments, **options, emphasis=(1.0, 1.0))

    plain, weighed = losses(RNG.uniform(size=(2, 3, 3, 1)).astype(np.float32))
    np.testing.assert_allclose(weighed, plain, rtol=1e-5)


@pytest.mark.parametrize("kind", ["masking", "salt"])
def test_entries_that_a_clip_leaves_alone_are_not_corrupted(kind, key):
    """Of the entries that a draw replaces also those that it replaces by themselves count."""
    noise = {"masking": jaxae.masking_noise, "salt": jaxae.salt_and_pepper_noise}[kind]
    clipped = lambda key, x: jnp.clip(noise(key, x, rate=0.5), 0, 1)
    (of_key,) = jax.random.split(key, 1)
    sevens = jnp.full(1000, 7.0)  # no value that a noise writes
    replaced = np.sum(np.asarray(jax.jit(partial(noise, rate=0.5))(of_key, sevens)) != 7)

    @jax.jit
    def count(x, alpha, beta):
        return jaxae.denoising_loss(
            key, IDENTITY, IDENTITY, x, corrupt=clipped, emphasis=(alpha, beta),
            reconstruction=lambda x_hat, x: jnp.ones_like(x),
        )[0]  # fmt: skip

    for level in (0.0, 0.5, 1.0):
        x = np.full((1, 1000), level, np.float32)
        assert (int(count(x, 1.0, 0.0)), int(count(x, 0.0, 1.0))) == (replaced, 1000 - replaced)


def test_emphasis_of_a_masking_that_is_clipped(key):
    """Half of 1000 entries of 0.5 are set to 0 and lose 0.25 each; it was 250 for all."""
    clipped = lambda key, x: jnp.clip(jaxae.masking_noise(key, x, rate=0.5), 0, 1)

    @jax.jit
    def loss(x, emphasis):
        decode = lambda z: 0 * z
        return jaxae.denoising_loss(key, IDENTITY, decode, x, corrupt=clipped, emphasis=emphasis)

    x = np.full((1, 1000), 0.5, np.float32)
    losses = [float(loss(x, emphasis)[0]) for emphasis in ((1.0, 0.0), (0.0, 1.0))]
    assert 110 < losses[0] < 140
    np.testing.assert_allclose(sum(losses), 250, rtol=1e-6)
