"""Products of constant and per-example matrices, and their squared Frobenius norms.

A factor of a Jacobian is ``diag(rows) core diag(cols)``. Under ``jax.vmap`` over examples the
diagonals differ from example to example, while a core that no diagonal has been multiplied into
stays one matrix for the whole batch. Nothing here knows where the matrices come from.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

# The products whose result enters a square twice get all the digits of their dtype.
_matmul = partial(jnp.matmul, precision="highest")

# The name of per-example products, for ``jax.checkpoint``.
PRODUCT = "jaxae product"

# A map of so many entries is written out as a matrix even if that takes some work.
_SMALL = 2**17

# Rounding may cost this factor before a sum of terms that cancel is replaced by a sum of squares.
CANCELLATION = 1e4

# Blocks of at least this many columns are worth a product of their own.
_MIN_BLOCK = 384


class Linear(NamedTuple):
    """A constant linear map from arrays of shape ``inputs`` to arrays of shape ``outputs``."""

    apply: Callable[[Array], Array]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    flops: float
    """Of one application."""
    matrix: Callable[[], Array] | None = None
    """(outputs, inputs), where it can be read off."""
    row_norms: Callable[[Any], Array] | None = None
    """From a dtype to the squared norms of the rows, where they can be had without a matrix."""
    squared: Callable[[Array], Array] | None = None
    """The map whose matrix has the squared entries, where it can be read off."""
    selects: bool = False
    """Whether every output is one of the inputs, or 0."""
    injective: bool = False
    """Whether, besides, no input is used twice."""
    reshapes: bool = False
    """Whether, besides, nothing changes but the shape."""

    @property
    def is_applied(self) -> bool:
        """Whether the map is applied to rows and columns, because its matrix would be large."""
        size = math.prod(self.inputs) * math.prod(self.outputs)
        return self.matrix is None and not self.reshapes and size > _SMALL

    def transposed(self, ct: Array) -> Array:
        """Returns the transposed map of an array of shape ``outputs``."""
        (result,) = jax.linear_transpose(self.apply, jax.ShapeDtypeStruct(self.inputs, ct.dtype))(
            ct
        )
        return result

    def flipped(self) -> "Linear":
        """Returns the transposed map."""
        matrix = self.matrix
        return Linear(
            self.transposed,
            self.outputs,
            self.inputs,
            self.flops,
            matrix and (lambda: matrix().T),
            reshapes=self.reshapes,
        )

    def then(self, other: "Linear") -> "Linear":
        """Returns ``other`` after this map."""
        squared = None
        # Every entry of the product is one term, so that squaring goes through.
        if self.squared and other.squared and (other.selects or self.injective):
            squared = _after(self.squared, other.squared)
        return Linear(
            _after(self.apply, other.apply),
            self.inputs,
            other.outputs,
            self.flops + other.flops,
            other.matrix if self.reshapes else self.matrix if other.reshapes else None,
            other.row_norms if self.reshapes else self.row_norms if other.reshapes else None,
            squared,
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
    options = {"selects": True, "injective": injective, "reshapes": reshapes}
    return Linear(apply, inputs, outputs, 0.0, squared=apply, **options)  # type: ignore[arg-type]


def identity(shape: tuple[int, ...]) -> Linear:
    """Returns the map that changes nothing."""
    return selection(lambda v: v, shape, shape, injective=True, reshapes=True)


def _after(first: Callable[[Array], Array], then: Callable[[Array], Array]) -> Any:
    return lambda v: then(first(v))


class Scaled(NamedTuple):
    """The matrix ``diag(rows) core diag(cols)``; None is a diagonal of ones."""

    core: Array | Linear
    rows: Array | None = None
    cols: Array | None = None

    def written(self, dtype: Any, scale: Array | None = None) -> Array:
        """Returns the matrix itself, times ``diag(scale)`` on the right."""
        matrix = _scale_columns(dense(self.core, dtype), times(self.cols, scale))
        return matrix if self.rows is None else matrix * self.rows[:, None]


def dense(core: Array | Linear, dtype: Any) -> Array:
    """Returns a core as a matrix ``(outputs, inputs)``."""
    if not isinstance(core, Linear):
        return core
    if core.matrix is not None:
        # The barrier keeps a transposition out of the loops over examples that follow.
        return jax.lax.optimization_barrier(core.matrix().astype(dtype))
    if core.reshapes:
        return jnp.eye(math.prod(core.inputs), dtype=dtype)
    size = math.prod(core.inputs)
    columns = jax.vmap(core.apply)(jnp.eye(size, dtype=dtype).reshape(size, *core.inputs))
    return columns.reshape(size, math.prod(core.outputs)).T


def multiply(left: Scaled, right: Scaled, dtype: Any) -> Scaled:
    """Returns the product of two matrices; maps without a matrix are applied where they can."""
    between = times(left.cols, right.rows)
    if isinstance(right.core, Linear) and right.core.is_applied:
        rows = _scale_columns(dense(left.core, dtype), between)
        given = rows.reshape(len(rows), *right.core.outputs)
        core = jax.vmap(right.core.transposed)(given)
        core = core.reshape(len(rows), math.prod(right.core.inputs))
    elif isinstance(left.core, Linear) and left.core.is_applied:
        columns = _scale_columns(dense(right.core, dtype).T, between)
        given = columns.reshape(len(columns), *left.core.inputs)
        core = jax.vmap(left.core.apply)(given)
        core = core.reshape(len(columns), math.prod(left.core.outputs)).T
    else:
        core = _scale_columns(dense(left.core, dtype), between) @ dense(right.core, dtype)
    return Scaled(checkpoint_name(core, PRODUCT), left.rows, right.cols)


def squared_norm(matrix: Scaled, dtype: Any) -> Array:
    """Returns the squared Frobenius norm; of a constant core no product per example."""
    core, rows, cols = matrix
    if isinstance(core, Linear) and core.row_norms is not None and cols is None:
        of_rows = core.row_norms(dtype)
    elif isinstance(core, Linear) and core.squared is not None:
        weights = jnp.ones(core.inputs, dtype) if cols is None else jnp.square(cols)
        of_rows = core.squared(weights.reshape(core.inputs)).reshape(-1)
    else:
        squares = jnp.square(dense(core, dtype))
        of_rows = jnp.sum(squares, -1) if cols is None else squares @ jnp.square(cols)
    return jnp.sum(of_rows) if rows is None else jnp.vdot(of_rows, jnp.square(rows))


def gram(matrix: Scaled, dtype: Any) -> Array:
    """Returns the G of M M^T = diag(rows) G diag(rows)."""
    product = _gram(_scale_columns(dense(matrix.core, dtype), matrix.cols))
    return checkpoint_name(product, PRODUCT)


def norm_by_gram(matrix: Scaled, other: Scaled, dtype: Any) -> tuple[Array, Array]:
    """Returns the squared norm of M R from M and R R^T, and how large its terms are."""
    core, symmetric = matrix.written(dtype, other.rows), dense(other.core, dtype)
    size = jnp.sqrt(jnp.sum(jnp.square(symmetric)))
    return jnp.vdot(core, _matmul(core, symmetric)), jnp.sum(jnp.square(core)) * size


def norm_by_grams(left: Scaled, right: Scaled, dtype: Any) -> tuple[Array, Array]:
    """Returns the squared norm of L R from L^T L and R R^T, and how large its terms are."""
    a, b = dense(left.core, dtype), dense(right.core, dtype)
    scale = times(left.rows, right.rows)
    sizes = jnp.sum(jnp.square(a)), jnp.sum(jnp.square(b))
    if scale is None:
        return jnp.vdot(a, b), jnp.sqrt(sizes[0] * sizes[1])
    bound = jnp.sqrt(jnp.vdot(jnp.square(scale), jnp.square(a) @ jnp.square(scale)) * sizes[1])
    return jnp.vdot(scale, _matmul(a * b, scale)), bound


@jax.custom_jvp
def _gram(matrix: Array) -> Array:
    return _matmul(matrix, matrix.T)


@_gram.defjvp
def _gram_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (d_matrix,) = primals, tangents
    half = _matmul(d_matrix, matrix.T)
    # Transposed this is one product, (T + T^T) M; that of the plain expression is two.
    return _gram(matrix), half + half.T


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
def _norms_of_products_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (matrices, symmetric, right), (d_matrices, d_symmetric, _) = primals, tangents
    norms, products = _norms_and_products(matrices, symmetric, right)
    # S is symmetric, so the gradient in M is twice the product that the value needs anyway.
    along_matrices = 2 * _inner(products, d_matrices)
    return norms, along_matrices + _upper(matrices, d_symmetric)


def _norms_and_products(matrices: Array, symmetric: Array, right: Array) -> tuple[Array, Array]:
    """Returns the squared norms of M R, and M S."""
    products = _matmul(matrices, symmetric)
    norms = _inner(matrices, products)
    terms = _inner(matrices, matrices) * jnp.sqrt(jnp.sum(jnp.square(symmetric)))

    def squares() -> tuple[Array, Array]:
        written = _matmul(matrices, right)
        return _inner(written, written), _matmul(written, right.T)

    is_safe = jnp.all(terms <= CANCELLATION * norms)
    norms, products = jax.lax.cond(is_safe, lambda: (norms, products), squares)
    return norms, checkpoint_name(products, PRODUCT)


def _upper(matrices: Array, tangent: Array) -> Array:
    """Returns <M, M T>, multiplied out for the blocks on and above the diagonal of T + T^T.

    Linear in T. Transposed it is the sum of M^T M over the examples in a single contraction, of
    which the lower block is not multiplied.
    """
    size = matrices.shape[-1]
    if size < 2 * _MIN_BLOCK:
        return _inner(_matmul(matrices, tangent), matrices)
    first, last = jnp.s_[..., : size // 2], jnp.s_[..., size // 2 :]
    across = tangent[first][size // 2 :].T + tangent[last][: size // 2]
    blocks = [
        (first, first, tangent[first][: size // 2]),
        (first, last, across),
        (last, last, tangent[last][size // 2 :]),
    ]
    parts = [_inner(_matmul(matrices[p], block), matrices[q]) for p, q, block in blocks]
    return parts[0] + parts[1] + parts[2]


def _inner(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=(-2, -1))


def _scale_columns(matrix: Array, scale: Array | None) -> Array:
    return matrix if scale is None else matrix * scale[None, :]


def times(a: Array | None, b: Array | None) -> Array | None:
    """Returns the product of two diagonals."""
    return b if a is None else a if b is None else a * b
