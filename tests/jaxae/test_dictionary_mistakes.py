"""Mistakes of other libraries for sparse autoencoders, each shown to be absent here.

A test names the report that it comes from: SAELens is github.com/decoderesearch/SAELens, sparsify
is github.com/EleutherAI/sparsify.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax_settings import as_on_the_command_line

import jaxae

RNG = np.random.default_rng(33)
UNITS, INPUTS, BATCH = 24, 12, 64


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Adam of optax promotes its types."""
    with as_on_the_command_line():
        yield


def normalized(rows):
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


ATOMS = normalized(jnp.asarray(RNG.normal(size=(UNITS, INPUTS)), jnp.float32))


def examples(key):
    """Returns sums of 3 atoms."""
    chosen = jax.lax.top_k(jax.random.uniform(key, (BATCH, UNITS)), 3)[1]
    return ATOMS[chosen].sum(axis=1)


def optimizer(rate, target):
    groups = {"weight": jaxae.target_l0(target=target, rate=rate), "rest": optax.adam(3e-3)}
    label = lambda params: {name: "weight" if name == "weight" else "rest" for name in params}
    return optax.partition(groups, label)


def loss(params, x):
    pre = x @ params["encoder"] + params["bias"]
    code = jaxae.jump_relu(pre, params["threshold"], bandwidth=0.1)
    error = jaxae.squared_error(code @ params["atoms"], x)
    return error + params["weight"] * jaxae.step_l0_penalty(pre, params["threshold"], bandwidth=0.1)


def initial(weight):
    return {
        "atoms": ATOMS,
        "encoder": ATOMS.T,
        "bias": jnp.full((1, UNITS), 0.05),
        "threshold": jnp.full(UNITS, 0.01),
        "weight": weight,
    }


@jax.vmap
def l0_after_training(weight, rate, target):
    """Returns L0 after 1000 steps; with rate 0 the weight does not change."""
    transform = optimizer(rate, target)
    params = initial(weight)

    def step(carry, key):
        params, state = carry
        gradients = jax.grad(lambda p: loss(p, examples(key)).mean())(params)
        updates, state = transform.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 1000)
    (params, _), _ = jax.lax.scan(step, (params, transform.init(params)), keys)
    pre = examples(jax.random.key(1)) @ params["encoder"] + params["bias"]
    return jaxae.step_l0_penalty(pre, params["threshold"], bandwidth=0.1).mean()


def test_the_weight_for_a_number_of_active_units_is_found():
    """SAELens 719: above some weight L0 is the same whatever the weight is."""
    rows = {
        "weight 30": (30.0, 0.0, 3.0),
        "weight 300": (300.0, 0.0, 3.0),
        "to 3 units": (0.001, 0.02, 3.0),
        "to 5 units": (0.001, 0.02, 5.0),
    }
    columns = map(jnp.array, zip(*rows.values(), strict=True))
    l0 = dict(zip(rows, map(float, jax.jit(l0_after_training)(*columns)), strict=True))
    assert abs(l0["weight 30"] - l0["weight 300"]) < 0.2
    assert abs(l0["to 3 units"] - 3) < 0.3
    assert abs(l0["to 5 units"] - 5) < 0.5


def test_a_threshold_moves_by_the_step_size_and_its_logarithm_would_not():
    """SAELens 494, 718: from 0.01 the logarithm moves the threshold by 1 percent of the step."""
    pre = jnp.asarray(RNG.normal(size=(500, 4)), jnp.float32)

    @partial(jax.jit, static_argnums=1)
    def trained(start, to_threshold):
        adam = optax.adam(3e-3)
        l0 = lambda value: jaxae.step_l0_penalty(pre, to_threshold(value), bandwidth=0.5).mean()

        def step(carry, _):
            value, state = carry
            updates, state = adam.update(jax.grad(l0)(value), state)
            return (value + updates, state), None

        (value, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=100)
        return to_threshold(value)

    start = jnp.full(4, 0.01)
    of_itself = trained(start, lambda value: value)
    of_logarithm = trained(jnp.log(start), jnp.exp)
    np.testing.assert_allclose(of_itself, 0.01 + 0.3, rtol=0.1)
    assert (of_logarithm < 0.014).all()


def test_a_window_without_examples_trains_nothing_so_the_width_has_no_default():
    """SAELens 494: the width 0.001 of the paper is for another scale of the data."""
    pre, threshold = jnp.asarray(RNG.normal(size=(200, 8)), jnp.float32), jnp.full(8, 0.5)
    moved = lambda width: jax.grad(lambda t: jaxae.step_l0_penalty(pre, t, bandwidth=width).sum())(
        threshold
    )
    assert (moved(1e-5) == 0).all()
    assert (moved(0.5) < 0).all()
    with pytest.raises(TypeError, match="bandwidth"):
        jaxae.step_l0_penalty(pre, threshold)


def test_thresholds_are_not_kept_in_half_precision(no_type_hook):
    """SAELens 728: in bfloat16 a threshold of 1.1 stops moving at a step size of 7e-5."""
    pre = jnp.asarray(RNG.normal(size=(50, 4)) + 1, jnp.bfloat16)
    with pytest.raises(TypeError, match=r"threshold must be float32 or float64.*bfloat16"):
        jaxae.jump_relu(pre, jnp.full(4, 1.1, jnp.bfloat16), bandwidth=0.5)
    threshold, adam = jnp.full(4, 1.1), optax.adam(7e-5)
    state = adam.init(threshold)
    penalty = lambda t: jaxae.step_l0_penalty(pre, t, bandwidth=0.5).astype(jnp.float32).mean()
    slope = jax.jit(jax.grad(penalty))
    for _ in range(10):
        gradient = slope(threshold)
        assert gradient.dtype == jnp.float32
        updates, state = adam.update(gradient, state)
        threshold = optax.apply_updates(threshold, updates)
    np.testing.assert_allclose(threshold - 1.1, 7e-4, rtol=0.01)


def test_the_auxiliary_loss_counts_the_bias_once_and_leaves_the_residual_alone():
    """sparsify 57, 132: dead units were pulled to the residual minus the bias, and it to them."""
    filters = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    bias, x = jnp.array([5.0, -5.0, 5.0, -5.0]), jnp.asarray(RNG.normal(size=(2, 4)), jnp.float32)
    pre = jnp.array([[2.0, 1.0, 0.5], [1.0, 2.0, 0.5]])

    def auxiliary(filters, bias):
        code = jaxae.keep_top_k(pre, k=1)
        residual = x - (code @ filters + bias[None])
        is_dead = jnp.array([False, False, True])
        decode = lambda code_i: code_i @ filters
        return jaxae.dead_unit_loss(pre, decode, residual, is_dead=is_dead, k=1).sum()

    value, (of_filters, of_bias) = jax.jit(jax.value_and_grad(auxiliary, (0, 1)))(filters, bias)
    code = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    left = np.asarray(x) - code @ np.asarray(filters) - np.asarray(bias) - 0.5 * filters[2]
    np.testing.assert_allclose(value, (left**2).sum(), rtol=1e-5)
    assert not of_bias.any()
    assert of_filters.any(axis=1).tolist() == [False, False, True]


def test_explained_variance_is_about_the_mean():
    """SAELens 665: about zero the mean alone would explain nearly everything."""
    x = jnp.asarray(100 + RNG.normal(size=(200, 3)), jnp.float32)
    mean = jnp.broadcast_to(x.mean(axis=0), x.shape)
    about_zero = 1 - ((x - mean) ** 2).sum() / (x**2).sum()
    assert about_zero > 0.999
    np.testing.assert_allclose(jaxae.explained_variance(mean, x), 0, atol=1e-3)


@pytest.mark.thorough  # test_runs.py has more of it
def test_a_run_that_is_resumed_goes_on_where_it_was():
    """SAELens 561: a resumed run started from new weights.

    Thresholds, weight, controller and moments of Adam are one state here.
    """
    x = examples(jax.random.key(5))
    transform = optimizer(0.05, 3.0)
    run = jaxae.make_run(lambda params, key, x: loss(params, x), transform, batch_size=16)
    start = partial(jaxae.create_train_state, initial(jnp.array(0.01)), transform)
    key = jax.random.key(0)
    whole = jaxae.fit(run, start(), key, x, epochs=4)
    half = jaxae.fit(run, start(), key, x, epochs=2)
    resumed = jaxae.fit(run, half, key, x, epochs=2, first_epoch=2)
    for one, other in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(whole.params["weight"]) != pytest.approx(0.01)
