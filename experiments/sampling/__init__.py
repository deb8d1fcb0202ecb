"""Autoencoders as generative models: samples by chains, and how good they are.

A denoising autoencoder knows the score of the noisy data, and so can be sampled from: by Langevin
dynamics at one noise level, by its own chain of corruption and reconstruction (Bengio et al. 2013),
and by annealed Langevin dynamics with an autoencoder that is told how strong the noise is (Song and
Ermon 2019). A contractive one can walk along its tangents (Rifai et al. 2012).

On a mixture of five Gaussians in the plane the distance of the samples to the truth is a number,
against the length of the chains and against the noise: the sliced Wasserstein distance, over that
of two true samples of the same size. On images a classifier looks at the samples: how sure it is of
them, and how many classes there are; beside it stands the distance to the nearest training image.

    python -m experiments.sampling                      MNIST and the mixture, 15 minutes, 2 cores
    python -m experiments.sampling --parts mixture      about 3 minutes, 2 cores

Expected: on the mixture 1.0 with annealing over 1,000 steps, 15 over 30 steps; at one noise level
of 0.2 Langevin dynamics stay at 3, because they sample the noisy points. On MNIST 9.6 classes, seen
with 93 % confidence, by annealing over 100 steps, 7 by the denoising chain, 8 with walkback; 80 %
of the digits whose lower half is completed are what they were.

Models: for the mixture three hidden layers of 128 units, told the noise level, 20,000 steps of
fresh points, Adam with cosine decay from 3e-3. For images two hidden layers of 1000 units, told the
noise level, with the cross-entropy; and one layer of 500 sigmoid units, tied, as denoising
autoencoder with salt and pepper on 40 % of the pixels, with and without walkback, and as CAE; Adam
at 1e-3, with cosine decay where the noise level is told. Deviations: the walkback has 3 steps, not
a random number; one Langevin step is taken at each of many noise levels.
"""

from dataclasses import dataclass
from typing import Literal

import jax

from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import Part
from experiments.common.training.classifiers import split_of
from experiments.sampling import chains, gallery, image_scores, mixture, networks, plane

PartName = Literal["mixture", "images"]
PARTS: tuple[Part[networks.Trained], ...] = (mixture, image_scores, gallery)


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the sampling experiment."""

    parts: tuple[PartName, ...] = ("mixture", "images")
    """What is sampled; the mixture alone needs no data set."""
    epochs: command_line.Optional[int] = None
    """Passes of the autoencoders over the images; by default 15, on digits 200."""
    mixture_epochs: command_line.Optional[int] = None
    """Times 20 steps of the mixture, each on fresh points; by default 1000."""
    learning_rate: float = 1e-3
    """Step size of Adam for the autoencoders of the images, at most 10."""
    batch_size: int = 128
    """Images per step; of the mixture it is twice as many points."""
    code_dim: int = 500
    """Units of the code of the autoencoders that are not told the noise level."""
    hidden: int = 1000
    """Units of each of the two hidden layers of the one that is."""
    samples: int = 5000
    """Chains on the mixture, and points of every true sample."""
    steps: tuple[int, ...] = (3, 10, 30, 100, 300, 1000)
    """Rising lengths of the chains on the mixture."""
    pictures: int = 1000
    """Chains on the images of every kind, at most as many as there are test images."""
    picture_steps: tuple[int, ...] = (10, 30, 100, 300)
    """Rising lengths of the annealed chains on the images."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise InputError("--parts must name at least one part, and none twice")
        command_line.require_integer("--mixture-epochs", self.mixture_epochs, low=1, high=10**6)
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**14)
        command_line.require_integer("--hidden", self.hidden, low=1, high=2**14)
        command_line.require_integer("--samples", self.samples, low=2, high=10**6)
        command_line.require_integer("--pictures", self.pictures, low=2, high=10**4)
        for option, steps in (("--steps", self.steps), ("--picture-steps", self.picture_steps)):
            for one in steps:
                command_line.require_integer(option, one, low=1, high=10**5)
            command_line.require_rising(option, steps)


def make_mixture_sizes(config: Config, seeds: int) -> plane.Sizes:
    """Returns how much is done on the mixture."""
    return plane.Sizes(
        epochs=config.mixture_epochs or (2 if config.quick else 1000),
        batch_size=2 * config.batch_size,
        samples=min(config.samples, 200) if config.quick else config.samples,
        lengths=config.steps,
        seeds=seeds,
        devices=config.devices,
    )


def make_image_sizes(config: Config, count: int, epochs: int, num_seeds: int) -> chains.Sizes:
    """Returns how much is done on the images."""
    return chains.Sizes(
        epochs=epochs,
        classifier_epochs=2 if config.quick else 60 if config.dataset == "digits" else 15,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        code_dim=config.code_dim,
        hidden=config.hidden,
        pictures=min(config.pictures, count, 50 if config.quick else count),
        lengths=config.picture_steps[:1] if config.quick else config.picture_steps,
        seeds=num_seeds,
        devices=config.devices,
    )


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    has_images = "images" in config.parts
    dataset = experiment.load(config).head(train=60_000, test=10_000) if has_images else None
    resolved = experiment.defaults(config, digits=200, others=15)
    seeds = resolved["num_seeds"]
    split = None if dataset is None else split_of(dataset)
    count = 0 if split is None else len(split.test.x)
    mixture_sizes = make_mixture_sizes(config, seeds)
    image_sizes = make_image_sizes(config, count, **resolved)
    total = mixture_sizes.epochs * seeds if "mixture" in config.parts else 0
    total += image_scores.epochs_of(image_sizes) if has_images else 0
    with ExperimentRun("sampling", config, dataset, total=total) as run:
        key, on_plane, on_images = jax.random.key(config.seed), None, None
        if "mixture" in config.parts:
            on_plane = plane.train(key, mixture_sizes, run)
        if dataset is not None and split is not None:
            shape = dataset.example_shape
            on_images = networks.train_on_images(key, split, shape, image_sizes, run)
        trained = networks.Trained(on_plane, on_images)
        found = parts.measure(PARTS, run, trained)
        parts.draw(PARTS, run, trained, found)
        resolved |= {"mixture_epochs": mixture_sizes.epochs, "samples": mixture_sizes.samples}
        return run.finish(resolved | {"pictures": image_sizes.pictures}, **found)
