"""A deep autoencoder with residual blocks in the encoder, trained with the contractive penalty.

It contains the shallow network: with residual blocks that return zero, encoder and decoder are one
layer with tied weights, ``V W``. The blocks start that way, so training decides what they add.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import jaxae
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.results.trained import Network, makes_network
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function, Params
from experiments.common.training.fitting import Trainer
from experiments.common.training.losses import contractive
from experiments.common.training.sweep import Sweep, Tag

BLOCKS = 2
MAX_WIDTH = 128
UNITS = {
    "test_nll": "nats per example",
    "test_mse": "squared pixel value, mean over pixels and examples",
    "jacobian_norm": "squared Frobenius norm of d code / d pixel, mean over examples",
    "code_variance": "variance of the code over the examples, summed over its units",
}


class ResidualAutoencoder(nn.Module):
    """Encodes with ``sigmoid(V g(W x + b) + c)``, decodes with ``W^T V^T z + d``.

    ``g`` is a stack of residual blocks with layer normalisation.

    Attributes:
      inputs: features of an example.
      width: units of the residual blocks.
      blocks: how many blocks there are.
      code_dim: units of the code.
    """

    inputs: int
    width: int
    blocks: int
    code_dim: int

    def setup(self) -> None:
        """Creates the layers."""
        kernel_init = nn.initializers.lecun_normal()
        self.first = self.param("first", kernel_init, (self.inputs, self.width))
        self.last = self.param("last", kernel_init, (self.width, self.code_dim))
        self.first_bias = self.param("first_bias", nn.initializers.zeros, (self.width,))
        self.code_bias = self.param("code_bias", nn.initializers.zeros, (self.code_dim,))
        self.pixel_bias = self.param("pixel_bias", nn.initializers.zeros, (self.inputs,))
        self.norms = [nn.LayerNorm() for _ in range(self.blocks)]
        self.hidden = [nn.Dense(self.width) for _ in range(self.blocks)]
        self.added = [
            nn.Dense(self.width, kernel_init=nn.initializers.zeros) for _ in range(self.blocks)
        ]

    def encode(self, x_i: Array) -> Array:
        """Returns the code of one example."""
        h = x_i @ self.first + self.first_bias
        for norm, hidden, added in zip(self.norms, self.hidden, self.added, strict=True):
            h = h + added(nn.gelu(hidden(norm(h))))
        return nn.sigmoid(h @ self.last + self.code_bias)

    def decode(self, code: Array) -> Array:
        """Returns the logits of the pixels."""
        return (code @ self.last.T) @ self.first.T + self.pixel_bias

    def __call__(self, x_i: Array) -> Array:
        """Returns the logits of the reconstruction."""
        return self.decode(self.encode(x_i))


@makes_network
def residual_autoencoder(
    inputs: int, width: int, blocks: int, code_dim: int
) -> jaxae.AutoencoderFunctions:
    """Returns the functions of a residual autoencoder."""
    model = ResidualAutoencoder(inputs, width, blocks, code_dim)

    def init(key: Array) -> Params:
        return model.init(key, jnp.zeros(inputs))["params"]

    def encode(params: Params, x_i: Array) -> Array:
        return jnp.asarray(model.apply({"params": params}, x_i, method="encode"))

    def decode(params: Params, code: Array) -> Array:
        return jnp.asarray(model.apply({"params": params}, code, method="decode"))

    return jaxae.AutoencoderFunctions(init, encode, decode)


class ResidualNetworks(NamedTuple):
    """Trained residual autoencoders.

    Attributes:
      functions: of all of them.
      params: of each seed, by lambda; lambda 0 is the autoencoder without a penalty.
    """

    functions: jaxae.AutoencoderFunctions
    params: dict[float, list[Params]]


def swept_weights(weights: tuple[float, ...], weight: float) -> tuple[float, ...]:
    """Returns the lambdas of the deep networks: 0, the least, the chosen and the largest one."""
    return tuple(sorted({0.0, weights[0], weight, weights[-1]}))


def train(
    config: CommonConfig,
    sizes: Mapping[str, int],
    weights: tuple[float, ...],
    code_dim: int,
    x: Array,
    run: ExperimentRun,
) -> ResidualNetworks:
    """Returns the residual autoencoders, trained with each lambda and each seed.

    Args:
      config: step size, batch size and devices.
      sizes: epochs and seeds.
      weights: values of lambda.
      code_dim: units of the code.
      x: training images ``(n, d)``.
      run: takes the log and the checkpoints.
    """
    inputs = x.shape[1]
    arguments = {
        "inputs": inputs,
        "width": min(inputs, MAX_WIDTH),
        "blocks": BLOCKS,
        "code_dim": code_dim,
    }
    functions = residual_autoencoder(**arguments)

    def loss(params: Params, key: Array, x: Array, weight: Array) -> Array:
        encode, decode = (partial(f, params) for f in (functions.encode, functions.decode))

        def plain(x: Array, weight: Array) -> Array:
            return jaxae.reconstruction_loss(encode, decode, x, reconstruction=jaxae.bernoulli_nll)

        # The penalty takes nearly all of the time, and without a weight it changes nothing.
        with_penalty = partial(contractive, key, encode, decode)
        return jax.lax.cond(weight > 0, with_penalty, plain, x, weight)

    trainer = Trainer(
        functions.init,
        loss,
        optax.adam(config.learning_rate),
        batch_size=config.batch_size,
        epochs=sizes["epochs"],
        devices=config.devices,
    )
    trainer.epochs_if_extendable = sizes["epochs"]  # the step size is constant

    def tag(weight: float, seed: int) -> Tag:
        name = f"residual_{weight:g}_seed-{seed}"
        entry = {"model": "residual", "setting": weight, "seed": seed}
        return Tag(name, f"residual {weight:g}, seed {seed}", entry)

    def key(seed: int) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), seed), 1)

    network = Network(residual_autoencoder, arguments, (inputs,))
    found = Sweep(run, range(sizes["num_seeds"]), key, tag).fit(
        trainer,
        x,
        {weight: (weight,) for weight in weights},
        models=dict.fromkeys(weights, network),
    )
    return ResidualNetworks(functions, found)


def score(functions: jaxae.AutoencoderFunctions, params: list[Params], x: Array) -> Metrics:
    """Returns the scores of one network over its seeds."""

    @jax.jit
    def score_one(params: Params, x: Array) -> dict[str, Array]:
        encode: Function = partial(functions.encode, params)
        logits = jax.vmap(lambda x_i: functions.decode(params, encode(x_i)))(x)
        codes = jax.vmap(encode)(x)
        return {
            "test_nll": jnp.mean(jaxae.bernoulli_nll(logits, x)),
            "test_mse": jnp.mean(jaxae.mean_squared_error(nn.sigmoid(logits), x)),
            "jacobian_norm": jnp.mean(jaxae.contractive_penalty(encode, x)),
            "code_variance": jnp.sum(jnp.var(codes, axis=0)),
        }

    return rows_over_seeds([score_one(seed_params, x) for seed_params in params], UNITS)
