r"""Measures of a dictionary: how it uses its units, and which known atoms its units stand for.

Contract of this module. Codes are ``(*batch, k)``, filters ``(k, d)``, known atoms ``(m, d)``. A
unit and an atom are compared by the absolute cosine of filter and atom; a row of 0 has cosine 0.
Explained variance, L0 and dead units are in :mod:`jaxae.metrics`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from jaxae import _checks
from jaxae._checks import AnyArray
from jaxae._filters import checked_dictionaries, row_norms, unit_rows


class UnitCounts(NamedTuple):
    """How often each unit is active where its atom is, and where it is not.

    Counts of several batches add up, field by field: ``jax.tree.map(jnp.add, a, b)``.

    Attributes:
      hits: examples where both are active, ``(k,)``, as floats.
      false_alarms: examples where the unit alone is active.
      misses: examples where the atom alone is active.
    """

    hits: Float[Array, " k"]
    false_alarms: Float[Array, " k"]
    misses: Float[Array, " k"]

    @property
    def precision(self) -> Float[Array, " k"]:
        """The share of hits where the unit is active; 0 if it never is."""
        return _share(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> Float[Array, " k"]:
        """The share of hits where the atom is active; 0 if it never is."""
        return _share(self.hits, self.hits + self.misses)

    @property
    def f1(self) -> Float[Array, " k"]:
        """The harmonic mean of precision and recall; 0 if both are."""
        return _share(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)


def dense_units(
    code: Float[AnyArray, "*batch k"], *, share: ScalarLike = 0.1, threshold: ScalarLike = 0.0
) -> Bool[Array, " k"]:
    """Returns which units are active for more than a share of the examples.

    Args:
      code: codes of a data set ``(*batch, k)``, floating.
      share: share of the examples above which a unit counts as dense, between 0 and 1.
      threshold: a unit is active if its magnitude is above this, at least 0.

    Returns:
      True where a unit is dense, shape ``(k,)``; its mean is the share of dense units.

    Raises:
      TypeError: if ``code`` is not floating point.
      ValueError: if ``share`` is not between 0 and 1, ``threshold`` is negative or ``code`` is not
        finite.

    Example:
      >>> dense_units(jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), share=0.5).tolist()
      [True, False]
    """
    code = _checks.codes(code)
    wide = _checks.wide(code.dtype)
    share = _checks.number("share", share, wide, low=0.0, high=1.0)
    threshold = _checks.number("threshold", threshold, code.dtype, low=0.0)
    is_active = (jnp.abs(code) > threshold).astype(wide)
    return jnp.mean(is_active, axis=tuple(range(code.ndim - 1))) > share


def shrinkage(
    x_hat: Float[AnyArray, " *shape"], x: Float[AnyArray, " *shape"], *, example_ndim: int = 1
) -> Float[Array, "..."]:
    r"""Returns the norm of each reconstruction over the norm of its target.

    .. math:: \|\hat x\|_2 / \|x\|_2

    1 is no shrinkage. The L1 norm makes it smaller, because it shrinks all active units alike.

    Args:
      x_hat: reconstructions, ``(*batch, *example)``, in the unit of ``x``.
      x: targets, same shape.
      example_ndim: how many trailing axes one example has.

    Returns:
      Ratios, at least 0, shape ``(*batch,)``; NaN where ``x`` is 0.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if the shapes differ or a value is not finite.

    Example:
      >>> float(shrinkage(jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0])))
      0.5

    References:
      Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
      https://arxiv.org/abs/2404.16014. Deviation: their relative reconstruction bias is one number
      of a data set, this one of each example, as in SAELens.
    """
    x_hat, x, features = _checks.pair("x_hat", x_hat, x, example_ndim)
    dtype = jnp.result_type(x_hat, x)
    batch = x.shape[: features[0]]
    norms = [row_norms(_checks.widen(rows).reshape(*batch, -1)) for rows in (x_hat, x)]
    return (norms[0] / norms[1]).astype(dtype)


def mean_correlation(
    filters: Float[AnyArray, "k d"], atoms: Float[AnyArray, "m d"]
) -> Float[Array, ""]:
    r"""Returns the mean absolute cosine of filters and atoms, after the best one-to-one matching.

    .. math:: \max_\pi \frac{1}{\min(k, m)} \sum_j |\cos(W_j, a_{\pi(j)})|

    over all matchings :math:`\pi` that use no filter and no atom twice. Unlike the mean of
    :func:`jaxae.best_cosines` it is low if many filters stand for one atom. The matching is found
    on the host, by a callback, in O(k m min(k, m)) operations.

    Args:
      filters: learned dictionary ``(k, d)``, one row for each unit.
      atoms: known dictionary ``(m, d)``.

    Returns:
      A SCALAR in [0, 1].

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if they are no matrices of the same d, empty or not finite.

    Example:
      >>> round(float(mean_correlation(jnp.array([[2.0, 0.0], [3.0, 0.0]]), jnp.eye(2))), 3)
      0.5

    References:
      Hyvärinen and Morioka 2016, "Unsupervised Feature Extraction by Time-Contrastive Learning";
      the matching is that of SciPy's ``linear_sum_assignment``. Deviation: cosines of the
      dictionaries instead of correlations of codes.
    """
    filters, atoms = checked_dictionaries(filters, atoms)
    cosines = _absolute_cosines(filters, atoms)
    pairs = jax.ShapeDtypeStruct((2, min(cosines.shape)), jnp.int32)
    fixed = jax.lax.stop_gradient(cosines)
    chosen = jax.pure_callback(_match, pairs, fixed, vmap_method="sequential")
    return jnp.mean(cosines[chosen[0], chosen[1]]).astype(jnp.result_type(filters, atoms))


def nearest_atoms(
    filters: Float[AnyArray, "k d"], atoms: Float[AnyArray, "m d"]
) -> Int[Array, " k"]:
    """Returns for each unit the atom that its filter is nearest to, by the absolute cosine.

    The number of different atoms over that of the units is the uniqueness of a dictionary: 1 if no
    two units stand for the same atom.

    Args:
      filters: learned dictionary ``(k, d)``, one row for each unit.
      atoms: known dictionary ``(m, d)``.

    Returns:
      Positions in ``atoms``, int32 ``(k,)``; among equals the first one.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if they are no matrices of the same d, empty or not finite.

    Example:
      >>> nearest_atoms(jnp.array([[1.0, 2.0], [-3.0, 0.0]]), jnp.eye(2)).tolist()
      [1, 0]

    References:
      Chanin et al., SAELens, ``feature_uniqueness``, https://github.com/decoderesearch/SAELens.
      Deviation: none.
    """
    cosines = _absolute_cosines(*checked_dictionaries(filters, atoms))
    return jnp.argmax(cosines, axis=1).astype(jnp.int32)


def uniqueness(filters: Float[AnyArray, "k d"], atoms: Float[AnyArray, "m d"]) -> Float[Array, ""]:
    """Returns the number of different atoms that the units stand for, over the number of units.

    A unit stands for the atom that :func:`nearest_atoms` returns.

    Args:
      filters: learned dictionary ``(k, d)``, one row for each unit.
      atoms: known dictionary ``(m, d)``.

    Returns:
      A SCALAR in (0, 1]; 1 if no two units stand for the same atom.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if they are no matrices of the same d, empty or not finite.

    Example:
      >>> float(uniqueness(jnp.array([[2.0, 0.1], [3.0, 0.0]]), jnp.eye(2)))
      0.5

    References:
      Chanin et al., SAELens, ``feature_uniqueness``, https://github.com/decoderesearch/SAELens.
      Deviation: none.
    """
    filters, atoms = checked_dictionaries(filters, atoms)
    nearest = nearest_atoms(filters, atoms)
    is_taken = jnp.zeros(atoms.shape[0], bool).at[nearest].set(True)
    dtype = jnp.result_type(filters, atoms)
    return (jnp.sum(is_taken, dtype=jnp.float32) / nearest.size).astype(dtype)


def unit_counts(
    code: Float[AnyArray, "*batch k"],
    truth: Float[AnyArray, "*batch m"],
    nearest: Int[AnyArray, " k"],
) -> UnitCounts:
    """Returns how well each unit tells whether its atom is part of an example.

    Precision, recall and F1 of the units are properties of what is returned.

    Args:
      code: codes of a batch ``(*batch, k)``, floating.
      truth: strength of each atom in the same examples ``(*batch, m)``, 0 where it is not there.
      nearest: the atom of each unit ``(k,)``, integers, as of :func:`nearest_atoms`.

    Returns:
      A :class:`UnitCounts` of the batch; those of several batches add up.

    Raises:
      TypeError: if an array has the wrong type.
      ValueError: if the shapes do not fit or a value is not finite.

    Example:
      >>> code, truth = jnp.array([[1.0], [2.0], [0.0]]), jnp.array([[5.0], [0.0], [6.0]])
      >>> unit_counts(code, truth, jnp.array([0])).f1.tolist()
      [0.5]

    References:
      Chanin et al., SAELens, ``ClassificationMetricsCalculator``,
      https://github.com/decoderesearch/SAELens. Deviation: none.
    """
    code, truth = _checks.codes(code), _checks.floating("truth", truth)
    nearest = _checks.array("nearest", nearest)
    if not jnp.issubdtype(nearest.dtype, jnp.integer):
        raise TypeError(f"nearest must be integers, but its dtype is {nearest.dtype}")
    _checks.one_per_unit("nearest", nearest, code)
    _checks.same_batch("truth", _checks.codes(truth, name="truth"), "code", code)
    is_active, is_there = code != 0, (truth != 0)[..., nearest]
    axes = tuple(range(code.ndim - 1))

    def count(condition: Array) -> Array:
        return jnp.sum(condition, axis=axes, dtype=jnp.float32)

    return UnitCounts(
        count(is_active & is_there), count(is_active & ~is_there), count(~is_active & is_there)
    )


def _match(scores: AnyArray) -> np.ndarray:
    """Returns rows and columns of the one-to-one matching with the largest sum."""
    from scipy.optimize import linear_sum_assignment  # JAX needs SciPy; it takes time to import

    pairs = linear_sum_assignment(np.nan_to_num(np.asarray(scores)), maximize=True)
    return np.stack(pairs).astype(np.int32)


def _share(part: Array, whole: Array) -> Array:
    """Returns ``part / whole``, and 0 where both are 0."""
    return part / jnp.where(whole > 0, whole, 1)


def _absolute_cosines(filters: Array, atoms: Array) -> Array:
    """Returns ``(k, m)``: the absolute cosine of every filter with every atom."""
    rows = [unit_rows(_checks.widen(array)) for array in (filters, atoms)]
    with jax.default_matmul_precision("highest"):
        return jnp.abs(jnp.inner(*rows))
