"""The sparse autoencoder: how L1, KL and top-k keep few units active, and what it costs.

Puts numbers and pictures to the lecture's sparse autoencoder (LMU Munich, Deep Learning, chapter
9), L(x, dec(enc(x))) + lambda * L1 norm of z: reconstruction error against active units as lambda
rises, beside the two other ways of making a code sparse, a KL penalty on the mean activations
(the lecture's own code) and keeping the k largest units; the activations, the filters and the
inputs they answer to; and the price of L1, codes that are too small by a known amount.

    python -m experiments.sparse --dataset digits     about 50 seconds, 2 cores
    python -m experiments.sparse --dataset mnist      about 4 minutes, 2 cores

Expected on digits: 111 of 128 units active without a penalty, 14 at lambda 0.22 for a test MSE of
0.0087 per pixel; along the active filters the residual is lambda / 2, as it must be.

Models: for L1 and top-k one relu layer on centred pixels, linear output, squared error, Adam with
cosine decay from 1e-2; filters have norm 1, because otherwise a smaller code with larger filters
lowers the penalty at no cost (networks with free filters show that). For KL the lecture's 64
sigmoid units, sigmoid output, target 0.1. Its code (sparse_autoencoder_mnist.R of
slds-lmu/lecture_i2dl, MXNet) has half the MEAN squared error over the d pixels, and adds 0.001
times the derivative of the KL divergence to the gradient of every activation; in units of the
squared error summed over pixels the weight is 2 d * 0.001. Deviation: the mean activation is that
of the batch, in MXNet a running one; at most 20,000 training images.
"""

import itertools
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp

from experiments.common.data import datasets
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import LecturePart
from experiments.sparse import features, filter_norms, kl, networks, page_networks, path, shrinkage

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # default lambdas over the images' rms distance
MOST_IMAGES = 20_000
PARTS: tuple[LecturePart[networks.Trained], ...] = (
    path,
    filter_norms,
    features,
    kl,
    shrinkage,
)
claims = partial(parts.claims, PARTS)  # what the lecture says, beside what was measured


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the sparse autoencoder."""

    epochs: command_line.Optional[int] = None
    """Passes over the training data; by default 5, on digits 100."""
    learning_rate: float = 1e-2
    """Step size of Adam at the start, at most 10; it falls to 0 along a cosine."""
    code_dim: command_line.Optional[int] = None
    """Units of the code for L1 and top-k; by default 256, on small images twice the pixels."""
    sparsity_weights: command_line.Optional[tuple[float, ...]] = None
    """Rising weights of the L1 norm, the first 0; by default fractions of the images' spread."""
    top_k: tuple[int, ...] = (4, 8, 16)
    """Numbers of units that top-k keeps."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**16)
        weights = self.sparsity_weights
        for weight in weights or ():
            command_line.require_number("--sparsity-weights", weight, low=0.0, high=1e3)
        rises = weights is None or (weights[:1] == (0.0,) and len(weights) > 1)
        if not rises or (weights and any(a >= b for a, b in itertools.pairwise(weights))):
            raise InputError(
                "--sparsity-weights must start with 0 and rise, with one more at least"
            )
        if not self.top_k:
            raise InputError("--top-k must name at least one value")
        for k in self.top_k:
            command_line.require_integer("--top-k", k, low=1, high=self.code_dim or 2**16)


def make_setup(config: Config, dataset: datasets.Dataset) -> networks.Setup:
    """Returns the data and the options, with what was left open filled in."""
    train, test = map(jnp.asarray, dataset.flat())
    mean = jnp.mean(train, axis=0)
    spread = float(jnp.sqrt(jnp.sum(jnp.var(train, axis=0))))
    weights = tuple(float(f"{fraction * spread:.2g}") for fraction in FRACTIONS)
    code_dim = config.code_dim or min(2 * train.shape[1], 256)
    if max(config.top_k) > code_dim:
        raise InputError(f"--top-k must be at most {code_dim}, the units of the code")
    return networks.Setup(
        shape=dataset.example_shape,
        raw=(train, test),
        centred=(train - mean[None], test - mean[None]),
        labels=dataset.test_labels,
        code_dim=code_dim,
        weights=config.sparsity_weights or weights,
        top_k=config.top_k,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        devices=config.devices,
        seed=config.seed,
        **experiment.defaults(config, digits=100, others=5),
    )


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config).head(train=MOST_IMAGES, test=10_000)
    setup = make_setup(config, dataset)
    with ExperimentRun(
        "sparse", config, dataset, total=setup.epochs * networks.count(setup)
    ) as run:
        trained = networks.train(setup, run)
        known = {"code_dim": setup.code_dim, "chosen": setup.chosen}
        found = parts.measure(PARTS, run, trained, known)
        parts.draw(PARTS, run, trained, found)
        page_networks.keep_networks(run, trained)
        resolved = {
            "code_dim": setup.code_dim,
            "sparsity_weights": setup.weights,
            "epochs": setup.epochs,
            "num_seeds": setup.num_seeds,
            "images_trained_on": len(setup.raw[0]),
        }
        return run.finish(resolved, **found)
