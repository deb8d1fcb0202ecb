"""Objectives: formula by parts, batch axes, images, custom parts, stochastic encoders."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxae

RNG = np.random.default_rng(7)
W = RNG.normal(size=(4, 6)).astype(np.float32)
X = RNG.uniform(size=(6, 6)).astype(np.float32)
MASK = partial(jaxae.masking_noise, rate=0.4)


def encode(x_i):
    return jax.nn.sigmoid(jnp.asarray(W) @ x_i)


def decode(z):
    return jnp.asarray(W).T @ z


OBJECTIVES = {
    "plain": lambda x: jaxae.reconstruction_loss(encode, decode, x),
    "sparse": lambda x: jaxae.sparse_loss(encode, decode, x, weight=0.2),
    "denoising": lambda x: jaxae.denoising_loss(jax.random.key(1), encode, decode, x, corrupt=MASK),
    "contractive": lambda x: jaxae.contractive_loss(encode, decode, x, weight=0.2),
    "combined": lambda x: jaxae.combined_loss(
        jax.random.key(1),
        encode,
        decode,
        x,
        corrupt=MASK,
        sparsity_weight=0.1,
        contraction_weight=0.2,
    ),
}


@pytest.mark.thorough(
    by_default=[
        "batch0-plain",
        "batch1-sparse",
        "batch2-denoising",
        "batch1-contractive",
        "batch0-combined",
    ]
)
@pytest.mark.parametrize("loss", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_shape_is_the_batch_and_jit_equals_eager(loss, batch):
    x = X[0] if batch == () else X.reshape(*batch, 6)
    got = loss(jnp.asarray(x))
    assert got.shape == batch
    np.testing.assert_allclose(jax.jit(loss)(x), got, rtol=2e-5)


@pytest.mark.parametrize("name", ["plain", "sparse", "contractive"])
def test_batch_equals_the_loop(name):
    loss = jax.jit(OBJECTIVES[name])
    np.testing.assert_allclose(loss(X), [loss(x_i) for x_i in X], rtol=1e-5)


def test_sparse_is_reconstruction_plus_weighted_penalty():
    @jax.jit
    def losses(x):
        return (
            jaxae.reconstruction_loss(encode, decode, x),
            jaxae.sparse_loss(encode, decode, x, weight=0.3),
            jaxae.sparse_loss(encode, decode, x, weight=0.3, penalty=KL),
        )

    @jax.jit
    def terms(x):
        codes = jax.vmap(encode)(x)
        x_hat = jax.vmap(decode)(codes)
        return jaxae.squared_error(x_hat, x), jaxae.l1_penalty(codes), KL(codes)

    plain, l1, kl = jax.device_get(terms(X))
    expected = plain, plain + 0.3 * l1, plain + 0.3 * kl
    for got, want in zip(losses(X), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_denoising_decodes_the_corrupted_and_compares_with_the_clean(key):
    @jax.jit
    def expected(x):
        x_noisy = jaxae.corrupt_batch(key, MASK, x)
        x_hat = jax.vmap(lambda v: decode(encode(v)))(x_noisy)
        return jaxae.squared_error(x_hat, x)

    got = jax.jit(lambda x: jaxae.denoising_loss(key, encode, decode, x, corrupt=MASK))(X)
    np.testing.assert_allclose(got, expected(X), rtol=1e-6)


def test_contractive_is_reconstruction_plus_weighted_jacobian_norm():
    @jax.jit
    def expected(x):
        jacobians = jax.vmap(jax.jacfwd(encode))(x)
        return jaxae.reconstruction_loss(encode, decode, x) + 0.3 * (jacobians**2).sum((1, 2))

    got = jax.jit(lambda x: jaxae.contractive_loss(encode, decode, x, weight=0.3))(X)
    np.testing.assert_allclose(got, expected(X), rtol=1e-5)


def test_contractive_with_hutchinson_averages_to_the_exact_one(key):
    @jax.jit
    def draws_and_exact(x):
        loss = partial(jaxae.contractive_loss, encode, decode, weight=1.0)
        return loss(x, method="hutchinson", key=key), loss(x[0])

    draws, exact = jax.device_get(draws_and_exact(np.tile(X[:1], (20_000, 1))))
    assert abs(draws.mean() - exact) < 4 * draws.std() / np.sqrt(20_000)


def test_combined_has_its_terms_at_the_corrupted_input(key):
    @jax.jit
    def loss(x):
        weights = {"sparsity_weight": 0.1, "contraction_weight": 0.2}
        return jaxae.combined_loss(key, encode, decode, x, corrupt=MASK, **weights)

    @jax.jit
    def expected(x):
        noise_key, _ = jax.random.split(key)
        x_noisy = jaxae.corrupt_batch(noise_key, MASK, x)
        codes = jax.vmap(encode)(x_noisy)
        return (
            jaxae.squared_error(jax.vmap(decode)(codes), x)
            + 0.1 * jaxae.l1_penalty(codes)
            + 0.2 * jaxae.contractive_penalty(encode, x_noisy)
        )

    np.testing.assert_allclose(loss(X), expected(X), rtol=1e-5)


def test_weights_may_be_traced_and_a_sweep_compiles_once():
    x, traces = jnp.asarray(X), 0

    @jax.jit
    def loss(weight):
        nonlocal traces
        traces += 1
        return jaxae.sparse_loss(encode, decode, x, weight=weight).mean()

    values = [float(loss(weight)) for weight in (0.0, 0.5, 1.0)]
    assert traces == 1
    np.testing.assert_allclose(values[2] - values[1], values[1] - values[0], rtol=1e-4)
    swept = jax.vmap(lambda w: jaxae.contractive_loss(encode, decode, x, weight=w).mean())
    assert jax.jit(swept)(jnp.array([0.0, 1.0])).shape == (2,)


def test_stochastic_encoder_draws_one_code_per_example(key):
    @jax.jit
    def loss(x):
        return jaxae.denoising_loss(
            key,
            encode,
            decode,
            x,
            corrupt=jaxae.compose(),
            sample_code=jaxae.Gaussian(stddev=0.5).sample,
        )

    assert len(np.unique(loss(np.tile(X[:1], (500, 1))))) > 490


def test_learned_gaussian_encoder_trains_its_spread(key):
    weights = RNG.normal(size=(8, 6)).astype(np.float32)  # 4 means and 4 log stddevs

    def loss(w):
        return jaxae.denoising_loss(
            key,
            lambda x_i: w @ x_i,
            decode,
            jnp.asarray(X),
            corrupt=MASK,
            sample_code=jaxae.DiagonalGaussian().sample,
        ).mean()

    gradient = np.asarray(jax.jit(jax.grad(loss))(weights))
    assert np.abs(gradient[4:]).max() > 1e-3


@pytest.mark.thorough
def test_images_with_a_convolutional_model(key):
    images = RNG.uniform(size=(3, 8, 8, 1)).astype(np.float32)
    model = jaxae.ConvAutoencoder((8, 8, 1), code_dim=5, channels=(4,), code_activation=jnp.tanh)
    init, conv_encode, conv_decode = jaxae.as_functions(model)
    bernoulli = {"reconstruction": jaxae.bernoulli_nll, "example_ndim": 3}

    @jax.jit
    def losses(images):
        params = init(key)
        f = partial(conv_encode, params), partial(conv_decode, params)
        return (
            jaxae.reconstruction_loss(*f, images, example_ndim=3),
            jaxae.sparse_loss(*f, images, weight=0.1, example_ndim=3),
            jaxae.denoising_loss(key, *f, images, corrupt=MASK, example_ndim=3),
            jaxae.contractive_loss(*f, images, weight=0.1, example_ndim=3),
            jaxae.reconstruction_loss(*f, images, **bernoulli),
        )

    for loss in losses(images):
        assert loss.shape == (3,)
        assert np.isfinite(loss).all()


def test_gradients_in_float64(key, float64):
    weights = RNG.normal(size=(4, 6))
    x = jnp.asarray(RNG.uniform(size=(3, 6)))

    def loss(w):
        return jaxae.combined_loss(
            key,
            lambda v: jnp.tanh(w @ v),
            lambda z: w.T @ z,
            x,
            corrupt=partial(jaxae.gaussian_noise, stddev=0.1),
            sparsity_weight=0.3,
            contraction_weight=0.2,
        ).mean()

    check_grads(jax.jit(loss), (weights,), order=1, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_follows_the_input(dtype, key):
    w = jnp.asarray(W, dtype)
    f = (lambda v: w @ v), (lambda z: w.T @ z)

    @jax.jit
    def losses(x):
        return (
            jaxae.sparse_loss(*f, x, weight=0.1),
            jaxae.denoising_loss(key, *f, x, corrupt=MASK),
            jaxae.contractive_loss(*f, x, weight=0.1),
        )

    assert [loss.dtype for loss in losses(jnp.asarray(X, dtype))] == [jnp.dtype(dtype)] * 3


PIXELS = RNG.integers(0, 256, (4, 6)).astype(np.float32)
PIXELS[0, 0] = 255
BELOW_0 = X.copy()
BELOW_0[3, 1] = -0.5
KL = partial(jaxae.kl_sparsity_penalty, target=0.1)
WRONG = {
    "pixels of 0 to 255": (
        lambda x, weight: jaxae.reconstruction_loss(
            encode, decode, x, reconstruction=jaxae.bernoulli_nll
        ),
        (PIXELS, 1.0),
        "x must be at most 1, but .* of its values are above .in example 0",
    ),
    "pixels of -1 to 1": (
        lambda x, weight: jaxae.denoising_loss(
            jax.random.key(0), encode, decode, x, corrupt=MASK,
            reconstruction=lambda logits, x: -jaxae.Bernoulli().log_prob(logits, x),
        ),
        (BELOW_0, 1.0),
        "x must be at least 0, but 1 of its values are below .in example 3",
    ),
    "relu code": (
        lambda x, weight: jaxae.sparse_loss(
            lambda x_i: jax.nn.relu(9 * jnp.asarray(W) @ x_i), decode, x, weight=weight, penalty=KL
        ),
        (X, 1.0),
        "code must be at most 1",
    ),
    "tanh code": (
        lambda x, weight: jaxae.sparse_loss(
            lambda x_i: jnp.tanh(jnp.asarray(W) @ x_i), decode, x, weight=weight, penalty=KL
        ),
        (X, 1.0),
        "code must be at least 0",
    ),
    "negative weight": (
        lambda x, weight: jaxae.sparse_loss(encode, decode, x, weight=weight),
        (X, -1.0),
        "weight must be a finite number of at least 0, but it is -1",
    ),
    "negative emphasis": (
        lambda x, weight: jaxae.denoising_loss(
            jax.random.key(0), encode, decode, x, corrupt=MASK, emphasis=(weight, 1.0)
        ),
        (X, -1.0),
        "emphasis alpha must be a finite number of at least 0, but it is -1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_value_outside_its_range_is_an_error_or_nan(name):
    """Traced it cannot be seen: then the loss is NaN, and finite for a value that is right."""
    loss, (x, weight), message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        loss(jnp.asarray(x), weight)
    traced = jax.jit(lambda x, weight: loss(x, weight).sum())
    assert np.isnan(traced(x, weight))
    if "code" not in name:
        assert np.isfinite(traced(X, 1.0))


def test_targets_that_are_constants_of_a_compiled_function_are_checked_too():
    pixels = jnp.asarray(PIXELS)
    loss = lambda scale: jaxae.reconstruction_loss(
        encode, lambda z: scale * decode(z), pixels, reconstruction=jaxae.bernoulli_nll
    )
    with pytest.raises(ValueError, match="x must be at most 1"):
        jax.jit(loss)(1.0)


def test_the_check_of_a_compiled_step_is_a_select_that_fuses():
    """Beside the formula there are comparisons, selects and additions of entries: no reduction,
    no loop and no call of the host."""

    def formula(params, x):
        logits = x @ params
        on, off = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return -jnp.sum(x * on + (1 - x) * off)

    loss = lambda params, x: jaxae.bernoulli_nll(x @ params, x).sum(0)
    counts = []
    for function in (formula, loss):
        text = jax.jit(jax.grad(function)).lower(jnp.ones((6, 6)), X).as_text()
        words = [word for word in text.split() if word.startswith("stablehlo.")]
        counts.append({word: words.count(word) for word in set(words)})
    before, after = counts
    added = {w: n - before.get(w, 0) for w, n in after.items() if n > before.get(w, 0)}
    elementwise = [
        "compare",
        "and",
        "select",
        "add",
        "subtract",
        "constant",
        "broadcast_in_dim",
        "convert",
    ]
    assert added.keys() <= {f"stablehlo.{word}" for word in elementwise}, added
    assert sum(added.get(f"stablehlo.{word}", 0) for word in ("compare", "select", "add")) <= 6
