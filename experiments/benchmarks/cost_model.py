"""The constants of the cost model in ``jaxae/contraction/``, measured on this device.

    python -m experiments.benchmarks.cost_model

Times a matrix product beside a convolution and beside a matrix that is scaled by a diagonal; a
symmetric product in blocks beside the whole; and the penalty of a residual encoder beside one that
is written by hand, with the closed form of the layer normalisation. ``docs/contraction.md`` says
which number stands for what. Two minutes on two cores; the result file is
``cost-model-<device>.json``.
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

import jaxae
from experiments.benchmarks import common, contraction
from experiments.benchmarks.encoders import Residual
from experiments.benchmarks.side_by_side import Contender, compiled, race
from experiments.common.run import command_line
from experiments.common.training.arrays import Params

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


def penalty_by_hand(model: Residual, params: Params, x: Array) -> Array:
    """Returns the penalties of a batch, with closed forms in place of the derivatives of a block.

    The Jacobian of a block is I + V D W N. That of the layer normalisation, N, is a diagonal times
    I - 1 1^T / n - z z^T / n with the normalised values z, so that W N takes no product of
    matrices: the first block takes one such product, where derivatives along n directions take two.
    """
    layers = params["params"]

    def affine(number: int, h: Array) -> Array:
        layer = layers[f"Dense_{number}"]
        return h @ layer["kernel"] + layer["bias"]

    def penalty(x_i: Array) -> Array:
        h, jacobian = affine(0, x_i), None
        for block in range(model.blocks):
            norm = layers[f"LayerNorm_{block}"]
            inner, outer = (layers[f"Dense_{2 * block + i}"]["kernel"].T for i in (1, 2))
            inverse = jax.lax.rsqrt(jnp.var(h) + 1e-6)
            z = (h - jnp.mean(h)) * inverse
            a = affine(2 * block + 1, z * norm["scale"] + norm["bias"])
            slope = jax.vmap(jax.grad(jax.nn.gelu))(a)[:, None]
            scale = norm["scale"] * inverse
            if jacobian is None:
                rows = inner * scale[None, :]
                product = rows - jnp.mean(rows, 1, keepdims=True) - jnp.outer(rows @ z, z) / len(z)
                jacobian = jnp.eye(len(z)) + outer @ (slope * product)
            else:
                columns = (
                    jacobian
                    - jnp.mean(jacobian, 0, keepdims=True)
                    - jnp.outer(z, z @ jacobian) / len(z)
                )
                jacobian = jacobian + outer @ (slope * (inner @ (scale[:, None] * columns)))
            h = h + affine(2 * block + 2, jax.nn.gelu(a))
        assert jacobian is not None
        return jnp.vdot(right @ jacobian, jacobian @ left)

    first, last = (layers[f"Dense_{number}"]["kernel"] for number in (0, 2 * model.blocks + 1))
    left, right = first.T @ first, last @ last.T
    return jax.vmap(penalty)(x)


def measure_closed_form(model: Residual, inputs: int, batch: int, rounds: int) -> dict[str, float]:
    """Returns time and operations of :func:`penalty_by_hand` over those of ``jaxae``.

    The time is that of value and gradient, as in a step of training; the operations are those of
    the value, without the elementwise ones of the penalty by hand.
    """
    x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, inputs)), jnp.float32)
    params = model.init(jax.random.key(0), x[0])

    def encode(params: Params, x_i: Array) -> Array:
        return jnp.asarray(model.apply(params, x_i))

    def ours(params: Params, x: Array) -> Array:
        return jaxae.contractive_penalty(partial(encode, params), x)

    by_hand = partial(penalty_by_hand, model)
    contenders = {
        "jaxae": compiled(partial(contraction.mean_and_gradient, ours), params, x),
        "by hand": compiled(partial(contraction.mean_and_gradient, by_hand), params, x),
    }
    found = {name: contender.call()[0] for name, contender in contenders.items()}
    contraction.require_same("the penalty by hand", found["by hand"], found["jaxae"])
    seconds = median_seconds(contenders, rounds)
    # One product of two n x n matrices for the first block, two for each other one, two at the end;
    # and the Gram matrices of the first and the last layer, once for the batch.
    products = batch * (1 + 2 * (model.blocks - 1) + 2) * model.width
    operations = 2 * model.width**2 * (products + inputs + model.code)
    plan = jaxae.explain_contraction(partial(encode, params), x)
    return {
        "seconds": seconds["by hand"] / seconds["jaxae"],
        "operations": operations / plan.flops,
    }


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    sizes = (8,) if config.quick else (256, 512, 768, 1024, 1536)
    widths = {1: 16} if config.quick else {1: 256, 2: 256, 4: 256}
    inputs, batch = (20, 4) if config.quick else (784, 64)
    with common.record("cost_model", config.out) as record:
        results: common.Results = {
            "benchmark": "cost_model",
            "rounds": config.rounds,
            "environment": common.describe_environment(),
            "operations": measure_operations(config.rounds),
            "blocks_over_whole_by_columns": measure_blocks(sizes, config.rounds),
            "closed_form_over_jaxae_by_blocks": {
                blocks: measure_closed_form(
                    Residual(width, blocks, inputs), inputs, batch, config.rounds
                )
                for blocks, width in widths.items()
            },
        }
        record.write_json(f"cost-model-{common.device_name()}.json", results)
    print({name: value for name, value in results.items() if name != "environment"})
    return results


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
