"""Pictures of the samples: what chains end with, how they get there, and completions."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.running import Run
from experiments.pretraining.classifiers import Split
from experiments.samplers import chains
from experiments.samplers.chains import LEVELS, Samplers

SHOWN = 16  # pictures in a row
KEPT = 20  # states of a chain in a strip
COMPLETED = 10  # pictures that are completed
TRIES = 3  # completions of each
LOOKS = (plots.METHODS["DAE"], plots.OTHERS[0], plots.OTHERS[2], plots.METHODS["CAE"])


def draw(
    run: Run, key: Array, samplers: Samplers, split: Split, shape: tuple[int, ...], steps: int
) -> None:
    """Writes samples, strips and completions of the networks of one seed."""
    pictures = lambda x: np.asarray(x).reshape(-1, *shape)
    test, width = split.test.x[:SHOWN], split.test.x.shape[1]
    noise = LEVELS.high * jax.random.normal(key, (SHOWN, width))
    uniform = jax.random.uniform(key, (SHOWN, width))
    rows = {"test images": test, "annealed Langevin": samplers.annealed(key, noise, steps)[-1]}
    for name in ("denoising chain", "walkback"):
        rows[f"{name}, from noise"] = samplers.chain(name, key, uniform)[-1]
        rows[f"{name}, from the test images"] = samplers.chain(name, key, test)[-1]
    rows["CAE, from the test images"] = samplers.chain("CAE", key, test)[-1]
    title = f"Samples: {steps} annealed steps, {chains.LENGTH} of the other chains"
    shown = {name: pictures(x) for name, x in rows.items()}
    plots.image_rows(run.path("samples.png"), shown, title=title, gaps=(1,))
    draw_strips(run, key, samplers, (noise[:1], uniform[:1], test[:1]), shape, steps)
    draw_completions(run, key, samplers, split, shape, steps)


def draw_strips(
    run: Run,
    key: Array,
    samplers: Samplers,
    starts: tuple[Array, Array, Array],
    shape: tuple[int, ...],
    steps: int,
) -> None:
    """Writes single chains: from noise of the highest level, from uniform noise, from a digit."""
    noise, uniform, digit = starts
    strips = {}
    keep = max(n for n in range(1, KEPT + 1) if steps % n == 0)
    strips[f"annealed, every {steps // keep} steps"] = samplers.annealed(
        key, noise, steps, keep=keep
    )
    every = f"every {chains.LENGTH // KEPT} steps"
    for name in ("denoising chain", "walkback"):
        strips[f"{name} from noise, {every}"] = samplers.chain(name, key, uniform, keep=KEPT)
        strips[f"{name} from a digit, {every}"] = samplers.chain(name, key, digit, keep=KEPT)
    strips[f"CAE from a digit, {every}"] = samplers.chain("CAE", key, digit, keep=KEPT)
    shown = {name: np.asarray(x).reshape(-1, *shape) for name, x in strips.items()}
    plots.image_rows(run.path("strips.png"), shown, title="Single chains", gaps=(1,))


def draw_completions(
    run: Run,
    key: Array,
    samplers: Samplers,
    split: Split,
    shape: tuple[int, ...],
    steps: int,
) -> None:
    """Writes test images of every class, their upper halves, and what annealing makes of these."""
    labels = np.asarray(split.test.y)
    at = np.unique(labels, return_index=True)[1][:COMPLETED]
    x, known = split.test.x[at], chains.upper_half(split.test.x.shape[1])
    rows = {"test image": x, "known": jnp.where(known, x, 0.5)}
    for attempt in range(TRIES):
        own = jax.random.fold_in(key, attempt)
        start = jnp.where(known, x, LEVELS.high * jax.random.normal(own, x.shape))
        rows[f"completion {attempt + 1}"] = samplers.annealed(own, start, steps, fixed=known)[-1]
    shown = {name: np.asarray(pictures).reshape(-1, *shape) for name, pictures in rows.items()}
    title = f"Lower halves by {steps} annealed steps"
    plots.image_rows(run.path("completions.png"), shown, title=title, gaps=(2,))


def draw_shares(run: Run, rows: Mapping[str, Any]) -> None:
    """Writes the share of every class in each kind of samples."""
    shares = {name: row["class_shares"] for name, row in rows.items() if "class_shares" in row}
    kinds = [name for name in shares if "noise" in name or "Langevin" in name]
    longest = [name for name in kinds if "Langevin" in name][-1]
    lines = []
    of_test = shares["test images"]
    classes = np.arange(len(of_test))
    lines.append(plots.line("test images", classes, of_test, plots.EXACT))
    names = [longest, *(name for name in kinds if "Langevin" not in name)]
    for name, look in zip(names, LOOKS, strict=False):
        lines.append(plots.line(name, classes, shares[name], look))
    panel = plots.Panel("class", "share of the samples (percent)", lines, ticks=classes)
    title = "Classes of samples that start from noise, as a classifier sees them"
    plots.panels(run.path("classes.png"), [panel], title=title)
