"""Max pooling with a mask: the same values and derivatives, also where entries are equal."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from jaxae.contraction import _full
from jaxae.contraction._pooling import with_masked_pooling

# Window, strides and padding; only the last two overlap or leave gaps, and stay as they are.
REPLACED = {
    "2x2": ((2, 2, 1), (2, 2, 1), ((0, 0),) * 3),
    "cut off": ((3, 2, 1), (3, 2, 1), ((0, 0),) * 3),
    "padded": ((2, 3, 1), (2, 3, 1), ((1, 0), (0, 2), (0, 0))),
    "all of it": ((7, 6, 2), (7, 6, 2), ((0, 0),) * 3),
}
KEPT = {
    "overlapping": ((3, 3, 1), (2, 2, 1), ((0, 0),) * 3),
    "gaps": ((1, 2, 1), (2, 2, 1), ((0, 0),) * 3),
}


def pool(name, x_i):
    window, strides, padding = {**REPLACED, **KEPT}[name]
    return jax.lax.reduce_window(x_i, -jnp.inf, jax.lax.max, window, strides, padding)


@pytest.mark.parametrize("name", REPLACED)
def test_values_and_derivatives_are_those_of_the_pooling(name, float64):
    # Few different numbers, so that many windows have several largest entries.
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (7, 6, 2)), float)
    masked = with_masked_pooling(partial(pool, name), jax.ShapeDtypeStruct(x.shape, x.dtype))
    text = str(jax.make_jaxpr(jax.jacrev(masked))(x))
    assert "select_and_" not in text
    np.testing.assert_array_equal(masked(x), pool(name, x))
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_array_equal(jacobian(masked)(x), jacobian(partial(pool, name))(x))


@pytest.mark.parametrize("name", KEPT)
def test_windows_that_overlap_or_leave_gaps_are_left_alone(name):
    encode = partial(pool, name)
    assert with_masked_pooling(encode, jax.ShapeDtypeStruct((7, 6, 2), jnp.float32)) is encode


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_the_penalty_of_a_pooled_encoder_is_that_of_its_full_jacobian(chunk_size, float64):
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=size)) for size in ((3, 3, 1, 2), (18, 5))]
    x = jnp.asarray(rng.normal(size=(4, 6, 6, 1)))

    def encode(params, x_i):
        h = jax.lax.conv_general_dilated(
            x_i[None], params[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = nn.max_pool(jnp.tanh(h), (2, 2), (2, 2))
        return jnp.tanh(h.reshape(-1) @ params[1])

    def ours(params, x):
        penalty = partial(jaxae.contractive_penalty, chunk_size=chunk_size, example_ndim=3)
        return jnp.sum(jnp.sin(penalty(partial(encode, params), x)))

    def full(params, x):
        rows = jax.vmap(jax.jacrev(partial(encode, params)))(x)
        return jnp.sum(jnp.sin(jnp.sum(jnp.square(rows), (1, 2, 3, 4))))

    found, expected = (jax.value_and_grad(f, (0, 1))(params, x) for f in (ours, full))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_masked_pooling_takes_less_memory():
    """A derivative in every direction compares nothing; JAX's own holds the comparisons."""

    def encode(weights, x_i):
        return nn.max_pool(jnp.sin(x_i), (2, 2), (2, 2)).reshape(-1) @ weights

    def temporary_bytes(penalty):
        loss = lambda weights, x: jnp.sum(penalty(partial(encode, weights), x))
        gradient = jax.jit(jax.grad(loss, (0, 1)))
        program = gradient.lower(jnp.ones((128, 8)), jnp.ones((4, 16, 16, 2))).compile()
        return program.memory_analysis().temp_size_in_bytes

    ours = temporary_bytes(partial(jaxae.contractive_penalty, example_ndim=3))
    full = temporary_bytes(lambda e, x: jnp.sum(jnp.square(jax.vmap(jax.jacrev(e))(x))))
    assert ours < full / 2


def test_chunks_have_equal_sizes():
    """Of 32 rows, 25 at a time, there are two chunks of 16, and no rows of zeros."""
    sizes = []

    def block(indices):
        sizes.append(len(indices))
        return jnp.sum(indices.astype(jnp.float32))

    assert float(_full._sum_over_chunks(block, 32, 25)) == sum(range(32))
    assert set(sizes) == {16}
