"""The lecture's denoising autoencoder: every code dimension, and rising noise.

Reproduces the MNIST figures of the lecture (LMU Munich, Deep Learning, chapter 9): the flow
chart; original over corrupted; original / corrupted / denoised for each code dimension; the
noise sweep at one dimension; and, with numbers the slides do not have, test error against
code dimension and noise, beside the corrupted input itself and the best linear map.

    python -m experiments.denoising --dataset digits               about 1 minute, 2 cores
    python -m experiments.denoising --dataset mnist --epochs 10    about 10 minutes, 2 cores

Expected test MSE per pixel at noise 0.55: digits 0.025 at dimension 16; MNIST 0.0090 at 64.

Model: linear code, sigmoid output, squared error, Adam 1e-3, batches of 64, noise
U(-0.55, 0.55) clipped to [0, 1] (denoising_autoencoder_mnist.R of slds-lmu/lecture_i2dl).
Deviation: the noise is drawn afresh at every step (the lecture draws it once, so part of it
is learned by heart); MNIST is used whole; the levels called "a lot" are ours, since the
slides do not record theirs.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print("error: run python -m experiments.denoising in the repository root", file=sys.stderr)
    sys.exit(2)

import functools
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Annotated, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.data import datasets, noises
from experiments.common.errors import InputError
from experiments.common.results import over_seeds
from experiments.common.results.claims import (
    Claim,
    Sentence,
    brief,
    percent,
    ratio,
    sentence,
    shown,
    verdict,
)
from experiments.common.results.networks_file import KeptNetwork
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag
from jaxae.corruption import Corruption

# "Noise", "a lot of noise" and "a lot more": the levels unless told. The first is for training.
LEVELS: Mapping[noises.Name, tuple[float, ...]] = MappingProxyType(
    {
        "uniform": (0.55, 1.0, 2.0),
        "gaussian": (0.3, 0.6, 1.2),
        "masking": (0.25, 0.5, 0.75),
        "salt-and-pepper": (0.2, 0.4, 0.6),
    }
)
KEPT_RANK = 64  # of the linear maps that are kept for the lecture's page
_SHOWN = " ".join(f"{level:g}" for level in LEVELS["uniform"])
LEVELS_HELP = (
    f"Noise levels, by default {_SHOWN} for uniform noise; "
    "the first trains every code dimension,\n"
    "all of them the one nearest to 64 (digits: 16)."
)


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the denoising experiment."""

    code_dims: command_line.Optional[tuple[int, ...]] = None
    """Code dimensions; default 1568 784 256 64 32 16 8, for digits 128 64 32 16 8 4 2."""
    noise_levels: Annotated[
        tuple[float, ...] | None, tyro.conf.arg(help=LEVELS_HELP, help_behavior_hint="")
    ] = None
    corruption: noises.Name = "uniform"
    """Kind of corruption."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        for option, values in (
            ("--code-dims", self.code_dims),
            ("--noise-levels", self.noise_levels),
        ):
            if values == ():
                raise InputError(f"{option} must name at least one value")
            if values is not None and len(set(values)) < len(values):
                raise InputError(f"{option} must be different values, but they are {list(values)}")
        for dim in self.code_dims or ():
            command_line.require_integer("--code-dims", dim, low=1, high=2**16)
        highest = noises.BY_NAME[self.corruption].highest
        for level in self.noise_levels or ():
            command_line.require_number("--noise-levels", level, low=0.0, high=highest)


class Setup(NamedTuple):
    """The data, and how networks are trained on them: the configuration, with all defaults."""

    config: Config
    dataset: datasets.Dataset
    corrupt_at: Callable[[float | Array], Corruption]  # of a noise level
    dims: tuple[int, ...]
    levels: tuple[float, ...]
    swept_dim: int
    epochs: int
    num_seeds: int


def make_setup(config: Config) -> Setup:
    """Returns the data and the options, with what was left open filled in."""
    dataset = experiment.load(config)
    d = dataset.num_features
    noise = noises.BY_NAME[config.corruption]
    below = [k for k in (256, 64, 32, 16, 8) if k < d] if d > 256 else _halvings(d)
    dims = tuple(sorted(config.code_dims or (2 * d, d, *below), reverse=True))
    wanted = 64 if d > 256 else max(d // 4, 1)  # the lecture's 64; for digits 16
    return Setup(
        config,
        dataset,
        noise.at_level,
        dims,
        config.noise_levels or LEVELS[config.corruption],
        swept_dim=min(dims, key=lambda dim: abs(np.log(dim / wanted))),
        **experiment.defaults(config, digits=200, others=50),
    )


def _halvings(d: int) -> list[int]:
    return [d >> shift for shift in range(1, 6) if d >> shift >= 2]


def seed_keys(setup: Setup, seed: int) -> tuple[Array, Array, Array]:
    """Returns the keys of training, of the test noise and of the baselines' noise.

    They do not depend on code dimension or level: all models see the same noise.
    """
    train_key, test_key, pairs_key = jax.random.split(
        jax.random.fold_in(jax.random.key(setup.config.seed), seed), 3
    )
    return train_key, test_key, pairs_key


class Scored(NamedTuple):
    """The scores of one network over the seeds; pictures and parameters of the first one."""

    numbers: Metrics
    pictures: dict[str, np.ndarray]
    params: Params


class Runner:
    """Trains, scores and keeps examples, one code dimension at a time."""

    def __init__(self, setup: Setup, run: ExperimentRun) -> None:
        self.setup, self.run = setup, run
        self.train, self.test = setup.dataset.flat()
        self.to_train_on = fitting.in_memory_or_streamed(self.train)
        self.examples = setup.dataset.one_of_each_class()
        self.linear: dict[float, jaxae.LinearDenoiser] = {}  # of the first seed, by noise level

    def rows(self, dim: int) -> list[Scored]:
        """Returns the results at one code dimension, one for each noise level it needs."""
        setup, d = self.setup, self.train.shape[1]

        def loss(key: Array, encode: Function, decode: Function, x: Array, level: Array) -> Array:
            return jaxae.denoising_loss(key, encode, decode, x, corrupt=setup.corrupt_at(level))

        trainer = fitting.AutoencoderTrainer(
            jaxae.DenseAutoencoder((d,), dim, output_activation=nn.sigmoid),
            loss,
            learning_rate=setup.config.learning_rate,
            batch_size=setup.config.batch_size,
            epochs=setup.epochs,
            devices=setup.config.devices,
        )
        levels = setup.levels if dim == setup.swept_dim else setup.levels[:1]

        def tag(level: float, seed: int) -> Tag:
            return Tag(
                f"dim-{dim}_noise-{level:g}_seed-{seed}",
                f"dim {dim}, noise {level:g}, seed {seed}",
                {"code_dim": dim, "noise_level": level, "seed": seed},
            )

        def key(seed: int) -> Array:
            return seed_keys(setup, seed)[0]

        sweep = Sweep(self.run, range(setup.num_seeds), key, tag)
        started = time.perf_counter()
        trained = sweep.fit(trainer, self.to_train_on, {level: (level,) for level in levels})
        seconds = (time.perf_counter() - started) / (len(levels) * setup.num_seeds)
        scored = [self._score(trainer, dim, level, own) for level, own in trained.items()]
        for one in scored:
            one.numbers["seconds_per_run"] = round(seconds, 2)
        return scored

    def _score(
        self, trainer: fitting.AutoencoderTrainer, dim: int, level: float, trained: list[Params]
    ) -> Scored:
        """Returns the scores of the seeds' networks, and pictures of the first one."""
        scores, pictures = [], {}
        for seed, params in enumerate(trained):
            _, test_key, _ = seed_keys(self.setup, seed)
            noisy = test_key, self.setup.corrupt_at(level), self.test
            pieces = fitting.noisy_pieces(*noisy)
            scores.append(fitting.mean_scores(trainer.scores, params, pieces))
            if seed == 0:
                pictures = self._pictures(
                    trainer, params, *fitting.noisy_rows(*noisy, self.examples)
                )
        row: Metrics = {"code_dim": dim, "noise_level": level, **scores_over_seeds(scores)}
        mse, psnr = row["test_mse"]["mean"], row["test_psnr"]["mean"]
        self.run.say(f"dim {dim:5d}  noise {level:4g}  test MSE {mse:.5f}  PSNR {psnr:5.2f} dB")
        return Scored(row, pictures, trained[0])

    def _pictures(
        self, trainer: fitting.AutoencoderTrainer, params: Params, x_noisy: Array, x: Array
    ) -> dict[str, np.ndarray]:
        """Returns examples of the test set: clean, noisy and denoised, and the first code."""

        def as_images(rows: Array) -> np.ndarray:
            return np.asarray(rows).reshape(-1, *self.setup.dataset.example_shape)

        encode, _ = trainer.bound(params)
        return {
            "clean": as_images(x),
            "noisy": as_images(x_noisy),
            "denoised": as_images(jax.vmap(partial(trainer.reconstruct, params))(x_noisy)),
            "code": np.asarray(encode(x_noisy[0])),
        }

    def baselines(self, level: float, dims: tuple[int, ...]) -> Metrics:
        """Returns the scores of the corrupted input and of the best linear map of each rank."""
        untouched: list[dict[str, float]] = []
        linear: dict[int, list[dict[str, float]]] = {dim: [] for dim in dims}
        scores_of = {dim: fitting.make_scores(partial(_apply_linear, dim)) for dim in dims}
        for seed in range(self.setup.num_seeds):
            _, test_key, pairs_key = seed_keys(self.setup, seed)
            corrupt = self.setup.corrupt_at(level)
            noisy = test_key, corrupt, self.test
            pieces = fitting.noisy_pieces(*noisy)
            untouched.append(fitting.mean_scores(_SCORES_OF_INPUT, None, pieces))
            with jax.default_matmul_precision("highest"):
                pairs = fitting.noisy_pieces(pairs_key, corrupt, self.train)
                moments = functools.reduce(_MERGED, (_MOMENTS(*pair) for pair in pairs))
                best = moments.denoiser()
            self.linear.setdefault(level, best)
            for dim in dims:
                pieces = fitting.noisy_pieces(*noisy)
                linear[dim].append(fitting.mean_scores(scores_of[dim], best, pieces))
        return {
            "corrupted": scores_over_seeds(untouched),
            "linear": {dim: scores_over_seeds(scores) for dim, scores in linear.items()},
        }


_MOMENTS = jax.jit(jaxae.pair_moments)
_MERGED = jax.jit(jaxae.PairMoments.merged)
_SCORES_OF_INPUT = fitting.make_scores(lambda _, x_i: x_i)


def _apply_linear(rank: int, best: jaxae.LinearDenoiser, x_i: Array) -> Array:
    return best(x_i, rank=rank)


def scores_over_seeds(scores: list[dict[str, float]]) -> Metrics:
    """Returns mean and spread over the seeds of each test score."""
    return {
        f"test_{name}": over_seeds.over_seeds([score[name] for score in scores], unit)
        for name, unit in fitting.UNITS.items()
    }


class Trained(NamedTuple):
    """The networks of every code dimension, trained and scored.

    Attributes:
      runner: has the data, and scores what they are compared with.
      scored: by code dimension, one for each noise level.
    """

    runner: Runner
    scored: dict[int, list[Scored]]

    @property
    def by_code_dim(self) -> list[Scored]:
        """Every code dimension, at the first noise level."""
        return [own[0] for own in self.scored.values()]

    @property
    def by_noise_level(self) -> list[Scored]:
        """Every noise level, at one code dimension."""
        return self.scored[self.runner.setup.swept_dim]


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the scores of all networks, beside what they are compared with."""
    runner, setup = trained.runner, trained.runner.setup
    for position, level in enumerate(setup.levels):
        base = runner.baselines(level, setup.dims if position == 0 else (setup.swept_dim,))
        for row in (one.numbers for own in trained.scored.values() for one in own):
            if row["noise_level"] == level:
                row["corrupted"] = base["corrupted"]
                row["linear"] = base["linear"][row["code_dim"]]
    return {
        "corruption": setup.config.corruption,
        "num_features": setup.dataset.num_features,
        "stochastic_view": stochastic_view(setup, jnp.asarray(runner.train[:256])),
        "by_code_dim": [one.numbers for one in trained.by_code_dim],
        "by_noise_level": [one.numbers for one in trained.by_noise_level],
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws all figures."""
    draw_pictures(run, trained)
    draw_curves(run, trained.runner.setup, found)


def draw_pictures(run: ExperimentRun, trained: Trained) -> None:
    """Draws clean, corrupted and denoised images, by code dimension and by noise level."""
    setup = trained.runner.setup
    kind = setup.config.corruption
    by_dim = {one.numbers["code_dim"]: one.pictures for one in trained.by_code_dim}
    by_noise = {one.numbers["noise_level"]: one.pictures for one in trained.by_noise_level}
    level = f"{kind} noise {setup.levels[0]:g}"
    first, sweep = next(iter(by_dim.values())), next(iter(by_noise.values()))

    images = {name: sweep[name][0] for name in ("clean", "noisy", "denoised")}
    run.draw(plots.flow_chart, "flow_chart.png", code=sweep["code"], **images)

    top = {"original": first["clean"], "corrupted": first["noisy"]}
    run.draw(plots.image_rows, "corrupted.png", top, title=f"Test examples, {level}")
    for dim, pictures in by_dim.items():
        rows = top | {"denoised": pictures["denoised"]}
        title = f"Code dimension {dim}, {level}"
        run.draw(plots.image_rows, f"rows_dim_{dim:04d}.png", rows, title=title)
    rows = top | {f"dim(z) = {dim}": own["denoised"] for dim, own in by_dim.items()}
    title = f"Denoised by autoencoders of each code dimension, {level}"
    run.draw(plots.image_rows, "code_dims.png", rows, title=title, gaps=(2,))

    rows = {"original": first["clean"]}
    for noise, pictures in by_noise.items():
        rows[f"noise {noise:g}"] = pictures["noisy"]
        rows[f"denoised {noise:g}"] = pictures["denoised"]
    title = f"Rising {kind} noise, code dimension {setup.swept_dim}"
    gaps = tuple(range(1, len(rows), 2))
    run.draw(plots.image_rows, "noise_levels.png", rows, title=title, gaps=gaps)


def draw_curves(run: ExperimentRun, setup: Setup, found: Metrics) -> None:
    """Draws the scores against the code dimension, and against the noise level."""
    kind = setup.config.corruption
    level = f"{kind} noise {setup.levels[0]:g}"
    at_dim = f"Denoising at code dimension {setup.swept_dim}"
    for against, x_label, title in (
        ("code_dim", "code dimension k", f"Denoising, {level}"),
        ("noise_level", noises.BY_NAME[kind].meaning, at_dim),
    ):
        rows = found[f"by_{against}"]
        x = [row[against] for row in rows]
        scale = "log2" if against == "code_dim" else "linear"
        panels = [
            plots.Panel(x_label, y_label, _lines(x, rows, quantity), (scale, "linear"), x)
            for quantity, y_label in (
                ("test_mse", "test MSE per pixel"),
                ("test_psnr", "test PSNR (dB)"),
            )
        ]
        run.draw(plots.panels, f"curves_{against}.png", panels, title=title)


def _lines(x: list[float], rows: list[Metrics], quantity: str) -> list[plots.Line]:
    series = [
        ("denoising autoencoder", rows, plots.METHODS["DAE"]),
        ("best linear map of rank k", [row["linear"] for row in rows], plots.OTHERS[0]),
        ("corrupted input", [row["corrupted"] for row in rows], plots.EXACT),
    ]
    return [
        plots.line(label, x, [part[quantity] for part in parts], look)
        for label, parts, look in series
    ]


def keep_networks(run: ExperimentRun, trained: Trained) -> None:
    """Keeps the first seed's networks and best linear maps for the lecture's page."""
    setup, runner = trained.runner.setup, trained.runner
    first = [own[0] for dim, own in sorted(trained.scored.items()) if dim != setup.swept_dim]
    swept = trained.by_noise_level
    kept = [kept_network(swept[0]), kept_linear_map(setup.levels[0], runner)]
    kept += [kept_network(one) for one in first]
    for one in swept[1:]:
        kept += [kept_network(one), kept_linear_map(one.numbers["noise_level"], runner)]
    about = {
        "corruption": setup.config.corruption,
        "code_activation": "linear",
        "output_activation": "sigmoid",
    }
    run.keep_networks(kept, about)


def kept_network(scored: Scored) -> KeptNetwork:
    """Returns a network with its code dimension and its noise level."""
    about = {key: scored.numbers[key] for key in ("code_dim", "noise_level")}
    name = f"dim-{about['code_dim']}_noise-{about['noise_level']:g}"
    return KeptNetwork(name, scored.params, about)


def kept_linear_map(level: float, runner: Runner) -> KeptNetwork:
    """Returns the best linear map at one noise level, for ranks of 64 at most."""
    best = runner.linear[level]
    basis = np.asarray(best.basis)[:, :KEPT_RANK]
    rank = basis.shape[1]
    encoder = np.asarray(best.gain).T @ basis
    params = {  # the map as an autoencoder
        "encoder_kernel_0": encoder,
        "encoder_bias_0": -np.asarray(best.noisy_mean) @ encoder,
        "decoder_kernel_0": basis.T,
        "decoder_bias_0": best.x_mean,
    }
    about = {"rank": rank, "noise_level": level, "output_activation": "linear"}
    return KeptNetwork(f"linear_noise-{level:g}", params, about)


def half_squared_error(x_hat_i: Array, x_i: Array) -> Array:
    """Returns half the squared error of one example."""
    return jaxae.squared_error(x_hat_i, x_i) / 2


def stochastic_view(setup: Setup, x: Array) -> Metrics:
    """Returns how far the Gaussian likelihood of the decoder is from the squared error.

    With unit variance the negative log-likelihood is half the squared error plus d/2 log(2 pi), so
    their gradients are the same; both are compared on one noisy batch at fresh parameters.
    """
    init, encode, decode = jaxae.as_functions(
        jaxae.DenseAutoencoder(x.shape[1:], setup.swept_dim, output_activation=nn.sigmoid)
    )

    @jax.jit
    def gap(params: Params, key: Array) -> Array:
        def gradient(reconstruction: Callable[[Array, Array], Array]) -> Array:
            def mean_loss(params: Params) -> Array:
                return jaxae.denoising_loss(
                    key,
                    partial(encode, params),
                    partial(decode, params),
                    x,
                    corrupt=setup.corrupt_at(setup.levels[0]),
                    reconstruction=reconstruction,
                ).mean()

            return ravel_pytree(jax.grad(mean_loss)(params))[0]

        nll, error = gradient(jaxae.gaussian_nll), gradient(half_squared_error)
        return jnp.linalg.norm(nll - error) / jnp.linalg.norm(error)

    values = []
    for seed in range(setup.num_seeds):
        init_key, noise_key = jax.random.split(seed_keys(setup, seed)[0])
        values.append(float(gap(init(init_key), noise_key)))
    unit = "relative distance of the two gradients"
    return {"gradient_gap": over_seeds.over_seeds(values, unit)}


def claims(found: Metrics) -> list[Claim]:
    """Returns what the slides say of the denoising autoencoder with what was measured."""
    by_dim, by_noise = found["by_code_dim"], found["by_noise_level"]

    def error(row: Metrics) -> Metrics:
        return row["test_mse"]

    def untouched(row: Metrics) -> Metrics:
        return row["corrupted"]["test_mse"]

    widest, best, narrowest = by_dim[0], min(by_dim, key=lambda r: error(r)["mean"]), by_dim[-1]
    decisive = [row for row in by_dim if row in (widest, best, narrowest)]
    swept = by_noise[0]
    first, last = swept, by_noise[-1]
    gap = found["stochastic_view"]["gradient_gap"]
    kind = found["corruption"]
    return [
        Claim(
            "Algorithm 1: sample an example, corrupt it, and train to reconstruct the clean "
            "example from the corrupted one.",
            f"On test images with {kind} noise of level {swept['noise_level']:g} a code of "
            f"{swept['code_dim']} numbers leaves a squared error of {shown(error(swept))} per "
            f"pixel of the {shown(untouched(swept))} that the noise made; the best linear map of "
            f"that rank leaves {shown(swept['linear']['test_mse'])}. Noise is drawn afresh at "
            "every step; drawn once, as in the lecture's code, part of it is learned by heart.",
            verdict(error(swept)["mean"] < swept["linear"]["test_mse"]["mean"]),
            {
                "denoised": error(swept),
                "best linear map": swept["linear"]["test_mse"],
                "corrupted input": untouched(swept),
            },
            "flow_chart.png",
            "A flow chart: a clean image, the same image under noise, an encoder, a narrow strip "
            "of code values, a decoder, the image reconstructed without the noise; the loss "
            "compares it with the clean one.",
            anchor="denoising-algorithm",
            plain=sentence(
                "The autoencoder leaves {denoised} of the squared error that the noise made; the "
                "best linear map leaves {linear}.",
                denoised=percent(ratio(error(swept), untouched(swept))),
                linear=percent(ratio(swept["linear"]["test_mse"], untouched(swept))),
            ),
            caption="From left to right: a clean image, the same image under noise, its code, and "
            "the reconstruction. The loss compares the reconstruction with the clean image.",
            formula=r"x \sim p(x), \quad \tilde x \sim C(\tilde x \mid x), \quad "
            r"\min L(x, \text{dec}(\text{enc}(\tilde x)))",
            take_home=sentence(
                "A denoising autoencoder is trained to rebuild the clean image from a noisy one; "
                "here it leaves {denoised} of the noise's squared error.",
                denoised=percent(ratio(error(swept), untouched(swept))),
            ),
        ),
        Claim(
            "Stochastic view: a linear output is the mean of a Gaussian, whose negative "
            "log-likelihood equals the squared error up to constants.",
            "The gradients of the two losses agree to the rounding of float32 (distance over size: "
            f"{shown(gap)}).",
            verdict(max(gap["values"]) < 1e-4),
            {"distance of the gradients": gap},
            "corrupted.png",
            "Two rows of pictures: ten test images, and the same images under noise, the pairs of "
            "which both losses are computed.",
            anchor="denoising-gaussian-view",
            plain=sentence(
                "The gradients of the two losses differ by {gap} of their length.",
                gap=percent(gap["mean"]),
            ),
            caption="Top: test images. Bottom: the same images under noise. Both losses are "
            "computed from such pairs.",
            formula=r"-\log p(x \mid z) = \frac{1}{2 \sigma^2} \|x - \text{dec}(z)\|^2 "
            r"+ \text{const}",
        ),
        Claim(
            "MNIST: digits are denoised through codes of 1568, 784, 256, 64, 32, 16 and 8 numbers, "
            "also through codes larger than the input.",
            f"With {widest['code_dim']} numbers for {found['num_features']} pixels the "
            f"autoencoder does not copy: it leaves {shown(error(widest))} of "
            f"{shown(untouched(widest))}. The error is least at {best['code_dim']} numbers, "
            f"{shown(error(best))}, and rises to {shown(error(narrowest))} at "
            f"{narrowest['code_dim']}.",
            verdict(
                error(widest)["mean"] < untouched(widest)["mean"] / 2
                and error(narrowest)["mean"] > error(best)["mean"]
            ),
            {f"code of {row['code_dim']}": error(row) for row in by_dim},
            "code_dims.png",
            "Rows of ten images: original, corrupted, then denoised through codes of falling "
            "size; the last rows are blurred and some images change.",
            anchor="denoising-code-sizes",
            plain=sentence(
                "With {density} code numbers per pixel, the autoencoder leaves {share} of the "
                "squared error of the noise; a copy would leave all of it.",
                density=brief(widest["code_dim"] / found["num_features"]),
                share=percent(ratio(error(widest), untouched(widest))),
            ),
            caption="Top: original and noisy images. Below: the same images, denoised through "
            "smaller and smaller codes. Read downwards: where do the images blur?",
            leading=tuple(f"code of {row['code_dim']}" for row in decisive),
        ),
        Claim(
            "The code dimension decides how much is kept: too few numbers blur the digits.",
            f"Below {best['code_dim']} numbers every halving costs; the error of the best linear "
            "map of each rank, in closed form, stands beside the autoencoder's.",
            verdict(
                all(
                    error(a)["mean"] < error(b)["mean"]
                    for a, b in itertools.pairwise(by_dim[by_dim.index(best) :])
                )
            ),
            {f"PSNR, code of {row['code_dim']} (dB)": row["test_psnr"] for row in by_dim},
            "curves_code_dim.png",
            "Two panels against the code dimension on a logarithmic axis, error falling and PSNR "
            "rising until they level off: the autoencoder, the best linear map, and the corrupted "
            "input as a flat line.",
            anchor="denoising-narrow-codes",
            plain=sentence(
                "The narrowest code, of {dim} numbers, leaves {times} times the squared error of "
                "the best code size.",
                dim=brief(narrowest["code_dim"]),
                times=brief(ratio(error(narrowest), error(best))),
            ),
            caption="The code grows to the right. Left: error, the lower the better. Right: PSNR, "
            "the higher the better. The dashed line is the noisy image itself.",
            leading=tuple(f"PSNR, code of {row['code_dim']} (dB)" for row in decisive),
        ),
        Claim(
            "The autoencoder still denoises with a lot of noise, and with a lot more.",
            f"From level {first['noise_level']:g} to {last['noise_level']:g} the error rises from "
            f"{shown(error(first))} to {shown(error(last))}, of {shown(untouched(last))} in the "
            "corrupted image.",
            verdict(
                all(error(r)["mean"] < untouched(r)["mean"] for r in by_noise)
                and all(
                    error(a)["mean"] < error(b)["mean"] for a, b in itertools.pairwise(by_noise)
                )
            ),
            {f"noise {row['noise_level']:g}": error(row) for row in by_noise},
            "noise_levels.png",
            "Pairs of rows of ten images for rising noise: the corrupted images, at the end hardly "
            "readable, and below each the denoised ones, at the end blurred.",
            anchor="denoising-more-noise",
            plain=sentence(
                "At the highest noise the squared error is {times} times that at the lowest, and "
                "{share} of the noisy image's.",
                times=brief(ratio(error(last), error(first))),
                share=percent(ratio(error(last), untouched(last))),
            ),
            caption=(
                "Top: test images. Each pair of rows below: the images under noise, and what the "
                "autoencoder makes of them. At level 1, a pixel between 0 and 1 changes by up to "
                "1. From which level on can you no longer tell what it is?"
            )
            if kind == "uniform"
            else "Top: test images. Each pair of rows below: the images under noise, and what the "
            "autoencoder makes of them. From which level on can you no longer tell what it is?",
            take_home=_breaking_noise(by_noise, narrowest),
            more={
                "curves_noise_level.png": (
                    "Error and PSNR against the noise level: the autoencoder stays below the best "
                    "linear map and far below the corrupted input."
                ),
            },
        ),
    ]


def _breaking_noise(by_noise: list[Metrics], narrowest: Metrics) -> Sentence:
    """Returns from which noise on the images are worse than through the narrowest code.

    The narrowest code blurs digits into each other; it was trained and tested at the lowest noise.
    If the network does not even denoise that, then the lowest noise breaks it.
    """
    first = by_noise[0]
    if first["test_mse"]["mean"] >= first["corrupted"]["test_mse"]["mean"]:
        return sentence(
            "Already noise of level {level} breaks it: its images are no better than the noisy "
            "ones.",
            level=brief(first["noise_level"]),
        )
    limit = narrowest["test_mse"]["mean"]
    is_worse = [row["test_mse"]["mean"] > limit for row in by_noise]
    levels = [brief(row["noise_level"]) for row in by_noise]
    if not any(is_worse):
        return sentence(
            "Strong noise does not break it: even at level {level} its images are no worse than "
            "with the smallest code that was tried.",
            level=levels[-1],
        )
    broken = is_worse.index(True)
    if broken == 0:
        return sentence(
            "Already noise of level {level} breaks it: its images are worse than with the smallest "
            "code that was tried.",
            level=levels[0],
        )
    return sentence(
        "A denoising autoencoder copes with noise of level {less}; level {level} breaks it: its "
        "images are worse than with the smallest code that was tried.",
        less=levels[broken - 1],
        level=levels[broken],
    )


def network_bytes(setup: Setup) -> int:
    """Returns the bytes of the weights and Adam's moments that are in memory at a time."""
    d = setup.dataset.num_features

    def bytes_at(dim: int) -> int:
        levels = len(setup.levels) if dim == setup.swept_dim else 1
        return setup.num_seeds * levels * 3 * 4 * (2 * d * dim + d + dim)

    return sum(bytes_at(dim) for dim in setup.dims[:2])  # the largest; two train at a time


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    setup = make_setup(config)
    total = setup.epochs * setup.num_seeds * (len(setup.dims) + len(setup.levels) - 1)
    networks = network_bytes(setup)
    with ExperimentRun("denoising", config, setup.dataset, total=total, networks=networks) as run:
        runner = Runner(setup, run)
        scored = dict(zip(setup.dims, run.in_parallel(runner.rows, setup.dims), strict=True))
        trained = Trained(runner, scored)
        found = measure(run, trained, {})
        draw(run, trained, found)
        keep_networks(run, trained)
        resolved = {
            "code_dims": setup.dims,
            "noise_levels": setup.levels,
            "epochs": setup.epochs,
            "num_seeds": setup.num_seeds,
        }
        return run.finish(resolved, **found)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
