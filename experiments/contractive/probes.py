"""What the trained encoders are measured with: examples, directions and distances."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.data import datasets

SAMPLE = 200  # test examples whose whole Jacobian is taken
NEIGHBOURS = 5  # nearest training examples of each test example
RADII = tuple(np.geomspace(0.01, 4, 14).round(4).tolist())  # in distances of two test examples


class Probes(NamedTuple):
    """What all the encoders see alike."""

    test: Array  # (n, d)
    sample: Array  # (s, d), the first test examples
    tangents: Array  # (s, 3, d), how an image changes when it is moved or turned
    neighbours: Array  # (s, NEIGHBOURS, d), displacements to the nearest training examples
    radii: Array  # (r,), in the unit of the data


def image_tangents(images: np.ndarray) -> np.ndarray:
    """Returns the derivatives of images ``(n, h, w, c)`` along two shifts and a rotation.

    They span a part of the tangent space of the manifold of digits that is known beforehand.
    The result is ``(n, 3, h * w * c)``.
    """
    down, right = (np.gradient(images, axis=axis) for axis in (1, 2))
    height, width = images.shape[1:3]
    y = (np.arange(height) - (height - 1) / 2)[None, :, None, None]
    x = (np.arange(width) - (width - 1) / 2)[None, None, :, None]
    turn = y * right - x * down
    return np.stack([down, right, turn], 1).reshape(len(images), 3, -1).astype(np.float32)


def make(dataset: datasets.Dataset) -> Probes:
    """Returns the probes of a data set."""
    train, test = dataset.flat()
    sample = test[:SAMPLE]
    distances = (train**2).sum(1) - 2 * sample @ train.T  # squared, less a constant of each row
    nearest = np.argsort(distances, axis=1)[:, :NEIGHBOURS]
    apart = np.sqrt(np.square(test - np.roll(test, 1, axis=0)).sum(1).mean())
    tangents = image_tangents(dataset.test[:SAMPLE])
    displacements = train[nearest] - sample[:, None]
    radii = np.asarray(RADII, np.float32) * apart
    return Probes(*map(jnp.asarray, (test, sample, tangents, displacements, radii)))
