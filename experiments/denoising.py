"""The lecture's denoising autoencoder: every code dimension, and rising noise.

Reproduces the MNIST figures of the lecture (LMU Munich, Deep Learning, chapter 9): the flow
chart; original over corrupted; original / corrupted / denoised for each code dimension; the
noise sweep at one dimension; and, with numbers the slides do not have, test error against
code dimension and noise, beside the corrupted input itself and the best linear map.

    python -m experiments.denoising --dataset digits
    python -m experiments.denoising --dataset mnist --epochs 10

Model: linear code, sigmoid output, squared error, Adam 1e-3, batches of 64, noise
U(-0.55, 0.55) clipped to [0, 1] (denoising_autoencoder_mnist.R of slds-lmu/lecture_i2dl).
Deviation: the noise is drawn afresh at every step (the lecture draws it once, so part of it
is learned by heart); MNIST is used whole; the levels called "a lot" are ours, since the
slides do not record theirs.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common import command_line, data, plots, records
from experiments.common.errors import InputError
from experiments.common.progress import Progress

CorruptionName = Literal["uniform", "gaussian", "masking", "salt-and-pepper"]


class Noise(NamedTuple):
    """One kind of corruption: how to make it from a level, its levels, what a level means."""

    at_level: Callable[[Any], jaxae.corruption.Corruption]
    levels: tuple[float, ...]
    meaning: str
    highest: float | None


NOISES: dict[str, Noise] = {
    "uniform": Noise(
        lambda level: partial(jaxae.uniform_noise, scale=level, low=0.0, high=1.0),
        (0.55, 1.0, 2.0),
        "half-width of the uniform noise (pixel values)",
        None,
    ),
    "gaussian": Noise(
        lambda level: partial(jaxae.gaussian_noise, stddev=level),
        (0.3, 0.6, 1.2),
        "standard deviation of the noise (pixel values)",
        None,
    ),
    "masking": Noise(
        lambda level: partial(jaxae.masking_noise, rate=level),
        (0.25, 0.5, 0.75),
        "probability of a pixel being set to 0",
        1.0,
    ),
    "salt-and-pepper": Noise(
        lambda level: partial(jaxae.salt_and_pepper_noise, rate=level),
        (0.2, 0.4, 0.6),
        "probability of a pixel being replaced",
        1.0,
    ),
}


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the denoising experiment."""

    code_dims: tuple[int, ...] | None = None
    """Code dimensions; default 1568 784 256 64 32 16 8, for digits 128 64 32 16 8 4 2."""
    noise_levels: tuple[float, ...] | None = None
    """Noise levels; the first trains every code dimension, all of them train one."""
    corruption: CorruptionName = "uniform"
    """Kind of corruption."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        for name, values in (
            ("--code-dims", self.code_dims),
            ("--noise-levels", self.noise_levels),
        ):
            if values is not None and (not values or len(set(values)) < len(values)):
                raise InputError(f"{name} must be different values, but they are {list(values)}")
        for dim in self.code_dims or ():
            command_line.require_integer("--code-dims", dim, low=1, high=2**16)
        for level in self.noise_levels or ():
            command_line.require_number(
                "--noise-levels", level, low=0.0, high=NOISES[self.corruption].highest
            )

    def resolved(self, dataset: data.Dataset) -> "Config":
        """Returns the configuration with every default that depends on the data filled in."""
        d = dataset.num_features
        lower = [k for k in (256, 64, 32, 16, 8) if k < d] if d > 256 else halvings(d)
        dims = self.code_dims or (2 * d, d, *lower)
        levels = self.noise_levels or NOISES[self.corruption].levels
        return dataclasses.replace(
            self,
            code_dims=tuple(sorted(dims, reverse=True)),
            noise_levels=levels,
            epochs=2 if self.quick else self.epochs or (200 if self.dataset == "digits" else 50),
            num_seeds=1 if self.quick else self.num_seeds,
            out=self.out or records.default_folder("denoising", dataset.name),
        )


def halvings(d: int) -> list[int]:
    """Returns d/2, d/4, ... down to 2, five at the most."""
    return [d >> shift for shift in range(1, 6) if d >> shift >= 2]


def sweep_dim(code_dims: tuple[int, ...], d: int) -> int:
    """Returns the code dimension of the noise sweep: nearest to 64, for digits to 16."""
    wanted = 64 if d > 256 else max(d // 4, 1)
    return min(code_dims, key=lambda dim: abs(np.log(dim / wanted)))


class Trainer:
    """Trains and tests the autoencoder of one code dimension; compiled once for all levels."""

    def __init__(self, config: Config, code_dim: int, d: int) -> None:
        model = jaxae.DenseAutoencoder((d,), code_dim, output_activation=nn.sigmoid)
        self.functions = jaxae.as_functions(model)
        self.optimizer = optax.adam(config.learning_rate)
        self.epochs = config.epochs or 1
        at_level = NOISES[config.corruption].at_level

        def loss(params: Any, key: Array, x: Array, level: Array) -> Array:
            encode, decode = self.bound(params)
            return jaxae.denoising_loss(key, encode, decode, x, corrupt=at_level(level))

        self.run_epoch = jaxae.make_epoch(loss, self.optimizer, batch_size=config.batch_size)
        self.score = jax.jit(partial(reconstruction_scores, self.reconstruct))

    def bound(self, params: Any) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Returns the encoder and decoder with these parameters."""
        return partial(self.functions.encode, params), partial(self.functions.decode, params)

    def reconstruct(self, params: Any, x_i: Array) -> Array:
        """Returns decode(encode(x_i))."""
        encode, decode = self.bound(params)
        return decode(encode(x_i))

    def fit(
        self, key: Array, x: Array, level: float, on_epoch: Callable[[int, float], None]
    ) -> Any:
        """Returns trained parameters."""
        init_key, train_key = jax.random.split(key)
        state = jaxae.create_train_state(self.functions.init(init_key), self.optimizer)
        state = jaxae.fit(
            self.run_epoch,
            state,
            train_key,
            x,
            jnp.asarray(level, x.dtype),
            epochs=self.epochs,
            on_epoch=on_epoch,
        )
        return state.params


def reconstruction_scores(
    reconstruct: Callable[[Any, Array], Array], params: Any, x_noisy: Array, x: Array
) -> dict[str, Array]:
    """Returns MSE per pixel and PSNR of denoising, means over the examples."""

    def scores(x_noisy_i: Array, x_i: Array) -> dict[str, Array]:
        x_hat_i = reconstruct(params, x_noisy_i)
        return {
            "mse": jaxae.mean_squared_error(x_hat_i, x_i),
            "psnr": jaxae.psnr(x_hat_i, x_i),
        }

    return jaxae.evaluate(scores, x_noisy, x, batch_size=1000)


class Runs:
    """Everything that is trained, measured and drawn for one configuration."""

    def __init__(
        self, config: Config, dataset: data.Dataset, record: records.RunRecord, progress: Progress
    ) -> None:
        self.config, self.record, self.progress = config, record, progress
        self.train, self.test = map(jnp.asarray, dataset.flat())
        self.shape = dataset.example_shape
        self.examples = one_of_each(dataset.test_labels, len(dataset.test))
        self.at_level = NOISES[config.corruption].at_level

    def keys(self, seed: int) -> tuple[Array, Array, Array]:
        """Returns the keys of training, test noise and baseline noise of one repetition."""
        root = jax.random.fold_in(jax.random.key(self.config.seed), seed)
        return tuple(jax.random.split(root, 3))  # type: ignore[return-value]

    def test_noise(self, seed: int, level: float) -> Array:
        """Returns the corrupted test set, the same for every code dimension."""
        return jaxae.corrupt_batch(self.keys(seed)[1], self.at_level(level), self.test)

    def of_dim(self, dim: int, levels: tuple[float, ...]) -> list[dict[str, Any]]:
        """Returns a row of results for each noise level at one code dimension."""
        trainer = Trainer(self.config, dim, self.train.shape[1])
        return [self._row(trainer, dim, level) for level in levels]

    def _row(self, trainer: Trainer, dim: int, level: float) -> dict[str, Any]:
        scores, started = [], time.perf_counter()
        for seed in range(self.config.num_seeds):
            doing = f"dim {dim}, noise {level:g}, seed {seed}"

            def on_epoch(epoch: int, loss: float, seed: int = seed, doing: str = doing) -> None:
                self.record.log(
                    code_dim=dim, noise_level=level, seed=seed, epoch=epoch, train_loss=loss
                )
                self.progress.advance(doing)

            params = trainer.fit(self.keys(seed)[0], self.train, level, on_epoch)
            x_noisy = self.test_noise(seed, level)
            score = jax.tree.map(float, trainer.score(params, x_noisy, self.test))
            scores.append(score)
            if seed == 0:
                kept = self._pictures(trainer, params, x_noisy)
        seconds = (time.perf_counter() - started) / self.config.num_seeds
        row = {"code_dim": dim, "noise_level": level, **summary("test", scores)}
        row["seconds_per_run"] = round(seconds, 2)
        self.progress.say(
            f"dim {dim:5d}  noise {level:4g}  test MSE {row['test_mse']['mean']:.5f}  "
            f"PSNR {row['test_psnr']['mean']:5.2f} dB"
        )
        return row | {"pictures": kept}

    def _pictures(self, trainer: Trainer, params: Any, x_noisy: Array) -> dict[str, np.ndarray]:
        """Returns clean, noisy and denoised examples of the test set, and one code."""
        noisy = x_noisy[self.examples]
        encode, _ = trainer.bound(params)
        to_images = lambda rows: np.asarray(rows).reshape(-1, *self.shape)
        return {
            "clean": to_images(self.test[self.examples]),
            "noisy": to_images(noisy),
            "denoised": to_images(jax.vmap(partial(trainer.reconstruct, params))(noisy)),
            "code": np.asarray(encode(noisy[0])),
        }

    def baselines(self, level: float, dims: tuple[int, ...]) -> dict[str, Any]:
        """Returns the scores of the corrupted input and of the best linear maps."""
        untouched, linear = [], {dim: [] for dim in dims}  # type: ignore[var-annotated]
        for seed in range(self.config.num_seeds):
            x_noisy = self.test_noise(seed, level)
            untouched.append(_score(lambda _, x_i: x_i, None, x_noisy, self.test))
            pairs = jaxae.corrupt_batch(self.keys(seed)[2], self.at_level(level), self.train)
            best = jaxae.fit_linear_denoiser(pairs, self.train)
            for dim in dims:
                denoise = lambda best, x_i, dim=dim: best(x_i, rank=dim)
                linear[dim].append(_score(denoise, best, x_noisy, self.test))
        return {
            "corrupted": summary("test", untouched),
            "linear": {dim: summary("test", scores) for dim, scores in linear.items()},
        }


def _score(reconstruct: Any, params: Any, x_noisy: Array, x: Array) -> dict[str, float]:
    scores = jax.jit(partial(reconstruction_scores, reconstruct))(params, x_noisy, x)
    return jax.tree.map(float, scores)


def summary(prefix: str, scores: list[dict[str, float]]) -> dict[str, Any]:
    """Returns mean and spread over the seeds of each score."""
    units = {"mse": "squared pixel value, mean over pixels and examples", "psnr": "dB"}
    return {
        f"{prefix}_{name}": records.over_seeds([score[name] for score in scores], unit)
        for name, unit in units.items()
    }


def one_of_each(labels: np.ndarray | None, count: int) -> np.ndarray:
    """Returns the first test example of each class, or the first ten examples."""
    if labels is None:
        return np.arange(min(10, count))
    return np.unique(labels, return_index=True)[1][:10]


def draw(record: records.RunRecord, config: Config, table: dict[str, Any]) -> None:
    """Writes all figures."""
    by_dim, by_noise = table["by_code_dim"], table["by_noise_level"]
    noise = NOISES[config.corruption]
    first = by_dim[0]["pictures"]
    level = f"{config.corruption} noise {by_dim[0]['noise_level']:g}"
    sweep = next(row for row in by_dim if row["code_dim"] == by_noise[0]["code_dim"])["pictures"]
    plots.flow_chart(
        record.path("flow_chart.png"),
        clean=sweep["clean"][0],
        noisy=sweep["noisy"][0],
        code=sweep["code"],
        denoised=sweep["denoised"][0],
    )
    top = {"original": first["clean"], "corrupted": first["noisy"]}
    plots.image_rows(record.path("corrupted.png"), top, title=f"Test examples, {level}")
    for row in by_dim:
        rows = top | {"denoised": row["pictures"]["denoised"]}
        title = f"Code dimension {row['code_dim']}, {level}"
        plots.image_rows(record.path(f"rows_dim_{row['code_dim']:04d}.png"), rows, title=title)
    rows = top | {f"dim(z) = {row['code_dim']}": row["pictures"]["denoised"] for row in by_dim}
    title = f"Denoised by autoencoders of each code dimension, {level}"
    plots.image_rows(record.path("code_dims.png"), rows, title=title, gaps=(2,))

    rows = {"original": first["clean"]}
    for row in by_noise:
        rows[f"noise {row['noise_level']:g}"] = row["pictures"]["noisy"]
        rows[f"denoised {row['noise_level']:g}"] = row["pictures"]["denoised"]
    title = f"Rising {config.corruption} noise, code dimension {by_noise[0]['code_dim']}"
    gaps = tuple(range(1, len(rows), 2))
    plots.image_rows(record.path("noise_levels.png"), rows, title=title, gaps=gaps)

    _draw_curves(record, by_dim, "code_dim", "code dimension k", f"Denoising, {level}", True)
    title = f"Denoising at code dimension {by_noise[0]['code_dim']}"
    _draw_curves(record, by_noise, "noise_level", noise.meaning, title, False)


def _draw_curves(
    record: records.RunRecord,
    rows: list[dict[str, Any]],
    against: str,
    x_label: str,
    title: str,
    log2_x: bool,
) -> None:
    labels = {"test_mse": "test MSE per pixel", "test_psnr": "test PSNR (dB)"}
    kinds = [
        ("autoencoder", None, plots.ACCENT, "o-"),
        ("best linear map of rank k", "linear", plots.SECOND, "s--"),
        ("corrupted input", "corrupted", plots.MUTED, ":"),
    ]
    panels = {
        label: [
            plots.Curve(
                name,
                [(row[source] if source else row)[quantity]["mean"] for row in rows],
                [(row[source] if source else row)[quantity]["std"] for row in rows],
                color,
                style,
            )
            for name, source, color, style in kinds
        ]
        for quantity, label in labels.items()
    }
    plots.curves(
        record.path(f"curves_{against}.png"),
        [row[against] for row in rows],
        panels,
        x_label=x_label,
        title=title,
        log2_x=log2_x,
    )


def main(config: Config) -> dict[str, Any]:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    started = time.perf_counter()
    dataset = data.load(config.dataset, config.data_dir)
    if config.quick:
        dataset = dataset.head(train=1000, test=200)
    config = config.resolved(dataset)
    assert config.code_dims and config.noise_levels and config.epochs and config.out
    dims, levels = config.code_dims, config.noise_levels
    swept = sweep_dim(dims, dataset.num_features)
    total = config.epochs * config.num_seeds * (len(dims) + len(levels) - 1)
    with records.RunRecord(config.out) as record, Progress(total, "epoch") as progress:
        runs = Runs(config, dataset, record, progress)
        progress.say(
            f"{dataset.name}: {len(dataset.train)} train and {len(dataset.test)} test images; "
            f"{config.num_seeds} seed(s), {config.epochs} epochs each"
        )
        rows = {dim: runs.of_dim(dim, levels if dim == swept else levels[:1]) for dim in dims}
        base = {
            level: runs.baselines(level, dims if level == levels[0] else (swept,))
            for level in levels
        }
        for dim, row in ((dim, row) for dim in dims for row in rows[dim]):
            of_level = base[row["noise_level"]]
            row |= {"corrupted": of_level["corrupted"], "linear": of_level["linear"][dim]}
        table = {"by_code_dim": [rows[dim][0] for dim in dims], "by_noise_level": rows[swept]}
        draw(record, config, table)
        metrics = {
            "experiment": "denoising",
            "dataset": dataset.name,
            "train_examples": len(dataset.train),
            "test_examples": len(dataset.test),
            "corruption": config.corruption,
            "seconds": round(time.perf_counter() - started, 1),
        } | {name: [without_pictures(row) for row in part] for name, part in table.items()}
        record.write_json("metrics.json", metrics)
        record.write_json(
            "config.json",
            command_line.as_json(config)
            | {"data_sha256": dataset.fingerprint(), "environment": records.environment()},
        )
        progress.say(f"results are in {config.out}")
    return metrics


def without_pictures(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the numbers of a row."""
    return {name: value for name, value in row.items() if name != "pictures"}


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
