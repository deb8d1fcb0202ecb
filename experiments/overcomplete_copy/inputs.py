"""Images in the coordinates of the experiment, and inputs that are not like them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.data import datasets
from experiments.common.errors import InputError

SPAN = 1e-3  # of the mean variance of a pixel; directions with less are not in the span
SHOWN = 3  # inputs of each kind in the figure of reconstructions
INPUTS = ("test images", "turned by 180°", "permuted pixels", "white noise")


class Images(NamedTuple):
    """Centred and scaled rows, and the principal axes of the training images."""

    shape: tuple[int, ...]
    mean: np.ndarray  # (d,)
    scale: float
    train: Array  # (n, d)
    test: Array
    variances: np.ndarray  # (d,), descending
    axes: np.ndarray  # (d, d), columns

    @property
    def in_span(self) -> int:
        """How many principal axes span the data."""
        return int((self.variances > SPAN).sum())

    def project(self, rows: np.ndarray) -> Array:
        """Returns the components of rows in the span of the data."""
        basis = self.axes[:, : self.in_span]
        return jnp.asarray(rows @ basis @ basis.T, jnp.float32)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Returns images in [0, 1] as centred and scaled rows."""
        return (images.reshape(len(images), -1).astype(np.float64) - self.mean) / self.scale

    def pictures(self, rows: Array) -> np.ndarray:
        """Returns rows as images in [0, 1] and beyond."""
        return (np.asarray(rows) * self.scale + self.mean).reshape(-1, *self.shape)


def block_means(images: np.ndarray, size: int) -> np.ndarray:
    """Returns images ``(n, h, w, c)`` averaged over blocks; a rest at the border is cut off."""
    n, h, w, c = images.shape
    if min(h, w) < size:
        raise InputError(f"--pool must be at most {min(h, w)}, a side of the images, not {size}")
    cut = images[:, : h - h % size, : w - w % size]
    return cut.reshape(n, h // size, size, w // size, size, c).mean((2, 4))


def prepare(dataset: datasets.Dataset, pool: int | None) -> Images:
    """Returns the images in the coordinates of the experiment."""
    size = pool or (2 if min(dataset.example_shape[:2]) > 16 else 1)
    train, test = block_means(dataset.train, size), block_means(dataset.test, size)
    flat = train.reshape(len(train), -1).astype(np.float64)
    if flat.shape[1] < 2:
        raise InputError("images must have at least 2 pixels here, after --pool")
    mean, scale = flat.mean(0), float(np.sqrt(flat.var(0).mean()))
    if scale == 0:
        raise InputError("the training images are all equal; there is nothing to learn")
    centred = (flat - mean) / scale
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    images = Images(
        train.shape[1:], mean, scale, jnp.asarray(centred, jnp.float32), jnp.zeros(0),
        variances[::-1], axes[:, ::-1],
    )  # fmt: skip
    return images._replace(test=jnp.asarray(images.rows(test), jnp.float32))


class Keys(NamedTuple):
    """The keys of one seed, the same for all networks."""

    train: Array
    inputs: Array
    noise: Array
    pca: Array


def make_keys(seed: int, num_seeds: int) -> list[Keys]:
    """Returns the keys of every seed."""

    @jax.jit
    def split_key(key: Array, number: int) -> Keys:
        return Keys(*jax.random.split(jax.random.fold_in(key, number), 4))

    return [split_key(jax.random.key(seed), number) for number in range(num_seeds)]


class Probes(NamedTuple):
    """What one seed is measured with.

    Attributes:
      inputs: the test images, and as many inputs that are not like the training images.
      noise: noise for the test images, in the span of the data.
      beyond: white noise beyond that span.
    """

    inputs: dict[str, Array]
    noise: Array
    beyond: Array

    @property
    def shown(self) -> Array:
        """Returns a few inputs of each kind."""
        # By name: a dict that went through jit is sorted by its keys.
        return jnp.concatenate([self.inputs[name][:SHOWN] for name in INPUTS])


def make_probes(images: Images, keys: Keys, stddev: float) -> Probes:
    """Returns the other inputs, noise of a standard deviation, and noise beyond the span."""
    test = images.pictures(images.test)
    flat = test.reshape(len(test), -1)
    order, white, noise, beyond = map(np.asarray, _draw(keys.inputs, keys.noise, flat.shape))
    others = images.rows(test[:, ::-1, ::-1]), images.rows(flat[:, order]), white
    inputs = dict(zip(INPUTS, (images.test, *map(images.project, others)), strict=True))
    return Probes(
        inputs, stddev * images.project(noise), jnp.asarray(beyond) - images.project(beyond)
    )


@partial(jax.jit, static_argnums=2)
def _draw(input_key: Array, noise_key: Array, shape: tuple[int, int]) -> tuple[Array, ...]:
    """Returns an order of the pixels, and three times white noise."""
    order_key, white_key = jax.random.split(input_key)
    order = jax.random.permutation(order_key, shape[1])
    keys = jnp.stack([white_key, *jax.random.split(noise_key)])
    return order, *jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
