"""Samples of a known mixture in the plane: their distance to the truth, as a number.

Five Gaussians on a circle. One network knows the noise level and gives the score at all of them;
the exact score stands beside, so that the error of sampling and the error of learning are told
apart. The unit of all distances is that of two true samples of the same size.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.data import densities
from experiments.common.results import numbers
from experiments.common.run.experiment import Run
from experiments.common.training.sweep import Sweep, Tag
from experiments.sampling.conditional import POINTS, Denoiser, Levels, Scaled, anneal
from experiments.sampling.distances import sliced_wasserstein

DENSITY = densities.mixture()
LEVELS = Levels(low=0.02, high=3.0)
NOISES = (0.8, 0.4, 0.2, 0.1, 0.05)  # of the chains at one level
STEP_SIZE = 0.3  # of the Langevin dynamics, relative to the squared noise level
START = 1.5  # standard deviation of where the chains at one level start
PAIRS = 10  # of true samples, whose mean distance is the unit
STEPS_PER_EPOCH = 20
LEARNING_RATE = 3e-3  # at the start
RATIO = "sliced Wasserstein distance to a true sample, over that of two true samples"

Step = Callable[[Array, Array], Array]


class Sizes(NamedTuple):
    """How much is trained and sampled."""

    epochs: int
    batch_size: int
    samples: int
    lengths: tuple[int, ...]
    seeds: int
    devices: int


def denoiser(sizes: Sizes) -> Denoiser:
    """Returns the trainer of the network; every step has fresh points."""
    return Denoiser(
        Scaled(hidden=(128, 128, 128), outputs=2, of_data=0.75),
        POINTS,
        LEVELS,
        learning_rate=LEARNING_RATE,
        steps=sizes.epochs * STEPS_PER_EPOCH,
        batch_size=sizes.batch_size,
        epochs=sizes.epochs,
        draw=lambda key, rows: DENSITY.sample(key, rows.shape[0]),
        devices=sizes.devices,
    )


def exact_score(x_i: Array, stddev: Array) -> Array:
    """Returns the gradient of the log density of the noisy points."""
    decode = lambda code: DENSITY.posterior_mean(code, stddev)
    return jaxae.score_estimate(lambda v: v, decode, x_i, stddev=stddev)


class Truth:
    """True samples, and the distance between two of them."""

    def __init__(self, key: Array, count: int) -> None:
        keys = jax.random.split(key, 2 * PAIRS)
        drawn = [np.asarray(DENSITY.sample(one, count)) for one in keys]
        pairs = zip(drawn[::2], drawn[1::2], strict=True)
        self.unit = float(np.mean([sliced_wasserstein(a, b) for a, b in pairs]))
        self._samples = drawn[:3]

    def ratio(self, samples: Array) -> float:
        """Returns the mean distance to some true samples, in units of that of two of these."""
        found = np.asarray(samples)
        own = [sliced_wasserstein(found, true) for true in self._samples]
        return float(np.mean(own)) / self.unit


def measure(key: Array, sizes: Sizes, run: Run) -> dict[str, Any]:
    """Returns all numbers of the plane; draws the samples of the first seed."""
    trainer = denoiser(sizes)
    counted = jnp.zeros((STEPS_PER_EPOCH * sizes.batch_size, 1))

    def tag(name: str, seed: int) -> Tag:
        entry = {"part": name, "seed": seed}
        return Tag(f"plane_seed-{seed}", f"{name}, seed {seed}", entry)

    sweep = Sweep(run, range(sizes.seeds), partial(jax.random.fold_in, key), tag)
    trained = sweep.fit(trainer, counted, {"mixture": ()})["mixture"]
    found: list[dict[str, Any]] = []
    for seed, params in enumerate(trained):
        sample_key = jax.random.fold_in(jax.random.fold_in(key, seed), 2)
        truth_key, fresh_key, chain_key = jax.random.split(sample_key, 3)
        truth = Truth(truth_key, sizes.samples)
        learned = partial(trainer.reconstruct, params), partial(trainer.score, params)
        exact = DENSITY.posterior_mean, exact_score
        fresh = truth.ratio(DENSITY.sample(fresh_key, sizes.samples))
        rows: dict[str, Any] = {
            "true samples": fresh,
            "learned": measure_samplers(chain_key, *learned, truth, sizes),
            "exact": measure_samplers(chain_key, *exact, truth, sizes),
        }
        found.append(rows)
        best = rows["learned"]["annealed Langevin"][f"{sizes.lengths[-1]}"]
        run.say(f"mixture, seed {seed}: {best:.2f} times the distance of two true samples")
        if seed == 0:
            draw_samples(run, chain_key, learned, sizes)
    return nested_over_seeds(found)


def measure_samplers(
    key: Array, reconstruct: Any, score: Any, truth: Truth, sizes: Sizes
) -> dict[str, dict[str, float]]:
    """Returns the ratios of every sampler, by its name and by length or noise level."""
    longest = sizes.lengths[-1]
    noise_key, key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (sizes.samples, 2))
    functions: Any = {"score": score, "reconstruct": reconstruct, "step_size": STEP_SIZE}
    by_ladder = jax.jit(partial(anneal, **functions))
    annealed = {
        f"{length}": truth.ratio(by_ladder(key, LEVELS.high * noise, LEVELS.ladder(length))[-1])
        for length in sizes.lengths
    }
    found = {"annealed Langevin": annealed}
    for name, at_level in (("Langevin", langevin), ("denoising chain", chain)):
        run_chain = jax.jit(
            lambda key, x, level, at_level=at_level: jaxae.markov_chain(
                key, at_level(reconstruct, score, level), x, steps=longest
            )
        )
        by_noise, by_length = {}, {}
        for level in NOISES:
            states = run_chain(key, START * noise, jnp.float32(level))
            by_noise[f"{level:g}"] = truth.ratio(states[-1])
            if level == 0.2:
                by_length = {f"{n}": truth.ratio(states[n - 1]) for n in sizes.lengths}
        found |= {f"{name}, by noise": by_noise, f"{name}, by length": by_length}
    return found


def langevin(reconstruct: Any, score: Any, level: Array) -> Step:
    """Returns a step of Langevin dynamics at one noise level."""
    score_at_level = lambda x_i: score(x_i, level)
    return jaxae.langevin_transition(score_at_level, step_size=STEP_SIZE * level**2)


def chain(reconstruct: Any, score: Any, level: Array) -> Step:
    """Returns a step of the denoising chain: noise, then a draw about the reconstruction.

    Within one Gaussian of the mixture p(x given x~) has the variance below.
    """
    variance = level**2 * DENSITY.spread**2 / (level**2 + DENSITY.spread**2)
    corrupt = partial(jaxae.gaussian_noise, stddev=level)
    draw = lambda key, mean: jaxae.gaussian_noise(key, mean, stddev=jnp.sqrt(variance))
    decode = lambda code: reconstruct(code, level)
    return jaxae.denoising_transition(lambda x_i: x_i, decode, corrupt=corrupt, sample=draw)


def nested_over_seeds(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the numbers over the seeds, from those of each."""

    def together(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: together([value[name] for value in values]) for name in values[0]}
        return numbers.over_seeds(values, RATIO)

    return together(found)


def draw_samples(run: Run, key: Array, learned: tuple[Any, Any], sizes: Sizes) -> None:
    """Writes where samples of every kind lie, beside true ones."""
    reconstruct, score = learned
    count = min(1500, sizes.samples)
    noise_key, true_key, key = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, (count, 2))
    length = sizes.lengths[-1]
    start, ladder = LEVELS.high * noise, LEVELS.ladder(length)
    functions: Any = {"score": score, "reconstruct": reconstruct, "step_size": STEP_SIZE}
    panels = {
        "true samples": DENSITY.sample(true_key, count),
        "annealed Langevin": anneal(key, start, ladder, **functions)[-1],
    }
    single = {"Langevin, noise 0.2": langevin, "denoising chain, noise 0.2": chain}
    for name, at_level in single.items():
        step = at_level(reconstruct, score, jnp.float32(0.2))
        states = jaxae.markov_chain(key, step, START * noise, steps=length, thin=length)
        panels[name] = states[-1]
    as_arrays = {name: np.asarray(points) for name, points in panels.items()}
    title = "Samples of a mixture of five Gaussians"
    run.draw(plots.scatters, "mixture.png", as_arrays, half_width=2.0, title=title)


def draw(run: Run, found: Mapping[str, Any]) -> None:
    """Writes the distances against the length of the chains and against the noise."""
    looks = {
        "annealed Langevin": plots.METHODS["DAE"],
        "Langevin": plots.OTHERS[2],
        "denoising chain": plots.OTHERS[0],
    }
    panels = []
    for suffix, label in (
        ("by length", "steps of the chain"),
        ("by noise", "noise level (standard deviation)"),
    ):
        lines = []
        for name, look in looks.items():
            key = name if name == "annealed Langevin" else f"{name}, {suffix}"
            if key == name and suffix == "by noise":
                continue
            for kind, own in (("", found["learned"]), (", exact score", found["exact"])):
                x = [float(value) for value in own[key]]
                style = look if not kind else plots.Look(look.color, look.style[0] + ":")
                lines.append(plots.line(name + kind, x, list(own[key].values()), style))
        x = [float(value) for value in found["learned"][key]]
        lines.append(plots.plain("two true samples", x, [1.0] * len(x), plots.EXACT))
        panels.append(plots.Panel(label, "distance to the truth (ratio)", lines, ("log", "log")))
    title = "Samples of a known mixture: distance to the truth"
    run.draw(plots.panels, "mixture_distances.png", panels, title=title)
