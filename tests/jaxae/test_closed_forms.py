"""Exact ground truths about regularised autoencoders, in float64.

S is the data covariance with eigenvalues l, noise is N(0, s^2 I), squared errors are summed
over the features. Expectations over noise are exact, not sampled: for a linear map the 2 d
points +- s sqrt(d) e_j have the mean and covariance of the noise; masks are enumerated. Every
loss goes through the public objectives.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae

pytestmark = pytest.mark.usefixtures("float64")
RNG = np.random.default_rng(4)
D, N = 4, 60
_MIX = np.linalg.qr(RNG.normal(size=(D, D)))[0] * np.array([2.0, 1.2, 0.7, 0.3])
DATA = RNG.normal(size=(N, D)) @ _MIX.T
DATA -= DATA.mean(0)
S = DATA.T @ DATA / N
LAMBDA, VECTORS = (a[..., ::-1] for a in np.linalg.eigh(S))  # largest first
STDDEV = 0.6


def minimise(loss, params, steps=300):
    """Returns the parameters after ``steps`` of L-BFGS and the norm of the gradient there."""

    @jax.jit
    def run(params):
        found = jaxae.minimize(loss, params, jaxae.lbfgs(), steps=steps).params
        return found, optax.tree.norm(jax.grad(loss)(found))

    return jax.device_get(run(params))


def linear_code(w, x_i):
    return w @ x_i


def sigma_points(stddev, d):
    """Returns 2 d equally likely points with mean 0 and covariance stddev^2 I."""
    points = np.sqrt(d) * stddev * np.eye(d)
    return np.concatenate([points, -points])


def exact_denoising(encode, decode, x, stddev):
    """Returns the denoising loss averaged exactly over noise, for linear maps."""
    key = jax.random.key(0)
    shifted = lambda e: jaxae.denoising_loss(key, encode, decode, x, corrupt=lambda _, v: v + e)
    return jax.vmap(shifted)(sigma_points(stddev, x.shape[-1])).mean()


def pair(params):
    """Returns the linear encoder and decoder of ``{"enc": (k, d), "dec": (d, k)}``."""
    return partial(linear_code, params["enc"]), partial(linear_code, params["dec"])


def random_pair(k, scale=0.5):
    return {
        "enc": RNG.normal(size=(k, D)) * scale,
        "dec": RNG.normal(size=(D, k)) * scale,
    }


# 2.1 Linear denoising autoencoders.


@pytest.mark.thorough(by_default=["3"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_linear_dae_learns_the_shrunk_principal_axes(k):
    x = jnp.asarray(DATA)
    loss = jax.jit(lambda params: exact_denoising(*pair(params), x, STDDEV))
    params, gradient = minimise(loss, random_pair(k))
    assert gradient < 1e-7
    gain = LAMBDA / (LAMBDA + STDDEV**2)
    kept = np.arange(D) < k
    expected = VECTORS @ np.diag(gain * kept) @ VECTORS.T
    np.testing.assert_allclose(params["dec"] @ params["enc"], expected, atol=1e-6)
    minimum = np.sum(np.where(kept, gain * STDDEV**2, LAMBDA))
    np.testing.assert_allclose(loss(params), minimum, rtol=1e-9)


def test_closed_form_linear_denoiser_is_that_map():
    # All sigma points of all examples as pairs: the covariances are exact.
    noise = sigma_points(STDDEV, D)
    clean = np.repeat(DATA, 2 * D, axis=0)
    noisy = clean + np.tile(noise, (N, 1))

    @jax.jit
    def reconstruct(noisy, clean, x):
        best = jaxae.fit_linear_denoiser(noisy, clean)
        return [best(x, rank=k) for k in range(1, D + 1)]

    for k, found in enumerate(reconstruct(noisy, clean, DATA), start=1):
        gain = np.where(np.arange(D) < k, LAMBDA / (LAMBDA + STDDEV**2), 0)
        expected = DATA @ (VECTORS * gain) @ VECTORS.T
        np.testing.assert_allclose(found, expected, atol=1e-10)


# 2.2 The optimal reconstruction knows the score.


def test_score_of_gaussian_data_is_that_of_the_smoothed_density():
    mean, noise = RNG.normal(size=D), STDDEV**2 * np.eye(D)
    gain = S @ np.linalg.inv(S + noise)  # E[x | y] - mean = gain (y - mean)
    encode = lambda y: jnp.asarray(gain) @ (y - jnp.asarray(mean))
    decode = lambda z: z + jnp.asarray(mean)
    y = RNG.normal(size=(10, D))
    got = jax.jit(lambda y: jaxae.score_estimate(encode, decode, y, stddev=STDDEV))(y)
    expected = -(y - mean) @ np.linalg.inv(S + noise)
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    jacobian = jax.jit(jax.jacfwd(lambda v: decode(encode(v))))(y[0])
    posterior = S - S @ np.linalg.inv(S + noise) @ S
    np.testing.assert_allclose(jacobian, posterior / STDDEV**2, rtol=1e-10)


# 2.4, 2.5 Contractive autoencoders in closed form.


@pytest.mark.thorough
def test_contractive_reconstruction_equals_denoising_with_variance_lambda():
    x, weight = jnp.asarray(DATA), STDDEV**2
    identity = lambda z: z

    def loss(r):
        reconstruct = partial(linear_code, r)
        return jaxae.contractive_loss(reconstruct, identity, x, weight=weight).mean()

    r, gradient = minimise(loss, RNG.normal(size=(D, D)))
    assert gradient < 1e-7
    np.testing.assert_allclose(r, S @ np.linalg.inv(S + weight * np.eye(D)), atol=1e-7)


def test_tied_linear_cae_keeps_directions_by_their_variance():
    x, weight = jnp.asarray(DATA), 0.9

    def loss(w):
        encode, decode = partial(linear_code, w), partial(linear_code, w.T)
        return jaxae.contractive_loss(encode, decode, x, weight=weight).mean()

    w, gradient = minimise(loss, RNG.normal(size=(D, D)) * 0.5, steps=600)
    assert gradient < 1e-6
    squared_gains = np.maximum(0, 1 - weight / (2 * LAMBDA))
    assert 0 < (squared_gains > 0).sum() < D  # some directions die
    np.testing.assert_allclose(w.T @ w, VECTORS @ np.diag(squared_gains) @ VECTORS.T, atol=2e-5)


# 2.6 is about untied weights: the penalty is lowered for free.


def test_untied_cae_shrinks_for_free_and_tied_does_not():
    x, weight = jnp.asarray(DATA), 0.1
    params = random_pair(2)
    smaller = {"enc": params["enc"] * 1e-3, "dec": params["dec"] * 1e3}

    @jax.jit
    def losses(params):
        plain = jaxae.reconstruction_loss(*pair(params), x)
        return plain, jaxae.contractive_loss(*pair(params), x, weight=weight)

    plain, contractive = jax.device_get(losses(params))
    plain_of_smaller, contractive_of_smaller = jax.device_get(losses(smaller))
    np.testing.assert_allclose(plain_of_smaller, plain, rtol=1e-9)
    np.testing.assert_allclose(
        contractive_of_smaller - plain, 1e-6 * (contractive - plain), rtol=1e-3
    )


# 2.7 Linear autoencoders are PCA.


@pytest.mark.thorough(by_default=["2"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_linear_autoencoder_is_pca(k):
    x = jnp.asarray(DATA)
    loss = jax.jit(lambda params: jaxae.reconstruction_loss(*pair(params), x).mean())
    params, gradient = minimise(loss, random_pair(k))
    assert gradient < 1e-7
    np.testing.assert_allclose(loss(params), LAMBDA[k:].sum(), rtol=1e-9)
    span = np.linalg.qr(params["dec"])[0]
    cosines = np.linalg.svd(span.T @ VECTORS[:, :k], compute_uv=False)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-9)
    without_noise = jax.jit(lambda x: jaxae.fit_linear_denoiser(x, x)(x, rank=k))(x)
    np.testing.assert_allclose(without_noise, DATA @ VECTORS[:, :k] @ VECTORS[:, :k].T, atol=1e-9)


# 2.8 Masking noise and a linear map.


@pytest.mark.thorough
def test_masking_noise_has_the_closed_form_of_the_marginalised_denoiser():
    keep = 0.7
    x = jnp.asarray(DATA + np.array([1.0, -0.5, 0.3, 2.0]))  # a mean, so that the bias matters
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=D)))
    probabilities = jnp.asarray(keep ** masks.sum(1) * (1 - keep) ** (D - masks.sum(1)))
    key = jax.random.key(0)

    def loss(params):
        encode, decode = (lambda v: params["w"] @ v + params["b"]), (lambda z: z)
        masked = lambda mask: jaxae.denoising_loss(
            key, encode, decode, x, corrupt=lambda _, v: v * mask
        )
        return jnp.sum(probabilities[:, None] * jax.vmap(masked)(jnp.asarray(masks))) / N

    params, gradient = minimise(loss, {"w": np.zeros((D, D)), "b": np.zeros(D)})
    assert gradient < 1e-7
    rows = np.concatenate([np.asarray(x).T, np.ones((1, N))])  # a bias row that is never masked
    q = np.array([keep] * D + [1.0])
    scatter = rows @ rows.T
    big_q = scatter * np.outer(q, q)
    np.fill_diagonal(big_q, q * np.diag(scatter))
    expected = (scatter * q)[:D] @ np.linalg.inv(big_q)
    got = np.concatenate([params["w"], params["b"][:, None]], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_masking_noise_draws_those_masks(key):
    corrupt = partial(jaxae.masking_noise, rate=0.3)
    draw = jax.jit(lambda key: jaxae.corrupt_batch(key, corrupt, jnp.ones((20_000, 2))))
    share = (np.asarray(draw(key)) == [1.0, 0.0]).all(1).mean()
    assert abs(share - 0.7 * 0.3) < 4 * np.sqrt(0.21 * 0.79 / 20_000)


# 2.9 Noise inside a linear decoder is a penalty.

NOTHING = jaxae.compose()


def test_noise_on_the_code_adds_the_squared_norm_of_the_decoder():
    x, params, stddev = jnp.asarray(DATA), random_pair(3), 0.4
    encode, decode = pair(params)
    key = jax.random.key(0)
    noisy = lambda e: jaxae.denoising_loss(
        key, encode, decode, x, corrupt=NOTHING, sample_code=lambda _, z: z + e
    )

    @jax.jit
    def losses(points):
        return jax.vmap(noisy)(points).mean(0), jaxae.reconstruction_loss(encode, decode, x)

    got, plain = jax.device_get(losses(sigma_points(stddev, 3)))
    expected = plain + stddev**2 * np.sum(params["dec"] ** 2)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.thorough
def test_sampled_gaussian_encoder_has_that_mean(key):
    params, stddev = random_pair(3), 0.4
    encode, decode = pair(params)
    x = np.tile(DATA[:1], (50_000, 1))
    sampler = jaxae.Gaussian(stddev).sample

    @jax.jit
    def losses(x):
        draws = jaxae.denoising_loss(key, encode, decode, x, corrupt=NOTHING, sample_code=sampler)
        return draws, jaxae.reconstruction_loss(encode, decode, x[0])

    draws, plain = jax.device_get(losses(x))
    expected = plain + stddev**2 * np.sum(params["dec"] ** 2)
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(50_000)


def test_dropout_on_the_code_adds_a_weighted_norm():
    x, params, p = jnp.asarray(DATA), random_pair(3), 0.25
    encode, decode = pair(params)
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    probabilities = (1 - p) ** masks.sum(1) * p ** (3 - masks.sum(1))
    dropped = lambda mask: jaxae.denoising_loss(
        jax.random.key(0),
        encode,
        decode,
        x,
        corrupt=NOTHING,
        sample_code=lambda _, z: z * mask / (1 - p),
    )

    @jax.jit
    def losses(masks):
        return jax.vmap(dropped)(masks), jaxae.reconstruction_loss(encode, decode, x)

    of_masks, plain = jax.device_get(losses(masks))
    got = probabilities @ of_masks
    codes = DATA @ params["enc"].T
    norms = np.sum(params["dec"] ** 2, axis=0)  # ||w_j||^2
    expected = plain + p / (1 - p) * codes**2 @ norms
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.thorough
def test_small_noise_before_the_activation_is_the_contractive_penalty_when_tied():
    w, stddev = RNG.normal(size=(3, D)), 1e-4
    x = DATA[:5]
    pre, decode = partial(linear_code, w), partial(linear_code, w.T)
    encode = lambda v: jnp.tanh(pre(v))

    def noisy(e):
        sample = lambda _, a: jnp.tanh(a + e)
        return jaxae.denoising_loss(
            jax.random.key(0), pre, decode, jnp.asarray(x), corrupt=NOTHING, sample_code=sample
        )

    @jax.jit
    def losses(x, points):
        plain = jaxae.reconstruction_loss(encode, decode, x)
        return jax.vmap(noisy)(points).mean(0) - plain, jaxae.contractive_penalty(encode, x)

    added, penalty = jax.device_get(losses(x, sigma_points(stddev, 3)))
    added = added / stddev**2
    # To second order in the noise the curvature of f adds <residual, W_dec f''>, beside
    # sum_j f'(a_j)^2 ||w_j||^2; the identity is about the latter.
    codes = np.tanh(x @ w.T)
    slope = 1 - codes**2
    curvature = -2 * codes * slope
    residual = codes @ w - x
    bend = np.sum((residual @ w.T) * curvature, axis=-1)
    by_hand = np.sum(slope**2 * np.sum(w**2, axis=1), axis=-1)
    np.testing.assert_allclose(penalty, by_hand, rtol=1e-10)
    np.testing.assert_allclose(added, penalty + bend, rtol=1e-4)


# 2.10 One layer.


@pytest.mark.thorough(by_default=["auto-tanh", "jacfwd-relu", "jacrev-softplus", "auto-<lambda>"])
@pytest.mark.parametrize("f", [jnp.tanh, jax.nn.sigmoid, jax.nn.relu, jax.nn.softplus, lambda a: a])
@pytest.mark.parametrize("method", ["auto", "jacfwd", "jacrev"])
def test_one_layer_penalty_is_slopes_times_column_norms(f, method):
    w, b = RNG.normal(size=(6, D)), RNG.normal(size=6)
    encode = lambda x_i: f(jnp.asarray(w) @ x_i + jnp.asarray(b))

    @jax.jit
    def penalty_and_slopes(x, activations):
        penalty = jaxae.contractive_penalty(encode, x, method=method)
        return penalty, jax.vmap(jax.vmap(jax.grad(f)))(activations)

    got, slopes = jax.device_get(penalty_and_slopes(DATA, DATA @ w.T + b))
    expected = slopes**2 @ (w**2).sum(1)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


# 2.11 Sparsity.


def test_kl_is_zero_with_zero_gradient_at_the_target():
    code = np.array([[0.05, 0.2], [0.15, 0.0]])  # means 0.1 and 0.1
    penalty = jax.jit(jax.value_and_grad(lambda c: jaxae.kl_sparsity_penalty(c, target=0.1)))
    value, gradient = penalty(code)
    np.testing.assert_allclose(value, 0.0, atol=1e-15)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-14)
    assert float(penalty(code + 0.01)[0]) > 1e-4


def test_l1_with_an_orthonormal_decoder_soft_thresholds_at_half_the_weight():
    basis = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    x, weight = jnp.asarray(DATA[:8]), 0.8
    coefficients = DATA[:8] @ basis
    expected = np.sign(coefficients) * np.maximum(np.abs(coefficients) - weight / 2, 0)
    assert 0 < (expected == 0).sum() < expected.size

    # The code is the free variable here: encode returns it, whatever the input.
    def loss(code_i, x_i):
        return jaxae.sparse_loss(lambda _: code_i, lambda z: basis @ z, x_i, weight=weight)

    total = lambda codes: jax.vmap(loss)(codes, x).sum()
    # Proximal gradient with step 1/2 solves it in one step from anywhere (orthonormal basis).
    smooth = lambda codes: total(codes) - weight * jnp.abs(codes).sum()
    start = RNG.normal(size=(8, D))
    moved = start - np.asarray(jax.jit(jax.grad(smooth))(start)) / 2
    solved = np.sign(moved) * np.maximum(np.abs(moved) - weight / 2, 0)
    np.testing.assert_allclose(solved, expected, atol=1e-12)
    # and nothing near it is better.
    near = expected + 1e-3 * RNG.normal(size=(50, 8, D))
    best, *others = np.asarray(jax.jit(jax.vmap(total))(np.stack([expected, *near])))
    assert (best <= others).all()


def test_top_k_with_an_orthonormal_decoder_hard_thresholds():
    basis = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    coefficients = np.abs(DATA[:8] @ basis)  # non-negative, so that largest is largest magnitude
    kept = np.asarray(jaxae.keep_top_k(jnp.asarray(coefficients), k=2))
    best = min(
        (
            (coefficients[:, list(rest)] ** 2).sum(1)
            for rest in itertools.combinations(range(D), D - 2)
        ),
        key=lambda losses: losses.sum(),
    )
    losses = ((coefficients - kept) ** 2).sum(1)
    assert (losses <= best + 1e-12).all()
    smallest = np.sort(coefficients, 1)[:, : D - 2]
    np.testing.assert_allclose(losses, (smallest**2).sum(1), rtol=1e-12)


def test_straight_through_gradients_are_those_of_the_expected_loss():
    """Pre-activations uniform on [0, 2], so with density 1/2, and a threshold of 1.2."""
    weight, density, theta = 0.7, 0.5, 1.2
    cells = 20_000  # the windows end where cells end, so their middles make exact integrals
    z = jnp.asarray((np.arange(cells) + 0.5) * 2 / cells)[:, None]

    def means(threshold, bandwidth):
        code = jaxae.jump_relu(z, threshold, bandwidth=bandwidth)
        count = jaxae.step_l0_penalty(z, threshold, bandwidth=bandwidth)
        error = jaxae.squared_error(code, z)
        return jnp.stack([code.mean(), count.mean(), (error + weight * count).mean()])

    slopes = jax.jit(jax.jacrev(means))
    # E[z H(z - t)] = (4 - t^2) / 4, E[H(z - t)] = 1 - t / 2, and the error is E[z^2 H(t - z)].
    expected = lambda t: jnp.stack([(4 - t**2) / 4, 1 - t / 2, t**3 / 6 + weight * (1 - t / 2)])
    true = jax.jacfwd(expected)(theta)
    np.testing.assert_allclose(true[0], -theta * density, rtol=1e-12)  # -0.6
    for bandwidth in (0.1, 0.4):
        got = slopes(jnp.array([theta]), bandwidth)[:, 0]
        np.testing.assert_allclose(got[:2], true[:2], rtol=1e-9)
        # Of the error only the half of the window below the threshold counts, where z is smaller.
        bias = -theta * density * bandwidth / 4
        np.testing.assert_allclose(got[2], true[2] + bias, rtol=1e-7)


# 2.12 Variance of the Hutchinson estimator.


@pytest.mark.thorough(by_default=["rademacher"])
@pytest.mark.parametrize("probes", ["gaussian", "rademacher"])
def test_variance_of_the_estimator(key, probes):
    w = RNG.normal(size=(3, D))
    a = w @ w.T  # the probes are on the side of the code, which is smaller
    variance = 2 * np.sum(a**2)
    if probes == "rademacher":
        variance -= 2 * np.sum(np.diag(a) ** 2)
    n = 100_000

    @jax.jit
    def draw(key):
        encode, x = (lambda x_i: jnp.asarray(w) @ x_i), jnp.zeros((n, D))
        options = {"method": "hutchinson", "probes": probes}
        return jaxae.contractive_penalty(encode, x, key=key, **options)

    draws = np.asarray(draw(key))
    assert abs(draws.mean() - np.trace(a)) < 4 * np.sqrt(variance / n)
    fourth = np.mean((draws - draws.mean()) ** 4)
    assert abs(draws.var() - variance) < 4 * np.sqrt((fourth - variance**2) / n)


# 2.13 Strength 0 gives the plain autoencoder.

OFF = {
    "sparse": lambda key, *f: jaxae.sparse_loss(*f, weight=0.0),
    "kl sparse": lambda key, *f: jaxae.sparse_loss(
        lambda v: jax.nn.sigmoid(f[0](v)),
        f[1],
        f[2],
        weight=0.0,
        penalty=partial(jaxae.kl_sparsity_penalty, target=0.1),
    ),
    "contractive": lambda key, *f: jaxae.contractive_loss(*f, weight=0.0),
    "masking": lambda key, *f: jaxae.denoising_loss(
        key, *f, corrupt=partial(jaxae.masking_noise, rate=0.0)
    ),
    "gaussian": lambda key, *f: jaxae.denoising_loss(
        key, *f, corrupt=partial(jaxae.gaussian_noise, stddev=0.0)
    ),
    "uniform": lambda key, *f: jaxae.denoising_loss(
        key, *f, corrupt=partial(jaxae.uniform_noise, scale=0.0)
    ),
    "salt and pepper": lambda key, *f: jaxae.denoising_loss(
        key, *f, corrupt=partial(jaxae.salt_and_pepper_noise, rate=0.0)
    ),
    "combined": lambda key, *f: jaxae.combined_loss(key, *f, corrupt=NOTHING),
    "k-sparse with all units": lambda key, encode, decode, x: jaxae.reconstruction_loss(
        lambda v: jaxae.keep_top_k(encode(v), k=3), decode, x
    ),
}


@pytest.mark.thorough(by_default=["sparse", "contractive", "gaussian", "combined"])
@pytest.mark.parametrize("kind", OFF)
def test_strength_zero_is_the_plain_autoencoder_in_value_and_gradient(key, kind):
    x, params = jnp.asarray(DATA[:7]), random_pair(3)

    def regularised(params):
        encode, decode = pair(params)
        return OFF[kind](key, encode, decode, x).mean()

    def plain(params):
        encode, decode = pair(params)
        squash = jax.nn.sigmoid if kind == "kl sparse" else lambda z: z
        return jaxae.reconstruction_loss(lambda v: squash(encode(v)), decode, x).mean()

    value, gradient = jax.jit(jax.value_and_grad(regularised))(params)
    expected_value, expected_gradient = jax.jit(jax.value_and_grad(plain))(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    for name in params:
        np.testing.assert_allclose(gradient[name], expected_gradient[name], rtol=1e-9, atol=1e-12)
