"""The singular values of an encoder's Jacobian: in which directions it contracts, and how much."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import _checks
from jaxae._checks import AnyArray
from jaxae.contraction._choice import check_inputs
from jaxae.contraction._full import MAX_PART_BYTES, cheapest_full_jacobian, for_loops
from jaxae.contraction._pooling import with_masked_pooling


def jacobian_singular_values(
    encode: Callable[[Array], Array], x: Float[AnyArray, " *shape"], *, example_ndim: int = 1
) -> Float[Array, "*batch rank"]:
    r"""Returns the singular values of the encoder's Jacobian, largest first.

    Their squares sum to :func:`jaxae.contractive_penalty`. A value below 1 is a direction
    in which the encoder contracts. Costs the k x d Jacobian of every example, by d forward or k
    reverse derivatives, whichever is cheaper, and its decomposition. Where the Jacobians of all
    examples would need too much memory, some examples are taken at a time.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating.
      example_ndim: how many trailing axes one example has.

    Returns:
      Code units per input unit, at least 0, shape ``(*batch, min(k, d))``.

    Raises:
      TypeError: if ``x`` is not floating point, or ``encode`` no function or not differentiable.
      ValueError: if the code is not ``(k,)`` or ``x`` is not finite.

    Example:
      >>> jacobian_singular_values(lambda x_i: 3.0 * x_i, jnp.zeros(2)).tolist()
      [3.0, 3.0]

    References:
      Goodfellow, Bengio, Courville 2016, sec. 14.7. Deviation: none.
    """
    x, batch, example, code = check_inputs(encode, x, None, example_ndim)
    flat = x.reshape(math.prod(batch), *example.shape)
    # One example is planned for, and as many are taken at a time as fit into memory.
    encode = with_masked_pooling(encode, example)
    jacobian = cheapest_full_jacobian(encode, example, code, 1, None)
    each = max(1.0, jacobian.numbers * jnp.dtype(code.dtype).itemsize)
    group = max(1, int(MAX_PART_BYTES // each))

    if group < len(flat):
        jacobian = jacobian._replace(encode=for_loops(encode, example))

    def singular_values(x_i: Array) -> Array:
        whole = jacobian.matrix(x_i)
        wide = whole.astype(_checks.wide(whole.dtype))  # there is no SVD in half precision
        # Also without the vectors, LAPACK would get room for all d x d of them.
        values = jnp.linalg.svd(wide, full_matrices=False, compute_uv=False)
        return values.astype(whole.dtype)

    if group >= len(flat):
        values = jax.vmap(singular_values)(flat)
    else:
        values = jax.lax.map(singular_values, flat, batch_size=group)
    return values.reshape(*batch, values.shape[-1])
