r"""The contractive penalty: squared Frobenius norm of the encoder's Jacobian.

Contract of this module. ``encode`` maps ONE example to ONE code ``(k,)``; ``x`` is
``(*batch, *example)``; the result is ``(*batch,)``: summed over all k x d entries of the
end-to-end Jacobian, not averaged, not weighted.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxae import _checks
from jaxae._batching import one_example, over_batch

METHODS = ("auto", "jacfwd", "jacrev", "hutchinson")
PROBES = ("rademacher", "gaussian")

# One reverse pass costs about as much as this many forward passes. Measured on a CPU with value
# and gradient, 784 or 64 inputs, batches of 8 to 128: 2 to 5 with two sigmoid layers, 3 to 15 with
# one; where a single layer is misjudged, both methods cost nearly the same.
_REVERSE_COST = 5


def contractive_penalty(
    encode: Callable[[Array], Array],
    x: Float[Array, " *shape"],
    *,
    method: str = "auto",
    key: PRNGKeyArray | None = None,
    num_samples: int = 1,
    chunk_size: int | None = None,
    probes: str = "rademacher",
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the squared Frobenius norm of d encode / d x for every example.

    .. math:: \Omega(x) = \|J(x)\|_F^2
              = \sum_{j=1}^k \sum_{i=1}^d \left( \frac{\partial z_j}{\partial x_i} \right)^2

    This is not the squared norm of the gradient of :math:`\sum_j z_j`, which can vanish
    where this is large. Cost: d forward derivatives (``"jacfwd"``), k reverse derivatives
    (``"jacrev"``), or ``num_samples`` forward derivatives (``"hutchinson"``).

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating.
      method: ``"auto"``: the cheaper exact one, judged by d and k. ``"jacfwd"``,
        ``"jacrev"``: exact. ``"hutchinson"``: unbiased mean of :math:`\|J v\|^2` over random
        probes v; with A = J^T J one probe has variance :math:`2(\|A\|_F^2 - \sum_i A_{ii}^2)`
        for Rademacher and :math:`2 \|A\|_F^2` for Gaussian probes.
      key: PRNG key, consumed here; needed by ``"hutchinson"``, not used otherwise.
      num_samples: probes per example of ``"hutchinson"``.
      chunk_size: how many columns (``"jacfwd"``, ``"hutchinson"``) or rows (``"jacrev"``) of
        the Jacobian are held at a time, also while differentiating; None holds them all.
        Memory goes down, time slightly up, the value stays.
      probes: ``"rademacher"`` (never the larger variance) or ``"gaussian"``.
      example_ndim: how many trailing axes one example has.

    Returns:
      Squared code units per squared input units, at least 0, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, ``encode`` no function, or a size no integer.
      ValueError: if ``method`` or ``probes`` is unknown, ``key`` is missing, the code is not
        ``(k,)``, or ``x`` is not finite.

    Example:
      >>> weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> contractive_penalty(lambda x_i: weights @ x_i, jnp.zeros((5, 2))).tolist()
      [30.0, 30.0, 30.0, 30.0, 30.0]

    References:
      Rifai et al. 2011, eq. 1, "Contractive Auto-Encoders", ICML. Deviation: any encoder,
      end to end. Hutchinson 1990, https://doi.org/10.1080/03610919008812866.
    """
    x = _checks.floating("x", x)
    batch = _checks.batch_shape("x", x, example_ndim)
    _checks.choice("method", method, METHODS)
    _checks.choice("probes", probes, PROBES)
    num_samples = _checks.integer("num_samples", num_samples, low=1)
    if chunk_size is not None:
        chunk_size = _checks.integer("chunk_size", chunk_size, low=1)
    example = one_example(x, len(batch))
    (k,) = _checks.code_shape(encode, example).shape

    if method == "hutchinson":
        if key is None:
            raise ValueError("key must be given for method='hutchinson', but it is None")
        _checks.prng_key("key", key)
        keys = jax.random.split(key, batch)
        estimate = partial(_probed, encode, probes, num_samples, chunk_size or num_samples)
        return over_batch(estimate, len(batch))(x, keys)
    if method == "auto":
        method = "jacfwd" if example.size <= _REVERSE_COST * k else "jacrev"
    if method == "jacfwd":
        exact = partial(_by_columns, encode, chunk_size or example.size)
    else:
        exact = partial(_by_rows, encode, chunk_size or k)
    return over_batch(exact, len(batch))(x)


def _by_columns(encode: Callable[[Array], Array], chunk_size: int, x_i: Array) -> Array:
    """Returns the squared norm from forward derivatives: chunks of Jacobian columns."""
    flat = x_i.reshape(-1)

    def block(directions: Array) -> Array:
        # directions: (chunk, d); the Jacobian of t -> encode(x + t @ directions) at 0 is
        # J directions^T, (k, chunk): that many columns of J and no more.
        along = lambda t: encode((flat + t @ directions).reshape(x_i.shape))
        return jnp.sum(jnp.square(jax.jacfwd(along)(jnp.zeros(len(directions), x_i.dtype))))

    if chunk_size >= flat.size:
        return jnp.sum(jnp.square(jax.jacfwd(encode)(x_i)))
    return _sum_over_basis(block, flat.size, chunk_size, x_i.dtype)


def _by_rows(encode: Callable[[Array], Array], chunk_size: int, x_i: Array) -> Array:
    """Returns the squared norm from reverse derivatives: chunks of Jacobian rows."""
    code, pullback = jax.vjp(encode, x_i)

    def block(directions: Array) -> Array:  # (chunk, k) -> rows of J, (chunk, *example)
        (rows,) = jax.vmap(pullback)(directions)
        return jnp.sum(jnp.square(rows))

    return _sum_over_basis(block, code.size, chunk_size, code.dtype)


def _probed(
    encode: Callable[[Array], Array],
    probes: str,
    num_samples: int,
    chunk_size: int,
    x_i: Array,
    key: PRNGKeyArray,
) -> Array:
    """Returns the mean of ||J v||^2 over random probes v with E[v v^T] = I."""
    draw: Any = jax.random.rademacher if probes == "rademacher" else jax.random.normal

    def squared_length(sample: Array) -> Array:
        wide = draw(jax.random.fold_in(key, sample), x_i.shape, _checks.wide(x_i.dtype))
        v = wide.astype(x_i.dtype)
        return jnp.sum(jnp.square(jax.jvp(encode, (x_i,), (v,))[1]))

    def block(samples: Array) -> Array:
        lengths = jax.vmap(squared_length)(samples)
        return jnp.sum(jnp.where(samples < num_samples, lengths, jnp.zeros_like(lengths)))

    return _sum_over_chunks(block, num_samples, chunk_size) / num_samples


def _sum_over_basis(
    block: Callable[[Array], Array], size: int, chunk_size: int, dtype: jnp.dtype
) -> Array:
    """Returns the sum of ``block`` over chunks of the standard basis of R^size."""
    # A padding index beyond the last gives a row of zeros, which adds nothing.
    return _sum_over_chunks(
        lambda index: block(jax.nn.one_hot(index, size, dtype=dtype)), size, chunk_size
    )


def _sum_over_chunks(block: Callable[[Array], Array], size: int, chunk_size: int) -> Array:
    """Returns the sum of ``block(indices)`` over 0 ... size - 1 in padded chunks."""
    if chunk_size >= size:
        return block(jnp.arange(size))
    count = -(-size // chunk_size)
    indices = jnp.arange(count * chunk_size).reshape(count, chunk_size)
    # Checkpointed, so that a gradient recomputes a chunk instead of keeping all of them.
    return jnp.sum(jax.lax.map(jax.checkpoint(block), indices))
