"""What dictionaries are learned from: sums of known atoms, and patches of images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.training.arrays import unit_rows


class Sums(NamedTuple):
    """Sparse sums of known atoms.

    Attributes:
      atoms: true dictionary ``(m, d)``, rows of norm 1.
      train: examples ``(n, d)``.
      test: as many more, drawn alike.
    """

    atoms: Array
    train: Array
    test: Array


class Patches(NamedTuple):
    """Patches as rows, minus the mean of the training patches, and their shape."""

    train: Array
    test: Array
    shape: tuple[int, ...]


def sums(key: Array, *, atoms: int, inputs: int, active: int, count: int) -> Sums:
    """Returns examples that are sums of so many atoms, with weights uniform in [0.5, 1.5].

    The atoms are uniform on the sphere, and so are the choices of them.
    """
    atom_key, train_key, test_key = jax.random.split(key, 3)
    dictionary = unit_rows(jax.random.normal(atom_key, (atoms, inputs)))

    def draw(key: Array, n: int) -> Array:
        choice_key, weight_key = jax.random.split(key)
        chosen = jax.lax.top_k(jax.random.uniform(choice_key, (n, atoms)), active)[1]
        weights = jax.random.uniform(weight_key, (n, active), minval=0.5, maxval=1.5)
        return jnp.einsum("na,nad->nd", weights, dictionary[chosen])

    return Sums(dictionary, draw(train_key, count), draw(test_key, max(1, count // 5)))


def patches(
    images: np.ndarray, *, size: int, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Returns patches ``(count, size, size, channels)`` of random images at random places.

    Patches of one colour, of which pictures of digits are full, are left out; so there may be
    fewer, but never so few that ten times as many places were not looked at.
    """
    n, height, width, _ = images.shape
    found: list[np.ndarray] = []
    for _ in range(10):
        image = generator.integers(n, size=count)
        top = generator.integers(height - size + 1, size=count)
        left = generator.integers(width - size + 1, size=count)
        rows = top[:, None, None] + np.arange(size)[None, :, None]
        columns = left[:, None, None] + np.arange(size)[None, None, :]
        some = images[image[:, None, None], rows, columns]
        found.append(some[some.reshape(count, -1).std(axis=1) > 0])
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count]
