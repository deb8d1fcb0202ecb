"""Layers that need the whole batch inside a function of one example: found, or rightly let pass."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jaxae

pytestmark = pytest.mark.usefixtures("no_type_hook")

KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(4), (7, 6))
DECODE = lambda code: jnp.sum(code) * jnp.ones(6)
W = jnp.ones((3, 6))
IMAGES = jnp.ones((2, 4, 4, 3))


def linen_norm(x_i, **options):
    """Returns the output of a fresh BatchNorm in training mode."""
    layer = nn.BatchNorm(use_running_average=False, **options)
    variables = layer.init(KEY, x_i[None])
    return layer.apply(variables, x_i, mutable=["batch_stats"])[0]


def nnx_norm(x_i):
    try:
        from flax import nnx as library
    except Exception:
        pytest.skip("flax.nnx does not import")
    graph, state = library.split(library.BatchNorm(6, rngs=library.Rngs(0)))
    return library.merge(graph, state, copy=True)(x_i)


def by_hand(x_i):
    x = x_i[None]  # the batch that a network of batches is given
    return ((x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5))[0]


@pytest.mark.parametrize(
    "encode",
    [
        lambda v: W @ linen_norm(v),
        lambda v: linen_norm(v, use_fast_variance=False),
        lambda v: W @ nnx_norm(v),
        lambda v: W @ by_hand(v),
        lambda v: jax.jit(by_hand)(v),
        lambda v: jax.checkpoint(by_hand)(v) + W.sum() * v,  # beside a path that still sees v
    ],
)
def test_a_normalisation_of_one_example_is_found(encode):
    match = r"^encode normalises one example against itself.*recipes\.md"
    for call in (
        lambda x: jaxae.contractive_penalty(encode, x),
        lambda x: jaxae.reconstruction_loss(encode, DECODE, x),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            call(X)
        assert "\n" not in str(caught.value)


def test_of_images_too_where_the_module_is_seen():
    encode = lambda v: linen_norm(v).reshape(-1)  # over the pixels of one image: 16, not 32
    with pytest.raises(ValueError, match="normalises one example against itself"):
        jaxae.contractive_penalty(encode, IMAGES, example_ndim=3)
    with pytest.raises(ValueError, match=r"^decode normalises one example against itself"):
        jaxae.reconstruction_loss(lambda v: v, linen_norm, X)


@pytest.mark.parametrize(
    "encode",
    [
        lambda v: jnp.zeros(3),
        lambda v: 0 * v,
        lambda v: v - v,
        lambda v: v - v.mean()[None],
        lambda v: nn.LayerNorm().apply({"params": {"scale": W[0], "bias": W[0]}}, v),
        lambda v: jax.nn.softmax(v[:1]),
        lambda v: (W - W.mean(0, keepdims=True)) @ v,
        lambda v: linen_norm_at_rest(v),
    ],
)
def test_no_false_alarm_of_a_normalisation(encode):
    assert jax.eval_shape(partial(jaxae.contractive_penalty, encode), X).shape == (7,)


def linen_norm_at_rest(x_i):
    layer = nn.BatchNorm(use_running_average=True)
    return layer.apply(layer.init(KEY, x_i[None]), x_i)


def masks():
    """Returns encoders with one mask for the whole batch."""
    linen_dropout = lambda v: nn.Dropout(0.5, deterministic=False).apply(
        {}, v, rngs={"dropout": KEY}
    )
    found = {
        "linen": linen_dropout,
        "where": lambda v: jnp.where(jax.random.bernoulli(KEY, 0.5, v.shape), 2 * v, 0.0),
        "product": lambda v: v * jax.random.bernoulli(KEY, 0.5, v.shape).astype(v.dtype) / 0.5,
        "hidden": lambda v: linen_dropout(W @ v),
    }
    try:
        import equinox as eqx
    except ImportError:
        return found
    return found | {"equinox": lambda v: eqx.nn.Dropout(0.5)(v, key=KEY)}


@pytest.mark.parametrize("name", masks())
def test_one_mask_for_all_examples_is_a_warning(name):
    encode = masks()[name]
    with pytest.warns(UserWarning, match=r"encode draws one random mask .* all 7 examples"):
        jax.eval_shape(partial(jaxae.reconstruction_loss, encode, DECODE), X)


def test_of_a_decoder_too():
    decode = masks()["where"]
    with pytest.warns(UserWarning, match=r"decode draws one random mask .* all 7 examples"):
        jax.eval_shape(partial(jaxae.reconstruction_loss, lambda v: v, decode), X)


def test_no_false_alarm_of_a_mask():
    draw = lambda key, v: jnp.where(jax.random.bernoulli(key, 0.5, v.shape), 2 * v, 0.0)
    signs = jax.random.rademacher(KEY, (3, 6), dtype=jnp.float32)
    loss = jaxae.reconstruction_loss
    for call in (
        lambda x: loss(partial(draw, KEY), DECODE, x[0]),  # of one example it is no mistake
        lambda x: jax.vmap(lambda k, v: loss(partial(draw, k), DECODE, v))(
            jax.random.split(KEY, 7), x
        ),
        lambda x: loss(lambda v: jax.random.normal(KEY, (3, 6)) @ v, DECODE, x),
        lambda x: loss(lambda v: signs @ v, DECODE, x),
        lambda x: jaxae.denoising_loss(
            KEY, lambda v: v, DECODE, x, corrupt=jaxae.compose(), sample_code=draw
        ),
        lambda x: jaxae.denoising_loss(
            KEY, lambda v: v, DECODE, x, corrupt=partial(jaxae.masking_noise, rate=0.5)
        ),
    ):
        jax.eval_shape(call, X)
