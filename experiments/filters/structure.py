"""The structure of the filters in numbers: how rough they are, and how far they extend."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.data import noises
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.filters import probe
from experiments.filters.networks import Trained

UNITS = {
    "roughness": "squared difference of neighbouring pixels over twice their variance, mean",
    "extent": "effective number of pixels, (sum of squares)^2 / sum of fourth powers, median",
    "test_nll": "nats per test image, from clean inputs",
    "probe_error": "percent of the test images, softmax on the frozen code",
}


def roughness(filters: np.ndarray) -> float:
    """Returns how rough filters ``(n, h, w, c)`` are: 1 for white noise, near 0 for a slope.

    Mean squared difference of neighbours over twice the variance of the pixels of a filter; a
    filter that is all equal is left out.
    """
    across = np.diff(filters, axis=2).reshape(len(filters), -1)
    down = np.diff(filters, axis=1).reshape(len(filters), -1)
    squares = np.mean(np.concatenate([across, down], axis=1) ** 2, axis=1)
    variance = filters.reshape(len(filters), -1).var(axis=1)
    is_flat = variance == 0
    return float(np.mean(squares[~is_flat] / (2 * variance[~is_flat]))) if not all(is_flat) else 0.0


def extent(filters: np.ndarray) -> float:
    """Returns the median over filters of the effective number of their pixels."""
    squares = filters.reshape(len(filters), -1).astype(np.float64) ** 2
    fourth = np.sum(squares**2, axis=1)
    effective = np.sum(squares, axis=1) ** 2 / np.where(fourth > 0, fourth, 1)
    return float(np.median(effective))


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the numbers of every network, with the error of a softmax on its codes."""
    test = jnp.asarray(trained.setup.dataset.flat()[1])

    @jax.jit
    def nll(params: Params, x: Array) -> Array:
        def score_example(x_i: Array) -> Array:
            return jaxae.bernoulli_nll(trained.trainer.reconstruct(params, x_i), x_i)

        with jax.default_matmul_precision("highest"):
            return jaxae.evaluate(score_example, x, batch_size=1000)

    rows = []
    probe_errors = probe.errors(run, trained)
    for setting, params in trained.params.items():
        filters = trained.filters(setting)
        numbers = {
            "roughness": [roughness(own) for own in filters],
            "extent": [extent(own) for own in filters],
            "test_nll": [float(nll(own, test)) for own in params],
        }
        if setting in probe_errors:
            numbers["probe_error"] = probe_errors[setting]
        over = {name: over_seeds(values, UNITS[name]) for name, values in numbers.items()}
        rows.append({**setting._asdict(), **over})
        rough, wide = (over[name]["mean"] for name in ("roughness", "extent"))
        named = f"{trained.setup.corruption} {setting.level:g}, beta {setting.beta:g}"
        run.say(f"{named}: roughness {rough:.3f}, {wide:.0f} effective pixels")
    return {"networks": rows}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the numbers against the corruption."""
    plain = [
        row
        for row in found["networks"]
        if row["beta"] == 1 and row["level"] in trained.setup.noise_levels
    ]
    emphasised = [row for row in found["networks"] if row["beta"] != 1]
    label = noises.BY_NAME[found["corruption"]].meaning
    panels = []
    for key, y_label in (
        ("roughness", "roughness of the filters (white noise: 1)"),
        ("extent", "effective pixels of a filter"),
        ("probe_error", "softmax on the code, test error (percent)"),
    ):
        if key not in plain[0]:
            continue
        at = [row["level"] for row in plain]
        lines = [plots.line("DAE", at, [row[key] for row in plain], plots.METHODS["DAE"])]
        for row, look in zip(emphasised, itertools.cycle(plots.OTHERS), strict=False):
            point = plots.Look(look.color, look.style[0])
            lines.append(plots.line(f"beta {row['beta']:g}", [row["level"]], [row[key]], point))
        panels.append(plots.Panel(label, y_label, lines))
    run.draw(plots.panels, "filters.png", panels, title="Filters against the corruption")
