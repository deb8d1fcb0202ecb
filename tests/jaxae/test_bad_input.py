"""Bad input of every public function: one clear error that names argument, value, allowed.

Each row of a table: a call, the class of its error, and a pattern of the message. The names in a
call are those of ``jaxae`` and of this file.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from numpy import inf, nan

import jaxae

pytestmark = pytest.mark.usefixtures("no_type_hook")

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY)
X = jnp.full((4, 3), 0.5)
NAN = X.at[0, 0].set(nan)
INF = X.at[0, 0].set(inf)
INT = jnp.ones((4, 3), jnp.int32)
IDENTITY = lambda v: v
MASK = lambda key, x: jaxae.masking_noise(key, x, rate=0.5)
STEP = lambda key, x_i: x_i
W = jnp.ones((2, 3))
ENCODE, DECODE = (lambda v: W @ v), (lambda z: W.T @ z)
ENCODE_LEVEL, DECODE_LEVEL = (lambda v, stddev: W @ v), (lambda z, stddev: W.T @ z)
LAYER = nn.Dense(3)
DEAD = jnp.array([True, False, True])
SGD = optax.sgd(0.1)
PARABOLA = lambda w: jnp.sum(w**2)
LOSS = lambda params, key, x: params * x[:, 0]
INIT = lambda model: jaxae.as_functions(model).init(KEY)
KEEPER = jaxae.keep_best(SGD, jnp.sum, every=1)
EPOCH = jaxae.make_epoch(LOSS, SGD, batch_size=2)
RUN = jaxae.make_run(LOSS, SGD, batch_size=2)
STATE = jaxae.create_train_state(jnp.zeros(()), SGD)
STATES = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), STATE)

TABLE = r"""
# corruption
masking_noise(KEY, X, rate=-0.1)                                 | ValueError | rate must be a finite number.*but it is -0.1
masking_noise(KEY, X, rate=1.1)                                  | ValueError | rate must be a finite number.*but it is 1.1
masking_noise(KEY, X, rate=nan)                                  | ValueError | rate must be a finite number.*but it is nan
masking_noise(KEY, X, rate=inf)                                  | ValueError | rate must be a finite number.*but it is inf
gaussian_noise(KEY, X, stddev=-0.1)                              | ValueError | stddev must be a finite number.*but it is -0.1
gaussian_noise(KEY, X, stddev=nan)                               | ValueError | stddev must be a finite number.*but it is nan
gaussian_noise(KEY, X, stddev=inf)                               | ValueError | stddev must be a finite number.*but it is inf
gaussian_noise(KEY, X, stddev=1e39)                              | ValueError | stddev must be a finite number of at least 0, but it is 1e\+39
uniform_noise(KEY, X, scale=-0.1)                                | ValueError | scale must be a finite number.*but it is -0.1
uniform_noise(KEY, X, scale=nan)                                 | ValueError | scale must be a finite number.*but it is nan
uniform_noise(KEY, X, scale=-inf)                                | ValueError | scale must be a finite number.*but it is -inf
uniform_noise(KEY, X, scale=0.1, low=1.0, high=0.0)              | ValueError | low must be at most high, but low=1.0 and high=0.0
uniform_noise(KEY, X, scale=0.1, low=nan)                        | ValueError | low must be a finite number, but it is nan
uniform_noise(KEY, X, scale=0.1, high="1")                       | TypeError  | high
salt_and_pepper_noise(KEY, X, rate=-1)                           | ValueError | rate must be a finite number.*but it is -1
salt_and_pepper_noise(KEY, X, rate=2)                            | ValueError | rate must be a finite number.*but it is 2
salt_and_pepper_noise(KEY, X, rate=nan)                          | ValueError | rate must be a finite number.*but it is nan
salt_and_pepper_noise(KEY, X, rate=0.1, low=2.0)                 | ValueError | low must be at
compose(MASK, 3)                                                 | TypeError  | corruptions\[1\] must be a function, but it is 3
compose(MASK)(7, X)                                              | TypeError  | key must be one PRNG key
corrupt_batch(KEY, "mask", X)                                    | TypeError  | corrupt must be a function, but it is 'mask'
corrupt_batch(KEY, MASK, jnp.ones(()))                           | ValueError | x must have at least batch_ndim=1 axes, but its shape is \(\)
corrupt_batch(KEY, MASK, X, batch_ndim=-1)                       | ValueError | batch_ndim must be an integer of at least 0, but it is -1
corrupt_batch(KEY, lambda k, v: v[:1], X)                        | ValueError | corrupt must keep shape and dtype.*float32\[3\] into float32\[1\]
corrupt_batch(KEY, MASK, INT)                                    | TypeError  | x must be floating
corrupt_batch(KEY, MASK, NAN)                                    | ValueError | x must be finite
corrupt_batch(None, MASK, X)                                     | TypeError  | key must be one PRNG

# reconstruction
gaussian_nll(X, X, stddev=0.0)                                   | ValueError | stddev must be a finite number above 0, but it is
gaussian_nll(X, X, stddev=-1.0)                                  | ValueError | stddev must be a finite number above 0, but it is
gaussian_nll(X, X, stddev=nan)                                   | ValueError | stddev must be a finite number above 0, but it is
gaussian_nll(X, X, stddev=0 * X)                                 | ValueError | stddev must be above 0, but 12 of its values are not
gaussian_nll(X, X, stddev=X[:, 0])                               | ValueError | stddev and x must have the same shape
gaussian_nll(X, X, stddev=1e-50)                                 | ValueError | stddev must be a finite number above 0, but it is 1e-50
bernoulli_nll(X, 255 * X)                                        | ValueError | x must be at most 1, but 12 of its values are above
bernoulli_nll(X, -X)                                             | ValueError | x must be at least 0,

# distributions
Gaussian(0.0)                                                    | ValueError | stddev must be a finite number
Gaussian(-1.0)                                                   | ValueError | stddev must be a finite number
Gaussian(nan)                                                    | ValueError | stddev must be a finite number
Bernoulli().mean(INT)                                            | TypeError  | output must be floating point
Bernoulli().sample(3, X)                                         | TypeError  | key must be one PRNG key
DiagonalGaussian().mean(X)                                       | ValueError | output must hold means and log standard deviations.*\(4, 3\)

# sparsity
l1_penalty(INT)                                                  | TypeError  | code must be floating point
l1_penalty(jnp.ones(()))                                         | ValueError | code must have a last axis
l1_penalty(NAN)                                                  | ValueError | code must be finite
kl_sparsity_penalty(X, target=0.0)                               | ValueError | target must be a finite number above 0 and below 1, but it is
kl_sparsity_penalty(X, target=1.0)                               | ValueError | target must be a finite number above 0 and below 1, but it is
kl_sparsity_penalty(X, target=-0.1)                              | ValueError | target must be a finite number above 0 and below 1, but it is
kl_sparsity_penalty(X, target=1.5)                               | ValueError | target must be a finite number above 0 and below 1, but it is
kl_sparsity_penalty(X, target=nan)                               | ValueError | target must be a finite number above 0 and below 1, but it is
kl_sparsity_penalty(3 * X, target=0.1)                           | ValueError | code must be at most 1,
kl_sparsity_penalty(-X, target=0.1)                              | ValueError | code must be at least 0,
kl_sparsity_penalty(X[0], target=0.1)                            | ValueError | code must be a batch of codes.*\(3,\)
kl_sparsity_penalty(X[:0], target=0.1)                           | ValueError | of at least one
jax.vmap(lambda c: kl_sparsity_penalty(c, target=0.1))(X)        | ValueError | batch means
keep_top_k(X, k=0)                                               | ValueError | k must be an integer of at least 1 and at most 3, but it is 0
keep_top_k(X, k=4)                                               | ValueError | k must be an integer of at least 1 and at most 3, but it is 4
keep_top_k(X, k=-1)                                              | ValueError | k must be an integer of at least 1 and at most 3, but it is -1
keep_top_k(X, k=1.5)                                             | TypeError  | k must be an integer
keep_top_k(X, k="2")                                             | TypeError  | k must be an integer
keep_top_k(X, k=None)                                            | TypeError  | k must be an integer
keep_top_k(X, k=True)                                            | TypeError  | k must be an integer
keep_top_k(INF, k=1)                                             | ValueError | code must be finite
decoder_weighted_l1_penalty(X, W)                                | ValueError | with k = 3.*\(2, 3\)
decoder_weighted_l1_penalty(X, X[0])                             | ValueError | shape is \(3,\)
decoder_weighted_l1_penalty(X, INT)                              | TypeError  | decoder must be floating
decoder_weighted_l1_penalty(NAN, W.T)                            | ValueError | code must be finite
dead_unit_loss(X, IDENTITY, X, is_dead=DEAD, k=4)                | ValueError | k must be .* at most 3
dead_unit_loss(X, IDENTITY, X, is_dead=X[0], k=1)                | TypeError  | is_dead must be a boolean
dead_unit_loss(X, IDENTITY, X, is_dead=DEAD[:2], k=1)            | ValueError | is_dead .* 3 units
dead_unit_loss(X, IDENTITY, X[:2], is_dead=DEAD, k=1)            | ValueError | residual must have the batch axes \(4,\)
dead_unit_loss(X, lambda z: z[:2], X, is_dead=DEAD, k=1)         | ValueError | decode must return an example of shape \(3,\)

# dictionary
jump_relu(X, X[0], bandwidth=0.0)                                | ValueError | bandwidth must be a finite number above 0, but it is 0.0
jump_relu(X, X[0], bandwidth=nan)                                | ValueError | bandwidth must be a finite number above 0, but it is nan
jump_relu(X, X[0], bandwidth="1")                                | TypeError  | bandwidth must be a finite number
jump_relu(X, X[0, :2], bandwidth=0.1)                            | ValueError | threshold must have one entry for each of 3 units, but its shape is \(2,\)
jump_relu(X[0, 0], X[0], bandwidth=0.1)                          | ValueError | pre must have a last axis of units
jump_relu(X, X[0].astype("bfloat16"), bandwidth=0.1)             | TypeError  | threshold must be float32 or float64, but its dtype is bfloat16
step_l0_penalty(X, X, bandwidth=0.1)                             | ValueError | threshold must have one entry for each of 3 units, but its shape is \(4, 3\)
step_l0_penalty(X, X[0].astype("float16"), bandwidth=0.1)        | TypeError  | threshold must be float32 or float64, but its dtype is float16
tanh_l0_penalty(X, W)                                            | ValueError | with k = 3.*\(2, 3\)
tanh_l0_penalty(X, X[:3], scale=0.0)                             | ValueError | scale must be a finite number above 0
batch_top_k(X, k=0)                                              | ValueError | k must be an integer of at least 1 and at most 3, but it is 0
batch_top_k(X, k=4)                                              | ValueError | k must be an integer of at least 1 and at most 3, but it is 4
batch_top_k(X, k=1.5)                                            | TypeError  | k must be an integer
batch_top_k(X[0], k=1)                                           | ValueError | pre must be a batch \(\*batch, units\).*\(3,\)
jax.vmap(lambda z: batch_top_k(z, k=1))(X)                       | ValueError | pre must be a batch
batch_top_k_threshold(X[0])                                      | ValueError | code must be a batch
gated_relu(X, X[:2])                                             | ValueError | gate and magnitude must have the same shape
gated_relu(X[0, 0], X[0, 0])                                     | ValueError | gate must have a last axis of units
gated_auxiliary_loss(X, IDENTITY, X[:2])                         | ValueError | x must have the batch axes \(4,\) of gate
gated_auxiliary_loss(X, lambda z: z[:2], X)                      | ValueError | decode must return an example of shape \(3,\)
gated_auxiliary_loss(X, 3, X)                                    | TypeError  | decode must be a function
matryoshka_loss(X, W, X, prefixes=(3,))                          | ValueError | with k = 3.*\(2, 3\)
matryoshka_loss(X, X[:3], X[:2], prefixes=(3,))                  | ValueError | x must have shape \(4, 3\)
matryoshka_loss(X, X[:3], X, prefixes=(1, 2))                    | ValueError | prefixes must rise to the number of units, 3, but they are \[1, 2\]
matryoshka_loss(X, X[:3], X, prefixes=(2, 1, 3))                 | ValueError | prefixes must rise
matryoshka_loss(X, X[:3], X, prefixes=(1, 4))                    | ValueError | prefixes\[1\] must be an integer of at least 1 and at most 3, but it is 4
matryoshka_loss(X, X[:3], X, prefixes=())                        | ValueError | prefixes must rise
sparse_decode(X[0, 0], jnp.array(1), W)                          | ValueError | values must have a last axis
sparse_decode(X, jnp.zeros((4, 3)), W)                           | TypeError  | indices must be integers, but the dtype is float32
sparse_decode(X, jnp.zeros((4, 2), int), W)                      | ValueError | indices must have the shape of values, \(4, 3\), but the shape is \(4, 2\)
sparse_decode(X, jnp.full((4, 3), 2), W)                         | ValueError | indices must be from 0 to 1, .* but they are from 2 to 2
sparse_decode(X, jnp.full((4, 3), -1), W)                        | ValueError | indices must be from 0 to 1
sparse_decode(X, jnp.zeros((4, 3), int), W[0])                   | ValueError | decoder must be filters \(units, d\)
dense_units(X, share=1.5)                                        | ValueError | share must be a finite number of at least 0 and at most 1, but it is 1.5
dense_units(X, threshold=-1)                                     | ValueError | threshold must be
mean_correlation(X, W.T)                                         | ValueError | filters and atoms must be
mean_correlation(X[0], X[0])                                     | ValueError | filters and atoms must be
nearest_atoms(X, NAN)                                            | ValueError | atoms must be finite
uniqueness(INT, X)                                               | TypeError  | filters must be floating
unit_counts(X, X, X[0])                                          | TypeError  | nearest must be integers, but its dtype is float32
unit_counts(X, X, INT[0, :2])                                    | ValueError | nearest must have one entry for each of 3 units
unit_counts(X, X[:2], INT[0])                                    | ValueError | truth must have the batch axes \(4,\)
target_l0(target=0.0, rate=0.1)                                  | ValueError | target must be a finite number above 0
target_l0(target=5.0, rate=-0.1)                                 | ValueError | rate must be a finite number of at least 0
target_l0(target=5.0, rate=0.1, damping=nan)                     | ValueError | damping must be a finite number
target_l0(target=5.0, rate=0.1).init(jnp.zeros(()))              | ValueError | params must be above 0
target_l0(target=5.0, rate=0.1).update(X[0, 0], None)            | ValueError | params must be passed to update

# metrics
psnr(X, X, peak=0.0)                                             | ValueError | peak must be a finite number
psnr(X, X, peak=-1.0)                                            | ValueError | peak must be a finite number
psnr(X, X, peak=nan)                                             | ValueError | peak must be a finite number
active_units(INT)                                                | TypeError  | code must be floating point
active_units(X, threshold=-1)                                    | ValueError | threshold must be
dead_units(NAN)                                                  | ValueError | code must be finite
dead_units(jnp.ones(()))                                         | ValueError | last axis of units
saturated_share(2 + X)                                           | ValueError | code must be at most
saturated_share(jnp.ones(()))                                    | ValueError | last axis
explained_variance(X[:1], X[:1])                                 | ValueError | x must hold at least two examples
jacobian_singular_values(ENCODE, INT)                            | TypeError  | x
jacobian_singular_values(jnp.sum, X)                             | ValueError | one code
contraction_curve(KEY, ENCODE, X, radii=jnp.zeros(2))            | ValueError | radii must be above 0, but 2
contraction_curve(KEY, ENCODE, X, radii=jnp.ones(()))            | ValueError | radii must have one axis
best_cosines(X, W.T)                                             | ValueError | filters and atoms must be
best_cosines(X[0], X[0])                                         | ValueError | filters and atoms must be
best_cosines(X, NAN)                                             | ValueError | atoms must be finite

# score
score_estimate(ENCODE, DECODE, X, stddev=0.0)                    | ValueError | stddev must be a finite number above 0
score_estimate(ENCODE, DECODE, X, stddev=-1.0)                   | ValueError | stddev must be a finite number above 0
score_estimate(ENCODE, DECODE, X, stddev=nan)                    | ValueError | stddev must be a finite number above 0

# linear_denoiser
fit_linear_denoiser(X[:, :2], X)                                 | ValueError | same shape
fit_linear_denoiser(X[0], X[0])                                  | ValueError | x must be rows \(n, d\) with n >= 2
fit_linear_denoiser(X, INT)                                      | TypeError  | x must be float
fit_linear_denoiser(X, X)(X, rank=0)                             | ValueError | rank must be an integer of at least 1
fit_linear_denoiser(X, X).decode(jnp.ones(4))                    | ValueError | at most d=3 numbers
pair_moments(X[:, :2], X)                                        | ValueError | same shape
pair_moments(X[0], X[0])                                         | ValueError | \(n, d\) with n >= 1

# contraction
contractive_penalty(ENCODE, X, method="exact")                   | ValueError | method must be one of auto, jacfwd, jacrev, hutchinson, but it is 'exact'
contractive_penalty(ENCODE, X, method="hutchinson")              | ValueError | key must be given for method='hutchinson'
contractive_penalty(ENCODE, X, method="hutchinson", key=1)       | TypeError  | key
contractive_penalty(ENCODE, X, method="hutchinson", key=KEY, probes="normal") | ValueError | probes must be one of rademacher, gaussian, but it is 'normal'
contractive_penalty(ENCODE, X, num_samples=0)                    | ValueError | num_samples must be an integer of at least 1, but it is 0
contractive_penalty(ENCODE, X, num_samples=2.5)                  | TypeError  | num_samples must be an integer
contractive_penalty(ENCODE, X, chunk_size=0)                     | ValueError | chunk_size must be an integer of at least 1, but it is 0
contractive_penalty(ENCODE, X, chunk_size=2.5)                   | TypeError  | chunk_size must be an integer
contractive_penalty(lambda v: v.sum(), X)                        | ValueError | encode must map one example to one code of shape \(k,\).*it gave \(\)
contractive_penalty(lambda v: (v, v), X)                         | TypeError  | encode must return one floating array
contractive_penalty(lambda v: v > 0, X)                          | TypeError  | encode must return one floating array.*bool\[3\]
contractive_penalty(3, X)                                        | TypeError  | encode must be a function, but it is 3
contractive_penalty(ENCODE, INT)                                 | TypeError  | x must be
contractive_penalty(ENCODE, NAN)                                 | ValueError | finite
code_and_contractive_penalty(ENCODE, X, method="exact")          | ValueError | method must be one of auto, jacfwd, jacrev, hutchinson, but it is 'exact'
explain_contraction(ENCODE, X, chunk_size=0)                     | ValueError | chunk_size must be an integer of at least 1, but it is 0
explain_contraction(3, X)                                        | TypeError  | encode must be a function
reconstruction_contractive_penalty(ENCODE, "decode", X)          | TypeError  | decode must be a function
reconstruction_contractive_penalty(lambda v: v.sum(), lambda z: z, X) | ValueError | encode must map one example to one code
reconstruction_contractive_penalty(ENCODE, lambda z: z, NAN)     | ValueError | x must be finite
higher_order_contractive_penalty(KEY, ENCODE, X, stddev=0.0)     | ValueError | stddev must be a finite number above 0
higher_order_contractive_penalty(KEY, ENCODE, X, stddev=-1.0)    | ValueError | stddev must be a finite number above 0
higher_order_contractive_penalty(KEY, ENCODE, X, stddev=nan)     | ValueError | stddev must be a finite number above 0
higher_order_contractive_penalty(7, ENCODE, X, stddev=0.1)       | TypeError  | key must be one PRNG key
register_contraction_rule(3, diagonal=ENCODE)                    | TypeError  | function must be a function, but it is 3
register_contraction_rule(ENCODE, matrix=3)                      | TypeError  | matrix must be a function, but it is 3
register_contraction_rule(ENCODE)                                | ValueError | exactly one of diagonal and matrix must be given, but neither is
register_contraction_rule(ENCODE, diagonal=ENCODE, matrix=ENCODE) | ValueError | exactly one of diagonal and matrix must be given, but both are
contractive_penalty_estimate(1, ENCODE, X)                       | TypeError  | key
contractive_penalty_estimate(KEY, ENCODE, X, method="auto")      | ValueError | method must be one of hutchinson, hutch\+\+, but it is 'auto'
contractive_penalty_estimate(KEY, ENCODE, X, num_samples=3)      | ValueError | num_samples must be an integer of at least 4, but it is 3
contractive_penalty_estimate(KEY, ENCODE, X, method="hutchinson", num_samples=1) | ValueError | num_samples must be an integer of at least 2
contractive_penalty_estimate(KEY, ENCODE, X, chunk_size=0)       | ValueError | chunk_size must be an integer of at least 1
higher_order_contractive_penalty(KEY, ENCODE, X, stddev=0.1, num_samples=0) | ValueError | num_samples must be an integer of at least 1, but it is 0

# objectives
sparse_loss(ENCODE, DECODE, X, weight=1, penalty=jnp.abs)        | ValueError | penalty must return one value per example \(4,\) or a scalar.*\(4, 2\)
sparse_loss(ENCODE, DECODE, X, weight=1, penalty="l1")           | TypeError  | penalty must be a function, but it is 'l1'
denoising_loss(1, ENCODE, DECODE, X, corrupt=MASK)               | TypeError  | key must be one PRNG key
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=0.5)              | TypeError  | corrupt must be a function, but it is 0.5
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, sample_code=1) | TypeError  | sample_code must be a function
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, reconstruction="mse") | TypeError  | reconstruction must be a function, but it is 'mse'
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, reconstruction=lambda a, b: (a, b)) | TypeError  | reconstruction must return one floating array
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, emphasis=1.0) | ValueError | emphasis
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, emphasis=(1.0,)) | ValueError | emphasis
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, emphasis=(1.0, -1.0)) | ValueError | emphasis
denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, emphasis=(nan, 1.0)) | ValueError | emphasis
contractive_loss(ENCODE, DECODE, X, weight=1.0, method="hutchinson") | ValueError | key must be given
combined_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, method="bogus") | ValueError | method must be one of
walkback_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, sample=STEP, steps=0) | ValueError | steps must be an integer
walkback_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, sample=None, steps=1) | TypeError  | sample must be a function
walkback_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, sample=lambda key, output: output[:2], steps=1) | ValueError | sample must return an example, float32\[3\], but it gave float32\[2\]
noise_conditional_loss(KEY, ENCODE_LEVEL, DECODE_LEVEL, X, low=0.0, high=1.0) | ValueError | low must be .*ab
noise_conditional_loss(KEY, ENCODE_LEVEL, DECODE_LEVEL, X, low=1.0, high=0.5) | ValueError | low must be at mos
noise_conditional_loss(KEY, ENCODE_LEVEL, DECODE_LEVEL, X, low=1.0, high="2") | TypeError  | high must be
noise_conditional_loss(KEY, ENCODE_LEVEL, DECODE_LEVEL, X, low=0.5, high=1.0, weight=2.0) | TypeError  | weight must be
noise_conditional_loss(KEY, ENCODE_LEVEL, DECODE_LEVEL, X, low=0.5, high=1.0, weight=lambda s: X) | ValueError | weight must.*scal

# sampling
markov_chain(KEY, STEP, X, steps=0)                              | ValueError | steps must be an integer of at least 1
markov_chain(KEY, STEP, X, steps=5, thin=2)                      | ValueError | thin must divide steps
markov_chain(KEY, STEP, X, steps=5, thin=6)                      | ValueError | thin .* at most 5
markov_chain(KEY, STEP, X, steps=5, schedule=jnp.ones(4))        | ValueError | schedule must be .* leading axis of 5.*\(4,\)
markov_chain(KEY, STEP, X, steps=5, fixed=X)                     | TypeError  | fixed must be a boolean array
markov_chain(KEY, STEP, X, steps=5, fixed=jnp.ones(2, bool))     | ValueError | fixed must have the shape \(4, 3\)
markov_chain(KEY, lambda key, x_i: x_i[:2], X, steps=1)          | ValueError | transition must keep shape and dtype.*float32\[3\] into float32\[2\]
markov_chain(KEY, 3, X, steps=1)                                 | TypeError  | transition must
markov_chain(KEY, STEP, NAN, steps=1)                            | ValueError | x must be f
markov_chain(1, STEP, X, steps=1)                                | TypeError  | key must be one
denoising_transition(ENCODE, DECODE, corrupt=0.5)                | TypeError  | corrupt must be a function
denoising_transition(ENCODE, DECODE, corrupt=MASK, sample="mean") | TypeError  | sample must be a function
langevin_transition(ENCODE, step_size=0.0)                       | ValueError | step_size must be a finite number above 0
langevin_transition(ENCODE, step_size=-1.0)                      | ValueError | step_size must be a finite number above 0
langevin_transition(ENCODE, step_size=nan)                       | ValueError | step_size must be a finite number above 0
langevin_transition(X, step_size=1)                              | TypeError  | score
markov_chain(KEY, langevin_transition(lambda x_i, level: -x_i, step_size=1), X, steps=2, schedule={"stddev": jnp.ones(2)}) | TypeError  | each level of schedule must be a finite number, but it is a dict
tangent_transition(ENCODE, DECODE, stddev=-1.0)                  | ValueError | stddev must be a finite number of at least 0
tangent_transition(0, DECODE, stddev=1)                          | TypeError  | enc

# models
as_functions(LAYER)                                               | TypeError  | param_dtype
as_functions(3)                                                  | TypeError  | model must be a Flax Linen module
as_functions(DenseAutoencoder((3,), 2)).init(5)                  | TypeError  | key must be
INIT(DenseAutoencoder((3,), 0))                                  | ValueError | code_dim must be an integer
INIT(DenseAutoencoder((3,), 2.0))                                | TypeError  | code_dim must be an integer
INIT(DenseAutoencoder((3,), 2, hidden_dims=(0,)))                | ValueError | hidden_dims
INIT(DenseAutoencoder((0,), 2))                                  | ValueError | example_shape
INIT(ConvAutoencoder((8, 8), 2))                                 | ValueError | example_shape must be \(height, width, channels\), but it is \(8, 8\)
INIT(ConvAutoencoder((8, 8, 1), 2, channels=()))                 | ValueError | channels
INIT(ConvAutoencoder((8, 8, 1), 2, kernel_size=0))               | ValueError | kernel_size

# random
hash_key(0)                                                      | TypeError  | key must be one PRNG key
hash_key(jnp.ones(2))                                            | TypeError  | key must be one PRNG key
jax.jit(lambda: jax.random.bits(hash_key(KEY), (2**17, 2**17))).lower() | ValueError | draws at most 2\*\*32 numbers at a time, but 17179869184
shuffled_order(0, 5)                                             | TypeError  | key must be one PRNG key
shuffled_order(KEY, 2**31)                                       | ValueError | n must be an integer
shuffled_order(KEY, 0)                                           | ValueError | n must be an integer
shuffled_order(KEY, -1)                                          | ValueError | n must be an integer
shuffled_order(KEY, 2.5)                                         | TypeError  | n must be an integer
shuffled_order(KEY, 5, positions=jnp.ones(2))                    | TypeError  | positions must be an array of integers
shuffled_order(KEY, 5, positions=[1, 2])                         | TypeError  | positions must be an array of integers

# optimizers
lbfgs(memory_size=0)                                             | ValueError | memory_size .*is 0
lbfgs(max_linesearch_steps=0)                                    | ValueError | max_linesearch_steps must be .* but it is 0
lbfgs(memory_size=-1)                                            | ValueError | memory_size .*is -1
lbfgs(max_linesearch_steps=-1)                                   | ValueError | max_linesearch_steps must be .* but it is -1
conjugate_gradient(max_linesearch_steps=0)                       | ValueError | max_linesearch_steps must be .* but it is 0
conjugate_gradient(max_linesearch_steps=-1)                      | ValueError | max_linesearch_steps must be .* but it is -1
conjugate_gradient(curv_rtol=0.0)                                | ValueError | curv_rtol must be a finite number above 0 and below 1, but it is 0.0
conjugate_gradient(curv_rtol=1.0)                                | ValueError | curv_rtol must be a finite number above 0 and below 1, but it is 1.0
conjugate_gradient(curv_rtol=nan)                                | ValueError | curv_rtol must be a finite number above 0 and below 1, but it is nan
minimize(PARABOLA, X, SGD, steps=0)                              | ValueError | steps must be an integer of at least 1
minimize(PARABOLA, X, SGD, steps=1.5)                            | TypeError  | steps must be an integer
minimize(PARABOLA, X, SGD, steps=1, tol=-1.0)                    | ValueError | tol must be .* at least 0
minimize(3, X, SGD, steps=1)                                     | TypeError  | loss must be a function, but it is 3
minimize(IDENTITY, X, SGD, steps=1)                              | ValueError | loss must return one scalar, but it gave ShapeDtypeStruct\(shape=\(4, 3\)
minimize(PARABOLA, X, "adam", steps=1)                           | TypeError  | optimizer must be an optax optimiser, but it is 'adam'
unit_norm("adam")                                                | TypeError  | optimizer must be an optax optimis
unit_norm(SGD, axis=0.5)                                         | TypeError  | axis must be an integer
unit_norm(SGD).update(X, unit_norm(SGD).init(X))                 | ValueError | params must be passed to update
keep_best("sgd", jnp.sum, every=1)                               | TypeError  | optimizer must be
keep_best(SGD, 0.1, every=1)                                     | TypeError  | score must be a function
keep_best(SGD, jnp.sum, every=0)                                 | ValueError | every must be .* 1
keep_best(SGD, IDENTITY, every=1).init(X)                        | ValueError | score must return a scalar
KEEPER.update(X, KEEPER.init(X))                                 | ValueError | params must be passed

# training
fit(RUN, STATE, KEY, X, epochs=1, first_epoch=-1)                | ValueError | first_epoch must be an integer of at least 0
fit(EPOCH, STATE, KEY, X, epochs=1)                              | TypeError  | run must be what jaxae.make_run returned
fit(RUN, STATE, KEY, X, epochs=0)                                | ValueError | epochs must be an integer of at least 1, but it is 0
fit(RUN, STATE, KEY, X, epochs=-1)                               | ValueError | epochs must be an integer of at least 1, but it is -1
fit(RUN, STATE, KEY, X, epochs=2.5)                              | TypeError  | epochs must be an integer of at least 1, but it is 2.5
fit(RUN, STATE, KEY, NAN, epochs=1)                              | ValueError | x must be finite
fit(RUN, STATE, KEY, INT, epochs=1)                              | TypeError  | x must be floating
fit(RUN, STATE, 0, X, epochs=1)                                  | TypeError  | key must be one PRNG
make_run(None, SGD, batch_size=2)                                | TypeError  | loss must be a func
make_run(LOSS, 3, batch_size=2)                                  | TypeError  | optimizer must be
make_run(LOSS, SGD, batch_size=0)                                | ValueError | batch_size must be an integer of at least 1, but it is 0
make_run(LOSS, SGD, batch_size=1, epochs_per_call=0)             | ValueError | epochs_per_call must be an integer of at least 1, but it is 0
make_run(LOSS, SGD, batch_size=-1)                               | ValueError | batch_size must be an integer of at least 1, but it is -1
make_run(LOSS, SGD, batch_size=1, epochs_per_call=-1)            | ValueError | epochs_per_call must be an integer of at least 1, but it is -1
make_run(LOSS, SGD, batch_size=2.5)                              | TypeError  | batch_size must be an integer of at least 1, but it is 2.5
make_run(LOSS, SGD, batch_size=1, epochs_per_call=2.5)           | TypeError  | epochs_per_call must be an integer of at least 1, but it is 2.5
fit_many(EPOCH, STATES, KEYS, X, epochs=1)                       | TypeError  | run must be what jaxae.make_run returned
fit_many(RUN, STATES, KEYS, X, epochs=1, method="loop")          | ValueError | method must be one of auto, vmap, thr
fit_many(RUN, STATES, KEYS, X, epochs=1, first_epoch=-1)         | ValueError | first_epoch must be an integer
fit_many(RUN, STATES, KEYS[0], X, epochs=1)                      | ValueError | keys must have shape \(m,\)
fit_many(RUN, STATES, jnp.ones(2), X, epochs=1)                  | TypeError  | keys must be PRNG keys, one for
fit_many(RUN, STATE, KEYS, X, epochs=1)                          | ValueError | every leaf of states must have a leading
fit_many(RUN, STATES, KEYS, X, jnp.ones(3), epochs=1)            | ValueError | every leaf of settings\[0\] must have a leading axis of 2, one for each key, .*\(3,\)
fit_many(RUN, STATES, KEYS, NAN, epochs=1)                       | ValueError | x must be finite
fit_many(RUN, STATES, KEYS, INT, epochs=1)                       | TypeError  | x must be floating
fit_many(RUN, STATES, KEYS, X, epochs=0)                         | ValueError | epochs must be an integer of at least 1
fit_many(RUN, STATES, KEYS, X, epochs=-1)                        | ValueError | epochs must be an integer of at least 1
fit_many(RUN, STATES, KEYS, X, epochs=2.5)                       | TypeError  | epochs must be an integer of at least 1
create_train_state({}, "adam")                                   | TypeError  | optimizer must be an optax optimiser, but it is 'adam'
make_train_step(None, SGD)                                       | TypeError  | loss must be a func
make_train_step(LOSS, None)                                      | TypeError  | optimizer must be
make_epoch(LOSS, SGD, batch_size=0)                              | ValueError | batch_size must be an integer of at least 1, but it is 0
make_epoch(LOSS, SGD, batch_size=-1)                             | ValueError | batch_size must be an integer of at least 1, but it is -1
make_epoch(LOSS, SGD, batch_size=2.5)                            | TypeError  | batch_size must be an integer of at least 1, but it is 2.5
make_epoch(LOSS, SGD, batch_size=2)(STATE, KEY, 0, X[:0])        | ValueError | x must hold at least one example, but its shape is \(0, 3\)
evaluate(jnp.sum, X, batch_size=0)                               | ValueError | batch_size must
evaluate(jnp.sum, X, batch_size=-1)                              | ValueError | batch_size must
evaluate(jnp.sum, X, batch_size=2.5)                             | TypeError  | batch_size must
evaluate(3, X, batch_size=2)                                     | TypeError  | metric must be a function
evaluate(jnp.sum, X[:0], batch_size=2)                           | ValueError | at least one
evaluate(squared_error, X, X[:2], batch_size=2)                  | ValueError | n >= 1 examples, but their shapes are data\[0\] \(4, 3\), data\[1\] \(2, 3\)
evaluate(jnp.sum, jnp.ones(()), batch_size=2)                    | ValueError | at least one
evaluate(jnp.sum, NAN, batch_size=2)                             | ValueError | data\[0\] must be finite
Streamed(5)                                                      | TypeError  | source must have a length and rows
Streamed([])                                                     | ValueError | source must hold at least one example
Streamed(INT)                                                    | TypeError  | examples must be floating.*a transform
Streamed(X, transform=3)                                         | TypeError  | transform must be a function
StreamedBatches(3, examples=4, example_shape=(3,))               | TypeError  | make must be
StreamedBatches(lambda *_: [], examples=0, example_shape=())     | ValueError | examples must be an integer
StreamedBatches(lambda *_: [], examples=4, example_shape=(3,), dtype=INT.dtype) | TypeError  | examples must be floating
data_mesh(devices=0)                                             | ValueError | devices must be .*0
data_mesh(devices=-1)                                            | ValueError | devices must be .*-1
data_mesh(devices=10**6)                                         | ValueError | devices must be .*1000000
data_mesh(devices="all")                                         | TypeError  | devices must be an integer
data_mesh(devices=[])                                            | ValueError | devices must be devices of JAX
data_mesh(devices=[3])                                           | ValueError | devices of JAX.*it is \[3\]
"""  # noqa: E501

EACH_NOISE = r"""
{noise}(KEY, X, {strength}="0.5")   | TypeError  | {strength} must be a finite number.*'0.5' \(str\)
{noise}(KEY, X, {strength}=None)    | TypeError  | {strength} must be a finite number.*None
{noise}(KEY, X, {strength}=True)    | TypeError  | {strength} must be a finite number.*True
{noise}(KEY, X, {strength}=X)       | TypeError  | {strength} must be .*array of shape \(4, 3\)
{noise}(KEY, INT, {strength}=0.5)   | TypeError  | x must be floating point, but its dtype is int32
{noise}(KEY, [1.0], {strength}=0.5) | TypeError  | x must be an array, but it is \[1.0\] \(list\)
{noise}(KEY, NAN, {strength}=0.5)   | ValueError | x must be finite, but 1 of its 12 values
{noise}(KEY, INF, {strength}=0.5)   | ValueError | x must be finite
{noise}(0, X, {strength}=0.5)       | TypeError  | key must be one PRNG key.*0 \(int\)
{noise}(KEYS, X, {strength}=0.5)    | TypeError  | key must be one PRNG key.*shape \(2,\)
"""
NOISES = {
    "masking_noise": "rate",
    "gaussian_noise": "stddev",
    "uniform_noise": "scale",
    "salt_and_pepper_noise": "rate",
}

EACH_ERROR = r"""
{error}(X[:, :2], X)            | ValueError | {first} and x must have the same shape.*\(4, 2\).*\(4, 3\)
{error}(X[:1], X)               | ValueError | same shape
{error}(INT, X)                 | TypeError  | {first} must be floating point
{error}(X, INT)                 | TypeError  | x must be floating point
{error}(NAN, X)                 | ValueError | {first} must be finite
{error}(X, INF)                 | ValueError | x must be finite
{error}(X, X, example_ndim=3)   | ValueError | x must have at least example_ndim=3 axes, but its shape is \(4, 3\)
{error}(X, X, example_ndim=0)   | ValueError | example_ndim must be an integer
{error}(X, X, example_ndim=1.0) | TypeError  | example_ndim must be an integer
"""  # noqa: E501
ERRORS = {
    "squared_error": "x_hat",
    "gaussian_nll": "mean",
    "bernoulli_nll": "logits",
    "mean_squared_error": "x_hat",
    "psnr": "x_hat",
    "explained_variance": "x_hat",
    "shrinkage": "x_hat",
}

EACH_OBJECTIVE = r"""
{begin}ENCODE, DECODE, INT{end}               | TypeError  | x must be floating point
{begin}ENCODE, DECODE, NAN{end}               | ValueError | x must be finite
{begin}ENCODE, DECODE, X, example_ndim=3{end} | ValueError | example_ndim=3
{begin}None, DECODE, X{end}                   | TypeError  | encode must be a function
{begin}ENCODE, "mean", X{end}                 | TypeError  | decode must be a function
{begin}ENCODE, IDENTITY, X{end}               | ValueError | decode must return .*an example of shape \(3,\), but it gave \(2,\)
{begin}lambda v: v[None], DECODE, X{end}      | ValueError | one code of shape \(k,\)
"""  # noqa: E501
OBJECTIVES = [
    ("reconstruction_loss(", ")"),
    ("sparse_loss(", ", weight=0.1)"),
    ("denoising_loss(KEY, ", ", corrupt=MASK)"),
    ("contractive_loss(", ", weight=0.1)"),
    ("combined_loss(KEY, ", ", corrupt=MASK)"),
    ("reconstruction_field(", ")"),
    ("score_estimate(", ", stddev=0.5)"),
]

EACH_WEIGHT = r"""
{begin}, {weight}=-0.1) | ValueError | {weight} must be a finite number of at least 0, but it is -0.1
{begin}, {weight}=nan)  | ValueError | {weight} must be a finite number of at least 0, but it is nan
{begin}, {weight}=inf)  | ValueError | {weight} must be a finite number of at least 0, but it is inf
{begin}, {weight}="1")  | TypeError  | {weight} must be
"""  # noqa: E501
WEIGHTS = [
    ("sparse_loss(ENCODE, DECODE, X", "weight"),
    ("contractive_loss(ENCODE, DECODE, X", "weight"),
    ("combined_loss(KEY, ENCODE, DECODE, X, corrupt=MASK", "sparsity_weight"),
    ("combined_loss(KEY, ENCODE, DECODE, X, corrupt=MASK", "contraction_weight"),
]

ERROR_CLASSES = {"TypeError": TypeError, "ValueError": ValueError}
SCOPE = globals() | {name: getattr(jaxae, name) for name in jaxae.__all__}


def cases(table, **words):
    """Returns the rows of a table as parameters of a test, with ``words`` filled in."""
    lines = [line for line in table.splitlines() if line and not line.startswith("#")]
    rows = [[cell.strip() for cell in line.split("|", 2)] for line in lines]
    if words:
        rows = [[cell.format(**words) for cell in row] for row in rows]
    return [pytest.param(*row, id=row[0]) for row in rows]


CASES = cases(TABLE)
for noise, strength in NOISES.items():
    CASES += cases(EACH_NOISE, noise=noise, strength=strength)
for error, first in ERRORS.items():
    CASES += cases(EACH_ERROR, error=error, first=first)
for begin, end in OBJECTIVES:
    CASES += cases(EACH_OBJECTIVE, begin=begin, end=end)
for begin, weight in WEIGHTS:
    CASES += cases(EACH_WEIGHT, begin=begin, weight=weight)


@pytest.mark.parametrize(("call", "error", "match"), CASES)
def test_bad_input(call, error, match):
    with pytest.raises(ERROR_CLASSES[error], match=match):
        eval(call, SCOPE)


def test_every_public_function_is_in_the_table():
    calls = [param.values[0] for param in CASES]
    covered = {name for name in jaxae.__all__ if any(re.search(rf"\b{name}\(", c) for c in calls)}
    exempt = {"AutoencoderFunctions", "LinearDenoiser", "Minimum", "PairMoments"}
    exempt |= {"ContractionPlan", "NonFiniteLossError", "Run", "TrainState", "sweep_method"}
    exempt |= {"Estimate", "TargetL0State", "UnitCounts"}
    exempt |= {"BestState", "Checkpoints", "LostProcessError", "Snapshot", "StoppedError"}
    assert covered | exempt == set(jaxae.__all__)


@pytest.mark.parametrize("name", NOISES)
def test_numbers_are_checked_at_trace_time_and_values_are_not(name):
    noise, strength = getattr(jaxae, name), NOISES[name]
    with pytest.raises(ValueError, match=strength):
        jax.jit(lambda x: noise(KEY, x, **{strength: -1.0}))(X)
    traced = jax.jit(lambda x, level: noise(KEY, x, **{strength: level}))
    assert bool(jnp.isnan(traced(NAN, 0.5)).any()) or name == "salt_and_pepper_noise"


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(TypeError, match=r"\.\.\. \(str\)") as caught:
        jaxae.masking_noise(KEY, X, rate="9" * 5000)
    assert len(str(caught.value)) < 200
