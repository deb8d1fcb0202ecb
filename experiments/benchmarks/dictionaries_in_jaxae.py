"""The dictionaries of the benchmark beside SAELens, trained and measured by this library.

The losses are those of SAELens, so both sides do the same work: its parameters, with the codes of
top-k and its kin times the norms of the filters, its penalties, and its clipped gradients. What a
step must remember is a parameter too, which plain gradient descent sets to its next value.
"""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.benchmarks.dictionary_task import (
    ACTIVE,
    BANDWIDTH,
    DEAD_AFTER,
    FIRST_THRESHOLD,
    GRADIENT_NORM,
    STEP_SIZE,
    THRESHOLD_MEMORY,
    Method,
    Size,
    Task,
)
from jaxae import dictionary_files
from jaxae.dictionary_files import Dictionary

Params = dict[str, Array]
REMEMBERED = ("batch_threshold", "steps_since_active")


class Training:
    """Trains dictionaries of one method and size; the program is compiled by the first call."""

    def __init__(self, method: Method, size: Size) -> None:
        self._method, self._size = method, size
        free = optax.chain(optax.clip_by_global_norm(GRADIENT_NORM), optax.adam(STEP_SIZE))
        groups = {"free": free, "remembered": optax.sgd(1.0)}

        def label(params: Params) -> dict[str, str]:
            return {name: "remembered" if name in REMEMBERED else "free" for name in params}

        self._optimizer = optax.partition(groups, label)
        loss = partial(training_loss, method, size)
        self._run = jaxae.make_run(loss, self._optimizer, batch_size=size.batch)

    def __call__(self, task: Task, folder: Path) -> float:
        """Trains a dictionary, saves it in a folder, and returns the seconds of the training."""
        x, key = jnp.asarray(task.x), jaxae.hash_key(jax.random.key(0))
        params = initial(self._method, self._size, task.weights)
        state = jaxae.create_train_state(params, self._optimizer)
        jax.block_until_ready((x, state))
        start = time.perf_counter()
        state = jax.block_until_ready(jaxae.fit(self._run, state, key, x, epochs=1))
        seconds = time.perf_counter() - start
        dictionary_files.write_saelens(folder, to_dictionary(self._method, state.params))
        return seconds


def initial(method: Method, size: Size, weights: dict[str, np.ndarray]) -> Params:
    """Returns the parameters at the start, from those of SAELens."""
    params = {name: jnp.asarray(array) for name, array in weights.items()}
    if method.architecture == "jumprelu":
        params["threshold"] = jnp.full(size.units, FIRST_THRESHOLD)
    if method.ranks_a_batch:
        params["batch_threshold"] = jnp.zeros(())
    if method.ranks_units:
        params["steps_since_active"] = jnp.zeros(size.units)
    return params


def training_loss(method: Method, size: Size, params: Params, key: Array, x: Array) -> Array:
    """Returns the loss ``(batch,)`` that SAELens has for a method."""
    if method.ranks_units:
        return _loss_of_ranked_units(method, size, params, x)
    pre = _pre_activations(params, params["W_enc"], params["b_enc"], x)
    if method.architecture == "standard":
        code = jax.nn.relu(pre)
        penalty = jaxae.decoder_weighted_l1_penalty(code, params["W_dec"])
        return _error(params, code, x) + method.weight * penalty
    code = jaxae.jump_relu(pre, params["threshold"], bandwidth=BANDWIDTH)
    penalty = jaxae.step_l0_penalty(pre, params["threshold"], bandwidth=BANDWIDTH)
    return _error(params, code, x) + method.weight * penalty


def _pre_activations(params: Params, encoder: Array, bias: Array, x: Array) -> Array:
    """Returns ``(x - b_dec) @ encoder + bias``, the product of ``b_dec`` taken once for a batch.

    So its gradient costs a product of one row, and not of the whole batch.
    """
    return x @ encoder + (bias - params["b_dec"] @ encoder)[None]


def _error(params: Params, code: Array, x: Array) -> Array:
    return jaxae.squared_error(code @ params["W_dec"] + params["b_dec"][None], x)


def _loss_of_ranked_units(method: Method, size: Size, params: Params, x: Array) -> Array:
    """Returns the loss of top-k and its kin, with the auxiliary loss of dead units."""
    norms = jnp.linalg.norm(params["W_dec"], axis=1)
    pre = _pre_activations(params, params["W_enc"] * norms[None], params["b_enc"] * norms, x)
    decoder = params["W_dec"] / norms[:, None]
    keep = jaxae.batch_top_k if method.ranks_a_batch else jaxae.keep_top_k
    code = keep(jax.nn.relu(pre), k=ACTIVE)
    centred = x - params["b_dec"][None]
    error = centred - code @ decoder
    if method.architecture == "matryoshka_batchtopk":
        loss = jaxae.matryoshka_loss(code, decoder, centred, prefixes=size.prefixes)
    else:
        loss = jnp.sum(error**2, axis=-1)
    since = params["steps_since_active"]
    loss = loss + _auxiliary_loss(pre, decoder, error, since > DEAD_AFTER)
    loss = loss + _remembered(since, jnp.where(jnp.any(code > 0, axis=0), 0, since + 1))
    if method.ranks_a_batch:
        before, least = params["batch_threshold"], jaxae.batch_top_k_threshold(code)
        loss = loss + _remembered(before, before + THRESHOLD_MEMORY * (least - before))
    return loss


def _auxiliary_loss(pre: Array, decoder: Array, error: Array, is_dead: Array) -> Array:
    """Returns the loss by which dead units explain the error.

    As in SAELens it counts less while fewer units are dead than may explain one example.
    """
    most = decoder.shape[1] // 2
    share = jnp.minimum(jnp.sum(is_dead) / most, 1)
    return share * jaxae.dead_unit_loss(
        pre, lambda code_i: code_i @ decoder, error, is_dead=is_dead, k=most
    )


def _remembered(now: Array, following: Array) -> Array:
    """Returns 0, with a gradient whose step of size 1 turns ``now`` into ``following``."""
    half = 0.5 * jnp.sum((now - jax.lax.stop_gradient(following)) ** 2)
    return half - jax.lax.stop_gradient(half)


def to_dictionary(method: Method, params: Params) -> Dictionary:
    """Returns the dictionary as it is used after training."""
    arrays: dict[str, Array | np.ndarray] = {
        name: params[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    }
    if method.ranks_units:
        norms = jnp.linalg.norm(params["W_dec"], axis=1)
        arrays["W_enc"], arrays["b_enc"] = arrays["W_enc"] * norms[None], arrays["b_enc"] * norms
        arrays["W_dec"] = arrays["W_dec"] / norms[:, None]
    if method.architecture == "topk":
        return Dictionary("topk", arrays, k=ACTIVE)
    if method.architecture == "standard":
        return Dictionary("standard", arrays)
    if method.ranks_a_batch:
        arrays["threshold"] = jnp.full_like(params["b_enc"], params["batch_threshold"])
    else:
        arrays["threshold"] = jnp.maximum(params["threshold"], 0)
    return Dictionary("jumprelu", arrays)


def loss_and_gradients(
    method: Method, size: Size, weights: dict[str, np.ndarray], x: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """Returns the training loss of a batch, and its gradients by the names of the parameters."""

    def mean_loss(params: Params) -> Array:
        return jnp.mean(training_loss(method, size, params, jax.random.key(0), jnp.asarray(x)))

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(initial(method, size, weights))
    kept = {name: np.asarray(array) for name, array in gradients.items() if name not in REMEMBERED}
    return float(loss), kept


def measure(folder: Path, task: Task) -> dict[str, float]:
    """Returns the measures of a dictionary that lies in a folder, on the held-out examples."""
    found = _measure(dictionary_files.read_saelens(folder), task.x_test, task.strengths, task.atoms)
    return {name: float(value) for name, value in found.items()}


@jax.jit
def _measure(dictionary: Dictionary, x: Array, strengths: Array, atoms: Array) -> dict[str, Array]:
    code = jax.vmap(dictionary.encode)(x)
    x_hat = jax.vmap(dictionary.decode)(code)
    filters = dictionary.params["W_dec"]
    counts = jaxae.unit_counts(code, strengths, jaxae.nearest_atoms(filters, atoms))
    return {
        "active_units": jaxae.active_units(code).mean(),
        # As SAELens counts it, for which the mean of the error is an error too.
        "explained_variance": 1 - jaxae.squared_error(x_hat, x).mean() / jnp.var(x, axis=0).sum(),
        "f1": counts.f1.mean(),
        "mean_correlation": jaxae.mean_correlation(filters, atoms),
    }
