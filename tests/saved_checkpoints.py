"""Checkpoints of networks with random weights, as a run writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from experiments.common.results import checkpoint_store, trained


def params_of(model, seed=0):
    """Returns weights with biases that are not 0."""
    random = np.random.default_rng(seed)
    like = jax.eval_shape(trained.functions_of(model).init, jax.random.key(0))
    draw = lambda leaf: jnp.asarray(random.normal(0.1, 0.4, leaf.shape), leaf.dtype)
    return jax.tree.map(draw, like)


def save(folder, name, model, *, losses=(3.0,), seed=0):
    """Writes a checkpoint for each loss, after 1, 2, ... epochs; the weights are of that seed."""
    options = {"identity": {"experiment": "none"}, "environment": {}, "every": 1}
    store = checkpoint_store.CheckpointStore(folder, is_resumed=True, say=pytest.fail, **options)
    view = store.register([name], [trained.describe(model)])
    for epoch in range(1, len(losses) + 1):
        params = jax.tree.map(np.asarray, params_of(model, seed + epoch))
        state = jaxae.TrainState(params, (), np.int32(epoch))
        view.save(0, jaxae.Snapshot(state, epoch, 0, np.array(losses[:epoch]), np.zeros(1)))
    assert store.close(is_over=True)
    return folder / name
