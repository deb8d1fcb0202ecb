"""Denoising against contractive autoencoders: every row of the lecture's comparison, measured.

Reproduces the comparison that closes the chapter (LMU Munich, Deep Learning, chapter 9): the DAE
makes the reconstruction resist small perturbations, the CAE the encoder; the DAE needs no
Jacobian; the CAE has a deterministic gradient, so second-order optimisers work.

    python -m experiments.dae_vs_cae --dataset digits    about 1 minute, 2 cores
    python -m experiments.dae_vs_cae --dataset mnist     about 2 minutes, 2 cores

Expected on digits: at the DAE's clean error the CAE's encoder is 0.88 times as sensitive as the
DAE's and its reconstruction 1.06 times; the gap to the whole small-noise expansion falls with
slope 4.0, without the Laplacian term with 1.9; L-BFGS reaches Adam's best loss of 250 gradient
evaluations within about 90, conjugate gradient within about 190.

Model: 64 sigmoid units, tied weights (an untied CAE can shrink its code for nothing), linear
output, squared error; Adam 3e-3, batches of 64. Deviations: the slides give no numbers, so all
settings are ours. The races between optimisers take 300 images (150 where there are more pixels),
the same for all of them. Every row is a file beside this one.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import LecturePart
from experiments.dae_vs_cae import (
    cost,
    gradient_noise,
    networks,
    optimisers,
    resampled_noise,
    sensitivity,
    small_noise,
)

FULL_BATCH = {True: 300, False: 150}  # images of the races: on digits, elsewhere
PARTS: tuple[LecturePart[networks.Trained], ...] = (
    sensitivity,
    cost,
    gradient_noise,
    small_noise,
    optimisers,
    resampled_noise,
)
claims = partial(parts.claims, PARTS)  # what the lecture says, beside what was measured


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the comparison of denoising and contractive autoencoders."""

    learning_rate: float = 3e-3
    """Step size of Adam, at most 10."""
    epochs: command_line.Optional[int] = None
    """Passes over the training data, by default 60 on digits and 10 elsewhere."""
    noise: float = 0.2
    """Standard deviation of the DAE's Gaussian noise (pixel values)."""
    race_seeds: command_line.Optional[int] = None
    """Repetitions of the races between optimisers, by default 5."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_number("--noise", self.noise, above=0.0, high=1000.0)
        command_line.require_integer("--race-seeds", self.race_seeds, low=1, high=1000)


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config).head(train=60_000, test=1000)
    sizes = experiment.defaults(config, digits=60, others=10)
    seeds = config.race_seeds or (1 if config.quick else 5)
    epochs = sizes["num_seeds"] * (2 + len(networks.WEIGHTS)) * sizes["epochs"]
    with ExperimentRun("dae_vs_cae", config, dataset, total=epochs + 12 * seeds) as run:
        x, test = map(jnp.asarray, dataset.flat())
        trained = networks.train(
            config,
            sizes,
            (x, test),
            run,
            noise=config.noise,
            full_batch=FULL_BATCH[config.dataset == "digits"],
            race_seeds=seeds,
        )
        with jax.default_matmul_precision("highest"):
            found = parts.measure(PARTS, run, trained)
        parts.draw(PARTS, run, trained, found)
        for claim in claims(found):
            run.say(f"{claim.verdict}: {claim.finding}")
        resolved = sizes | {"race_seeds": seeds, "full_batch": len(trained.batch)}
        return run.finish(resolved | {"code_dim": networks.CODE_DIM}, **found)
