"""The contractive autoencoder: what the penalty on the encoder's Jacobian does, and where.

The lecture (LMU Munich, Deep Learning, chapter 9) adds lambda times the squared Frobenius norm of
d enc(x) / d x to the loss, so that similar inputs get similar codes. Measured here, with what
Rifai et al. 2011 and the Deep Learning book (sec. 14.7) say of it: the trade of reconstruction
against contraction over lambda; saturation; the singular values of the Jacobian; contraction
against distance; the tangent directions; and why the weights are tied.

    python -m experiments.contractive --dataset digits    about 1 minute, 2 cores
    python -m experiments.contractive --dataset mnist     about 8 minutes, 2 cores

Expected on digits, AE and CAE at lambda 0.3: squared Jacobian norm per test example 46 and 6.5,
saturated units 3 % and 60 %, singular values above 1: 21 and 1.8 of 64.

Model: one sigmoid layer, tied weights, cross-entropy, Adam (Rifai et al. 2011); the DAE beside it
has the same network and Gaussian noise. Deviation: 128 units, not 1000; no fine-tuning; MNIST is
cut to its first 10,000 training and 2,000 test images, which the exact Jacobian makes affordable.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import command_line, data, fitting, plots, records, running
from experiments.common.claims import Claim, shown, verdict
from experiments.common.errors import InputError
from experiments.common.running import Run

METHODS = ("AE", "DAE", "CAE")
SAMPLE = 200  # test examples whose whole Jacobian is taken
LEADING = 10  # singular vectors that span the tangent space
NEIGHBOURS = 5  # nearest training examples of each test example
RADII = tuple(np.geomspace(0.01, 4, 14).round(4).tolist())  # in distances of two test examples
SCALES = (1.0, 0.3, 0.1, 0.03, 0.01)  # epsilon of encoder * epsilon


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the contractive experiment."""

    epochs: int | None = None
    """Passes over the training data; by default 2, on digits 30."""
    batch_size: int = 32
    """Examples per step."""
    learning_rate: float = 5e-3
    """Step size of Adam, at most 10."""
    code_dim: int = 128
    """Units of the code."""
    weights: tuple[float, ...] | None = None
    """Values of lambda; by default 0.3 1 3, on digits 0.01 0.1 0.3 1 3."""
    weight: float | None = None
    """The lambda, one of --weights, of the CAE beside AE and DAE; by default 3, on digits 0.3."""
    noise: float = 0.5
    """Standard deviation of the DAE's Gaussian noise, in pixel values."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**12)
        command_line.require_number("--noise", self.noise, above=0.0, high=1000.0)
        weights = self.swept()
        for weight in weights:
            command_line.require_number("--weights", weight, above=0.0, high=1e6)
        if not weights or list(weights) != sorted(set(weights)):
            raise InputError(f"--weights must be values that rise, but they are {list(weights)}")
        if self.chosen() not in weights:
            raise InputError(
                f"--weight must be one of {list(weights)}, but it is {self.chosen():g}"
            )

    def swept(self) -> tuple[float, ...]:
        """Returns the values of lambda."""
        defaults = (0.01, 0.1, 0.3, 1.0, 3.0) if self.dataset == "digits" else (0.3, 1.0, 3.0)
        return defaults if self.weights is None else self.weights

    def chosen(self) -> float:
        """Returns the lambda of the CAE that is set beside the other autoencoders."""
        if self.weight is not None:
            return self.weight
        return 0.3 if self.dataset == "digits" else 3.0


class Probes(NamedTuple):
    """What the trained encoders are measured with; all of them see the same."""

    test: Array  # (n, d)
    sample: Array  # (s, d), the first test examples
    tangents: Array  # (s, 3, d), how an image changes when it is moved or turned
    neighbours: Array  # (s, NEIGHBOURS, d), displacements to the nearest training examples
    radii: Array  # (r,), in the unit of the data


def image_tangents(images: np.ndarray) -> np.ndarray:
    """Returns the derivatives of images ``(n, h, w, c)`` along two shifts and a rotation.

    They span a part of the tangent space of the manifold of digits that is known beforehand.
    The result is ``(n, 3, h * w * c)``.
    """
    down, right = (np.gradient(images, axis=axis) for axis in (1, 2))
    height, width = images.shape[1:3]
    y = (np.arange(height) - (height - 1) / 2)[None, :, None, None]
    x = (np.arange(width) - (width - 1) / 2)[None, None, :, None]
    turn = y * right - x * down
    return np.stack([down, right, turn], 1).reshape(len(images), 3, -1).astype(np.float32)


def make_probes(dataset: data.Dataset) -> Probes:
    """Returns the probes of a data set."""
    train, test = dataset.flat()
    sample = test[:SAMPLE]
    distances = (train**2).sum(1) - 2 * sample @ train.T  # squared, less a constant of each row
    nearest = np.argsort(distances, axis=1)[:, :NEIGHBOURS]
    apart = np.sqrt(np.square(test - np.roll(test, 1, axis=0)).sum(1).mean())
    tangents = image_tangents(dataset.test[:SAMPLE])
    displacements = train[nearest] - sample[:, None]
    radii = np.asarray(RADII, np.float32) * apart
    return Probes(*map(jnp.asarray, (test, sample, tangents, displacements, radii)))


def share_in_span(basis: Array, directions: Array) -> Array:
    """Returns the mean share of squared length of ``(n, d)`` in the span of orthonormal rows."""
    inside = jnp.sum(jnp.square(directions @ basis.T), axis=-1)
    lengths = jnp.sum(jnp.square(directions), axis=-1)
    return jnp.sum(inside / jnp.maximum(lengths, 1e-12)) / len(directions)


def over_examples(encode: Any, decode: Any, x: Array) -> dict[str, Array]:
    """Returns the means over the test set that every point of the sweep gets."""

    def of_example(x_i: Array) -> dict[str, Array]:
        code = encode(x_i)
        logits = decode(code)
        return {
            "test_nll": jaxae.bernoulli_nll(logits, x_i),
            "test_mse": jaxae.mean_squared_error(nn.sigmoid(logits), x_i),
            "jacobian_norm": jaxae.contractive_penalty(encode, x_i),
            "saturated_share": jaxae.saturated_share(code),
        }

    return jaxae.evaluate(of_example, x, batch_size=100)


def jacobian_svd(encode: Callable[[Array], Array], x_i: Array) -> tuple[Array, Array]:
    """Returns singular values ``(r,)`` and right singular vectors ``(r, d)`` at one example."""
    _, values, vectors = jnp.linalg.svd(jax.jacfwd(encode)(x_i), full_matrices=False)
    return values, vectors


def local_geometry(encode: Any, probes: Probes) -> dict[str, Array]:
    """Returns what the singular vectors and values of the Jacobian say, on the sample."""

    def of_example(x_i: Array, tangents: Array, neighbours: Array) -> dict[str, Array]:
        values, vectors = jacobian_svd(encode, x_i)
        power = jnp.cumsum(jnp.square(values)) / jnp.sum(jnp.square(values))
        basis = vectors[:LEADING]
        return {
            "singular_values": values,
            "values_above_1": jnp.sum(values > 1).astype(values.dtype),
            "values_for_90_percent": 1 + jnp.sum(power < 0.9).astype(values.dtype),
            "tangent_share": share_in_span(basis, tangents),
            "neighbour_share": share_in_span(basis, neighbours),
        }

    rows = (probes.sample, probes.tangents, probes.neighbours)
    values = jax.lax.map(lambda row: of_example(*row), rows, batch_size=50)
    return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)


def distances(key: Array, encode: Any, probes: Probes) -> dict[str, Array]:
    """Returns how code distances follow input distances, as ratios of root mean squares."""
    rms = lambda v: jnp.sqrt(jnp.mean(jnp.square(v), axis=0))
    codes = jax.vmap(encode)(probes.test)
    other = jnp.roll(probes.test, 1, axis=0)
    length = lambda v: jnp.linalg.norm(v, axis=-1)
    pairs = rms(length(codes - jnp.roll(codes, 1, axis=0))) / rms(length(probes.test - other))
    nearest = jax.vmap(encode)(probes.sample + probes.neighbours[:, 0])
    moved = rms(length(nearest - codes[: len(nearest)])) / rms(length(probes.neighbours[:, 0]))
    curve = rms(jaxae.contraction_curve(key, encode, probes.test, radii=probes.radii))
    return {
        "contraction": curve,
        "pair_contraction": pairs,
        "similar_code_ratio": curve[0] / pairs,
        "neighbour_code_ratio": moved / pairs,
        "rise": jnp.max(curve) / curve[0],
    }


UNITS = {
    "test_nll": "nats per example",
    "test_mse": "squared pixel value, mean over pixels and examples",
    "jacobian_norm": "squared Frobenius norm of d code / d pixel, mean over examples",
    "saturated_share": "share of units below 0.05 or above 0.95, mean over examples",
    "encoder_norm": "Frobenius norm of the encoder's weights",
    "decoder_norm": "Frobenius norm of the decoder's weights",
    "singular_values": "code units per pixel value, mean over examples",
    "values_above_1": "singular values above 1, mean over examples",
    "values_for_90_percent": "singular values that hold 90 % of the squared norm, mean",
    "tangent_share": "share of squared length of shifts and rotations in the leading span",
    "neighbour_share": "share of squared length of displacements to neighbours in that span",
    "contraction": "code distance / input distance, root mean squares",
    "pair_contraction": "code distance / input distance of two test examples, root mean squares",
    "similar_code_ratio": "contraction of a small random step / that of two test examples",
    "neighbour_code_ratio": "contraction to the nearest neighbour / that of two test examples",
    "rise": "largest ratio of the contraction curve / ratio at the smallest distance",
}


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns each quantity over the seeds; a list of numbers where it is a vector."""
    result: dict[str, Any] = {}
    for name in rows[0]:
        values = np.asarray([row[name] for row in rows], np.float64)
        one = partial(records.over_seeds, unit=UNITS[name])
        result[name] = (
            one(values.tolist()) if values.ndim == 1 else [one(v) for v in values.T.tolist()]
        )
    return result


def rescaled(params: Any, train: np.ndarray, test: np.ndarray) -> list[dict[str, float]]:
    """Returns what encoder * epsilon costs when the decoder may follow, for every epsilon.

    The decoder is the best linear one for that code, in closed form: untied weights allow it.
    """
    kernel, bias = (
        np.asarray(params[f"encoder_{part}_0"], np.float64) for part in ("kernel", "bias")
    )
    rows = []
    for scale in SCALES:
        codes = [1 / (1 + np.exp(-scale * (x @ kernel + bias))) for x in (train, test)]
        middle, mean = codes[0].mean(0), train.mean(0, dtype=np.float64)
        decoder, *_ = np.linalg.lstsq(codes[0] - middle, train - mean, rcond=1e-9)
        error = np.square((codes[1] - middle) @ decoder + mean - test).mean()
        slopes = np.square(codes[1] * (1 - codes[1]))  # f'(a)^2
        norm = (slopes @ np.square(scale * kernel).sum(0)).mean()
        decoder_norm = float(np.linalg.norm(decoder))
        rows.append({"test_mse": error, "jacobian_norm": norm, "decoder_norm": decoder_norm})
    return rows


def seed_keys(config: Config, seed: int) -> tuple[Array, Array]:
    """Returns the keys of training and of the contraction curve, the same for all models."""
    train_key, curve_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), seed), 2
    )
    return train_key, curve_key


class Runner:
    """Trains and measures; the AE is the DAE without noise."""

    def __init__(self, config: Config, dataset: data.Dataset, run: Run, epochs: int) -> None:
        self.config, self.run = config, run
        self.probes = make_probes(dataset)
        self.train = jnp.asarray(dataset.flat()[0])

        def trainer(loss: Any, tied: bool) -> fitting.Trainer:
            k, shape = config.code_dim, (self.train.shape[1],)
            return fitting.Trainer(
                jaxae.DenseAutoencoder(shape, k, code_activation=nn.sigmoid, tied=tied),
                loss,
                learning_rate=config.learning_rate,
                batch_size=config.batch_size,
                epochs=epochs,
            )

        self.trainers = {
            "denoising": trainer(denoising, tied=True),
            "tied": trainer(contractive, tied=True),
            "untied": trainer(contractive, tied=False),
        }
        self._means = {name: self._compiled(name, over_examples) for name in ("tied", "untied")}
        self._details = self._compiled("tied", details)

    def _compiled(self, name: str, measure: Callable[..., dict[str, Array]]) -> Any:
        @jax.jit
        def measured(params: Any, *given: Any) -> dict[str, Array]:
            with jax.default_matmul_precision("highest"):
                return measure(*self.trainers[name].bound(params), *given)

        return measured

    def fit(self, name: str, setting: float, seed: int) -> tuple[Any, dict[str, Any]]:
        """Returns trained parameters, and the numbers that every training gets."""

        def on_epoch(epoch: int, loss: float) -> None:
            entry = {"model": name, "setting": setting, "seed": seed, "epoch": epoch}
            self.run.log(f"{name} {setting:g}, seed {seed}", **entry, train_loss=loss)

        train_key, _ = seed_keys(self.config, seed)
        params = self.trainers[name].fit(train_key, self.train, setting, on_epoch=on_epoch)
        row = self._means["untied" if name == "untied" else "tied"](params, self.probes.test)
        encoder = params["encoder_kernel_0"]
        decoder = params.get("decoder_kernel_0", encoder)
        norms = {"encoder_norm": encoder, "decoder_norm": decoder}
        return params, row | {key: jnp.linalg.norm(kernel) for key, kernel in norms.items()}

    def details(self, params: Any, seed: int) -> dict[str, Array]:
        """Returns the numbers of the encoders that are set side by side."""
        return self._details(params, self.probes, seed_keys(self.config, seed)[1])

    def leading_vectors(self, params: Any, rows: np.ndarray, count: int) -> np.ndarray:
        """Returns the first right singular vectors at some test examples, ``(n, count, d)``."""
        encode, _ = self.trainers["tied"].bound(params)
        return np.asarray(jax.vmap(partial(jacobian_svd, encode))(self.probes.test[rows])[1])[
            :, :count
        ]


def contractive(key: Array, encode: Any, decode: Any, x: Array, weight: Array) -> Array:
    """Returns the loss of the CAE."""
    likelihood = jaxae.bernoulli_nll
    return jaxae.contractive_loss(encode, decode, x, weight=weight, reconstruction=likelihood)


def denoising(key: Array, encode: Any, decode: Any, x: Array, stddev: Array) -> Array:
    """Returns the loss of the DAE."""
    corrupt, likelihood = partial(jaxae.gaussian_noise, stddev=stddev), jaxae.bernoulli_nll
    return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt, reconstruction=likelihood)


def details(encode: Any, decode: Any, probes: Probes, key: Array) -> dict[str, Array]:
    """Returns everything that is measured of the encoders that are set side by side."""
    return local_geometry(encode, probes) | distances(key, encode, probes)


def of_principal_components(train: np.ndarray, probes: Probes) -> dict[str, Any]:
    """Returns the shares in the span of the leading principal components, the same everywhere."""
    basis = jnp.asarray(np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:LEADING])
    share = jax.vmap(partial(share_in_span, basis))
    directions = {"tangent_share": probes.tangents, "neighbour_share": probes.neighbours}
    return over_seeds([{name: share(each).mean() for name, each in directions.items()}])


def train_all(runner: Runner, num_seeds: int) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Returns the sweep, the methods side by side, and parameters of the first seed."""
    config, seeds = runner.config, range(num_seeds)
    sweep: dict[str, Any] = {"tied": [], "untied": []}
    chosen: dict[str, Any] = {}
    for name, rows in sweep.items():
        for weight in config.swept():
            fits = [runner.fit(name, weight, seed) for seed in seeds]
            rows.append({"weight": weight, **over_seeds([row for _, row in fits])})
            report(runner.run, f"{name:7s} lambda {weight:g}", rows[-1])
            if name == "tied" and weight == config.chosen():
                chosen["CAE"] = fits
    for method, noise in (("AE", 0.0), ("DAE", config.noise)):
        chosen[method] = [runner.fit("denoising", noise, seed) for seed in seeds]
    methods = {}
    for method in METHODS:
        rows = [
            row | runner.details(params, seed) for seed, (params, row) in enumerate(chosen[method])
        ]
        methods[method] = over_seeds(rows)
        report(runner.run, method, methods[method])
    return sweep, methods, {method: [fit[0] for fit in chosen[method]] for method in METHODS}


def report(run: Run, name: str, row: dict[str, Any]) -> None:
    """Prints the main numbers of one row."""
    mse, norm = row["test_mse"]["mean"], row["jacobian_norm"]["mean"]
    saturated = row["saturated_share"]["mean"]
    run.say(f"{name:20s} test MSE {mse:.5f}  Jacobian {norm:7.2f}  saturated {saturated:.2f}")


def draw(
    run: Run, metrics: dict[str, Any], runner: Runner, dataset: data.Dataset, cae: Any
) -> None:
    """Writes all figures."""
    draw_sweep(run, metrics)
    draw_methods(run, metrics)
    draw_collapse(run, metrics)
    rows = dataset.one_of_each_class()
    vectors = runner.leading_vectors(cae, rows, 4)
    images = {"test digit": dataset.test[rows]}
    for index, label in enumerate(TANGENTS):
        tangents = image_tangents(dataset.test[rows])[:, index]
        images[label] = unit_length(tangents).reshape(-1, *dataset.example_shape)
    for index in range(vectors.shape[1]):
        images[f"vector {index + 1}"] = vectors[:, index].reshape(-1, *dataset.example_shape)
    title = f"Leading right singular vectors of the CAE's Jacobian (lambda {metrics['weight']:g})"
    signed = tuple(images)[1:]
    plots.image_rows(run.path("tangents.png"), images, title=title, gaps=(1, 4), signed=signed)


TANGENTS = ("shift down", "shift right", "rotation")


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Returns rows divided by their lengths."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def draw_sweep(run: Run, metrics: dict[str, Any]) -> None:
    """Writes error, Jacobian norm and saturation of the CAE over lambda."""
    rows, ae = metrics["sweep"]["tied"], metrics["methods"]["AE"]
    weights = metrics["weights"]
    panels = []
    for name, label, scale in (
        ("test_mse", "test MSE per pixel", "linear"),
        ("jacobian_norm", "squared Jacobian norm per example", "log"),
        ("saturated_share", "share of saturated units", "linear"),
    ):
        lines = [
            plots.line("CAE", weights, [row[name] for row in rows], plots.METHODS["CAE"]),
            plots.plain("AE (lambda = 0)", weights, [ae[name]["mean"]] * len(weights), AE_LEVEL),
        ]
        panels.append(plots.Panel("lambda", label, lines, ("log", scale), weights))
    norms, errors = ([row[n]["mean"] for row in rows] for n in ("jacobian_norm", "test_mse"))
    dae = metrics["methods"]["DAE"]
    path = [plots.plain("CAE", norms, errors, plots.METHODS["CAE"])]
    for method, point in (("AE", ae), ("DAE", dae)):
        at = [point["jacobian_norm"]["mean"]], [point["test_mse"]["mean"]]
        path.append(plots.plain(method, *at, plots.METHODS[method]))
    notes = [(x, y, f"{weight:g}") for x, y, weight in zip(norms, errors, weights, strict=True)]
    labels = ("squared Jacobian norm per example", "test MSE per pixel")
    trade = plots.Panel(*labels, path, ("log", "linear"), annotations=notes)
    plots.panels(run.path("weights.png"), panels, title="The contractive autoencoder over lambda")
    title = "Error against contraction, lambda beside"
    plots.panels(run.path("trade.png"), [trade], title=title)


AE_LEVEL = plots.Look(plots.METHODS["AE"].color, "--")


def draw_methods(run: Run, metrics: dict[str, Any]) -> None:
    """Writes singular values and contraction curves of the methods side by side."""
    methods = metrics["methods"]
    length = len(methods["AE"]["singular_values"])
    index = list(range(1, length + 1))
    lines = []
    for method in METHODS:
        means = [number["mean"] for number in methods[method]["singular_values"]]
        look = plots.Look(plots.METHODS[method].color, plots.METHODS[method].style[1:])
        seen = [value if value > 1e-3 else np.nan for value in means]
        lines.append(plots.plain(method, index, seen, look))
    lines.append(plots.plain("1: length kept", [1, length], [1, 1], plots.EXACT))
    panel = plots.Panel(
        "index of singular value",
        "singular value (code units per pixel unit)",
        lines,
        ("linear", "log"),
    )
    title = "Singular values of the encoder's Jacobian"
    plots.panels(run.path("spectrum.png"), [panel], title=title)

    radii = metrics["radii"]
    raw, relative = [], []
    for method in METHODS:
        numbers, look = methods[method]["contraction"], plots.METHODS[method]
        raw.append(plots.line(method, radii, numbers, look))
        start = numbers[0]["mean"]
        shape = [number["mean"] / start for number in numbers]
        relative.append(plots.plain(method, radii, shape, look))
    at = "distance r / distance of two test examples"
    panels = [
        plots.Panel(at, "code distance / r", raw, ("log", "linear")),
        plots.Panel(at, "the same, relative to the smallest r", relative, ("log", "linear")),
    ]
    title = "How much the encoder shrinks distances, in random directions"
    plots.panels(run.path("contraction.png"), panels, title=title)


def draw_collapse(run: Run, metrics: dict[str, Any]) -> None:
    """Writes what untied weights do to the penalty, in training and by rescaling."""
    looks = {"tied": plots.METHODS["CAE"], "untied": plots.OTHERS[0]}
    weights, sweep = metrics["weights"], metrics["sweep"]

    def part(name: str, label: str) -> list[plots.Line]:
        lines = []
        for kind, rows in sweep.items():
            color, style = looks[kind]
            look = plots.Look(color, style[0] + ("--" if "decoder" in label else "-"))
            lines.append(plots.line(kind + label, weights, [row[name] for row in rows], look))
        return lines

    norms = part("encoder_norm", "") + part("decoder_norm", ", decoder")[1:]
    panels = [
        plots.Panel(
            "lambda",
            "squared Jacobian norm per example",
            part("jacobian_norm", ""),
            ("log", "log"),
            weights,
        ),
        plots.Panel(
            "lambda", "test MSE per pixel", part("test_mse", ""), ("log", "linear"), weights
        ),
        plots.Panel("lambda", "Frobenius norm of the weights", norms, ("log", "linear"), weights),
    ]
    title = "Untied weights: a smaller penalty, by a smaller encoder and a larger decoder"
    plots.panels(run.path("collapse.png"), panels, title=title)

    rows, scales = metrics["rescaled"], list(SCALES)
    panels = [
        plots.Panel(
            "epsilon",
            label,
            [
                plots.line(
                    "CAE's encoder * epsilon, best linear decoder",
                    scales,
                    [row[name] for row in rows],
                    looks["untied"],
                )
            ],
            ("log", "log"),
            scales,
        )
        for name, label in (
            ("jacobian_norm", "squared Jacobian norm per example"),
            ("test_mse", "test MSE per pixel"),
            ("decoder_norm", "Frobenius norm of the decoder"),
        )
    ]
    title = "A smaller encoder with a larger decoder escapes the penalty"
    plots.panels(run.path("rescaling.png"), panels, title=title)


def of_each_seed(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Returns one quantity of some rows of numbers over the seeds, ``(rows, seeds)``."""
    return np.array([row[name]["values"] for row in rows], np.float64)


def claims(metrics: Mapping[str, Any]) -> list[Claim]:
    """Returns what the lecture and its sources say of the CAE, beside what was measured."""
    makers = (trade_claim, similar_claim, local_claim, saturation_claim, spectrum_claim)
    return [make(metrics) for make in (*makers, tangent_claim, collapse_claim)]


def trade_claim(metrics: Mapping[str, Any]) -> Claim:
    """Holds if the Jacobian norm falls and the error rises with lambda, in every seed."""
    rows = [metrics["methods"]["AE"], *metrics["sweep"]["tied"]]
    norms, errors = of_each_seed(rows, "jacobian_norm"), of_each_seed(rows, "test_nll")
    holds = bool((np.diff(norms, axis=0) < 0).all() and (np.diff(errors, axis=0) > 0).all())
    last, ae, cae = rows[-1], rows[0], metrics["methods"]["CAE"]
    return Claim(
        "CAE: L(x, dec(enc(x))) + lambda * squared Frobenius norm of d enc(x) / d x.",
        f"From no penalty to lambda = {last['weight']:g} the squared Jacobian norm of a test "
        f"example goes from {shown(ae['jacobian_norm'])} to {shown(last['jacobian_norm'])} and "
        f"the test MSE per pixel from {shown(ae['test_mse'])} to {shown(last['test_mse'])}. "
        f"At lambda = {metrics['weight']:g} they are {shown(cae['jacobian_norm'])} and "
        f"{shown(cae['test_mse'])}. A trade, "
        + ("monotone in every seed." if holds else "but not monotone in every seed."),
        verdict(holds),
        {
            "squared Jacobian norm, AE": ae["jacobian_norm"],
            "squared Jacobian norm, CAE": cae["jacobian_norm"],
            "test MSE, AE": ae["test_mse"],
            "test MSE, CAE": cae["test_mse"],
        },
        "weights.png",
        "Over rising lambda the test error of the CAE rises from the dashed level of the plain "
        "autoencoder, its Jacobian norm falls, and the share of saturated units is drawn beside.",
    )


def similar_claim(metrics: Mapping[str, Any]) -> Claim:
    """Holds if small steps, and steps to a neighbour, move the CAE's code less than the AE's."""
    methods = metrics["methods"]
    ae, cae = methods["AE"], methods["CAE"]
    smaller = {
        name: bool((of_each_seed([cae], name) < of_each_seed([ae], name)).all())
        for name in ("similar_code_ratio", "neighbour_code_ratio")
    }
    return Claim(
        "Similar inputs get similar codes.",
        "Shrinking all codes alike would make nothing more similar, so distances of codes are "
        "taken relative to those of two different test examples. Per unit of input distance, a "
        f"small step in a random direction moves the code {shown(cae['similar_code_ratio'])} "
        "times as far as the way to another example (AE "
        f"{shown(ae['similar_code_ratio'])}, DAE {shown(methods['DAE']['similar_code_ratio'])}). "
        f"For the step to the nearest training example it is {shown(cae['neighbour_code_ratio'])} "
        f"(AE {shown(ae['neighbour_code_ratio'])})"
        + (
            ": along the data the code is shrunk less."
            if cae["neighbour_code_ratio"]["mean"] > cae["similar_code_ratio"]["mean"]
            else "."
        ),
        verdict(smaller["similar_code_ratio"], corrects=not smaller["neighbour_code_ratio"]),
        {
            f"{label}, {method}": methods[method][name]
            for label, name in (
                ("random step", "similar_code_ratio"),
                ("nearest neighbour", "neighbour_code_ratio"),
            )
            for method in METHODS
        },
        "contraction.png",
        "Left: code distance over input distance against distance; at small distances the plain "
        "autoencoder is highest and the CAE lowest. Right: the same as a multiple of its value "
        "at the smallest distance.",
    )


def local_claim(metrics: Mapping[str, Any]) -> Claim:
    """Holds if only the CAE's ratio rises with distance; corrected where it falls again."""
    ae, cae = metrics["methods"]["AE"], metrics["methods"]["CAE"]
    holds = bool((of_each_seed([cae], "rise") > 1.02).all() and (ae["rise"]["mean"] < 1.02))
    curve = [number["mean"] for number in cae["contraction"]]
    peak = int(np.argmax(curve))
    falls = curve[-1] < curve[peak]
    where = f"up to a distance of {metrics['radii'][peak]:.2g} times that of two test examples"
    return Claim(
        "A CAE is contractive only locally (Deep Learning book, sec. 14.7).",
        (
            f"Code distance over input distance of the CAE rises {where}, to "
            f"{shown(cae['rise'])} times its value near the data, while the AE's only falls. "
            + ("Farther out it falls: sigmoid codes are bounded. " if falls else "")
            if holds
            else "In random directions the ratio of the CAE hardly rises with distance: its "
            f"largest value is {shown(cae['rise'])} times the one near the data. "
        )
        + f"Near the data it is {shown(cae['contraction'][0])}, the AE's "
        f"{shown(ae['contraction'][0])}; at the largest distance {shown(cae['contraction'][-1])} "
        f"and {shown(ae['contraction'][-1])}.",
        verdict(holds, corrects=falls),
        {"rise of the ratio, CAE": cae["rise"], "rise of the ratio, AE": ae["rise"]},
        "contraction.png",
        "Right: relative to its value at the smallest distance, the CAE's ratio stays up longer "
        "than that of the plain autoencoder, which falls as soon as it changes.",
    )


def saturation_claim(metrics: Mapping[str, Any]) -> Claim:
    """Holds if the CAE saturates more than the AE; corrected where it is not monotone."""
    rows, ae = metrics["sweep"]["tied"], metrics["methods"]["AE"]
    cae = metrics["methods"]["CAE"]
    holds = (of_each_seed([cae], "saturated_share") > of_each_seed([ae], "saturated_share")).all()
    most = max(rows, key=lambda row: row["saturated_share"]["mean"])
    turns = most is not rows[-1]
    entries = metrics["code_dim"] * metrics["inputs"]
    per_entry = {
        name: 1e4 * row["jacobian_norm"]["mean"] / entries
        for name, row in (("AE", ae), ("CAE", cae))
    }
    return Claim(
        "Sigmoid CAEs tend to saturate (Rifai et al. 2011; Deep Learning book, ch. 14).",
        f"At lambda = {metrics['weight']:g} the share of saturated units is "
        f"{shown(cae['saturated_share'])}, without penalty {shown(ae['saturated_share'])}. "
        + (
            f"It is largest at lambda = {most['weight']:g} ({shown(most['saturated_share'])}) and "
            f"falls beyond, where the norm of the weights goes from {shown(most['encoder_norm'])} "
            f"to {shown(rows[-1]['encoder_norm'])}. "
            if turns
            else ""
        )
        + "Rifai et al. print 86 % for the CAE and 50 % for the AE, and 0.73 and 17.5 x 1e-4 as "
        f"average squared Jacobian entry; here {per_entry['CAE']:.2g} and {per_entry['AE']:.2g} "
        f"x 1e-4, with {metrics['code_dim']} units instead of 1000, so the sizes do not compare.",
        verdict(bool(holds), corrects=turns),
        {
            "saturated units, AE": ae["saturated_share"],
            "saturated units, CAE": cae["saturated_share"],
            "most over lambda": most["saturated_share"],
        },
        "weights.png",
        "Right panel: the share of saturated units of the CAE over lambda, above the dashed "
        "level of the plain autoencoder.",
    )


def spectrum_claim(metrics: Mapping[str, Any]) -> Claim:
    """Holds if fewer than half of the CAE's singular values exceed 1, but some do."""
    methods = metrics["methods"]
    ae, cae = methods["AE"], methods["CAE"]
    above, of_ae = (of_each_seed([row], "values_above_1") for row in (cae, ae))
    count = len(cae["singular_values"])
    holds = bool(((above > 0) & (above < count / 2) & (above < of_ae)).all())
    counts = {method: row["values_above_1"] for method, row in methods.items()}
    most = {method: row["values_for_90_percent"] for method, row in methods.items()}
    return Claim(
        "After training, most singular values of the CAE's Jacobian are below 1, and some "
        "remain above (Deep Learning book, sec. 14.7).",
        f"Of {count} singular values at a test example, {shown(counts['CAE'])} of the CAE's "
        f"exceed 1, of the AE's {shown(counts['AE'])} and of the DAE's {shown(counts['DAE'])}. "
        f"90 % of the squared norm are in the first {shown(most['CAE'])} (AE "
        f"{shown(most['AE'])}, DAE {shown(most['DAE'])}): the penalty does not shrink all "
        "directions alike, it keeps few.",
        verdict(holds),
        {f"above 1, {method}": number for method, number in counts.items()}
        | {f"for 90 %, {method}": number for method, number in most.items()},
        "spectrum.png",
        "Singular values on a logarithmic axis against their index: all methods start near or "
        "above 1; the CAE's fall fastest, to far below those of the AE and the DAE.",
    )


def tangent_claim(metrics: Mapping[str, Any]) -> Claim:
    """Holds if the leading span has more of both displacements than AE and chance; see PCA."""
    methods, linear = metrics["methods"], metrics["principal_components"]
    names = ("tangent_share", "neighbour_share")
    chance = metrics["leading"] / metrics["inputs"]
    ae, cae = (np.stack([of_each_seed([methods[m]], n) for n in names]) for m in ("AE", "CAE"))
    holds = bool(((cae > ae) & (cae > chance)).all())
    beyond = bool((cae.mean((1, 2)) > [linear[name]["mean"] for name in names]).all())
    parts = [", ".join(f"{m} {shown(methods[m][name])}" for m in METHODS) for name in names]
    return Claim(
        "The leading singular vectors of the CAE's Jacobian are the tangent directions of the "
        "manifold (Deep Learning book, Fig. 14.10).",
        f"Of a small shift or rotation of a test digit, the first {metrics['leading']} right "
        f"singular vectors there hold this share of the squared length: {parts[0]}; random "
        f"directions {chance:.2g}, the global principal components "
        f"{shown(linear['tangent_share'])}. Of the way to the nearest training digits: "
        f"{parts[1]}; principal components {shown(linear['neighbour_share'])}. "
        + (
            "They lean towards the tangent space; they do not span it."
            if beyond
            else "They lean towards the tangent space, but not more than the principal "
            "components, which are the same for every digit."
        ),
        verdict(holds, corrects=not beyond or float(cae.mean()) < 0.9),
        {f"shifts and rotations, {m}": methods[m][names[0]] for m in METHODS}
        | {f"neighbours, {m}": methods[m][names[1]] for m in METHODS},
        "tangents.png",
        "Ten test digits; below each, in blue and red, its derivatives along two shifts and a "
        "rotation, and its four leading singular vectors, with strokes of either sign side by "
        "side around the digit's own.",
    )


def collapse_claim(metrics: Mapping[str, Any]) -> Claim:
    """Holds if untied weights pay less penalty at no more error; corrected if that is not ~ 0."""
    tied, untied = (metrics["sweep"][kind] for kind in ("tied", "untied"))
    chosen = metrics["weights"].index(metrics["weight"])
    at, free = tied[chosen], untied[chosen]
    less = {
        name: bool((of_each_seed([free], name) < of_each_seed([at], name)).all())
        for name in ("jacobian_norm", "test_nll")
    }
    first, last = metrics["rescaled"][0], metrics["rescaled"][-1]
    escapes = (
        last["jacobian_norm"]["mean"] < 0.01 * first["jacobian_norm"]["mean"]
        and last["test_mse"]["mean"] <= first["test_mse"]["mean"]
    )
    return Claim(
        "With untied weights the penalty falls to nearly 0 at no cost in reconstruction; tied "
        "weights prevent it (Deep Learning book, sec. 14.7).",
        f"Trained at lambda = {metrics['weight']:g}, untied weights give a squared Jacobian norm "
        f"of {shown(free['jacobian_norm'])} at test MSE {shown(free['test_mse'])}, tied ones "
        f"{shown(at['jacobian_norm'])} at {shown(at['test_mse'])}; the untied encoder's weights "
        f"have norm {shown(free['encoder_norm'])}, the decoder's {shown(free['decoder_norm'])}. "
        "Adam stops far from 0, because the decoder would have to grow without bound. The way "
        f"there is open: the CAE's encoder times {last['scale']:g} with the best linear decoder "
        f"has penalty {shown(last['jacobian_norm'])} (before: {shown(first['jacobian_norm'])}) "
        f"and test MSE {shown(last['test_mse'])} (before: {shown(first['test_mse'])}), since "
        "small sigmoid units are linear.",
        verdict(
            all(less.values()) and escapes,
            corrects=free["jacobian_norm"]["mean"] > 0.05 * at["jacobian_norm"]["mean"],
        ),
        {
            "squared Jacobian norm, tied": at["jacobian_norm"],
            "squared Jacobian norm, untied": free["jacobian_norm"],
            "test MSE, tied": at["test_mse"],
            "test MSE, untied": free["test_mse"],
            "norm of the encoder, untied": free["encoder_norm"],
            "norm of the decoder, untied": free["decoder_norm"],
        },
        "collapse.png",
        "Over lambda: the untied network has the smaller Jacobian norm, and its encoder's "
        "weights shrink while its decoder's grow; the tied weights keep one norm.",
    )


def main(config: Config) -> dict[str, Any]:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = running.load(config)
    dataset = dataset.head(train=10_000, test=2_000)  # bounds the time of the Jacobians
    sizes = running.defaults(config, digits=30, others=2)
    epochs, num_seeds = sizes["epochs"], sizes["num_seeds"]
    total = epochs * num_seeds * (2 * len(config.swept()) + 2)
    with Run("contractive", config, dataset, total=total) as run:
        runner = Runner(config, dataset, run, epochs)
        sweep, methods, params = train_all(runner, num_seeds)
        train, test = dataset.flat()
        shrunk = [rescaled(of_seed, train, test) for of_seed in params["CAE"]]
        results = {
            "code_dim": config.code_dim,
            "inputs": train.shape[1],
            "weight": config.chosen(),
            "weights": list(config.swept()),
            "noise_stddev": config.noise,
            "radii": list(RADII),
            "leading": LEADING,
            "sweep": sweep,
            "methods": methods,
            "principal_components": of_principal_components(train, runner.probes),
            "rescaled": [
                {"scale": scale, **over_seeds(rows)}
                for scale, rows in zip(SCALES, zip(*shrunk, strict=True), strict=True)
            ],
        }
        draw(run, results, runner, dataset, params["CAE"][0])
        resolved = {**sizes, "weights": config.swept(), "weight": config.chosen()}
        return run.finish(resolved, **results)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
