"""Numbers over the seeds: mean, spread, the value of each seed, and a unit."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

Metrics = dict[str, Any]  # what metrics.json holds, or a part of it


def over_seeds(values: Sequence[float], unit: str) -> Metrics:
    """Returns mean and sample standard deviation of one number over the seeds."""
    array = np.asarray(values, np.float64)
    return {
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if len(array) > 1 and np.isfinite(array).all() else None,
        "values": array.tolist(),
        "unit": unit,
    }


def rows_over_seeds(rows: Sequence[Metrics], units: Mapping[str, str]) -> Metrics:
    """Returns each quantity of one row per seed over the seeds.

    Args:
      rows: one for each seed: quantity, and its number or a vector of numbers.
      units: of each quantity.

    Returns:
      Of each quantity what :func:`over_seeds` makes; a list of them where it is a vector.
    """
    result: Metrics = {}
    for name in rows[0]:
        values = np.asarray([row[name] for row in rows], np.float64)
        one = partial(over_seeds, unit=units[name])
        result[name] = (
            one(values.tolist()) if values.ndim == 1 else [one(v) for v in values.T.tolist()]
        )
    return result


def values_over_seeds(rows: Sequence[Metrics], name: str) -> np.ndarray:
    """Returns the values of one quantity in some rows over the seeds, ``(rows, seeds)``."""
    return np.array([row[name]["values"] for row in rows], np.float64)
