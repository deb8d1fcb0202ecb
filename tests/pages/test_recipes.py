"""docs/recipes.md, run: batch normalisation and dropout in training mode, in three libraries.

Values and gradients are those of the same network on the whole batch, written out here.
"""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optional_libraries import require_nnx

import jaxae

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- recipe: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(4), (7, 6))
corrupt = partial(jaxae.gaussian_noise, stddev=0.5)
DECODER = {"kernel": jax.random.normal(KEY, (3, 6)), "bias": jnp.ones(6)}


def run_page(name, rate, **names):
    """Returns what the page defines for a library, with another rate of dropout."""
    names |= {"corrupt": corrupt}
    exec(BLOCKS["loss"] + BLOCKS[name].replace("0.5", str(rate)), names)
    return names


def scaled(tree):
    """Returns parameters none of which is 0 or 1, as those of a normalisation are at first."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(KEY, len(leaves))
    moved = [
        leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def linen(rate):
    page = run_page("linen", rate)
    with_state = page["encoder"].init(KEY, X[0], is_training=False)
    encoder, statistics = scaled(with_state["params"]), with_state["batch_stats"]

    def weights(params):
        first, norm, last = (params["encoder"][n] for n in ("Dense_0", "BatchNorm_0", "Dense_1"))
        dense = lambda layer: (layer["kernel"], layer["bias"])
        return *dense(first), norm["scale"], norm["bias"], *dense(last)

    return page, {"encoder": encoder, "statistics": statistics, "decoder": DECODER}, weights


def nnx(rate):
    library = require_nnx()
    page = run_page("nnx", rate)
    module = page["Encoder"](library.Rngs(0))
    page["graph"], encoder, statistics = library.split(module, library.Param, ...)

    def weights(params):
        value = lambda layer, name: jax.tree.leaves(params["encoder"][layer][name])[0]
        dense = lambda layer: (value(layer, "kernel"), value(layer, "bias"))
        return *dense("first"), value("norm", "scale"), value("norm", "bias"), *dense("last")

    return page, {"encoder": scaled(encoder), "statistics": statistics, "decoder": DECODER}, weights


def equinox(rate):
    eqx = pytest.importorskip("equinox")
    page = run_page("equinox", rate)
    module, page["state"] = eqx.nn.make_with_state(page["Encoder"])(KEY)
    encoder, page["static"] = eqx.partition(module, eqx.is_inexact_array)

    def weights(params):
        first, norm, last = (getattr(params["encoder"], n) for n in ("first", "norm", "last"))
        dense = lambda layer: (layer.weight.T, layer.bias)
        return *dense(first), norm.weight, norm.bias, *dense(last)

    return page, {"encoder": scaled(encoder), "decoder": DECODER}, weights


def normalised(h, mean, variance, scale, bias):
    shape = (-1, *h.shape[1:])
    rows = lambda v: jnp.broadcast_to(v, h.shape).reshape(shape)
    return (h - rows(mean)) / rows(jnp.sqrt(variance + 1e-5)) * rows(scale) + rows(bias)


def on_the_batch(weights, decoder, key, x):
    """Returns the denoising loss of the network on the whole batch, written out."""
    kernel, bias, scale, shift, last_kernel, last_bias = weights
    noise_keys = jax.vmap(jax.random.split)(jax.random.split(key, len(x)))[:, 1]
    x_noisy = jax.vmap(lambda k, v: jaxae.corrupt_batch(k, corrupt, v, batch_ndim=0))(noise_keys, x)
    h = x_noisy @ kernel + bias[None]
    h = jax.nn.relu(normalised(h, h.mean(0), h.var(0), scale, shift))
    code = h @ last_kernel + last_bias[None]
    return jaxae.squared_error(code @ decoder["kernel"] + decoder["bias"][None], x)


GUESTS = [linen, nnx, equinox]


@pytest.mark.thorough(by_default=["linen"])
@pytest.mark.parametrize("guest", GUESTS)
def test_batch_normalisation_in_training_mode_is_that_of_the_whole_batch(guest):
    page, params, weights = guest(0.0)

    def expected(params, key, x):
        return on_the_batch(weights(params), params["decoder"], key, x)

    @jax.jit
    def both(params):
        with_values = lambda loss: lambda p: (loss(p, KEY, X).mean(), loss(p, KEY, X))
        of = lambda loss: jax.value_and_grad(with_values(loss), has_aux=True)(params)
        return of(page["loss"]), of(expected)

    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), *both(params))


@pytest.mark.thorough(by_default=["linen"])
@pytest.mark.parametrize("guest", GUESTS)
def test_every_example_has_a_mask_of_its_own(guest):
    page, params, _ = guest(0.5)
    page["corrupt"] = jaxae.compose()
    params["encoder"] = jax.tree.map(jnp.abs, params["encoder"])  # so that no relu is at 0
    same = jnp.broadcast_to(X[:1], X.shape)
    # The rows are equal, so that masks alone tell the losses apart: 2^5 of them.
    of_keys = jax.jit(jax.vmap(page["loss"], (None, 0, None)))
    losses = of_keys(params, jax.random.split(KEY), same)
    assert all(len(np.unique(np.asarray(of_key))) > 2 for of_key in losses)
    assert (losses[0] != losses[1]).any()


def test_the_recipe_is_a_loss_for_training():
    page, params, _ = linen(0.5)
    optimizer = optax.sgd(0.02)
    step = jaxae.make_train_step(page["loss"], optimizer)
    state = jaxae.create_train_state(params, optimizer)
    trained, value = jax.eval_shape(step, state, KEY, X)
    assert jax.tree.structure(trained) == jax.tree.structure(state)
    assert value.shape == ()


def test_the_contractive_penalty_takes_the_statistics_of_the_batch_as_fixed():
    page, params, weights = linen(0.0)
    exec(BLOCKS["contractive"], page)
    kernel, bias, scale, shift, last_kernel, _ = weights(params)
    h = X @ kernel + bias[None]
    of_page = lambda params: (
        page["statistics_of"](params, X)["BatchNorm_0"],
        page["contractive"](params, KEY, X, 0.3),
        page["loss"](params, KEY, X),
    )
    found, contractive, loss = jax.jit(of_page)(params)
    np.testing.assert_allclose(found["mean"], h.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"], h.var(0), rtol=1e-4, atol=1e-5)
    slopes = np.asarray(normalised(h, h.mean(0), h.var(0), scale, shift) > 0)
    slopes = slopes * np.asarray(scale / jnp.sqrt(h.var(0) + 1e-5))
    jacobians = np.einsum("hk,nh,dh->nkd", last_kernel, slopes, kernel)
    expected = loss + 0.3 * (jacobians**2).sum((1, 2))
    np.testing.assert_allclose(contractive, expected, rtol=1e-3)


def test_a_jacobian_across_the_batch_is_refused():
    page, params, _ = linen(0.0)
    encode, _ = page["network"](params, KEY)
    for penalty in (jaxae.contractive_penalty, jaxae.jacobian_singular_values):
        with pytest.raises(ValueError, match=r"encode uses the other examples .*recipes\.md"):
            jax.vmap(partial(penalty, encode), axis_name="batch")(X)


def test_without_the_name_of_the_axis_one_line_points_here():
    page, params, _ = linen(0.0)
    with pytest.raises(ValueError, match=r"encode gets .*axis_name='batch' \(docs/recipes\.md\)"):
        jaxae.contractive_penalty(page["network"](params, KEY)[0], X)
