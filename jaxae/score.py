r"""What an autoencoder knows about the density: its reconstruction field and the score.

Contract of this module. ``encode`` and ``decode`` are per example; ``x`` is
``(*batch, *example)`` and so is a field.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Float, ScalarLike

from jaxae import _checks
from jaxae._batching import one_example, over_batch
from jaxae._checks import AnyArray


def reconstruction_field(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
    *,
    example_ndim: int = 1,
) -> Float[Array, " *shape"]:
    r"""Returns the vector r(x) - x by which the autoencoder moves each input.

    .. math:: r(x) - x, \quad r = \mathrm{decode} \circ \mathrm{encode}

    For an optimal denoising autoencoder with Gaussian noise of variance s^2 it is
    s^2 times the gradient of the log density of the noisy data.

    Args:
      encode: pure function of one example ``(*example,)`` to one code ``(k,)``.
      decode: pure function of one code back to ``(*example,)``, in data units (not logits).
      x: inputs ``(*batch, *example)``, floating.
      example_ndim: how many trailing axes one example has.

    Returns:
      Displacement in the unit of ``x``, shape of ``x``.

    Raises:
      TypeError: if ``x`` is not floating point or a function is no function.
      ValueError: if the code is not ``(k,)``, the reconstruction has another shape than
        the example, or ``x`` is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> halve = lambda x_i: 0.5 * x_i
      >>> reconstruction_field(halve, lambda z: z, jnp.ones((3, 2))).tolist()[0]
      [-0.5, -0.5]

    References:
      Alain and Bengio 2014, eq. 28, https://jmlr.org/papers/v15/alain14a.html.
      Deviation: none.
    """
    x = _checks.floating("x", x)
    batch = _checks.batch_shape("x", x, example_ndim)
    _checks.autoencoder(encode, decode, one_example(x, len(batch)), x.shape)
    return _wide_field(encode, decode, x, len(batch)).astype(x.dtype)


def _wide_field(
    encode: Callable[[Array], Array], decode: Callable[[Array], Array], x: Array, batch_ndim: int
) -> Array:
    """Returns r(x) - x in float32 or wider."""

    def displacement(x_i: Array) -> Array:
        return _checks.widen(decode(encode(x_i))) - _checks.widen(x_i)

    return over_batch(displacement, batch_ndim)(x)


def score_estimate(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    x: Float[AnyArray, " *shape"],
    *,
    stddev: ScalarLike,
    example_ndim: int = 1,
) -> Float[Array, " *shape"]:
    r"""Returns the autoencoder's estimate of the score, the gradient of the log density.

    .. math:: \nabla_x \log p_\sigma(x) \approx \frac{r(x) - x}{\sigma^2}

    Exact for the optimal denoising autoencoder at any noise level, if p_sigma is the density
    of the data convolved with N(0, sigma^2 I), that is, of the noisy data.

    Args:
      encode: pure function of one example to one code ``(k,)``.
      decode: pure function of one code back to one example, in data units.
      x: inputs ``(*batch, *example)``, floating.
      stddev: standard deviation of the Gaussian noise of training, above 0.
      example_ndim: how many trailing axes one example has.

    Returns:
      Nats per unit of ``x``, shape of ``x``.

    Raises:
      TypeError: as :func:`reconstruction_field`, or ``stddev`` is not a number.
      ValueError: as :func:`reconstruction_field`, or ``stddev`` is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> halve = lambda x_i: 0.5 * x_i  # optimal for N(0, I) data and noise
      >>> score_estimate(halve, lambda z: z, jnp.ones(1), stddev=1.0).tolist()
      [-0.5]

    References:
      Alain and Bengio 2014, theorem 1, https://jmlr.org/papers/v15/alain14a.html;
      Miyasawa 1961. Deviation: none.
    """
    x = _checks.floating("x", x)
    stddev = _checks.number("stddev", stddev, _checks.wide(x.dtype), low=0.0, strict=True)
    batch = _checks.batch_shape("x", x, example_ndim)
    _checks.autoencoder(encode, decode, one_example(x, len(batch)), x.shape)
    field = _wide_field(encode, decode, x, len(batch))
    return (field / stddev / stddev).astype(x.dtype)
