"""Convolutions in a run have the order of axes for which the compiler for CPUs has fast kernels."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.extend import core as jex

import jaxae
from jaxae._convolutions import reorder_convolutions, with_ordered_convolutions

RNG = np.random.default_rng(5)


def reordered(function, *args):
    """Returns ``function`` from its reordered trace, and the text of that trace."""
    traced = jax.jit(function).trace(*args)
    closed = reorder_convolutions(traced.jaxpr)
    assert closed is not None
    tree = jax.tree.structure(traced.out_info)

    def rewritten(*args):
        return jax.tree.unflatten(tree, jex.jaxpr_as_fun(closed)(*jax.tree.leaves(args)))

    return rewritten


def convolve(x, w, **options):
    numbers = options.pop("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


def loss(x, w, **options):
    return jnp.sum(jnp.square(jnp.tanh(convolve(x, w, **options))))


def in_a_scan(function):
    return lambda x, w: lax.scan(lambda c, s: (c, function(s * x, w)), 0, jnp.arange(1.0, 3))[1]


def in_a_loop(function):
    """Returns what is added up in two rounds, which only forward derivatives pass."""
    return lambda x, w: lax.fori_loop(0, 2, lambda i, sum_: sum_ + function((i + 1) * x, w), 0 * w)


def in_a_choice(function):
    return lambda x, w: lax.cond(x.sum() > 0, function, lambda x, w: 0 * function(x, w), x, w)


PLACES = {
    "alone": lambda function: function,
    "loop": in_a_loop,
    "scan": in_a_scan,
    "choice": in_a_choice,
    "call": lambda function: jax.jit(function),
    "checkpoint": lambda function: jax.checkpoint(function),
    "vmap": lambda function: lambda x, w: jax.vmap(function, (None, 0))(x, jnp.stack([w, 2 * w])),
}


@pytest.mark.parametrize("place", PLACES)
def test_values_and_gradients_stay(place, float64):
    x, w = jnp.asarray(RNG.normal(size=(2, 6, 5, 3))), jnp.asarray(RNG.normal(size=(3, 2, 3, 4)))

    gradient = PLACES[place](jax.grad(loss, 1))

    def whole(x, w):
        return gradient(x, w), jax.jvp(partial(gradient, x), (w,), (jnp.cos(w),))[1]

    got = jax.jit(reordered(whole, x, w))(x, w)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(jax.jit(whole)(x, w)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


OPTIONS = {
    "channels first": ((2, 3, 6, 5), (4, 3, 3, 2), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    "three orders": ((2, 3, 6, 5), (3, 2, 3, 4), {"dimension_numbers": ("NCHW", "HWIO", "HWNC")}),
    "strides": ((2, 6, 5, 3), (3, 2, 3, 4), {"window_strides": (2, 1), "padding": "VALID"}),
    "dilation": (
        (2, 6, 5, 3),
        (3, 2, 3, 4),
        {"rhs_dilation": (2, 1), "lhs_dilation": (1, 2), "padding": [(1, 1), (0, 2)]},
    ),
    "groups": ((2, 6, 5, 4), (3, 2, 2, 6), {"feature_group_count": 2}),
    "one axis": (
        (2, 6, 3),
        (3, 3, 4),
        {"window_strides": (1,), "dimension_numbers": ("NWC", "WIO", "NWC")},
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_kind_of_convolution_stays_what_it_is(name, float64):
    shape, kernel, options = OPTIONS[name]
    x, w = jnp.asarray(RNG.normal(size=shape)), jnp.asarray(RNG.normal(size=kernel))
    both = jax.value_and_grad(partial(loss, **options), (0, 1))
    got, expected = jax.jit(reordered(both, x, w))(x, w), jax.jit(both)(x, w)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.thorough(by_default=["three orders", "strides"])
@pytest.mark.parametrize("name", OPTIONS)
def test_derivatives_and_batches_of_ordered_convolutions_stay_what_they_are(name, float64):
    shape, kernel, options = OPTIONS[name]
    x, w = jnp.asarray(RNG.normal(size=(2, *shape))), jnp.asarray(RNG.normal(size=(2, *kernel)))
    plain = partial(convolve, **options)

    def everything(function):
        def squares_of_derivatives(x, w):
            (along,) = jax.vjp(lambda x: function(x, w), x)[1](jnp.cos(function(x, w)))
            changed = jax.jvp(function, (x, w), (jnp.sin(x), jnp.cos(w)))[1]
            return jnp.sum(jnp.square(along)) + jnp.sum(jnp.square(changed))

        gradient = jax.value_and_grad(squares_of_derivatives, (0, 1))
        return (
            jax.vmap(gradient)(x, w),
            jax.vmap(gradient, (0, None))(x, w[0]),
            jax.vmap(gradient, (None, 0))(x[0], w),
        )

    got, expected = jax.jit(
        lambda: (everything(with_ordered_convolutions(plain)), everything(plain))
    )()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_an_ordered_convolution_runs_without_a_compiler():
    x, w = jnp.ones((2, 3, 6, 5)), jnp.ones((4, 3, 3, 2))
    plain = partial(convolve, dimension_numbers=("NCHW", "OIHW", "NCHW"))
    with jax.disable_jit():
        np.testing.assert_allclose(with_ordered_convolutions(plain)(x, w), plain(x, w), rtol=1e-6)


def test_a_rule_of_a_function_is_kept(float64):
    x, w = jnp.asarray(RNG.normal(size=(2, 3, 6, 5))), jnp.asarray(RNG.normal(size=(4, 3, 3, 2)))
    numbers = ("NCHW", "OIHW", "NCHW")

    @jax.custom_jvp
    def scaled(x, w):
        return convolve(x, w, dimension_numbers=numbers)

    # A wrong derivative on purpose: one that was not taken from the rule would be another.
    scaled.defjvp(lambda given, along: (scaled(*given), 7 * scaled(along[0], given[1])))
    rewritten = reordered(scaled, x, w)
    np.testing.assert_allclose(rewritten(x, w), scaled(x, w), rtol=1e-12)
    ones = jnp.ones_like
    got = jax.jvp(rewritten, (x, w), (ones(x), ones(w)))
    np.testing.assert_allclose(got[1], 7 * scaled(ones(x), w), rtol=1e-12)


def test_a_trace_with_nothing_to_order_is_left_alone():
    x, w = jnp.ones((2, 6, 5, 3)), jnp.ones((3, 2, 3, 4))
    assert (
        reorder_convolutions(jax.make_jaxpr(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 3)))) is None
    )
    assert reorder_convolutions(jax.make_jaxpr(loss)(x, w)) is None  # in order as it is
    assert reorder_convolutions(jax.make_jaxpr(jax.grad(loss))(x, w)) is not None


@pytest.mark.thorough(by_default=["2"])
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the order is for CPUs")
@pytest.mark.parametrize("models", [1, 2])
def test_a_run_on_images_has_ordered_convolutions(models):
    x = jnp.asarray(RNG.uniform(size=(8, 6, 6, 1)), jnp.float32)
    optimizer = optax.sgd(0.01)

    def reconstruction(params, key, x, weight):
        def encode(x_i):
            stages = [jnp.tanh(convolve(x_i[None], params[0]))]
            stages.append(jnp.tanh(convolve(stages[0], params[1])))
            return stages[1].reshape(-1)

        def decode(code):
            return (code @ params[2]).reshape(6, 6, 1)

        return jaxae.sparse_loss(encode, decode, x, weight=weight, example_ndim=3)

    def create_state(seed):
        shapes = [(3, 3, 1, 2), (3, 3, 2, 3), (6 * 6 * 3, 36)]
        keys = jax.random.split(jax.random.key(seed), 3)
        params = [0.1 * jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True)]
        return jaxae.create_train_state(params, optimizer)

    run = jaxae.make_run(reconstruction, optimizer, batch_size=4, epochs_per_call=1)
    keys, weights = jax.random.split(jax.random.key(0), models), jnp.full(models, 0.1)
    arguments = jax.vmap(create_state)(jnp.arange(models)), keys, x, weights
    if models == 1:
        arguments = create_state(0), keys[0], x, weights[0]
    program = run.program(*run.arguments(*arguments), is_batched=models > 1)
    labels = re.findall(r"dim_labels=(\S+?),?[ \n]", program.as_text())
    assert len(labels) >= 5  # forwards, and the derivatives in the input and in two kernels
    assert set(labels) == {"b01f_01io->b01f"}
