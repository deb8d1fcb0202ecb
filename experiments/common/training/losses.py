"""Losses that several experiments train with."""

from functools import partial

from jaxtyping import Array

import jaxae
from experiments.common.training.arrays import Function


def contractive(key: Array, encode: Function, decode: Function, x: Array, weight: Array) -> Array:
    """Returns the loss of the contractive autoencoder, with the Bernoulli likelihood of pixels."""
    likelihood = jaxae.bernoulli_nll
    return jaxae.contractive_loss(encode, decode, x, weight=weight, reconstruction=likelihood)


def denoising(key: Array, encode: Function, decode: Function, x: Array, stddev: Array) -> Array:
    """Returns the loss of the denoising autoencoder; without noise it is that of the plain one."""
    corrupt, likelihood = partial(jaxae.gaussian_noise, stddev=stddev), jaxae.bernoulli_nll
    return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt, reconstruction=likelihood)
