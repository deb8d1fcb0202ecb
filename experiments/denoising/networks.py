"""The networks of every code dimension and noise level: how they are trained and scored."""

import time
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common.data import datasets, noises
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ITEMS_IN_PARALLEL, ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag
from experiments.denoising import baselines
from experiments.denoising.baselines import Baseline
from experiments.denoising.scores import scores_over_seeds
from jaxae.corruption import Corruption


class Setup(NamedTuple):
    """The data, and how networks are trained on them: the configuration, with all defaults."""

    config: CommonConfig
    dataset: datasets.Dataset
    corruption: noises.Name
    dims: tuple[int, ...]
    levels: tuple[float, ...]
    swept_dim: int
    epochs: int
    num_seeds: int

    def corrupt_at(self, level: float | Array) -> Corruption:
        """Returns the corruption of a noise level."""
        return noises.BY_NAME[self.corruption].at_level(level)

    @property
    def first_noise(self) -> str:
        """Kind and level of the noise with which every code dimension is trained, in words."""
        return f"{self.corruption} noise {self.levels[0]:g}"

    def network_bytes(self) -> int:
        """Returns the bytes of the weights and Adam's moments that are in memory at a time."""
        d = self.dataset.num_features

        def bytes_at(dim: int) -> int:
            levels = len(self.levels) if dim == self.swept_dim else 1
            return self.num_seeds * levels * 3 * 4 * (2 * d * dim + d + dim)

        # The largest come first.
        return sum(bytes_at(dim) for dim in self.dims[:ITEMS_IN_PARALLEL])


def seed_keys(setup: Setup, seed: int) -> tuple[Array, Array, Array]:
    """Returns the keys of training, of the test noise and of the baselines' noise.

    They do not depend on code dimension or level: all models see the same noise.
    """
    train_key, test_key, pairs_key = jax.random.split(
        jax.random.fold_in(jax.random.key(setup.config.seed), seed), 3
    )
    return train_key, test_key, pairs_key


class Scored(NamedTuple):
    """The scores of one network over the seeds; pictures and parameters of the first one."""

    numbers: Metrics
    pictures: dict[str, np.ndarray]
    params: Params


class Trained(NamedTuple):
    """The networks of every code dimension, trained and scored.

    Attributes:
      setup: the data, and how they were trained.
      train: the training images as rows.
      scored: by code dimension, one for each noise level.
      baselines: what they are compared with, by noise level.
    """

    setup: Setup
    train: datasets.Images
    scored: dict[int, list[Scored]]
    baselines: dict[float, Baseline]

    @property
    def by_code_dim(self) -> list[Scored]:
        """Every code dimension, at the first noise level."""
        return [own[0] for own in self.scored.values()]

    @property
    def by_noise_level(self) -> list[Scored]:
        """Every noise level, at one code dimension."""
        return self.scored[self.setup.swept_dim]

    def rows(self, scored: list[Scored]) -> list[Metrics]:
        """Returns the scores of networks, each beside what it is compared with."""
        bases = [self.baselines[one.numbers["noise_level"]] for one in scored]
        return [
            {
                **one.numbers,
                "corrupted": base.corrupted,
                "linear": base.linear[one.numbers["code_dim"]],
            }
            for one, base in zip(scored, bases, strict=True)
        ]


class Runner:
    """Trains, scores and keeps examples, one code dimension at a time."""

    def __init__(self, setup: Setup, run: ExperimentRun) -> None:
        self.setup, self.run = setup, run
        self.train, self.test = setup.dataset.flat()
        self.to_train_on = fitting.in_memory_or_streamed(self.train)
        self.examples = setup.dataset.one_of_each_class()

    def rows(self, dim: int) -> list[Scored]:
        """Returns the results at one code dimension, one for each noise level it needs."""
        setup, d = self.setup, self.train.shape[1]

        def loss(key: Array, encode: Function, decode: Function, x: Array, level: Array) -> Array:
            return jaxae.denoising_loss(key, encode, decode, x, corrupt=setup.corrupt_at(level))

        trainer = fitting.AutoencoderTrainer(
            jaxae.DenseAutoencoder((d,), dim, output_activation=nn.sigmoid),
            loss,
            learning_rate=setup.config.learning_rate,
            batch_size=setup.config.batch_size,
            epochs=setup.epochs,
            devices=setup.config.devices,
        )
        levels = setup.levels if dim == setup.swept_dim else setup.levels[:1]

        def tag(level: float, seed: int) -> Tag:
            return Tag(
                f"dim-{dim}_noise-{level:g}_seed-{seed}",
                f"dim {dim}, noise {level:g}, seed {seed}",
                {"code_dim": dim, "noise_level": level, "seed": seed},
            )

        def key(seed: int) -> Array:
            return seed_keys(setup, seed)[0]

        sweep = Sweep(self.run, range(setup.num_seeds), key, tag)
        started = time.perf_counter()
        trained = sweep.fit(trainer, self.to_train_on, {level: (level,) for level in levels})
        seconds = (time.perf_counter() - started) / (len(levels) * setup.num_seeds)
        scored = [self._score(trainer, dim, level, own) for level, own in trained.items()]
        for one in scored:
            one.numbers["seconds_per_run"] = round(seconds, 2)
        return scored

    def _score(
        self, trainer: fitting.AutoencoderTrainer, dim: int, level: float, trained: list[Params]
    ) -> Scored:
        """Returns the scores of the seeds' networks, and pictures of the first one."""
        scores, pictures = [], {}
        for seed, params in enumerate(trained):
            _, test_key, _ = seed_keys(self.setup, seed)
            noisy = test_key, self.setup.corrupt_at(level), self.test
            pieces = fitting.noisy_pieces(*noisy)
            scores.append(fitting.mean_scores(trainer.scores, params, pieces))
            if seed == 0:
                pictures = self._pictures(
                    trainer, params, *fitting.noisy_rows(*noisy, self.examples)
                )
        row: Metrics = {"code_dim": dim, "noise_level": level, **scores_over_seeds(scores)}
        mse, psnr = row["test_mse"]["mean"], row["test_psnr"]["mean"]
        self.run.say(f"dim {dim:5d}  noise {level:4g}  test MSE {mse:.5f}  PSNR {psnr:5.2f} dB")
        return Scored(row, pictures, trained[0])

    def _pictures(
        self, trainer: fitting.AutoencoderTrainer, params: Params, x_noisy: Array, x: Array
    ) -> dict[str, np.ndarray]:
        """Returns examples of the test set: clean, noisy and denoised, and the first code."""

        def as_images(rows: Array) -> np.ndarray:
            return np.asarray(rows).reshape(-1, *self.setup.dataset.example_shape)

        encode, _ = trainer.bound(params)
        return {
            "clean": as_images(x),
            "noisy": as_images(x_noisy),
            "denoised": as_images(jax.vmap(partial(trainer.reconstruct, params))(x_noisy)),
            "code": np.asarray(encode(x_noisy[0])),
        }

    def baselines(self) -> dict[float, Baseline]:
        """Returns the baselines by noise level."""
        keys = [seed_keys(self.setup, seed)[1:] for seed in range(self.setup.num_seeds)]
        return {
            level: baselines.score(
                keys,
                self.setup.corrupt_at(level),
                self.train,
                self.test,
                self.setup.dims if level == self.setup.levels[0] else (self.setup.swept_dim,),
            )
            for level in self.setup.levels
        }


def train(setup: Setup, run: ExperimentRun) -> Trained:
    """Returns the networks of every code dimension and noise level, trained and scored."""
    runner = Runner(setup, run)
    scored = dict(zip(setup.dims, run.in_parallel(runner.rows, setup.dims), strict=True))
    return Trained(setup, runner.train, scored, runner.baselines())
