r"""Random probes of a Jacobian: the mean of ||J v||^2 over random directions v is ||J||^2.

The directions are of the input or of the code, on the side that has fewer entries: ||J^T u||^2 has
the same mean. With as many probes as there are entries nothing is left to chance, so that fewer
entries mean less variance.

An encoder often begins or ends with a large constant matrix. J W has the same norm as J W Q, if the
columns of Q are an orthonormal basis of the rows of W. W Q is a square root of the Gram matrix
W W^T, as small as this, and is computed once for the whole batch. The probes then have the size of
the hidden layer (``with_small_ends``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from jaxae import _checks
from jaxae._batching import placed_as
from jaxae._derivatives import pullback, times_jacobian
from jaxae.contraction._chain import Factor, NotAChain
from jaxae.contraction._evaluate import ExampleValues, MatrixValues, codes_and_values
from jaxae.contraction._full import sum_of_squares
from jaxae.contraction._pooling import with_masked_pooling
from jaxae.contraction._products import Linear, dense_matrix, square_root_of_gram
from jaxae.contraction._trace import read_chain

PROBES = ("rademacher", "gaussian")
ESTIMATORS = ("hutchinson", "hutch++")


class Estimate(NamedTuple):
    """An unbiased estimate of :func:`jaxae.contractive_penalty`, and how far off it may be."""

    value: Array
    """Of every example, ``(*batch,)``."""
    standard_error: Array
    """The estimated standard deviation of ``value``, ``(*batch,)``."""


class Probing(NamedTuple):
    """How the Jacobian is probed."""

    estimator: str = "hutchinson"
    probes: str = "rademacher"
    num_samples: int = 1
    chunk_size: int | None = None
    """Directions at a time; None is all."""


class _ProbedMap(NamedTuple):
    """The Jacobian of one example or its transpose, as a map of directions."""

    apply: Callable[[Array], Array]
    apply_transpose: Callable[[Array], Array]
    inputs: jax.ShapeDtypeStruct
    outputs: jax.ShapeDtypeStruct

    def or_transpose(self) -> _ProbedMap:
        """Returns this map, or its transpose if that has fewer inputs."""
        return self.transpose() if self.outputs.size < self.inputs.size else self

    def transpose(self) -> _ProbedMap:
        """Returns the transposed map."""
        return _ProbedMap(self.apply_transpose, self.apply, self.outputs, self.inputs)

    def image(self, direction: Array) -> Array:
        """Returns the image of a direction, flat, in float32 at least."""
        given = direction.astype(self.inputs.dtype).reshape(self.inputs.shape)
        image = self.apply(given).reshape(-1)
        return image.astype(_checks.wide(image.dtype))


def keys_of_examples(key: PRNGKeyArray, batch: tuple[int, ...], flat: Array) -> Array:
    """Returns one key for every example of ``flat``."""
    # Split in the shape of the batch, as everywhere: the draws are those of ``split_keys``.
    keys = jax.random.split(key, batch).reshape(len(flat), *jnp.shape(key))
    return placed_as(keys, flat, 1)


def codes_and_estimates(
    encode: Callable[[Array], Array],
    example: jax.ShapeDtypeStruct,
    code: jax.ShapeDtypeStruct,
    probing: Probing,
    x: Array,
    keys: Array,
) -> tuple[Array, Estimate]:
    """Returns the codes ``(n, k)`` and the estimates ``(n,)`` of ``(n, *example)``."""
    dtype = _checks.wide(example.dtype, code.dtype)
    encode = with_masked_pooling(encode, example)
    try:
        chain = read_chain(encode, example)
        factors = with_small_ends(chain.factors, len(x) * probing.num_samples, dtype)
    except NotAChain:
        factors = None
    if factors is None:

        def estimate(x_i: Array, key: PRNGKeyArray) -> Estimate:
            return _estimate(_map_of_encoder(encode, x_i, code), probing, key)

        return jax.vmap(encode)(x), jax.vmap(estimate)(x, keys)
    codes, values = codes_and_values(chain, dtype, x)

    def estimate_by_factors(values: ExampleValues, key: PRNGKeyArray) -> Estimate:
        matrices = MatrixValues(dtype, values, {})
        return _estimate(_map_of_factors(factors, matrices), probing, key)

    return codes, jax.vmap(estimate_by_factors)(values, keys)


def with_small_ends(
    factors: Sequence[Factor], applications: int, dtype: DTypeLike
) -> Sequence[Factor] | None:
    """Returns the factors with smaller constant matrices at the ends; None if none gets smaller.

    Args:
      factors: those of the Jacobian.
      applications: how often the ends are applied, to decompose them must not cost more than that.
      dtype: of the products.
    """

    def is_worth_it(inner: int, outer: int, linear: Linear) -> bool:
        # The decomposition has 4 outer inner^2 operations, an application saves the difference of
        # 2 inner outer and 2 inner^2, forwards and backwards.
        saved = applications * (outer - inner)
        return outer > inner and saved >= outer * inner and not linear.is_applied

    first, last = factors[0], factors[-1]
    inner, outer = math.prod(first.linear.outputs), math.prod(first.linear.inputs)
    changed = list(factors)
    if not first.segment and is_worth_it(inner, outer, first.linear):
        root = square_root_of_gram(dense_matrix(first.linear, dtype))
        changed[0] = first._replace(linear=_linear_of_matrix(root, (inner,), first.linear.outputs))
    inner, outer = math.prod(last.linear.inputs), math.prod(last.linear.outputs)
    is_constant = last.segment is None and last.rows is None
    if is_constant and is_worth_it(inner, outer, last.linear):
        root = square_root_of_gram(dense_matrix(last.linear, dtype).T).T
        changed[-1] = Factor(_linear_of_matrix(root, last.linear.inputs, (inner,)), None)
    return None if changed == list(factors) else changed


def _linear_of_matrix(matrix: Array, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Linear:
    """Returns the linear map of a matrix."""

    def apply(v: Array) -> Array:
        return (matrix.astype(v.dtype) @ v.reshape(-1)).reshape(outputs)

    return Linear(apply, inputs, outputs, 2.0 * matrix.size)


def _map_of_encoder(
    encode: Callable[[Array], Array], x_i: Array, code: jax.ShapeDtypeStruct
) -> _ProbedMap:
    """Returns the Jacobian by derivatives of the encoder."""

    def apply(v: Array) -> Array:
        return times_jacobian(encode, x_i, v)

    def apply_transpose(u: Array) -> Array:
        return pullback(encode, x_i)[1](u)

    inputs = jax.ShapeDtypeStruct(x_i.shape, x_i.dtype)
    return _ProbedMap(apply, apply_transpose, inputs, code).or_transpose()


def _map_of_factors(factors: Sequence[Factor], matrices: MatrixValues) -> _ProbedMap:
    """Returns the product of the factors, applied one after the other."""

    def apply(v: Array) -> Array:
        for linear, rows, segment in factors:
            if segment:
                linear = segment.bind(linear, *map(matrices.array, segment.operands))
            v = linear.apply(v.reshape(linear.inputs)).reshape(-1)
            scale = matrices.diagonal(rows)
            v = v if scale is None else v * scale
        return v

    def apply_transpose(u: Array) -> Array:
        return jax.linear_transpose(apply, inputs)(u)[0]

    dtype = matrices.dtype
    inputs = jax.ShapeDtypeStruct((math.prod(factors[0].linear.inputs),), dtype)
    outputs = jax.ShapeDtypeStruct((math.prod(factors[-1].linear.outputs),), dtype)
    whole = _ProbedMap(apply, apply_transpose, inputs, outputs)
    # Of two equal sides the code's: a code that was smaller than the input is still as it was.
    return whole.transpose() if outputs.size == inputs.size else whole.or_transpose()


def _estimate(jacobian: _ProbedMap, probing: Probing, key: PRNGKeyArray) -> Estimate:
    """Returns the estimate for one example."""
    inputs, count = jacobian.inputs, probing.num_samples
    dtype = _checks.wide(inputs.dtype)

    def random_image(sample: Array, probes: str = probing.probes) -> Array:
        draw: Callable[..., Array] = (
            jax.random.rademacher if probes == "rademacher" else jax.random.normal
        )
        # Drawn in float32 for narrower inputs too, so that the draws are the same in every dtype.
        return jacobian.image(draw(jax.random.fold_in(key, sample), inputs.shape, dtype))

    def column(index: Array) -> Array:
        return jacobian.image(jax.nn.one_hot(index, inputs.size, dtype=dtype))

    def images(image: Callable[[Array], Array], indices: Array) -> Array:
        return _map_in_chunks(image, indices, probing.chunk_size)

    def squared_lengths(image: Callable[[Array], Array], indices: Array) -> Array:
        return images(lambda index: sum_of_squares(image(index)), indices)

    if probing.estimator == "hutchinson":
        return _mean(squared_lengths(random_image, jnp.arange(count)))
    if count >= inputs.size:  # all columns are no more than the probes, and are exact
        exact = jnp.sum(squared_lengths(column, jnp.arange(inputs.size)))
        return Estimate(exact, jnp.zeros_like(exact))

    # Hutch++: ||J||^2 = ||Q^T J||^2 + ||(I - Q Q^T) J||^2 with an orthonormal Q, which the images
    # of one half of the probes span. Q does not depend on the other half, so that these estimate
    # the second term without bias. The sum is the same for every Q: it has no derivative in Q.
    sketched = count // 2
    # Normal numbers, because signs alone may be linearly dependent, and then span less.
    sketch = jax.lax.stop_gradient(
        images(partial(random_image, probes="gaussian"), jnp.arange(sketched))
    )
    basis = jax.lax.stop_gradient(jnp.linalg.qr(sketch.T)[0])

    def row(index: Array) -> Array:
        return jacobian.transpose().image(basis[:, index])

    def remaining_image(sample: Array) -> Array:
        image = random_image(sample)
        return image - basis @ (image @ basis)

    found = jnp.sum(squared_lengths(row, jnp.arange(basis.shape[1])))
    remaining = _mean(squared_lengths(remaining_image, jnp.arange(sketched, count)))
    return remaining._replace(value=found + remaining.value)


def _mean(samples: Array) -> Estimate:
    """Returns the mean of independent samples; its standard error is NaN for a single one."""
    count = len(samples)
    constant = jax.lax.stop_gradient(samples)  # a standard error of 0 has no derivative
    error = jnp.std(constant, ddof=1) / math.sqrt(count) if count > 1 else jnp.nan * constant[0]
    return Estimate(jnp.mean(samples), error)


def _map_in_chunks(
    function: Callable[[Array], Array], indices: Array, chunk_size: int | None
) -> Array:
    """Returns the results of ``function``, so many at a time."""
    if chunk_size is None or chunk_size >= len(indices):
        return jax.vmap(function)(indices)
    # Checkpointed, so that a gradient recomputes a chunk instead of keeping all of them.
    return jax.lax.map(jax.checkpoint(function), indices, batch_size=chunk_size)
