"""Measures of the units of one network: how active, how similar, and what they answer to."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common.results.over_seeds import Metrics
from experiments.common.training.arrays import unit_rows

TOP = 10  # inputs that activate a unit most

UNITS = {
    "test_mse": "squared pixel value, mean over pixels and test images",
    "active_units": "units per test image",
    "dead_share": "share of units active for no test image",
    "mean_activation": "mean over units and test images",
    "residual_along_filters": "pixel value, mean over active units and test images",
    "effective_weight": "lambda at which filters of norm 1 would leave that residual",
    "filter_norm": "norm of a unit's decoder weights, mean over units",
    "purity": f"share of the commonest class among a unit's top {TOP} test images, mean over units",
    "nearest_cosine": "absolute cosine of a filter with the most similar other one, mean",
    "correlation": "absolute correlation of the activations of two units, mean over pairs",
}


def measure_units(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    kernel: Array,
    x: Array,
    *,
    threshold: float,
) -> dict[str, Array]:
    """Returns numbers of a network on images ``(n, d)``, its codes ``(n, k)`` and unit filters."""
    filters = unit_rows(kernel)
    with jax.default_matmul_precision("highest"):
        code = jax.vmap(encode)(x)
        residual = x - jax.vmap(decode)(code)
        along = residual @ filters.T  # (n, k)
    active = code > threshold
    mean_along = jnp.sum(along * active) / jnp.maximum(jnp.sum(active), 1)
    return {
        "test_mse": jnp.mean(jnp.square(residual)),
        "active_units": jnp.mean(jaxae.active_units(code, threshold=threshold)),
        "dead_share": jnp.mean(jaxae.dead_units(code, threshold=threshold).astype(x.dtype)),
        "mean_activation": jnp.mean(code),
        "residual_along_filters": mean_along,
        "effective_weight": 2 * mean_along,
        "filter_norm": jnp.mean(jnp.linalg.norm(kernel, axis=1)),
        "code": code,
        "filters": filters,
    }


def compare(code: np.ndarray, filters: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """Returns how different the units are; their purity only where there are labels."""
    live = code.max(0) > 0
    return ({} if labels is None else {"purity": purity(code, labels)}) | {
        "nearest_cosine": nearest_cosine(filters[live]),
        "correlation": correlation(code[:, live]),
    }


def purity(code: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of the commonest class among the top inputs, mean over live units.

    Units that are active for fewer than ``TOP`` inputs do not count.
    """
    live = (code > 0).sum(0) >= TOP
    top = np.argsort(-code[:, live], axis=0)[:TOP]  # (TOP, live units)
    classes = np.unique(labels, return_inverse=True)[1]  # labels may be negative, or large
    shares = [np.bincount(classes[rows]).max() / TOP for rows in top.T]
    return float(np.mean(shares)) if shares else float("nan")


def chance_purity(labels: np.ndarray, key: Array) -> float:
    """Returns the purity of units that answer to inputs at random."""
    code = np.asarray(jax.random.uniform(key, (len(labels), 500)))
    return purity(code, labels)


def nearest_cosine(filters: np.ndarray) -> float:
    """Returns the absolute cosine with the most similar other row, mean over the rows."""
    if len(filters) < 2:
        return float("nan")
    unit = filters / np.maximum(np.linalg.norm(filters, axis=1, keepdims=True), 1e-12)
    cosines = np.abs(unit @ unit.T)
    np.fill_diagonal(cosines, 0)
    return float(cosines.max(1).mean())


def correlation(code: np.ndarray) -> float:
    """Returns the absolute correlation of two columns, mean over pairs of different columns."""
    if code.shape[1] < 2:
        return float("nan")
    centred = code - code.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    matrix = np.abs(unit.T @ unit)
    k = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (k * (k - 1)))


def below(a: Metrics, b: Metrics, factor: float = 1.0) -> bool:
    """Returns whether a < factor * b for every seed; a number that is missing is not below."""
    pairs = zip(a["values"], b["values"], strict=True)
    return all(None not in pair and pair[0] < factor * pair[1] for pair in pairs)
