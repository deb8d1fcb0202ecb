"""The rows of the table: how a layer is trained, what is searched, and what the papers print."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.training.arrays import Function
from experiments.common.training.losses import contractive, denoising


class Published(NamedTuple):
    """What Rifai et al. 2011, table 1, prints for one layer of 1000 units on MNIST.

    Attributes:
      test_error: percent of the test images, after fine-tuning.
      jacobian: "average Jacobian norm", read here as the squared entry of the encoder's Jacobian,
        mean over entries, times 1e4, because then the magnitudes agree.
      saturated: percent of the units below 0.05 or above 0.95.
    """

    test_error: float
    jacobian: float
    saturated: float


class Method(NamedTuple):
    """One row of the table.

    Attributes:
      loss: ``loss(key, encode, decode, x, strength) -> (batch,)``, or None for no pretraining.
      strength: what a strength is.
      published: what the paper prints, or None.
      look: how it is drawn.
      is_stacked: whether a second layer is trained on its codes.
    """

    loss: Callable[..., Array] | None
    strength: str
    published: Published | None
    look: plots.Look
    is_stacked: bool = False


def plain(key: Array, encode: Function, decode: Function, x: Array, strength: Array) -> Array:
    """Returns the loss of the autoencoder, which has no strength."""
    return jaxae.reconstruction_loss(encode, decode, x, reconstruction=jaxae.bernoulli_nll)


def decayed(key: Array, encode: Function, decode: Function, x: Array, strength: Array) -> Array:
    """Returns the loss with weight decay, strength * ||W||^2.

    The logits are W^T h + c, so ||W||^2 is the squared norm of the decoder's Jacobian.
    """
    code = encode(x[0])
    squared_norm = jaxae.contractive_penalty(decode, jnp.zeros_like(code))
    return plain(key, encode, decode, x, strength) + strength * squared_norm


def masked(key: Array, encode: Function, decode: Function, x: Array, strength: Array) -> Array:
    """Returns the loss of the denoising autoencoder with binary masking noise."""
    corrupt, likelihood = partial(jaxae.masking_noise, rate=strength), jaxae.bernoulli_nll
    return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt, reconstruction=likelihood)


def squared(key: Array, encode: Function, decode: Function, x: Array, strength: Array) -> Array:
    """Returns the loss of the k-sparse autoencoder, whose sparsity is in its encoder."""
    return jaxae.reconstruction_loss(encode, decode, x)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "CAE": Method(
            contractive,
            "lambda",
            Published(1.14, 0.73, 86),
            plots.METHODS["CAE"],
            is_stacked=True,
        ),
        "DAE-g": Method(
            denoising,
            "standard deviation of the noise",
            Published(1.18, 0.86, 18),
            plots.METHODS["DAE"],
            is_stacked=True,
        ),
        "DAE-b": Method(
            masked,
            "share of the pixels that are masked",
            Published(1.57, 7.87, 68),
            plots.OTHERS[1],
            is_stacked=True,
        ),
        "AE + wd": Method(
            decayed,
            "weight of ||W||^2",
            Published(1.68, 5.00, 13),
            plots.OTHERS[2],
        ),
        "AE": Method(
            plain, "none", Published(1.78, 17.5, 50), plots.METHODS["AE"], is_stacked=True
        ),
        "k-sparse": Method(squared, "none", None, plots.METHODS["sparse"]),
        "no pretraining": Method(None, "none", None, plots.EXACT),
    }
)


Papers = Mapping[str, Published]


def papers(dataset: str, images: int, code_dim: int) -> Papers:
    """Returns what is printed of the rows, for the data and the sizes it is printed of."""
    if (dataset, images, code_dim) != ("mnist", 50_000, 1000):
        return {}
    return {name: m.published for name, m in METHODS.items() if m.published is not None}


def activation(name: str, k: int) -> Callable[[Array], Array]:
    """Returns what turns the sums of a layer into its code."""
    return partial(jaxae.keep_top_k, k=k) if name == "k-sparse" else nn.sigmoid
