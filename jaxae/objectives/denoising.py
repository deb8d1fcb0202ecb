r"""Denoising objectives: corrupt, reconstruct, compare with the clean example.

Contract of this module. That of ``jaxae.objectives``: ``encode`` and ``decode`` are pure
functions of ONE example and ONE code ``(k,)``; ``x`` is ``(*batch, *example)``; every objective
returns ``(*batch,)``. The target is always clean, and with a corruption of strength 0 each is the
plain :func:`jaxae.reconstruction_loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae._batching import normal_like, one_example, over_batch, placed_as, split_keys
from jaxae._checks import AnyArray, advice
from jaxae.corruption import Corruption, corrupt_batch
from jaxae.objectives._parts import Decode, Encode, Reconstruction, decoded, inputs
from jaxae.reconstruction import squared_error


def denoising_loss(
    key: PRNGKeyArray,
    encode: Encode,
    decode: Decode,
    x: Float[AnyArray, " *shape"],
    *,
    corrupt: Corruption,
    reconstruction: Reconstruction = squared_error,
    sample_code: Callable[[PRNGKeyArray, Array], Array] | None = None,
    emphasis: tuple[ScalarLike, ScalarLike] | None = None,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the loss of the denoising autoencoder on one draw of the corruption.

    .. math:: L(x, \mathrm{dec}(\mathrm{enc}(\tilde x))), \quad \tilde x \sim C(\cdot | x)

    The target is the clean ``x``. Pass a fresh key at every step: with a fixed one the
    noise is the same every time and is learned by heart.

    Args:
      key: PRNG key, consumed here; every example gets a key of its own.
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``, or to the
        parameters of p(z | x~) if ``sample_code`` is given.
      decode: pure function of one code to what ``reconstruction`` takes, ``(*example,)``.
      x: clean inputs, the targets, ``(*batch, *example)``, floating.
      corrupt: corruption ``corrupt(key_i, x_i)`` of one example.
      reconstruction: loss of one decoder output and one clean example.
      sample_code: stochastic encoder: draws a code from what ``encode`` returned, for
        example ``Gaussian(stddev=0.1).sample`` or ``DiagonalGaussian().sample``.
      emphasis: weights (alpha, beta), at least 0, of the entries that were corrupted and of
        those that were not; by default both are 1. An entry counts as corrupted if this draw
        changes it, or would change it both if it were a little larger and a little smaller (a 0
        that is masked; a 1 that is clipped to 1 may still become smaller). By a little: 8
        rounding steps of the largest entry of the example. Noise that is smaller than a
        rounding step is not seen, and where ``corrupt`` rounds (to whole numbers, say) every
        entry counts as corrupted. ``corrupt`` must accept such values, and ``reconstruction``
        must be a sum over entries, as those of ``jaxae`` are.
      example_ndim: how many trailing axes one example has.

    Returns:
      The unit of ``reconstruction``, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, ``key`` no key, or a function no function.
      ValueError: if a function returns another shape than stated, ``x`` is not finite, or
        ``emphasis`` is no pair of numbers of at least 0.

    Example:
      >>> from functools import partial
      >>> from jaxae import masking_noise
      >>> identity = lambda v: v
      >>> denoising_loss(jax.random.key(0), identity, identity, jnp.ones((1, 3)),
      ...                corrupt=partial(masking_noise, rate=1.0)).tolist()
      [3.0]

    References:
      Vincent et al. 2008, eq. 5, https://doi.org/10.1145/1390156.1390294; emphasis: Vincent
      et al. 2010, sec. 4.2, https://jmlr.org/papers/v11/vincent10a.html. Deviation: none.
    """
    _checks.prng_key("key", key)
    weights = None if emphasis is None else _check_emphasis(emphasis)
    _checks.callable_("encode", encode)
    code_key = key
    if sample_code is not None:
        _checks.callable_("sample_code", sample_code)
        key, code_key = jax.random.split(key)

    def draw(key_i: PRNGKeyArray, x_i: Array) -> Array:
        code = encode(x_i)
        return code if sample_code is None else sample_code(key_i, code)

    x, batch_ndim = inputs(encode, decode, reconstruction, x, example_ndim, sample_code)
    with jax.named_scope("corruption"):
        if weights is None:
            x_noisy = corrupt_batch(key, corrupt, x, batch_ndim=batch_ndim)
        else:
            x_noisy, is_corrupted = _corrupt_and_compare(key, corrupt, x, batch_ndim)
    code_keys = split_keys(code_key, x, batch_ndim)
    code = over_batch(draw, batch_ndim)(code_keys, x_noisy)
    if weights is None:
        return decoded(decode, code, x, reconstruction, batch_ndim)
    weight = jnp.where(is_corrupted, *weights)

    def weighted(code_i: Array, x_i: Array, weight_i: Array) -> Array:
        losses = _of_entries(reconstruction, decode(code_i), x_i)
        return jnp.sum(weight_i.astype(losses.dtype) * losses).astype(x.dtype)

    return over_batch(weighted, batch_ndim)(code, x, weight)


def _corrupt_and_compare(
    key: PRNGKeyArray, corrupt: Corruption, x: Array, batch_ndim: int
) -> tuple[Array, Array]:
    """Returns the corrupted batch, and which of its entries the draw has corrupted.

    An entry that the draw leaves as it is may be untouched, or have been replaced by its own
    value. To tell them apart the same draw is applied to entries that are a little larger and a
    little smaller: of an untouched entry at least one comes back, since it cannot be at both
    ends of a range that ``corrupt`` clips to.
    """
    axes = tuple(range(batch_ndim, x.ndim))
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
    step = 8 * float(jnp.finfo(x.dtype).eps) * jnp.where(largest > 0, largest, 1)
    step = jnp.broadcast_to(step.astype(x.dtype), x.shape)
    given = jnp.stack([x, x + step, x - step])
    # The key is the same for all three, so the draws are made once.
    drawn = jax.vmap(lambda x: corrupt_batch(key, corrupt, x, batch_ndim=batch_ndim))(given)
    is_changed = drawn != given
    return drawn[0], is_changed[0] | (is_changed[1] & is_changed[2])


def walkback_loss(
    key: PRNGKeyArray,
    encode: Encode,
    decode: Decode,
    x: Float[AnyArray, " *shape"],
    *,
    corrupt: Corruption,
    sample: Callable[[PRNGKeyArray, Array], Array],
    steps: int,
    reconstruction: Reconstruction = squared_error,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the denoising loss along a chain that walks away from each example, and back.

    .. math:: \frac{1}{T} \sum_{t=1}^T L(x, r(\tilde x_t)), \quad
              \tilde x_t \sim C(\cdot | x_{t-1}), \; x_t \sim p(\cdot | r(\tilde x_t)),
              \; x_0 = x

    with T = ``steps``: the autoencoder is corrected where its own chain
    (:func:`jaxae.denoising_transition`) would go, far from the data, which removes spurious
    modes. Gradients do not pass through the draws. One step is :func:`denoising_loss`.

    Args:
      key: PRNG key, consumed here; every step of every example gets a key of its own.
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code to what ``reconstruction`` takes, ``(*example,)``.
      x: clean inputs, the targets, ``(*batch, *example)``, floating.
      corrupt: corruption ``corrupt(key_i, x_i)`` of one example.
      sample: ``sample(key, output) -> x_i`` draws from what ``decode`` returned, for example
        ``Bernoulli().sample`` from logits or ``Gaussian(stddev=0.1).sample`` about means.
      steps: number T of steps, at least 1.
      reconstruction: loss of one decoder output and one clean example.
      example_ndim: how many trailing axes one example has.

    Returns:
      The unit of ``reconstruction``, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, ``key`` no key, or a function no function.
      ValueError: if ``steps`` is below 1, a function returns another shape than stated, or
        ``x`` is not finite.

    Example:
      >>> from jaxae import compose
      >>> halve = lambda z: 0.5 * z
      >>> walkback_loss(jax.random.key(0), lambda v: v, halve, jnp.ones((1, 4)), steps=2,
      ...               corrupt=compose(), sample=lambda key, output: output).tolist()
      [1.625]

    References:
      Bengio, Yao, Alain and Vincent 2013, algorithm 1, https://arxiv.org/abs/1305.6663.
      Deviation: the number of steps is fixed, not geometric.
    """
    _checks.prng_key("key", key)
    _checks.callable_("sample", sample)
    steps = _checks.integer("steps", steps, low=1)
    x, batch_ndim = inputs(encode, decode, reconstruction, x, example_ndim)
    example = one_example(x, batch_ndim)
    output = _checks.output_shape("decode", lambda x_i: decode(encode(x_i)), example)
    drawn = _checks.output_shape("sample", sample, key, output)
    if (drawn.shape, drawn.dtype) != (example.shape, example.dtype):
        raise ValueError(
            f"sample must return an example, {example.dtype}{list(example.shape)}, "
            f"but it gave {drawn.dtype}{list(drawn.shape)}"
        )

    def one(sample_key: Array, x_noisy_i: Array, x_i: Array) -> tuple[Array, Array]:
        output = decode(encode(x_noisy_i))
        return jnp.sum(reconstruction(output, x_i)), sample(sample_key, output)

    def step(walked: Array, step_key: Array) -> tuple[Array, Array]:
        noise_key, sample_key = jax.random.split(step_key)
        x_noisy = corrupt_batch(noise_key, corrupt, walked, batch_ndim=batch_ndim)
        keys = split_keys(sample_key, x, batch_ndim)
        loss, walked = over_batch(one, batch_ndim)(keys, x_noisy, x)
        return jax.lax.stop_gradient(walked), loss

    losses = jax.lax.scan(step, x, jax.random.split(key, steps))[1]
    return jnp.mean(losses, axis=0)


def noise_conditional_loss(
    key: PRNGKeyArray,
    encode: Callable[[Array, Array], Array],
    decode: Callable[[Array, Array], Array],
    x: Float[AnyArray, " *shape"],
    *,
    low: ScalarLike,
    high: ScalarLike,
    reconstruction: Reconstruction = squared_error,
    weight: Callable[[Array], Array] | None = None,
    example_ndim: int = 1,
) -> Float[Array, "..."]:
    r"""Returns the loss of a denoising autoencoder that knows how strong the noise is.

    .. math:: w(\sigma) L(x, \mathrm{dec}(\mathrm{enc}(x + \sigma n, \sigma),
              \sigma)), \quad n \sim N(0, I), \; \log \sigma \sim
              U(\log \sigma_0, \log \sigma_1)

    with :math:`\sigma_0` = ``low`` and :math:`\sigma_1` = ``high``: one network for the scores
    :math:`(r(x, \sigma) - x) / \sigma^2` of a whole range of noise levels, for annealed
    sampling with :func:`jaxae.langevin_transition`. With :math:`w = 1 / \sigma^2` the squared
    error is of one size as long as the noise is small against the data, and falls beyond. With
    the cross-entropy of pixels w = 1 lets the strong noise count more, which decides what is
    drawn.

    Args:
      key: PRNG key, consumed here; every example gets a level and noise of its own.
      encode: ``encode(x_i, stddev) -> code``, pure; ``stddev`` is a scalar.
      decode: ``decode(code, stddev)``, pure, to what ``reconstruction`` takes, ``(*example,)``.
      x: clean inputs, the targets, ``(*batch, *example)``, floating.
      low: smallest standard deviation, above 0, in the unit of ``x``.
      high: largest standard deviation, at least ``low``.
      reconstruction: loss of one decoder output and one clean example; the estimate of the
        clean example is its mean if this is the squared error or, of pixels in [0, 1] from
        logits, :func:`jaxae.bernoulli_nll`.
      weight: ``weight(stddev)``, what a level counts, a scalar; None for 1 / stddev^2. It gets
        the level in float32 or wider; ``encode`` and ``decode`` get it in the dtype of ``x``.
      example_ndim: how many trailing axes one example has.

    Returns:
      The unit of ``reconstruction`` times that of the weight, shape ``(*batch,)``.

    Raises:
      TypeError: if ``x`` is not floating point, ``key`` no key, or a function no function.
      ValueError: if ``low`` is not above 0 or above ``high``, a function returns another shape
        than stated, or ``x`` is not finite.

    Example:
      >>> keep = lambda v, stddev: v
      >>> loss = noise_conditional_loss(jax.random.key(0), keep, keep, jnp.zeros((100, 50)),
      ...                               low=0.1, high=2.0)
      >>> 45 < float(loss.mean()) < 55  # of n, 1 for each entry
      True

    References:
      Song and Ermon 2019, eq. 5 and 6, https://arxiv.org/abs/1907.05600. Deviation: levels are
      drawn from a range instead of a list; the weight is free.
    """
    _checks.prng_key("key", key)
    for name, function in (("encode", encode), ("decode", decode)):
        _checks.callable_(name, function)
    x = _checks.floating("x", x)
    dtype = _checks.wide(x.dtype)  # 1 / stddev^2 overflows in half precision
    bounds = [_checks.number("low", low, dtype, low=0.0, strict=True)]
    bounds.append(_checks.number("high", high, dtype, low=0.0, strict=True))
    _checks.ordered(low, high)
    weight = (lambda stddev: 1 / stddev**2) if weight is None else weight
    if (shape := _checks.output_shape("weight", weight, bounds[0]).shape) != ():
        raise ValueError(f"weight must return a scalar, but it returned {list(shape)}")
    lowest = bounds[0].astype(x.dtype)

    at_lowest = (lambda x_i: encode(x_i, lowest), lambda code: decode(code, lowest))
    x, batch_ndim = inputs(*at_lowest, reconstruction, x, example_ndim)
    level_key, noise_key = jax.random.split(key)
    log_low, log_high = map(jnp.log, bounds)
    drawn = (
        jax.random.uniform(level_key, x.shape[:batch_ndim], dtype),
        _checks.widen(normal_like(noise_key, x)),
    )
    share, noise = (placed_as(draw, x, batch_ndim) for draw in drawn)

    def one(x_i: Array, share_i: Array, noise_i: Array) -> Array:
        stddev = jnp.exp(log_low + share_i * (log_high - log_low))
        x_noisy_i = (_checks.widen(x_i) + stddev * noise_i).astype(x.dtype)
        level = stddev.astype(x.dtype)
        output = decode(encode(x_noisy_i, level), level)
        # In float32 or wider: without its weight the loss may not fit into half precision.
        loss = jnp.sum(reconstruction(_checks.widen(output), _checks.widen(x_i)))
        return (loss * weight(stddev)).astype(x.dtype)

    return over_batch(one, batch_ndim)(x, share, noise)


def _of_entries(reconstruction: Reconstruction, output: Array, x_i: Array) -> Array:
    """Returns the loss of each entry by itself, in the shape of the example.

    In float32 or wider: one entry may be too small for half precision, and their sum not.
    """
    one = (1,) * x_i.ndim
    output, x_i = _checks.widen(output), _checks.widen(x_i)

    def alone(output: Array, target: Array) -> Array:
        return jnp.sum(reconstruction(output.reshape(one), target.reshape(one)))

    return jax.vmap(alone)(output.reshape(-1), x_i.reshape(-1)).reshape(x_i.shape)


def _check_emphasis(emphasis: object) -> tuple[Array, Array]:
    """Returns the weights of corrupted and of other entries."""
    if not isinstance(emphasis, tuple | list) or len(emphasis) != 2:
        raise ValueError(
            f"emphasis must be a pair (alpha, beta), but it is {advice.shown(emphasis)}"
        )
    dtype = jnp.result_type(float)
    alpha, beta = (
        _checks.number(f"emphasis {name}", weight, dtype, low=0.0)
        for name, weight in zip(("alpha", "beta"), emphasis, strict=True)
    )
    return alpha, beta
