"""The closed-form linear denoiser: least squares, rank, degenerate data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxae

RNG = np.random.default_rng(12)
CLEAN = RNG.normal(size=(200, 5)) @ RNG.normal(size=(5, 5)) + 3.0
NOISY = np.clip(CLEAN + RNG.uniform(-2, 2, CLEAN.shape), 0, 6)  # noise that depends on the data


fit = jax.jit(jaxae.fit_linear_denoiser)
moments = jax.jit(jaxae.pair_moments)
merge = jax.jit(jaxae.PairMoments.merged)
denoiser_of = jax.jit(jaxae.PairMoments.denoiser)


@partial(jax.jit, static_argnames="rank")
def reconstruct(best, x_noisy, rank):
    return best(x_noisy, rank=rank)


def mse(best, rank):
    return np.mean((np.asarray(reconstruct(best, NOISY, rank)) - CLEAN) ** 2)


def test_full_rank_is_least_squares(float64):
    best = fit(NOISY, CLEAN)
    design = np.concatenate([NOISY, np.ones((200, 1))], axis=1)
    fitted = design @ np.linalg.lstsq(design, CLEAN, rcond=None)[0]
    np.testing.assert_allclose(reconstruct(best, NOISY, 5), fitted, atol=1e-9)


@pytest.mark.thorough(by_default=["2"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_other_map_of_that_rank_is_better(rank, float64):
    best = fit(NOISY, CLEAN)
    code = best.encode(jnp.asarray(NOISY), rank=rank)
    assert code.shape == (200, rank)
    noisy, clean = NOISY - NOISY.mean(0), CLEAN - CLEAN.mean(0)

    def loss(flat):
        down, up = flat[: 5 * rank].reshape(5, rank), flat[5 * rank :].reshape(rank, 5)
        residual = noisy @ down @ up - clean
        into_up = 2 * (noisy @ down).T @ residual / residual.size
        into_down = 2 * noisy.T @ residual @ up.T / residual.size
        return np.mean(residual**2), np.concatenate([into_down.ravel(), into_up.ravel()])

    found = min(
        scipy.optimize.minimize(loss, RNG.normal(size=10 * rank), jac=True).fun for _ in range(5)
    )
    np.testing.assert_allclose(mse(best, rank), found, rtol=1e-6)


def test_error_falls_with_the_rank_and_a_rank_beyond_d_is_d(float64):
    best = fit(NOISY, CLEAN)
    errors = [mse(best, rank) for rank in range(1, 6)]
    assert errors == sorted(errors, reverse=True)
    assert mse(best, 100) == errors[-1]


def test_constant_pixels_do_no_harm():
    clean = np.concatenate([CLEAN, np.full((200, 2), 0.5)], axis=1).astype(np.float32)
    noisy = np.concatenate([NOISY, np.zeros((200, 2))], axis=1).astype(np.float32)
    x_hat = np.asarray(reconstruct(fit(noisy, clean), noisy, 7))
    assert np.isfinite(x_hat).all()
    np.testing.assert_allclose(x_hat[:, 5:], 0.5, atol=1e-4)


def test_pieces_of_the_data_add_up_to_the_whole():
    # far from 0, where sums of squares that are not about the mean would lose their digits
    noisy, clean = ((x + 1000).astype(np.float32) for x in (NOISY, CLEAN))
    cuts = (slice(7), slice(7, 150), slice(150, 151), slice(151, None))
    parts = [moments(noisy[cut], clean[cut]) for cut in cuts]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    whole = moments(noisy, clean)
    for found, expected in zip(merged, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)
    expected = reconstruct(fit(noisy, clean), noisy, 2)
    found = reconstruct(denoiser_of(merged), noisy, 2)
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_pieces_add_up_exactly(float64):
    merged = merge(moments(NOISY[:3], CLEAN[:3]), moments(NOISY[3:], CLEAN[3:]))
    for found, expected in zip(merged, moments(NOISY, CLEAN), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.thorough(by_default=["20"])
@pytest.mark.parametrize("pairs", [2, 7, 20])
def test_few_pairs_of_many_features_give_the_same_map(pairs, float64):
    """The n x n problem against the d x d one, which ``pair_moments`` always solves."""
    clean = RNG.normal(size=(pairs, 40))
    noisy = clean + 0.3 * RNG.normal(size=clean.shape)
    best = fit(noisy, clean)
    expected = denoiser_of(moments(noisy, clean))
    np.testing.assert_allclose(best.gain, expected.gain, atol=1e-10)
    basis = np.asarray(best.basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(40), atol=1e-12)
    unseen = RNG.normal(size=(5, 40))
    for rank in (1, pairs - 1, pairs, 40):
        np.testing.assert_allclose(
            reconstruct(best, unseen, rank),
            reconstruct(expected, unseen, rank),
            atol=1e-9,
            err_msg=str(rank),
        )


def test_few_pairs_with_constant_and_repeated_rows_do_no_harm():
    clean = np.concatenate([np.ones((4, 30)), RNG.normal(size=(1, 30))]).astype(np.float32)
    best = fit(clean, clean)
    np.testing.assert_allclose(reconstruct(best, clean, 1), clean, atol=1e-4)
    constant = np.ones((3, 30), np.float32)
    np.testing.assert_allclose(reconstruct(fit(constant, constant), constant, 2), 1)
