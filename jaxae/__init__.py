"""Regularised autoencoders in JAX: sparse, denoising and contractive, exact and fast."""

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
