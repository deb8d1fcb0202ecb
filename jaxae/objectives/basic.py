r"""Objectives: reconstruction + weight * penalty, for any encoder and decoder.

Contract of this module. ``encode`` and ``decode`` are pure functions of ONE example and
ONE code ``(k,)``; ``x`` is ``(*batch, *example)``; every objective returns ``(*batch,)``
and the training step takes the mean. ``reconstruction(x_hat_i, x_i)`` compares one
decoder output with one example; what it leaves unsummed (an elementwise loss) is summed.
With weight 0 each objective is the plain :func:`reconstruction_loss`. The denoising ones are in
``jaxae.objectives.denoising``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae._batching import over_batch
from jaxae._checks import AnyArray
from jaxae.contraction.penalties import METHODS, code_and_contractive_penalty
from jaxae.corruption import Corruption, corrupt_batch
from jaxae.objectives._parts import Decode, Encode, Reconstruction, decoded, inputs, reconstruct
from jaxae.reconstruction import squared_error
from jaxae.sparsity import l1_penalty


def reconstruction_loss(
    encode: Encode,
    decode: Decode,
    x: Float[AnyArray, " *shape"],
    *,
    reconstruction: Reconstruction = squared_error,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the loss of the plain autoencoder, L(x, dec(enc(x))).

    With a code at least as large as the input nothing stops it from learning to copy.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code to what ``reconstruction`` takes, ``(*example,)``.
      x: inputs and targets ``(*batch, *example)``, floating.
      reconstruction: loss of one decoder output and one example.
      example_ndim: how many trailing axes one example has.

    Returns:
      The unit of ``reconstruction``, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point or a function is no function.
      ValueError: if a function returns another shape than stated, or ``x`` is not finite.

    Example:
      >>> reconstruction_loss(lambda x_i: x_i[:1], lambda z: jnp.repeat(z, 2),
      ...                     jnp.array([[1.0, 3.0]])).tolist()
      [4.0]

    References:
      Goodfellow, Bengio, Courville 2016, eq. 14.1. Deviation: none.
    """
    x, batch_ndim = inputs(encode, decode, reconstruction, x, example_ndim)
    return reconstruct(encode, decode, x, x, reconstruction, batch_ndim)[0]


def sparse_loss(
    encode: Encode,
    decode: Decode,
    x: Float[AnyArray, " *shape"],
    *,
    weight: ScalarLike,
    penalty: Callable[[Array], Array] = l1_penalty,
    reconstruction: Reconstruction = squared_error,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the loss of the sparse autoencoder.

    .. math:: L(x, \mathrm{dec}(z)) + \lambda \, \Omega(z), \quad z = \mathrm{enc}(x)

    with :math:`\lambda` = ``weight`` and :math:`\Omega` = ``penalty``. With free filters the weight
    of the L1 norm means nothing: codes shrink and filters grow (to norm 8 at weight 1), at no cost
    for the reconstruction. Keep the filters at norm 1 with :func:`jaxae.unit_norm`, or weigh each
    unit by the norm of its filter, with :func:`jaxae.decoder_weighted_l1_penalty` as ``penalty``.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code to what ``reconstruction`` takes, ``(*example,)``.
      x: inputs and targets ``(*batch, *example)``, floating.
      weight: lambda, at least 0; may be traced.
      penalty: function of the batch of codes ``(*batch, k)`` to ``(*batch,)``, or to a
        scalar, which then counts once for every example (KL sparsity).
      reconstruction: loss of one decoder output and one example.
      example_ndim: how many trailing axes one example has.

    Returns:
      The unit of ``reconstruction``, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, or an argument of the wrong kind.
      ValueError: if ``weight`` is negative, a function returns another shape than stated,
        or ``x`` is not finite.

    Example:
      >>> identity = lambda v: v
      >>> sparse_loss(identity, identity, jnp.array([[1.0, -2.0]]), weight=0.5).tolist()
      [1.5]

    References:
      Goodfellow, Bengio, Courville 2016, eq. 14.2. Deviation: none.
    """
    _checks.number("weight", weight, low=0.0)
    x, batch_ndim = inputs(encode, decode, reconstruction, x, example_ndim)
    loss, code = reconstruct(encode, decode, x, x, reconstruction, batch_ndim)
    return _add_weighted(loss, (weight, _code_penalty(penalty, code)))


def contractive_loss(
    encode: Encode,
    decode: Decode,
    x: Float[AnyArray, " *shape"],
    *,
    weight: ScalarLike,
    method: str = "auto",
    reconstruction: Reconstruction = squared_error,
    key: PRNGKeyArray | None = None,
    num_samples: int = 1,
    chunk_size: int | None = None,
    probes: str = "rademacher",
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the loss of the contractive autoencoder.

    .. math:: L(x, \mathrm{dec}(\mathrm{enc}(x)))
              + \lambda \left\| \frac{\partial\, \mathrm{enc}(x)}{\partial x} \right\|_F^2

    with :math:`\lambda` = ``weight``. With untied weights the encoder can shrink and the
    decoder grow, which lowers the penalty at no cost: use tied weights.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code to what ``reconstruction`` takes, ``(*example,)``.
      x: inputs and targets ``(*batch, *example)``, floating.
      weight: lambda, at least 0; may be traced.
      method: how the penalty is computed, see :func:`jaxae.contractive_penalty`.
      reconstruction: loss of one decoder output and one example.
      key: PRNG key for ``method="hutchinson"``.
      num_samples: probes per example for ``method="hutchinson"``.
      chunk_size: bound on the memory of the penalty, see :func:`jaxae.contractive_penalty`.
      probes: ``"rademacher"`` or ``"gaussian"``, for ``method="hutchinson"``.
      example_ndim: how many trailing axes one example has.

    Returns:
      The unit of ``reconstruction``, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, or an argument of the wrong kind.
      ValueError: if ``weight`` is negative, ``method`` unknown or without its ``key``, a
        function returns another shape than stated, or ``x`` is not finite.

    Example:
      >>> identity = lambda v: v
      >>> contractive_loss(identity, identity, jnp.ones((1, 3)), weight=2.0).tolist()
      [6.0]

    References:
      Rifai et al. 2011, eq. 2, "Contractive Auto-Encoders", ICML. Deviation: none.
    """
    _checks.number("weight", weight, low=0.0)
    x, batch_ndim = inputs(encode, decode, reconstruction, x, example_ndim)
    code, penalty = code_and_contractive_penalty(
        encode,
        x,
        method=method,
        key=key,
        num_samples=num_samples,
        chunk_size=chunk_size,
        probes=probes,
        example_ndim=example_ndim,
    )
    loss = decoded(decode, code, x, reconstruction, batch_ndim)
    return _add_weighted(loss, (weight, penalty))


def combined_loss(
    key: PRNGKeyArray,
    encode: Encode,
    decode: Decode,
    x: Float[AnyArray, " *shape"],
    *,
    corrupt: Corruption,
    sparsity_weight: ScalarLike = 0.0,
    penalty: Callable[[Array], Array] = l1_penalty,
    contraction_weight: ScalarLike = 0.0,
    method: str = "auto",
    reconstruction: Reconstruction = squared_error,
    chunk_size: int | None = None,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns a denoising loss plus a sparsity and a contractive penalty.

    .. math:: L(x, \mathrm{dec}(z)) + \lambda_s \Omega(z) + \lambda_c \|J(\tilde x)\|_F^2,
              \quad z = \mathrm{enc}(\tilde x), \; \tilde x \sim C(\cdot | x)

    Both penalties are taken where the encoder is used, at the corrupted input.

    Args:
      key: PRNG key, consumed here; every example gets keys of its own.
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code to what ``reconstruction`` takes, ``(*example,)``.
      x: clean inputs, the targets, ``(*batch, *example)``, floating.
      corrupt: corruption of one example; ``compose()`` is none.
      sparsity_weight: lambda_s, at least 0; may be traced.
      penalty: sparsity penalty on the batch of codes, as for :func:`sparse_loss`.
      contraction_weight: lambda_c, at least 0; may be traced. The Jacobian is not computed
        if this is the Python number 0.
      method: an exact method of :func:`jaxae.contractive_penalty`, or ``"hutchinson"``.
      reconstruction: loss of one decoder output and one clean example.
      chunk_size: bound on the memory of the contractive penalty.
      example_ndim: how many trailing axes one example has.

    Returns:
      The unit of ``reconstruction``, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, or an argument of the wrong kind.
      ValueError: if a weight is negative, ``method`` unknown, a function returns another
        shape than stated, or ``x`` is not finite.

    Example:
      >>> from jaxae import compose
      >>> identity = lambda v: v
      >>> combined_loss(jax.random.key(0), identity, identity, jnp.ones((1, 3)),
      ...               corrupt=compose(), sparsity_weight=1.0, contraction_weight=2.0).tolist()
      [9.0]

    References:
      The sum of :func:`denoising_loss`, :func:`sparse_loss` and :func:`contractive_loss`;
      Rifai et al. 2011 and Vincent et al. 2010 for the terms. Deviation: none.
    """
    _checks.number("sparsity_weight", sparsity_weight, low=0.0)
    _checks.number("contraction_weight", contraction_weight, low=0.0)
    _checks.choice("method", method, METHODS)
    _checks.prng_key("key", key)
    x, batch_ndim = inputs(encode, decode, reconstruction, x, example_ndim)
    noise_key, probe_key = jax.random.split(key)
    with jax.named_scope("corruption"):
        x_noisy = corrupt_batch(noise_key, corrupt, x, batch_ndim=batch_ndim)
    if isinstance(contraction_weight, int | float) and contraction_weight == 0:
        code, jacobian = over_batch(encode, batch_ndim)(x_noisy), None
    else:
        code, jacobian = code_and_contractive_penalty(
            encode,
            x_noisy,
            method=method,
            key=probe_key,
            chunk_size=chunk_size,
            example_ndim=example_ndim,
        )
    loss = decoded(decode, code, x, reconstruction, batch_ndim)
    terms = [(sparsity_weight, _code_penalty(penalty, code))]
    if jacobian is not None:
        terms.append((contraction_weight, jacobian))
    return _add_weighted(loss, *terms)


def _add_weighted(loss: Array, *terms: tuple[ScalarLike, Array]) -> Array:
    """Returns a loss plus penalties, given as pairs (weight, penalty).

    They are added in float32 or wider: a small weight of a large penalty underflows in half
    precision.
    """
    total = _checks.widen(loss)
    for weight, penalty in terms:
        weight = _checks.number("weight", weight, total.dtype, low=0.0)
        total = total + weight * _checks.widen(penalty)
    return total.astype(loss.dtype)


def _code_penalty(penalty: Callable[[Array], Array], code: Array) -> Array:
    """Returns the penalty of a batch of codes: one value per example, or one for all."""
    _checks.callable_("penalty", penalty)
    value = penalty(code)
    if jnp.shape(value) not in ((), code.shape[:-1]):
        raise ValueError(
            f"penalty must return one value per example {code.shape[:-1]} or a scalar, "
            f"but for codes of shape {code.shape} it gave {jnp.shape(value)}"
        )
    return value
