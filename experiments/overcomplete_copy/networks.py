"""The overcomplete networks: their training, and the measures that every statement rests on.

A linear and a relu code differ by one number, the slope of the activation below 0. It is a traced
value, so both networks, all methods but the CAE and all seeds share one compiled program.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag
from experiments.overcomplete_copy.inputs import (
    INPUTS,
    Images,
    Keys,
    Probes,
    make_keys,
    make_probes,
)

SLOPES = {"linear": 1.0, "relu": 0.0}  # of the code's activation below 0
UNITS = {
    "noise_left": "squared error of the output over squared noise, test images",
    "noise_passed": "squared change of the output over squared noise, test images",
    "error_beyond_span": "squared error over squared input, white noise beyond the span",
    "active_share": "share of the code's units that are not 0, test images",
    "gains": "u^T J_r u",
}

Trace = dict[int, dict[str, Array]]  # relative errors by epoch and kind of input
Gains = dict[str, np.ndarray]  # along the principal axes, by method


class Strengths(NamedTuple):
    """How much of each regulariser a method has."""

    noise: float = 0.0
    sparsity: float = 0.0
    contraction: float = 0.0


class Variant(NamedTuple):
    """One network, which is trained once for each seed."""

    kind: str  # of its code
    method: str


def tag(variant: Variant, seed: int) -> Tag:
    """Returns what the network of a seed is called."""
    kind, method = variant
    entry = {"network": kind, "method": method, "seed": seed}
    return Tag(f"{kind}_{method}_seed-{seed}", f"{kind} {method}, seed {seed}", entry)


def relative_error(reconstruct: Function, x: Array) -> Array:
    """Returns ||r(x) - x||^2 / ||x||^2, both summed over the rows; 0 is a perfect copy."""
    return jnp.sum(jnp.square(jax.vmap(reconstruct)(x) - x)) / jnp.sum(jnp.square(x))


def noise_ratios(reconstruct: Function, x: Array, noise: Array) -> dict[str, Array]:
    """Returns how much noise gets through, as shares of ||noise||^2; both are 1 for a copy.

    ``noise_left`` is ||r(x + noise) - x||^2, the error of denoising; ``noise_passed`` is
    ||r(x + noise) - r(x)||^2, which does not count what the clean reconstruction lacks.
    """
    clean, noisy = jax.vmap(reconstruct)(x), jax.vmap(reconstruct)(x + noise)

    def share(difference: Array) -> Array:
        return jnp.sum(jnp.square(difference)) / jnp.sum(jnp.square(noise))

    return {"noise_left": share(noisy - x), "noise_passed": share(noisy - clean)}


def gains(reconstruct: Function, x: Array, axes: Array) -> Array:
    """Returns u^T J_r u for each column u of ``axes``, as the mean over the rows of x."""

    def example_gains(x_i: Array) -> Array:
        along = jax.vmap(lambda u: u @ jax.jvp(reconstruct, (x_i,), (u,))[1])
        return along(axes.T)

    return jnp.mean(jax.lax.map(example_gains, x), axis=0)


def activated(encode: Function, slope: float | Array) -> Function:
    """Returns the encoder with an activation that has this slope below 0."""

    def encode_with_slope(x_i: Array) -> Array:
        before = encode(x_i)
        return jnp.where(before > 0, before, slope * before)

    return encode_with_slope


def plain_loss(
    key: Array,
    encode: Function,
    decode: Function,
    x: Array,
    slope: Array,
    noise: Array,
    sparsity: Array,
) -> Array:
    """Returns the loss of every method but the CAE; without the Jacobian."""
    corrupt = partial(jaxae.gaussian_noise, stddev=noise)
    encode = activated(encode, slope)
    return jaxae.combined_loss(key, encode, decode, x, corrupt=corrupt, sparsity_weight=sparsity)


def contractive_loss(
    key: Array, encode: Function, decode: Function, x: Array, slope: Array, weight: Array
) -> Array:
    """Returns the loss of the CAE, with one random probe per example."""
    return jaxae.combined_loss(
        key,
        activated(encode, slope),
        decode,
        x,
        corrupt=jaxae.compose(),
        contraction_weight=weight,
        method="hutchinson",
    )


def exact_gains(variances: np.ndarray, strengths: Mapping[str, Strengths]) -> Gains:
    """Returns the gains along the axes of the best linear DAE, and of the best tied linear CAE."""
    var = np.maximum(variances, 1e-30)
    return {
        "DAE": var / (var + strengths["DAE"].noise ** 2),
        "CAE": np.maximum(0, 1 - strengths["CAE"].contraction / (2 * var)),
    }


class VariantTrainer:
    """Trains and measures all networks, with programs that they share.

    Args:
      images: the data.
      config: learning rate and batch size.
      sizes: ``epochs``, and ``code_dim``.
    """

    def __init__(self, images: Images, config: CommonConfig, sizes: dict[str, int]) -> None:
        d, epochs = images.train.shape[1], sizes["epochs"]
        steps = epochs * -(-len(images.train) // config.batch_size)
        model = jaxae.DenseAutoencoder((d,), sizes["code_dim"], tied=True)
        rectified = jaxae.DenseAutoencoder(
            (d,), sizes["code_dim"], tied=True, code_activation=nn.relu
        )
        self._models = {"linear": model, "relu": rectified}  # what is loaded from a checkpoint
        make_trainer = partial(
            fitting.AutoencoderTrainer,
            model,
            learning_rate=optax.cosine_decay_schedule(config.learning_rate, steps),
            batch_size=config.batch_size,
            epochs=epochs,
            devices=config.devices,
        )
        self._plain = make_trainer(plain_loss)
        self._contractive = make_trainer(contractive_loss)
        self._x, self._axes = images.train, jnp.asarray(images.axes, jnp.float32)
        self._kept_epochs = sorted({0, *np.geomspace(1, epochs, 12).round().astype(int).tolist()})
        self._errors, self._measures = jax.jit(self._errors_of), jax.jit(self._measures_of)

    def trace(
        self, variant: Variant, seed: int, key: Array, inputs: dict[str, Array], run: ExperimentRun
    ) -> tuple[Params, Trace]:
        """Returns a plain autoencoder, and its errors at some epochs of its training."""
        slope, trace, named = SLOPES[variant.kind], {}, tag(variant, seed)

        def checkpoints(epoch: int) -> jaxae.Checkpoints:
            return run.checkpoints(
                [f"{named.checkpoint}_until-{epoch}"], self._models[variant.kind]
            )

        trained = self._plain.at_epochs(
            self._kept_epochs,
            key,
            self._x,
            slope,
            0.0,
            0.0,
            on_epoch=partial(named.log, run),
            checkpoints=checkpoints,
        )
        for epoch, params in trained:
            trace[epoch] = self._errors(params, slope, inputs)
        return params, trace

    def train(
        self, strengths: Mapping[Variant, Strengths], sweep: Sweep[Variant]
    ) -> dict[Variant, list[Params]]:
        """Returns the parameters of regularised autoencoders, one for each seed."""
        plain, contractive = {}, {}
        for variant, strength in strengths.items():
            slope = SLOPES[variant.kind]
            if strength.contraction:
                contractive[variant] = slope, strength.contraction
            else:
                plain[variant] = slope, strength.noise, strength.sparsity
        models = {variant: self._models[variant.kind] for variant in strengths}
        trained = sweep.fit(self._plain, self._x, plain, models=models)
        return trained | sweep.fit(self._contractive, self._x, contractive, models=models)

    def measures(self, variant: Variant, params: Params, probes: Probes) -> Metrics:
        """Returns all that is measured of a trained network, and its pictures."""
        return self._measures(params, SLOPES[variant.kind], probes)

    def _parts(self, params: Params, slope: Array) -> tuple[Function, Function]:
        """Returns encoder and reconstruction."""
        encode, decode = self._plain.bound(params)
        code = activated(encode, slope)
        return code, lambda x_i: decode(code(x_i))

    def _errors_of(
        self, params: Params, slope: Array, inputs: dict[str, Array]
    ) -> dict[str, Array]:
        """Returns the relative error on every kind of input."""
        with jax.default_matmul_precision("highest"):
            _, reconstruct = self._parts(params, slope)
            return {name: relative_error(reconstruct, x) for name, x in inputs.items()}

    def _measures_of(self, params: Params, slope: Array, probes: Probes) -> Metrics:
        """Returns all that is measured of a trained network, and its pictures."""
        test = probes.inputs[INPUTS[0]]
        with jax.default_matmul_precision("highest"):
            encode, reconstruct = self._parts(params, slope)
            code = jax.vmap(encode)(test)
            return {
                "relative_error": self._errors_of(params, slope, probes.inputs),
                **noise_ratios(reconstruct, test, probes.noise),
                "error_beyond_span": relative_error(reconstruct, probes.beyond),
                "active_share": jnp.mean(jaxae.active_units(code)) / code.shape[1],
                "gains": gains(reconstruct, test[:100], self._axes),
                "pictures": jax.vmap(reconstruct)(probes.shown),
            }


class Results(NamedTuple):
    """What one architecture gave: numbers, and reconstructions for the figure."""

    methods: dict[str, Metrics]
    training: list[Metrics]
    pictures: dict[str, Array]


class Trained(NamedTuple):
    """All networks, and what they were trained on and measured with.

    Attributes:
      images: the data.
      keys: of every seed.
      probes: what every seed is measured with.
      exact_gains: of the best linear autoencoders, in closed form.
      results: of the linear and of the relu code.
      params: of every network, with the first seed.
    """

    images: Images
    keys: Sequence[Keys]
    probes: Sequence[Probes]
    exact_gains: Gains
    results: dict[str, Results]
    params: dict[Variant, Params]


def train_all(
    images: Images,
    config: CommonConfig,
    sizes: dict[str, int],
    strengths: dict[str, Strengths],
    num_seeds: int,
    run: ExperimentRun,
) -> Trained:
    """Trains both architectures for every method and seed, and measures them."""
    keys = make_keys(config.seed, num_seeds)
    probes = [make_probes(images, seed_keys, strengths["DAE"].noise) for seed_keys in keys]
    trainer = VariantTrainer(images, config, sizes)
    measured: dict[Variant, list[Metrics]] = {}
    first: dict[Variant, Params] = {}  # parameters with the first seed
    regularised = {}
    for variant in (Variant(kind, method) for kind in SLOPES for method in strengths):
        if any(strengths[variant.method]):
            regularised[variant] = strengths[variant.method]
            continue
        measured[variant] = []
        for seed, (seed_keys, seed_probes) in enumerate(zip(keys, probes, strict=True)):
            params, trace = trainer.trace(variant, seed, seed_keys.train, seed_probes.inputs, run)
            first.setdefault(variant, params)
            numbers = trainer.measures(variant, params, seed_probes)
            measured[variant].append({**numbers, "trace": trace})
    sweep = Sweep(run, range(len(keys)), lambda seed: keys[seed].train, tag)
    for variant, trained in trainer.train(regularised, sweep).items():
        first[variant] = trained[0]
        measured[variant] = [
            {**trainer.measures(variant, params, seed_probes), "trace": {}}
            for params, seed_probes in zip(trained, probes, strict=True)
        ]
    results = {}
    for kind in SLOPES:
        found = {method: measured[Variant(kind, method)] for method in strengths}
        results[kind] = _results(kind, found)
        for method, row in results[kind].methods.items():
            left, error = row["noise_left"]["mean"], row["relative_error"]["white noise"]["mean"]
            run.say(f"{kind:6s} {method:6s} error on noise {error:.5f}, noise left {left:.3f}")
    exact = exact_gains(images.variances, strengths)
    return Trained(images, keys, probes, exact, results, first)


def _results(kind: str, found: dict[str, list[Metrics]]) -> Results:
    """Returns numbers over the seeds, and the pictures of the first one."""
    traces = [measured["trace"] for measured in found["AE"]]
    training = [
        {"epoch": epoch, **over_inputs([trace[epoch] for trace in traces])} for epoch in traces[0]
    ]
    pictures = {f"{kind} {method}": per_seed[0]["pictures"] for method, per_seed in found.items()}
    methods = {method: _summary(per_seed) for method, per_seed in found.items()}
    return Results(methods, training, pictures)


def over_inputs(per_seed: list[Metrics]) -> Metrics:
    """Returns the relative error on each kind of input over the seeds."""
    unit = "squared error over squared distance from the training mean"
    rows = [{name: errors[name] for name in INPUTS} for errors in per_seed]
    return rows_over_seeds(rows, dict.fromkeys(INPUTS, unit))


def _summary(per_seed: list[Metrics]) -> Metrics:
    """Returns the numbers of one network over the seeds."""
    rows = [{name: measured[name] for name in UNITS} for measured in per_seed]
    errors = over_inputs([measured["relative_error"] for measured in per_seed])
    return {"relative_error": errors, **rows_over_seeds(rows, UNITS)}


def by_name(found: Metrics) -> dict[str, Metrics]:
    """Returns the numbers of all networks as rows of a figure."""
    return {
        f"{kind} {method}": row
        for kind, rows in found["networks"].items()
        for method, row in rows.items()
    }
