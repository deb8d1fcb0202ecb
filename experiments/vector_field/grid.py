"""The learned and the exact field on a grid over the drawn square."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ScalarLike

from experiments.common.data.densities import Density
from experiments.common.training.arrays import Function

HALF_WIDTH = 1.7  # of the square that is drawn and measured
GRID = 61  # points of the grid along each side
DENSE = 0.05  # of the maximum of the noisy density: "near the data"


class Fields(NamedTuple):
    """Learned and exact displacement on the grid, and where the noisy density is high."""

    grid: np.ndarray  # (n, 2)
    learned: np.ndarray  # (n, 2)
    exact: np.ndarray  # (n, 2)
    density: np.ndarray  # (n,), of the noisy points

    @property
    def is_dense(self) -> np.ndarray:
        """Whether a point is near the data."""
        return self.density > DENSE * self.density.max()


def exact_field(density: Density, stddev: ScalarLike, y: Array) -> Array:
    """Returns E[x | y] - y at one point."""
    return density.posterior_mean(y, stddev) - y


def points() -> Array:
    """Returns the points ``(n, 2)`` of a grid over the drawn square."""
    line = jnp.linspace(-HALF_WIDTH, HALF_WIDTH, GRID)
    return jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)


def exact_on_grid(density: Density, stddev: ScalarLike) -> tuple[Array, Array]:
    """Returns the exact field ``(n, 2)`` and the density of the noisy points ``(n,)``."""
    log_p = jax.vmap(lambda y: density.log_noisy_density(y, stddev))(points())
    return jax.vmap(partial(exact_field, density, stddev))(points()), jnp.exp(log_p)


def on_grid(density: Density, stddev: float, learned: Sequence[Function]) -> list[Fields]:
    """Returns each of some learned fields beside the exact one, which is computed once."""
    grid = points()
    exact, noisy = map(np.asarray, exact_on_grid(density, stddev))
    return [
        Fields(np.asarray(grid), np.asarray(jax.vmap(one)(grid)), exact, noisy) for one in learned
    ]
