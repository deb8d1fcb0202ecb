"""Regularised autoencoders in JAX: sparse, denoising and contractive, exact and fast."""

from jaxae._program import Run as Run
from jaxae._version import __version__ as __version__
from jaxae.contraction import ContractionPlan as ContractionPlan
from jaxae.contraction import code_and_contractive_penalty as code_and_contractive_penalty
from jaxae.contraction import contractive_penalty as contractive_penalty
from jaxae.contraction import explain_contraction as explain_contraction
from jaxae.contraction import higher_order_contractive_penalty as higher_order_contractive_penalty
from jaxae.contraction import (
    reconstruction_contractive_penalty as reconstruction_contractive_penalty,
)
from jaxae.corruption import compose as compose
from jaxae.corruption import corrupt_batch as corrupt_batch
from jaxae.corruption import gaussian_noise as gaussian_noise
from jaxae.corruption import masking_noise as masking_noise
from jaxae.corruption import salt_and_pepper_noise as salt_and_pepper_noise
from jaxae.corruption import uniform_noise as uniform_noise
from jaxae.denoising import denoising_loss as denoising_loss
from jaxae.denoising import noise_conditional_loss as noise_conditional_loss
from jaxae.denoising import walkback_loss as walkback_loss
from jaxae.distributions import Bernoulli as Bernoulli
from jaxae.distributions import DiagonalGaussian as DiagonalGaussian
from jaxae.distributions import Gaussian as Gaussian
from jaxae.evaluation import evaluate as evaluate
from jaxae.generator import hash_key as hash_key
from jaxae.generator import shuffled_order as shuffled_order
from jaxae.linear import LinearDenoiser as LinearDenoiser
from jaxae.linear import PairMoments as PairMoments
from jaxae.linear import fit_linear_denoiser as fit_linear_denoiser
from jaxae.linear import pair_moments as pair_moments
from jaxae.metrics import active_units as active_units
from jaxae.metrics import best_cosines as best_cosines
from jaxae.metrics import contraction_curve as contraction_curve
from jaxae.metrics import dead_units as dead_units
from jaxae.metrics import explained_variance as explained_variance
from jaxae.metrics import jacobian_singular_values as jacobian_singular_values
from jaxae.metrics import mean_squared_error as mean_squared_error
from jaxae.metrics import psnr as psnr
from jaxae.metrics import saturated_share as saturated_share
from jaxae.models import AutoencoderFunctions as AutoencoderFunctions
from jaxae.models import ConvAutoencoder as ConvAutoencoder
from jaxae.models import DenseAutoencoder as DenseAutoencoder
from jaxae.models import as_functions as as_functions
from jaxae.objectives import combined_loss as combined_loss
from jaxae.objectives import contractive_loss as contractive_loss
from jaxae.objectives import reconstruction_loss as reconstruction_loss
from jaxae.objectives import sparse_loss as sparse_loss
from jaxae.projection import unit_norm as unit_norm
from jaxae.reconstruction import bernoulli_nll as bernoulli_nll
from jaxae.reconstruction import gaussian_nll as gaussian_nll
from jaxae.reconstruction import squared_error as squared_error
from jaxae.runs import fit as fit
from jaxae.runs import fit_many as fit_many
from jaxae.runs import make_run as make_run
from jaxae.runs import sweep_method as sweep_method
from jaxae.score import denoising_transition as denoising_transition
from jaxae.score import langevin_transition as langevin_transition
from jaxae.score import markov_chain as markov_chain
from jaxae.score import reconstruction_field as reconstruction_field
from jaxae.score import score_estimate as score_estimate
from jaxae.score import tangent_transition as tangent_transition
from jaxae.second_order import Minimum as Minimum
from jaxae.second_order import conjugate_gradient as conjugate_gradient
from jaxae.second_order import lbfgs as lbfgs
from jaxae.second_order import minimize as minimize
from jaxae.selection import BestState as BestState
from jaxae.selection import keep_best as keep_best
from jaxae.sharding import data_mesh as data_mesh
from jaxae.snapshots import Checkpoints as Checkpoints
from jaxae.snapshots import LostProcessError as LostProcessError
from jaxae.snapshots import Snapshot as Snapshot
from jaxae.snapshots import StoppedError as StoppedError
from jaxae.sparsity import dead_unit_loss as dead_unit_loss
from jaxae.sparsity import decoder_weighted_l1_penalty as decoder_weighted_l1_penalty
from jaxae.sparsity import keep_top_k as keep_top_k
from jaxae.sparsity import kl_sparsity_penalty as kl_sparsity_penalty
from jaxae.sparsity import l1_penalty as l1_penalty
from jaxae.streams import Streamed as Streamed
from jaxae.streams import StreamedBatches as StreamedBatches
from jaxae.training import NonFiniteLossError as NonFiniteLossError
from jaxae.training import TrainState as TrainState
from jaxae.training import create_train_state as create_train_state
from jaxae.training import make_epoch as make_epoch
from jaxae.training import make_train_step as make_train_step

__all__ = [
    "AutoencoderFunctions",
    "Bernoulli",
    "BestState",
    "Checkpoints",
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
    "combined_loss",
    "compose",
    "conjugate_gradient",
    "contraction_curve",
    "contractive_loss",
    "contractive_penalty",
    "code_and_contractive_penalty",
    "reconstruction_contractive_penalty",
    "higher_order_contractive_penalty",
    "explain_contraction",
    "ContractionPlan",
    "corrupt_batch",
    "create_train_state",
    "data_mesh",
    "dead_unit_loss",
    "dead_units",
    "decoder_weighted_l1_penalty",
    "denoising_loss",
    "denoising_transition",
    "evaluate",
    "explained_variance",
    "fit",
    "fit_linear_denoiser",
    "fit_many",
    "gaussian_noise",
    "gaussian_nll",
    "hash_key",
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
    "reconstruction_field",
    "reconstruction_loss",
    "salt_and_pepper_noise",
    "saturated_share",
    "score_estimate",
    "shuffled_order",
    "sparse_loss",
    "squared_error",
    "tangent_transition",
    "sweep_method",
    "uniform_noise",
    "unit_norm",
    "walkback_loss",
]
