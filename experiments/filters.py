"""What the filters of a denoising autoencoder look like as the corruption rises.

Vincent et al. 2010 ("Stacked Denoising Autoencoders", JMLR 11) show on MNIST that an autoencoder
trained without noise has filters without structure, and that with more masked pixels the same
units, from the same start, come to answer to strokes and then to larger parts of a digit. Here that
is a picture and two numbers: the roughness of a filter (squared differences of neighbouring pixels,
1 for white noise) and its extent (the effective number of its pixels). Beside it stands emphasised
denoising (sec. 4.2), in which corrupted pixels count 1 and the others beta; and a softmax on the
frozen codes, which says what the features are good for.

    python -m experiments.filters --dataset mnist      about 13 minutes, 2 cores

Expected on MNIST: roughness 0.46 without noise, 0.30 with half of the pixels masked; 191, 65 and,
with three quarters masked, 164 effective pixels (median over units): noise all over; then strokes
in part of the units; then larger parts of a digit in a few units, and no structure in most. Test
error of the softmax 5.6 % without noise, 4.0 % at one half, and 4.0 % at one quarter with beta 0.

Model: one layer of 500 sigmoid units, tied weights, cross-entropy, Adam at 1e-3, batches of 100,
15 epochs. Deviation: the paper's number of units and step size for this figure are not known here;
it trains by plain gradient descent.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print("error: run python -m experiments.filters in the repository root", file=sys.stderr)
    sys.exit(2)

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.data import datasets, noises
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import over_seeds
from experiments.common.run import command_line, experiment
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.classifiers import Classifier, Layers, labelled, split_of
from experiments.common.training.sweep import Sweep, Tag

UNITS = {
    "roughness": "squared difference of neighbouring pixels over twice their variance, mean",
    "extent": "effective number of pixels, (sum of squares)^2 / sum of fourth powers, median",
    "test_nll": "nats per test image, from clean inputs",
    "probe_error": "percent of the test images, softmax on the frozen code",
}
SHOWN = 40  # filters of each network in its own picture
COMPARED = 16  # units that are compared over all networks
PROBE_RATE, PROBE_EPOCHS = 6e-3, 10


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the filter experiment."""

    epochs: command_line.Optional[int] = None
    """Passes over the training data; by default 15, on digits 100."""
    batch_size: int = 100
    """Examples per step."""
    code_dim: int = 500
    """Units of the code."""
    corruption: noises.Name = "masking"
    """Kind of the corruption."""
    noise_levels: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75)
    """Rising strengths of the corruption."""
    emphasis_level: float = 0.25
    """Strength of the corruption with which emphasis is tried."""
    emphases: tuple[float, ...] = (1.0, 0.5, 0.0)
    """Values of beta, the weight of pixels that were not corrupted; alpha is 1."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**14)
        highest = noises.BY_NAME[self.corruption].highest
        for level in self.noise_levels:
            command_line.require_number("--noise-levels", level, low=0.0, high=highest)
        command_line.require_rising("--noise-levels", self.noise_levels)
        command_line.require_number(
            "--emphasis-level", self.emphasis_level, above=0.0, high=highest
        )
        for beta in self.emphases:
            command_line.require_number("--emphases", beta, low=0.0, high=1e3)
        if len(set(self.emphases)) < len(self.emphases):
            raise InputError("--emphases must name no value twice")


class Setting(NamedTuple):
    """What tells the networks apart."""

    level: float
    beta: float


def settings_of(config: Config) -> list[Setting]:
    """Returns the noise levels without emphasis, then the emphases that are not among them."""
    levels = [Setting(level, 1.0) for level in config.noise_levels]
    emphases = [Setting(config.emphasis_level, beta) for beta in config.emphases]
    return levels + [setting for setting in emphases if setting not in levels]


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


def make_trainer(config: Config, inputs: int, epochs: int) -> fitting.AutoencoderTrainer:
    """Returns the trainer of all networks; noise and emphasis are traced."""
    at_level = noises.BY_NAME[config.corruption].at_level

    def loss(key: Array, encode: Any, decode: Any, x: Array, level: Array, beta: Array) -> Array:
        return jaxae.denoising_loss(
            key,
            encode,
            decode,
            x,
            corrupt=at_level(level),
            reconstruction=jaxae.bernoulli_nll,
            emphasis=(jnp.ones_like(beta), beta),
        )

    model = jaxae.DenseAutoencoder(
        (inputs,), config.code_dim, code_activation=nn.sigmoid, tied=True
    )
    return fitting.AutoencoderTrainer(
        model,
        loss,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        epochs=epochs,
        devices=config.devices,
    )


def train(
    config: Config,
    trainer: fitting.AutoencoderTrainer,
    x: Array,
    num_seeds: int,
    run: ExperimentRun,
) -> dict[Setting, list[Any]]:
    """Returns the parameters of every setting, one for each seed; a seed starts all alike."""

    def tag(setting: Setting, seed: int) -> Tag:
        return Tag(
            f"noise-{setting.level:g}_beta-{setting.beta:g}_seed-{seed}",
            f"noise {setting.level:g}, beta {setting.beta:g}",
            {**setting._asdict(), "seed": seed},
        )

    key = partial(jax.random.fold_in, jax.random.key(config.seed))
    sweep = Sweep(run, range(num_seeds), key, tag)
    return sweep.fit(trainer, x, {setting: setting for setting in settings_of(config)})


def filters_of(params: Any, shape: Sequence[int]) -> np.ndarray:
    """Returns the filters ``(units, *shape)`` of a network."""
    return np.asarray(params["encoder_kernel_0"]).T.reshape(-1, *shape)


def probe_errors(
    config: Config,
    dataset: datasets.Dataset,
    trained: Mapping[Setting, Sequence[Any]],
    run: ExperimentRun,
) -> dict[Setting, list[float]]:
    """Returns the error of a softmax on the frozen codes, if there are labels."""
    if dataset.train_labels is None or dataset.test_labels is None:
        return {}
    split = split_of(dataset)
    classifier = Classifier(
        nn.sigmoid,
        labelled(split.train),
        split,
        is_frozen=True,
        learning_rate=PROBE_RATE,
        batch_size=config.batch_size,
        epochs=2 if config.quick else PROBE_EPOCHS,
        devices=config.devices,
    )

    def tag(setting: Setting, seed: int) -> Tag:
        return Tag(
            f"probe_noise-{setting.level:g}_beta-{setting.beta:g}_seed-{seed}",
            "softmax on the codes",
            {"training": "probe", **setting._asdict(), "seed": seed},
        )

    def key(seed: int) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), seed), 1)

    def layers(params: Any) -> Layers:
        return ((params["encoder_kernel_0"], params["encoder_bias_0"]),)

    encoders = {setting: [layers(params) for params in own] for setting, own in trained.items()}
    seeds = range(len(next(iter(trained.values()))))
    outcomes = Sweep(run, seeds, key, tag).fit_classifiers(classifier, encoders)
    return {setting: [outcome.test_error for outcome in own] for setting, own in outcomes.items()}


def measure(
    trainer: fitting.AutoencoderTrainer,
    trained: Mapping[Setting, Sequence[Any]],
    dataset: datasets.Dataset,
) -> dict[Setting, dict[str, list[float]]]:
    """Returns the numbers of every setting, one for each seed, without those of the softmax."""
    test = jnp.asarray(dataset.flat()[1])

    @jax.jit
    def nll(params: Any, x: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            one = lambda x_i: jaxae.bernoulli_nll(trainer.reconstruct(params, x_i), x_i)
            return jaxae.evaluate(one, x, batch_size=1000)

    return {
        setting: {
            "roughness": [roughness(filters_of(p, dataset.example_shape)) for p in own],
            "extent": [extent(filters_of(p, dataset.example_shape)) for p in own],
            "test_nll": [float(nll(params, test)) for params in own],
        }
        for setting, own in trained.items()
    }


def draw(
    run: ExperimentRun,
    config: Config,
    rows: Sequence[Mapping[str, Any]],
    trained: Mapping[Setting, Sequence[Any]],
    shape: Sequence[int],
) -> None:
    """Writes the filters of the first seed, the same units of every network, and the numbers."""
    first = {setting: filters_of(own[0], shape) for setting, own in trained.items()}
    compared = {
        f"{config.corruption} {setting.level:g}"
        + (f", beta {setting.beta:g}" if setting.beta != 1 else ""): filters[:COMPARED]
        for setting, filters in first.items()
    }
    title = "The same units, from the same start, under rising corruption"
    signed = compared.keys()
    run.draw(plots.image_rows, "compared.png", compared, title=title, signed=signed)
    for setting, filters in first.items():
        name = f"filters_noise-{setting.level:g}_beta-{setting.beta:g}.png"
        title = f"{config.corruption} {setting.level:g}, beta {setting.beta:g}"
        run.draw(plots.image_grid, name, filters[:SHOWN], columns=10, title=title)
    plain = [row for row in rows if row["beta"] == 1 and row["level"] in config.noise_levels]
    emphasised = [row for row in rows if row["beta"] != 1]
    label = noises.BY_NAME[config.corruption].meaning
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


def main(config: Config) -> dict[str, Any]:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config).head(train=60_000, test=10_000)
    if min(dataset.example_shape[:2]) < 2:
        raise InputError("images must have 2 x 2 pixels at least, for neighbours to be compared")
    sizes = experiment.defaults(config, digits=100, others=15)
    epochs, seeds = sizes["epochs"], sizes["num_seeds"]
    has_labels = dataset.train_labels is not None and dataset.test_labels is not None
    probe_epochs = (2 if config.quick else PROBE_EPOCHS) if has_labels else 0
    total = len(settings_of(config)) * seeds * (epochs + probe_epochs)
    with ExperimentRun("filters", config, dataset, total=total) as run:
        x = jnp.asarray(dataset.flat()[0])
        trainer = make_trainer(config, x.shape[1], epochs)
        trained = train(config, trainer, x, seeds, run)
        found = measure(trainer, trained, dataset)
        for setting, errors in probe_errors(config, dataset, trained, run).items():
            found[setting]["probe_error"] = errors
        rows = []
        for setting, numbers in found.items():
            over = {key: over_seeds(v, UNITS[key]) for key, v in numbers.items()}
            rows.append({**setting._asdict(), **over})
            rough, wide = (over[key]["mean"] for key in ("roughness", "extent"))
            named = f"{config.corruption} {setting.level:g}, beta {setting.beta:g}"
            run.say(f"{named}: roughness {rough:.3f}, {wide:.0f} effective pixels")
        draw(run, config, rows, trained, dataset.example_shape)
        return run.finish(sizes, corruption=config.corruption, networks=rows)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
