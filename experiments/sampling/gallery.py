"""Pictures of the samples: what chains end with, how they get there, and completions."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.run.experiment import Run
from experiments.common.training.classifiers import Split
from experiments.sampling import chains
from experiments.sampling.chains import LEVELS, Samplers

SHOWN = 16  # pictures in a row
KEPT = 20  # states of a chain in a strip
COMPLETED = 10  # pictures that are completed
TRIES = 3  # completions of each
STARTS = ("noise", "a digit")
LOOKS = (plots.METHODS["DAE"], plots.OTHERS[0], plots.OTHERS[2])


def draw(
    run: Run,
    key: Array,
    samplers: Samplers,
    samples: Mapping[str, Array],
    split: Split,
    shape: tuple[int, ...],
) -> None:
    """Writes the samples, single chains and completions of the networks of one seed."""
    rows = {"test images": split.test.x} | dict(samples)
    shown = {name: np.asarray(x[:SHOWN]).reshape(-1, *shape) for name, x in rows.items()}
    title = f"Samples; of all but the annealed chains after {chains.LENGTH} steps"
    run.draw(plots.image_rows, "samples.png", shown, title=title, gaps=(1,))
    strip_key, completion_key = jax.random.split(key)
    draw_strips(run, strip_key, samplers, split.test.x[:1], shape)
    draw_completions(run, completion_key, samplers, split, shape)


def draw_strips(
    run: Run, key: Array, samplers: Samplers, digit: Array, shape: tuple[int, ...]
) -> None:
    """Writes single chains: from noise of the highest level, from uniform noise, from a digit."""
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
    run: Run, key: Array, samplers: Samplers, split: Split, shape: tuple[int, ...]
) -> None:
    """Writes test images of every class, their upper halves, and what annealing makes of these."""
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


def draw_shares(run: Run, rows: Mapping[str, Any]) -> None:
    """Writes the share of every class in each kind of samples."""
    shares = {name: row["class_shares"] for name, row in rows.items() if "class_shares" in row}
    longest = [name for name in shares if "Langevin" in name][-1]
    names = [longest, *(name for name in shares if name.endswith("from noise"))]
    classes = np.arange(len(shares["test images"]))
    lines = [plots.line("test images", classes, shares["test images"], plots.EXACT)]
    for name, look in zip(names, LOOKS, strict=True):
        lines.append(plots.line(name, classes, shares[name], look))
    panel = plots.Panel("class", "share of the samples (percent)", lines, ticks=classes)
    title = "Classes of samples that start from noise, as a classifier sees them"
    run.draw(plots.panels, "classes.png", [panel], title=title)
