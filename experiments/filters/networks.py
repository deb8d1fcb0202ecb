"""The denoising autoencoders of every corruption and emphasis, and how they are trained."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common.data import datasets, noises
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag


class Setting(NamedTuple):
    """The settings in which the networks differ: the level of corruption, and the emphasis."""

    level: float
    beta: float


class Setup(NamedTuple):
    """The data, and how networks are trained on them: the configuration, with all defaults."""

    config: CommonConfig
    dataset: datasets.Dataset
    corruption: noises.Name
    noise_levels: tuple[float, ...]  # those tried without emphasis
    settings: list[Setting]
    code_dim: int
    epochs: int
    num_seeds: int


class Trained(NamedTuple):
    """The networks of every setting.

    Attributes:
      setup: the data, and how they were trained.
      trainer: of all networks.
      params: of each setting, one for each seed; a seed starts all alike.
    """

    setup: Setup
    trainer: fitting.AutoencoderTrainer
    params: dict[Setting, list[Params]]

    def filters(self, setting: Setting) -> list[np.ndarray]:
        """Returns the filters ``(units, h, w, c)`` of each seed."""
        shape = self.setup.dataset.example_shape
        kernels = [np.asarray(params["encoder_kernel_0"]) for params in self.params[setting]]
        return [kernel.T.reshape(-1, *shape) for kernel in kernels]


def make_trainer(setup: Setup) -> fitting.AutoencoderTrainer:
    """Returns the trainer of all networks; noise and emphasis are traced."""
    at_level = noises.BY_NAME[setup.corruption].at_level

    def loss(
        key: Array, encode: Function, decode: Function, x: Array, level: Array, beta: Array
    ) -> Array:
        return jaxae.denoising_loss(
            key,
            encode,
            decode,
            x,
            corrupt=at_level(level),
            reconstruction=jaxae.bernoulli_nll,
            emphasis=(jnp.ones_like(beta), beta),
        )

    model = jaxae.DenseAutoencoder(
        (setup.dataset.num_features,), setup.code_dim, code_activation=nn.sigmoid, tied=True
    )
    return fitting.AutoencoderTrainer(
        model,
        loss,
        learning_rate=setup.config.learning_rate,
        batch_size=setup.config.batch_size,
        epochs=setup.epochs,
        devices=setup.config.devices,
    )


def train(setup: Setup, run: ExperimentRun) -> Trained:
    """Returns the networks of every setting."""

    def tag(setting: Setting, seed: int) -> Tag:
        return Tag(
            f"noise-{setting.level:g}_beta-{setting.beta:g}_seed-{seed}",
            f"noise {setting.level:g}, beta {setting.beta:g}",
            {**setting._asdict(), "seed": seed},
        )

    trainer = make_trainer(setup)
    key = partial(jax.random.fold_in, jax.random.key(setup.config.seed))
    sweep = Sweep(run, range(setup.num_seeds), key, tag)
    x = jnp.asarray(setup.dataset.flat()[0])
    params = sweep.fit(trainer, x, {setting: setting for setting in setup.settings})
    return Trained(setup, trainer, params)
