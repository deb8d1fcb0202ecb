"""The vector field that a denoising autoencoder learns, beside the exact one.

Reproduces the lecture's manifold figures (LMU Munich, Deep Learning, chapter 9) on densities in
the plane for which the best possible reconstruction, the posterior mean E[x | x~], is known in
closed form: a circle, a spiral, and a mixture of Gaussians. The slides claim that
dec(enc(x~)) - x~ points to the nearest point of the manifold, and that dec(enc(x~)) estimates the
centre of mass of the clean points that could have given x~. Here both fields are drawn side by
side, and their distance is a number, near the data and far from them.

    python -m experiments.vector_field        about 3 minutes, 2 cores

Expected relative L2 error of the learned field where the noisy density is above 5 % of its
maximum: circle 0.03, spiral 0.06, mixture 0.04; elsewhere about 0.1.

Model: 2-128-128-128-2, tanh, squared error, Adam with cosine decay from 8e-3, 4,000 steps (spiral
10,000, mixture 8,000) of 256 fresh points and fresh Gaussian noise. Weights and biases start
larger than usual: with Glorot's the network is nearly linear over the square and never finds the
spiral. Deviation: the slides draw sketches; their densities, noise and networks are not recorded.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print("error: run python -m experiments.vector_field in the repository root", file=sys.stderr)
    sys.exit(2)

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, ScalarLike

import jaxae
from experiments.common import plots
from experiments.common.data import densities
from experiments.common.data.densities import Density
from experiments.common.results.claims import Claim, brief, percent, sentence, shown, verdict
from experiments.common.results.networks_file import KeptNetwork
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run import command_line
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag

NOISE = {"circle": 0.1, "spiral": 0.1, "mixture": 0.2}  # standard deviations
OTHER_NOISE = (0.5, 2.0)  # times that: levels of one more network each, for the lecture's page
HALF_WIDTH = 1.7  # of the square that is drawn and measured
EPOCHS = {"circle": 200, "spiral": 500, "mixture": 400}
GRID = 61  # points of the grid along each side
BARS = {"circle": 0.05, "spiral": 0.08, "mixture": 0.05}  # on the error near the data
DENSE = 0.05  # of the maximum of the noisy density: "near the data"
STEPS_PER_EPOCH = 20
UNITS = {
    "error_near": "relative L2 error of the learned field near the data",
    "error_far": "relative L2 error of the learned field elsewhere",
    "error_of_nearest": "field minus the way to the nearest point, over that way",
    "distance_left": "distance to the curve after ten steps, over the distance before",
    "distance_to_zeros": "largest distance of a critical point to a learned zero",
}


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the vector-field experiment. Its data are synthetic: --dataset is not used."""

    epochs: command_line.Optional[int] = None
    """Times 20 steps, each on fresh points; by default 200, 500 (spiral) and 400 (mixture)."""
    batch_size: int = 256
    """Points per step."""
    learning_rate: float = 8e-3
    """Step size of Adam at the start; it falls to 0 along a cosine."""


class Fields(NamedTuple):
    """Learned and exact displacement on the grid, and where the noisy density is high."""

    grid: np.ndarray  # (n, 2)
    learned: np.ndarray  # (n, 2)
    exact: np.ndarray  # (n, 2)
    density: np.ndarray  # (n,)

    @property
    def is_dense(self) -> np.ndarray:
        """Whether a point is near the data."""
        return self.density > DENSE * self.density.max()


def wide_first_layer(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
    """Returns a kernel with fan-in scaling 2, three times as large where the input is a point.

    A network whose first layer is nearly linear over the square never finds the spiral.
    """
    initializer = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
    return initializer(key, shape, dtype) * (3 if shape[0] == 2 else 1)


def make_trainer(density: Density, config: Config, epochs: int) -> fitting.AutoencoderTrainer:
    """Returns a trainer that draws its points from the density; the data only say how many."""

    def loss(
        key: Array,
        encode: Function,
        decode: Function,
        x: Array,
        stddev: ScalarLike = NOISE[density.name],
    ) -> Array:
        corrupt = partial(jaxae.gaussian_noise, stddev=stddev)
        point_key, noise_key = jax.random.split(key)
        points = density.sample(point_key, x.shape[0])
        return jaxae.denoising_loss(noise_key, encode, decode, points, corrupt=corrupt)

    steps = STEPS_PER_EPOCH * epochs
    model = jaxae.DenseAutoencoder(
        (2,),
        128,
        hidden_dims=(128,),
        activation=jnp.tanh,
        code_activation=jnp.tanh,
        kernel_init=wide_first_layer,
        bias_init=nn.initializers.normal(1.0),
    )
    return fitting.AutoencoderTrainer(
        model,
        loss,
        learning_rate=optax.cosine_decay_schedule(config.learning_rate, steps),
        batch_size=config.batch_size,
        epochs=epochs,
        devices=config.devices,
    )


def exact_field(density: Density, y: Array) -> Array:
    """Returns E[x | y] - y at one point."""
    return density.posterior_mean(y, NOISE[density.name]) - y


def on_grid(density: Density, learned: Function) -> Fields:
    """Returns both fields on a grid over the drawn square."""
    line = jnp.linspace(-HALF_WIDTH, HALF_WIDTH, GRID)
    grid = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    log_p = jax.vmap(lambda y: density.log_noisy_density(y, NOISE[density.name]))(grid)
    exact = jax.vmap(partial(exact_field, density))(grid)
    return Fields(*map(np.asarray, (grid, jax.vmap(learned)(grid), exact, jnp.exp(log_p))))


def relative_error(fields: Fields, where: np.ndarray) -> float:
    """Returns ||learned - exact|| / ||exact|| over some points of the grid."""
    gap = np.linalg.norm(fields.learned[where] - fields.exact[where])
    return float(gap / np.linalg.norm(fields.exact[where]))


def against_nearest(density: Density, learned: Function, y: Array) -> dict[str, float]:
    """Returns how the learned field compares with pointing at the nearest point of a curve.

    The numbers are root mean squares over noisy points ``(n, 2)``, relative to the distance to
    the nearest point: of the learned field minus that displacement, and of the distance that is
    left after following the field for ten steps.
    """

    def nearest(p: Array) -> Array:
        return density.nodes[jnp.argmin(jnp.sum((density.nodes - p[None]) ** 2, -1))] - p

    def rms(vectors: Array) -> float:
        return float(jnp.sqrt(jnp.mean(jnp.sum(vectors**2, -1))))

    displacement = jax.vmap(nearest)(y)
    end = y
    for _ in range(10):
        end = jax.vmap(lambda p: p + learned(p))(end)
    distance = rms(displacement)
    return {
        "error_of_nearest": rms(jax.vmap(learned)(y) - displacement) / distance,
        "distance_left": rms(jax.vmap(nearest)(end)) / distance,
    }


def zeros(field: Function, starts: Array) -> np.ndarray:
    """Returns the distinct zeros of a field in the drawn square, by damped Newton steps."""

    def newton(y: Array) -> Array:
        def step(_: int, y: Array) -> Array:
            change = jnp.linalg.solve(jax.jacfwd(field)(y), field(y))
            return y - change * jnp.minimum(1, 0.1 / jnp.maximum(jnp.linalg.norm(change), 1e-9))

        return jax.lax.fori_loop(0, 100, step, y)

    ends = jax.jit(jax.vmap(newton))(starts)
    found = jnp.linalg.norm(jax.vmap(field)(ends), axis=-1) < 1e-4
    inside = jnp.abs(ends).max(-1) < HALF_WIDTH
    distinct: list[np.ndarray] = []
    for end in np.asarray(ends)[np.asarray(found & inside)]:
        if all(np.linalg.norm(end - other) > 0.05 for other in distinct):
            distinct.append(end)
    return np.array(distinct).reshape(-1, 2)


def critical_points(density: Density, learned: Function, starts: Array) -> list[Metrics]:
    """Returns the critical points of the noisy density, each with the nearest learned zero.

    The exact field is the noise variance times the gradient of the log density (Alain and
    Bengio 2014), so its zeros are maxima, saddles and minima, told apart by its Jacobian.
    """
    exact = partial(exact_field, density)
    learned_zeros = zeros(learned, starts)
    rows = []
    for point in zeros(exact, starts):
        curvature = np.linalg.eigvals(np.asarray(jax.jacfwd(exact)(jnp.asarray(point)))).real
        kind = ("maximum", "saddle", "minimum")[int((curvature > 0).sum())]
        distances = np.linalg.norm(learned_zeros - point, axis=1)
        nearest = float(distances.min()) if len(distances) else None
        rows.append({"kind": kind, "at": point.tolist(), "distance_to_learned_zero": nearest})
    return sorted(rows, key=lambda row: (row["kind"], row["at"]))


class Field(NamedTuple):
    """The networks of one density.

    Attributes:
      density: where its points come from.
      trainer: of all networks.
      params: one network for each seed, which the numbers and the figures are of.
      others: one network for each other noise level, by its standard deviation.
    """

    density: Density
    trainer: fitting.AutoencoderTrainer
    params: list[Params]
    others: dict[float, Params]

    def learned(self, seed: int) -> Function:
        """Returns dec(enc(y)) - y, as the network of a seed has learned it."""
        encode, decode = self.trainer.bound(self.params[seed])
        return partial(jaxae.reconstruction_field, encode, decode)


class Trained(NamedTuple):
    """The networks of all densities."""

    fields: dict[str, Field]
    seed_key: Callable[[int], Array]  # the key of a repetition


def train(config: Config, epochs: Mapping[str, int], num_seeds: int, run: ExperimentRun) -> Trained:
    """Returns the networks of all densities, trained on fresh points."""
    counted = jnp.zeros((STEPS_PER_EPOCH * config.batch_size, 1))

    def tag(name: str, seed: int) -> Tag:
        return Tag(f"{name}_seed-{seed}", f"{name}, seed {seed}", {"density": name, "seed": seed})

    seed_key = partial(jax.random.fold_in, jax.random.key(config.seed))
    sweep = Sweep(run, range(num_seeds), seed_key, tag)
    fields = {}
    for name, make in densities.ALL.items():
        density = make()
        trainer = make_trainer(density, config, epochs[name])
        params = sweep.fit(trainer, counted, {name: ()})[name]
        others = train_other_levels(name, trainer, counted, seed_key, run)
        fields[name] = Field(density, trainer, params, others)
    return Trained(fields, seed_key)


def train_other_levels(
    name: str,
    trainer: fitting.AutoencoderTrainer,
    counted: Array,
    seed_key: Callable[[int], Array],
    run: ExperimentRun,
) -> dict[float, Params]:
    """Returns a network for each other noise level of a density, by its standard deviation."""

    def tag(stddev: float, seed: int) -> Tag:
        entry = {"density": name, "seed": seed, "noise_stddev": stddev}
        called = f"{name}_noise-{stddev:g}_seed-{seed}"
        return Tag(called, f"{name}, noise {stddev:g}, seed {seed}", entry)

    sweep = Sweep(run, range(1), seed_key, tag)
    levels = {factor * NOISE[name]: (factor * NOISE[name],) for factor in OTHER_NOISE}
    return {stddev: params for stddev, (params,) in sweep.fit(trainer, counted, levels).items()}


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the errors of the fields over the seeds, for every density."""
    results = {}
    for name, field in trained.fields.items():
        results[name] = measure_field(field, trained.seed_key)
        near, far = (results[name][f"error_{part}"]["mean"] for part in ("near", "far"))
        run.say(
            f"{name:8s} error of the learned field: near the data "
            f"{near:.3f}, far from them {far:.3f}"
        )
    return {"densities": results}


def measure_field(field: Field, seed_key: Callable[[int], Array]) -> Metrics:
    """Returns the errors over the seeds on one density."""
    density = field.density
    values: dict[str, list[float]] = {"error_near": [], "error_far": []}
    for seed in range(len(field.params)):
        key, learned = seed_key(seed), field.learned(seed)
        fields = on_grid(density, learned)
        values["error_near"].append(relative_error(fields, fields.is_dense))
        values["error_far"].append(relative_error(fields, ~fields.is_dense))
        if density.spread == 0:
            y = density.sample(jax.random.fold_in(key, 2), 2000)
            y = jaxae.gaussian_noise(jax.random.fold_in(key, 3), y, stddev=NOISE[density.name])
            for name, value in against_nearest(density, learned, y).items():
                values.setdefault(name, []).append(value)
        else:  # on a curve the maxima form a curve
            points = critical_points(density, learned, jnp.asarray(fields.grid[::5]))
            distances = [row["distance_to_learned_zero"] for row in points]
            worst = max(2 * HALF_WIDTH if d is None else d for d in distances)
            values.setdefault("distance_to_zeros", []).append(worst)
    result: Metrics = {name: over_seeds(own, UNITS[name]) for name, own in values.items()}
    result["noise_stddev"] = NOISE[density.name]
    if density.spread > 0:
        result["critical_points"] = points  # of the last seed
    return result


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the field of every density, as the last seed has learned it."""
    for field in trained.fields.values():
        draw_field(run, field.density, field.learned(-1))


def draw_field(run: ExperimentRun, density: Density, learned: Function) -> None:
    """Draws the learned and the exact field, a circle of corruptions, and the way home."""
    fields = on_grid(density, learned)
    name, stddev = density.name, NOISE[density.name]
    nodes = np.asarray(density.nodes)
    every_fourth = np.zeros((GRID, GRID), bool)
    every_fourth[2::4, 2::4] = True
    pick = every_fourth.reshape(-1)
    run.draw(
        plots.vector_fields,
        f"field_{name}.png",
        fields.grid[pick],
        {
            "learned: dec(enc(x~)) - x~": fields.learned[pick],
            "exact: E[x | x~] - x~": fields.exact[pick],
        },
        background=fields.density.reshape(GRID, GRID),
        half_width=HALF_WIDTH,
        title=f"Denoising moves points towards the data ({name}, noise {stddev:g})",
    )
    move = jax.vmap(lambda y: y + learned(y))
    centre = nodes[len(nodes) // 3]
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = centre + 2 * stddev * np.stack([np.cos(angle), np.sin(angle)], 1)
    run.draw(
        plots.corruption_ring,
        f"ring_{name}.png",
        nodes,
        centre,
        ring,
        np.asarray(move(jnp.asarray(ring, jnp.float32))),
        title=f"Equiprobable corruptions of one point ({name}, noise {stddev:g})",
    )
    path = [np.array([[1.5, 1.4], [-1.4, 1.5], [-1.5, -1.3], [1.3, -1.5], [0.1, 0.05]], "float32")]
    for _ in range(30):
        path.append(np.asarray(move(jnp.asarray(path[-1]))))
    for file in (f"path_{name}.png", f"path_{name}.gif"):
        run.draw(
            plots.paths,
            file,
            np.stack(path),
            nodes,
            half_width=HALF_WIDTH,
            title=f"Points follow the learned field home ({name})",
        )


def keep_networks(run: ExperimentRun, trained: Trained) -> None:
    """Keeps a network for each density and noise level for the lecture's page."""
    kept, nodes = [], {}
    for name, field in trained.fields.items():
        nodes[f"nodes/{name}"] = np.asarray(field.density.nodes, np.float32)
        drawn = {NOISE[name]: field.params[-1]}  # the network of the figures
        for stddev, params in sorted((field.others | drawn).items()):
            about = {"density": name, "spread": field.density.spread, "noise_stddev": stddev}
            kept.append(KeptNetwork(f"{name}_noise-{stddev:g}", params, about))
    activations = {"activation": "tanh", "code_activation": "tanh", "output_activation": "linear"}
    run.keep_networks(kept, {"half_width": HALF_WIDTH, **activations}, nodes)


def claims(found: Metrics) -> list[Claim]:
    """Returns what the slides say of the manifold with what was measured."""
    found = found["densities"]
    circle, spiral, mixture = (found[name] for name in ("circle", "spiral", "mixture"))
    near = {name: result["error_near"] for name, result in found.items()}
    kinds = Counter(row["kind"] for row in mixture["critical_points"])
    finds_all_zeros = max(mixture["distance_to_zeros"]["values"]) < 0.1
    return [
        Claim(
            "A point is corrupted into a grey circle of equiprobable corruptions, and the step "
            "from a corrupted point to its reconstruction leads to the nearest point of the "
            "manifold.",
            "Almost: the learned displacement differs from the way to the nearest point by "
            f"{shown(circle['error_of_nearest'])} of its length on the circle and "
            f"{shown(spiral['error_of_nearest'])} on the spiral (root mean squares over noisy "
            f"points), but from the posterior mean by {shown(circle['error_near'])} and "
            f"{shown(spiral['error_near'])} only. It points to the centre of mass, which lies "
            "inside of a curved manifold and between two arms of one.",
            verdict(
                max(circle["error_of_nearest"]["values"]) < 0.5,
                corrects=circle["error_of_nearest"]["mean"] > 2 * circle["error_near"]["mean"],
            ),
            {
                "circle, against the nearest point": circle["error_of_nearest"],
                "spiral, against the nearest point": spiral["error_of_nearest"],
            },
            "ring_circle.png",
            "A grey disc around one clean point of a curve; corrupted points on its rim; arrows "
            "from each of them to the curve, most of them to points beside the clean one.",
            anchor="manifold-nearest-point",
            plain=sentence(
                "The learned step misses the nearest point by {circle} of the way on the circle "
                "and by {spiral} on the spiral.",
                circle=percent(circle["error_of_nearest"]["mean"]),
                spiral=percent(spiral["error_of_nearest"]["mean"]),
            ),
            caption="Grey points: corruptions of the orange point, all equally likely. Blue "
            "arrows: where the network moves each of them. Black: the curve on which the data lie.",
            formula=r"\text{dec}(\text{enc}(\tilde x)) - \tilde x",
            more={
                "ring_spiral.png": "The same around a point of the spiral.",
                "ring_mixture.png": (
                    "The same around the mean of one of five Gaussians: the arrows are shorter "
                    "than the way to it, because the data are spread around it."
                ),
            },
        ),
        Claim(
            "The reconstruction of a corrupted point estimates the centre of mass of the clean "
            "points that it could come from.",
            "The posterior mean is known in closed form here. The learned field is within "
            f"{shown(near['circle'])} (circle), {shown(near['spiral'])} (spiral) and "
            f"{shown(near['mixture'])} (mixture) of it where the noisy density is above 5 % of its "
            f"maximum, and within {shown(spiral['error_far'])} (spiral) elsewhere.",
            verdict(all(near[name]["mean"] < BARS[name] for name in BARS)),
            {
                f"{name}, {where}": result[f"error_{part}"]
                for name, result in found.items()
                for part, where in (("near", "near the data"), ("far", "elsewhere"))
            },
            "field_spiral.png",
            "Two panels of arrows over a spiral, learned and exact, that can hardly be told apart: "
            "all arrows lead to the spiral.",
            anchor="manifold-centre-of-mass",
            plain=sentence(
                "Near the data, the learned field differs from the exact one by {circle} on the "
                "circle and by {spiral} on the spiral.",
                circle=percent(near["circle"]["mean"]),
                spiral=percent(near["spiral"]["mean"]),
            ),
            caption="Left: the steps that the network has learned. Right: the exact ones, computed "
            "from the density. Grey: where noisy data are likely.",
            formula=r"\text{dec}(\text{enc}(\tilde x)) \approx E[x \mid \tilde x]",
            more={
                "field_circle.png": "The same two panels for a circle.",
            },
        ),
        Claim(
            "A denoising autoencoder learns a vector field around the curve on which the data lie.",
            "Noisy points that follow the field for ten steps keep "
            f"{shown(circle['distance_left'])} of their distance to the circle and "
            f"{shown(spiral['distance_left'])} of their distance to the spiral.",
            verdict(max(max(r["distance_left"]["values"]) for r in (circle, spiral)) < 0.5),
            {
                "circle, distance left": circle["distance_left"],
                "spiral, distance left": spiral["distance_left"],
            },
            "path_spiral.gif",
            "An animation: five points start around a spiral, move step by step to its nearest "
            "arm and stay there.",
            anchor="manifold-vector-field",
            plain=sentence(
                "After ten steps along the field, noisy points keep {circle} of their distance to "
                "the circle and {spiral} to the spiral.",
                circle=percent(circle["distance_left"]["mean"]),
                spiral=percent(spiral["distance_left"]["mean"]),
            ),
            caption="Five points follow the learned field, one step per picture. Blue: the way "
            "behind them. Grey: the spiral on which the data lie.",
            more={
                "path_circle.gif": (
                    "The same on a circle; also from near its centre the points reach the line."
                ),
                "path_mixture.gif": "The same on five Gaussians: the points end at their means.",
            },
        ),
        Claim(
            "The field is zero on the data, the maxima of the density.",
            "It is zero at every critical point (Alain and Bengio 2014): the noisy density of five "
            f"Gaussians has {kinds['maximum']} maxima, {kinds['saddle']} saddles and "
            f"{kinds['minimum']} minimum, and the learned field has a zero within "
            f"{shown(mixture['distance_to_zeros'])} of each.",
            verdict(
                finds_all_zeros,
                corrects=kinds["saddle"] + kinds["minimum"] > 0,
            ),
            {"critical point to learned zero": mixture["distance_to_zeros"]},
            "field_mixture.png",
            "Two panels of arrows around five blobs on a circle, learned and exact: arrows vanish "
            "in the blobs, between neighbouring blobs, and in the middle of all.",
            anchor="manifold-zeros",
            plain=sentence(
                "Each maximum, saddle and minimum of the density has a zero of the learned field "
                "within a distance of about {distance}.",
                distance=brief(max(mixture["distance_to_zeros"]["values"])),
            )
            if finds_all_zeros
            else sentence(
                "Some maximum, saddle or minimum of the density has no zero of the learned field "
                "within a distance of one tenth."
            ),
            caption="Look where the arrows vanish: in the five blobs, the maxima of the density, "
            "but also between neighbours, at saddles, and in the middle, at a minimum.",
            formula=r"E[x \mid \tilde x] - \tilde x = \sigma^2 \nabla \log p_\sigma(\tilde x)",
            source="Often said of such fields",
        ),
    ]


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    epochs = {
        name: config.epochs or (2 if config.quick else default) for name, default in EPOCHS.items()
    }
    num_seeds = config.num_seeds or (1 if config.quick else 3)
    total = sum(epochs.values()) * (num_seeds + len(OTHER_NOISE))
    with ExperimentRun("vector_field", config, None, total=total) as run:
        trained = train(config, epochs, num_seeds, run)
        found = measure(run, trained, {})
        draw(run, trained, found)
        keep_networks(run, trained)
        return run.finish({"num_seeds": num_seeds, "epochs_per_density": epochs}, **found)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
