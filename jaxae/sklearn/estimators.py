"""The three estimators: each adds a training loss, and its parameters, to what they share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Array

from jaxae import _checks
from jaxae.corruption import gaussian_noise, masking_noise
from jaxae.objectives.basic import contractive_loss, sparse_loss
from jaxae.objectives.denoising import denoising_loss
from jaxae.sklearn._base import Autoencoder, fill_docstring
from jaxae.sklearn._network import Network, Objective, Params
from jaxae.sparsity import decoder_weighted_l1_penalty


def _denoising_loss(
    network: Network,
    params: Params,
    key: Array,
    x: Array,
    level: Array,
    *,
    noise: Callable[..., Array],
    level_name: str,
) -> Array:
    """Returns the denoising loss of a batch under a kind of noise, of which the level is traced."""
    return denoising_loss(
        key,
        partial(network.encode, params),
        partial(network.decode, params),
        x,
        corrupt=partial(noise, **{level_name: level}),
        reconstruction=network.reconstruction,
    )


# Made once: estimators with the same function share their compiled programs.
_DENOISING_LOSSES = {
    "gaussian": partial(_denoising_loss, noise=gaussian_noise, level_name="stddev"),
    "masking": partial(_denoising_loss, noise=masking_noise, level_name="rate"),
}


def _sparse_loss(network: Network, params: Params, key: Array, x: Array, weight: Array) -> Array:
    """Returns the sparse loss of a batch; the decoder has a row of its first kernel for a unit."""
    return sparse_loss(
        partial(network.encode, params),
        partial(network.decode, params),
        x,
        weight=weight,
        penalty=partial(decoder_weighted_l1_penalty, decoder=network.filters(params)),
        reconstruction=network.reconstruction,
    )


def _contractive_loss(
    network: Network, params: Params, key: Array, x: Array, weight: Array
) -> Array:
    """Returns the contractive loss of a batch, with the exact penalty."""
    return contractive_loss(
        partial(network.encode, params),
        partial(network.decode, params),
        x,
        weight=weight,
        reconstruction=network.reconstruction,
    )


@fill_docstring
@dataclass(kw_only=True, eq=False, repr=False)
class DenoisingAutoencoder(Autoencoder):
    """Autoencoder that learns to undo noise, as an estimator of scikit-learn.

    Each step of the training draws new noise, and the network is trained to give back the row
    without it, as in :func:`jaxae.denoising_loss`. ``transform`` and the reconstruction error see
    the rows as they are, without noise.

    Args:
      noise: kind of noise: "gaussian", or "masking", which sets features to 0 (with
        standardisation, to their mean).
      noise_level: standard deviation of Gaussian noise, in the units that the network sees (of
        standardised features 1 is as much as they vary); or the probability of masking.
      {parameters}

    {attributes}

    Example:
      >>> import numpy as np
      >>> X = np.random.default_rng(0).normal(size=(50, 4))
      >>> model = DenoisingAutoencoder(n_components=2, max_iter=3, random_state=0)
      >>> model.fit_transform(X).shape
      (50, 2)

    References:
      Vincent et al. 2010, "Stacked Denoising Autoencoders", JMLR 11. Deviation: Adam, not SGD.
    """

    noise: str = "gaussian"
    noise_level: float = 0.3

    def _choose_objective(self) -> tuple[Objective, tuple[float, ...]]:
        _checks.choice("noise", self.noise, _DENOISING_LOSSES)
        highest = 1.0 if self.noise == "masking" else np.inf
        _checks.number("noise_level", self.noise_level, low=0.0, high=highest)
        return _DENOISING_LOSSES[self.noise], (float(self.noise_level),)


@fill_docstring
@dataclass(kw_only=True, eq=False, repr=False)
class SparseAutoencoder(Autoencoder):
    """Autoencoder whose codes have few units that are not zero, as an estimator of scikit-learn.

    The loss is :func:`jaxae.sparse_loss` with the L1 norm of the code, each unit weighted by the
    norm of its filter (:func:`jaxae.decoder_weighted_l1_penalty`), so that the network cannot
    evade the penalty by small codes and large filters. With hidden layers the filter of a unit is
    its row of the first layer of the decoder. The code may have more units than the table has
    features.

    Args:
      weight: weight lambda of the penalty.
      {parameters}

    {attributes}

    Example:
      >>> import numpy as np
      >>> X = np.random.default_rng(0).normal(size=(50, 4))
      >>> model = SparseAutoencoder(n_components=8, weight=0.5, max_iter=3, random_state=0)
      >>> bool((model.fit_transform(X) >= 0).all())
      True

    References:
      Conerly et al. 2024, "Update on how we train SAEs", https://transformer-circuits.pub, for the
      penalty. Deviation: none.
    """

    code_activation: str = "relu"
    weight: float = 0.1

    def _choose_objective(self) -> tuple[Objective, tuple[float, ...]]:
        _checks.number("weight", self.weight, low=0.0)
        return _sparse_loss, (float(self.weight),)


@fill_docstring
@dataclass(kw_only=True, eq=False, repr=False)
class ContractiveAutoencoder(Autoencoder):
    """Autoencoder whose codes change little when a row does, as an estimator of scikit-learn.

    The loss is :func:`jaxae.contractive_loss`: the penalty is the squared Frobenius norm of the
    Jacobian of the encoder, at what the network sees, and exact for every depth. The weights are
    tied by default, since otherwise the encoder can shrink and the decoder grow, which lowers the
    penalty and changes nothing else.

    Args:
      weight: weight lambda of the penalty.
      {parameters}

    {attributes}

    Example:
      >>> import numpy as np
      >>> X = np.random.default_rng(0).normal(size=(50, 4))
      >>> model = ContractiveAutoencoder(n_components=2, weight=0.1, max_iter=3, random_state=0)
      >>> model.fit(X).reconstruction_error(X).shape
      (50,)

    References:
      Rifai et al. 2011, "Contractive Auto-Encoders", ICML. Deviation: Adam, not SGD.
    """

    code_activation: str = "sigmoid"
    tied_weights: bool = True
    weight: float = 0.1

    def _choose_objective(self) -> tuple[Objective, tuple[float, ...]]:
        _checks.number("weight", self.weight, low=0.0)
        return _contractive_loss, (float(self.weight),)
