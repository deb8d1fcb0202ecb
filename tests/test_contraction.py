"""The contractive penalty: exact methods agree with a Jacobian built by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxae

RNG = np.random.default_rng(3)
EXACT = ["auto", "jacfwd", "jacrev"]
W1, W2, B1 = RNG.normal(size=(7, 5)), RNG.normal(size=(4, 7)), RNG.normal(size=7)


def deep(x_i, w1=W1, w2=W2, b1=B1):
    """An encoder 5 -> 7 -> 4 at O(1) weights."""
    return jnp.tanh(jnp.asarray(w2) @ jax.nn.sigmoid(jnp.asarray(w1) @ x_i + jnp.asarray(b1)))


def by_hand(x):
    """The chain rule in NumPy: diag(1 - z^2) W2 diag(s (1 - s)) W1, squared and summed."""
    s = 1 / (1 + np.exp(-(x @ W1.T + B1)))
    z = np.tanh(s @ W2.T)
    jacobian = np.einsum("nk,kh,nh,hd->nkd", 1 - z**2, W2, s * (1 - s), W1)
    return (jacobian**2).sum((1, 2))


@pytest.fixture
def x(float64):
    return jnp.asarray(RNG.normal(size=(6, 5)))


@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_give_the_chain_rule(x, method):
    of = partial(jaxae.contractive_penalty, deep, method=method)
    chunk_sizes = (None, 1, 2, 3, 5, 100)
    found = jax.jit(lambda x: [of(x, chunk_size=size) for size in chunk_sizes])(x)
    for chunk_size, got in zip(chunk_sizes, found, strict=True):
        expected = by_hand(np.asarray(x))
        np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=str(chunk_size))
    np.testing.assert_allclose(of(x), expected, rtol=1e-12)  # not compiled


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_gradient_in_every_weight_at_order_one(x, method, chunk_size):
    def loss(w1, w2, b1, x):
        encode = partial(deep, w1=w1, w2=w2, b1=b1)
        penalty = jaxae.contractive_penalty(encode, x, method=method, chunk_size=chunk_size)
        return penalty.mean()

    weights = tuple(map(jnp.asarray, (W1, W2, B1)))
    check_grads(jax.jit(loss), (*weights, x), order=1, modes=["rev"], rtol=1e-6)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*weights, x)
    assert all(float(jnp.abs(g).max()) > 1e-3 for g in gradients)


@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
@pytest.mark.parametrize("method", [*EXACT, "hutchinson"])
def test_batch_axes_jit_and_vmap(x, key, batch, method):
    x = x.reshape(6, 5)[0] if batch == () else x.reshape(*batch, 5)
    penalty = partial(jaxae.contractive_penalty, deep, method=method, key=key)
    got = penalty(x)
    assert got.shape == batch
    np.testing.assert_allclose(jax.jit(penalty)(x), got, rtol=1e-12)
    if method != "hutchinson" and batch == (6,):
        np.testing.assert_allclose(jax.vmap(penalty)(x), got, rtol=1e-12)


def test_images_are_examples_of_three_axes(float64):
    images = jnp.asarray(RNG.normal(size=(3, 2, 2, 2)))
    weights = jnp.asarray(RNG.normal(size=(4, 8)))
    encode = lambda image: jnp.tanh(weights @ image.reshape(-1))
    flat = jaxae.contractive_penalty(lambda v: jnp.tanh(weights @ v), images.reshape(3, 8))
    penalty = partial(jaxae.contractive_penalty, encode, example_ndim=3)
    options = [(method, size) for method in ("jacfwd", "jacrev") for size in (None, 3)]
    found = jax.jit(lambda x: [penalty(x, method=m, chunk_size=size) for m, size in options])
    for got in found(images):
        np.testing.assert_allclose(got, flat, rtol=1e-12)


@pytest.mark.parametrize("probes", ["rademacher", "gaussian"])
@pytest.mark.parametrize(("num_samples", "chunk_size"), [(1, None), (5, None), (5, 2)])
def test_hutchinson_is_unbiased(key, probes, num_samples, chunk_size):
    n = 20_000
    x = jnp.tile(jnp.asarray(RNG.normal(size=5), jnp.float32), (n, 1))
    encode = lambda x_i: jnp.tanh(jnp.asarray(W2 @ W1, jnp.float32) @ x_i)
    exact = float(jaxae.contractive_penalty(encode, x[:1])[0])
    draws = np.asarray(
        jaxae.contractive_penalty(
            encode,
            x,
            method="hutchinson",
            key=key,
            probes=probes,
            num_samples=num_samples,
            chunk_size=chunk_size,
        ),
        np.float64,
    )
    assert abs(draws.mean() - exact) < 4 * draws.std() / np.sqrt(n)
    assert draws.std() > 0


@pytest.mark.parametrize(("d", "k"), [(100, 3), (6, 50)])
def test_auto_takes_the_cheaper_direction(d, k):
    weights = jnp.ones((k, d))
    penalty = partial(jaxae.contractive_penalty, lambda x_i: jnp.sin(weights @ x_i))
    x = jnp.ones((2, d))
    cost = {
        method: jax.jit(partial(penalty, method=method)).lower(x).compile().cost_analysis()["flops"]
        for method in EXACT
    }
    assert cost["auto"] == min(cost.values())
    assert cost["jacfwd"] != cost["jacrev"]


def test_chunks_bound_the_memory_of_the_gradient():
    weights = jnp.asarray(RNG.normal(size=(64, 784)) / 28, jnp.float32)
    x = jnp.zeros((64, 784))

    def peak(method, chunk_size):
        def loss(w):
            encode = lambda x_i: jax.nn.sigmoid(w @ x_i)
            return jaxae.contractive_penalty(encode, x, method=method, chunk_size=chunk_size).mean()

        compiled = jax.jit(jax.grad(loss)).lower(weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak("jacfwd", 28) < peak("jacfwd", None) / 4
    assert peak("jacrev", 4) < peak("jacrev", None) / 4


def test_singular_values_square_to_the_penalty(x):
    values = jaxae.jacobian_singular_values(deep, x)
    assert values.shape == (6, 4)
    assert bool((jnp.diff(values) <= 0).all())
    np.testing.assert_allclose(
        jnp.square(values).sum(-1), jaxae.contractive_penalty(deep, x), rtol=1e-10
    )
