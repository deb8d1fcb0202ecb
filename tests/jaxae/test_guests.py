"""The same weights in Flax Linen, Flax NNX, Equinox, Haiku and a plain function.

Every loss must give the same value, and the same gradient with respect to the weights.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae

RNG = np.random.default_rng(6)
D, K, N = 6, 4, 5
WEIGHTS = {  # kernels are (inputs, outputs)
    "enc_w": jnp.asarray(RNG.normal(size=(D, K)), jnp.float32),
    "enc_b": jnp.asarray(RNG.normal(size=K), jnp.float32),
    "dec_w": jnp.asarray(RNG.normal(size=(K, D)), jnp.float32),
    "dec_b": jnp.asarray(RNG.normal(size=D), jnp.float32),
}
X = jnp.asarray(RNG.uniform(size=(N, D)), jnp.float32)


def plain(weights):
    encode = lambda x_i: jax.nn.sigmoid(x_i @ weights["enc_w"] + weights["enc_b"])
    decode = lambda z: z @ weights["dec_w"] + weights["dec_b"]
    return encode, decode


def jaxae_model(weights):
    model = jaxae.DenseAutoencoder((D,), K, code_activation=jax.nn.sigmoid)
    _, encode, decode = jaxae.as_functions(model)
    params = {
        "encoder_kernel_0": weights["enc_w"],
        "encoder_bias_0": weights["enc_b"],
        "decoder_kernel_0": weights["dec_w"],
        "decoder_bias_0": weights["dec_b"],
    }
    return partial(encode, params), partial(decode, params)


def linen(weights):
    import flax.linen as nn

    params = lambda part: {"params": {"kernel": weights[f"{part}_w"], "bias": weights[f"{part}_b"]}}
    encode = lambda x_i: jax.nn.sigmoid(nn.Dense(K).apply(params("enc"), x_i))
    decode = partial(nn.Dense(D).apply, params("dec"))
    return encode, decode


def nnx(weights):
    try:
        from flax import nnx as library
    except Exception as error:  # some pairs of flax and jax do not import, in several ways
        pytest.skip(f"flax.nnx does not import with jax {jax.__version__}: {error!r}")

    layers = {}
    for part, shape in (("enc", (D, K)), ("dec", (K, D))):
        layer = library.Linear(*shape, rngs=library.Rngs(0))
        graph, state = library.split(layer)
        state["kernel"].set_value(weights[f"{part}_w"])
        state["bias"].set_value(weights[f"{part}_b"])
        layers[part] = library.merge(graph, state)
    return (lambda x_i: jax.nn.sigmoid(layers["enc"](x_i))), layers["dec"]


def equinox(weights):
    eqx = pytest.importorskip("equinox")
    layers = {}
    for part, (inputs, outputs) in (("enc", (D, K)), ("dec", (K, D))):
        layer = eqx.nn.Linear(inputs, outputs, key=jax.random.key(0))
        new = (weights[f"{part}_w"].T, weights[f"{part}_b"])
        layers[part] = eqx.tree_at(lambda m: (m.weight, m.bias), layer, new)
    return (lambda x_i: jax.nn.sigmoid(layers["enc"](x_i))), layers["dec"]


def haiku(weights):
    hk = pytest.importorskip("haiku")
    networks = {
        part: hk.without_apply_rng(hk.transform(lambda v, size=size: hk.Linear(size)(v)))
        for part, size in (("enc", K), ("dec", D))
    }
    apply = lambda part, v: networks[part].apply(
        {"linear": {"w": weights[f"{part}_w"], "b": weights[f"{part}_b"]}}, v
    )
    return (lambda x_i: jax.nn.sigmoid(apply("enc", x_i))), partial(apply, "dec")


LOSSES = {
    "reconstruction": lambda key, *f: jaxae.reconstruction_loss(*f, X),
    "sparse": lambda key, *f: jaxae.sparse_loss(*f, X, weight=0.3),
    "kl sparse": lambda key, *f: jaxae.sparse_loss(
        *f, X, weight=0.3, penalty=partial(jaxae.kl_sparsity_penalty, target=0.1)
    ),
    "denoising": lambda key, *f: jaxae.denoising_loss(
        key, *f, X, corrupt=partial(jaxae.gaussian_noise, stddev=0.5)
    ),
    "bernoulli": lambda key, *f: jaxae.denoising_loss(
        key,
        *f,
        X,
        corrupt=partial(jaxae.masking_noise, rate=0.3),
        reconstruction=jaxae.bernoulli_nll,
    ),
    "contractive": lambda key, *f: jaxae.contractive_loss(*f, X, weight=0.3),
    "contractive, forward": lambda key, *f: jaxae.contractive_loss(
        *f, X, weight=0.3, method="jacfwd", chunk_size=2
    ),
    "combined": lambda key, *f: jaxae.combined_loss(
        key,
        *f,
        X,
        corrupt=partial(jaxae.masking_noise, rate=0.3),
        sparsity_weight=0.1,
        contraction_weight=0.2,
    ),
    "score": lambda key, *f: jaxae.score_estimate(*f, X, stddev=0.5).sum(-1),
}


@pytest.mark.thorough(by_default=["linen"])
@pytest.mark.parametrize("guest", [jaxae_model, linen, nnx, equinox, haiku])
def test_every_loss_agrees_with_the_plain_function(guest, key):
    guest(WEIGHTS)  # skips here where the library is not usable
    for name, loss in LOSSES.items():

        def value(weights, build, loss=loss):
            return loss(key, *build(weights)).mean()

        expected = jax.jit(jax.value_and_grad(partial(value, build=plain)))(WEIGHTS)
        got = jax.jit(jax.value_and_grad(partial(value, build=guest)))(WEIGHTS)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6, err_msg=name), got, expected
        )


def test_a_module_with_state_gets_a_note_that_says_what_to_pass():
    import flax.linen as nn

    layer = nn.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), jnp.ones((2, D)))
    with pytest.raises(Exception, match="batch_stats") as caught:
        jaxae.contractive_penalty(lambda x_i: layer.apply(variables, x_i), X)
    assert "evaluation mode" in "".join(caught.value.__notes__)


def test_dropout_without_a_key_gets_the_note_too():
    import flax.linen as nn

    layer = nn.Dropout(0.5, deterministic=False)
    with pytest.raises(Exception, match="dropout") as caught:
        jaxae.contractive_penalty(lambda x_i: layer.apply({}, x_i), X)
    assert "one example" in "".join(caught.value.__notes__)


def test_an_error_in_a_users_own_function_keeps_its_class_and_line():
    def broken(x_i):
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake") as caught:
        jaxae.reconstruction_loss(broken, lambda z: z, X)
    assert any(entry.name == "broken" for entry in caught.traceback)


def test_elementwise_optax_losses_can_be_the_reconstruction():
    import optax

    f = plain(WEIGHTS)
    got = jaxae.reconstruction_loss(*f, X, reconstruction=optax.squared_error)
    np.testing.assert_allclose(got, jaxae.reconstruction_loss(*f, X), rtol=1e-6)
