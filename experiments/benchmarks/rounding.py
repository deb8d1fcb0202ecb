"""What bfloat16 products cost in accuracy: the lecture's denoising autoencoder, trained both ways.

    python -m experiments.benchmarks.rounding --dataset mnist

The five products of a step with factors rounded to bfloat16 and sums in float32, which is what
``--products bfloat16`` asks of an accelerator; here the rounding is written out, so it is the same
on every device. Everything else is the same, seeds and noise included; the test error is computed
in float32. About two minutes on two cores. Expected: a difference within the spread over the seeds,
the table of docs/speed.md, from the ``metrics.json`` kept as ``results/rounding-<dataset>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.rounding"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.benchmarks.task import NOISE
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run import command_line, experiment
from experiments.common.training import fitting
from experiments.common.training.arrays import Params

_Function: TypeAlias = Callable[[Array], Array]
_Product: TypeAlias = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the benchmark; 10 epochs unless told, on digits 200."""

    code_dim: int = 64
    """Code dimension."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=1, high=2**16)


BFLOAT16 = (8, 7)  # bits of the exponent, and of the mantissa that are stored


@jax.custom_vjp
def rounded_product(a: Array, b: Array) -> Array:
    """Returns a @ b, a vector and a matrix rounded to bfloat16, summed in float32."""
    return _product("i,ij->j", a, b)


def _product(indices: str, a: Array, b: Array) -> Array:
    # Not a.astype(bfloat16): then XLA rounds the terms of some sums too, and may leave out the
    # rounding of others. A product of two numbers of 8 bits is exact in float32.
    a, b = (jax.lax.reduce_precision(factor, *BFLOAT16) for factor in (a, b))
    return jnp.einsum(indices, a, b, precision="highest")


def _forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return rounded_product(a, b), (a, b)


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    a, b = kept
    return _product("j,ij->i", g, b), _product("i,j->ij", a, g)


rounded_product.defvjp(_forward, _backward)


def train(
    product: _Product,
    config: Config,
    sizes: dict[str, int],
    data: tuple[Array, Array],
    run: experiment.ExperimentRun,
) -> list[float]:
    """Returns the test error of every seed."""
    x, test = data
    corrupt = partial(jaxae.uniform_noise, scale=NOISE, low=0.0, high=1.0)
    model = jaxae.DenseAutoencoder(x.shape[1:], config.code_dim)
    init = jaxae.as_functions(model).init

    def parts(params: Params, product: _Product) -> tuple[_Function, _Function]:
        def affine(part: str, v: Array) -> Array:
            return product(v, params[f"{part}_kernel_0"]) + params[f"{part}_bias_0"]

        def decode(code: Array) -> Array:
            return jax.nn.sigmoid(affine("decoder", code))

        return partial(affine, "encoder"), decode

    def loss(params: Params, key: Array, x: Array) -> Array:
        return jaxae.denoising_loss(key, *parts(params, product), x, corrupt=corrupt)

    optimizer = optax.adam(config.learning_rate)
    program = jaxae.make_run(loss, optimizer, batch_size=config.batch_size)
    keys = jax.random.split(jax.random.key(config.seed), (sizes["num_seeds"], 3))
    states = jax.vmap(lambda key: jaxae.create_train_state(init(key), optimizer))(keys[:, 0])

    def on_epoch(seed: int, epoch: int, value: float) -> None:
        run.log(f"seed {seed}", epoch=epoch, train_loss=value)

    trained = jaxae.fit_many(
        program,
        states,
        jaxae.hash_key(keys[:, 1]),
        x,
        epochs=sizes["epochs"],
        on_epoch=on_epoch,
    )

    def reconstruct(params: Params, x_i: Array) -> Array:
        encode, decode = parts(params, jnp.dot)
        return decode(encode(x_i))

    scores = fitting.make_scores(reconstruct)
    found = []
    for params, key in zip(fitting.unstacked(trained.params, len(keys)), keys[:, 2], strict=True):
        noisy = jaxae.corrupt_batch(key, corrupt, test)
        found.append(float(scores(params, noisy, test)["mse"]))
    return found


def main(config: Config) -> Metrics:
    """Runs the benchmark and returns what the result file holds."""
    dataset = experiment.load(config)
    sizes = experiment.defaults(config, digits=200, others=10)
    train_and_test = dataset.flat()
    data = jnp.asarray(train_and_test[0]), jnp.asarray(train_and_test[1])
    total = 2 * sizes["epochs"] * sizes["num_seeds"]
    with experiment.ExperimentRun("benchmarks.rounding", config, dataset, total=total) as run:
        errors = {
            name: train(product, config, sizes, data, run)
            for name, product in (("float32", jnp.dot), ("bfloat16", rounded_product))
        }
        ratio = np.asarray(errors["bfloat16"]) / np.asarray(errors["float32"])
        unit = fitting.UNITS["mse"]
        rows = {name: over_seeds(values, unit) for name, values in errors.items()}
        rows["ratio"] = over_seeds(ratio.tolist(), "bfloat16 over float32, same seed")
        run.say(", ".join(f"{name} {row['mean']:.6f}" for name, row in rows.items()))
        return run.finish(sizes, test_mse=rows)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
