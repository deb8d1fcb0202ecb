"""The networks that are measured: a dense and a convolutional one, which denoise or contract."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

import jaxae
from experiments.common.data import datasets, noises
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag
from jaxae.corruption import Corruption

IMAGE = 3  # axes of one example: height, width, channels
CONTRACTIVE_TRAIN, SCORED = 10_000, 1_000  # images, for time: scores take the exact Jacobian
UNITS = {
    "clean_mse": "squared pixel value, mean over pixels and examples; clean input",
    "noisy_mse": "squared pixel value, mean over pixels and examples; noisy input",
    "noisy_psnr": "dB; noisy input",
    "jacobian_norm": "squared Frobenius norm of d code / d pixel, mean over examples",
    "sensitivity": "code distance per input distance of a small random step / of two test images",
}


class Setup(NamedTuple):
    """The data, and how networks are trained on them: the configuration, with all defaults."""

    config: CommonConfig
    dataset: datasets.Dataset
    code_dim: int
    channels: tuple[int, ...]
    noise: float
    weights: tuple[float, ...]
    epochs: int
    num_seeds: int

    def corrupt_at(self, level: float | Array) -> Corruption:
        """Returns the uniform noise with this half-width."""
        return noises.BY_NAME["uniform"].at_level(level)

    def keys(self, seed: int) -> tuple[Array, Array]:
        """Returns the keys of training and of the test noise, the same for all networks."""
        train_key, test_key = jax.random.split(
            jax.random.fold_in(jax.random.key(self.config.seed), seed), 2
        )
        return train_key, test_key

    def noisy(self, seed: int) -> Iterator[tuple[Array, Array]]:
        """Yields the noisy and the clean test images as rows, some thousands at a time."""
        rows = self.dataset.flat()[1]
        return fitting.noisy_pieces(self.keys(seed)[1], self.corrupt_at(self.noise), rows)

    def models(self) -> dict[str, jaxae.DenseAutoencoder | jaxae.ConvAutoencoder]:
        """Returns both networks, with linear codes of the same size, by their names."""
        shape, output = self.dataset.example_shape, nn.sigmoid
        return {
            "dense": jaxae.DenseAutoencoder(shape, self.code_dim, output_activation=output),
            "convolutional": jaxae.ConvAutoencoder(
                shape, self.code_dim, channels=self.channels, output_activation=output
            ),
        }


class Replicates(NamedTuple):
    """One network, trained with every seed: its parameters, and its scores over the seeds."""

    params: list[Params]
    scores: Metrics


class Trained(NamedTuple):
    """All trained networks.

    Attributes:
      setup: the data, and how they were trained.
      trainers: by name of the model; they bind parameters to functions.
      denoising: the networks trained with the noise, by name of the model.
      plain: the convolutional network trained without noise and without penalty.
      contractive: convolutional networks by lambda.
    """

    setup: Setup
    trainers: Mapping[str, fitting.AutoencoderTrainer]
    denoising: dict[str, Replicates]
    plain: Replicates
    contractive: dict[float, Replicates]


def sensitivity(encode: Function, x: Array, jacobian_norm: Array) -> Array:
    """Returns how far a small random step moves the code, relative to the way between two images.

    Both are code distances per input distance, as root mean squares. A code that is scaled keeps
    the ratio, so that no decoder can undo it.
    """

    def total_variance(v: Array) -> Array:
        return jnp.sum(jnp.var(v.reshape(len(v), -1), axis=0))

    pairs = total_variance(jax.lax.map(encode, x, batch_size=1000)) / total_variance(x)
    return jnp.sqrt(jacobian_norm / x[0].size / pairs)


def make_noisy_scores(
    trainer: fitting.AutoencoderTrainer, shape: tuple[int, ...]
) -> fitting.Scores:
    """Returns the compiled ``scores(params, x_noisy, x)`` of rows of noisy and clean pixels."""

    def reconstruct_row(params: Params, x_i: Array) -> Array:
        return trainer.reconstruct(params, x_i.reshape(shape)).reshape(-1)

    return fitting.make_scores(reconstruct_row)


def make_clean_scores(
    trainer: fitting.AutoencoderTrainer,
) -> Callable[[Params, Array], dict[str, Array]]:
    """Returns the compiled ``scores(params, x)`` of clean test images."""

    @jax.jit
    def scores(params: Params, x: Array) -> dict[str, Array]:
        encode, decode = trainer.bound(params)

        def score_example(x_i: Array) -> dict[str, Array]:
            norm = jaxae.contractive_penalty(encode, x_i, method="jacrev", example_ndim=IMAGE)
            x_hat_i = decode(encode(x_i))
            return {
                "clean_mse": jaxae.mean_squared_error(x_hat_i.reshape(-1), x_i.reshape(-1)),
                "jacobian_norm": norm,
            }

        with jax.default_matmul_precision("highest"):
            means = jaxae.evaluate(score_example, x, batch_size=100)
            return means | {"sensitivity": sensitivity(encode, x, means["jacobian_norm"])}

    return scores


class Fitter:
    """Trains networks on some images, and scores them."""

    def __init__(self, setup: Setup, run: ExperimentRun) -> None:
        self._setup, self._run = setup, run

    def trainer(self, name: str, loss: Callable[..., Array]) -> fitting.AutoencoderTrainer:
        """Returns the trainer of one of the models with a loss."""
        setup = self._setup
        return fitting.AutoencoderTrainer(
            setup.models()[name],
            loss,
            learning_rate=setup.config.learning_rate,
            batch_size=setup.config.batch_size,
            epochs=setup.epochs,
            devices=setup.config.devices,
        )

    def fit(
        self,
        name: str,
        trainer: fitting.AutoencoderTrainer,
        images: datasets.Images,
        settings: tuple[float, ...],
    ) -> dict[float, Replicates]:
        """Returns the networks of some settings, trained with every seed, with their scores."""
        setup = self._setup

        def tag(setting: float, seed: int) -> Tag:
            return Tag(
                f"{name}_{setting:g}_seed-{seed}",
                f"{name} {setting:g}, seed {seed}",
                {"model": name, "setting": setting, "seed": seed},
            )

        def key(seed: int) -> Array:
            return setup.keys(seed)[0]

        sweep = Sweep(self._run, range(setup.num_seeds), key, tag)
        x = fitting.in_memory_or_streamed(images)
        trained = sweep.fit(trainer, x, {setting: (setting,) for setting in settings})
        scores = self._make_scores(trainer)
        found = {
            setting: Replicates(params, rows_over_seeds(scores(params), UNITS))
            for setting, params in trained.items()
        }
        for setting, own in found.items():
            mse, norm = own.scores["noisy_mse"]["mean"], own.scores["jacobian_norm"]["mean"]
            self._run.say(f"{name} {setting:g}: MSE of noisy images {mse:.5f}, Jacobian {norm:.3f}")
        return found

    def _make_scores(
        self, trainer: fitting.AutoencoderTrainer
    ) -> Callable[[list[Params]], list[dict[str, Array | float]]]:
        """Returns the function that scores the networks of one trainer, one for each seed."""
        setup = self._setup
        noisy_scores = make_noisy_scores(trainer, setup.dataset.example_shape)
        clean_scores = make_clean_scores(trainer)
        clean = jnp.asarray(setup.dataset.test[:SCORED])

        def scores(params: list[Params]) -> list[dict[str, Array | float]]:
            return [
                {
                    **prefixed("noisy", fitting.mean_scores(noisy_scores, one, setup.noisy(seed))),
                    **clean_scores(one, clean),
                }
                for seed, one in enumerate(params)
            ]

        return scores


def prefixed(prefix: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores with longer names."""
    return {f"{prefix}_{name}": value for name, value in scores.items()}


def train(setup: Setup, run: ExperimentRun) -> Trained:
    """Returns all networks, trained and scored. The plain one denoises images without noise."""
    fitter = Fitter(setup, run)

    def denoise(key: Array, encode: Function, decode: Function, x: Array, level: Array) -> Array:
        corrupt = setup.corrupt_at(level)
        return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt, example_ndim=IMAGE)

    def contract(key: Array, encode: Function, decode: Function, x: Array, weight: Array) -> Array:
        # Unbiased, from one random direction of the code for each image and step.
        return jaxae.contractive_loss(
            encode, decode, x, weight=weight, method="hutchinson", key=key, example_ndim=IMAGE
        )

    images = setup.dataset.train
    trainers = {name: fitter.trainer(name, denoise) for name in setup.models()}
    denoising = {
        name: fitter.fit(name, trainer, images, (setup.noise,))[setup.noise]
        for name, trainer in trainers.items()
    }
    conv, few = trainers["convolutional"], images[:CONTRACTIVE_TRAIN]
    plain = fitter.fit("plain", conv, few, (0.0,))[0.0]
    contractive = fitter.fit(
        "contractive", fitter.trainer("convolutional", contract), few, setup.weights
    )
    return Trained(setup, trainers, denoising, plain, contractive)
