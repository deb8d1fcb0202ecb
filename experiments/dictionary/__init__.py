"""Overcomplete sparse autoencoders as dictionaries: are the true atoms found, and at what price.

How sparse autoencoders are trained today: an L1 norm weighted by the norms of the atoms, raised
from 0 over the first tenth of the steps; or atoms of norm 1, kept there by a projected gradient; or
the k largest units, with an auxiliary loss by which dead units explain the error of the others
(Gao et al. 2024). First on sums of 3 to 5 of 256 known atoms in 64 dimensions: which are found
again, as cosines with the nearest filter. Then on patches of images: explained variance against
active units, and dead units beside. Last on a synthetic truth as hard as activations, with 256
units for 512 atoms in 64 dimensions: L1, top-k, BatchTopK, JumpReLU, gated and Matryoshka, by
explained variance, F1 of the units and mean correlation against active units.

    python -m experiments.dictionary --dataset mnist     about 17 minutes, 2 cores
    python -m experiments.dictionary --full-truth        16,384 atoms and 200 million examples
                                                         for each network: needs an accelerator

Expected: 98 % of the atoms with an L1 norm, over 99 % with top-k, but 76 to 87 % with nothing for
dead units; on patches of MNIST top-k explains 96 % of the variance with 16 units, L1 with 37. On
the synthetic truth Matryoshka has the highest F1, as published.

Model: relu((x - b) E + c) and a linear decoder, squared error, Adam with cosine decay from 3e-3
(3e-4 on the large truth).
Deviations: the auxiliary loss is a sum of squares, weighted 1/32, not divided by the variance of
the error; a unit counts as dead when a running mean of about 100 batches is below 0.001.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.data import datasets
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import Part
from experiments.dictionary import (
    examples,
    frontier,
    known_truth,
    networks,
    recovery,
    synthetic_truth,
)
from experiments.dictionary.networks import Schedule

PARTS: tuple[Part[networks.Trained], ...] = (recovery, frontier, known_truth)


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the dictionary experiment."""

    epochs: command_line.Optional[int] = None
    """Passes over the examples; by default 40 on known atoms and 20 on patches."""
    batch_size: int = 256
    """Examples per step."""
    learning_rate: float = 3e-3
    """Step size of Adam at the start, at most 10; it falls to 0 along a cosine. The synthetic truth
    has its own, see synthetic_truth.py."""
    patch_size: int = 10
    """Side of the square patches, in pixels; smaller where the images are."""
    patches: int = 50_000
    """Patches to train on."""
    units: command_line.Optional[int] = None
    """Units for the patches; by default four times their pixels."""

    full_truth: bool = False
    """Makes the synthetic truth as large as the published one."""
    truth_samples: command_line.Optional[int] = None
    """Examples of the synthetic truth for each network; by default a million, or 200 million."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--patch-size", self.patch_size, low=2, high=64)
        command_line.require_integer("--patches", self.patches, low=10, high=10**7)
        command_line.require_integer("--truth-samples", self.truth_samples, low=1, high=10**10)
        command_line.require_integer("--units", self.units, low=frontier.TOP_K[0], high=2**14)


def patches_of(config: Config, dataset: datasets.Dataset, count: int) -> examples.Patches:
    """Returns the patches of a data set, centred.

    Raises:
      InputError: if the images have no patch with something in it.
    """
    size = min(config.patch_size, *dataset.example_shape[:2])
    generator = np.random.default_rng(config.seed)
    parts = [
        examples.patches(images, size=size, count=n, generator=generator)
        for images, n in ((dataset.train, count), (dataset.test, max(1, count // 5)))
    ]
    if min(map(len, parts)) == 0:
        raise InputError("--dataset has no patches with something in them")
    shape = parts[0].shape[1:]
    train, test = (part.reshape(len(part), -1) for part in parts)
    mean = train.mean(axis=0)
    return examples.Patches(jnp.asarray(train - mean), jnp.asarray(test - mean), shape)


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config).head(train=60_000, test=10_000)
    sizes = experiment.defaults(config, digits=20, others=20)
    seeds = sizes["num_seeds"]
    count = 1000 if config.quick else recovery.EXAMPLES
    patches = patches_of(
        config, dataset, min(config.patches, 1000) if config.quick else config.patches
    )
    units = config.units or 4 * patches.train.shape[1]
    common = (config.learning_rate, config.batch_size)
    sum_epochs = config.epochs or (2 if config.quick else 40)
    on_sums = Schedule(recovery.ATOMS, *common, sum_epochs, config.devices)
    on_patches = Schedule(units, *common, sizes["epochs"], config.devices)
    size = synthetic_truth.FULL if config.full_truth else synthetic_truth.SMALL
    samples = config.truth_samples or (10 * size.batch_size if config.quick else size.samples)
    truth_key = jax.random.fold_in(jax.random.key(config.seed), 2)  # 0 and 1 are those of a split
    truth = networks.TruthSetup(truth_key, size, samples, seeds, config.devices)
    total = recovery.epochs(on_sums, seeds) + frontier.epochs(on_patches, seeds)
    total += known_truth.epochs(truth)
    with ExperimentRun("dictionary", config, dataset, total=total) as run:
        sum_key, patch_key = jax.random.split(jax.random.key(config.seed))
        sums = networks.SumsSetup(sum_key, on_sums, count, seeds)
        trained = frontier.train(patch_key, patches, on_patches, sums, truth, run)
        known = {"atoms": recovery.ATOMS, "dimensions": recovery.INPUTS}
        found = parts.measure(PARTS, run, trained, known)
        parts.draw(PARTS, run, trained, found)
        resolved = {
            "epochs": {"sums of atoms": sum_epochs, "patches": sizes["epochs"]},
            "num_seeds": seeds,
            "units": units,
            "truth_samples": samples,
            "patch_shape": patches.shape,
        }
        return run.finish(resolved, **found)
