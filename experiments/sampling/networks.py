"""All that is trained: the networks of the mixture, and those of the images."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
from jaxtyping import Array

from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.classifiers import Split
from experiments.sampling import chains
from experiments.sampling.chains import LEVELS, Samplers, Sizes
from experiments.sampling.classifier_scores import ClassifierScores
from experiments.sampling.plane import PlaneNetworks


class ChainKeys(NamedTuple):
    """The keys of the samples of one seed."""

    noise: Array
    uniform: Array
    chain: Array
    complete: Array


@dataclass(frozen=True)
class ImageNetworks:
    """The chains of the trained autoencoders, and the classifier that looks at their samples.

    Attributes:
      split: the images.
      shape: of an image.
      sizes: how much is trained and sampled.
      classifier: looks at the samples.
      samplers: the chains of every seed.
      key: of all samples.
    """

    split: Split
    shape: tuple[int, ...]
    sizes: Sizes
    classifier: ClassifierScores
    samplers: list[Samplers]
    key: Array

    @property
    def test(self) -> Array:
        """The test images from which chains start, as many as there are samples."""
        return self.split.test.x[: self.sizes.pictures]

    @cached_property
    def first_samples(self) -> dict[str, Array]:
        """The samples of the first seed, which are measured and drawn."""
        return self.make_samples(0)

    def keys(self, seed: int) -> ChainKeys:
        """Returns the keys of the samples of a seed."""
        return ChainKeys(*jax.random.split(jax.random.fold_in(self.key, seed), 4))

    def noise(self, seed: int) -> Array:
        """Returns noise of the highest level, from which the annealed chains of a seed start."""
        return LEVELS.high * jax.random.normal(self.keys(seed).noise, self.test.shape)

    def make_samples(self, seed: int) -> dict[str, Array]:
        """Returns samples of every kind of one seed."""
        samplers, keys, test = self.samplers[seed], self.keys(seed), self.test
        noise, uniform = self.noise(seed), jax.random.uniform(keys.uniform, test.shape)
        samples = {"test images, denoised": samplers.denoised(keys.noise, test)}
        samples |= {
            annealed_name(steps): samplers.annealed(keys.chain, noise, steps)[-1]
            for steps in self.sizes.lengths
        }
        for name in ("denoising chain", "walkback"):
            samples[f"{name}, from noise"] = samplers.chain(name, keys.chain, uniform)[-1]
            samples[f"{name}, from digits"] = samplers.chain(name, keys.chain, test)[-1]
        samples["tangent walk, from digits"] = samplers.chain("CAE", keys.chain, test)[-1]
        return samples


class Trained(NamedTuple):
    """The networks of what --parts names; None for the rest."""

    plane: PlaneNetworks | None
    images: ImageNetworks | None


def annealed_name(steps: int) -> str:
    """Returns what the row of annealed chains is called."""
    return f"annealed Langevin, {steps} steps"


def train_on_images(
    key: Array, split: Split, shape: tuple[int, ...], sizes: Sizes, run: ExperimentRun
) -> ImageNetworks:
    """Returns the classifier and the autoencoders, trained on images of a shape."""
    classifier_key, train_key, chain_key = jax.random.split(jax.random.fold_in(key, 1000), 3)
    classifier = ClassifierScores(
        classifier_key,
        split,
        run,
        epochs=sizes.classifier_epochs,
        batch_size=sizes.batch_size,
        devices=sizes.devices,
    )
    autoencoders = chains.train(train_key, split.train.x, sizes, run)
    samplers = chains.samplers_of(autoencoders)
    return ImageNetworks(split, shape, sizes, classifier, samplers, chain_key)
