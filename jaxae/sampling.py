r"""Samples from an autoencoder, by Markov chains.

Contract of this module. ``encode`` and ``decode`` are per example; ``x`` is
``(*batch, *example)``. A *transition* is ``transition(key, x_i) -> x_i``, one
step of one Markov chain; :func:`markov_chain` runs many chains, and what a transition is made of
decides what they sample:

- :func:`denoising_transition`, corrupt and reconstruct: the distribution that a denoising
  autoencoder has learned, if it draws from p(x given x~);
- :func:`langevin_transition`, climb the score and add noise: the density of the *noisy* data at
  the noise level of the score, up to the size of the step;
- :func:`tangent_transition`, move where the encoder does not contract: for contractive ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, ScalarLike

from jaxae import _checks
from jaxae._batching import normal_like, one_example, over_batch, split_keys
from jaxae._checks import AnyArray
from jaxae._derivatives import pullback, times_jacobian

Transition: TypeAlias = Callable[..., Array]


def markov_chain(
    key: PRNGKeyArray,
    transition: Transition,
    x: Float[AnyArray, " *shape"],
    *,
    steps: int,
    thin: int = 1,
    schedule: PyTree | None = None,
    fixed: Bool[AnyArray, "..."] | None = None,
    example_ndim: int = 1,
) -> Float[Array, "kept *shape"]:
    r"""Returns the states of one Markov chain for each example, all run at once.

    .. math:: x_{t+1} \sim T(\cdot \mid x_t), \quad t = 0, \dots, \mathrm{steps} - 1

    One compiled loop (``jax.lax.scan``); the chains are independent. The start is not among
    the states, and none is dropped as burn-in.

    Args:
      key: PRNG key, consumed here; every step of every chain gets a key of its own.
      transition: ``transition(key, x_i) -> x_i``, one step from one example ``(*example,)``;
        with a schedule ``transition(key, x_i, level)``.
      x: where the chains start, ``(*batch, *example)``, floating.
      steps: number of steps, at least 1.
      thin: every so many steps a state is kept; divides ``steps``.
      schedule: what changes from step to step, such as a falling noise level: a pytree of
        arrays with a leading axis of ``steps``.
      fixed: entries that stay as they are in ``x``, of the shape of ``x`` or of one example:
        the known pixels of a picture that is to be completed.
      example_ndim: how many trailing axes one example has.

    Returns:
      States ``(steps // thin, *batch, *example)`` in the unit of ``x``, the last one last.

    Raises:
      TypeError: if ``x`` is not floating point, ``key`` no key, ``transition`` no function or
        ``fixed`` not boolean.
      ValueError: if ``thin`` does not divide ``steps``, ``schedule`` or ``fixed`` has another
        shape, ``transition`` changes that of an example, or ``x`` is not finite.

    Example:
      >>> halve = lambda key, x_i: 0.5 * x_i
      >>> markov_chain(jax.random.key(0), halve, jnp.ones(1), steps=4, thin=2).tolist()
      [[0.25], [0.0625]]

    References:
      Bengio, Yao, Alain and Vincent 2013, "Generalized Denoising Auto-Encoders as Generative
      Models", https://arxiv.org/abs/1305.6663. Deviation: none.
    """
    _checks.prng_key("key", key)
    _checks.callable_("transition", transition)
    x = _checks.floating("x", x)
    steps = _checks.integer("steps", steps, low=1)
    thin = _checks.integer("thin", thin, low=1, high=steps)
    if steps % thin:
        raise ValueError(f"thin must divide steps, but they are {thin} and {steps}")
    batch = _checks.batch_shape("x", x, example_ndim)
    levels = () if schedule is None else (_check_schedule(schedule, steps),)
    stays = None if fixed is None else _check_fixed(fixed, x, len(batch))
    _check_transition(transition, key, one_example(x, len(batch)), levels)

    def step(state: Array, at: tuple[Array, tuple[PyTree, ...]]) -> tuple[Array, None]:
        t, level = at
        keys = split_keys(jax.random.fold_in(key, t), state, len(batch))

        def move(key_i: PRNGKeyArray, x_i: Array) -> Array:
            return transition(key_i, x_i, *level)

        moved = over_batch(move, len(batch))(keys, state)
        return (moved if stays is None else jnp.where(stays, x, moved)), None

    def kept(state: Array, at: tuple[Array, tuple[PyTree, ...]]) -> tuple[Array, Array]:
        state, _ = jax.lax.scan(step, state, at)
        return state, state

    in_turn = (jnp.arange(steps), levels)
    grouped = jax.tree.map(lambda a: a.reshape(steps // thin, thin, *a.shape[1:]), in_turn)
    return jax.lax.scan(kept, x, grouped)[1]


def denoising_transition(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    *,
    corrupt: Callable[[PRNGKeyArray, Array], Array],
    sample: Callable[[PRNGKeyArray, Array], Array] | None = None,
) -> Transition:
    r"""Returns one step of the chain of a denoising autoencoder: corrupt, then reconstruct.

    .. math:: \tilde x \sim C(\cdot \mid x_t), \quad
              x_{t+1} \sim p(\cdot \mid \mathrm{dec}(\mathrm{enc}(\tilde x)))

    If p is the true distribution of x given :math:`\tilde x` and the chain reaches every
    state, it samples the data distribution. Without ``sample`` the next state is the
    reconstruction itself, its mean, and the samples are too narrow.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code; in data units if there is no ``sample``.
      corrupt: corruption ``corrupt(key, x_i)`` of one example, that of training.
      sample: ``sample(key, output) -> x_i`` draws from what ``decode`` returned, for example
        ``Bernoulli().sample`` from logits or ``Gaussian(stddev=0.1).sample`` about means.

    Returns:
      ``transition(key, x_i) -> x_i`` for :func:`markov_chain`.

    Raises:
      TypeError: if an argument is no function.

    Example:
      >>> identity = lambda v: v
      >>> step = denoising_transition(identity, lambda z: 0.5 * z, corrupt=lambda key, v: v)
      >>> step(jax.random.key(0), jnp.ones(2)).tolist()
      [0.5, 0.5]

    References:
      Bengio, Yao, Alain and Vincent 2013, sec. 3, https://arxiv.org/abs/1305.6663.
      Deviation: none.
    """
    for name, function in (("encode", encode), ("decode", decode), ("corrupt", corrupt)):
        _checks.callable_(name, function)
    if sample is not None:
        _checks.callable_("sample", sample)

    def transition(key: PRNGKeyArray, x_i: Array) -> Array:
        noise_key, sample_key = jax.random.split(key)
        output = decode(encode(corrupt(noise_key, x_i)))
        return output if sample is None else sample(sample_key, output)

    return transition


def langevin_transition(score: Callable[..., Array], *, step_size: ScalarLike) -> Transition:
    r"""Returns one step of Langevin dynamics along a score.

    .. math:: x_{t+1} = x_t + \frac{\epsilon}{2} \nabla \log p(x_t) + \sqrt{\epsilon} \, n,
              \quad n \sim N(0, I)

    With a level :math:`\sigma` from the schedule of the chain it is annealed: the score is
    ``score(x_i, sigma)`` and :math:`\epsilon` is ``step_size`` times :math:`\sigma^2`. There
    is no accept and reject: the samples are of p up to an error in the order of the step. For
    the score of a denoising autoencoder p is the density of the noisy data; from small noise,
    a last reconstruction removes most of it.

    Args:
      score: gradient of the log density at one example: ``score(x_i)``, of the shape of
        ``x_i``, in nats per unit; or ``score(x_i, stddev)``.
      step_size: epsilon, above 0, in squared units of ``x``; annealed a pure number, of which
        about 0.1 to 1 works.

    Returns:
      ``transition(key, x_i)`` for :func:`markov_chain`, which also takes a level.

    Raises:
      TypeError: if ``score`` is no function or ``step_size`` or a level not a number.
      ValueError: if ``step_size`` is not above 0.

    Example:
      >>> of_normal = lambda x_i: -x_i
      >>> step = langevin_transition(of_normal, step_size=0.1)
      >>> step(jax.random.key(0), jnp.ones(2)).shape
      (2,)

    References:
      Welling and Teh 2011, eq. 3; annealed: Song and Ermon 2019, algorithm 1,
      https://arxiv.org/abs/1907.05600. Deviation: the step at a level is relative to that
      level, not to the last one.
    """
    _checks.callable_("score", score)
    _checks.number("step_size", step_size, low=0.0, strict=True)

    def transition(key: PRNGKeyArray, x_i: Array, *level: ScalarLike) -> Array:
        dtype = _checks.wide(x_i.dtype)  # the square of a level underflows in half precision
        size = _checks.number("step_size", step_size, dtype, low=0.0, strict=True)
        for stddev in level:
            size = size * _checks.number("each level of schedule", stddev, dtype) ** 2
        drift = 0.5 * size * _checks.widen(score(x_i, *level))
        noise = jnp.sqrt(size) * _checks.widen(normal_like(key, x_i))
        return (_checks.widen(x_i) + drift + noise).astype(x_i.dtype)

    return transition


def tangent_transition(
    encode: Callable[[Array], Array], decode: Callable[[Array], Array], *, stddev: ScalarLike
) -> Transition:
    r"""Returns one step of a contractive autoencoder's random walk along its tangents.

    .. math:: x_{t+1} = \mathrm{dec}(\mathrm{enc}(x_t) + J J^\top n), \quad
              n \sim N(0, s^2 I), \quad J = \frac{\partial\, \mathrm{enc}(x_t)}{\partial x}

    with s = ``stddev``. The noise is large along the leading singular vectors of the Jacobian,
    the directions that the encoder did not contract, and small elsewhere. The Jacobian is not
    written out: the step costs one derivative backwards and one forwards; or two backwards where
    there is none forwards (``jax.custom_vjp``). Where there is none backwards (a loop whose length
    depends on data), it is written out.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code back to ``(*example,)``, in data units (not logits).
      stddev: standard deviation of the noise, at least 0, in squared units of ``x`` over
        units of the code.

    Returns:
      ``transition(key, x_i) -> x_i`` for :func:`markov_chain`.

    Raises:
      TypeError: if a function is no function or ``stddev`` not a number.
      ValueError: if ``stddev`` is negative.

    Example:
      >>> encode = lambda x_i: jnp.array([2.0, 0.0]) * x_i  # blind to the second axis
      >>> step = tangent_transition(encode, lambda z: 0.5 * z, stddev=1.0)
      >>> float(step(jax.random.key(0), jnp.zeros(2))[1])
      0.0

    References:
      Rifai, Bengio, Dauphin and Vincent 2012, algorithm 1, "A Generative Process for Sampling
      Contractive Auto-Encoders", https://arxiv.org/abs/1206.6434. Deviation: none.
    """
    _checks.callable_("encode", encode)
    _checks.callable_("decode", decode)
    _checks.number("stddev", stddev, low=0.0)

    def transition(key: PRNGKeyArray, x_i: Array) -> Array:
        code, pull_back = pullback(encode, x_i)
        along = pull_back(jnp.asarray(stddev, code.dtype) * normal_like(key, code))
        return decode(code + times_jacobian(encode, x_i, along))

    return transition


def _check_schedule(schedule: PyTree, steps: int) -> PyTree:
    arrays = jax.tree.map(partial(_checks.array, "schedule"), schedule)
    shapes = [leaf.shape for leaf in jax.tree.leaves(arrays)]
    if not shapes or any(shape[:1] != (steps,) for shape in shapes):
        raise ValueError(
            f"schedule must be arrays with a leading axis of {steps}, one entry for each step, "
            f"but their shapes are {shapes[:4]}"
        )
    return arrays


def _check_fixed(fixed: AnyArray, x: Array, batch_ndim: int) -> Array:
    _checks.unmasked("fixed", fixed)
    if not hasattr(fixed, "dtype") or fixed.dtype != bool:
        raise TypeError("fixed must be a boolean array, which says what stays")
    if fixed.shape not in (x.shape, x.shape[batch_ndim:]):
        raise ValueError(
            f"fixed must have the shape {x.shape} of x, or that of one example, "
            f"but it is {fixed.shape}"
        )
    return jnp.broadcast_to(fixed, x.shape)


def _check_transition(
    transition: Transition, key: Array, example: jax.ShapeDtypeStruct, levels: tuple[PyTree, ...]
) -> None:
    level = jax.tree.map(lambda leaf: leaf[0], levels)
    moved = _checks.output_shape("transition", transition, key, example, *level)
    if (moved.shape, moved.dtype) != (example.shape, example.dtype):
        raise ValueError(
            f"transition must keep shape and dtype of an example, but it turned "
            f"{example.dtype}{list(example.shape)} into {moved.dtype}{list(moved.shape)}"
        )
