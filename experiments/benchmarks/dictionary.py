"""Decoding a sparse code from its active units alone, beside the product with the whole code.

    python -m experiments.benchmarks.dictionary

A code has 32 active units out of 4,096 to 65,536. Both ways start from the values and the numbers
of these units, and are timed with and without the gradients of values and decoder. The gradient of
the decoder has the size of the decoder in both. The temporary memory is what XLA has planned. Three
and a half minutes on two cores that other programs used too. Writes ``dictionary-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print(
        "error: run python -m experiments.benchmarks.dictionary in the repository root",
        file=sys.stderr,
    )
    sys.exit(2)

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

import jaxae
from experiments.benchmarks import common
from experiments.benchmarks.side_by_side import Contender, compiled, race, require_different
from experiments.common.run import command_line

WIDTHS = (4096, 16_384, 65_536)
ACTIVE, INPUTS, EXAMPLES = 32, 256, 256
TOLERANCE = 1e-4  # between the two ways, relative to the largest number of either

Decode = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""


def decode_whole_code(values: Array, indices: Array, decoder: Array) -> Array:
    """Returns the product of the whole code ``(examples, units)`` with the decoder."""
    code = jnp.zeros((len(values), len(decoder)), values.dtype)
    return code.at[jnp.arange(len(values))[:, None], indices].set(values) @ decoder


WAYS: dict[str, Decode] = {
    "whole code": decode_whole_code,
    "active units": jaxae.sparse_decode,
}


def with_gradients(decode: Decode) -> Callable[[Array, Array, Array], tuple[Array, ...]]:
    """Returns a function that also gives the gradients of half the sum of squares."""

    def gradients(values: Array, indices: Array, decoder: Array) -> tuple[Array, ...]:
        x_hat, pull_back = jax.vjp(
            lambda values, decoder: decode(values, indices, decoder), values, decoder
        )
        return x_hat, *pull_back(x_hat)

    return gradients


def contender(function: Callable[..., PyTree], *arrays: Array) -> Contender:
    """Returns a function to be timed with these arguments."""
    return compiled(lambda: function, *arrays)


def make_inputs(units: int) -> tuple[Array, Array, Array]:
    """Returns values, different units for each example, and a decoder."""
    value_key, index_key, decoder_key = jax.random.split(jax.random.key(units), 3)
    noise = jax.random.uniform(index_key, (EXAMPLES, units))
    indices = jax.lax.top_k(noise, ACTIVE)[1]
    values = jax.random.uniform(value_key, indices.shape)
    return values, indices, jax.random.normal(decoder_key, (units, INPUTS)) / INPUTS**0.5


def require_equal(results: dict[str, tuple[Array, ...]]) -> None:
    """Raises RuntimeError if the ways do not give the same values and gradients."""
    first, *others = results.values()
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            gap = float(jnp.abs(ours - theirs).max() / jnp.abs(ours).max())
            if not gap < TOLERANCE:
                raise RuntimeError(f"the ways to decode differ by {gap:.1e} of the largest number")


def measure_width(units: int, rounds: int) -> common.Results:
    """Returns seconds and temporary memory of both ways, with and without gradients."""
    arrays = make_inputs(units)
    forward = {name: contender(decode, *arrays) for name, decode in WAYS.items()}
    both = {name: contender(with_gradients(way), *arrays) for name, way in WAYS.items()}
    for contenders in (forward, both):
        base, variant = (one.program for one in contenders.values())
        require_different(base, variant, "active units")
    require_equal({name: one.call() for name, one in both.items()})
    return {
        "units": units,
        "decode": race(forward, rounds),
        "decode_and_gradients": race(both, rounds),
    }


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    widths = (64,) if config.quick else WIDTHS
    with common.record("dictionary", config.out) as record:
        rows = []
        for units in widths:
            rows.append(measure_width(units, config.rounds))
            for part in ("decode", "decode_and_gradients"):
                for name, found in rows[-1][part].items():
                    seconds, memory = found["seconds"]["median"], found["temporary_bytes"]
                    size = "unknown" if memory is None else f"{memory / 2**20:.1f} MiB"
                    print(f"{units} units, {part}, {name}: {1e3 * seconds:.2f} ms, {size}")
        return common.write_results(
            record,
            "dictionary",
            rounds=config.rounds,
            active=ACTIVE,
            inputs=INPUTS,
            examples=EXAMPLES,
            widths=rows,
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
