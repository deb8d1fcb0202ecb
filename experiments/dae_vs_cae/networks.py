"""The networks that are compared: one architecture, trained three ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array

import jaxae
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.sweep import Sweep, Tag

CODE_DIM = 64
WEIGHTS = (0.05, 0.15, 0.5, 1.5)  # lambda of the CAE
WEIGHT = 0.15  # where there is only one


@dataclass(frozen=True)
class Trained:
    """The same network trained without a regulariser, as DAE, and as CAE of each weight.

    Attributes:
      functions: of all of them.
      ae: parameters of the plain autoencoder, one for each seed.
      dae: of the denoising autoencoder.
      cae: of the contractive autoencoder, by its weight.
      test: images ``(n, d)`` on which they are measured.
      batch: the training images of what is measured on a full batch.
      noise: standard deviation of the DAE's noise.
      seed: of the run.
      race_seeds: number of repetitions of the races between optimisers.
    """

    functions: jaxae.AutoencoderFunctions
    ae: list[Params]
    dae: list[Params]
    cae: dict[float, list[Params]]
    test: Array
    batch: Array
    noise: float
    seed: int
    race_seeds: int

    def noise_keys(self) -> tuple[Array, Array]:
        """Returns the keys of the noise of the gradients, and of that of the expansions."""
        gradient_key, expansion_key = jax.random.split(jax.random.key(self.seed))
        return gradient_key, expansion_key

    def bound(self, params: Params) -> tuple[Function, Function]:
        """Returns encoder and decoder with these parameters."""
        return partial(self.functions.encode, params), partial(self.functions.decode, params)

    def reconstruct(self, params: Params, x_i: Array) -> Array:
        """Returns dec(enc(x_i)) with these parameters."""
        encode, decode = self.bound(params)
        return decode(encode(x_i))

    def by_name(self) -> dict[str, list[Params]]:
        """Returns the parameters of the three that are compared."""
        return {"AE": self.ae, "DAE": self.dae, "CAE": self.cae[WEIGHT]}

    def dae_loss(self, params: Params, key: Array, x: Array) -> Array:
        """Returns the mean denoising loss with one corruption of each example."""
        noise = corrupt(self.noise)
        return jaxae.denoising_loss(key, *self.bound(params), x, corrupt=noise).mean()

    def cae_loss(self, params: Params, x: Array) -> Array:
        """Returns the mean contractive loss with the weight that stands for all."""
        return jaxae.contractive_loss(*self.bound(params), x, weight=WEIGHT).mean()

    def starts(self) -> list[tuple[Params, Array]]:
        """Returns fresh parameters and a noise key for each race."""
        seeds = range(self.race_seeds)
        keys = [jax.random.fold_in(jax.random.key(self.seed), number) for number in seeds]
        pairs = [jax.random.split(key) for key in keys]
        return [(self.functions.init(init_key), noise_key) for init_key, noise_key in pairs]


def model(d: int) -> jaxae.DenseAutoencoder:
    """Returns the network that all share."""
    return jaxae.DenseAutoencoder((d,), CODE_DIM, tied=True, code_activation=nn.sigmoid)


def corrupt(level: float | Array) -> Callable[[Array, Array], Array]:
    """Returns the DAE's noise at some level."""
    return partial(jaxae.gaussian_noise, stddev=level)


def dae_loss(key: Array, encode: Function, decode: Function, x: Array, level: Array) -> Array:
    """Returns the denoising loss at a noise level; at level 0 it is that of the plain one."""
    return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt(level))


def cae_loss(key: Array, encode: Function, decode: Function, x: Array, weight: Array) -> Array:
    """Returns the contractive loss with a weight."""
    return jaxae.contractive_loss(encode, decode, x, weight=weight)


def train(
    config: CommonConfig,
    sizes: Mapping[str, int],
    data: tuple[Array, Array],
    run: ExperimentRun,
    *,
    noise: float,
    full_batch: int,
    race_seeds: int,
) -> Trained:
    """Returns all networks, trained on the first of ``data``, to be measured on the second."""
    x, test = data
    weights = {f"CAE {weight:g}": weight for weight in WEIGHTS}
    strengths = {"AE": 0.0, "DAE": noise, **weights}

    def tag(label: str, seed: int) -> Tag:
        entry = {"network": label.split()[0], "setting": strengths[label], "seed": seed}
        return Tag(f"{label}_seed-{seed}", f"{label}, seed {seed}", entry)

    network = model(x.shape[1])
    make_trainer = partial(
        fitting.AutoencoderTrainer,
        network,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        epochs=sizes["epochs"],
        devices=config.devices,
    )
    key = partial(jax.random.fold_in, jax.random.key(config.seed))
    sweep = Sweep(run, range(sizes["num_seeds"]), key, tag)
    found = sweep.fit(make_trainer(dae_loss), x, {"AE": (0.0,), "DAE": (noise,)})
    values = {label: (weight,) for label, weight in weights.items()}
    found |= sweep.fit(make_trainer(cae_loss), x, values)
    cae = {weight: found[label] for label, weight in weights.items()}
    return Trained(
        jaxae.as_functions(network),
        found["AE"],
        found["DAE"],
        cae,
        test,
        x[:full_batch],
        noise,
        config.seed,
        race_seeds,
    )
