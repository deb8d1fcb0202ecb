r"""The contractive penalty: squared Frobenius norm of the encoder's Jacobian.

Contract of this module. ``encode`` maps ONE example to ONE code ``(k,)``; ``x`` is
``(*batch, *example)``; the result is ``(*batch,)``: summed over all k x d entries of the
end-to-end Jacobian, not averaged, not weighted.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae._batching import one_example, placed_as, varying_as
from jaxae._derivatives import check_method, choose_method, failure, times_jacobian
from jaxae.contraction._orders import (
    Full,
    Plan,
    codes_and_norms,
    difference_norms,
    full_jacobians,
    plan_for,
)
from jaxae.contraction._structure import NotAChain, read
from jaxae.corruption import corrupt_batch, gaussian_noise

METHODS = ("auto", "jacfwd", "jacrev", "hutchinson")
PROBES = ("rademacher", "gaussian")


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
    where this is large. ``"auto"`` reads the structure of ``encode``. For affine layers and
    elementwise functions the Jacobian is :math:`D_L W_L \cdots D_1 W_1`: one layer costs the
    row norms of W, O(d k) once per batch, and O(k) per example; more layers the cheapest
    order of matrix products. Anything else costs d forward derivatives (``"jacfwd"``) or k
    reverse derivatives (``"jacrev"``). :func:`explain_contraction` says what was chosen.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating. Constants are shared among the batch, so
        pass the whole batch; ``jax.vmap`` over single examples is right, but slower.
      method: ``"auto"``: exact, from the structure of ``encode``. ``"jacfwd"``,
        ``"jacrev"``: exact, the full Jacobian. ``"hutchinson"``: unbiased mean of
        :math:`\|J v\|^2` over random probes v; with A = J^T J one probe has variance
        :math:`2(\|A\|_F^2 - \sum_i A_{ii}^2)` for Rademacher and :math:`2 \|A\|_F^2` for
        Gaussian probes. J v is a forward derivative, or for a ``jax.custom_vjp``, which has
        none, the reverse derivative of a reverse derivative.
      key: PRNG key, consumed here; needed by ``"hutchinson"``, not used otherwise.
      num_samples: probes per example of ``"hutchinson"``.
      chunk_size: how many columns (``"jacfwd"``, ``"hutchinson"``) or rows (``"jacrev"``) of
        the Jacobian are held at a time, also while differentiating; None holds them all.
        With ``"auto"``, the memory of so many rows of every example; None bounds it too.
        Memory goes down, time slightly up, the value stays.
      probes: ``"rademacher"`` (never the larger variance) or ``"gaussian"``.
      example_ndim: how many trailing axes one example has.

    Returns:
      Squared code units per squared input units, at least 0, shape ``(*batch,)``, the dtype
      of ``x``.

    Raises:
      TypeError: if ``x`` is not floating point, ``encode`` no function or not differentiable,
        or a size no integer.
      ValueError: if ``method`` or ``probes`` is unknown, ``encode`` has no derivatives for
        ``method``, ``key`` is missing, the code is not ``(k,)``, or ``x`` is not finite.

    Example:
      >>> weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> contractive_penalty(lambda x_i: weights @ x_i, jnp.zeros((5, 2))).tolist()
      [30.0, 30.0, 30.0, 30.0, 30.0]

    References:
      Rifai et al. 2011, eq. 1, "Contractive Auto-Encoders", ICML. Deviation: any encoder,
      end to end. Hutchinson 1990, https://doi.org/10.1080/03610919008812866.
    """
    return code_and_contractive_penalty(
        encode,
        x,
        method=method,
        key=key,
        num_samples=num_samples,
        chunk_size=chunk_size,
        probes=probes,
        example_ndim=example_ndim,
    )[1]


def code_and_contractive_penalty(
    encode: Callable[[Array], Array],
    x: Float[Array, " *shape"],
    *,
    method: str = "auto",
    key: PRNGKeyArray | None = None,
    num_samples: int = 1,
    chunk_size: int | None = None,
    probes: str = "rademacher",
    example_ndim: int = 1,
) -> tuple[Float[Array, "*batch k"], Float[Array, "..."]]:
    """Returns the codes and the :func:`contractive_penalty` of every example.

    The encoder runs once for both, and so does its backward pass: use this where a loss needs
    the code and the penalty, as :func:`jaxae.contractive_loss` does.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating.
      method: see :func:`contractive_penalty`, as for all that follow.
      key: PRNG key for ``"hutchinson"``.
      num_samples: probes per example of ``"hutchinson"``.
      chunk_size: bound on the memory.
      probes: ``"rademacher"`` or ``"gaussian"``.
      example_ndim: how many trailing axes one example has.

    Returns:
      The codes ``(*batch, k)`` and the penalties ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, ``encode`` no function, or a size no integer.
      ValueError: if ``method`` or ``probes`` is unknown, ``key`` is missing, the code is not
        ``(k,)``, or ``x`` is not finite.

    Example:
      >>> code, penalty = code_and_contractive_penalty(lambda x_i: 2 * x_i, jnp.ones((1, 3)))
      >>> code.tolist(), penalty.tolist()
      ([[2.0, 2.0, 2.0]], [12.0])

    References:
      Rifai et al. 2011, eq. 1, "Contractive Auto-Encoders", ICML. Deviation: any encoder.
    """
    x, batch, example, code = _inputs(encode, x, chunk_size, example_ndim)
    _checks.choice("method", method, METHODS)
    _checks.choice("probes", probes, PROBES)
    num_samples = _checks.integer("num_samples", num_samples, low=1)
    flat = x.reshape(math.prod(batch), *example.shape)
    if method == "auto":
        plan = _plan(encode, example, code, len(flat), chunk_size)
        if isinstance(plan, Plan):
            codes, penalties = codes_and_norms(plan, flat)
        else:
            method, chunk_size = plan[0].method, plan[0].chunk_size
    if method == "hutchinson":
        if key is None:
            raise ValueError("key must be given for method='hutchinson', but it is None")
        _checks.prng_key("key", key)
        keys = jax.random.split(key, batch).reshape(len(flat), *jnp.shape(key))
        keys = placed_as(keys, flat, 1)
        estimate = partial(_probed, encode, probes, num_samples, chunk_size or num_samples)
        codes, penalties = jax.vmap(encode)(flat), jax.vmap(estimate)(flat, keys)
    elif method != "auto":
        check_method(method, encode, example)
        exact = partial(_by_columns if method == "jacfwd" else _by_rows, encode, chunk_size)
        codes, penalties = jax.vmap(exact)(flat)
    return codes.reshape(*batch, *code.shape), penalties.reshape(batch).astype(x.dtype)


def reconstruction_contractive_penalty(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    x: Float[Array, " *shape"],
    *,
    chunk_size: int | None = None,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the squared Frobenius norm of d r / d x, r(x) = decode(encode(x)).

    .. math:: \|J_r(x)\|_F^2 = \sum_{i, j} \left( \frac{\partial r_i}{\partial x_j} \right)^2

    The penalty under which a contractive autoencoder is, for small noise, a denoising one.
    Through a small code it costs far less than the d x d Jacobian: the two Gram matrices
    of the weights on both sides of the code meet there.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code to one floating array; give the mean, not logits.
      x: inputs ``(*batch, *example)``, floating.
      chunk_size: bound on the memory, see :func:`contractive_penalty`.
      example_ndim: how many trailing axes one example has.

    Returns:
      Squared output units per squared input units, at least 0, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, or a function no function.
      ValueError: if a function returns another shape than stated, or ``x`` is not finite.

    Example:
      >>> weights = jnp.array([[3.0, 4.0]])
      >>> encode, decode = lambda x_i: weights @ x_i, lambda z: z @ weights
      >>> reconstruction_contractive_penalty(encode, decode, jnp.zeros((1, 2))).tolist()
      [625.0]

    References:
      Alain and Bengio 2014, eq. 4, "What regularized auto-encoders learn from the data
      generating distribution", JMLR. Deviation: none.
    """
    x = _checks.floating("x", x)
    example = one_example(x, len(_checks.batch_shape("x", x, example_ndim)))
    _checks.output_shape("decode", decode, _checks.code_shape(encode, example, x.shape))
    through = lambda x_i: decode(encode(x_i)).reshape(-1)
    return contractive_penalty(through, x, chunk_size=chunk_size, example_ndim=example_ndim)


def higher_order_contractive_penalty(
    key: PRNGKeyArray,
    encode: Callable[[Array], Array],
    x: Float[Array, " *shape"],
    *,
    stddev: ScalarLike,
    num_samples: int = 1,
    chunk_size: int | None = None,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns how much the encoder's Jacobian changes under small Gaussian noise.

    .. math:: E_\epsilon \|J(x) - J(x + \epsilon)\|_F^2, \quad \epsilon \sim N(0, \sigma^2 I)

    estimated with ``num_samples`` draws per example. For small :math:`\sigma` = ``stddev``
    it is :math:`\sigma^2` times the squared norm of the second derivative. The structure of
    ``encode`` is used as by :func:`contractive_penalty`; the difference is taken before
    the last constant factor, so that nothing cancels that the two share.

    Args:
      key: PRNG key, consumed here; every example and sample gets a key of its own.
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating.
      stddev: standard deviation of the noise, in units of ``x``, above 0; may be traced.
      num_samples: draws per example, one after the other.
      chunk_size: bound on the memory, see :func:`contractive_penalty`.
      example_ndim: how many trailing axes one example has.

    Returns:
      Squared code units per squared input units, at least 0, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, ``encode`` no function, or a size no integer.
      ValueError: if ``stddev`` is not above 0, the code is not ``(k,)``, or ``x`` not finite.

    Example:
      >>> linear = lambda x_i: 3.0 * x_i
      >>> key = jax.random.key(0)
      >>> higher_order_contractive_penalty(key, linear, jnp.ones((1, 2)), stddev=0.1).tolist()
      [0.0]

    References:
      Rifai et al. 2011, eq. 5, "Higher order contractive auto-encoder", ECML PKDD.
      Deviation: none.
    """
    _checks.prng_key("key", key)
    x, batch, example, code = _inputs(encode, x, chunk_size, example_ndim)
    stddev = _checks.number("stddev", stddev, x.dtype, low=0.0, strict=True)
    num_samples = _checks.integer("num_samples", num_samples, low=1)
    flat = x.reshape(math.prod(batch), *example.shape)
    plan = _plan(encode, example, code, len(flat), chunk_size)

    def one_draw(sample_key: PRNGKeyArray) -> Array:
        noise = corrupt_batch(sample_key, partial(gaussian_noise, stddev=stddev), flat)
        if isinstance(plan, Plan):
            return difference_norms(plan, flat, noise)
        change = _change_of_columns if plan[0].method == "jacfwd" else _change_of_rows
        return jax.vmap(partial(change, encode, plan[0].chunk_size))(flat, noise)

    draws = jax.lax.map(jax.checkpoint(one_draw), jax.random.split(key, num_samples))
    return jnp.mean(draws, axis=0).reshape(batch).astype(x.dtype)


class ContractionPlan(NamedTuple):
    """What :func:`explain_contraction` found; ``str`` of it is a table."""

    method: str
    """``"structure"``, ``"jacfwd"`` or ``"jacrev"``."""
    formula: str
    """How the squared norm is computed, with factors D_l W_l numbered from the input."""
    reason: str
    """Why the structure could not be used, or nothing."""
    flops: float
    """Floating point operations of the value for the whole batch, as counted from shapes."""
    bytes: int
    """Of per-example matrices held at a time."""
    rejected: tuple[tuple[str, float, int], ...]
    """Formula, flops and bytes of what was dearer, the cheapest first."""

    def __str__(self) -> str:
        rows = [(self.formula, self.flops, self.bytes), *self.rejected]
        lines = [f"{'':8}  {'MFLOP':>10}  {'MiB':>8}"]
        for i, (formula, flops, size) in enumerate(rows):
            label = "rejected" if i else "chosen"
            lines.append(f"{label:8}  {flops / 1e6:10.4g}  {size / 2**20:8.3g}  {formula}")
        return "\n".join([*lines, *([f"because {self.reason}"] if self.reason else [])])


def explain_contraction(
    encode: Callable[[Array], Array],
    x: Float[Array, " *shape"],
    *,
    chunk_size: int | None = None,
    example_ndim: int = 1,
) -> ContractionPlan:
    """Returns how ``contractive_penalty(encode, x)`` computes its value, and what it rejected.

    The encoder is traced, the penalty is not computed. What is chosen minimises an estimate of
    the time of value and gradient, in which numbers that are written count beside operations,
    so that it need not have the fewest operations.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating; only the shape and the dtype matter.
      chunk_size: bound on the memory, see :func:`contractive_penalty`.
      example_ndim: how many trailing axes one example has.

    Returns:
      The method, the formula, the operations and the bytes of what is chosen and of the rest.

    Raises:
      TypeError: if ``x`` is not floating point or ``encode`` no function.
      ValueError: if the code is not ``(k,)`` or ``x`` is not finite.

    Example:
      >>> weights = jnp.ones((3, 4))
      >>> explain_contraction(lambda x_i: jnp.tanh(weights @ x_i), jnp.ones((8, 4))).formula
      '‖D1 W1‖²'
      >>> explain_contraction(lambda x_i: x_i + jnp.tanh(x_i), jnp.ones((8, 4))).formula
      '‖D1‖²'

    References:
      None.
    """
    x, batch, example, code = _inputs(encode, x, chunk_size, example_ndim)
    size, item = math.prod(batch), x.dtype.itemsize
    full = _working_jacobians(encode, example, code, size, chunk_size)
    whole = [(f.method, f.flops * size, round(f.numbers * size) * item) for f in full]
    plan = _plan(encode, example, code, size, chunk_size)
    if not isinstance(plan, Plan):
        (name, flops, size), *rest = whole
        return ContractionPlan(name, name, plan[1], flops, size, tuple(rest))
    ways = [
        (order.name, order.cost.flops * size, round(order.cost.numbers * plan.group) * item)
        for order in plan.orders
    ]
    (name, flops, size), *rest = ways
    return ContractionPlan("structure", name, "", flops, size, (*rest, *whole))


def _inputs(
    encode: Callable[[Array], Array], x: Any, chunk_size: int | None, example_ndim: int
) -> tuple[Array, tuple[int, ...], jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns ``x``, its batch shape, and what one example and one code look like."""
    x = _checks.floating("x", x)
    batch = _checks.batch_shape("x", x, example_ndim)
    if chunk_size is not None:
        _checks.integer("chunk_size", chunk_size, low=1)
    example = one_example(x, len(batch))
    code = _checks.code_shape(encode, example, x.shape, is_differentiated=True)
    return x, batch, example, code


def _working_jacobians(encode: Callable[[Array], Array], example: Any, *sizes: Any) -> list[Full]:
    """Returns the full Jacobians for which ``encode`` has the derivatives, the cheaper first."""
    full = full_jacobians(encode, example, *sizes)
    return [f for f in full if not failure(f.method, encode, example)]


def _plan(
    encode: Callable[[Array], Array], example: Any, code: Any, size: int, chunk_size: int | None
) -> Plan | tuple[Full, str]:
    """Returns how to use the structure, or which full Jacobian to take and why."""
    dtype = _checks.wide(example.dtype, code.dtype)
    group = chunk_size and max(1, size * chunk_size // max(1, code.size))
    try:
        plan = plan_for(read(encode, example), size, dtype, group)
    except NotAChain as error:
        reason = str(error)
    else:
        if not plan.is_reverse:
            return plan
        reason = "a map without a matrix is applied to rows, as reverse derivatives do"
    full = {f.method: f for f in full_jacobians(encode, example, code, size, chunk_size)}
    return full[choose_method(encode, example, list(full))], reason


def _by_columns(
    encode: Callable[[Array], Array], chunk_size: int | None, x_i: Array
) -> tuple[Array, Array]:
    """Returns the code, and the squared norm from forward derivatives: chunks of columns."""
    if chunk_size is None or chunk_size >= x_i.size:
        jacobian, code = jax.jacfwd(lambda v: (encode(v),) * 2, has_aux=True)(x_i)
        return code, _sum_of_squares(jacobian)
    block = lambda directions: _sum_of_squares(_columns(encode, x_i, directions))
    return encode(x_i), _sum_over_basis(block, x_i.size, chunk_size, x_i.dtype)


def _by_rows(
    encode: Callable[[Array], Array], chunk_size: int | None, x_i: Array
) -> tuple[Array, Array]:
    """Returns the code, and the squared norm from reverse derivatives: chunks of rows."""
    code, pullback = jax.vjp(encode, x_i)

    def block(directions: Array) -> Array:  # (chunk, k) -> rows of J, (chunk, *example)
        (rows,) = jax.vmap(pullback)(varying_as(directions, code))
        return _sum_of_squares(rows)

    return code, _sum_over_basis(block, code.size, chunk_size or code.size, code.dtype)


def _change_of_columns(
    encode: Callable[[Array], Array], chunk_size: int, x_i: Array, noisy_i: Array
) -> Array:
    """Returns the squared norm of J(x) - J(noisy) from chunks of columns."""

    def block(directions: Array) -> Array:
        columns = (_columns(encode, v, directions) for v in (x_i, noisy_i))
        return _sum_of_squares(*columns)

    return _sum_over_basis(block, x_i.size, chunk_size, x_i.dtype)


def _change_of_rows(
    encode: Callable[[Array], Array], chunk_size: int, x_i: Array, noisy_i: Array
) -> Array:
    """Returns the squared norm of J(x) - J(noisy) from chunks of rows."""
    code, pullback = jax.vjp(encode, x_i)
    _, noisy_pullback = jax.vjp(encode, noisy_i)

    def block(directions: Array) -> Array:
        directions = varying_as(directions, code)
        return _sum_of_squares(*(jax.vmap(f)(directions)[0] for f in (pullback, noisy_pullback)))

    return _sum_over_basis(block, code.size, chunk_size, code.dtype)


def _columns(encode: Callable[[Array], Array], x_i: Array, directions: Array) -> Array:
    """Returns J directions^T, ``(k, chunk)``, for directions ``(chunk, d)``."""
    # The Jacobian at 0 of this function of ``chunk`` numbers, and no more of J than that.
    along = lambda t: encode(x_i + (t @ directions).reshape(x_i.shape))
    return jax.jacfwd(along)(jnp.zeros(len(directions), x_i.dtype))


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
        return _sum_of_squares(times_jacobian(encode, x_i, v))

    def block(samples: Array) -> Array:
        lengths = jax.vmap(squared_length)(samples)
        return jnp.sum(jnp.where(samples < num_samples, lengths, jnp.zeros_like(lengths)))

    return _sum_over_chunks(block, num_samples, chunk_size) / num_samples


def _sum_of_squares(a: Array, b: Array | None = None) -> Array:
    """Returns ||a||^2, or ||a - b||^2. In half precision small squares would be 0."""
    dtype = _checks.wide(a.dtype)
    change = a.astype(dtype) if b is None else a.astype(dtype) - b.astype(dtype)
    return jnp.sum(jnp.square(change))


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
