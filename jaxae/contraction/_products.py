"""Products of constant and per-example matrices, and their squared Frobenius norms.

A factor of a Jacobian is ``diag(rows) core diag(cols)``. Under ``jax.vmap`` over examples the
diagonals differ from example to example, while a core that no diagonal has been multiplied into
stays one matrix for the whole batch. Nothing here knows where the matrices come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array

# Gram matrices and products with them get all the digits of their dtype, also where the device has
# faster products with fewer: their entries hold squares, and the norm is a sum of such terms, of
# which large ones may cancel.
_matmul = partial(jnp.matmul, precision="highest")

# The name of per-example products, for ``jax.checkpoint``.
PRODUCT = "jaxae product"

# A map without a matrix is written out as one, column by column, up to so many entries: 0.5 MiB in
# float32, which stays in the cache of one core, so that the work to write it does not matter.
_MAX_DENSE_ENTRIES = 2**17

# Terms that cancel are replaced by a sum of squares once they are so many times as large as the
# result. A result of float32 (24 bits, relative rounding 6e-8) is then known to 6e-8 * 1e4 = 6e-4.
CANCELLATION = 1e4

# A symmetric product is done in blocks, three of four, only if a block has so many columns: with
# less to save, it does not pay for two more products to compile and to start.
_MIN_BLOCK_COLUMNS = 384


class Linear(NamedTuple):
    """A linear map from arrays of shape ``inputs`` to ``outputs``; constant unless ``varies``."""

    apply: Callable[[Array], Array]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    flops: float
    """Floating point operations of one application."""
    matrix: Callable[[], Array] | None = None
    """(outputs, inputs), where it can be read off."""
    row_norms: Callable[[DTypeLike], Array] | None = None
    """From a dtype to the squared norms of the rows, where they can be had without a matrix."""
    map_of_squared_entries: Callable[[Array], Array] | None = None
    """The map whose matrix has the squared entries, where it can be read off.

    Of ones it gives the squared norms of the rows, without any matrix being written.
    """
    selects: bool = False
    """Whether every output is one of the inputs, or 0."""
    injective: bool = False
    """Whether, besides, no input is used twice."""
    reshapes: bool = False
    """Whether, besides, nothing changes but the shape."""
    varies: bool = False
    """Whether the map depends on the example: that of a segment, which has its arrays bound."""

    @property
    def is_applied(self) -> bool:
        """Whether the map is applied to rows and columns, because its matrix would be large."""
        size = math.prod(self.inputs) * math.prod(self.outputs)
        is_large = self.matrix is None and not self.reshapes and size > _MAX_DENSE_ENTRIES
        return is_large or self.varies

    def apply_transpose(self, cotangent: Array) -> Array:
        """Returns the transposed map of an array of shape ``outputs``."""
        example = jax.ShapeDtypeStruct(self.inputs, cotangent.dtype)
        (result,) = jax.linear_transpose(self.apply, example)(cotangent)
        return result

    def transpose(self) -> Linear:
        """Returns the transposed map."""
        matrix = self.matrix

        def transposed_matrix() -> Array:
            assert matrix is not None
            return matrix().T

        return Linear(
            self.apply_transpose,
            self.outputs,
            self.inputs,
            self.flops,
            None if matrix is None else transposed_matrix,
            reshapes=self.reshapes,
            varies=self.varies,
        )

    def then(self, other: Linear) -> Linear:
        """Returns ``other`` after this map."""
        map_of_squared_entries = None
        # Squares of sums are no sums of squares. But if one of the two maps only selects, every
        # entry of the product is a single term, and its square is the product of the squares.
        if (
            self.map_of_squared_entries
            and other.map_of_squared_entries
            and (other.selects or self.injective)
        ):
            map_of_squared_entries = _compose(
                self.map_of_squared_entries, other.map_of_squared_entries
            )
        return Linear(
            _compose(self.apply, other.apply),
            self.inputs,
            other.outputs,
            self.flops + other.flops,
            other.matrix if self.reshapes else self.matrix if other.reshapes else None,
            other.row_norms if self.reshapes else self.row_norms if other.reshapes else None,
            map_of_squared_entries,
            selects=self.selects and other.selects,
            injective=self.injective and other.injective,
            reshapes=self.reshapes and other.reshapes,
        )


def selection(
    apply: Callable[[Array], Array],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    injective: bool = False,
    reshapes: bool = False,
) -> Linear:
    """Returns a map every output of which is one of the inputs, or 0."""
    # Its matrix has entries 0 and 1, which are their own squares.
    return Linear(
        apply,
        inputs,
        outputs,
        0.0,
        map_of_squared_entries=apply,
        selects=True,
        injective=injective,
        reshapes=reshapes,
    )


def identity(shape: tuple[int, ...]) -> Linear:
    """Returns the map that changes nothing."""
    return selection(lambda v: v, shape, shape, injective=True, reshapes=True)


def _compose(
    first: Callable[[Array], Array], second: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """Returns the function that applies ``first``, then ``second``."""
    return lambda v: second(first(v))


class ScaledMatrix(NamedTuple):
    """The matrix ``diag(rows) core diag(cols)``; None is a diagonal of ones."""

    core: Array | Linear
    rows: Array | None = None
    cols: Array | None = None

    def to_array(self, dtype: DTypeLike, scale: Array | None = None) -> Array:
        """Returns the matrix itself, times ``diag(scale)`` on the right."""
        matrix = _scale_columns(
            dense_matrix(self.core, dtype), multiply_diagonals(self.cols, scale)
        )
        return matrix if self.rows is None else matrix * self.rows[:, None]


def dense_matrix(core: Array | Linear, dtype: DTypeLike) -> Array:
    """Returns a core as a matrix ``(outputs, inputs)``."""
    if not isinstance(core, Linear):
        return core
    if core.matrix is not None:
        return core.matrix().astype(dtype)
    if core.reshapes:
        return jnp.eye(math.prod(core.inputs), dtype=dtype)
    size = math.prod(core.inputs)
    columns = jax.vmap(core.apply)(jnp.eye(size, dtype=dtype).reshape(size, *core.inputs))
    return columns.reshape(size, math.prod(core.outputs)).T


def jacobian_matrix(linear: Linear, dtype: DTypeLike, *, is_reverse: bool) -> Array:
    """Returns the matrix of a map, by columns, or in reverse by rows."""
    if not is_reverse:
        return checkpoint_name(dense_matrix(linear, dtype), PRODUCT)
    return checkpoint_name(dense_matrix(linear.transpose(), dtype).T, PRODUCT)


def multiply(
    left: ScaledMatrix, right: ScaledMatrix, dtype: DTypeLike, *, is_exact: bool = False
) -> ScaledMatrix:
    """Returns the product of two matrices; a large map without a matrix is applied instead.

    The outer diagonals are not multiplied in: they are the diagonals of the result.
    """
    between = multiply_diagonals(left.cols, right.rows)
    if isinstance(right.core, Linear) and right.core.is_applied:
        # A W has the rows W^T a.
        rows = _scale_columns(dense_matrix(left.core, dtype), between)
        given = rows.reshape(len(rows), *right.core.outputs)
        core = jax.vmap(right.core.apply_transpose)(given)
        core = core.reshape(len(rows), math.prod(right.core.inputs))
    elif isinstance(left.core, Linear) and left.core.is_applied:
        # W B has the columns W b.
        columns = _scale_columns(dense_matrix(right.core, dtype).T, between)
        given = columns.reshape(len(columns), *left.core.inputs)
        core = jax.vmap(left.core.apply)(given)
        core = core.reshape(len(columns), math.prod(left.core.outputs)).T
    else:
        scaled = _scale_columns(dense_matrix(left.core, dtype), between)
        product = _matmul if is_exact else jnp.matmul
        core = product(scaled, dense_matrix(right.core, dtype))
    return ScaledMatrix(checkpoint_name(core, PRODUCT), left.rows, right.cols)


def squared_norm(matrix: ScaledMatrix, dtype: DTypeLike) -> Array:
    """Returns the squared Frobenius norm of diag(rows) core diag(cols).

    It is sum_j rows_j^2 sum_i core_ji^2 cols_i^2. The inner sum is constant if there are no
    columns to scale; then an example costs a scalar product with the row norms, and no more. Of a
    convolution no matrix is formed: the same convolution with squared weights gives the sums.
    """
    core, rows, cols = matrix
    if isinstance(core, Linear) and core.row_norms is not None and cols is None:
        row_norms = core.row_norms(dtype)
    elif isinstance(core, Linear) and core.map_of_squared_entries is not None:
        weights = jnp.ones(core.inputs, dtype) if cols is None else jnp.square(cols)
        row_norms = core.map_of_squared_entries(weights.reshape(core.inputs)).reshape(-1)
    else:
        squares = jnp.square(dense_matrix(core, dtype))
        row_norms = jnp.sum(squares, -1) if cols is None else squares @ jnp.square(cols)
    return jnp.sum(row_norms) if rows is None else jnp.vdot(row_norms, jnp.square(rows))


def gram(matrix: ScaledMatrix, dtype: DTypeLike) -> Array:
    """Returns the G of M M^T = diag(rows) G diag(rows)."""
    product = _gram_of_array(_scale_columns(dense_matrix(matrix.core, dtype), matrix.cols))
    return checkpoint_name(product, PRODUCT)


def norm_by_gram(
    matrix: ScaledMatrix, other: ScaledMatrix, dtype: DTypeLike
) -> tuple[Array, Array]:
    """Returns the squared norm of M R from M and R R^T, and a bound on the size of its terms.

    The squared norm is <M, M R R^T>, and by Cauchy and Schwarz at most ||M||^2 ||R R^T||. The value
    can be far below the bound only if terms of different sign cancel.
    """
    core, symmetric = matrix.to_array(dtype, other.rows), dense_matrix(other.core, dtype)
    size = jnp.sqrt(jnp.sum(jnp.square(symmetric)))
    return jnp.vdot(core, _matmul(core, symmetric)), jnp.sum(jnp.square(core)) * size


def norm_by_grams(left: ScaledMatrix, right: ScaledMatrix, dtype: DTypeLike) -> tuple[Array, Array]:
    """Returns the squared norm of L R from L^T L and R R^T, and a bound on the size of its terms.

    The squared norm is the trace of R^T L^T L R, which is <L^T L, R R^T>.
    """
    a, b = dense_matrix(left.core, dtype), dense_matrix(right.core, dtype)
    scale = multiply_diagonals(left.rows, right.rows)
    sizes = jnp.sum(jnp.square(a)), jnp.sum(jnp.square(b))
    if scale is None:
        return jnp.vdot(a, b), jnp.sqrt(sizes[0] * sizes[1])
    # diag(s) A diag(s) against B is s^T (A * B) s, so that neither matrix is scaled for an example.
    bound = jnp.sqrt(jnp.vdot(jnp.square(scale), jnp.square(a) @ jnp.square(scale)) * sizes[1])
    return jnp.vdot(scale, _matmul(a * b, scale)), bound


@jax.custom_jvp
def _gram_of_array(matrix: Array) -> Array:
    """Returns M M^T."""
    return _matmul(matrix, matrix.T)


@_gram_of_array.defjvp
def _gram_of_array_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (d_matrix,) = primals, tangents
    half = _matmul(d_matrix, matrix.T)
    # Transposed this is one product, (T + T^T) M; that of the plain expression is two.
    return _gram_of_array(matrix), half + half.T


@jax.custom_jvp
def square_root_of_gram(matrix: Array) -> Array:
    """Returns a square R with R R^T = M M^T, for an M with at least as many columns as rows.

    R = M Q, where the columns of Q are an orthonormal basis of the rows of M. Its derivative is
    that for constant Q: then R R^T has the derivative of M M^T, also where M has not full rank
    and the decomposition has none. The second derivative would be wrong, and raises an error.
    """
    return _matmul(matrix, _basis_of_rows(matrix))


@square_root_of_gram.defjvp
def _square_root_of_gram_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (d_matrix,) = primals, tangents
    return square_root_of_gram(matrix), _matmul(d_matrix, _basis_of_rows(matrix))


@jax.custom_jvp
def _basis_of_rows(matrix: Array) -> Array:
    """Returns an orthonormal basis of the rows of a matrix, as columns."""
    return jnp.linalg.qr(matrix.T)[0]


@_basis_of_rows.defjvp
def _basis_of_rows_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    raise NotImplementedError(
        "an estimate of the contractive penalty has no second derivatives in the weights of the "
        "first and the last layer; contractive_penalty(encode, x) has them"
    )


@jax.custom_jvp
def norms_of_products(matrices: Array, symmetric: Array, right: Array) -> Array:
    """Returns the squared norms ``(n,)`` of M R for matrices M ``(n, k, m)`` and one R ``(m, d)``.

    They are <M, M S> with S = R R^T = ``symmetric``, from which the derivative in R comes as well,
    so that no product has d columns; unless they are so small that rounding errors of the terms
    would show. Then they are sums of squares. The derivative in R is rounded in proportion to
    ||M||^2 ||R|| in either case.
    """
    return _norms_and_products(matrices, symmetric, right)[0]


@norms_of_products.defjvp
def _norms_of_products_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    (matrices, symmetric, right), (d_matrices, d_symmetric, _) = primals, tangents
    norms, products = _norms_and_products(matrices, symmetric, right)
    # The tangent of R is left out on purpose: R enters the value through S alone, and the tangent
    # of S brings the derivative in R.
    # S is symmetric, so the gradient in M is twice the product that the value needs anyway.
    along_matrices = 2 * _inner_products(products, d_matrices)
    return norms, along_matrices + _quadratic_form(matrices, d_symmetric)


def _norms_and_products(matrices: Array, symmetric: Array, right: Array) -> tuple[Array, Array]:
    """Returns the squared norms of M R, and M S."""
    products = _matmul(matrices, symmetric)
    norms = _inner_products(matrices, products)
    terms = _inner_products(matrices, matrices) * jnp.sqrt(jnp.sum(jnp.square(symmetric)))

    def squares_and_products(matrix: Array) -> tuple[Array, Array]:
        whole = _matmul(matrix, right)
        return _inner_products(whole, whole), _matmul(whole, right.T)

    def squares() -> tuple[Array, Array]:
        inner, inputs = right.shape
        # The program reserves memory for this too: at most sixteen times that of the matrices.
        at_once = 16 * len(matrices) * inner // max(1, inputs)
        if at_once >= len(matrices) or inner == 0:
            return squares_and_products(matrices)
        return jax.lax.map(squares_and_products, matrices, batch_size=max(1, at_once))

    # One decision for the whole group: a choice for each example would compute both branches.
    is_safe = jnp.all(terms <= CANCELLATION * norms)
    norms, products = jax.lax.cond(is_safe, lambda: (norms, products), squares)
    return norms, checkpoint_name(products, PRODUCT)


def _quadratic_form(matrices: Array, tangent: Array) -> Array:
    """Returns <M, M T>, from the blocks of T + T^T on and above its diagonal.

    It is linear in T, and is here for its transpose: the sum of M^T M over all examples, a single
    contraction of which the block below the diagonal is not multiplied, because it is the
    transpose of the one above.
    """
    size = matrices.shape[-1]
    if size < 2 * _MIN_BLOCK_COLUMNS:
        return _inner_products(_matmul(matrices, tangent), matrices)
    first, last = jnp.s_[..., : size // 2], jnp.s_[..., size // 2 :]
    # <M, M T> has T_12 and T_21 only in the sum T_12 + T_21^T.
    across = tangent[first][size // 2 :].T + tangent[last][: size // 2]
    blocks = [
        (first, first, tangent[first][: size // 2]),
        (first, last, across),
        (last, last, tangent[last][size // 2 :]),
    ]
    parts = [_inner_products(_matmul(matrices[p], block), matrices[q]) for p, q, block in blocks]
    return parts[0] + parts[1] + parts[2]


def _inner_products(a: Array, b: Array) -> Array:
    """Returns the inner products of matrices ``(..., k, m)``, ``(...,)``."""
    return jnp.sum(a * b, axis=(-2, -1))


def _scale_columns(matrix: Array, scale: Array | None) -> Array:
    """Returns the matrix times a diagonal on the right."""
    return matrix if scale is None else matrix * scale[None, :]


def multiply_diagonals(a: Array | None, b: Array | None) -> Array | None:
    """Returns the product of two diagonals."""
    return b if a is None else a if b is None else a * b
