"""Flax models: shapes, tying, initialisation, purity."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jaxae

RNG = np.random.default_rng(8)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.thorough(by_default=["False-3-hidden1", "True-12-hidden0"])
@pytest.mark.parametrize("hidden", [(), (7,), (9, 5)])
@pytest.mark.parametrize("code_dim", [3, 12])
@pytest.mark.parametrize("tied", [False, True])
def test_dense_shapes_and_parameter_counts(key, hidden, code_dim, tied):
    model = jaxae.DenseAutoencoder((2, 3, 1), code_dim, hidden_dims=hidden, tied=tied)
    init, encode, decode = jaxae.as_functions(model)
    params = jax.eval_shape(init, key)
    code = jax.eval_shape(encode, params, jax.ShapeDtypeStruct((2, 3, 1), jnp.float32))
    assert code.shape == (code_dim,)
    assert jax.eval_shape(decode, params, code).shape == (2, 3, 1)
    widths = [6, *hidden, code_dim]
    kernels = sum(n * m for n, m in itertools.pairwise(widths))
    biases = sum(widths[1:]) + sum(widths[:-1])
    assert count(params) == kernels * (1 if tied else 2) + biases


def test_dense_is_the_formula(key):
    model = jaxae.DenseAutoencoder(
        (4,), 2, hidden_dims=(3,), activation=jnp.tanh, output_activation=nn.sigmoid
    )
    init, encode, decode = jaxae.as_functions(model)
    start = jax.device_get(jax.jit(init)(key))
    p = jax.tree.map(lambda v: v + np.float32(0.1), start)  # biases that are not 0
    x = RNG.normal(size=4).astype(np.float32)
    h = np.tanh(x @ p["encoder_kernel_0"] + p["encoder_bias_0"])
    code = h @ p["encoder_kernel_1"] + p["encoder_bias_1"]
    np.testing.assert_allclose(jax.jit(encode)(p, x), code, rtol=1e-5)
    h = np.tanh(code @ p["decoder_kernel_0"] + p["decoder_bias_0"])
    x_hat = scipy.special.expit(h @ p["decoder_kernel_1"] + p["decoder_bias_1"])
    np.testing.assert_allclose(jax.jit(decode)(p, code), x_hat, rtol=1e-5)


def test_no_activation_is_the_lectures_linear_code(key):
    init, encode, _ = jaxae.as_functions(jaxae.DenseAutoencoder((5,), 8))
    encode = partial(jax.jit(encode), jax.jit(init)(key))
    a, b = RNG.normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_allclose(encode(a + b), encode(a) + encode(b), atol=1e-5)


@pytest.mark.thorough(by_default=["hidden1"])
@pytest.mark.parametrize("hidden", [(), (7, 4)])
def test_tied_decoder_uses_the_transposed_kernels_and_trains_them_once(key, hidden):
    model = jaxae.DenseAutoencoder((6,), 3, hidden_dims=hidden, activation=None, tied=True)
    init, encode, decode = jaxae.as_functions(model)
    params = jax.jit(init)(key)
    assert not any(name.startswith("decoder_kernel") for name in params)
    encoder = jax.jit(jax.jacfwd(partial(encode, params)))(np.zeros(6, np.float32))
    decoder = jax.jit(jax.jacfwd(partial(decode, params)))(np.zeros(3, np.float32))
    np.testing.assert_allclose(decoder, np.asarray(encoder).T, atol=1e-6)


def test_initialisation_is_an_argument(key):
    model = jaxae.DenseAutoencoder(
        (4,),
        2,
        kernel_init=nn.initializers.constant(0.5),
        bias_init=nn.initializers.constant(-1.0),
    )
    params = jax.jit(jaxae.as_functions(model).init)(key)
    assert set(np.unique(params["encoder_kernel_0"])) == {0.5}
    assert set(np.unique(params["decoder_bias_0"])) == {-1.0}
    default = jax.jit(jaxae.as_functions(jaxae.DenseAutoencoder((400,), 100)).init)(key)
    limit = np.sqrt(6 / 500)  # Glorot: U(-l, l), l = sqrt(6 / (inputs + outputs))
    kernel = np.asarray(default["encoder_kernel_0"])
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (7, 5, 3), (1, 9, 2)])
@pytest.mark.parametrize("channels", [(3,), (4, 6), (2, 3, 4)])
def test_convolutional_shapes_at_odd_sizes(key, shape, channels):
    model = jaxae.ConvAutoencoder(shape, code_dim=5, channels=channels)
    init, encode, decode = jaxae.as_functions(model)
    params = jax.eval_shape(init, key)
    code = jax.eval_shape(encode, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert code.shape == (5,)
    assert jax.eval_shape(decode, params, code).shape == shape


def test_convolutional_encoder_sees_the_whole_image_and_decoder_reaches_all(key):
    model = jaxae.ConvAutoencoder((8, 8, 1), code_dim=6, activation=jnp.tanh)
    init, encode, decode = jaxae.as_functions(model)
    params = jax.jit(init)(key)
    x, code = RNG.uniform(size=(8, 8, 1)).astype(np.float32), np.ones(6, np.float32)
    into_code = np.abs(jax.jit(jax.jacrev(partial(encode, params)))(x)).sum(0)
    assert (into_code > 0).all()
    out_of_code = np.abs(jax.jit(jax.jacfwd(partial(decode, params)))(code)).sum(-1)
    assert (out_of_code > 0).all()


def test_output_activation_and_code_activation(key):
    for model in (
        jaxae.DenseAutoencoder((4, 4, 1), 5, code_activation=nn.sigmoid, output_activation=nn.relu),
        jaxae.ConvAutoencoder((4, 4, 1), 5, code_activation=nn.sigmoid, output_activation=nn.relu),
    ):
        init, encode, decode = jaxae.as_functions(model)
        params = jax.jit(init)(key)
        code = np.asarray(jax.jit(encode)(params, np.full((4, 4, 1), 10, np.float32)))
        assert code.min() >= 0
        assert code.max() <= 1
        assert np.abs(code - 0.5).max() > 0.01
        assert np.min(jax.jit(decode)(params, code)) == 0


def test_the_functions_are_pure_and_vmap(key):
    init, encode, decode = jaxae.as_functions(jaxae.DenseAutoencoder((6,), 3))
    params = init(key)
    jax.tree.map(np.testing.assert_array_equal, params, init(key))
    x = jnp.asarray(RNG.normal(size=(5, 6)), jnp.float32)
    codes = jax.jit(jax.vmap(partial(encode, params)))(x)
    np.testing.assert_allclose(codes, jnp.stack([encode(params, v) for v in x]), atol=1e-6)
    assert jax.vmap(partial(decode, params))(codes).shape == (5, 6)


@pytest.mark.thorough(by_default=["DenseAutoencoder"])
@pytest.mark.parametrize("model", [jaxae.DenseAutoencoder, jaxae.ConvAutoencoder])
def test_float64(model, key, float64):
    init, encode, decode = jaxae.as_functions(model((4, 4, 1), 3, param_dtype=jnp.float64))
    reconstruct = lambda params, x_i: decode(params, encode(params, x_i))
    x_hat = jax.jit(reconstruct)(jax.jit(init)(key), np.ones((4, 4, 1)))
    assert x_hat.dtype == jnp.float64
