"""A denoising autoencoder that is told how strong the noise is, for annealed sampling.

.. math:: r(x, s) = c_1(s) x + c_2(s) F(c_3(s) x, \\log s)

F is the network, and the scales are those of Karras et al. 2022 (table 1): F has inputs and targets
of size 1 at every noise level, and r is almost x at small noise, almost the mean at large noise.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import jaxae
from experiments.common import fitting, interrupts


class Levels(NamedTuple):
    """Noise of training: standard deviations, and that of a feature of the data."""

    low: float
    high: float
    of_data: float

    def ladder(self, steps: int) -> Array:
        """Returns falling levels for the steps of a chain, geometric from high to low."""
        return jnp.geomspace(self.high, self.low, steps)


class Network(nn.Module):
    """F as one hidden stack; the code of the autoencoder is its last layer, and x beside it."""

    hidden: Sequence[int]
    outputs: int

    def setup(self) -> None:
        self.layers = [nn.Dense(width, name=f"hidden_{i}") for i, width in enumerate(self.hidden)]
        self.out = nn.Dense(self.outputs, name="out", kernel_init=nn.initializers.zeros_init())

    def encode(self, x_i: Array, stddev: Array, of_data: float) -> Array:
        """Returns the code of one noisy example: features, and the example itself."""
        log = jnp.log(stddev)
        known = jnp.stack([log / 4, jnp.sin(log), jnp.cos(log), jnp.sin(2 * log), jnp.cos(2 * log)])
        h = jnp.concatenate([x_i / jnp.sqrt(stddev**2 + of_data**2), known])
        for layer in self.layers:
            h = nn.silu(layer(h))
        return jnp.concatenate([h, x_i])

    def decode(self, code: Array, stddev: Array, of_data: float) -> Array:
        """Returns the estimate of the clean example."""
        h, x_i = code[: self.hidden[-1]], code[self.hidden[-1] :]
        total = stddev**2 + of_data**2
        return of_data**2 / total * x_i + stddev * of_data / jnp.sqrt(total) * self.out(h)

    def __call__(self, x_i: Array, stddev: Array, of_data: float) -> Array:
        """Returns decode(encode(x_i))."""
        return self.decode(self.encode(x_i, stddev, of_data), stddev, of_data)


class Denoiser:
    """Trains such a network, and makes its reconstruction and its score.

    Args:
      network: F.
      levels: noise of training.
      inputs: features of an example.
      learning_rate: step size of Adam at the start; it falls to 0 along a cosine.
      steps: of the whole training, for the cosine.
      batch_size: examples per step.
      draw: makes the batch of a step from its key and the rows of the data; by default the rows.
      devices: devices over which a batch is divided.
    """

    def __init__(
        self,
        network: Network,
        levels: Levels,
        inputs: int,
        *,
        learning_rate: float,
        steps: int,
        batch_size: int,
        draw: Any = None,
        devices: int = 1,
    ) -> None:
        self._network, self._levels, self._inputs = network, levels, inputs
        self._optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

        def loss(params: Any, key: Array, x: Array) -> Array:
            draw_key, noise_key = jax.random.split(key)
            x = x if draw is None else draw(draw_key, x)
            functions = self.bound(params)
            bounds: Any = {"low": levels.low, "high": levels.high}
            return jaxae.noise_conditional_loss(noise_key, *functions, x, **bounds)

        mesh = fitting.mesh_of(devices)
        self._run = jaxae.make_run(loss, self._optimizer, batch_size=batch_size, mesh=mesh)

    def bound(self, params: Any) -> tuple[Any, Any]:
        """Returns ``encode(x_i, stddev)`` and ``decode(code, stddev)`` with these parameters."""
        apply = partial(self._network.apply, {"params": params}, of_data=self._levels.of_data)
        return partial(_of, apply, "encode"), partial(_of, apply, "decode")

    def reconstruct(self, params: Any, x_i: Array, stddev: Array) -> Array:
        """Returns the estimate of the clean example."""
        encode, decode = self.bound(params)
        return decode(encode(x_i, stddev), stddev)

    def score(self, params: Any, x_i: Array, stddev: Array) -> Array:
        """Returns (r(x, s) - x) / s^2."""
        encode, decode = (partial(_told, function, stddev) for function in self.bound(params))
        return jaxae.score_estimate(encode, decode, x_i, stddev=stddev)

    def fit_many(
        self, keys: Sequence[Array], x: Array, *, epochs: int, on_epoch: Any, checkpoints: Any
    ) -> list[Any]:
        """Returns the parameters of one network for each key."""

        def start(key: Array) -> tuple[jaxae.TrainState, Array]:
            init_key, train_key = jax.random.split(key)
            example = jnp.zeros(self._inputs), jnp.ones(())
            params = self._network.init(init_key, *example, self._levels.of_data)["params"]
            state = jaxae.create_train_state(params, self._optimizer)
            return state, jaxae.hash_key(train_key)

        states, train_keys = jax.jit(jax.vmap(start))(jnp.stack(list(keys)))
        options: Any = {"epochs": epochs, "on_epoch": on_epoch, "checkpoints": checkpoints}
        with interrupts.deferred():
            trained = jaxae.fit_many(self._run, states, train_keys, x, **options)
        return fitting.unstacked(trained.params, len(keys))


def _told(function: Any, stddev: Array, value: Array) -> Array:
    return function(value, stddev)


def _of(apply: Any, method: str, value: Array, stddev: Array) -> Array:
    return apply(value, stddev, method=method)


def anneal(
    key: Array,
    x: Array,
    ladder: Array,
    *,
    score: Any,
    reconstruct: Any,
    step_size: float,
    **chain: Any,
) -> Array:
    """Returns samples by annealed Langevin dynamics, and one reconstruction from the noise left.

    Args:
      key: PRNG key.
      x: where the chains start ``(n, d)``, noise of the first level.
      ladder: noise level of every step.
      score: ``score(x_i, stddev)``.
      reconstruct: ``reconstruct(x_i, stddev)``.
      step_size: of the dynamics, relative to the squared level.
      **chain: of ``jaxae.markov_chain``.
    """
    step = jaxae.langevin_transition(score, step_size=step_size)
    options = {"steps": len(ladder), "thin": len(ladder), "schedule": ladder, **chain}
    last = jaxae.markov_chain(key, step, x, **options)[-1]
    return jax.vmap(reconstruct, (0, None))(last, ladder[-1])
