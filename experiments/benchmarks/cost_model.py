"""The constants of the cost model in ``jaxae/contraction/``, measured on this device.

    python -m experiments.benchmarks.cost_model

Times a matrix product beside a convolution and beside a matrix that is scaled by a diagonal; and a
symmetric product in blocks beside the whole. ``docs/contraction.md`` says which constant stands for
which number. A minute on two cores, with a result file ``cost-model-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print(
        "error: run python -m experiments.benchmarks.cost_model in the repository root",
        file=sys.stderr,
    )
    sys.exit(2)

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.benchmarks import common
from experiments.benchmarks.side_by_side import Contender, compiled, race
from experiments.common.run import command_line

# Sizes of a 784-512-256-64 encoder: products of 64 x 256 and 256 x 512 for every example.
EXAMPLES, ROWS, INNER, COLUMNS = 128, 64, 256, 512


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""


def median_seconds(contenders: dict[str, Contender], rounds: int) -> dict[str, float]:
    """Returns the median time of each contender; they run in turn."""
    return {name: found["seconds"]["median"] for name, found in race(contenders, rounds).items()}


def measure_operations(rounds: int) -> dict[str, float]:
    """Returns the work of a number and of a convolution, in operations of a matrix product."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    left, right, written = draw(EXAMPLES, ROWS, INNER), draw(INNER, COLUMNS), draw(ROWS, COLUMNS)
    diagonal = draw(EXAMPLES, 1, COLUMNS)
    images, kernel = draw(EXAMPLES, 16, 14, 14), draw(32, 16, 3, 3)
    convolve = partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")
    contenders = {
        "product": compiled(lambda: jnp.matmul, left, right),
        "number": compiled(lambda: jnp.multiply, written[None], diagonal),
        "convolution": compiled(lambda: convolve, images, kernel),
    }
    found = median_seconds(contenders, rounds)
    each = found["product"] / (2 * EXAMPLES * ROWS * INNER * COLUMNS)
    flops = 2 * EXAMPLES * kernel.size * 14 * 14  # every weight once for each place of the image
    return {
        "product_gflops_per_second": 1e-9 / each,
        "number_operations": found["number"] / (EXAMPLES * ROWS * COLUMNS) / each,
        "convolution_operations": found["convolution"] / flops / each,
    }


def measure_blocks(sizes: Sequence[int], rounds: int) -> dict[int, float]:
    """Returns the time of M^T M in three blocks over that of the whole, by the columns of M."""
    ratios = {}
    for size in sizes:
        rows = jnp.asarray(np.random.default_rng(0).normal(size=(2048, size)), jnp.float32)

        def whole(a: Array) -> Array:
            return a.T @ a

        def blocks(a: Array, half: int = size // 2) -> list[Array]:
            first, last = a[:, :half], a[:, half:]
            return [first.T @ first, first.T @ last, last.T @ last]

        contenders = {
            "whole": compiled(lambda: whole, rows),
            "blocks": compiled(lambda: blocks, rows),
        }
        found = median_seconds(contenders, rounds)
        ratios[size] = found["blocks"] / found["whole"]
    return ratios


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    sizes = (8,) if config.quick else (256, 512, 768, 1024, 1536)
    with common.record("cost_model", config.out) as record:
        results: common.Results = {
            "benchmark": "cost_model",
            "rounds": config.rounds,
            "environment": common.describe_environment(),
            "operations": measure_operations(config.rounds),
            "blocks_over_whole_by_columns": measure_blocks(sizes, config.rounds),
        }
        record.write_json(f"cost-model-{common.device_name()}.json", results)
    print({name: value for name, value in results.items() if name != "environment"})
    return results


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
