"""Regularised autoencoders in JAX: sparse, denoising and contractive, exact and fast."""

from jaxae._version import __version__ as __version__
from jaxae.contraction.explain import ContractionPlan as ContractionPlan
from jaxae.contraction.explain import explain_contraction as explain_contraction
from jaxae.contraction.penalties import code_and_contractive_penalty as code_and_contractive_penalty
from jaxae.contraction.penalties import contractive_penalty as contractive_penalty
from jaxae.contraction.penalties import (
    higher_order_contractive_penalty as higher_order_contractive_penalty,
)
from jaxae.contraction.penalties import (
    reconstruction_contractive_penalty as reconstruction_contractive_penalty,
)
from jaxae.corruption import compose as compose
from jaxae.corruption import corrupt_batch as corrupt_batch
from jaxae.corruption import gaussian_noise as gaussian_noise
from jaxae.corruption import masking_noise as masking_noise
from jaxae.corruption import salt_and_pepper_noise as salt_and_pepper_noise
from jaxae.corruption import uniform_noise as uniform_noise
from jaxae.distributions import Bernoulli as Bernoulli
from jaxae.distributions import DiagonalGaussian as DiagonalGaussian
from jaxae.distributions import Gaussian as Gaussian
from jaxae.linear_denoiser import LinearDenoiser as LinearDenoiser
from jaxae.linear_denoiser import PairMoments as PairMoments
from jaxae.linear_denoiser import fit_linear_denoiser as fit_linear_denoiser
from jaxae.linear_denoiser import pair_moments as pair_moments
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
from jaxae.objectives.basic import combined_loss as combined_loss
from jaxae.objectives.basic import contractive_loss as contractive_loss
from jaxae.objectives.basic import reconstruction_loss as reconstruction_loss
from jaxae.objectives.basic import sparse_loss as sparse_loss
from jaxae.objectives.denoising import denoising_loss as denoising_loss
from jaxae.objectives.denoising import noise_conditional_loss as noise_conditional_loss
from jaxae.objectives.denoising import walkback_loss as walkback_loss
from jaxae.optimizers.full_batch import Minimum as Minimum
from jaxae.optimizers.full_batch import conjugate_gradient as conjugate_gradient
from jaxae.optimizers.full_batch import lbfgs as lbfgs
from jaxae.optimizers.full_batch import minimize as minimize
from jaxae.optimizers.keep_best import BestState as BestState
from jaxae.optimizers.keep_best import keep_best as keep_best
from jaxae.optimizers.unit_norm import unit_norm as unit_norm
from jaxae.random import hash_key as hash_key
from jaxae.random import shuffled_order as shuffled_order
from jaxae.reconstruction import bernoulli_nll as bernoulli_nll
from jaxae.reconstruction import gaussian_nll as gaussian_nll
from jaxae.reconstruction import squared_error as squared_error
from jaxae.sampling import denoising_transition as denoising_transition
from jaxae.sampling import langevin_transition as langevin_transition
from jaxae.sampling import markov_chain as markov_chain
from jaxae.sampling import tangent_transition as tangent_transition
from jaxae.score import reconstruction_field as reconstruction_field
from jaxae.score import score_estimate as score_estimate
from jaxae.sparsity import dead_unit_loss as dead_unit_loss
from jaxae.sparsity import decoder_weighted_l1_penalty as decoder_weighted_l1_penalty
from jaxae.sparsity import keep_top_k as keep_top_k
from jaxae.sparsity import kl_sparsity_penalty as kl_sparsity_penalty
from jaxae.sparsity import l1_penalty as l1_penalty
from jaxae.training.epoch import make_epoch as make_epoch
from jaxae.training.evaluation import evaluate as evaluate
from jaxae.training.many import sweep_method as sweep_method
from jaxae.training.programs import Run as Run
from jaxae.training.runs import fit as fit
from jaxae.training.runs import fit_many as fit_many
from jaxae.training.runs import make_run as make_run
from jaxae.training.sharding import data_mesh as data_mesh
from jaxae.training.snapshots import Checkpoints as Checkpoints
from jaxae.training.snapshots import LostProcessError as LostProcessError
from jaxae.training.snapshots import Snapshot as Snapshot
from jaxae.training.snapshots import StoppedError as StoppedError
from jaxae.training.steps import NonFiniteLossError as NonFiniteLossError
from jaxae.training.steps import TrainState as TrainState
from jaxae.training.steps import create_train_state as create_train_state
from jaxae.training.steps import make_train_step as make_train_step
from jaxae.training.streams import Streamed as Streamed
from jaxae.training.streams import StreamedBatches as StreamedBatches

# What is imported above: a module has no ``__module__``, and a private name is left out.
__all__ = sorted(
    name for name, value in vars().items() if hasattr(value, "__module__") and name[0] != "_"
)
