"""What bfloat16 products cost in accuracy: the lecture's denoising autoencoder, trained both ways.

    python -m experiments.benchmarks.rounding --dataset mnist

The five products of a step with factors rounded to bfloat16 and sums in float32, which is what
``--products bfloat16`` asks of an accelerator; here :mod:`experiments.benchmarks.rounded_products`
writes the rounding out, on a CPU. Everything else is the same, seeds and noise included; the test
error is computed in float32. About two minutes on two cores. Expected: a difference within the
spread over the seeds, the table of docs/speed.md, from the ``metrics.json`` kept as
``results/rounding-<dataset>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.rounding"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.benchmarks.rounded_products import rounded_products
from experiments.benchmarks.task import NOISE
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run import command_line, experiment
from experiments.common.training import fitting
from experiments.common.training.arrays import Params


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the benchmark; 10 epochs unless told, on digits 200."""

    code_dim: int = 64
    """Code dimension."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=1, high=2**16)


def train(
    kind: str,
    config: Config,
    sizes: dict[str, int],
    data: tuple[Array, Array],
    run: experiment.ExperimentRun,
) -> list[float]:
    """Returns the test error of every seed, of networks trained with products of one kind."""
    x, test = data
    corrupt = partial(jaxae.uniform_noise, scale=NOISE, low=0.0, high=1.0)
    model = jaxae.DenseAutoencoder(x.shape[1:], config.code_dim, output_activation=jax.nn.sigmoid)
    init, encode, decode = jaxae.as_functions(model)

    def loss(params: Params, key: Array, x: Array) -> Array:
        functions = partial(encode, params), partial(decode, params)
        return jaxae.denoising_loss(key, *functions, x, corrupt=corrupt)

    optimizer = optax.adam(config.learning_rate)
    program = jaxae.make_run(loss, optimizer, batch_size=config.batch_size)
    keys = jax.random.split(jax.random.key(config.seed), (sizes["num_seeds"], 3))
    states = jax.vmap(lambda key: jaxae.create_train_state(init(key), optimizer))(keys[:, 0])
    train_keys = jaxae.hash_key(keys[:, 1])

    def on_epoch(seed: int, epoch: int, value: float) -> None:
        run.log(f"seed {seed}", epoch=epoch, train_loss=value)

    with rounded_products(kind):
        trained = jaxae.fit_many(
            program, states, train_keys, x, epochs=sizes["epochs"], on_epoch=on_epoch
        )
    scores = fitting.make_scores(lambda params, x_i: decode(params, encode(params, x_i)))
    found = []
    for params, key in zip(fitting.unstacked(trained.params, len(keys)), keys[:, 2], strict=True):
        noisy = jaxae.corrupt_batch(key, corrupt, test)
        found.append(float(scores(params, noisy, test)["mse"]))
    return found


def main(config: Config) -> Metrics:
    """Runs the benchmark and returns what the result file holds."""
    if jax.default_backend() != "cpu":
        raise InputError("this benchmark rounds on a CPU: set JAX_PLATFORMS=cpu")
    dataset = experiment.load(config)
    sizes = experiment.defaults(config, digits=200, others=10)
    train_and_test = dataset.flat()
    data = jnp.asarray(train_and_test[0]), jnp.asarray(train_and_test[1])
    total = 2 * sizes["epochs"] * sizes["num_seeds"]
    with experiment.ExperimentRun("benchmarks.rounding", config, dataset, total=total) as run:
        errors = {kind: train(kind, config, sizes, data, run) for kind in ("float32", "bfloat16")}
        ratio = np.asarray(errors["bfloat16"]) / np.asarray(errors["float32"])
        unit = fitting.UNITS["mse"]
        rows = {name: over_seeds(values, unit) for name, values in errors.items()}
        rows["ratio"] = over_seeds(ratio.tolist(), "bfloat16 over float32, same seed")
        run.say(", ".join(f"{name} {row['mean']:.6f}" for name, row in rows.items()))
        return run.finish(sizes, test_mse=rows)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
