"""Jacobians with few entries: their patterns, and sums of columns in place of all of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from jaxae.contraction import _column_sums

TOKENS, WIDTH = 6, 4
RNG = np.random.default_rng(0)
MIX, SPREAD = (RNG.normal(size=shape) for shape in ((WIDTH, 3 * WIDTH), (3 * WIDTH, WIDTH)))
KERNEL = RNG.normal(size=(3, 2, 2))


def token_wise(x_i):
    """A residual network for each token, as MLP-Mixer and transformers have it."""
    tokens = x_i.reshape(TOKENS, WIDTH)
    hidden = jax.nn.softmax(tokens) @ jnp.asarray(MIX, x_i.dtype)
    return (tokens + jnp.tanh(hidden) @ jnp.asarray(SPREAD, x_i.dtype)).reshape(-1)


def local(x_i):
    """Two convolutions of neighbours and a gate: rows share columns with rows nearby only."""
    signal = x_i.reshape(1, 12, 2)
    convolve = partial(
        jax.lax.conv_general_dilated,
        rhs=jnp.asarray(KERNEL, x_i.dtype),
        window_strides=(1,),
        padding="SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return (jax.nn.sigmoid(convolve(signal)) * convolve(jnp.sin(signal))).reshape(-1)


def pooled(x_i):
    """Patches by a reshape, normalised, and the largest entry of each half of them."""
    patches = x_i.reshape(4, 6)
    normalised = (patches - patches.mean(1, keepdims=True)) / (1 + patches.var(1, keepdims=True))
    largest = jax.lax.reduce_window(
        normalised[None, ..., None], -jnp.inf, jax.lax.max, (1, 1, 3, 1), (1, 1, 3, 1), "VALID"
    )
    return jnp.concatenate([largest.reshape(-1), jnp.flip(normalised[:, 0])])


@pytest.mark.thorough(by_default=["token_wise-4", "pooled-3"])
@pytest.mark.parametrize(("encode", "derivatives"), [(token_wise, WIDTH), (local, 6), (pooled, 3)])
def test_norms_and_gradients_are_those_of_all_columns(encode, derivatives, float64):
    x = jnp.asarray(RNG.normal(size=(3, TOKENS * WIDTH)))
    plan = jaxae.explain_contraction(encode, x)
    assert plan.formula in (
        f"jacfwd, {derivatives} for 24",
        f"jacrev, {derivatives} for {encode(x[0]).size}",
    )

    def full(encode, x):
        return jnp.square(jax.vmap(jax.jacfwd(encode))(x)).sum(axis=(1, 2))

    def ours(scale, x, chunk_size=None):
        scaled = lambda x_i: encode(scale * x_i)
        return jaxae.contractive_penalty(scaled, x, chunk_size=chunk_size).sum()

    def expected(scale, x):
        return full(lambda x_i: encode(scale * x_i), x).sum()

    losses = (ours, partial(ours, chunk_size=2), expected)
    *got, wanted = jax.jit(lambda: [jax.value_and_grad(f, (0, 1))(1.5, x) for f in losses])()
    for found in got:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), found, wanted)


def test_the_change_of_a_jacobian_with_few_entries(key, float64):
    x = jnp.asarray(RNG.normal(size=(2, TOKENS * WIDTH)))
    found = jaxae.higher_order_contractive_penalty(key, token_wise, x, stddev=0.2)
    noise = jaxae.corrupt_batch(
        jax.random.split(key, 1)[0], partial(jaxae.gaussian_noise, stddev=0.2), x
    )
    jacobians = [jax.vmap(jax.jacrev(token_wise))(v) for v in (x, noise)]
    expected = jnp.square(jacobians[0] - jacobians[1]).sum(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def sums_of(encode, inputs=6):
    example = jax.ShapeDtypeStruct((inputs,), jnp.float32)
    return _column_sums.find_sums(encode, example, jax.eval_shape(encode, example))


def test_what_is_full_or_not_understood_has_no_sums():
    weights = jnp.ones((6, 3))
    assert sums_of(lambda x: jnp.tanh(x @ weights)) is None
    assert sums_of(lambda x: jnp.sort(x)) is None
    assert sums_of(lambda x: jax.lax.fori_loop(0, 2, lambda _, z: jnp.sin(z), x)) is None
    # The first column alone looks like the whole: then all of them are looked at.
    assert sums_of(lambda x: jnp.cumsum(x) * x.sum()) is None
    # A weight of 0 is a weight: another one may be there for another x.
    assert sums_of(lambda x: x + jnp.zeros((6, 6)) @ jnp.sin(x)) is None


def test_a_rule_that_multiplies_by_the_direction_is_not_understood():
    @jax.custom_jvp
    def odd(v):
        return v

    odd.defjvp(lambda primals, tangents: (primals[0], tangents[0] * jnp.abs(tangents[0])))
    assert sums_of(odd) is None


def test_patterns_of_known_jacobians():
    found = sums_of(lambda x: jnp.concatenate([x[:2], jnp.sin(x[4:])]) * 2)
    np.testing.assert_array_equal(found.columns, [[1, 1, 0, 0, 1, 1]])
    np.testing.assert_array_equal(found.rows, [[1, 1, 1, 1]])
    found = sums_of(lambda x: x[:4] * x[1:5])
    np.testing.assert_array_equal(found.columns, [[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]])
