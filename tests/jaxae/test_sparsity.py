"""Sparsity penalties and the k-sparse projection."""

from functools import partial

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


@jax.jit
def kl_penalty(code, target):
    return jaxae.kl_sparsity_penalty(code, target=target)


kl_with_gradient = jax.jit(jax.value_and_grad(kl_penalty))
keep_top_k = jax.jit(jaxae.keep_top_k, static_argnames="k")


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_l1_is_the_sum_of_magnitudes(batch):
    code = RNG.normal(size=(*batch, 5)).astype(np.float32)
    found = jax.jit(jaxae.l1_penalty)(code)
    np.testing.assert_allclose(found, np.abs(code).sum(-1), rtol=1e-6)


def test_l1_gradient_is_the_sign_and_zero_at_the_kink():
    gradient = jax.jit(jax.grad(jaxae.l1_penalty))(np.array([-2, 0, 3], np.float32))
    np.testing.assert_array_equal(gradient, [-1.0, 0.0, 1.0])


def test_kl_by_hand():
    # unit means 0.25 and 0.5, target 0.1:
    # 0.1 ln(0.1/0.25) + 0.9 ln(0.9/0.75) + 0.1 ln(0.1/0.5) + 0.9 ln(0.9/0.5) = 0.440521
    code = np.array([[0.1, 0.4], [0.4, 0.6]], np.float32)
    np.testing.assert_allclose(kl_penalty(code, 0.1), 0.440521, atol=1e-5)


def test_kl_is_about_batch_means_and_a_scalar():
    code = RNG.uniform(0.1, 0.9, (6, 4)).astype(np.float32)
    value = kl_penalty(code, 0.2)
    assert value.shape == ()
    shuffled = np.stack([code[::-1, 0], *code[:, 1:].T], axis=1)  # same means, other pairs
    np.testing.assert_allclose(value, kl_penalty(shuffled, 0.2), rtol=1e-5)
    stacked = kl_penalty(code.reshape(2, 3, 4), 0.2)
    np.testing.assert_allclose(value, stacked, rtol=1e-6)


def test_kl_gradient(float64):
    code = RNG.uniform(0.1, 0.9, (5, 3))
    check_grads(lambda code: kl_penalty(code, 0.1), (code,), order=2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_kl_is_finite_at_dead_and_saturated_units_and_points_inwards(value):
    code = np.full((4, 2), value, np.float32)
    loss, gradient = kl_with_gradient(code, 0.1)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert (np.sign(gradient) == (-1 if value == 0 else 1)).all()


@pytest.mark.thorough(by_default=["float32-1e-08"])
@pytest.mark.parametrize(
    ("dtype", "target"), [("bfloat16", 0.005), ("float16", 5e-4), ("float32", 1e-8)]
)
def test_kl_has_its_zero_at_targets_below_the_rounding_step(dtype, target):
    code = np.full((4, 2), target, jnp.dtype(dtype))
    rho = float(code[0, 0])  # the target as the dtype holds it
    penalty = lambda code: jaxae.kl_sparsity_penalty(code, target=rho)
    loss, gradient = jax.jit(jax.value_and_grad(penalty))(code)
    np.testing.assert_allclose(loss, 0, atol=1e-9)
    np.testing.assert_allclose(np.asarray(gradient, np.float32), 0, atol=1e-6)


shapes = st.sampled_from([(1,), (6,), (3, 5), (2, 3, 4)])
codes = hnp.arrays(np.float32, shapes, elements=st.floats(-9, 9, width=32))


@examples(100)
@given(codes, st.data())
def test_top_k_keeps_the_k_largest(code, data):
    k = data.draw(st.integers(1, code.shape[-1]))
    kept = np.asarray(keep_top_k(code, k=k))
    assert kept.shape == code.shape
    assert ((kept == code) | (kept == 0)).all()
    assert ((kept != 0).sum(-1) <= k).all()
    expected = np.sort(code, -1)[..., -k:].sum(-1)
    np.testing.assert_allclose(kept.sum(-1), expected, rtol=1e-5, atol=1e-5)


def test_top_k_of_ties_keeps_exactly_k_and_all_units_is_the_identity():
    assert keep_top_k(np.ones(5, np.float32), k=2).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    code = np.array([3, -1, 2], np.float32)
    np.testing.assert_array_equal(keep_top_k(code, k=3), code)


def test_top_k_is_by_value_not_by_magnitude():
    assert jaxae.keep_top_k(jnp.array([-5.0, 1.0]), k=1).tolist() == [0.0, 1.0]


def test_top_k_passes_the_gradient_of_what_stays():
    total = lambda code: (jaxae.keep_top_k(code, k=2) * jnp.array([1.0, 2.0, 3.0])).sum()
    gradient = jax.jit(jax.grad(total))(jnp.array([5.0, 1.0, 4.0]))
    np.testing.assert_array_equal(gradient, [1.0, 0.0, 3.0])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_is_kept(dtype):
    functions = (
        jaxae.l1_penalty,
        partial(jaxae.keep_top_k, k=2),
        partial(jaxae.kl_sparsity_penalty, target=0.1),
    )
    values = jax.jit(lambda code: [f(code) for f in functions])(jnp.full((3, 4), 0.5, dtype))
    assert [value.dtype for value in values] == [jnp.dtype(dtype)] * len(functions)


of_code = jax.jit(jax.grad(partial(jaxae.kl_sparsity_penalty, target=0.1)))
of_logits = jax.jit(jax.grad(lambda a: jaxae.kl_sparsity_penalty(jax.nn.sigmoid(a), target=0.1)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("logit", [-200.0, -20.0, 20.0, 200.0])
def test_kl_gradients_are_finite_where_a_sigmoid_is_at_its_end(dtype, logit):
    gradient = of_logits(np.full((4, 2), logit, jnp.dtype(dtype)))
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    at_the_end = np.full((4, 2), logit > 0, jnp.dtype(dtype))
    gradient = np.asarray(of_code(at_the_end), np.float32)
    assert np.isfinite(gradient).all()
    assert (np.sign(gradient) == np.sign(logit)).all()


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_weighted_l1_is_the_length_that_each_unit_adds(batch):
    code = RNG.normal(size=(*batch, 5)).astype(np.float32)
    filters = RNG.normal(size=(5, 7)).astype(np.float32)
    penalty = jax.jit(jaxae.decoder_weighted_l1_penalty)
    got = penalty(code, filters)
    lengths = np.linalg.norm(code[..., None] * filters, axis=-1)
    np.testing.assert_allclose(got, lengths.sum(-1), rtol=1e-5)
    # longer filters and smaller codes cost the same, and filters of norm 1 are the plain L1
    scale = np.exp(RNG.normal(size=5)).astype(np.float32)
    np.testing.assert_allclose(penalty(code / scale, filters * scale[:, None]), got, rtol=1e-5)
    unit = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    np.testing.assert_allclose(penalty(code, unit), jax.jit(jaxae.l1_penalty)(code), rtol=1e-5)


def test_weighted_l1_gradients_also_at_a_filter_of_zero(float64):
    code, filters = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 6))
    penalty = jax.jit(jaxae.decoder_weighted_l1_penalty)
    check_grads(penalty, (code, filters), order=1, modes=("rev",))
    filters[1] = 0
    of_filters = jax.jit(jax.grad(lambda w: penalty(code, w).sum()))(filters)
    assert np.isfinite(of_filters).all()
    assert not of_filters[1].any()


def test_dead_units_explain_what_is_left_by_hand():
    # residual (1, 2, 3); units 1, 2, 3 are dead, the two largest of them are 3 (4.0) and 1 (2.0),
    # unit 2 is below 0; filters 1: (1, 0, 0), 3: (0, 0, 0.5): left (1 - 2, 2, 3 - 2)
    filters = jnp.array([[9.0, 9.0, 9.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    code = jnp.array([[7.0, 2.0, -1.0, 4.0], [7.0, -2.0, -1.0, -4.0]])
    is_dead = jnp.array([False, True, True, True])
    residual = jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])

    @partial(jax.jit, static_argnames="k")
    def loss(z, w, e, k, dead):
        return jaxae.dead_unit_loss(z, lambda c: c @ w, e, is_dead=dead, k=k)

    np.testing.assert_allclose(loss(code, filters, residual, 2, is_dead), [6.0, 14.0])
    np.testing.assert_allclose(loss(code, filters, residual, 1, is_dead), [6.0 + 1 - 1, 14.0])
    nobody = loss(code, filters, residual, 2, jnp.zeros(4, bool))
    assert nobody.tolist() == [0.0, 0.0]
    total = lambda *arrays: loss(*arrays, 1, is_dead).sum()
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(code, filters, residual)
    of_code, of_filters, of_residual = jax.device_get(gradients)
    assert not of_residual.any()
    assert of_code.astype(bool).tolist() == [[False, False, False, True], [False] * 4]
    assert of_filters.any(axis=1).tolist() == [False, False, False, True]


def test_dead_unit_loss_takes_images_and_any_batch():
    filters = RNG.normal(size=(5, 4)).astype(np.float32)
    decode = lambda z: (z @ filters).reshape(2, 2)
    code = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    images = RNG.normal(size=(2, 3, 2, 2)).astype(np.float32)
    is_dead = np.array([True, False, True, True, False])
    run = jax.jit(
        lambda z, e: jaxae.dead_unit_loss(z, decode, e, is_dead=jnp.asarray(is_dead), k=5)
    )
    got = run(code, images)
    by_hand = np.maximum(code, 0) * is_dead
    error = images.reshape(2, 3, 4) - by_hand @ filters
    np.testing.assert_allclose(got, (error**2).sum(-1), rtol=1e-4)


def dead_unit_loss_and_gradients(choose):
    """Returns the loss and its gradients for codes and filters, compiled."""

    def loss(code, filters, residual, is_dead):
        return choose(code, lambda z: z @ filters, residual, is_dead=is_dead, k=2)

    def both(*arrays):
        total = lambda *arrays: jnp.sum(loss(*arrays).astype(jnp.float32))
        return loss(*arrays), jax.grad(total, argnums=(0, 1))(*arrays)

    return jax.jit(both)


def dead_unit_loss_that_always_chooses(code, decode, residual, *, is_dead, k):
    """The loss as its formula says it."""
    kept = jaxae.keep_top_k(jnp.where(is_dead[None], jax.nn.relu(code), 0), k=k)
    error = residual.astype(jnp.float32) - jax.vmap(decode)(kept).astype(jnp.float32)
    return jnp.sum(error**2, axis=-1).astype(residual.dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dead_units_are_chosen_only_where_there_are_too_many_of_them(dtype):
    few, many = [True, False, True, False, False], [True, True, True, False, True]
    equal = jnp.array([[3, 1, 1, 1, 1], [1, 1, 1, 1, 1], [-1, 0, 2, 2, 2]], dtype)
    codes = [equal, jnp.asarray(RNG.normal(size=(3, 5)), dtype), -equal, equal.at[0, 0].set(0)]
    filters = jnp.asarray(RNG.normal(size=(5, 4)), dtype)
    residual = jnp.asarray(RNG.normal(size=(3, 4)), dtype)
    ours = dead_unit_loss_and_gradients(jaxae.dead_unit_loss)
    formula = dead_unit_loss_and_gradients(dead_unit_loss_that_always_chooses)
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for code in codes:
        for is_dead in (few, many):
            arrays = code, filters, residual, jnp.array(is_dead)
            results = jax.tree.leaves(ours(*arrays)), jax.tree.leaves(formula(*arrays))
            for got, by_formula in zip(*results, strict=True):
                got, by_formula = got.astype(jnp.float32), by_formula.astype(jnp.float32)
                np.testing.assert_allclose(got, by_formula, rtol=tolerance, atol=tolerance)


def conditions_around(name, jaxpr, depth=0):
    """Returns in how many conditions each operation of a name lies."""
    found = []
    for equation in jaxpr.eqns:
        found += [depth] if equation.primitive.name == name else []
        inside = depth + (equation.primitive.name == "cond")
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            if hasattr(inner, "eqns"):
                found += conditions_around(name, inner, inside)
    return found


def test_nothing_is_sorted_where_all_dead_units_stay():
    """One condition for whether a unit is dead, and one for whether there are too many."""
    code, residual = jnp.ones((3, 5)), jnp.ones((3, 5))
    is_dead = jnp.array([True, True, True, False, False])
    loss = lambda z: jaxae.dead_unit_loss(z, lambda z_i: z_i, residual, is_dead=is_dead, k=2)
    assert conditions_around("top_k", jax.make_jaxpr(loss)(code).jaxpr) == [2]


def test_negative_dead_units_explain_nothing():
    """SAELens lets them in; by the formula and by the code of its authors there is a relu."""
    code, residual = jnp.array([[-3.0, -2.0, 1.0]]), jnp.array([[1.0, 1.0, 1.0]])
    loss = lambda z: jaxae.dead_unit_loss(
        z, lambda z_i: z_i, residual, is_dead=jnp.array([True, True, False]), k=2
    )
    value, gradient = jax.value_and_grad(lambda z: loss(z).sum())(code)
    assert float(value) == 3
    assert not gradient.any()


def test_top_k_takes_zeros_of_either_sign_for_equal():
    code = jnp.array([0.0, -0.0, 0.0, -0.0])
    total = lambda code: jaxae.keep_top_k(code, k=2) @ jnp.arange(1.0, 5.0)
    gradient = jax.jit(jax.grad(total))(code)
    np.testing.assert_array_equal(gradient, [1, 2, 0, 0])


def test_traced_values_outside_their_range_make_kl_nan():
    inside = np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)
    assert np.isfinite(kl_penalty(inside, 0.1))
    for code, target in ((inside - 0.6, 0.1), (inside * 2, 0.1), (inside, 0.0), (inside, -1.0)):
        assert np.isnan(kl_penalty(code, target))
