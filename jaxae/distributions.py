r"""Conditional distributions whose parameters are the output of a network.

Contract of this module. A distribution turns a network's ``output`` into p(value | output).
As a *stochastic decoder* p(x | z) its parameters are ``decode(z)``; after an encoder,
p(x | x~) with ``decode(encode(x~))`` is the reconstruction distribution of the lecture;
as a *stochastic encoder* p(z | x~) its parameters are ``encode(x~)`` (``sample`` is then
the ``sample_code`` of :func:`jaxae.denoising_loss`). All three have

* ``log_prob(output, value)``: exact, in nats, summed over the features (the last axis, or
  for ``Bernoulli`` and ``Gaussian`` the ``example_ndim`` last ones);
* ``mean(output)``: the expected value, the one thing to show as a picture;
* ``sample(key, output)``: a draw, reparametrised where the distribution is Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxae import _checks
from jaxae.corruption import gaussian_noise
from jaxae.reconstruction import bernoulli_nll, gaussian_nll, gaussian_nll_terms


@dataclass(frozen=True)
class Bernoulli:
    """Independent coins whose log odds are the network's output (pixels in [0, 1]).

    Example:
      >>> Bernoulli().mean(jnp.zeros(2)).tolist()
      [0.5, 0.5]
    """

    def log_prob(
        self, output: Float[Array, " *shape"], value: Float[Array, " *shape"], example_ndim: int = 1
    ) -> Float[Array, "..."]:
        """Returns log p(value | logits=output) in nats, shape ``(*batch,)``."""
        return -bernoulli_nll(output, value, example_ndim=example_ndim)

    def mean(self, output: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Returns the probability of each entry being 1: logits in, pixels out."""
        output = _checks.floating("output", output)
        return jax.nn.sigmoid(_checks.widen(output)).astype(output.dtype)

    def sample(self, key: PRNGKeyArray, output: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Returns zeros and ones in the dtype of ``output``; not differentiable."""
        _checks.prng_key("key", key)
        output = _checks.floating("output", output)
        return jax.random.bernoulli(key, self.mean(_checks.widen(output))).astype(output.dtype)


@dataclass(frozen=True)
class Gaussian:
    """Isotropic Gaussian whose mean is the network's output, with a fixed ``stddev``.

    Attributes:
      stddev: standard deviation above 0, in the unit of the value.

    Example:
      >>> Gaussian(stddev=0.1).mean(jnp.ones(2)).tolist()
      [1.0, 1.0]
    """

    stddev: ScalarLike = 1.0

    def __post_init__(self) -> None:
        _checks.number("stddev", self.stddev, low=0.0, strict=True)

    def log_prob(
        self, output: Float[Array, " *shape"], value: Float[Array, " *shape"], example_ndim: int = 1
    ) -> Float[Array, "..."]:
        """Returns log N(value; output, stddev^2 I) in nats, shape ``(*batch,)``."""
        return -gaussian_nll(output, value, stddev=self.stddev, example_ndim=example_ndim)

    def mean(self, output: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Returns ``output``."""
        return _checks.floating("output", output)

    def sample(self, key: PRNGKeyArray, output: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Returns ``output`` plus N(0, stddev^2) noise."""
        return gaussian_noise(key, output, stddev=self.stddev)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Gaussian with a learned spread: the output holds means, then log standard deviations.

    A network with 2 k outputs describes a k-dimensional value.

    Example:
      >>> DiagonalGaussian().mean(jnp.array([3.0, 4.0, 0.0, 0.0])).tolist()
      [3.0, 4.0]
    """

    def log_prob(
        self, output: Float[Array, "*batch two_k"], value: Float[Array, "*batch k"]
    ) -> Float[Array, "*batch"]:
        """Returns log N(value; mean, diag stddev^2) in nats, shape ``(*batch,)``."""
        mean, log_stddev = self._split(output)
        mean, value, _ = _checks.pair("mean", mean, value, 1)
        dtype = jnp.result_type(mean, value)
        wide = map(_checks.widen, (mean, log_stddev, value))
        return -jnp.sum(gaussian_nll_terms(*wide), axis=-1).astype(dtype)

    def mean(self, output: Float[Array, "*batch two_k"]) -> Float[Array, "*batch k"]:
        """Returns the first half of the last axis."""
        return self._split(output)[0]

    def sample(
        self, key: PRNGKeyArray, output: Float[Array, "*batch two_k"]
    ) -> Float[Array, "*batch k"]:
        """Returns mean + stddev * N(0, I): gradients flow into both."""
        mean, log_stddev = self._split(output)
        noise = gaussian_noise(key, jnp.zeros_like(_checks.widen(mean)), stddev=1.0)
        spread = jnp.exp(_checks.widen(log_stddev)) * noise
        return (_checks.widen(mean) + spread).astype(mean.dtype)

    @staticmethod
    def _split(output: Array) -> tuple[Array, Array]:
        output = _checks.floating("output", output)
        if output.ndim == 0 or output.shape[-1] % 2:
            raise ValueError(
                "output must hold means and log standard deviations, an even number of entries "
                f"on the last axis, but its shape is {output.shape}"
            )
        mean, log_stddev = jnp.split(output, 2, axis=-1)
        return mean, log_stddev
