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

Dictionaries of activations:

* ``jump_relu``: a threshold for each unit, trained by straight-through gradients
* ``step_l0_penalty``: the number of units above their threshold
* ``tanh_l0_penalty``: a smooth number of active units
* ``batch_top_k``: keeps the largest entries of a whole batch
* ``batch_top_k_threshold``: the threshold that takes its place at inference
* ``gated_relu``: one path decides which units are active, another one how strongly
* ``gated_auxiliary_loss``: the loss that teaches the gates
* ``matryoshka_loss``: the error of every prefix of the code
* ``sparse_decode``: the reconstruction from the active units alone
* ``dense_units``: which units are active too often
* ``shrinkage``: the norm of a reconstruction over that of its target
* ``mean_correlation``: of filters and known atoms, matched one to one
* ``nearest_atoms``: which known atom each unit stands for
* ``uniqueness``: how many different ones, over the number of units
* ``unit_counts``: precision, recall and F1 of each unit
* ``UnitCounts``: what unit_counts returns

Contractive penalties:

* ``contractive_penalty``: the squared Frobenius norm of the encoder's Jacobian
* ``code_and_contractive_penalty``: the same, with the code that it needs anyway
* ``contractive_penalty_estimate``: an unbiased estimate with its standard error
* ``Estimate``: what contractive_penalty_estimate returns
* ``reconstruction_contractive_penalty``: that of the reconstruction's Jacobian
* ``higher_order_contractive_penalty``: how much the Jacobian changes under noise
* ``explain_contraction``: how the penalty of an encoder is computed, and why
* ``ContractionPlan``: what explain_contraction returns
* ``register_contraction_rule``: a closed form for the Jacobian of a layer of your own

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
* ``target_l0``: finds the weight of a penalty for a number of active units
* ``TargetL0State``: what target_l0 remembers
"""

from jaxae._version import __version__ as __version__
from jaxae.contraction.estimates import Estimate as Estimate
from jaxae.contraction.estimates import (
    contractive_penalty_estimate as contractive_penalty_estimate,
)
from jaxae.contraction.explain import ContractionPlan as ContractionPlan
from jaxae.contraction.explain import explain_contraction as explain_contraction
from jaxae.contraction.own_rules import register_contraction_rule as register_contraction_rule
from jaxae.contraction.penalties import code_and_contractive_penalty as code_and_contractive_penalty
from jaxae.contraction.penalties import contractive_penalty as contractive_penalty
from jaxae.contraction.penalties import (
    higher_order_contractive_penalty as higher_order_contractive_penalty,
)
from jaxae.contraction.penalties import (
    reconstruction_contractive_penalty as reconstruction_contractive_penalty,
)
from jaxae.contraction.spectrum import jacobian_singular_values as jacobian_singular_values
from jaxae.corruption import compose as compose
from jaxae.corruption import corrupt_batch as corrupt_batch
from jaxae.corruption import gaussian_noise as gaussian_noise
from jaxae.corruption import masking_noise as masking_noise
from jaxae.corruption import salt_and_pepper_noise as salt_and_pepper_noise
from jaxae.corruption import uniform_noise as uniform_noise
from jaxae.dictionary.batch_top_k import batch_top_k as batch_top_k
from jaxae.dictionary.batch_top_k import batch_top_k_threshold as batch_top_k_threshold
from jaxae.dictionary.gated import gated_auxiliary_loss as gated_auxiliary_loss
from jaxae.dictionary.gated import gated_relu as gated_relu
from jaxae.dictionary.jump_relu import jump_relu as jump_relu
from jaxae.dictionary.jump_relu import step_l0_penalty as step_l0_penalty
from jaxae.dictionary.jump_relu import tanh_l0_penalty as tanh_l0_penalty
from jaxae.dictionary.matryoshka import matryoshka_loss as matryoshka_loss
from jaxae.dictionary.measures import UnitCounts as UnitCounts
from jaxae.dictionary.measures import dense_units as dense_units
from jaxae.dictionary.measures import mean_correlation as mean_correlation
from jaxae.dictionary.measures import nearest_atoms as nearest_atoms
from jaxae.dictionary.measures import shrinkage as shrinkage
from jaxae.dictionary.measures import uniqueness as uniqueness
from jaxae.dictionary.measures import unit_counts as unit_counts
from jaxae.dictionary.sparse_decode import sparse_decode as sparse_decode
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
from jaxae.optimizers.target_l0 import TargetL0State as TargetL0State
from jaxae.optimizers.target_l0 import target_l0 as target_l0
from jaxae.optimizers.unit_norm import unit_norm as unit_norm
from jaxae.random import hash_key as hash_key
from jaxae.reconstruction import bernoulli_nll as bernoulli_nll
from jaxae.reconstruction import gaussian_nll as gaussian_nll
from jaxae.reconstruction import squared_error as squared_error
from jaxae.sampling import denoising_transition as denoising_transition
from jaxae.sampling import langevin_transition as langevin_transition
from jaxae.sampling import markov_chain as markov_chain
from jaxae.sampling import tangent_transition as tangent_transition
from jaxae.score import reconstruction_field as reconstruction_field
from jaxae.score import score_estimate as score_estimate
from jaxae.shuffle import shuffled_order as shuffled_order
from jaxae.sparsity import dead_unit_loss as dead_unit_loss
from jaxae.sparsity import decoder_weighted_l1_penalty as decoder_weighted_l1_penalty
from jaxae.sparsity import keep_top_k as keep_top_k
from jaxae.sparsity import kl_sparsity_penalty as kl_sparsity_penalty
from jaxae.sparsity import l1_penalty as l1_penalty
from jaxae.training.epoch import make_epoch as make_epoch
from jaxae.training.errors import LostProcessError as LostProcessError
from jaxae.training.errors import NonFiniteLossError as NonFiniteLossError
from jaxae.training.errors import StoppedError as StoppedError
from jaxae.training.evaluation import evaluate as evaluate
from jaxae.training.many import sweep_method as sweep_method
from jaxae.training.programs import Run as Run
from jaxae.training.runs import fit as fit
from jaxae.training.runs import fit_many as fit_many
from jaxae.training.runs import make_run as make_run
from jaxae.training.sharding import data_mesh as data_mesh
from jaxae.training.snapshots import Checkpoints as Checkpoints
from jaxae.training.snapshots import Snapshot as Snapshot
from jaxae.training.steps import TrainState as TrainState
from jaxae.training.steps import create_train_state as create_train_state
from jaxae.training.steps import make_train_step as make_train_step
from jaxae.training.streams import Streamed as Streamed
from jaxae.training.streams import StreamedBatches as StreamedBatches

# What is imported above: a module has no ``__module__``, and a private name is left out.
__all__ = sorted(
    name for name, value in vars().items() if hasattr(value, "__module__") and name[0] != "_"
)
