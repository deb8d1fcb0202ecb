r"""Decoding from the active units alone, for dictionaries that are much wider than their codes.

Contract of this module. A sparse code is two arrays ``(*batch, k)``: the values of k units, and the
numbers of these units. The cost of decoding does not depend on how many units there are.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxae import _checks
from jaxae._checks import AnyArray


def sparse_decode(
    values: Float[AnyArray, "*batch k"],
    indices: Int[AnyArray, "*batch k"],
    decoder: Float[AnyArray, "units d"],
) -> Float[Array, "*batch d"]:
    r"""Returns the sum of a few rows of a decoder, each times the value of its unit.

    .. math:: \hat x = \sum_{j=1}^k v_j \, W_{i_j}

    with v = ``values``, i = ``indices`` and W = ``decoder``. Value and gradient are those of the
    product of the whole code ``(*batch, units)`` with the decoder, for ``k * d`` products per
    example instead of ``units * d``. In memory there are the gathered rows ``(*batch, k, d)``, and
    not the code. A unit that comes twice counts twice. No bias is added.

    ``jax.lax.top_k`` returns the first two arguments. For codes of :func:`jaxae.batch_top_k`, which
    have more active units in some examples than in others, take as many as the largest number in an
    example: the values of the rest are 0 and add nothing.

    Args:
      values: values of the units ``(*batch, k)``, floating.
      indices: their numbers ``(*batch, k)``, integers from 0 to ``units - 1``.
      decoder: filters ``(units, d)``, one row for each unit.

    Returns:
      Unit of ``values`` times that of ``decoder``, shape ``(*batch, d)``. NaN where a traced index
      is ``units`` or more.

    Raises:
      TypeError: if ``values`` or ``decoder`` is not floating point, or ``indices`` no integers.
      ValueError: if the shapes do not fit, an index is out of range, or a value is not finite.

    Example:
      >>> import jax
      >>> pre, decoder = jnp.array([3.0, -1.0, 2.0]), jnp.array([[1.0], [5.0], [10.0]])
      >>> values, indices = jax.lax.top_k(jax.nn.relu(pre), 2)
      >>> sparse_decode(values, indices, decoder).tolist()
      [23.0]

    References:
      Gao et al. 2024, appendix D, https://arxiv.org/abs/2406.04093. Deviation: gather and sum
      instead of a kernel of its own.
    """
    values, decoder = _checks.floating("values", values), _checks.floating("decoder", decoder)
    if values.ndim == 0:
        raise ValueError("values must have a last axis of active units, but it is a scalar")
    if decoder.ndim != 2:
        raise ValueError(f"decoder must be filters (units, d), but its shape is {decoder.shape}")
    indices = _checked_indices(indices, values.shape, len(decoder))
    rows = decoder.at[indices].get(mode="fill")  # fills with NaN
    dtype = jnp.result_type(values, decoder)
    wide = _checks.wide(dtype)
    summed = jnp.einsum("...k,...kd->...d", values, rows, preferred_element_type=wide)
    return summed.astype(dtype)


def _checked_indices(indices: AnyArray, shape: tuple[int, ...], units: int) -> Array:
    """Returns ``indices`` if they are integers of this shape, each of them one of the units."""
    indices = _checks.array("indices", indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"indices must be integers, but the dtype is {indices.dtype}")
    if indices.shape != shape:
        raise ValueError(
            f"indices must have the shape of values, {shape}, but the shape is {indices.shape}"
        )
    if not _checks.is_traced(indices):
        known = _checks.visible(indices)
        if known.size and (known.min() < 0 or known.max() >= units):
            raise ValueError(
                f"indices must be from 0 to {units - 1}, because decoder has {units} rows, "
                f"but they are from {known.min()} to {known.max()}"
            )
    return indices
