"""The cost model of the search: what a product, a number and a convolution cost.

Where the constants come from is said in ``docs/contraction.md``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# The search minimises the work per example, of value and gradient together. Its unit is one
# floating point operation (an addition or a multiplication) of a matrix product.

# Work to write one number and to read it again. A matrix product does hundreds of operations for
# each number that it moves, an elementwise operation does one and waits for the memory.
NUMBER_COST = 32
# A matrix that is written counts three times: itself, the copy that is scaled by a diagonal or kept
# for the gradient, and the derivative of the loss in it.
WRITES_WITH_GRADIENT = 3
# Work of one operation of a map that is applied, such as a convolution: its loops are shorter, and
# reach less of the speed of the processor than a matrix product does.
APPLIED_COST = 4
# Work of one operation with all digits of float32 where products are rounded by default: a GPU does
# it outside its matrix units, a TPU makes six products of bfloat16 of it.
_EXACT_COST = 6
# The settings of ``jax_default_matmul_precision`` with which no product is rounded.
_EXACT_SETTINGS = ("highest", "float32", "F32_F32_F32", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9")

# How many products as large as that of the value are done in all, with the gradient.
# Of C = A B: C, and the derivatives in A and in B. A Gram matrix A A^T is counted the same.
PRODUCTS_OF_A_PRODUCT = 3.0
# Of <X, X S> with symmetric S: X S, and X^T X for S; the derivative in X is 2 X S again.
PRODUCTS_OF_A_NORM_BY_GRAM = 2.0
# Of <T, S>: the sum itself, and the derivatives in T and in S.
PRODUCTS_OF_A_NORM_BY_GRAMS = 3.0
# A sum of squares has two operations for each entry. It reads the entry and writes nothing, which
# is half of the work of a number: two operations at a quarter each.
SQUARE_COST = NUMBER_COST / 4

# The same for the operations of a derivative along one direction. The numbers that it writes take
# longer than those of a product, because each passes through several operations one by one.
DERIVATIVE_NUMBER_COST = 80
# Work of one comparison in a window, where a pooling looks for the entry that it has chosen.
WINDOW_COST = 700
# How many numbers are held for the gradient, for each that a derivative writes (the compiler fuses
# some operations) and for each comparison.
HELD_PER_NUMBER = 0.7
HELD_PER_COMPARISON = 6


class Cost(NamedTuple):
    """What a matrix costs per example; a constant one is shared among the batch."""

    work: float = 0.0
    """With the gradient, in the unit above: the search minimises this."""
    flops: float = 0.0
    """Floating point operations of the value."""
    numbers: float = 0.0
    """Entries of per-example matrices that are held."""

    def plus(self, *others: Cost) -> Cost:
        return Cost(*(sum(column) for column in zip(self, *others, strict=True)))

    def minus(self, other: Cost) -> Cost:
        return Cost(*(a - b for a, b in zip(self, other, strict=True)))


class Counts(NamedTuple):
    """What a derivative along one direction does, as counted from its trace."""

    product_flops: float = 0.0
    """Floating point operations of matrix products."""
    applied_flops: float = 0.0
    """Floating point operations of convolutions, sums and other maps."""
    comparisons: float = 0.0
    """In the windows of a pooling that chooses entries."""
    numbers: float = 0.0
    """Numbers that are written."""

    def plus(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Counts:
        return Counts(*(factor * a for a in self))

    @property
    def flops(self) -> float:
        """Floating point operations of the value."""
        return sum(self)

    @property
    def held(self) -> float:
        """Numbers that are held for the gradient."""
        return HELD_PER_NUMBER * self.numbers + HELD_PER_COMPARISON * self.comparisons

    @property
    def work(self) -> float:
        """Of value and gradient, in the unit of the search."""
        operations = self.product_flops + APPLIED_COST * self.applied_flops
        operations += WINDOW_COST * self.comparisons
        numbers = WRITES_WITH_GRADIENT * DERIVATIVE_NUMBER_COST * self.numbers
        return PRODUCTS_OF_A_PRODUCT * operations + numbers


def exact_cost(dtype: DTypeLike) -> float:
    """Returns how many operations of a product of the default precision one exact one takes."""
    is_rounded = jax.default_backend() != "cpu" and jnp.dtype(dtype) == jnp.float32
    setting = jax.config.values["jax_default_matmul_precision"]
    return float(_EXACT_COST) if is_rounded and setting not in _EXACT_SETTINGS else 1.0
