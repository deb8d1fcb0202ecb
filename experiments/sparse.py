"""The sparse autoencoder: how L1, KL and top-k keep few units active, and what it costs.

Puts numbers and pictures to the lecture's sparse autoencoder (LMU Munich, Deep Learning, chapter
9), L(x, dec(enc(x))) + lambda * L1 norm of z: reconstruction error against active units as lambda
rises, beside the two other ways of making a code sparse, a KL penalty on the mean activations
(the lecture's own code) and keeping the k largest units; the activations, the filters and the
inputs they answer to; and the price of L1, codes that are too small by a known amount.

    python -m experiments.sparse --dataset digits     about 45 seconds, 2 cores
    python -m experiments.sparse --dataset mnist      about 4 minutes, 2 cores

Expected on digits: 110 of 128 units active without a penalty, 15 at lambda 0.22 for a test MSE of
0.0087 per pixel; along the active filters the residual is lambda / 2, as it must be.

Models: for L1 and top-k one relu layer on centred pixels, linear output, squared error, Adam with
cosine decay from 1e-2; filters have norm 1, because otherwise a smaller code with larger filters
lowers the penalty at no cost (one network with free filters shows that). For KL the lecture's 64
sigmoid units, sigmoid output, target 0.1. Its code (sparse_autoencoder_mnist.R of
slds-lmu/lecture_i2dl, MXNet) has half the MEAN squared error over the d pixels, and adds 0.001
times the derivative of the KL divergence to the gradient of every activation; in units of the
squared error summed over pixels the weight is 2 d * 0.001. Deviation: the mean activation is that
of the batch, in MXNet a running one; at most 20,000 training images.
"""

import itertools
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
from experiments.common import command_line, fitting, plots, records, running
from experiments.common.claims import Claim, shown, verdict
from experiments.common.errors import InputError
from experiments.common.running import Run

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # default lambdas over the images' rms distance
KL_UNITS, KL_TARGET, KL_PENALTY = 64, 0.1, 0.001  # of the lecture's code
KL_FACTORS = (0.1, 1.0, 10.0)  # times the lecture's weight
MOST_IMAGES = 20_000
TOP = 10  # inputs that activate a unit most
AXES = 32  # of the orthonormal decoder


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the sparse autoencoder."""

    epochs: int | None = None
    """Passes over the training data; by default 5, on digits 100."""
    learning_rate: float = 1e-2
    """Step size of Adam at the start, at most 10; it falls to 0 along a cosine."""
    code_dim: int | None = None
    """Units of the code for L1 and top-k; by default 256, on small images twice the pixels."""
    sparsity_weights: tuple[float, ...] | None = None
    """Rising weights of the L1 norm, the first 0; by default fractions of the images' spread."""
    top_k: tuple[int, ...] = (4, 8, 16)
    """Numbers of units that top-k keeps."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**16)
        weights = self.sparsity_weights
        for weight in weights or ():
            command_line.require_number("--sparsity-weights", weight, low=0.0, high=1e3)
        rises = weights is None or (weights[:1] == (0.0,) and len(weights) > 1)
        if not rises or (weights and any(a >= b for a, b in itertools.pairwise(weights))):
            raise InputError(
                "--sparsity-weights must start with 0 and rise, with one more at least"
            )
        if not self.top_k:
            raise InputError("--top-k must name at least one value")
        for k in self.top_k:
            command_line.require_integer("--top-k", k, low=1, high=self.code_dim or 2**16)


class UnitFilters(jaxae.DenseAutoencoder):
    """A one-layer autoencoder whose decoder adds up filters of unit norm."""

    def decode(self, code: Array) -> Array:
        """Returns the decoder's output for one code."""
        ((kernel, bias),) = self.decoder_layers
        return code @ unit_rows(kernel) + bias


def unit_rows(kernel: Array) -> Array:
    """Returns the rows of a kernel ``(k, d)``, each divided by its norm."""
    norms = jnp.linalg.norm(kernel, axis=1, keepdims=True)
    return kernel / jnp.maximum(norms, 1e-12)


class Family(NamedTuple):
    """Networks that share one program: their data and how they are trained and measured."""

    name: str
    trainer: fitting.Trainer
    train: Array
    test: Array
    measure: Callable[[Any, Array], dict[str, Array]]


def make_family(name: str, model: Any, loss: Any, data: tuple[Array, Array], opts: Any) -> Family:
    """Returns a family; a unit of a sigmoid code counts as active above one half."""
    trainer = fitting.Trainer(model, loss, **opts)
    threshold = 0.5 if name == "KL" else 0.0

    @jax.jit
    def measure(params: Any, x: Array) -> dict[str, Array]:
        encode, decode = trainer.bound(params)
        with jax.default_matmul_precision("highest"):
            code = jax.vmap(encode)(x)
            residual = x - jax.vmap(decode)(code)
            along = residual @ unit_rows(params["decoder_kernel_0"]).T  # (n, k)
        active = code > threshold
        return {
            "test_mse": jnp.mean(jnp.square(residual)),
            "active_units": jnp.mean(jaxae.active_units(code, threshold=threshold)),
            "dead_share": jnp.mean(jaxae.dead_units(code, threshold=threshold).astype(x.dtype)),
            "mean_activation": jnp.mean(code),
            "residual_along_filters": jnp.sum(along * active) / jnp.maximum(jnp.sum(active), 1),
            "effective_weight": 2 * jnp.sum(along * active) / jnp.maximum(jnp.sum(active), 1),
            "filter_norm": jnp.mean(jnp.linalg.norm(params["decoder_kernel_0"], axis=1)),
            "code": code,
        }

    return Family(name, trainer, *data, measure)


UNITS = {
    "test_mse": "squared pixel value, mean over pixels and test images",
    "active_units": "units per test image",
    "dead_share": "share of units active for no test image",
    "mean_activation": "mean over units and test images",
    "residual_along_filters": "pixel value, mean over active units and test images",
    "effective_weight": "lambda at which filters of norm 1 would leave that residual",
    "filter_norm": "norm of a unit's decoder weights, mean over units",
    "purity": f"share of the commonest class among a unit's top {TOP} test images, mean over units",
    "nearest_cosine": "absolute cosine of a filter with the most similar other one, mean",
    "correlation": "absolute correlation of the activations of two units, mean over pairs",
}


def purity(code: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of the commonest class among the top inputs, mean over live units.

    Units that are active for fewer than ``TOP`` inputs do not count.
    """
    live = (code > 0).sum(0) >= TOP
    top = np.argsort(-code[:, live], axis=0)[:TOP]  # (TOP, live units)
    shares = [np.bincount(labels[rows]).max() / TOP for rows in top.T]
    return float(np.mean(shares)) if shares else float("nan")


def chance_purity(labels: np.ndarray, key: Array) -> float:
    """Returns the purity of units that answer to inputs at random."""
    code = np.asarray(jax.random.uniform(key, (len(labels), 500)))
    return purity(code, labels)


def nearest_cosine(filters: np.ndarray) -> float:
    """Returns the absolute cosine with the most similar other row, mean over the rows."""
    if len(filters) < 2:
        return float("nan")
    unit = filters / np.maximum(np.linalg.norm(filters, axis=1, keepdims=True), 1e-12)
    cosines = np.abs(unit @ unit.T)
    np.fill_diagonal(cosines, 0)
    return float(cosines.max(1).mean())


def correlation(code: np.ndarray) -> float:
    """Returns the absolute correlation of two columns, mean over pairs of different columns."""
    if code.shape[1] < 2:
        return float("nan")
    centred = code - code.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    matrix = np.abs(unit.T @ unit)
    k = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (k * (k - 1)))


class Plan(NamedTuple):
    """What is trained: the configuration with all defaults filled in."""

    config: Config
    shape: tuple[int, ...]
    raw: tuple[Array, Array]  # train and test pixels in [0, 1]
    centred: tuple[Array, Array]  # minus the mean of the training pixels
    labels: np.ndarray
    code_dim: int
    weights: tuple[float, ...]
    epochs: int
    num_seeds: int


def make_plan(config: Config, dataset: Any) -> Plan:
    """Returns the plan for a configuration and its data."""
    if dataset.test_labels is None:
        raise InputError(
            f"--dataset {config.dataset} must have labels, to say what units answer to"
        )
    train, test = map(jnp.asarray, dataset.flat())
    train = train[:MOST_IMAGES]
    d, mean = train.shape[1], jnp.mean(train, axis=0)
    spread = float(jnp.sqrt(jnp.sum(jnp.var(train, axis=0))))
    weights = tuple(float(f"{fraction * spread:.2g}") for fraction in FRACTIONS)
    code_dim = config.code_dim or min(2 * d, 256)
    if max(config.top_k) > code_dim:
        raise InputError(f"--top-k must be at most {code_dim}, the units of the code")
    return Plan(
        config,
        dataset.example_shape,
        (train, test),
        (train - mean[None], test - mean[None]),
        dataset.test_labels,
        code_dim,
        config.sparsity_weights or weights,
        **running.defaults(config, digits=100, others=5),
    )


def families(plan: Plan) -> dict[str, tuple[Family, list[tuple[float, ...]]]]:
    """Returns every family with the settings that it is trained at."""
    d, k = plan.raw[0].shape[1], plan.code_dim
    steps = plan.epochs * -(-len(plan.raw[0]) // plan.config.batch_size)
    opts = {
        "learning_rate": optax.cosine_decay_schedule(plan.config.learning_rate, steps),
        "batch_size": plan.config.batch_size,
        "epochs": plan.epochs,
    }

    def l1(key: Array, encode: Any, decode: Any, x: Array, weight: Array) -> Array:
        return jaxae.sparse_loss(encode, decode, x, weight=weight)

    def kl(key: Array, encode: Any, decode: Any, x: Array, weight: Array) -> Array:
        penalty = partial(jaxae.kl_sparsity_penalty, target=KL_TARGET)
        return jaxae.sparse_loss(encode, decode, x, weight=weight, penalty=penalty)

    def plain(key: Array, encode: Any, decode: Any, x: Array) -> Array:
        return jaxae.reconstruction_loss(encode, decode, x)

    unit = partial(UnitFilters, (d,), k)
    free = jaxae.DenseAutoencoder((d,), k, code_activation=nn.relu)
    sigmoid = jaxae.DenseAutoencoder(
        (d,), KL_UNITS, code_activation=nn.sigmoid, output_activation=nn.sigmoid
    )
    lecture = 2 * d * KL_PENALTY
    found: dict[str, tuple[Family, list[tuple[float, ...]]]] = {
        "L1": (
            make_family("L1", unit(code_activation=nn.relu), l1, plan.centred, opts),
            [(weight,) for weight in plan.weights],
        ),
        "L1, free filters": (
            make_family("free", free, l1, plan.centred, opts),
            [(plan.weights[chosen(plan.weights)],)],
        ),
        "KL": (
            make_family("KL", sigmoid, kl, plan.raw, opts),
            [(factor * lecture,) for factor in KL_FACTORS],
        ),
    }
    for top in plan.config.top_k:
        keep = lambda pre, top=top: jaxae.keep_top_k(nn.relu(pre), k=top)
        model = unit(code_activation=keep)
        found[f"top {top}"] = make_family(f"top {top}", model, plain, plan.centred, opts), [()]
    return found


def chosen(weights: tuple[float, ...]) -> int:
    """Returns the position of the weight whose network is shown in pictures."""
    return min(3, len(weights) - 1)


def run_family(
    family: Family, settings: list[tuple[float, ...]], plan: Plan, run: Run
) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    """Returns a row of numbers for each setting, and the first seed's codes and filters."""
    rows, kept = [], []
    for setting in settings:
        found: list[dict[str, float]] = []
        for seed in range(plan.num_seeds):
            entry = {"method": family.name, "setting": list(setting), "seed": seed}

            def on_epoch(epoch: int, loss: float, entry: dict[str, Any] = entry) -> None:
                doing = f"{entry['method']} {entry['setting']}, seed {entry['seed']}"
                run.log(doing, **entry, epoch=epoch, train_loss=loss)

            key = seed_key(plan, seed)
            params = family.trainer.fit(key, family.train, *setting, on_epoch=on_epoch)
            measured = jax.tree.map(np.asarray, family.measure(params, family.test))
            code = measured.pop("code")
            filters = np.asarray(unit_rows(params["decoder_kernel_0"]))
            live = code.max(0) > 0
            found.append(
                {name: float(value) for name, value in measured.items()}
                | {
                    "purity": purity(code, plan.labels),
                    "nearest_cosine": nearest_cosine(filters[live]),
                    "correlation": correlation(code[:, live]),
                }
            )
            if seed == 0:
                kept.append({"code": code, "filters": filters})
        row = {
            name: records.over_seeds([one[name] for one in found], unit)
            for name, unit in UNITS.items()
        }
        rows.append({"weight": setting[0] if setting else None, **row})
        mse, active = row["test_mse"]["mean"], row["active_units"]["mean"]
        at = f"{setting[0]:8.3g}" if setting else " " * 8
        run.say(f"{family.name:8s} {at}  test MSE {mse:.5f}, {active:6.2f} units active")
    return rows, kept


def seed_key(plan: Plan, seed: int) -> Array:
    """Returns the key of a seed."""
    return jax.random.fold_in(jax.random.key(plan.config.seed), seed)


def soft_threshold(t: Array, threshold: float) -> Array:
    """Returns the optimal codes for coefficients t, an orthonormal decoder and L1."""
    return jnp.sign(t) * jnp.maximum(jnp.abs(t) - threshold, 0)


def run_orthonormal(plan: Plan, weight: float) -> dict[str, Any]:
    """Trains a relu encoder under a fixed orthonormal decoder; compares codes with their optimum.

    The decoder's columns are the leading principal axes u and their negatives, so that a pair of
    units holds one signed coefficient. The optimum is S(u^T x, lambda / 2), soft-thresholding.
    """
    train, test = plan.centred[0][:2000], plan.centred[1]
    covariance = np.cov(np.asarray(train, np.float64).T, bias=True)
    count = min(AXES, train.shape[1])
    axes = jnp.asarray(np.linalg.eigh(covariance)[1][:, ::-1][:, :count], jnp.float32)

    def encode(params: Any, x_i: Array) -> Array:
        return nn.relu(x_i @ params["kernel"] + params["bias"])

    def decode(code: Array) -> Array:
        return axes @ (code[:count] - code[count:])

    def loss(params: Any) -> Array:
        encoded = partial(encode, params)
        return jnp.mean(jaxae.sparse_loss(encoded, decode, train, weight=weight))

    solve = jax.jit(lambda params: jaxae.minimize(loss, params, jaxae.lbfgs(), steps=300).params)

    @jax.jit
    def compare(params: Any) -> tuple[Array, Array, Array]:
        with jax.default_matmul_precision("highest"):
            code = jax.vmap(partial(encode, params))(test)
            t = test @ axes
            best = soft_threshold(t, weight / 2)
        code = code[:, :count] - code[:, count:]
        return jnp.linalg.norm(code - best) / jnp.linalg.norm(best), t, code

    errors = []
    for seed in range(plan.num_seeds):
        init = jax.nn.initializers.glorot_uniform()
        key = jax.random.fold_in(seed_key(plan, seed), 1)
        start = jnp.concatenate([axes, -axes], axis=1)  # the decoder, transposed, and noise
        kernel = start + init(key, start.shape, jnp.float32)
        error, t, code = compare(solve({"kernel": kernel, "bias": jnp.zeros(2 * count)}))
        errors.append(float(error))
    size, value = np.abs(np.ravel(t)), np.ravel(code) * np.sign(np.ravel(t))
    edges = np.linspace(0, np.quantile(size, 0.999), 25)
    bins = [np.flatnonzero((size >= a) & (size < b)) for a, b in itertools.pairwise(edges)]
    bins = [rows for rows in bins if len(rows)]
    return {
        "weight": weight,
        "code_error": records.over_seeds(errors, "distance to the optimal codes over their norm"),
        "coefficient": [float(size[rows].mean()) for rows in bins],
        "code": [float(value[rows].mean()) for rows in bins],
        "optimal_code": [float(np.maximum(size[rows] - weight / 2, 0).mean()) for rows in bins],
    }


def draw(run: Run, plan: Plan, table: dict[str, Any], orthonormal: dict[str, Any]) -> None:
    """Writes the figures made of lines."""
    l1, kl = table["L1"], table["KL"]
    tops = [rows[0] for name, rows in table.items() if name.startswith("top")]
    looks = {
        "L1": plots.METHODS["sparse"],
        "top-k": plots.OTHERS[1],
        "KL, units above 1/2": plots.OTHERS[2],
    }
    series = dict(zip(looks, (l1, tops, kl), strict=True))
    mean = lambda rows, name: [row[name]["mean"] for row in rows]
    error = [
        plots.line(name, mean(rows, "active_units"), [row["test_mse"] for row in rows], looks[name])
        for name, rows in series.items()
    ]
    x, rows = plan.weights[1:], l1[1:]
    active = plots.line("L1", x, [row["active_units"] for row in rows], looks["L1"])
    dead = plots.line("L1", x, [row["dead_share"] for row in rows], looks["L1"])
    label = "lambda, weight of the L1 norm"
    ticks = [2**power for power in range(plan.code_dim.bit_length())]
    panels = [
        plots.Panel(
            "active units per test image", "test MSE per pixel", error, ("log", "log"), ticks
        ),
        plots.Panel(label, "active units per test image", [active], ("log", "linear"), x),
        plots.Panel(label, "share of dead units", [dead], ("log", "linear"), x),
    ]
    plots.panels(run.path("path.png"), panels, title="Fewer active units cost reconstruction")

    t = orthonormal["coefficient"]
    closed = "closed form"
    code_lines = [
        plots.plain("L1", t, orthonormal["code"], looks["L1"]),
        plots.plain(closed, t, orthonormal["optimal_code"], plots.EXACT),
        plots.plain("no shrinkage, as in top-k", t, t, plots.Look(plots.EXACT.color, ":")),
    ]
    residual = [
        plots.line("L1", x, [row["residual_along_filters"] for row in rows], looks["L1"]),
        plots.plain(closed, x, [weight / 2 for weight in x], plots.EXACT),
    ]
    panels = [
        plots.Panel(
            "coefficient |u^T x| (pixel value)",
            "learned code (pixel value)",
            code_lines,
            title=f"orthonormal decoder, lambda {orthonormal['weight']:g}",
        ),
        plots.Panel(
            label,
            "residual along active filters (pixel value)",
            residual,
            title="learned decoder",
        ),
    ]
    plots.panels(run.path("shrinkage.png"), panels, title="L1 makes codes too small by lambda / 2")


def draw_units(run: Run, plan: Plan, kept: list[dict[str, np.ndarray]]) -> None:
    """Writes activations, filters and top inputs of the plain and of one sparse network."""
    picked = chosen(plan.weights)
    networks = {"AE": kept[0], "sparse": kept[picked]}
    name = f"lambda {plan.weights[picked]:g}"
    plots.histograms(
        run.path("activations.png"),
        {"AE": kept[0]["code"], f"sparse, {name}": kept[picked]["code"]},
        [plots.METHODS["AE"], plots.METHODS["sparse"]],
        x_label="activation (pixel value)",
        title="Activations of all units on all test images",
    )
    tests = np.asarray(plan.raw[1]).reshape(-1, *plan.shape)
    for method, network in networks.items():
        code, filters = network["code"], network["filters"].reshape(-1, *plan.shape)
        often = np.argsort(-(code > 0).sum(0))  # the most used units first
        often = often[code[:, often].max(0) > 0]
        what = "no penalty" if method == "AE" else name
        title = f"Filters, {what}: the {min(96, len(often))} units used most"
        path = run.path(f"filters_{method.lower()}.png")
        plots.image_grid(path, filters[often[:96]], columns=16, title=title)
        rows = {}
        for unit in often[np.linspace(0, len(often) - 1, min(8, len(often))).astype(int)]:
            grey = 0.5 + 0.5 * filters[unit] / np.abs(filters[unit]).max()
            top = tests[np.argsort(-code[:, unit])[:TOP]]
            rows[f"unit {unit}"] = np.concatenate([grey[None], top])
        title = f"Filters (left, 0 is grey) and the test images that activate them most, {what}"
        plots.image_rows(run.path(f"top_inputs_{method.lower()}.png"), rows, title=title)


def claims(metrics: dict[str, Any]) -> list[Claim]:
    """Returns what the lecture says about sparse autoencoders, beside what was measured."""
    return [_few_active(metrics), _norms(metrics), _unique(metrics), _kl(metrics), _bias(metrics)]


def _few_active(metrics: dict[str, Any]) -> Claim:
    rows = metrics["methods"]["L1"]
    plain, last, picked = rows[0], rows[-1], rows[metrics["chosen"]]
    falls = all(
        later < earlier
        for a, b in itertools.pairwise(rows)
        for earlier, later in zip(
            a["active_units"]["values"], b["active_units"]["values"], strict=True
        )
    )
    return Claim(
        slide="The L1 norm of the code keeps the number of active units per input low.",
        finding=f"Of {metrics['code_dim']} units {shown(plain['active_units'])} are active for a "
        f"test image without a penalty, {shown(picked['active_units'])} at lambda "
        f"{picked['weight']:g} and {shown(last['active_units'])} at {last['weight']:g}. The test "
        f"MSE rises from {shown(plain['test_mse'])} to {shown(picked['test_mse'])} and "
        f"{shown(last['test_mse'])}, and the share of units that no test image activates from "
        f"{shown(plain['dead_share'])} to {shown(last['dead_share'])}.",
        verdict=verdict(falls and _below(last["active_units"], plain["active_units"], 0.25)),
        numbers={f"active units, lambda {row['weight']:g}": row["active_units"] for row in rows},
        figure="path.png",
        alt="Three panels. Left, on logarithmic axes: test MSE falls as more units are active, for "
        "L1, top-k and KL. Middle: active units fall with lambda. Right: dead units against it.",
    )


def _below(a: dict[str, Any], b: dict[str, Any], factor: float = 1.0) -> bool:
    """Returns whether a < factor * b for every seed."""
    return all(x < factor * y for x, y in zip(a["values"], b["values"], strict=True))


def _norms(metrics: dict[str, Any]) -> Claim:
    picked = metrics["methods"]["L1"][metrics["chosen"]]
    (free,) = metrics["methods"]["L1, free filters"]
    return Claim(
        slide="The sparse autoencoder minimises L(x, dec(enc(x))) + lambda * L1 norm of z.",
        finding="This needs a condition that the slide does not state: the norm of the decoder's "
        "filters must be fixed. If it is free, the code gets small and the filters large, which "
        f"changes no reconstruction: to a norm of {shown(free['filter_norm'])}, and the penalty "
        f"of weight {free['weight']:g} acts like one of {shown(free['effective_weight'])}; with "
        f"filters of norm 1 like one of {shown(picked['effective_weight'])}. The test MSE is "
        f"{shown(free['test_mse'])} instead of {shown(picked['test_mse'])}.",
        verdict=verdict(
            _below(free["effective_weight"], picked["effective_weight"], 0.75)
            and min(free["filter_norm"]["values"]) > 1.25,
            corrects=True,
        ),
        numbers={
            "effective weight, filters of norm 1": picked["effective_weight"],
            "effective weight, free filters": free["effective_weight"],
            "norm of the free filters": free["filter_norm"],
        },
        figure="activations.png",
        alt="Histogram of activations on a logarithmic axis: without a penalty a broad hump, with "
        "one a peak at 0 and a long tail.",
    )


def _unique(metrics: dict[str, Any]) -> Claim:
    rows, chance = metrics["methods"]["L1"], metrics["chance_purity"]
    plain, picked = rows[0], rows[metrics["chosen"]]
    purer = _below(plain["purity"], picked["purity"])
    unlike = _below(picked["correlation"], plain["correlation"])
    similar = _below(plain["nearest_cosine"], picked["nearest_cosine"])
    return Claim(
        slide="The units of a sparse autoencoder respond to unique statistical features.",
        finding=f"Of the {TOP} test images that activate a unit most, {shown(picked['purity'])} "
        f"are of one class, without the penalty {shown(plain['purity'])} (at random "
        f"{shown(chance)}); the activations of two units correlate by "
        f"{shown(picked['correlation'])} instead of {shown(plain['correlation'])}. "
        + (
            "The filters themselves do not become more different: the cosine with the most "
            f"similar other one rises from {shown(plain['nearest_cosine'])} to "
            f"{shown(picked['nearest_cosine'])}."
            if similar
            else "The cosine of a filter with the most similar other one goes from "
            f"{shown(plain['nearest_cosine'])} to {shown(picked['nearest_cosine'])}."
        ),
        verdict=verdict(purer and unlike, corrects=similar),
        numbers={
            "class purity, sparse": picked["purity"],
            "class purity, AE": plain["purity"],
            "class purity, chance": chance,
            "correlation of units, sparse": picked["correlation"],
            "correlation of units, AE": plain["correlation"],
        },
        figure="top_inputs_sparse.png",
        alt="Eight rows, a filter and the ten test images that activate it most: the images of a "
        "row look alike.",
    )


def _kl(metrics: dict[str, Any]) -> Claim:
    rows = metrics["methods"]["KL"]
    weak, lecture, strong = rows
    means = [row["mean_activation"] for row in rows]
    reached = all(abs(value - KL_TARGET) < 0.2 * KL_TARGET for value in means[2]["values"])
    falls = _below(means[1], means[0]) and _below(means[2], means[1])
    missed = any(abs(value - KL_TARGET) > 0.2 * KL_TARGET for value in means[1]["values"])
    return Claim(
        slide="The lecture's example keeps 64 sigmoid units at a mean activation of 0.1 by a KL "
        "penalty of weight 0.001.",
        finding=f"At that weight, {lecture['weight']:.3g} where the squared error is summed over "
        f"pixels, the mean activation comes to {shown(means[1])}; a tenth of it leaves "
        f"{shown(means[0])}, and ten times as much {shown(means[2])}, for a test MSE of "
        f"{shown(lecture['test_mse'])}, {shown(weak['test_mse'])} and {shown(strong['test_mse'])}. "
        "No sigmoid unit is ever exactly 0; counted as active are units above one half.",
        verdict=verdict(falls and reached, corrects=missed),
        numbers={f"mean activation, weight {r['weight']:.3g}": r["mean_activation"] for r in rows},
        figure="path.png",
        alt="Three panels. Left, on logarithmic axes: test MSE falls as more units are active, for "
        "L1, top-k and KL. Middle: active units fall with lambda. Right: dead units against it.",
    )


def _bias(metrics: dict[str, Any]) -> Claim:
    picked, orthonormal = metrics["methods"]["L1"][metrics["chosen"]], metrics["orthonormal"]
    tops = {name: rows[0] for name, rows in metrics["methods"].items() if name.startswith("top")}
    half, along = picked["weight"] / 2, picked["residual_along_filters"]
    holds = max(orthonormal["code_error"]["values"]) < 0.05 and all(
        abs(value - half) < 0.2 * half for value in along["values"]
    )
    first, top = next(iter(tops.items()))
    return Claim(
        slide="(Consequence) The L1 norm does not only choose units, it also shrinks their codes.",
        finding="Under an orthonormal decoder the learned codes are the soft-thresholded "
        f"coefficients, S(u^T x, lambda / 2), up to {shown(orthonormal['code_error'])} of their "
        "norm. With learned filters the same bias stays in the residual, which along active "
        f"filters is {shown(along)} at lambda {picked['weight']:g}, where {half:g} is exact at a "
        f"stationary point; {first} units, which choose without shrinking, leave "
        f"{shown(top['residual_along_filters'])}.",
        verdict=verdict(holds),
        numbers={"error of the codes": orthonormal["code_error"], "residual, L1": along}
        | {f"residual, {name}": row["residual_along_filters"] for name, row in tops.items()},
        figure="shrinkage.png",
        alt="Two panels. Left: learned code against the coefficient, 0 up to lambda / 2 and then "
        "parallel to the diagonal, on the closed form. Right: residual along active filters "
        "against lambda, on the line lambda / 2.",
    )


def main(config: Config) -> dict[str, Any]:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = running.load(config)
    plan = make_plan(config, dataset)
    all_families = families(plan)
    runs = plan.num_seeds * sum(len(settings) for _, settings in all_families.values())
    with Run("sparse", config, dataset, total=plan.epochs * runs) as run:
        table: dict[str, list[dict[str, Any]]] = {}
        for name, (family, settings) in all_families.items():
            table[name], kept = run_family(family, settings, plan, run)
            if name == "L1":
                draw_units(run, plan, kept)
        orthonormal = run_orthonormal(plan, plan.weights[chosen(plan.weights)])
        draw(run, plan, table, orthonormal)
        chance = [
            chance_purity(plan.labels, jax.random.fold_in(seed_key(plan, seed), 2))
            for seed in range(plan.num_seeds)
        ]
        resolved = {
            "code_dim": plan.code_dim,
            "sparsity_weights": plan.weights,
            "epochs": plan.epochs,
            "num_seeds": plan.num_seeds,
            "images_trained_on": len(plan.raw[0]),
        }
        return run.finish(
            resolved,
            code_dim=plan.code_dim,
            chosen=chosen(plan.weights),
            methods=table,
            orthonormal=orthonormal,
            chance_purity=records.over_seeds(chance, UNITS["purity"]),
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
