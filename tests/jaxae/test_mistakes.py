"""Mistakes that other implementations made, each shown to be absent here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae

RNG = np.random.default_rng(5)


def test_the_gradient_of_a_sum_is_not_a_jacobian_norm(float64):
    # Units in +/- pairs: the sum of the code is constant, its gradient is 0, J is not.
    half = RNG.normal(size=(3, 5))
    weights = jnp.asarray(np.concatenate([half, -half]))
    x = RNG.normal(size=(4, 5))
    encode = lambda x_i: weights @ x_i
    wrong = np.sum(np.asarray(jax.jit(jax.grad(lambda x_i: encode(x_i).sum()))(x[0])) ** 2)
    assert wrong < 1e-25
    methods = ("auto", "jacfwd", "jacrev")
    penalty = partial(jaxae.contractive_penalty, encode)
    for found in jax.jit(lambda x: [penalty(x, method=method) for method in methods])(x):
        np.testing.assert_allclose(found, 2 * np.sum(half**2), rtol=1e-12)
    assert 2 * np.sum(half**2) > 10


@pytest.mark.thorough(by_default=["auto"])
@pytest.mark.parametrize("method", ["auto", "jacfwd", "jacrev", "hutchinson"])
def test_the_penalty_moves_the_weights(key, method):
    model = jaxae.DenseAutoencoder((6,), 4, code_activation=jax.nn.sigmoid, tied=True)
    init, encode, decode = jaxae.as_functions(model)
    x = jnp.asarray(RNG.uniform(size=(8, 6)), jnp.float32)

    def loss(params, weight):
        bound = partial(encode, params), partial(decode, params)
        return jaxae.contractive_loss(*bound, x, weight=weight, method=method, key=key).mean()

    params, gradient = jax.jit(init)(key), jax.jit(jax.grad(loss))
    plain, penalised = (jax.device_get(gradient(params, weight)) for weight in (0.0, 1.0))
    for name in ("encoder_kernel_0", "encoder_bias_0"):
        assert np.abs(plain[name] - penalised[name]).max() > 1e-3, name


def test_every_weight_matters():
    # A weight read and never used would leave the loss where it was.
    x = jnp.asarray(RNG.uniform(size=(8, 6)), jnp.float32)
    w = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
    encode, decode = (lambda v: jax.nn.sigmoid(w @ v)), (lambda z: w.T @ z)
    kl = partial(jaxae.kl_sparsity_penalty, target=0.1)
    key = jax.random.key(0)
    combined = partial(jaxae.combined_loss, key, encode, decode, x, corrupt=jaxae.compose())
    losses = {
        "l1": lambda v: jaxae.sparse_loss(encode, decode, x, weight=v),
        "kl": lambda v: jaxae.sparse_loss(encode, decode, x, weight=v, penalty=kl),
        "contractive": lambda v: jaxae.contractive_loss(encode, decode, x, weight=v),
        "combined, sparsity": lambda v: combined(sparsity_weight=v),
        "combined, contraction": lambda v: combined(contraction_weight=v),
    }
    for name, loss in losses.items():
        base, one, two = (np.asarray(jax.jit(loss)(v)) for v in (0.0, 1.0, 2.0))
        assert (one > base + 1e-3).all(), name
        np.testing.assert_allclose(two - base, 2 * (one - base), rtol=1e-4, err_msg=name)


def test_the_penalty_is_a_sum_over_entries_and_end_to_end(float64):
    first, second = RNG.normal(size=(5, 4)), RNG.normal(size=(3, 5))
    encode = lambda v: jnp.asarray(second) @ (jnp.asarray(first) @ v)
    penalty = float(jax.jit(partial(jaxae.contractive_penalty, encode))(np.zeros((1, 4)))[0])
    np.testing.assert_allclose(penalty, np.sum((second @ first) ** 2), rtol=1e-12)
    per_layer = np.sum(first**2) + np.sum(second**2)
    assert abs(penalty - per_layer) > 1  # not the sum of per-layer penalties
    assert abs(penalty - np.mean((second @ first) ** 2)) > 1  # not the mean over entries


def test_fresh_noise_in_every_batch_and_epoch(key):
    seen = []

    def loss(params, step_key, x):
        noisy = jaxae.corrupt_batch(step_key, partial(jaxae.gaussian_noise, stddev=1.0), x)
        jax.debug.callback(lambda v: seen.append(np.asarray(v)), noisy)
        return params * noisy.sum(-1)

    optimizer = optax.sgd(0.0)
    run = jaxae.make_run(loss, optimizer, batch_size=5)
    state = jaxae.create_train_state(jnp.zeros(()), optimizer)
    jaxae.fit(run, state, key, jnp.zeros((12, 3)), epochs=3)
    jax.effects_barrier()
    values = np.concatenate([v.ravel() for v in seen])
    assert values.size >= 3 * 12 * 3
    assert len(np.unique(values)) == 3 * 12 * 3


def test_noise_is_on_the_input_and_never_on_the_target(key):
    x = RNG.uniform(size=(5, 4)).astype(np.float32)
    corrupt = partial(jaxae.gaussian_noise, stddev=1.0)
    seen = []

    def reconstruction(x_hat, target):
        seen.append(1)
        return jnp.sum(target)  # the loss IS the target

    @jax.jit
    def losses(x):
        loss = partial(jaxae.denoising_loss, key, decode=lambda z: z, x=x, corrupt=corrupt)
        target = loss(encode=lambda v: v, reconstruction=reconstruction)
        return target, loss(encode=lambda v: 0 * v)

    got, blind = losses(x)
    assert seen
    np.testing.assert_allclose(got, x.sum(-1), rtol=1e-6)
    np.testing.assert_allclose(blind, (x**2).sum(-1), rtol=1e-6)


def test_explained_variance_is_about_variances_over_examples(float64):
    x = RNG.normal(size=(50, 3)) * np.array([5.0, 1.0, 0.1]) + np.array([0.0, 100.0, -3.0])
    x_hat = x + RNG.normal(size=(50, 3)) * 0.5 + 7.0  # a constant offset does not count
    expected = 1 - (x - x_hat).var(0).sum() / x.var(0).sum()
    explained_variance = jax.jit(jaxae.explained_variance)
    got = float(explained_variance(x_hat, x))
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    mean_only = np.broadcast_to(x.mean(0), (50, 3))
    np.testing.assert_allclose(explained_variance(mean_only, x), 0, atol=1e-12)
    per_feature = np.mean(1 - (x - x_hat).var(0) / x.var(0))
    assert abs(got - per_feature) > 1


def test_logits_are_never_shown_as_pixels():
    logits = jnp.array([-50.0, 0.0, 50.0])
    np.testing.assert_allclose(jaxae.Bernoulli().mean(logits), [0.0, 0.5, 1.0], atol=1e-6)


def test_bernoulli_loss_at_logit_104_has_value_and_gradient():
    logits, x = np.array([104, -104, 104], np.float32), np.array([0, 1, 1], np.float32)
    value, gradient = jax.jit(jax.value_and_grad(jaxae.bernoulli_nll))(logits, x)
    np.testing.assert_allclose(value, 208.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [1.0, -1.0, 0.0], atol=1e-6)
