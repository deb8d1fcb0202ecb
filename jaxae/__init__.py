"""Regularised autoencoders in JAX: sparse, denoising and contractive, exact and fast.

Every function takes plain functions of one example, so it works with any neural-network library.

Corruption of inputs:

* ``masking_noise``: sets entries to 0
* ``gaussian_noise``: adds Gaussian noise
* ``uniform_noise``: adds uniform noise
* ``salt_and_pepper_noise``: replaces entries by the lowest or the highest value
* ``compose``: applies several corruptions in order
* ``corrupt_batch``: corrupts every example of a batch with a key of its own

Reconstruction losses:

* ``squared_error``: the squared distance
* ``gaussian_nll``: negative log-likelihood of a Gaussian
* ``bernoulli_nll``: cross-entropy from logits, for pixels in [0, 1]
* ``Bernoulli``: a decoder's output as a distribution: pixels in [0, 1]
* ``Gaussian``: the same: real numbers, one fixed spread
* ``DiagonalGaussian``: the same: real numbers, a learned spread each

Penalties on the code:

* ``l1_penalty``: the L1 norm of the code
* ``kl_sparsity_penalty``: how far the mean activations of the units are from a target
* ``keep_top_k``: keeps the k largest entries
* ``decoder_weighted_l1_penalty``: the L1 norm, units weighted by the norms of their filters
* ``dead_unit_loss``: the auxiliary loss that revives units which are never active

Contractive penalties:

* ``contractive_penalty``: the squared Frobenius norm of the encoder's Jacobian
* ``code_and_contractive_penalty``: the same, with the code that it needs anyway
* ``reconstruction_contractive_penalty``: that of the reconstruction's Jacobian
* ``higher_order_contractive_penalty``: how much the Jacobian changes under noise
* ``explain_contraction``: how the penalty of an encoder is computed, and why
* ``ContractionPlan``: what explain_contraction returns

Losses of the autoencoders:

* ``reconstruction_loss``: plain
* ``sparse_loss``: sparse
* ``denoising_loss``: denoising
* ``contractive_loss``: contractive
* ``combined_loss``: all terms at once
* ``walkback_loss``: denoising along a chain that walks away
* ``noise_conditional_loss``: denoising, for networks that are told the noise level

What a denoising autoencoder has learned:

* ``reconstruction_field``: the vectors r(x) - x
* ``score_estimate``: the gradient of the log density
* ``markov_chain``: samples, by repeating one of the next three steps
* ``denoising_transition``: one step: corrupt and reconstruct
* ``langevin_transition``: one step of Langevin dynamics
* ``tangent_transition``: one step along the tangents of a contractive autoencoder
* ``fit_linear_denoiser``: the best linear denoiser of every rank
* ``LinearDenoiser``: what fit_linear_denoiser returns
* ``pair_moments``: what it needs to know of data in pieces
* ``PairMoments``: what pair_moments returns

Measures:

* ``mean_squared_error``: per feature
* ``psnr``: the peak signal-to-noise ratio
* ``explained_variance``: the share of the variance that is reconstructed
* ``active_units``: how many units are active
* ``dead_units``: which units are never active
* ``best_cosines``: how well known atoms were found
* ``saturated_share``: units close to their bounds
* ``jacobian_singular_values``: of the encoder
* ``contraction_curve``: how distances shrink on the way to the code

Models in Flax:

* ``DenseAutoencoder``: dense layers
* ``ConvAutoencoder``: convolutions, for images
* ``as_functions``: a model as pure functions of one example
* ``AutoencoderFunctions``: what as_functions returns

Training:

* ``create_train_state``: the state before the first step
* ``TrainState``: what changes during training
* ``make_train_step``: one compiled step
* ``make_epoch``: one compiled epoch
* ``make_run``: several compiled epochs
* ``Run``: what make_run returns
* ``fit``: trains one model
* ``fit_many``: trains several models at once
* ``sweep_method``: how fit_many does it
* ``evaluate``: the mean of a measure over a data set
* ``Streamed``: data larger than memory, by row
* ``StreamedBatches``: data larger than memory, in batches of your own
* ``data_mesh``: a batch over several devices
* ``Checkpoints``: how fit keeps snapshots
* ``Snapshot``: what it keeps
* ``hash_key``: a key with faster random numbers
* ``shuffled_order``: a shuffle without a sort
* ``NonFiniteLossError``: a loss or a parameter is NaN or infinite
* ``StoppedError``: training was told to stop
* ``LostProcessError``: another process of the run is gone

Optimisers, for use with optax:

* ``minimize``: the best parameters on a full batch
* ``Minimum``: what minimize returns
* ``lbfgs``: L-BFGS
* ``conjugate_gradient``: nonlinear conjugate gradients
* ``keep_best``: remembers the best parameters
* ``BestState``: what keep_best remembers
* ``unit_norm``: keeps filters at norm 1
"""

from jaxae._version import __version__ as __version__
from jaxae.contraction.explain import ContractionPlan, explain_contraction
from jaxae.contraction.penalties import (
    code_and_contractive_penalty,
    contractive_penalty,
    higher_order_contractive_penalty,
    reconstruction_contractive_penalty,
)
from jaxae.corruption import (
    compose,
    corrupt_batch,
    gaussian_noise,
    masking_noise,
    salt_and_pepper_noise,
    uniform_noise,
)
from jaxae.distributions import Bernoulli, DiagonalGaussian, Gaussian
from jaxae.linear_denoiser import LinearDenoiser, PairMoments, fit_linear_denoiser, pair_moments
from jaxae.metrics import (
    active_units,
    best_cosines,
    contraction_curve,
    dead_units,
    explained_variance,
    jacobian_singular_values,
    mean_squared_error,
    psnr,
    saturated_share,
)
from jaxae.models import AutoencoderFunctions, ConvAutoencoder, DenseAutoencoder, as_functions
from jaxae.objectives.basic import combined_loss, contractive_loss, reconstruction_loss, sparse_loss
from jaxae.objectives.denoising import denoising_loss, noise_conditional_loss, walkback_loss
from jaxae.optimizers.full_batch import Minimum, conjugate_gradient, lbfgs, minimize
from jaxae.optimizers.keep_best import BestState, keep_best
from jaxae.optimizers.unit_norm import unit_norm
from jaxae.random import hash_key, shuffled_order
from jaxae.reconstruction import bernoulli_nll, gaussian_nll, squared_error
from jaxae.sampling import (
    denoising_transition,
    langevin_transition,
    markov_chain,
    tangent_transition,
)
from jaxae.score import reconstruction_field, score_estimate
from jaxae.sparsity import (
    dead_unit_loss,
    decoder_weighted_l1_penalty,
    keep_top_k,
    kl_sparsity_penalty,
    l1_penalty,
)
from jaxae.training.epoch import make_epoch
from jaxae.training.evaluation import evaluate
from jaxae.training.many import sweep_method
from jaxae.training.programs import Run
from jaxae.training.runs import fit, fit_many, make_run
from jaxae.training.sharding import data_mesh
from jaxae.training.snapshots import Checkpoints, LostProcessError, Snapshot, StoppedError
from jaxae.training.steps import NonFiniteLossError, TrainState, create_train_state, make_train_step
from jaxae.training.streams import Streamed, StreamedBatches

__all__ = [
    "AutoencoderFunctions",
    "Bernoulli",
    "BestState",
    "Checkpoints",
    "ContractionPlan",
    "ConvAutoencoder",
    "DenseAutoencoder",
    "DiagonalGaussian",
    "Gaussian",
    "LinearDenoiser",
    "LostProcessError",
    "Minimum",
    "NonFiniteLossError",
    "PairMoments",
    "Run",
    "Snapshot",
    "StoppedError",
    "Streamed",
    "StreamedBatches",
    "TrainState",
    "active_units",
    "as_functions",
    "bernoulli_nll",
    "best_cosines",
    "code_and_contractive_penalty",
    "combined_loss",
    "compose",
    "conjugate_gradient",
    "contraction_curve",
    "contractive_loss",
    "contractive_penalty",
    "corrupt_batch",
    "create_train_state",
    "data_mesh",
    "dead_unit_loss",
    "dead_units",
    "decoder_weighted_l1_penalty",
    "denoising_loss",
    "denoising_transition",
    "evaluate",
    "explain_contraction",
    "explained_variance",
    "fit",
    "fit_linear_denoiser",
    "fit_many",
    "gaussian_nll",
    "gaussian_noise",
    "hash_key",
    "higher_order_contractive_penalty",
    "jacobian_singular_values",
    "keep_best",
    "keep_top_k",
    "kl_sparsity_penalty",
    "l1_penalty",
    "langevin_transition",
    "lbfgs",
    "make_epoch",
    "make_run",
    "make_train_step",
    "markov_chain",
    "masking_noise",
    "mean_squared_error",
    "minimize",
    "noise_conditional_loss",
    "pair_moments",
    "psnr",
    "reconstruction_contractive_penalty",
    "reconstruction_field",
    "reconstruction_loss",
    "salt_and_pepper_noise",
    "saturated_share",
    "score_estimate",
    "shuffled_order",
    "sparse_loss",
    "squared_error",
    "sweep_method",
    "tangent_transition",
    "uniform_noise",
    "unit_norm",
    "walkback_loss",
]
