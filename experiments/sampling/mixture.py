"""Samples of a known mixture in the plane: their distance to the truth, as a number.

Five Gaussians on a circle. One network knows the noise level and gives the score at all of them;
the exact score stands beside, so that the error of sampling and the error of learning are told
apart. The unit of all distances is that of two true samples of the same size.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.sampling.conditional import anneal
from experiments.sampling.distances import sliced_wasserstein
from experiments.sampling.networks import Trained
from experiments.sampling.plane import DENSITY, LEVELS, Estimates, PlaneNetworks, Sizes

NOISES = (0.8, 0.4, 0.2, 0.1, 0.05)  # of the chains at one level
STEP_SIZE = 0.3  # of the Langevin dynamics, relative to the squared noise level
START = 1.5  # standard deviation of where the chains at one level start
PAIRS = 10  # of true samples, whose mean distance is the unit
RATIO = "sliced Wasserstein distance to a true sample, over that of two true samples"

Step = Callable[[Array, Array], Array]


def exact_score(x_i: Array, stddev: Array) -> Array:
    """Returns the gradient of the log density of the noisy points."""
    decode = partial(DENSITY.posterior_mean, stddev=stddev)
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


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns all numbers of the plane."""
    if trained.plane is None:
        return {}
    plane, scores = trained.plane, []
    sizes = plane.sizes
    for seed in range(sizes.seeds):
        truth_key, fresh_key, chain_key = plane.sample_keys(seed)
        truth = Truth(truth_key, sizes.samples)
        learned, exact = plane.learned(seed), Estimates(DENSITY.posterior_mean, exact_score)
        fresh = truth.ratio(DENSITY.sample(fresh_key, sizes.samples))
        rows: Metrics = {
            "true samples": fresh,
            "learned": measure_samplers(chain_key, learned, truth, sizes),
            "exact": measure_samplers(chain_key, exact, truth, sizes),
        }
        scores.append(rows)
        best = rows["learned"]["annealed Langevin"][f"{sizes.lengths[-1]}"]
        run.say(f"mixture, seed {seed}: {best:.2f} times the distance of two true samples")
    return {"mixture": nested_over_seeds(scores)}


def measure_samplers(
    key: Array, estimates: Estimates, truth: Truth, sizes: Sizes
) -> dict[str, dict[str, float]]:
    """Returns the ratios of every sampler, by its name and by length or noise level."""
    longest = sizes.lengths[-1]
    noise_key, key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (sizes.samples, 2))
    by_ladder = jax.jit(partial(anneal, **estimates._asdict(), step_size=STEP_SIZE))
    annealed = {
        f"{length}": truth.ratio(by_ladder(key, LEVELS.high * noise, LEVELS.ladder(length))[-1])
        for length in sizes.lengths
    }
    ratios = {"annealed Langevin": annealed}
    for name, at_level in SINGLE.items():

        @jax.jit
        def run_chain(key: Array, x: Array, level: Array, at_level: AtLevel = at_level) -> Array:
            return jaxae.markov_chain(key, at_level(estimates, level), x, steps=longest)

        by_noise, by_length = {}, {}
        for level in NOISES:
            states = run_chain(key, START * noise, jnp.float32(level))
            by_noise[f"{level:g}"] = truth.ratio(states[-1])
            if level == 0.2:
                by_length = {f"{n}": truth.ratio(states[n - 1]) for n in sizes.lengths}
        ratios |= {f"{name}, by noise": by_noise, f"{name}, by length": by_length}
    return ratios


def langevin(estimates: Estimates, level: Array) -> Step:
    """Returns a step of Langevin dynamics at one noise level."""
    step_size = STEP_SIZE * level**2
    return jaxae.langevin_transition(lambda x_i: estimates.score(x_i, level), step_size=step_size)


def chain(estimates: Estimates, level: Array) -> Step:
    """Returns a step of the denoising chain: noise, then a draw about the reconstruction.

    Within one Gaussian of the mixture p(x given x~) has the variance below.
    """
    variance = level**2 * DENSITY.spread**2 / (level**2 + DENSITY.spread**2)
    corrupt = partial(jaxae.gaussian_noise, stddev=level)
    sample = partial(jaxae.gaussian_noise, stddev=jnp.sqrt(variance))

    def decode(code: Array) -> Array:
        return estimates.reconstruct(code, level)

    return jaxae.denoising_transition(lambda x_i: x_i, decode, corrupt=corrupt, sample=sample)


AtLevel = Callable[[Estimates, Array], Step]
SINGLE: dict[str, AtLevel] = {"Langevin": langevin, "denoising chain": chain}  # at one level


def nested_over_seeds(scores: list[Metrics]) -> Metrics:
    """Returns the numbers over the seeds, from those of each."""
    first = scores[0]
    return {
        name: nested_over_seeds([one[name] for one in scores])
        if isinstance(first[name], dict)
        else over_seeds([one[name] for one in scores], RATIO)
        for name in first
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the samples of the first seed, and all distances to the truth."""
    if trained.plane is not None:
        draw_samples(run, trained.plane)
        draw_distances(run, found["mixture"])


def draw_samples(run: ExperimentRun, plane: PlaneNetworks) -> None:
    """Draws where samples of every kind lie, beside true ones."""
    learned, (_, _, chain_key) = plane.learned(0), plane.sample_keys(0)
    count = min(1500, plane.sizes.samples)
    noise_key, true_key, key = jax.random.split(chain_key, 3)
    noise = jax.random.normal(noise_key, (count, 2))
    length = plane.sizes.lengths[-1]
    start, ladder = LEVELS.high * noise, LEVELS.ladder(length)
    panels = {
        "true samples": DENSITY.sample(true_key, count),
        "annealed Langevin": anneal(key, start, ladder, **learned._asdict(), step_size=STEP_SIZE)[
            -1
        ],
    }
    for name, at_level in SINGLE.items():
        step = at_level(learned, jnp.float32(0.2))
        states = jaxae.markov_chain(key, step, START * noise, steps=length, thin=length)
        panels[f"{name}, noise 0.2"] = states[-1]
    as_arrays = {name: np.asarray(points) for name, points in panels.items()}
    title = "Samples of a mixture of five Gaussians"
    run.draw(plots.scatters, "mixture.png", as_arrays, half_width=2.0, title=title)


def draw_distances(run: ExperimentRun, found: Metrics) -> None:
    """Draws the distances against the length of the chains and against the noise."""
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
