"""The filters of a decoder, its rows: checks of them, and their norms."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxae import _checks
from jaxae._checks import AnyArray


def checked_decoder(code: Array, decoder: AnyArray) -> Array:
    """Returns ``decoder`` if it has one row for each unit of ``code``."""
    decoder = _checks.floating("decoder", decoder)
    if decoder.ndim != 2 or decoder.shape[0] != code.shape[-1]:
        raise ValueError(
            f"decoder must be filters (k, d) with k = {code.shape[-1]} as in code, "
            f"but its shape is {decoder.shape}"
        )
    return decoder


def checked_dictionaries(filters: AnyArray, atoms: AnyArray) -> tuple[Array, Array]:
    """Returns two dictionaries whose rows can be compared."""
    filters, atoms = _checks.floating("filters", filters), _checks.floating("atoms", atoms)
    shapes = [filters.shape, atoms.shape]
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"filters and atoms must be (k, d) and (m, d), but their shapes are {shapes}"
        )
    return filters, atoms


def row_norms(rows: Array) -> Array:
    """Returns the Euclidean norm of each row, with the derivative 0 at a row of 0."""
    squared = jnp.sum(rows * rows, axis=-1)
    is_zero = squared == 0  # where the square root has no derivative
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))


def unit_rows(rows: Array) -> Array:
    """Returns rows of norm 1, or 0 where a row is 0."""
    norms = row_norms(rows)[:, None]
    return rows / jnp.where(norms > 0, norms, 1)
