r"""Matryoshka dictionaries: every prefix of the units is a dictionary of its own.

Contract of this module. Units have an order. Losses over nested prefixes put what is general into
the first units, and what is special into the later ones, instead of splitting a general feature
into special ones as wide dictionaries do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import _checks
from jaxae._checks import AnyArray
from jaxae._filters import checked_decoder


def matryoshka_loss(
    code: Float[AnyArray, "*batch k"],
    decoder: Float[AnyArray, "k d"],
    x: Float[AnyArray, "*batch d"],
    *,
    prefixes: Sequence[int],
) -> Float[Array, "*batch"]:
    r"""Returns the squared errors of the reconstructions from nested prefixes of the code, summed.

    .. math:: \sum_{m \in M} \left\| x - \sum_{j \le m} z_j W_j \right\|^2

    with z = ``code``, W = ``decoder`` and M = ``prefixes``. The decoder is a matrix, so that all
    prefixes together cost one product with it: each one adds its block to the one before.

    Args:
      code: codes ``(*batch, k)`` after the choice of units, for example by :func:`batch_top_k`.
      decoder: filters ``(k, d)``, one row for each unit.
      x: targets minus the bias of the decoder, ``(*batch, d)``.
      prefixes: static numbers of units, rising, the last one k.

    Returns:
      Squared unit of ``x``, summed over features and prefixes, shape ``(*batch,)``.

    Raises:
      TypeError: if an array is not floating point or a prefix no integer.
      ValueError: if the shapes do not fit, ``prefixes`` do not rise to k, or a value is not finite.

    Example:
      >>> code, x = jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0])
      >>> float(matryoshka_loss(code, jnp.eye(2), x, prefixes=(1, 2)))
      4.0

    References:
      Bussmann, Nabeshima, Karvonen and Nanda 2025, "Learning Multi-Level Features with Matryoshka
      Sparse Autoencoders", https://arxiv.org/abs/2503.17547. Deviation: none.
    """
    code = _checks.codes(code)
    decoder, x = checked_decoder(code, decoder), _checks.floating("x", x)
    if x.shape != (*code.shape[:-1], decoder.shape[1]):
        raise ValueError(
            f"x must have shape {(*code.shape[:-1], decoder.shape[1])}, the batch of code and the "
            f"features of decoder, but its shape is {x.shape}"
        )
    dtype = jnp.result_type(code, decoder, x)
    wide = _checks.wide(dtype)
    residual, errors = x.astype(wide), []
    for begin, end in pairwise((0, *_checked_prefixes(prefixes, code.shape[-1]))):
        residual = residual - jnp.matmul(
            code[..., begin:end], decoder[begin:end], preferred_element_type=wide
        )
        errors.append(jnp.sum(residual * residual, axis=-1))
    return sum(errors[1:], errors[0]).astype(dtype)


def _checked_prefixes(prefixes: Sequence[int], units: int) -> list[int]:
    """Returns the sizes of the prefixes, which rise to the number of units."""
    sizes = [
        _checks.integer(f"prefixes[{i}]", size, low=1, high=units)
        for i, size in enumerate(prefixes)
    ]
    if sizes != sorted(set(sizes)) or sizes[-1:] != [units]:
        raise ValueError(
            f"prefixes must rise to the number of units, {units}, but they are {sizes}"
        )
    return sizes
