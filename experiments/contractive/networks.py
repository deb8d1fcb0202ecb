"""The networks that are measured: one architecture, trained plainly, as DAE and as CAE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

import jaxae
from experiments.common.data import datasets
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.losses import contractive, denoising
from experiments.common.training.sweep import Sweep, Tag
from experiments.contractive import probes, residual_networks
from experiments.contractive.jacobians import Decomposition, make_decompose
from experiments.contractive.probes import Probes

METHODS = ("AE", "DAE", "CAE")
UNITS = {
    "test_nll": "nats per example",
    "test_mse": "squared pixel value, mean over pixels and examples",
    "jacobian_norm": "squared Frobenius norm of d code / d pixel, mean over examples",
    "saturated_share": "share of units below 0.05 or above 0.95, mean over examples",
    "encoder_norm": "Frobenius norm of the encoder's weights",
    "decoder_norm": "Frobenius norm of the decoder's weights",
}


class Settings(NamedTuple):
    """What is trained beside the options that every experiment has."""

    code_dim: int
    noise: float  # standard deviation of the DAE's noise
    weights: tuple[float, ...]  # lambda of the CAEs
    weight: float  # lambda of the CAE beside AE and DAE
    has_residual: bool  # whether deep residual networks are trained too


class Replicates(NamedTuple):
    """One network, trained with every seed: its parameters, and the scores that all get."""

    params: list[Params]
    scores: Metrics


@dataclass(frozen=True)
class Trained:
    """All trained networks, and what they are measured with.

    Attributes:
      dataset: the images.
      seed: of the run, see ``seed_keys``.
      probes: examples, directions and distances.
      functions: of the methods, whose weights are tied.
      sweep: CAEs with "tied" and "untied" weights, by lambda.
      methods: AE, DAE and CAE.
      residual: deep networks, or None without ``--residual``.
    """

    dataset: datasets.Dataset
    seed: int
    probes: Probes
    functions: jaxae.AutoencoderFunctions
    sweep: dict[str, dict[float, Replicates]]
    methods: dict[str, Replicates]
    residual: residual_networks.ResidualNetworks | None

    def encoder(self, params: Params) -> Function:
        """Returns the encoder with these parameters."""
        return partial(self.functions.encode, params)

    @cached_property
    def jacobians(self) -> dict[str, list[Decomposition]]:
        """The Jacobians of each method at ``probes.sample``, one for each seed."""
        decompose = make_decompose(self.encoder)
        return {
            method: [decompose(params, self.probes.sample) for params in own.params]
            for method, own in self.methods.items()
        }


def model(inputs: int, code_dim: int, *, tied: bool) -> jaxae.DenseAutoencoder:
    """Returns the network that all share, or its twin with untied weights."""
    return jaxae.DenseAutoencoder((inputs,), code_dim, code_activation=nn.sigmoid, tied=tied)


def seed_keys(seed: int, number: int) -> tuple[Array, Array]:
    """Returns the keys of training and of the contraction curve, the same for all networks.

    Args:
      seed: of the run.
      number: of the repetition.
    """
    train_key, curve_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 2)
    return train_key, curve_key


def over_examples(encode: Function, decode: Function, x: Array) -> dict[str, Array]:
    """Returns the means over examples that every network gets."""

    def score_example(x_i: Array) -> dict[str, Array]:
        code = encode(x_i)
        logits = decode(code)
        return {
            "test_nll": jaxae.bernoulli_nll(logits, x_i),
            "test_mse": jaxae.mean_squared_error(nn.sigmoid(logits), x_i),
            "jacobian_norm": jaxae.contractive_penalty(encode, x_i),
            "saturated_share": jaxae.saturated_share(code),
        }

    return jaxae.evaluate(score_example, x, batch_size=100)


def make_scores(trainer: fitting.AutoencoderTrainer) -> Callable[[Params, Array], dict[str, Array]]:
    """Returns the compiled ``scores(params, x)`` of the networks of one trainer."""

    @jax.jit
    def scores(params: Params, x: Array) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):
            means = over_examples(*trainer.bound(params), x)
        encoder = params["encoder_kernel_0"]
        decoder = params.get("decoder_kernel_0", encoder)
        norms = {"encoder_norm": encoder, "decoder_norm": decoder}
        return means | {name: jnp.linalg.norm(kernel) for name, kernel in norms.items()}

    return scores


def report(run: ExperimentRun, name: str, row: Metrics) -> None:
    """Prints the main numbers of one network."""
    mse, norm = row["test_mse"]["mean"], row["jacobian_norm"]["mean"]
    saturated = row["saturated_share"]["mean"]
    run.say(f"{name:20s} test MSE {mse:.5f}  Jacobian {norm:7.2f}  saturated {saturated:.2f}")


class Fitter:
    """Trains and scores the networks of a kind together; the AE is the DAE without noise."""

    def __init__(
        self,
        config: CommonConfig,
        sizes: Mapping[str, int],
        code_dim: int,
        data: tuple[Array, Array],
        run: ExperimentRun,
    ) -> None:
        self._config, self._run, self._seeds = config, run, range(sizes["num_seeds"])
        self._train, self._test = data

        def trainer(loss: Callable[..., Array], tied: bool) -> fitting.AutoencoderTrainer:
            return fitting.AutoencoderTrainer(
                model(self._train.shape[1], code_dim, tied=tied),
                loss,
                learning_rate=config.learning_rate,
                batch_size=config.batch_size,
                epochs=sizes["epochs"],
                devices=config.devices,
            )

        self._trainers = {
            "denoising": trainer(denoising, tied=True),
            "tied": trainer(contractive, tied=True),
            "untied": trainer(contractive, tied=False),
        }
        scores = {kind: make_scores(self._trainers[kind]) for kind in ("tied", "untied")}
        self._scores = scores | {"denoising": scores["tied"]}

    def fit(self, kind: str, settings: Sequence[float]) -> list[Replicates]:
        """Returns the network of each setting, trained once for each seed."""

        def tag(setting: float, seed: int) -> Tag:
            return Tag(
                f"{kind}_{setting:g}_seed-{seed}",
                f"{kind} {setting:g}, seed {seed}",
                {"model": kind, "setting": setting, "seed": seed},
            )

        def key(seed: int) -> Array:
            return seed_keys(self._config.seed, seed)[0]

        sweep = Sweep(self._run, self._seeds, key, tag)
        values = {setting: (setting,) for setting in settings}
        trained = sweep.fit(self._trainers[kind], self._train, values)
        found = []
        for setting in settings:
            rows = [self._scores[kind](params, self._test) for params in trained[setting]]
            found.append(Replicates(trained[setting], rows_over_seeds(rows, UNITS)))
        return found


def train(
    config: CommonConfig,
    settings: Settings,
    sizes: Mapping[str, int],
    dataset: datasets.Dataset,
    run: ExperimentRun,
) -> Trained:
    """Returns all networks, trained and scored."""
    train, test = map(jnp.asarray, dataset.flat())
    fitter = Fitter(config, sizes, settings.code_dim, (train, test), run)
    sweep = {
        kind: dict(zip(settings.weights, fitter.fit(kind, settings.weights), strict=True))
        for kind in ("tied", "untied")
    }
    for kind, path in sweep.items():
        for weight, network in path.items():
            report(run, f"{kind:7s} lambda {weight:g}", network.scores)
    plain, noisy = fitter.fit("denoising", (0.0, settings.noise))
    methods = {"AE": plain, "DAE": noisy, "CAE": sweep["tied"][settings.weight]}
    for method, network in methods.items():
        report(run, method, network.scores)
    residual = None
    if settings.has_residual:
        weights = residual_networks.swept_weights(settings.weights, settings.weight)
        residual = residual_networks.train(config, sizes, weights, settings.code_dim, train, run)
    functions = jaxae.as_functions(model(train.shape[1], settings.code_dim, tied=True))
    probe = probes.make(dataset)
    return Trained(dataset, config.seed, probe, functions, sweep, methods, residual)
