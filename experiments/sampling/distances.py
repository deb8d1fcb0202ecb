"""How far samples are from the truth."""

import numpy as np
from scipy.stats import wasserstein_distance

DIRECTIONS = 64


def sliced_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the sliced Wasserstein-1 distance of two samples ``(n, 2)`` in the plane.

    The mean over evenly spread directions of the distance of the projections, in the unit of the
    points.
    """
    angles = np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)])
    projected = zip((a @ directions).T, (b @ directions).T, strict=True)
    return float(np.mean([wasserstein_distance(u, v) for u, v in projected]))
