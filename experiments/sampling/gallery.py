"""Pictures of the samples: what chains end with, how they get there, and completions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.classifiers import Split
from experiments.sampling import chains
from experiments.sampling.chains import LEVELS, Samplers
from experiments.sampling.networks import Trained

SHOWN = 16  # pictures in a row
KEPT = 20  # states of a chain in a strip
COMPLETED = 10  # pictures that are completed
TRIES = 3  # completions of each
STARTS = ("noise", "a digit")


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns nothing: the numbers of these samples are those of ``images``."""
    return {}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the samples, single chains and completions of the networks of the first seed."""
    if trained.images is None:
        return
    networks = trained.images
    split, shape, samplers = networks.split, networks.shape, networks.samplers[0]
    rows = {"test images": split.test.x} | networks.first_samples
    shown = {name: np.asarray(x[:SHOWN]).reshape(-1, *shape) for name, x in rows.items()}
    title = f"Samples; of all but the annealed chains after {chains.LENGTH} steps"
    run.draw(plots.image_rows, "samples.png", shown, title=title, gaps=(1,))
    key = jax.random.fold_in(jax.random.fold_in(networks.key, 0), 1)
    strip_key, completion_key = jax.random.split(key)
    draw_strips(run, strip_key, samplers, split.test.x[:1], shape)
    draw_completions(run, completion_key, samplers, split, shape)


def draw_strips(
    run: ExperimentRun, key: Array, samplers: Samplers, digit: Array, shape: tuple[int, ...]
) -> None:
    """Draws single chains: from noise of the highest level, from uniform noise, from a digit."""
    noise_key, uniform_key, key = jax.random.split(key, 3)
    noise = LEVELS.high * jax.random.normal(noise_key, digit.shape)
    steps = chains.LENGTH
    strips = {"annealed, from noise": samplers.annealed(key, noise, steps, keep=KEPT)[:, 0]}
    starts = jnp.concatenate([jax.random.uniform(uniform_key, digit.shape), digit])
    for name in ("denoising chain", "walkback"):
        states = samplers.chain(name, key, starts, keep=KEPT)
        strips |= {f"{name}, from {kind}": states[:, i] for i, kind in enumerate(STARTS)}
    strips["tangent walk, from a digit"] = samplers.chain("CAE", key, digit, keep=KEPT)[:, 0]
    shown = {name: np.asarray(x).reshape(-1, *shape) for name, x in strips.items()}
    title = f"Single chains, every {steps // KEPT} steps of {steps}"
    run.draw(plots.image_rows, "strips.png", shown, title=title, gaps=(1,))


def draw_completions(
    run: ExperimentRun, key: Array, samplers: Samplers, split: Split, shape: tuple[int, ...]
) -> None:
    """Draws test images of every class, their upper halves, and what annealing makes of these."""
    at = np.unique(np.asarray(split.test.y), return_index=True)[1][:COMPLETED]
    x, known = split.test.x[at], chains.upper_half(shape)
    tried, (noise_key, key) = jnp.tile(x, (TRIES, 1)), jax.random.split(key)
    start = jnp.where(known, tried, LEVELS.high * jax.random.normal(noise_key, tried.shape))
    complete = samplers.annealed(key, start, chains.LENGTH, known=known)[-1]
    rows = {"test image": x, "known": jnp.where(known, x, 0.5)}
    rows |= {f"completion {i + 1}": own for i, own in enumerate(jnp.split(complete, TRIES))}
    shown = {name: np.asarray(pictures).reshape(-1, *shape) for name, pictures in rows.items()}
    title = f"Lower halves by {chains.LENGTH} annealed steps"
    run.draw(plots.image_rows, "completions.png", shown, title=title, gaps=(2,))
