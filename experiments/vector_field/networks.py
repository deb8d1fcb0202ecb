"""The networks that learn the field of each density, and how they are trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, ScalarLike

import jaxae
from experiments.common.data import densities
from experiments.common.data.densities import Density
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag
from experiments.vector_field.grid import Fields, on_grid

NOISE = {"circle": 0.1, "spiral": 0.1, "mixture": 0.2}  # standard deviations
OTHER_NOISE = (0.5, 2.0)  # times that: levels of one more network each, for the lecture's page
# Their networks start from the trained one, so they need but a share of its epochs and of its step
# size. Trained from random parameters for all epochs instead, they would not be better by much:
# the error near the data is from 0.7 to 1.3 times that, elsewhere up to 1.7 times.
OTHER_EPOCHS = 0.3
OTHER_LEARNING_RATE = 1 / 8
STEPS_PER_EPOCH = 20


@dataclass(frozen=True)
class Field:
    """The networks of one density.

    Attributes:
      density: where its points come from.
      trainer: of all networks.
      params: one network for each seed, which the numbers and the figures are of.
      others: one network for each other noise level, by its standard deviation; each starts from
        the last of ``params``.
    """

    density: Density
    trainer: fitting.AutoencoderTrainer
    params: list[Params]
    others: dict[float, Params]

    @property
    def stddev(self) -> float:
        """The noise level of ``params``."""
        return NOISE[self.density.name]

    def learned(self, seed: int) -> Function:
        """Returns dec(enc(y)) - y, as the network of a seed has learned it."""
        return self.learned_by(self.params[seed])

    def learned_by(self, params: Params) -> Function:
        """Returns dec(enc(y)) - y of the network with these parameters."""
        return partial(jaxae.reconstruction_field, *self.trainer.bound(params))

    @cached_property
    def on_grid(self) -> list[Fields]:
        """The learned field beside the exact one, for each seed."""
        learned = [self.learned(seed) for seed in range(len(self.params))]
        return on_grid(self.density, self.stddev, learned)


class Trained(NamedTuple):
    """The networks of all densities."""

    fields: dict[str, Field]
    seed_key: Callable[[int], Array]  # the key of a repetition

    @property
    def curves(self) -> dict[str, Field]:
        """Those of the densities whose data lie on a curve."""
        return {name: own for name, own in self.fields.items() if own.density.spread == 0}

    @property
    def mixtures(self) -> dict[str, Field]:
        """Those of the densities that are spread around some centres."""
        return {name: own for name, own in self.fields.items() if own.density.spread > 0}


def wide_first_layer(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
    """Returns a kernel with fan-in scaling 2, three times as large where the input is a point.

    A network whose first layer is nearly linear over the square never finds the spiral.
    """
    initializer = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
    return initializer(key, shape, dtype) * (3 if shape[0] == 2 else 1)


def make_trainer(
    density: Density,
    config: CommonConfig,
    epochs: int,
    learning_rate: float,
    start: Params | None = None,
) -> fitting.AutoencoderTrainer:
    """Returns a trainer that draws its points from the density; the data only say how many.

    Args:
      density: where the points come from.
      config: has the batch size and the devices.
      epochs: times ``STEPS_PER_EPOCH`` steps.
      learning_rate: step size of Adam at the start.
      start: the parameters at the start, by default random ones.
    """

    def loss(
        key: Array,
        encode: Function,
        decode: Function,
        x: Array,
        stddev: ScalarLike = NOISE[density.name],
    ) -> Array:
        corrupt = partial(jaxae.gaussian_noise, stddev=stddev)
        point_key, noise_key = jax.random.split(key)
        points = density.sample(point_key, x.shape[0])
        return jaxae.denoising_loss(noise_key, encode, decode, points, corrupt=corrupt)

    steps = STEPS_PER_EPOCH * epochs
    model = jaxae.DenseAutoencoder(
        (2,),
        128,
        hidden_dims=(128,),
        activation=jnp.tanh,
        code_activation=jnp.tanh,
        kernel_init=wide_first_layer,
        bias_init=nn.initializers.normal(1.0),
    )
    return fitting.AutoencoderTrainer(
        model,
        loss,
        learning_rate=optax.cosine_decay_schedule(learning_rate, steps),
        batch_size=config.batch_size,
        epochs=epochs,
        devices=config.devices,
        start=start,
    )


def train(
    config: CommonConfig, epochs: Mapping[str, int], num_seeds: int, run: ExperimentRun
) -> Trained:
    """Returns the networks of all densities, trained on fresh points."""
    counted = jnp.zeros((STEPS_PER_EPOCH * config.batch_size, 1))

    def tag(name: str, seed: int) -> Tag:
        return Tag(f"{name}_seed-{seed}", f"{name}, seed {seed}", {"density": name, "seed": seed})

    def other_tag(level: tuple[str, float], seed: int) -> Tag:
        name, stddev = level
        entry = {"density": name, "seed": seed, "noise_stddev": stddev}
        called = f"{name}_noise-{stddev:g}_seed-{seed}"
        return Tag(called, f"{name}, noise {stddev:g}, seed {seed}", entry)

    seed_key = partial(jax.random.fold_in, jax.random.key(config.seed))
    seeds = range(num_seeds)
    sweep = Sweep(run, seeds, seed_key, tag)
    other_sweep = Sweep(run, seeds[-1:], seed_key, other_tag)
    rate = config.learning_rate
    fields = {}
    for name, make in densities.ALL.items():
        density = make()
        trainer = make_trainer(density, config, epochs[name], rate)
        params = sweep.fit(trainer, counted, {name: ()})[name]
        other_trainer = make_trainer(
            density, config, other_epochs(epochs[name]), OTHER_LEARNING_RATE * rate, params[-1]
        )
        levels = {(name, factor * NOISE[name]): (factor * NOISE[name],) for factor in OTHER_NOISE}
        others = other_sweep.fit(other_trainer, counted, levels)
        by_stddev = {stddev: own for (_, stddev), (own,) in others.items()}
        fields[name] = Field(density, trainer, params, by_stddev)
    return Trained(fields, seed_key)


def other_epochs(epochs: int) -> int:
    """Returns how long the networks of the other noise levels are trained."""
    return max(1, round(OTHER_EPOCHS * epochs))
