r"""The contractive penalty: squared Frobenius norm of the encoder's Jacobian.

Contract of this module. ``encode`` maps ONE example to ONE code ``(k,)``; ``x`` is
``(*batch, *example)``; the result is ``(*batch,)``: summed over all k x d entries of the
end-to-end Jacobian, not averaged, not weighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae._batching import one_example
from jaxae._checks import AnyArray
from jaxae._derivatives import check_method
from jaxae.contraction._choice import Jacobian, check_inputs, choose
from jaxae.contraction._full import full_jacobian
from jaxae.contraction._probes import PROBES, Probing, codes_and_estimates, keys_of_examples
from jaxae.corruption import corrupt_batch, gaussian_noise

METHODS = ("auto", "jacfwd", "jacrev", "hutchinson")


def contractive_penalty(
    encode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
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
    order of matrix products. A stretch that is neither (a skip connection, a normalisation, a
    gate) is one factor more, where that is cheaper. Anything else costs d forward derivatives
    (``"jacfwd"``) or k reverse ones (``"jacrev"``). :func:`explain_contraction` says which.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      x: inputs ``(*batch, *example)``, floating. Constants are shared among the batch, so
        pass the whole batch; ``jax.vmap`` over single examples is right, but slower.
      method: ``"auto"``: exact, from the structure of ``encode``. ``"jacfwd"``,
        ``"jacrev"``: exact, the full Jacobian. ``"hutchinson"``: unbiased mean of
        :math:`\|J v\|^2` over random probes v of the input, or of :math:`\|J^T u\|^2` over
        probes of the code where that has fewer entries; with A = J^T J, or J J^T, one probe
        has variance :math:`2(\|A\|_F^2 - \sum_i A_{ii}^2)` for Rademacher and
        :math:`2 \|A\|_F^2` for Gaussian probes. J v is a forward derivative, or for a
        ``jax.custom_vjp``, which has none, the reverse derivative of a reverse derivative.
        :func:`contractive_penalty_estimate` returns how far off the mean may be.
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
    x: Float[AnyArray, " *shape"],
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
    x, batch, example, code = check_inputs(encode, x, chunk_size, example_ndim)
    _checks.choice("method", method, METHODS)
    _checks.choice("probes", probes, PROBES)
    num_samples = _checks.integer("num_samples", num_samples, low=1)
    # One batch axis, however many ``x`` has: the constants are computed once for all examples.
    flat = x.reshape(math.prod(batch), *example.shape)
    if method == "hutchinson":
        if key is None:
            raise ValueError("key must be given for method='hutchinson', but it is None")
        _checks.prng_key("key", key)
        probing = Probing(method, probes, num_samples, chunk_size)
        keys = keys_of_examples(key, batch, flat)
        codes, estimates = codes_and_estimates(encode, example, code, probing, flat, keys)
        penalties = estimates.value
    else:
        jacobian: Jacobian
        if method == "auto":
            jacobian, _ = choose(encode, example, code, len(flat), chunk_size)
        else:
            # Before the Jacobian is traced: JAX's own error would come from inside of it.
            check_method(method, encode, example)
            jacobian = full_jacobian(encode, method, example, code, chunk_size)
        codes, penalties = jacobian.codes_and_norms(flat)
    # Summed in float32 at least; only the result has the dtype of half-precision inputs.
    return codes.reshape(*batch, *code.shape), penalties.reshape(batch).astype(x.dtype)


def reconstruction_contractive_penalty(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
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

    # Flat, because a code has one axis; the sum of squares does not depend on the shape.
    def reconstruct(x_i: Array) -> Array:
        return decode(encode(x_i)).reshape(-1)

    return contractive_penalty(reconstruct, x, chunk_size=chunk_size, example_ndim=example_ndim)


def higher_order_contractive_penalty(
    key: PRNGKeyArray,
    encode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
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
    x, batch, example, code = check_inputs(encode, x, chunk_size, example_ndim)
    stddev = _checks.number("stddev", stddev, x.dtype, low=0.0, strict=True)
    num_samples = _checks.integer("num_samples", num_samples, low=1)
    flat = x.reshape(math.prod(batch), *example.shape)
    jacobian, _ = choose(encode, example, code, len(flat), chunk_size)

    # One draw for the whole batch: the constant factors of both Jacobians are shared by all of it.
    def one_draw(sample_key: PRNGKeyArray) -> Array:
        noisy = corrupt_batch(sample_key, partial(gaussian_noise, stddev=stddev), flat)
        return jacobian.difference_norms(flat, noisy)

    # Checkpointed: a gradient computes a draw again and does not keep the matrices of all draws.
    draws = jax.lax.map(jax.checkpoint(one_draw), jax.random.split(key, num_samples))
    return jnp.mean(draws, axis=0).reshape(batch).astype(x.dtype)
