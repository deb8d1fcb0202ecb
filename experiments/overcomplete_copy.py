"""What an autoencoder with more code units than inputs learns: to copy, unless the loss forbids it.

Puts numbers to two statements of the lecture (LMU Munich, Deep Learning, chapter 9) that its
slides only make in words: with a code at least as large as the input even a linear autoencoder
can copy without learning anything useful; and a changed loss prevents that. A linear and a relu
autoencoder with twice as many code units as inputs are trained four times: plain, with an L1
penalty on the code, with Gaussian noise to be removed, and with a contractive penalty. A copy
shows in the error on inputs that are NOT like the training data, and in the noise that is left.
A last part trains the opposite, an undercomplete linear autoencoder, which is PCA.

    python -m experiments.overcomplete_copy --dataset digits     about 40 seconds, 2 cores
    python -m experiments.overcomplete_copy --dataset mnist      about 4 minutes, 2 cores

Expected on digits: relative error on white noise below 1e-4 for the plain linear autoencoder and
0.30 for the linear denoising one; of the noise on test images they leave 100 % and 55 %.

Model: one layer of d inputs and 2 d units, tied weights, linear output, squared error; Adam with
cosine decay from 5e-3. Tied, because a free decoder would make up for a shrunken code, on which
both penalties vanish. Inputs are centred and divided by ONE number, the root mean variance of a
pixel, which is the unit of all noise here. Directions in which the training images do not vary
(variance below a thousandth of the mean one, such as border pixels) have no gradient: the other
inputs are projected on the rest, the span of the data; what happens beyond is a number of its own.
Deviation: images of more than 16 pixels a side are averaged over 2 x 2 blocks first, so that the
overcomplete networks converge in minutes; the penalty of the contractive autoencoder is estimated
with one random probe per example and step, unbiased (Hutchinson).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common import command_line, data, fitting, plots, records, running
from experiments.common.claims import Claim, shown, verdict
from experiments.common.errors import InputError
from experiments.common.running import Run

KINDS: dict[str, Any] = {"linear": None, "relu": nn.relu}  # activation of the code
SPAN = 1e-3  # of the mean variance of a pixel; directions with less are not in the span
INPUTS = ("test images", "turned by 180°", "permuted pixels", "white noise")
PCA_STEPS = 300  # of L-BFGS


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the experiment on copying."""

    epochs: int | None = None
    """Passes over the training data; by default 4, on digits 100."""
    batch_size: int = 64
    """Examples per step."""
    learning_rate: float = 5e-3
    """Step size of Adam at the start, at most 10; it falls to 0 along a cosine."""
    code_dim: int | None = None
    """Units of the code, at least as many as inputs; by default twice as many."""
    sparsity_weight: float = 0.3
    """Weight of the L1 norm of the code."""
    noise_stddev: float = 0.5
    """Standard deviation of the noise to be removed; 1 is the root mean variance of a pixel."""
    contraction_weight: float = 0.25
    """Weight of the contractive penalty."""
    pool: int | None = None
    """Side of the blocks that images are averaged over; by default 2 above 16 pixels, else 1."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--pool", self.pool, low=1)
        command_line.require_integer("--code-dim", self.code_dim, low=1, high=2**16)
        for name in ("sparsity_weight", "noise_stddev", "contraction_weight"):
            option = "--" + name.replace("_", "-")
            command_line.require_number(option, getattr(self, name), above=0.0, high=1e3)

    def strengths(self) -> dict[str, tuple[float, float, float]]:
        """Returns noise, weight of L1 and weight of the contractive penalty of each method."""
        return {
            "AE": (0.0, 0.0, 0.0),
            "sparse": (0.0, self.sparsity_weight, 0.0),
            "DAE": (self.noise_stddev, 0.0, 0.0),
            "CAE": (0.0, 0.0, self.contraction_weight),
        }


class Images(NamedTuple):
    """Centred and scaled rows, and the principal axes of the training images."""

    shape: tuple[int, ...]
    mean: np.ndarray  # (d,)
    scale: float
    train: Array  # (n, d)
    test: Array
    variances: np.ndarray  # (d,), descending
    axes: np.ndarray  # (d, d), columns

    @property
    def in_span(self) -> int:
        """How many principal axes span the data."""
        return int((self.variances > SPAN).sum())

    def project(self, rows: np.ndarray) -> Array:
        """Returns the components of rows in the span of the data."""
        basis = self.axes[:, : self.in_span]
        return jnp.asarray(rows @ basis @ basis.T, jnp.float32)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Returns images in [0, 1] as centred and scaled rows."""
        return (images.reshape(len(images), -1).astype(np.float64) - self.mean) / self.scale

    def pictures(self, rows: Array) -> np.ndarray:
        """Returns rows as images in [0, 1] and beyond."""
        return (np.asarray(rows) * self.scale + self.mean).reshape(-1, *self.shape)


def block_means(images: np.ndarray, size: int) -> np.ndarray:
    """Returns images ``(n, h, w, c)`` averaged over blocks; a rest at the border is cut off."""
    n, h, w, c = images.shape
    if min(h, w) < size:
        raise InputError(f"--pool must be at most {min(h, w)}, a side of the images, not {size}")
    cut = images[:, : h - h % size, : w - w % size]
    return cut.reshape(n, h // size, size, w // size, size, c).mean((2, 4))


def prepare(dataset: data.Dataset, pool: int | None) -> Images:
    """Returns the images in the coordinates of the experiment."""
    size = pool or (2 if min(dataset.example_shape[:2]) > 16 else 1)
    train, test = block_means(dataset.train, size), block_means(dataset.test, size)
    flat = train.reshape(len(train), -1).astype(np.float64)
    mean, scale = flat.mean(0), float(np.sqrt(flat.var(0).mean()))
    if scale == 0:
        raise InputError("the training images are all equal; there is nothing to learn")
    centred = (flat - mean) / scale
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    images = Images(
        train.shape[1:], mean, scale, jnp.asarray(centred, jnp.float32), jnp.zeros(0),
        variances[::-1], axes[:, ::-1],
    )  # fmt: skip
    return images._replace(test=jnp.asarray(images.rows(test), jnp.float32))


def make_inputs(images: Images, key: Array) -> dict[str, Array]:
    """Returns the test images, and as many inputs that are not like the training images."""
    order_key, noise_key = jax.random.split(key)
    test = images.pictures(images.test)
    flat = test.reshape(len(test), -1)
    order = np.asarray(jax.random.permutation(order_key, flat.shape[1]))
    noise = np.asarray(jax.random.normal(noise_key, flat.shape))
    others = images.rows(test[:, ::-1, ::-1]), images.rows(flat[:, order]), noise
    return dict(zip(INPUTS, (images.test, *map(images.project, others)), strict=True))


def make_noise(images: Images, key: Array, stddev: float) -> tuple[Array, Array]:
    """Returns noise for the test images in the span of the data, and white noise beyond it."""
    noise_key, beyond_key = jax.random.split(key)
    noise, beyond = (
        np.asarray(jax.random.normal(k, images.test.shape)) for k in (noise_key, beyond_key)
    )
    return stddev * images.project(noise), jnp.asarray(beyond) - images.project(beyond)


Reconstruct = Callable[[Array], Array]  # of one example


def relative_error(reconstruct: Reconstruct, x: Array) -> Array:
    """Returns ||r(x) - x||^2 / ||x||^2, both summed over the rows; 0 is a perfect copy."""
    return jnp.sum(jnp.square(jax.vmap(reconstruct)(x) - x)) / jnp.sum(jnp.square(x))


def noise_ratios(reconstruct: Reconstruct, x: Array, noise: Array) -> dict[str, Array]:
    """Returns how much noise gets through, as shares of ||noise||^2; both are 1 for a copy.

    ``noise_left`` is ||r(x + noise) - x||^2, the error of denoising; ``noise_passed`` is
    ||r(x + noise) - r(x)||^2, which does not count what the clean reconstruction lacks.
    """
    clean, noisy = jax.vmap(reconstruct)(x), jax.vmap(reconstruct)(x + noise)
    share = lambda difference: jnp.sum(jnp.square(difference)) / jnp.sum(jnp.square(noise))
    return {"noise_left": share(noisy - x), "noise_passed": share(noisy - clean)}


def gains(reconstruct: Reconstruct, x: Array, axes: Array) -> Array:
    """Returns u^T J_r u for each column u of ``axes``, as the mean over the rows of x."""

    def at(x_i: Array) -> Array:
        along = jax.vmap(lambda u: u @ jax.jvp(reconstruct, (x_i,), (u,))[1])
        return along(axes.T)

    return jnp.mean(jax.lax.map(at, x), axis=0)


class Network(NamedTuple):
    """One architecture and what is compiled for it."""

    plain: fitting.Trainer  # all methods but CAE; skips the Jacobian
    contractive: fitting.Trainer
    errors: Callable[..., Any]
    measures: Callable[..., Any]


def make_network(kind: str, images: Images, config: Config, epochs: int) -> Network:
    """Returns the trainers of an architecture, and its compiled measures."""
    d, axes = images.train.shape[1], jnp.asarray(images.axes, jnp.float32)
    model = jaxae.DenseAutoencoder(
        (d,), config.code_dim or 2 * d, code_activation=KINDS[kind], tied=True
    )
    steps = epochs * -(-len(images.train) // config.batch_size)

    def trainer(contracts: bool) -> fitting.Trainer:
        return fitting.Trainer(
            model,
            partial(regularised_loss, contracts),
            learning_rate=optax.cosine_decay_schedule(config.learning_rate, steps),
            batch_size=config.batch_size,
            epochs=epochs,
        )

    plain = trainer(contracts=False)

    def errors(params: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):
            reconstruct = partial(plain.reconstruct, params)
            return {name: relative_error(reconstruct, x) for name, x in inputs.items()}

    def measures(params: Any, test: Array, noise: Array, beyond: Array) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):
            reconstruct = partial(plain.reconstruct, params)
            code = jax.vmap(plain.bound(params)[0])(test)
            return {
                **noise_ratios(reconstruct, test, noise),
                "error_beyond_span": relative_error(reconstruct, beyond),
                "active_share": jnp.mean(jaxae.active_units(code)) / code.shape[1],
                "gains": gains(reconstruct, test[:100], axes),
            }

    return Network(plain, trainer(contracts=True), jax.jit(errors), jax.jit(measures))


def regularised_loss(
    contracts: bool, key: Array, encode: Any, decode: Any, x: Array,
    stddev: Array, sparsity: Array, contraction: Array,
) -> Array:  # fmt: skip
    """Returns the loss of every method; that of the plain autoencoder if all strengths are 0."""
    return jaxae.combined_loss(
        key,
        encode,
        decode,
        x,
        corrupt=partial(jaxae.gaussian_noise, stddev=stddev),
        sparsity_weight=sparsity,
        contraction_weight=contraction if contracts else 0.0,
        method="hutchinson",
    )


class Results(NamedTuple):
    """What one architecture gave: numbers, and reconstructions for the figure."""

    methods: dict[str, dict[str, Any]]
    training: list[dict[str, Any]]
    pictures: dict[str, Array]


def run_network(
    kind: str, images: Images, config: Config, epochs: int, num_seeds: int, run: Run
) -> Results:
    """Trains one architecture for every method and seed, and measures it."""
    network = make_network(kind, images, config, epochs)
    kept_epochs = sorted({0, *np.geomspace(1, epochs, 12).round().astype(int).tolist()})
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in config.strengths()}
    traces: list[list[dict[str, Any]]] = []
    pictures: dict[str, Array] = {}
    for seed in range(num_seeds):
        train_key, input_key, noise_key, _ = seed_keys(config, seed)
        inputs = make_inputs(images, input_key)
        noise, beyond = make_noise(images, noise_key, config.noise_stddev)
        for method, strengths in config.strengths().items():
            trainer = network.contractive if method == "CAE" else network.plain
            log = partial(log_epoch, run, kind, method, seed)
            trace = []
            steps = trainer.each_epoch(train_key, images.train, *strengths, on_epoch=log)
            for epoch, params in enumerate(steps):
                if method == "AE" and epoch in kept_epochs:
                    trace.append(network.errors(params, inputs))
            traces += [trace] if trace else []
            measured = network.measures(params, images.test, noise, beyond)
            found[method].append({"relative_error": network.errors(params, inputs), **measured})
            if seed == 0:
                shown_inputs = jnp.concatenate([x[:3] for x in inputs.values()])
                name = f"{kind} {method}"
                pictures[name] = jax.vmap(partial(trainer.reconstruct, params))(shown_inputs)
    methods = {method: summary(per_seed) for method, per_seed in found.items()}
    for method, row in methods.items():
        left, error = row["noise_left"]["mean"], row["relative_error"]["white noise"]["mean"]
        run.say(f"{kind:6s} {method:6s} error on noise {error:.5f}, noise left {left:.3f}")
    training = [
        {"epoch": epoch, **over_inputs([trace[i] for trace in traces])}
        for i, epoch in enumerate(kept_epochs)
    ]
    return Results(methods, training, {"input": shown_inputs} | pictures)


def seed_keys(config: Config, seed: int) -> tuple[Array, Array, Array, Array]:
    """Returns the keys of training, other inputs, noise and PCA, the same for all methods."""
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    train_key, input_key, noise_key, pca_key = jax.random.split(key, 4)
    return train_key, input_key, noise_key, pca_key


def log_epoch(run: Run, kind: str, method: str, seed: int, epoch: int, loss: float) -> None:
    """Counts an epoch."""
    entry = {"network": kind, "method": method, "seed": seed, "epoch": epoch}
    run.log(f"{kind} {method}, seed {seed}", **entry, train_loss=loss)


def over_inputs(per_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the relative error on each kind of input over the seeds."""
    unit = "squared error over squared distance from the training mean"
    return {
        name: records.over_seeds([float(errors[name]) for errors in per_seed], unit)
        for name in INPUTS
    }


def over_noise(per_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns over the seeds how much noise gets through."""
    units = {
        "noise_left": "squared error of the output over squared noise, test images",
        "noise_passed": "squared change of the output over squared noise, test images",
    }
    return {
        name: records.over_seeds([float(ratios[name]) for ratios in per_seed], unit)
        for name, unit in units.items()
    }


def summary(per_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the numbers of one network over the seeds."""
    units = {
        "error_beyond_span": "squared error over squared input, white noise beyond the span",
        "active_share": "share of the code's units that are not 0, test images",
    }
    numbers = {
        name: records.over_seeds([float(measured[name]) for measured in per_seed], unit)
        for name, unit in units.items()
    }
    along = np.array([np.asarray(measured["gains"], np.float64) for measured in per_seed])
    return {
        "relative_error": over_inputs([measured["relative_error"] for measured in per_seed]),
        **over_noise(per_seed),
        **numbers,
        "gains": [records.over_seeds(values.tolist(), "u^T J_r u") for values in along.T],
    }


def exact_gains(variances: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    """Returns the gains along the axes of the best linear DAE, and of the best tied linear CAE."""
    var = np.maximum(variances, 1e-30)
    return {
        "DAE": var / (var + config.noise_stddev**2),
        "CAE": np.maximum(0, 1 - config.contraction_weight / (2 * var)),
    }


def closed_forms(
    images: Images, config: Config, linear: dict[str, dict[str, Any]], num_seeds: int
) -> dict[str, Any]:
    """Returns the noise that the best linear map leaves, and how far gains are from exact ones."""
    exact = exact_gains(images.variances, config)
    best = jnp.asarray(images.axes * exact["DAE"] @ images.axes.T, jnp.float32)
    best_passes: list[dict[str, Any]] = []
    gaps = {}
    for seed in range(num_seeds):
        noise, _ = make_noise(images, seed_keys(config, seed)[2], config.noise_stddev)
        with jax.default_matmul_precision("highest"):
            best_passes.append(noise_ratios(lambda x_i: best @ x_i, images.test, noise))
    for method, gain in exact.items():
        measured = np.array([g["values"] for g in linear[method]["gains"][: images.in_span]])
        worst = np.abs(measured - gain[: images.in_span, None]).max(0)
        gaps[method] = records.over_seeds(worst.tolist(), "largest distance of a gain")
    return {"best_linear": over_noise(best_passes), "closed_form_gap": gaps}


def run_pca(images: Images, config: Config, num_seeds: int) -> dict[str, Any]:
    """Trains an undercomplete linear autoencoder to convergence, and compares it with PCA.

    Its loss knows the data only through their mean and covariance, so the 2 d points
    +-sqrt(d l_i) u_i, which have the same ones, stand for all images.
    """
    d, variances = len(images.variances), images.variances
    highest = max(min(d // 4, images.in_span - 1), 1)
    candidates = range(max(highest // 4, 1), highest + 1)
    k = max(candidates, key=lambda k: float(variances[k - 1] / variances[k]))
    half = images.axes * np.sqrt(d * np.maximum(variances, 0))
    points = jnp.asarray(np.concatenate([half.T, -half.T]), jnp.float32)
    init, encode, decode = jaxae.as_functions(jaxae.DenseAutoencoder((d,), k))

    def loss(params: Any) -> Array:
        parts = partial(encode, params), partial(decode, params)
        return jnp.mean(jaxae.reconstruction_loss(*parts, points))

    solve = jax.jit(lambda params: jaxae.minimize(loss, params, jaxae.lbfgs(), steps=PCA_STEPS))
    angles, excess, optimum = [], [], float(variances[k:].sum())
    for seed in range(num_seeds):
        minimum = solve(init(seed_keys(config, seed)[3]))
        decoder = np.asarray(minimum.params["decoder_kernel_0"], np.float64).T  # (d, k)
        angles.append(largest_angle(decoder, images.axes[:, :k]))
        values = np.minimum.accumulate([*map(float, minimum.values), float(minimum.value)])
        excess.append(values / optimum - 1)
    unit = "loss over the sum of the left-out variances, minus 1"
    steps = np.unique(np.geomspace(1, PCA_STEPS, 24).round().astype(int)).tolist()
    return {
        "code_dim": k,
        "eigengap": float(variances[k - 1] / variances[k]),
        "optimal_loss": optimum,
        "largest_angle": records.over_seeds(angles, "degrees"),
        "excess_loss": records.over_seeds([trace[-1] for trace in excess], unit),
        "steps": steps,
        "excess_at": [records.over_seeds([trace[n] for trace in excess], unit) for n in steps],
    }


def largest_angle(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the largest principal angle between two column spans, in degrees.

    From its sine, the norm of what projecting a on b leaves: a cosine near 1 is no measure.
    """
    a, b = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    sine = np.linalg.norm(a - b @ (b.T @ a), 2)
    return float(np.degrees(np.arcsin(np.clip(sine, 0, 1))))


def draw(run: Run, images: Images, results: dict[str, Results], config: Config, best: Any) -> None:
    """Writes the figures of the overcomplete networks."""
    looks = dict(zip(INPUTS, (plots.METHODS["AE"], *plots.OTHERS), strict=True))
    every = {
        f"{kind} {method}": row
        for kind, result in results.items()
        for method, row in result.methods.items()
    }
    plots.dots(
        run.path("copying.png"),
        {name: [row["relative_error"][x] for x in INPUTS] for name, row in every.items()},
        looks,
        x_label="relative error ||r(x) - x||² / ||x||², 0 is a copy",
        title="What autoencoders with more code units than inputs copy",
    )
    noise_rows = {name: [row["noise_left"], row["noise_passed"]] for name, row in every.items()}
    plots.dots(
        run.path("noise.png"),
        noise_rows | {"best linear map": list(best.values())},
        {
            "error left, ||r(x + noise) - x||²": plots.METHODS["AE"],
            "change of the output, ||r(x + noise) - r(x)||²": plots.OTHERS[1],
        },
        x_label="share of ||noise||², 1 is a copy",
        title="How much of the noise on test images gets through",
        scale="linear",
    )
    training = []
    for kind, result in results.items():
        epochs = [1 + row["epoch"] for row in result.training]
        lines = [
            plots.line(x, epochs, [row[x] for row in result.training], look)
            for x, look in looks.items()
        ]
        labels = ("epoch, plus 1", "relative error, 0 is a copy")
        training.append(plots.Panel(*labels, lines, ("log", "log"), title=f"{kind} code"))
    plots.panels(run.path("training.png"), training, title="Autoencoders without a regulariser")
    draw_gains(run, images, results, exact_gains(images.variances, config))
    pictures = {
        name: images.pictures(rows)
        for result in results.values()
        for name, rows in result.pictures.items()
    }
    title = "Test images, the same turned by 180°, with permuted pixels, and white noise"
    path = run.path("reconstructions.png")
    plots.image_rows(path, pictures, title=title, gaps=(1, 1 + len(config.strengths())))


def draw_gains(
    run: Run, images: Images, results: dict[str, Results], exact: dict[str, np.ndarray]
) -> None:
    """Writes the gains along the principal axes, at about equal distances on the log axis."""
    variances = images.variances[: images.in_span]
    levels = np.geomspace(variances[0], variances[-1], 24)
    keep = np.unique(np.abs(np.log(variances[:, None] / levels)).argmin(0))
    labels = ("variance of the direction; 1 is a pixel's mean", "gain; 1 is a copy")
    parts = []
    for kind, result in results.items():
        lines = [
            plots.line(name, variances[keep], [row["gains"][i] for i in keep], plots.METHODS[name])
            for name, row in result.methods.items()
        ]
        if kind == "linear":
            name = "closed form, linear code"
            gains_there = [gain[keep] for gain in exact.values()]
            lines += [plots.plain(name, variances[keep], y, plots.EXACT) for y in gains_there]
        parts.append(plots.Panel(*labels, lines, ("log", "linear"), title=f"{kind} code"))
    title = "Gain of the reconstruction along the principal axes of the data"
    plots.panels(run.path("gains.png"), parts, title=title)


def draw_pca(run: Run, pca: dict[str, Any]) -> None:
    """Writes how the loss of the undercomplete linear autoencoder falls to that of PCA."""
    line = plots.line("linear autoencoder", pca["steps"], pca["excess_at"], plots.METHODS["AE"])
    label = "loss over that of PCA, minus 1"
    panel = plots.Panel("step of L-BFGS", label, [line], ("log", "log"))
    plots.panels(run.path("pca.png"), [panel], title=f"{pca['code_dim']} linear code units: PCA")


def claims(metrics: dict[str, Any]) -> list[Claim]:
    """Returns what the lecture says about copying, beside what was measured."""
    return [_copying(metrics), _prevented(metrics), _learning(metrics), _pca(metrics)]


def _copying(metrics: dict[str, Any]) -> Claim:
    linear, relu = (metrics["networks"][kind]["AE"] for kind in KINDS)
    errors, relu_errors = linear["relative_error"], relu["relative_error"]
    holds = all(value < 0.01 for number in errors.values() for value in number["values"]) and all(
        abs(value - 1) < 0.05 for value in linear["noise_left"]["values"]
    )
    return Claim(
        slide="With a code at least as large as the input, even a linear autoencoder can copy its "
        "input without learning anything useful.",
        finding="The linear autoencoder reconstructs white noise too, not only images: relative "
        f"error {shown(errors['white noise'])} on noise, {shown(errors['permuted pixels'])} on "
        "permuted pixels, and of the noise added to test images it leaves "
        f"{shown(linear['noise_left'])}. This holds in the span of the training images; beyond it "
        "there is hardly a gradient, and the map stays close to what the initialisation made it "
        f"(relative error {shown(linear['error_beyond_span'])}). The relu network copies images "
        f"({shown(relu_errors['test images'])}), but noise only up to "
        f"{shown(relu_errors['white noise'])}.",
        verdict=verdict(holds),
        numbers={
            "linear AE, error on test images": errors["test images"],
            "linear AE, error on white noise": errors["white noise"],
            "linear AE, noise left": linear["noise_left"],
            "relu AE, error on white noise": relu_errors["white noise"],
        },
        figure="copying.png",
        alt="Dot chart of relative errors on a logarithmic axis, a row per network. In the row of "
        "the linear AE all four markers are far left, noise included; with any regulariser the "
        "markers of permuted pixels and noise are far to the right of the test images.",
    )


def _prevented(metrics: dict[str, Any]) -> Claim:
    networks, gap = metrics["networks"], metrics["closed_form_gap"]
    holds = all(
        passed < plain_passed and noise > 2 * plain_noise and test < 0.15
        for rows in networks.values()
        for method, row in rows.items()
        if method != "AE"
        for passed, plain_passed, noise, plain_noise, test in zip(
            row["noise_passed"]["values"],
            rows["AE"]["noise_passed"]["values"],
            row["relative_error"]["white noise"]["values"],
            rows["AE"]["relative_error"]["white noise"]["values"],
            row["relative_error"]["test images"]["values"],
            strict=True,
        )
    )
    linear, relu = networks["linear"], networks["relu"]
    return Claim(
        slide="Changing the loss prevents trivial copying.",
        finding="With each of the three regularisers, on both networks, white noise is copied less "
        "than half as well as without, and less of the noise on test images gets through, while "
        "the images are still reconstructed. Of the noise on test images the "
        f"linear denoising autoencoder passes on {shown(linear['DAE']['noise_passed'])}, the "
        f"contractive one {shown(linear['CAE']['noise_passed'])}; their gains agree with the "
        f"closed forms (largest gap {shown(gap['DAE'])} and {shown(gap['CAE'])}). L1 does least on "
        f"a linear code, {shown(linear['sparse']['noise_passed'])}; on the relu code it passes on "
        f"{shown(relu['sparse']['noise_passed'])}, against {shown(relu['AE']['noise_passed'])} "
        "without a regulariser.",
        verdict=verdict(holds),
        numbers={
            f"{kind} {method}, noise passed on": row["noise_passed"]
            for kind, rows in networks.items()
            for method, row in rows.items()
        },
        figure="noise.png",
        alt="Dot chart of the share of noise that gets through each network. Without a "
        "regulariser it is near 1, with one it is lower; lowest for denoising with a relu code.",
    )


def _learning(metrics: dict[str, Any]) -> Claim:
    relu, best = metrics["networks"]["relu"], metrics["best_linear"]["noise_left"]
    dae, cae = relu["DAE"]["noise_left"], relu["CAE"]
    holds = all(a < b for a, b in zip(dae["values"], best["values"], strict=True))
    return Claim(
        slide="A regularised autoencoder can be overcomplete and nonlinear and still learn about "
        "the data distribution.",
        finding=f"With {metrics['code_dim']} relu units on {metrics['num_features']} inputs the "
        f"denoising autoencoder leaves {shown(dae)} of the noise on test images; the best of all "
        f"linear maps, which knows the covariance and no more, leaves {shown(best)}: the network "
        "has learned more about the data than their covariance. The contractive one comes to "
        f"{shown(cae['noise_left'])}; its units are active for {shown(cae['active_share'])} of the "
        "test images, so that it is all but linear.",
        verdict=verdict(holds),
        numbers={
            "relu DAE, noise left": dae,
            "best linear map, noise left": best,
            "relu CAE, noise left": cae["noise_left"],
            "relu sparse, noise left": relu["sparse"]["noise_left"],
        },
        figure="gains.png",
        alt="Two panels, linear and relu code: gain of the reconstruction against the variance of "
        "the direction. Without a regulariser the gain is 1 along all but the weakest directions; "
        "with one it falls towards 0 as the variance does. On the linear code the denoising and "
        "the contractive curve lie on their closed forms.",
    )


def _pca(metrics: dict[str, Any]) -> Claim:
    pca = metrics["pca"]
    holds = all(angle < 2 for angle in pca["largest_angle"]["values"]) and all(
        excess < 1e-3 for excess in pca["excess_loss"]["values"]
    )
    return Claim(
        slide="The opposite case, a linear autoencoder with a code smaller than the input, is PCA.",
        finding=f"With {pca['code_dim']} code units the decoder spans the leading principal "
        f"subspace up to {shown(pca['largest_angle'])} degrees, and the loss exceeds the sum of "
        f"the left-out variances by a share of {shown(pca['excess_loss'])} only.",
        verdict=verdict(holds),
        numbers={"largest principal angle": pca["largest_angle"], "excess": pca["excess_loss"]},
        figure="pca.png",
        alt="The loss of the linear autoencoder, relative to that of PCA, minus 1, against the "
        "step, on logarithmic axes: it falls by several orders of magnitude.",
    )


def main(config: Config) -> dict[str, Any]:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = running.load(config)
    images = prepare(dataset, config.pool)
    d = len(images.mean)
    code_dim = config.code_dim or 2 * d
    if code_dim < d:
        raise InputError(f"--code-dim must be at least {d}, the number of inputs, not {code_dim}")
    resolved: dict[str, Any] = running.defaults(config, digits=100, others=4)
    epochs, num_seeds = resolved["epochs"], resolved["num_seeds"]
    total = epochs * num_seeds * len(KINDS) * len(config.strengths())
    with Run("overcomplete_copy", config, dataset, total=total) as run:
        results = {
            kind: run_network(kind, images, config, epochs, num_seeds, run) for kind in KINDS
        }
        exact = closed_forms(images, config, results["linear"].methods, num_seeds)
        pca = run_pca(images, config, num_seeds)
        draw(run, images, results, config, exact["best_linear"])
        draw_pca(run, pca)
        return run.finish(
            resolved | {"code_dim": code_dim},
            num_features=d,
            code_dim=code_dim,
            directions_in_span=images.in_span,
            variances=images.variances.tolist(),
            networks={kind: result.methods for kind, result in results.items()},
            training={kind: result.training for kind, result in results.items()},
            pca=pca,
            **exact,
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
