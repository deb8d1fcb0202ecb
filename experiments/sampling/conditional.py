"""A denoising autoencoder that is told how strong the noise is, for annealed sampling.

Two networks. :class:`Scaled`, for points of any size, makes the reconstruction

.. math:: r(x, s) = c_1(s) x + c_2(s) F(c_3(s) x, \\log s)

with the scales of Karras et al. 2022 (table 1): F has inputs and targets of size 1 at every noise
level, and r is almost x at small noise, almost the mean at large noise. :class:`OfPixels` makes the
logits of pixels in [0, 1]: what it makes is a picture of the right contrast at any input.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import jaxae
from experiments.common.files.atomic import JsonObject
from experiments.common.results.trained import Network, makes_network
from experiments.common.training.arrays import Params
from experiments.common.training.fitting import Trainer

LevelFunction = Callable[[Array, Array], Array]  # of an example, or code, and its noise level


class Levels(NamedTuple):
    """Standard deviations of the noise of training."""

    low: float
    high: float

    def ladder(self, steps: int) -> Array:
        """Returns falling levels for the steps of a chain, geometric from high to low."""
        return jnp.geomspace(self.high, self.low, steps)


class Told(nn.Module):
    """Layers over a noisy example and its noise level.

    Attributes:
      hidden: widths of the layers.
      outputs: features of an example.
      of_data: standard deviation of a feature of the data, for the scale of the inputs.
    """

    hidden: Sequence[int]
    outputs: int
    of_data: float

    def setup(self) -> None:
        self.layers = [nn.Dense(width, name=f"hidden_{i}") for i, width in enumerate(self.hidden)]
        self.out = nn.Dense(self.outputs, name="out", kernel_init=nn.initializers.zeros_init())

    def encode(self, x_i: Array, stddev: Array) -> Array:
        """Returns the code of one noisy example: the last hidden layer."""
        log = jnp.log(stddev)
        known = jnp.stack([log / 4, jnp.sin(log), jnp.cos(log), jnp.sin(2 * log), jnp.cos(2 * log)])
        h = jnp.concatenate([x_i / jnp.sqrt(stddev**2 + self.of_data**2), known])
        for layer in self.layers:
            h = nn.silu(layer(h))
        return h

    def decode(self, code: Array, stddev: Array) -> Array:
        """Returns what the last layer makes of the code."""
        return self.out(code)

    def __call__(self, x_i: Array, stddev: Array) -> Array:
        """Returns decode(encode(x_i))."""
        return self.decode(self.encode(x_i, stddev), stddev)


class Scaled(Told):
    """Estimates clean points of any size; its code holds the features, and the point itself."""

    def encode(self, x_i: Array, stddev: Array) -> Array:
        """Returns the code of one noisy example."""
        return jnp.concatenate([super().encode(x_i, stddev), x_i])

    def decode(self, code: Array, stddev: Array) -> Array:
        """Returns the estimate of the clean example."""
        h, x_i = code[: self.hidden[-1]], code[self.hidden[-1] :]
        total = stddev**2 + self.of_data**2
        of_network = stddev * self.of_data / jnp.sqrt(total) * self.out(h)
        return self.of_data**2 / total * x_i + of_network


class OfPixels(Told):
    """Estimates clean pixels in [0, 1], as logits: the output of the last layer."""


@makes_network
def told_autoencoder(
    kind: str, hidden: Sequence[int], outputs: int, of_data: float
) -> jaxae.AutoencoderFunctions:
    """Returns such a network, as it is loaded: ``encode(params, x_i, stddev)``."""
    network = {"Scaled": Scaled, "OfPixels": OfPixels}[kind](tuple(hidden), outputs, of_data)

    def init(key: Array) -> Params:
        return network.init(key, jnp.zeros(outputs), jnp.ones(()))["params"]

    def call(method: str, params: Params, value: Array, stddev: Array) -> Any:
        return network.apply({"params": params}, value, stddev, method=method)

    return jaxae.AutoencoderFunctions(init, partial(call, "encode"), partial(call, "decode"))


class Kind(NamedTuple):
    """What the output of a network is.

    Attributes:
      reconstruction: its loss against the clean example.
      mean: the estimate of the clean example, from the output.
      weight: what a noise level counts.
    """

    reconstruction: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    weight: Callable[[Array], Array] | None


POINTS = Kind(jaxae.squared_error, lambda output: output, None)
PIXELS = Kind(jaxae.bernoulli_nll, nn.sigmoid, jnp.ones_like)


class Denoiser(Trainer):
    """Trains such a network, and makes its reconstruction and its score.

    Args:
      network: told the noise level.
      kind: what its output is.
      levels: noise of training.
      learning_rate: step size of Adam at the start; it falls to 0 along a cosine.
      steps: of the whole training, for the cosine.
      batch_size: examples per step.
      epochs: passes over the data.
      draw: makes the batch of a step from its key and the rows of the data; by default the rows.
      devices: devices over which a batch is divided.
    """

    def __init__(
        self,
        network: Scaled | OfPixels,
        kind: Kind,
        levels: Levels,
        *,
        learning_rate: float,
        steps: int,
        batch_size: int,
        epochs: int,
        draw: Callable[[Array, Array], Array] | None = None,
        devices: int = 1,
    ) -> None:
        arguments: JsonObject = {"kind": type(network).__name__, "hidden": list(network.hidden)}
        arguments |= {"outputs": network.outputs, "of_data": network.of_data}
        self.model = Network(told_autoencoder, arguments, (network.outputs,))
        self._functions, self._mean = told_autoencoder(**arguments), kind.mean

        def loss(params: Params, key: Array, x: Array) -> Array:
            draw_key, noise_key = jax.random.split(key)
            x = x if draw is None else draw(draw_key, x)
            return jaxae.noise_conditional_loss(
                noise_key,
                *self.bound(params),
                x,
                reconstruction=kind.reconstruction,
                weight=kind.weight,
                **levels._asdict(),
            )

        optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
        super().__init__(
            self._functions.init,
            loss,
            optimizer,
            batch_size=batch_size,
            epochs=epochs,
            devices=devices,
        )

    def bound(self, params: Params) -> tuple[LevelFunction, LevelFunction]:
        """Returns ``encode(x_i, stddev)`` and ``decode(code, stddev)`` with these parameters."""
        return partial(self._functions.encode, params), partial(self._functions.decode, params)

    def reconstruct(self, params: Params, x_i: Array, stddev: Array) -> Array:
        """Returns the estimate of the clean example."""
        encode, decode = self.bound(params)
        return self._mean(decode(encode(x_i, stddev), stddev))

    def score(self, params: Params, x_i: Array, stddev: Array) -> Array:
        """Returns (r(x, s) - x) / s^2."""
        encode, decode = self.bound(params)
        return jaxae.score_estimate(
            lambda x_i: encode(x_i, stddev),
            lambda code: self._mean(decode(code, stddev)),
            x_i,
            stddev=stddev,
        )


def anneal(
    key: Array,
    x: Array,
    ladder: Array,
    *,
    score: LevelFunction,
    reconstruct: LevelFunction,
    step_size: float,
    fixed: Array | None = None,
    keep: int = 1,
) -> Array:
    """Returns reconstructions along chains of annealed Langevin dynamics.

    Args:
      key: PRNG key.
      x: where the chains start ``(n, d)``, noise of the first level.
      ladder: noise level of every step.
      score: ``score(x_i, stddev)``.
      reconstruct: ``reconstruct(x_i, stddev)``.
      step_size: of the dynamics, relative to the squared level.
      fixed: which features of ``x`` are known ``(d,)``, and are completed by the others; the
        chain sees them with the noise of its level, as in training (Song and Ermon 2019, app. B.3).
      keep: how many states are kept, a divisor of the steps.

    Returns:
      Clean examples ``(keep, n, d)``, the last of which are the samples.
    """
    step = jaxae.langevin_transition(score, step_size=step_size)
    known = jnp.zeros(x.shape[1:], bool) if fixed is None else fixed

    def completing(key: Array, x_i: Array, level: Array) -> Array:
        noise_key, step_key = jax.random.split(key)
        noisy = x_i + level * jax.random.normal(noise_key, x_i.shape, x_i.dtype)
        return step(step_key, jnp.where(known, noisy, x_i), level)

    key, last_key = jax.random.split(key)
    thin = len(ladder) // keep
    states = jaxae.markov_chain(
        key,
        step if fixed is None else completing,
        x,
        steps=len(ladder),
        thin=thin,
        schedule=ladder,
        fixed=known,
    )
    levels = ladder[thin - 1 :: thin]
    noise = jax.random.normal(last_key, states.shape, states.dtype)
    shown = jnp.where(known, states + levels[:, None, None] * noise, states)
    clean = jax.vmap(jax.vmap(reconstruct, (0, None)))(shown, levels)
    return jnp.where(known, x, clean)
