"""The network that samples the mixture in the plane, and how it is trained."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.common.data import densities
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.common.training.sweep import Sweep, Tag
from experiments.sampling.conditional import POINTS, Denoiser, LevelFunction, Levels, Scaled

DENSITY = densities.mixture()
LEVELS = Levels(low=0.02, high=3.0)
STEPS_PER_EPOCH = 20
LEARNING_RATE = 3e-3  # at the start


class Sizes(NamedTuple):
    """How much is trained and sampled."""

    epochs: int
    batch_size: int
    samples: int
    lengths: tuple[int, ...]
    seeds: int
    devices: int


class Estimates(NamedTuple):
    """What samplers know of the density, learned or exact; both take a point and a noise level.

    Attributes:
      reconstruct: the mean of the clean points that may belong to a noisy one.
      score: the gradient of the log density of the noisy points.
    """

    reconstruct: LevelFunction
    score: LevelFunction


@dataclass(frozen=True)
class PlaneNetworks:
    """The trained networks, and how much is sampled with them.

    Attributes:
      key: of the experiment.
      sizes: how much is sampled.
      trainer: has their functions.
      params: one for each seed.
    """

    key: Array
    sizes: Sizes
    trainer: Denoiser
    params: list[Params]

    def learned(self, seed: int) -> Estimates:
        """Returns what the network of a seed has learned."""
        params = self.params[seed]
        return Estimates(
            partial(self.trainer.reconstruct, params), partial(self.trainer.score, params)
        )

    def sample_keys(self, seed: int) -> Array:
        """Returns the keys of a seed: of the truth, of fresh true samples, and of the chains."""
        return jax.random.split(jax.random.fold_in(jax.random.fold_in(self.key, seed), 2), 3)


def make_trainer(sizes: Sizes) -> Denoiser:
    """Returns the trainer of the network; every step has fresh points."""
    return Denoiser(
        Scaled(hidden=(128, 128, 128), outputs=2, of_data=0.75),
        POINTS,
        LEVELS,
        learning_rate=LEARNING_RATE,
        steps=sizes.epochs * STEPS_PER_EPOCH,
        batch_size=sizes.batch_size,
        epochs=sizes.epochs,
        draw=lambda key, rows: DENSITY.sample(key, rows.shape[0]),
        devices=sizes.devices,
    )


def train(key: Array, sizes: Sizes, run: ExperimentRun) -> PlaneNetworks:
    """Returns the networks, one for each seed."""
    trainer = make_trainer(sizes)
    counted = jnp.zeros((STEPS_PER_EPOCH * sizes.batch_size, 1))

    def tag(name: str, seed: int) -> Tag:
        entry = {"part": name, "seed": seed}
        return Tag(f"plane_seed-{seed}", f"{name}, seed {seed}", entry)

    sweep = Sweep(run, range(sizes.seeds), partial(jax.random.fold_in, key), tag)
    params = sweep.fit(trainer, counted, {"mixture": ()})["mixture"]
    return PlaneNetworks(key, sizes, trainer, params)
