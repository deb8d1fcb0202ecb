"""Sparsity penalties and the k-sparse projection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

import jaxae

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_l1_is_the_sum_of_magnitudes(batch):
    code = jnp.asarray(RNG.normal(size=(*batch, 5)), jnp.float32)
    np.testing.assert_allclose(jaxae.l1_penalty(code), np.abs(code).sum(-1), rtol=1e-6)


def test_l1_gradient_is_the_sign_and_zero_at_the_kink():
    gradient = jax.grad(jaxae.l1_penalty)(jnp.array([-2.0, 0.0, 3.0]))
    np.testing.assert_array_equal(gradient, [-1.0, 0.0, 1.0])


def test_kl_by_hand():
    # unit means 0.25 and 0.5, target 0.1:
    # 0.1 ln(0.1/0.25) + 0.9 ln(0.9/0.75) + 0.1 ln(0.1/0.5) + 0.9 ln(0.9/0.5) = 0.440521
    code = jnp.array([[0.1, 0.4], [0.4, 0.6]])
    np.testing.assert_allclose(jaxae.kl_sparsity_penalty(code, target=0.1), 0.440521, atol=1e-5)


def test_kl_is_about_batch_means_and_a_scalar():
    code = jnp.asarray(RNG.uniform(0.1, 0.9, (6, 4)), jnp.float32)
    value = jaxae.kl_sparsity_penalty(code, target=0.2)
    assert value.shape == ()
    shuffled = jnp.stack([code[::-1, 0], *code[:, 1:].T], axis=1)  # same means, other pairs
    np.testing.assert_allclose(value, jaxae.kl_sparsity_penalty(shuffled, target=0.2), rtol=1e-5)
    stacked = jaxae.kl_sparsity_penalty(code.reshape(2, 3, 4), target=0.2)
    np.testing.assert_allclose(value, stacked, rtol=1e-6)


def test_kl_gradient(float64):
    code = jnp.asarray(RNG.uniform(0.1, 0.9, (5, 3)))
    penalty = jax.jit(lambda c: jaxae.kl_sparsity_penalty(c, target=0.1))
    check_grads(penalty, (code,), order=2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_kl_is_finite_at_dead_and_saturated_units_and_points_inwards(value):
    code = jnp.full((4, 2), value)
    loss, gradient = jax.value_and_grad(lambda c: jaxae.kl_sparsity_penalty(c, target=0.1))(code)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert (np.sign(gradient) == (-1 if value == 0 else 1)).all()


@pytest.mark.thorough(by_default=["float32-1e-08"])
@pytest.mark.parametrize(
    ("dtype", "target"), [("bfloat16", 0.005), ("float16", 5e-4), ("float32", 1e-8)]
)
def test_kl_has_its_zero_at_targets_below_the_rounding_step(dtype, target):
    code = jnp.full((4, 2), target, dtype)
    rho = float(code[0, 0])  # the target as the dtype holds it
    loss, gradient = jax.value_and_grad(lambda c: jaxae.kl_sparsity_penalty(c, target=rho))(code)
    np.testing.assert_allclose(loss, 0, atol=1e-9)
    np.testing.assert_allclose(gradient.astype(jnp.float32), 0, atol=1e-6)


shapes = st.sampled_from([(1,), (6,), (3, 5), (2, 3, 4)])
codes = hnp.arrays(np.float32, shapes, elements=st.floats(-9, 9, width=32))


@examples(100)
@given(codes, st.data())
def test_top_k_keeps_the_k_largest(code, data):
    k = data.draw(st.integers(1, code.shape[-1]))
    kept = np.asarray(jaxae.keep_top_k(jnp.asarray(code), k=k))
    assert kept.shape == code.shape
    assert ((kept == code) | (kept == 0)).all()
    assert ((kept != 0).sum(-1) <= k).all()
    expected = np.sort(code, -1)[..., -k:].sum(-1)
    np.testing.assert_allclose(kept.sum(-1), expected, rtol=1e-5, atol=1e-5)


def test_top_k_of_ties_keeps_exactly_k_and_all_units_is_the_identity():
    assert jaxae.keep_top_k(jnp.ones(5), k=2).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    code = jnp.array([3.0, -1.0, 2.0])
    np.testing.assert_array_equal(jaxae.keep_top_k(code, k=3), code)


def test_top_k_is_by_value_not_by_magnitude():
    assert jaxae.keep_top_k(jnp.array([-5.0, 1.0]), k=1).tolist() == [0.0, 1.0]


def test_top_k_passes_the_gradient_of_what_stays():
    gradient = jax.grad(lambda c: (jaxae.keep_top_k(c, k=2) * jnp.array([1.0, 2.0, 3.0])).sum())
    np.testing.assert_array_equal(gradient(jnp.array([5.0, 1.0, 4.0])), [1.0, 0.0, 3.0])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_is_kept(dtype):
    code = jnp.full((3, 4), 0.5, dtype)
    assert jaxae.l1_penalty(code).dtype == jnp.dtype(dtype)
    assert jaxae.keep_top_k(code, k=2).dtype == jnp.dtype(dtype)
    assert jaxae.kl_sparsity_penalty(code, target=0.1).dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("logit", [-200.0, -20.0, 20.0, 200.0])
def test_kl_gradients_are_finite_where_a_sigmoid_is_at_its_end(dtype, logit):
    penalty = lambda a: jaxae.kl_sparsity_penalty(jax.nn.sigmoid(a), target=0.1)
    gradient = jax.grad(penalty)(jnp.full((4, 2), logit, dtype))
    assert bool(jnp.isfinite(gradient).all())
    at_the_end = jnp.full((4, 2), float(logit > 0), dtype)
    gradient = jax.grad(lambda code: jaxae.kl_sparsity_penalty(code, target=0.1))(at_the_end)
    assert bool(jnp.isfinite(gradient).all())
    assert (np.sign(np.asarray(gradient, np.float32)) == np.sign(logit)).all()


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_weighted_l1_is_the_length_that_each_unit_adds(batch):
    code = jnp.asarray(RNG.normal(size=(*batch, 5)), jnp.float32)
    filters = jnp.asarray(RNG.normal(size=(5, 7)), jnp.float32)
    got = jaxae.decoder_weighted_l1_penalty(code, filters)
    lengths = np.linalg.norm(np.asarray(code)[..., None] * np.asarray(filters), axis=-1)
    np.testing.assert_allclose(got, lengths.sum(-1), rtol=1e-5)
    # longer filters and smaller codes cost the same, and filters of norm 1 are the plain L1
    scale = jnp.exp(jnp.asarray(RNG.normal(size=5), jnp.float32))
    moved = jaxae.decoder_weighted_l1_penalty(
        code / scale.reshape((1,) * len(batch) + (5,)), filters * scale[:, None]
    )
    np.testing.assert_allclose(moved, got, rtol=1e-5)
    unit = filters / jnp.linalg.norm(filters, axis=1, keepdims=True)
    plain = jaxae.decoder_weighted_l1_penalty(code, unit)
    np.testing.assert_allclose(plain, jaxae.l1_penalty(code), rtol=1e-5)


def test_weighted_l1_gradients_also_at_a_filter_of_zero(float64):
    code, filters = jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray(RNG.normal(size=(4, 6)))
    penalty = jax.jit(jaxae.decoder_weighted_l1_penalty)
    check_grads(penalty, (code, filters), order=1, modes=("rev",))
    of_filters = jax.grad(lambda w: penalty(code, w).sum())(filters.at[1].set(0))
    assert np.isfinite(of_filters).all()
    assert not of_filters[1].any()


def test_dead_units_explain_what_is_left_by_hand():
    # residual (1, 2, 3); units 1, 2, 3 are dead, the two largest of them are 3 (4.0) and 1 (2.0),
    # unit 2 is below 0; filters 1: (1, 0, 0), 3: (0, 0, 0.5): left (1 - 2, 2, 3 - 2)
    filters = jnp.array([[9.0, 9.0, 9.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    code = jnp.array([[7.0, 2.0, -1.0, 4.0], [7.0, -2.0, -1.0, -4.0]])
    is_dead = jnp.array([False, True, True, True])
    residual = jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    loss = lambda z, w, e, k, dead: jaxae.dead_unit_loss(z, lambda c: c @ w, e, is_dead=dead, k=k)
    np.testing.assert_allclose(loss(code, filters, residual, 2, is_dead), [6.0, 14.0])
    np.testing.assert_allclose(loss(code, filters, residual, 1, is_dead), [6.0 + 1 - 1, 14.0])
    nobody = loss(code, filters, residual, 2, jnp.zeros(4, bool))
    assert nobody.tolist() == [0.0, 0.0]
    total = lambda *arrays: loss(*arrays, 1, is_dead).sum()
    of_code, of_filters, of_residual = jax.grad(total, argnums=(0, 1, 2))(code, filters, residual)
    assert not of_residual.any()
    assert of_code.astype(bool).tolist() == [[False, False, False, True], [False] * 4]
    assert of_filters.any(axis=1).tolist() == [False, False, False, True]


def test_dead_unit_loss_takes_images_and_any_batch():
    filters = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    decode = lambda z: (z @ filters).reshape(2, 2)
    code = jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32)
    images = jnp.asarray(RNG.normal(size=(2, 3, 2, 2)), jnp.float32)
    is_dead = jnp.array([True, False, True, True, False])
    run = jax.jit(lambda z, e: jaxae.dead_unit_loss(z, decode, e, is_dead=is_dead, k=5))
    got = run(code, images)
    by_hand = np.maximum(np.asarray(code), 0) * np.asarray(is_dead)
    error = np.asarray(images).reshape(2, 3, 4) - by_hand @ np.asarray(filters)
    np.testing.assert_allclose(got, (error**2).sum(-1), rtol=1e-4)


def test_top_k_takes_zeros_of_either_sign_for_equal():
    code = jnp.array([0.0, -0.0, 0.0, -0.0])
    gradient = jax.grad(lambda code: jaxae.keep_top_k(code, k=2) @ jnp.arange(1.0, 5.0))(code)
    np.testing.assert_array_equal(gradient, [1, 2, 0, 0])


def test_traced_values_outside_their_range_make_kl_nan():
    kl = jax.jit(lambda code, target: jaxae.kl_sparsity_penalty(code, target=target))
    inside = jnp.array([[0.0, 1.0], [0.5, 0.5]])
    assert jnp.isfinite(kl(inside, 0.1))
    for code, target in ((inside - 0.6, 0.1), (inside * 2, 0.1), (inside, 0.0), (inside, -1.0)):
        assert jnp.isnan(kl(code, target))
