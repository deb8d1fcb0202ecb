r"""Densities in the plane for which everything about denoising is known exactly.

Each is a mixture of equally weighted isotropic Gaussians: many of spread 0 along a curve (a
quadrature of the uniform density on it, exact once the nodes lie closer than the noise), or a
few of positive spread. With noise N(0, s^2 I) the density of the noisy points is the same
mixture with variance spread^2 + s^2, and the posterior mean E[x | y] is a softmax-weighted mean.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike


class Density(NamedTuple):
    """A mixture of equally weighted isotropic Gaussians.

    Attributes:
      name: for titles and file names.
      nodes: centres ``(m, 2)``.
      spread: standard deviation about each centre, 0 on a curve.
    """

    name: str
    nodes: Float[Array, "m 2"]
    spread: float

    def sample(self, key: Array, count: int) -> Float[Array, "count 2"]:
        """Returns independent points."""
        node_key, noise_key = jax.random.split(key)
        centres = jax.random.choice(node_key, self.nodes, (count,))
        return centres + self.spread * jax.random.normal(noise_key, (count, 2))

    def log_noisy_density(self, y: Float[Array, "2"], stddev: ScalarLike) -> Float[Array, ""]:
        """Returns the log density, in nats, of a point plus noise N(0, stddev^2 I)."""
        variance = self.spread**2 + stddev**2
        exponents = -jnp.sum((self.nodes - y[None]) ** 2, -1) / (2 * variance)
        constant = jnp.log(2 * jnp.pi * variance) + jnp.log(len(self.nodes))
        return jax.nn.logsumexp(exponents) - constant

    def posterior_mean(self, y: Float[Array, "2"], stddev: ScalarLike) -> Float[Array, "2"]:
        """Returns E[x | y], the reconstruction of the perfect denoising autoencoder."""
        variance = self.spread**2 + stddev**2
        weights = jax.nn.softmax(-jnp.sum((self.nodes - y[None]) ** 2, -1) / (2 * variance))
        centre = weights @ self.nodes
        return centre + self.spread**2 / variance * (y - centre)


def circle() -> Density:
    """Returns the uniform density on the unit circle."""
    angle = 2 * np.pi * np.arange(2048) / 2048
    return Density("circle", jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), "float32"), 0)


def spiral() -> Density:
    """Returns the density uniform in length on the spiral r = angle / 10, two turns of it."""
    fine = np.linspace(np.pi / 2, 4.5 * np.pi, 100_000)
    radius = fine / 10
    length = np.concatenate(
        [[0], np.cumsum(np.hypot(np.diff(radius), radius[:-1] * np.diff(fine)))]
    )
    middle = (np.arange(4096) + 0.5) / 4096 * length[-1]
    angle = np.interp(middle, length, fine)
    points = np.stack([angle / 10 * np.cos(angle), angle / 10 * np.sin(angle)], 1)
    return Density("spiral", jnp.asarray(points, "float32"), 0)


def mixture() -> Density:
    """Returns five Gaussians on a circle: five maxima, five saddles and one minimum."""
    angle = 2 * np.pi * np.arange(5) / 5 + np.pi / 2
    return Density(
        "mixture", jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), "float32"), 0.2
    )


ALL: dict[str, Callable[[], Density]] = {"circle": circle, "spiral": spiral, "mixture": mixture}
