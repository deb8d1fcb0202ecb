"""Writes the random words of jaxae.hash_key to standard output, for a battery of tests.

    python -m experiments.benchmarks.random_bits | dieharder -a -g 200

The stream is what a training run draws: a key for every step by ``jax.random.fold_in``, and under
each key as many words as a batch of 64 MNIST images has pixels. ``--order keys`` gives the first
word under each of many keys instead. It ends when the reader does, or when all 2^32 keys were used
(16 GiB of ``--order keys``), and never begins again. Dieharder's own random numbers
play no part; two or three of its 114 p-values are called weak for a perfect generator as well.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.random_bits"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common.run import command_line, devices

_PER_STEP = 64 * 784
_AT_A_TIME = 64
_KEYS = 2**32  # that fold_in tells apart


@dataclass(frozen=True)
class Config:
    """Options of the stream."""

    order: Literal["steps", "keys"] = "steps"
    """Words in the order of training, or the first word of each key."""
    seed: int = 0
    """Seed of the key."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_integer("--seed", self.seed, low=0, high=2**32 - 1)


@partial(jax.jit, static_argnames="per_key")
def words(key: Array, first: int, per_key: int) -> Array:
    """Returns the words under ``_AT_A_TIME * _PER_STEP // per_key`` keys in a row."""
    count = _AT_A_TIME * _PER_STEP // per_key
    keys = jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(count, dtype=jnp.uint32))
    return jax.vmap(lambda k: jax.random.bits(k, (per_key,)))(keys).ravel()


def main(config: Config) -> None:
    """Writes until nobody reads, or until there are no keys left."""
    devices.require_devices()
    key = jaxae.hash_key(jax.random.key(config.seed))
    per_key = 1 if config.order == "keys" else _PER_STEP
    at_a_time = _AT_A_TIME * _PER_STEP // per_key
    try:
        for first in range(0, _KEYS - at_a_time + 1, at_a_time):
            block = words(key, jnp.uint32(first), per_key)
            sys.stdout.buffer.write(np.asarray(block).tobytes())
    except BrokenPipeError:
        sys.stderr.close()  # the reader has all it needs; nothing to say


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
