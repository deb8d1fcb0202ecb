"""The networks that are compared: one architecture, trained three ways."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array

import jaxae
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import Run
from experiments.common.training import fitting
from experiments.common.training.sweep import Sweep, Tag

CODE_DIM = 64
WEIGHTS = (0.05, 0.15, 0.5, 1.5)  # lambda of the CAE
WEIGHT = 0.15  # where there is only one


class Networks(NamedTuple):
    """The same network trained without a regulariser, as DAE, and as CAE of each weight."""

    functions: jaxae.AutoencoderFunctions
    ae: list[Any]  # parameters, one per seed
    dae: list[Any]
    cae: dict[float, list[Any]]

    def bound(self, params: Any) -> tuple[Any, Any]:
        """Returns encoder and decoder with these parameters."""
        return partial(self.functions.encode, params), partial(self.functions.decode, params)

    def reconstruction(self, params: Any) -> Callable[[Array], Array]:
        """Returns dec(enc(x)) with these parameters."""
        encode, decode = self.bound(params)
        return lambda x_i: decode(encode(x_i))

    def by_name(self) -> dict[str, list[Any]]:
        """Returns the parameters of the three that are compared."""
        return {"AE": self.ae, "DAE": self.dae, "CAE": self.cae[WEIGHT]}

    def dae_loss(self, noise: Any) -> Callable[[Any, Array, Array], Array]:
        """Returns ``loss(params, key, x)``: the mean denoising loss with one corruption each."""

        def loss(params: Any, key: Array, x: Array) -> Array:
            return jaxae.denoising_loss(key, *self.bound(params), x, corrupt=corrupt(noise)).mean()

        return loss

    def cae_loss(self, params: Any, x: Array) -> Array:
        """Returns the mean contractive loss with the weight that stands for all."""
        return jaxae.contractive_loss(*self.bound(params), x, weight=WEIGHT).mean()

    def starts(self, seed: int, count: int) -> list[tuple[Any, Array]]:
        """Returns fresh parameters and a noise key for each of some runs."""
        keys = [jax.random.fold_in(jax.random.key(seed), number) for number in range(count)]
        pairs = [jax.random.split(key) for key in keys]
        return [(self.functions.init(init_key), noise_key) for init_key, noise_key in pairs]


def model(d: int) -> jaxae.DenseAutoencoder:
    """Returns the network that all share."""
    return jaxae.DenseAutoencoder((d,), CODE_DIM, tied=True, code_activation=nn.sigmoid)


def corrupt(level: Any) -> Callable[[Array, Array], Array]:
    """Returns the DAE's noise at some level."""
    return partial(jaxae.gaussian_noise, stddev=level)


def train(
    config: CommonConfig, noise: float, sizes: dict[str, int], x: Array, run: Run
) -> Networks:
    """Returns all networks, one per seed."""

    def dae_loss(key: Array, encode: Any, decode: Any, x: Array, level: Array) -> Array:
        return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt(level))

    def cae_loss(key: Array, encode: Any, decode: Any, x: Array, weight: Array) -> Array:
        return jaxae.contractive_loss(encode, decode, x, weight=weight)

    weights = {f"CAE {weight:g}": weight for weight in WEIGHTS}
    strengths = {"AE": 0.0, "DAE": noise, **weights}

    def tag(label: str, seed: int) -> Tag:
        entry = {"network": label.split()[0], "setting": strengths[label], "seed": seed}
        return Tag(f"{label}_seed-{seed}", f"{label}, seed {seed}", entry)

    options: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "epochs": sizes["epochs"],
        "devices": config.devices,
    }
    network = model(x.shape[1])
    denoising = fitting.AutoencoderTrainer(network, dae_loss, **options)
    contractive = fitting.AutoencoderTrainer(network, cae_loss, **options)
    key = partial(jax.random.fold_in, jax.random.key(config.seed))
    sweep = Sweep(run, range(sizes["num_seeds"]), key, tag)
    found = sweep.fit(denoising, x, {"AE": (0.0,), "DAE": (noise,)})
    found |= sweep.fit(contractive, x, {label: (weight,) for label, weight in weights.items()})
    cae = {weight: found[label] for label, weight in weights.items()}
    return Networks(jaxae.as_functions(network), found["AE"], found["DAE"], cae)
