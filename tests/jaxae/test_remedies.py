"""An example of another shape than a function wants: one line with the remedy that works."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxae

pytestmark = pytest.mark.usefixtures("no_type_hook")

KEY = jax.random.key(0)
W = jnp.ones((2, 12))
FLAT, IMAGES, COLOURED = jnp.ones((5, 12)), jnp.ones((5, 4, 3)), jnp.ones((5, 4, 3, 1))
encode, decode = (lambda v: W @ v), (lambda code: W.T @ code)
flattening = lambda v: W @ v.reshape(-1)
of_batch = lambda x: x @ W.T  # takes one example too
dense = nn.Dense(2)
DENSE = partial(dense.apply, dense.init(KEY, FLAT[0]))
CONV = jaxae.as_functions(jaxae.ConvAutoencoder((4, 3, 1), 2, channels=(2,)))
convolve = partial(CONV.encode, CONV.init(KEY))
strict_conv = lambda x: jax.lax.conv(x, jnp.ones((2, 1, 4, 3)), (1, 1), "VALID").reshape(-1, 2)
channels_first = lambda v: strict_conv(v[None])[0]
PENALTY = jaxae.contractive_penalty


def code(encode, x, **options):
    """Returns what is tried most: the loss of a decoder that takes any code."""
    shape = x.shape[x.ndim - options.get("example_ndim", 1) :]
    loss = lambda x_hat, x_i: jnp.sum(x_hat) + jnp.sum(x_i)
    decode = lambda code: jnp.sum(code) * jnp.ones(shape)
    return jaxae.reconstruction_loss(encode, decode, x, reconstruction=loss, **options)


# What encode is, the data, the options, and the remedy, which is tried below where it is one.
ENCODERS = {
    "images into dense layers": (encode, IMAGES, {}, r"float32\[3\].*x\.reshape\(\(5, 12\)\)$"),
    "one image": (encode, IMAGES[0], {}, r"x\.reshape\(\(12,\)\)$"),
    "images with channels": (encode, COLOURED, {"example_ndim": 3}, "12.. and example_ndim=1$"),
    "images into Linen's layer": (DENSE, IMAGES, {}, r"x\.reshape\(\(5, 12\)\)$"),
    "an encoder that flattens": (flattening, IMAGES, {}, "pass example_ndim=2$"),
    "a convolution": (convolve, COLOURED, {}, "pass example_ndim=3$"),
    "no channels": (convolve, IMAGES, {}, r"pass x\[\.\.\., None\] with example_ndim=3$"),
    "no channels, first": (channels_first, IMAGES, {}, r"pass x\[\.\.\., None, :, :\]"),
    "channels last": (channels_first, COLOURED, {"example_ndim": 3}, r"moveaxis\(x, -1, -3\)"),
    "channels first": (
        convolve,
        IMAGES[:, None],
        {"example_ndim": 3},
        r"moveaxis\(x, -3, -1\)",
    ),
    "vmap": (jax.vmap(encode), FLAT, {}, "takes a batch: take the jax.vmap away"),
    "vmap, images": (jax.vmap(flattening), IMAGES, {}, "example_ndim=2; it takes a batch"),
    "vmap, flat": (jax.vmap(encode), IMAGES, {}, r"x\.reshape\(\(5, 12\)\); it takes a batch"),
    "a network of batches": (
        strict_conv,
        IMAGES[:, None],
        {"example_ndim": 3},
        r"v\[None\]\)\[0\]",
    ),
    "a batch as the example": (encode, FLAT, {"example_ndim": 2}, "pass example_ndim=1$"),
    "a batch that runs": (of_batch, FLAT, {"example_ndim": 2}, r"\(5, 2\).*example_ndim=1$"),
    "a code with a batch": (lambda v: of_batch(v[None]), FLAT, {}, r"\(1, 2\).*encode\(v\)\[0\]$"),
    "a number as the code": (jnp.sum, FLAT, {}, r"gave \(\); .*encode\(v\)\[None\]$"),
    "nothing fits": (encode, FLAT[:, :7], {}, r"x has the shape \(5, 7\)"),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_an_encoder_of_another_shape(case):
    function, x, options, remedy = ENCODERS[case]
    for loss in (code, PENALTY):
        with pytest.raises(ValueError, match=f"encode .*{remedy}") as caught:
            loss(function, x, **options)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


REMEDIED = {
    "images into dense layers": (encode, IMAGES.reshape((5, 12)), {}),
    "one image": (encode, IMAGES[0].reshape((12,)), {}),
    "images with channels": (encode, COLOURED.reshape((5, 12)), {"example_ndim": 1}),
    "an encoder that flattens": (flattening, IMAGES, {"example_ndim": 2}),
    "a convolution": (convolve, COLOURED, {"example_ndim": 3}),
    "no channels": (convolve, IMAGES[..., None], {"example_ndim": 3}),
    "no channels, first": (channels_first, IMAGES[..., None, :, :], {"example_ndim": 3}),
    "channels last": (channels_first, jnp.moveaxis(COLOURED, -1, -3), {"example_ndim": 3}),
    "channels first": (convolve, jnp.moveaxis(IMAGES[:, None], -3, -1), {"example_ndim": 3}),
    "vmap": (encode, FLAT, {}),
    "a network of batches": (channels_first, IMAGES[:, None], {"example_ndim": 3}),
    "a code with a batch": (lambda v: of_batch(v[None])[0], FLAT, {}),
    "a number as the code": (lambda v: jnp.sum(v)[None], FLAT, {}),
}


@pytest.mark.parametrize("case", REMEDIED)
def test_the_remedies_work(case):
    function, x, options = REMEDIED[case]
    assert jax.eval_shape(partial(code, function, **options), x).shape in ((5,), ())


EVERY_ENCODER = {
    "sparse_loss": lambda e, x: jaxae.sparse_loss(e, decode, x, weight=1.0),
    "contractive_loss": lambda e, x: jaxae.contractive_loss(e, decode, x, weight=1.0),
    "denoising_loss": lambda e, x: jaxae.denoising_loss(KEY, e, decode, x, corrupt=jaxae.compose()),
    "denoising_loss, sampled": lambda e, x: jaxae.denoising_loss(
        KEY, e, decode, x, corrupt=jaxae.compose(), sample_code=jaxae.Gaussian(0.1).sample
    ),
    "combined_loss": lambda e, x: jaxae.combined_loss(KEY, e, decode, x, corrupt=jaxae.compose()),
    "noise_conditional_loss": lambda e, x: jaxae.noise_conditional_loss(
        KEY, lambda v, s: e(v), lambda z, s: decode(z), x, low=0.1, high=1.0
    ),
    "walkback_loss": lambda e, x: jaxae.walkback_loss(
        KEY, e, decode, x, corrupt=jaxae.compose(), sample=lambda key, v: v, steps=1
    ),
    "code_and_contractive_penalty": jaxae.code_and_contractive_penalty,
    "explain_contraction": jaxae.explain_contraction,
    "reconstruction_contractive_penalty": lambda e, x: jaxae.reconstruction_contractive_penalty(
        e, decode, x
    ),
    "higher_order_contractive_penalty": lambda e, x: jaxae.higher_order_contractive_penalty(
        KEY, e, x, stddev=0.1
    ),
    "jacobian_singular_values": jaxae.jacobian_singular_values,
    "contraction_curve": lambda e, x: jaxae.contraction_curve(KEY, e, x, radii=jnp.ones(1)),
    "reconstruction_field": lambda e, x: jaxae.reconstruction_field(e, decode, x),
    "score_estimate": lambda e, x: jaxae.score_estimate(e, decode, x, stddev=1.0),
    "under jit": lambda e, x: jax.jit(partial(jaxae.reconstruction_loss, e, decode))(x),
}


@pytest.mark.parametrize("name", EVERY_ENCODER)
def test_every_function_that_takes_an_encoder_says_it(name):
    with pytest.raises(ValueError, match=r"encode gets ONE .*x\.reshape\(\(5, 12\)\)") as caught:
        EVERY_ENCODER[name](encode, IMAGES)
    assert isinstance(caught.value.__cause__, TypeError)  # JAX's own words


def chain(encode, decode):
    step = jaxae.denoising_transition(encode, decode, corrupt=jaxae.compose())
    return partial(jaxae.markov_chain, KEY, step, steps=1)


LOSS = partial(jaxae.reconstruction_loss, encode)
DRAWN = partial(jaxae.denoising_loss, KEY, encode, decode, FLAT, corrupt=jaxae.compose())
OTHERS = {
    "decode, vmap": (lambda: LOSS(jax.vmap(decode), FLAT), "decode gets ONE code, .*jax.vmap away"),
    "decode, other code": (lambda: LOSS(lambda z: z @ W.T, FLAT), "decode gets .*encode returns"),
    "decode, flat": (
        lambda: jaxae.reconstruction_loss(flattening, decode, IMAGES, example_ndim=2),
        r"decode must return .*decode\(code\)\.reshape\(\(4, 3\)\)",
    ),
    "field, flat": (
        lambda: jaxae.reconstruction_field(flattening, decode, IMAGES, example_ndim=2),
        r"decode must return .*decode\(code\)\.reshape\(\(4, 3\)\)",
    ),
    "a column": (
        lambda: LOSS(lambda z: decode(z)[:, None], FLAT, reconstruction=lambda a, b: a - b[None]),
        r"reconstruction must compare entry with entry.*made \(12, 12\)",
    ),
    "reconstruction": (
        lambda: LOSS(decode, FLAT, reconstruction=lambda a, b: a[:3] @ b),
        "reconstruction gets .*set example_ndim",
    ),
    "sample_code": (
        lambda: DRAWN(sample_code=lambda key, code: jnp.ones(3) @ code),
        "sample_code gets .*one example by itself",
    ),
    "sample_code, vmap": (
        lambda: DRAWN(sample_code=jax.vmap(lambda key, code: code)),
        "sample_code gets .*take a jax.vmap away",
    ),
    "sample_code, a matrix": (
        lambda: DRAWN(sample_code=lambda key, code: code[None]),
        r"sample_code must draw one code \(k,\), but it gave \(1, 2\)",
    ),
    "metric": (
        lambda: jaxae.evaluate(encode, IMAGES, batch_size=2),
        "metric gets .*take a jax.vmap away",
    ),
    "transition": (lambda: chain(encode, decode)(IMAGES), "transition gets .*set example_ndim"),
    "corrupt": (
        lambda: jaxae.corrupt_batch(KEY, jax.vmap(lambda key, v: v), FLAT),
        "corrupt gets .*take a jax.vmap away",
    ),
    "model": (lambda: convolve(FLAT[0]), r"x_i must be ONE example of shape \(4, 3, 1\).*\(12,\)"),
    "model, code": (
        lambda: CONV.decode(CONV.init(KEY), jnp.ones((5, 2))),
        r"code must be ONE code of shape \(2,\).*jax.vmap",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_function_of_one_example(case):
    call, match = OTHERS[case]
    with pytest.raises(ValueError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_mean_does_not_hide_the_axes_of_an_image():
    layer = lambda params, v: params * v  # works on the last axis, the channels
    bound = lambda params: (partial(layer, params), partial(layer, params))
    loss = lambda params, key, x: jaxae.reconstruction_loss(*bound(params), x)
    optimizer = optax.sgd(0.1)
    state = jaxae.create_train_state(jnp.ones(()), optimizer)
    assert loss(jnp.ones(()), KEY, COLOURED).shape == (5, 4, 3)
    run = jaxae.make_run(loss, optimizer, batch_size=5)
    for train in (
        lambda x: jaxae.make_train_step(loss, optimizer)(state, KEY, x),
        lambda x: jaxae.make_epoch(loss, optimizer, batch_size=5)(state, KEY, 0, x),
        lambda x: jaxae.fit(run, state, KEY, x, epochs=1),
    ):
        with pytest.raises(ValueError, match=r"\(5,\) or a scalar.*\(5, 4, 3\); .*example_ndim"):
            train(COLOURED)


def raises_of_its_own(v):
    raise ValueError("the moon is full")


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (raises_of_its_own, ValueError, "^the moon is full"),
        (lambda v: jax.lax.add(v, v.astype(jnp.float16)), TypeError, "same dtypes"),
        (lambda v: v if v.sum() > 0 else -v, jax.errors.TracerBoolConversionError, "bool"),
        (lambda v: {}[0], KeyError, "0"),
        (lambda v, w: v, TypeError, "missing 1 required"),
    ],
)
def test_an_error_for_another_reason_keeps_its_class_and_words(function, error, match):
    with pytest.raises(error, match=match) as caught:
        jaxae.contractive_penalty(function, FLAT)
    assert "example_ndim" in "".join(caught.value.__notes__)
