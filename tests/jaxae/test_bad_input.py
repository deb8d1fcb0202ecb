"""Bad input of every public function: one clear error that names argument, value, allowed.

Each row: what is called, the class of the error, and a pattern of its message.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae

pytestmark = pytest.mark.usefixtures("no_type_hook")

KEY = jax.random.key(0)
X = jnp.full((4, 3), 0.5)
NAN = X.at[0, 0].set(jnp.nan)
INF = X.at[0, 0].set(jnp.inf)
INT = jnp.ones((4, 3), jnp.int32)
IDENTITY = lambda v: v
MASK = partial(jaxae.masking_noise, rate=0.5)
W = jnp.ones((2, 3))
ENCODE, DECODE = (lambda v: W @ v), (lambda z: W.T @ z)
SGD = optax.sgd(0.1)
LOSS = lambda params, key, x: params * x[:, 0]

NOISES = {
    "masking_noise": (jaxae.masking_noise, "rate", 0.5, [-0.1, 1.1, np.nan, np.inf]),
    "gaussian_noise": (jaxae.gaussian_noise, "stddev", 0.5, [-0.1, np.nan, np.inf]),
    "uniform_noise": (jaxae.uniform_noise, "scale", 0.5, [-0.1, np.nan, -np.inf]),
    "salt_and_pepper_noise": (jaxae.salt_and_pepper_noise, "rate", 0.5, [-1, 2, np.nan]),
}
CASES = []


def case(name, call, error, match):
    CASES.append(pytest.param(call, error, match, id=f"{len(CASES)}-{name}"))


for name, (noise, strength, good, bad_values) in NOISES.items():
    for bad in bad_values:
        case(
            name,
            partial(noise, KEY, X, **{strength: bad}),
            ValueError,
            rf"{strength} must be a finite number.*but it is {bad}",
        )
    for bad, shown in (("0.5", "'0.5' \\(str\\)"), (None, "None"), (True, "True")):
        case(
            name,
            partial(noise, KEY, X, **{strength: bad}),
            TypeError,
            rf"{strength} must be a finite number.*{shown}",
        )
    case(
        name,
        partial(noise, KEY, X, **{strength: X}),
        TypeError,
        rf"{strength} must be .*array of shape \(4, 3\)",
    )
    case(
        name,
        partial(noise, KEY, INT, **{strength: good}),
        TypeError,
        "x must be floating point, but its dtype is int32",
    )
    case(
        name,
        partial(noise, KEY, [1.0], **{strength: good}),
        TypeError,
        r"x must be an array, but it is \[1.0\] \(list\)",
    )
    case(
        name,
        partial(noise, KEY, NAN, **{strength: good}),
        ValueError,
        "x must be finite, but 1 of its 12 values",
    )
    case(name, partial(noise, KEY, INF, **{strength: good}), ValueError, "x must be finite")
    case(
        name,
        partial(noise, 0, X, **{strength: good}),
        TypeError,
        r"key must be one PRNG key.*0 \(int\)",
    )
    case(
        name,
        partial(noise, jax.random.split(KEY), X, **{strength: good}),
        TypeError,
        r"key must be one PRNG key.*shape \(2,\)",
    )

case(
    "uniform_noise",
    lambda: jaxae.uniform_noise(KEY, X, scale=0.1, low=1.0, high=0.0),
    ValueError,
    "low must be at most high, but low=1.0 and high=0.0",
)
case(
    "uniform_noise",
    lambda: jaxae.uniform_noise(KEY, X, scale=0.1, low=np.nan),
    ValueError,
    "low must be a finite number, but it is nan",
)
case("uniform_noise", lambda: jaxae.uniform_noise(KEY, X, scale=0.1, high="1"), TypeError, "high")
case(
    "salt_and_pepper_noise",
    lambda: jaxae.salt_and_pepper_noise(KEY, X, rate=0.1, low=2.0),
    ValueError,
    "low must be at",
)
case(
    "compose",
    lambda: jaxae.compose(MASK, 3),
    TypeError,
    r"corruptions\[1\] must be a function, but it is 3",
)
case("compose", lambda: jaxae.compose(MASK)(7, X), TypeError, "key must be one PRNG key")
case(
    "corrupt_batch",
    lambda: jaxae.corrupt_batch(KEY, "mask", X),
    TypeError,
    "corrupt must be a function, but it is 'mask'",
)
case(
    "corrupt_batch",
    lambda: jaxae.corrupt_batch(KEY, MASK, jnp.ones(())),
    ValueError,
    r"x must have at least batch_ndim=1 axes, but its shape is \(\)",
)
case(
    "corrupt_batch",
    lambda: jaxae.corrupt_batch(KEY, MASK, X, batch_ndim=-1),
    ValueError,
    "batch_ndim must be an integer of at least 0, but it is -1",
)
case(
    "corrupt_batch",
    lambda: jaxae.corrupt_batch(KEY, lambda k, v: v[:1], X),
    ValueError,
    r"corrupt must keep shape and dtype.*float32\[3\] into float32\[1\]",
)
case("corrupt_batch", lambda: jaxae.corrupt_batch(KEY, MASK, INT), TypeError, "x must be floating")
case("corrupt_batch", lambda: jaxae.corrupt_batch(KEY, MASK, NAN), ValueError, "x must be finite")
case("corrupt_batch", lambda: jaxae.corrupt_batch(None, MASK, X), TypeError, "key must be one PRNG")

for first, loss in (
    ("x_hat", jaxae.squared_error),
    ("mean", jaxae.gaussian_nll),
    ("logits", jaxae.bernoulli_nll),
    ("x_hat", jaxae.mean_squared_error),
    ("x_hat", jaxae.psnr),
    ("x_hat", jaxae.explained_variance),
):
    name = loss.__name__
    case(
        name,
        partial(loss, X[:, :2], X),
        ValueError,
        rf"{first} and x must have the same shape.*\(4, 2\).*\(4, 3\)",
    )
    case(name, partial(loss, X[:1], X), ValueError, "same shape")  # would broadcast
    case(name, partial(loss, INT, X), TypeError, f"{first} must be floating point")
    case(name, partial(loss, X, INT), TypeError, "x must be floating point")
    case(name, partial(loss, NAN, X), ValueError, f"{first} must be finite")
    case(name, partial(loss, X, INF), ValueError, "x must be finite")
    case(
        name,
        partial(loss, X, X, example_ndim=3),
        ValueError,
        r"x must have at least example_ndim=3 axes, but its shape is \(4, 3\)",
    )
    case(name, partial(loss, X, X, example_ndim=0), ValueError, "example_ndim must be an integer")
    case(name, partial(loss, X, X, example_ndim=1.0), TypeError, "example_ndim must be an integer")

for bad in (0.0, -1.0, np.nan):
    case(
        "gaussian_nll",
        partial(jaxae.gaussian_nll, X, X, stddev=bad),
        ValueError,
        "stddev must be a finite number above 0, but it is",
    )
    case("Gaussian", partial(jaxae.Gaussian, bad), ValueError, "stddev must be a finite number")
    case(
        "score_estimate",
        partial(jaxae.score_estimate, ENCODE, DECODE, X, stddev=bad),
        ValueError,
        "stddev must be a finite number above 0",
    )
    case("psnr", partial(jaxae.psnr, X, X, peak=bad), ValueError, "peak must be a finite number")
case(
    "gaussian_nll",
    lambda: jaxae.gaussian_nll(X, X, stddev=0 * X),
    ValueError,
    "stddev must be above 0, but 12 of its values are not",
)
case(
    "gaussian_nll",
    lambda: jaxae.gaussian_nll(X, X, stddev=X[:, 0]),
    ValueError,
    r"stddev and x must have the same shape",
)
case(
    "bernoulli_nll",
    lambda: jaxae.bernoulli_nll(X, 255 * X),
    ValueError,
    "x must be at most 1, but 12 of its values are above",
)
case("bernoulli_nll", lambda: jaxae.bernoulli_nll(X, -X), ValueError, "x must be at least 0,")
case("Bernoulli", lambda: jaxae.Bernoulli().mean(INT), TypeError, "output must be floating point")
case("Bernoulli", lambda: jaxae.Bernoulli().sample(3, X), TypeError, "key must be one PRNG key")
case(
    "DiagonalGaussian",
    lambda: jaxae.DiagonalGaussian().mean(X),
    ValueError,
    r"output must hold means and log standard deviations.*\(4, 3\)",
)

case("l1_penalty", lambda: jaxae.l1_penalty(INT), TypeError, "code must be floating point")
case("l1_penalty", lambda: jaxae.l1_penalty(jnp.ones(())), ValueError, "code must have a last axis")
case("l1_penalty", lambda: jaxae.l1_penalty(NAN), ValueError, "code must be finite")
for bad in (0.0, 1.0, -0.1, 1.5, np.nan):
    case(
        "kl_sparsity_penalty",
        partial(jaxae.kl_sparsity_penalty, X, target=bad),
        ValueError,
        "target must be a finite number above 0 and below 1, but it is",
    )
case(
    "kl_sparsity_penalty",
    lambda: jaxae.kl_sparsity_penalty(3 * X, target=0.1),
    ValueError,
    "code must be at most 1,",
)
case(
    "kl_sparsity_penalty",
    lambda: jaxae.kl_sparsity_penalty(-X, target=0.1),
    ValueError,
    "code must be at least 0,",
)
case(
    "kl_sparsity_penalty",
    lambda: jaxae.kl_sparsity_penalty(X[0], target=0.1),
    ValueError,
    r"code must be a batch of codes.*\(3,\)",
)
case(
    "kl_sparsity_penalty",
    lambda: jaxae.kl_sparsity_penalty(X[:0], target=0.1),
    ValueError,
    "of at least one",
)
case(
    "kl_sparsity_penalty",
    lambda: jax.vmap(lambda c: jaxae.kl_sparsity_penalty(c, target=0.1))(X),
    ValueError,
    "batch means",
)
for bad in (0, 4, -1):
    case(
        "keep_top_k",
        partial(jaxae.keep_top_k, X, k=bad),
        ValueError,
        f"k must be an integer of at least 1 and at most 3, but it is {bad}",
    )
for bad in (1.5, "2", None, True):
    case("keep_top_k", partial(jaxae.keep_top_k, X, k=bad), TypeError, "k must be an integer")
case("keep_top_k", lambda: jaxae.keep_top_k(INF, k=1), ValueError, "code must be finite")

case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(ENCODE, X, method="exact"),
    ValueError,
    "method must be one of auto, jacfwd, jacrev, hutchinson, but it is 'exact'",
)
case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(ENCODE, X, method="hutchinson"),
    ValueError,
    "key must be given for method='hutchinson'",
)
case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(ENCODE, X, method="hutchinson", key=1),
    TypeError,
    "key",
)
case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(ENCODE, X, method="hutchinson", key=KEY, probes="normal"),
    ValueError,
    "probes must be one of rademacher, gaussian, but it is 'normal'",
)
case(
    "code_and_contractive_penalty",
    lambda: jaxae.code_and_contractive_penalty(ENCODE, X, method="exact"),
    ValueError,
    "method must be one of auto, jacfwd, jacrev, hutchinson, but it is 'exact'",
)
case(
    "explain_contraction",
    lambda: jaxae.explain_contraction(ENCODE, X, chunk_size=0),
    ValueError,
    "chunk_size must be an integer of at least 1, but it is 0",
)
case(
    "explain_contraction",
    lambda: jaxae.explain_contraction(3, X),
    TypeError,
    "encode must be a function",
)
case(
    "reconstruction_contractive_penalty",
    lambda: jaxae.reconstruction_contractive_penalty(ENCODE, "decode", X),
    TypeError,
    "decode must be a function",
)
case(
    "reconstruction_contractive_penalty",
    lambda: jaxae.reconstruction_contractive_penalty(lambda v: v.sum(), lambda z: z, X),
    ValueError,
    "encode must map one example to one code",
)
case(
    "reconstruction_contractive_penalty",
    lambda: jaxae.reconstruction_contractive_penalty(ENCODE, lambda z: z, NAN),
    ValueError,
    "x must be finite",
)
for bad in (0.0, -1.0, float("nan")):
    case(
        "higher_order_contractive_penalty",
        partial(jaxae.higher_order_contractive_penalty, KEY, ENCODE, X, stddev=bad),
        ValueError,
        "stddev must be a finite number above 0",
    )
case(
    "higher_order_contractive_penalty",
    lambda: jaxae.higher_order_contractive_penalty(7, ENCODE, X, stddev=0.1),
    TypeError,
    "key must be one PRNG key",
)
case(
    "higher_order_contractive_penalty",
    lambda: jaxae.higher_order_contractive_penalty(KEY, ENCODE, X, stddev=0.1, num_samples=0),
    ValueError,
    "num_samples must be an integer of at least 1, but it is 0",
)
for option in ("num_samples", "chunk_size"):
    case(
        "contractive_penalty",
        partial(jaxae.contractive_penalty, ENCODE, X, **{option: 0}),
        ValueError,
        f"{option} must be an integer of at least 1, but it is 0",
    )
    case(
        "contractive_penalty",
        partial(jaxae.contractive_penalty, ENCODE, X, **{option: 2.5}),
        TypeError,
        f"{option} must be an integer",
    )
case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(lambda v: v.sum(), X),
    ValueError,
    r"encode must map one example to one code of shape \(k,\).*it gave \(\)",
)
case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(lambda v: (v, v), X),
    TypeError,
    "encode must return one floating array",
)
case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(lambda v: v > 0, X),
    TypeError,
    r"encode must return one floating array.*bool\[3\]",
)
case(
    "contractive_penalty",
    lambda: jaxae.contractive_penalty(3, X),
    TypeError,
    "encode must be a function, but it is 3",
)
case("contractive_penalty", lambda: jaxae.contractive_penalty(ENCODE, INT), TypeError, "x must be")
case("contractive_penalty", lambda: jaxae.contractive_penalty(ENCODE, NAN), ValueError, "finite")

OBJECTIVES = {
    "reconstruction_loss": jaxae.reconstruction_loss,
    "sparse_loss": partial(jaxae.sparse_loss, weight=0.1),
    "denoising_loss": partial(jaxae.denoising_loss, KEY, corrupt=MASK),
    "contractive_loss": partial(jaxae.contractive_loss, weight=0.1),
    "combined_loss": partial(jaxae.combined_loss, KEY, corrupt=MASK),
    "reconstruction_field": jaxae.reconstruction_field,
    "score_estimate": partial(jaxae.score_estimate, stddev=0.5),
}
for name, objective in OBJECTIVES.items():
    case(name, partial(objective, ENCODE, DECODE, INT), TypeError, "x must be floating point")
    case(name, partial(objective, ENCODE, DECODE, NAN), ValueError, "x must be finite")
    case(name, partial(objective, ENCODE, DECODE, X, example_ndim=3), ValueError, "example_ndim=3")
    case(name, partial(objective, None, DECODE, X), TypeError, "encode must be a function")
    case(name, partial(objective, ENCODE, "mean", X), TypeError, "decode must be a function")
    case(
        name,
        partial(objective, ENCODE, IDENTITY, X),
        ValueError,
        r"decode must return .*an example of shape \(3,\), but it gave \(2,\)",
    )
    case(
        name,
        partial(objective, lambda v: v[None], DECODE, X),
        ValueError,
        r"one code of shape \(k,\)",
    )
for name, option in (
    ("sparse_loss", "weight"),
    ("contractive_loss", "weight"),
    ("combined_loss", "sparsity_weight"),
    ("combined_loss", "contraction_weight"),
):
    loss = OBJECTIVES[name]
    for bad in (-0.1, np.nan, np.inf):
        case(
            name,
            partial(loss, ENCODE, DECODE, X, **{option: bad}),
            ValueError,
            f"{option} must be a finite number of at least 0, but it is {bad}",
        )
    case(name, partial(loss, ENCODE, DECODE, X, **{option: "1"}), TypeError, f"{option} must be")
case(
    "sparse_loss",
    lambda: jaxae.sparse_loss(ENCODE, DECODE, X, weight=1, penalty=jnp.abs),
    ValueError,
    r"penalty must return one value per example \(4,\) or a scalar.*\(4, 2\)",
)
case(
    "sparse_loss",
    lambda: jaxae.sparse_loss(ENCODE, DECODE, X, weight=1, penalty="l1"),
    TypeError,
    "penalty must be a function, but it is 'l1'",
)
case(
    "denoising_loss",
    lambda: jaxae.denoising_loss(1, ENCODE, DECODE, X, corrupt=MASK),
    TypeError,
    "key must be one PRNG key",
)
case(
    "denoising_loss",
    lambda: jaxae.denoising_loss(KEY, ENCODE, DECODE, X, corrupt=0.5),
    TypeError,
    "corrupt must be a function, but it is 0.5",
)
case(
    "denoising_loss",
    lambda: jaxae.denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, sample_code=1),
    TypeError,
    "sample_code must be a function",
)
case(
    "denoising_loss",
    lambda: jaxae.denoising_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, reconstruction="mse"),
    TypeError,
    "reconstruction must be a function, but it is 'mse'",
)
case(
    "contractive_loss",
    lambda: jaxae.contractive_loss(ENCODE, DECODE, X, weight=1.0, method="hutchinson"),
    ValueError,
    "key must be given",
)

case("active_units", lambda: jaxae.active_units(INT), TypeError, "code must be floating point")
case("active_units", lambda: jaxae.active_units(X, threshold=-1), ValueError, "threshold must be")
case("dead_units", lambda: jaxae.dead_units(NAN), ValueError, "code must be finite")
case("dead_units", lambda: jaxae.dead_units(jnp.ones(())), ValueError, "last axis of units")
case("saturated_share", lambda: jaxae.saturated_share(2 + X), ValueError, "code must be at most")
case(
    "explained_variance",
    lambda: jaxae.explained_variance(X[:1], X[:1]),
    ValueError,
    "x must hold at least two examples",
)
case(
    "jacobian_singular_values", lambda: jaxae.jacobian_singular_values(ENCODE, INT), TypeError, "x"
)
case(
    "jacobian_singular_values",
    lambda: jaxae.jacobian_singular_values(jnp.sum, X),
    ValueError,
    "one code",
)
case(
    "contraction_curve",
    lambda: jaxae.contraction_curve(KEY, ENCODE, X, radii=jnp.zeros(2)),
    ValueError,
    "radii must be above 0, but 2",
)
case(
    "contraction_curve",
    lambda: jaxae.contraction_curve(KEY, ENCODE, X, radii=jnp.ones(())),
    ValueError,
    "radii must have one axis",
)
case(
    "fit_linear_denoiser", lambda: jaxae.fit_linear_denoiser(X[:, :2], X), ValueError, "same shape"
)
case(
    "fit_linear_denoiser",
    lambda: jaxae.fit_linear_denoiser(X[0], X[0]),
    ValueError,
    r"x must be rows \(n, d\) with n >= 2",
)
case("fit_linear_denoiser", lambda: jaxae.fit_linear_denoiser(X, INT), TypeError, "x must be float")
case(
    "fit_linear_denoiser",
    lambda: jaxae.fit_linear_denoiser(X, X)(X, rank=0),
    ValueError,
    "rank must be an integer of at least 1",
)

best = jaxae.fit_linear_denoiser(X, X)
case("fit_linear_denoiser", lambda: best.decode(jnp.ones(4)), ValueError, "at most d=3 numbers")
case(
    "combined_loss",
    lambda: jaxae.combined_loss(KEY, ENCODE, DECODE, X, corrupt=MASK, method="bogus"),
    ValueError,
    "method must be one of",
)
case("saturated_share", lambda: jaxae.saturated_share(jnp.ones(())), ValueError, "last axis")
case(
    "gaussian_nll",
    lambda: jaxae.gaussian_nll(X, X, stddev=1e-50),
    ValueError,
    "stddev must be a finite number above 0, but it is 1e-50",
)
case(
    "gaussian_noise",
    lambda: jaxae.gaussian_noise(KEY, X, stddev=1e39),
    ValueError,
    r"stddev must be a finite number of at least 0, but it is 1e\+39",
)
case(
    "fit",
    lambda: jaxae.fit(RUN, state, KEY, X, epochs=1, first_epoch=-1),
    ValueError,
    "first_epoch must be an integer of at least 0",
)
case("as_functions", lambda: jaxae.as_functions(nn.Dense(3)), TypeError, "param_dtype")
case(
    "denoising_loss",
    lambda: jaxae.denoising_loss(
        KEY, ENCODE, DECODE, X, corrupt=MASK, reconstruction=lambda a, b: (a, b)
    ),
    TypeError,
    "reconstruction must return one floating array",
)

DENSE, CONV = jaxae.DenseAutoencoder, jaxae.ConvAutoencoder
init = lambda model: jaxae.as_functions(model).init(KEY)
case("as_functions", lambda: jaxae.as_functions(3), TypeError, "model must be a Flax Linen module")
case("as_functions", lambda: jaxae.as_functions(DENSE((3,), 2)).init(5), TypeError, "key must be")
case("DenseAutoencoder", lambda: init(DENSE((3,), 0)), ValueError, "code_dim must be an integer")
case("DenseAutoencoder", lambda: init(DENSE((3,), 2.0)), TypeError, "code_dim must be an integer")
case("DenseAutoencoder", lambda: init(DENSE((3,), 2, hidden_dims=(0,))), ValueError, "hidden_dims")
case("DenseAutoencoder", lambda: init(DENSE((0,), 2)), ValueError, "example_shape")
case(
    "ConvAutoencoder",
    lambda: init(CONV((8, 8), 2)),
    ValueError,
    r"example_shape must be \(height, width, channels\), but it is \(8, 8\)",
)
case("ConvAutoencoder", lambda: init(CONV((8, 8, 1), 2, channels=())), ValueError, "channels")
case("ConvAutoencoder", lambda: init(CONV((8, 8, 1), 2, kernel_size=0)), ValueError, "kernel_size")

run_epoch = jaxae.make_epoch(LOSS, SGD, batch_size=2)
RUN = jaxae.make_run(LOSS, SGD, batch_size=2)
state = jaxae.create_train_state(jnp.zeros(()), SGD)
STATES = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
KEYS = jax.random.split(jax.random.key(0))


def many(states=STATES, keys=KEYS, x=X, *settings, run=RUN, epochs=1, **options):
    return jaxae.fit_many(run, states, keys, x, *settings, epochs=epochs, **options)


case("make_run", lambda: jaxae.make_run(None, SGD, batch_size=2), TypeError, "loss must be a func")
case("make_run", lambda: jaxae.make_run(LOSS, 3, batch_size=2), TypeError, "optimizer must be")
case(
    "fit",
    lambda: jaxae.fit(run_epoch, state, KEY, X, epochs=1),
    TypeError,
    "run must be what jaxae.make_run returned",
)
case("fit_many", lambda: many(run=run_epoch), TypeError, "run must be what jaxae.make_run returned")
case("fit_many", lambda: many(method="loop"), ValueError, "method must be one of auto, vmap, thr")
case("fit_many", lambda: many(first_epoch=-1), ValueError, "first_epoch must be an integer")
case("fit_many", lambda: many(keys=KEYS[0]), ValueError, r"keys must have shape \(m,\)")
case("fit_many", lambda: many(keys=jnp.ones(2)), TypeError, "keys must be PRNG keys, one for")
case("fit_many", lambda: many(states=state), ValueError, "every leaf of states must have a leading")
case(
    "fit_many",
    lambda: many(STATES, KEYS, X, jnp.ones(3)),
    ValueError,
    r"every leaf of settings\[0\] must have a leading axis of 2, one for each key, .*\(3,\)",
)
case("fit_many", lambda: many(x=NAN), ValueError, "x must be finite")
case("fit_many", lambda: many(x=INT), TypeError, "x must be floating")
case("hash_key", lambda: jaxae.hash_key(0), TypeError, "key must be one PRNG key")
case("hash_key", lambda: jaxae.hash_key(jnp.ones(2)), TypeError, "key must be one PRNG key")
case(
    "hash_key",
    lambda: jax.jit(lambda: jax.random.bits(jaxae.hash_key(KEY), (2**17, 2**17))).lower(),
    ValueError,
    "draws at most 2\\*\\*32 numbers at a time, but 17179869184",
)
case("shuffled_order", lambda: jaxae.shuffled_order(0, 5), TypeError, "key must be one PRNG key")
case("shuffled_order", lambda: jaxae.shuffled_order(KEY, 2**31), ValueError, "n must be an integer")
case(
    "create_train_state",
    lambda: jaxae.create_train_state({}, "adam"),
    TypeError,
    "optimizer must be an optax optimiser, but it is 'adam'",
)
case("make_train_step", lambda: jaxae.make_train_step(None, SGD), TypeError, "loss must be a func")
case("make_train_step", lambda: jaxae.make_train_step(LOSS, None), TypeError, "optimizer must be")
for bad, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError)):
    case(
        "make_epoch",
        partial(jaxae.make_epoch, LOSS, SGD, batch_size=bad),
        error,
        f"batch_size must be an integer of at least 1, but it is {bad}",
    )
    case(
        "fit",
        partial(jaxae.fit, RUN, state, KEY, X, epochs=bad),
        error,
        f"epochs must be an integer of at least 1, but it is {bad}",
    )
    case(
        "make_run",
        partial(jaxae.make_run, LOSS, SGD, batch_size=bad),
        error,
        f"batch_size must be an integer of at least 1, but it is {bad}",
    )
    case(
        "make_run",
        partial(jaxae.make_run, LOSS, SGD, batch_size=1, epochs_per_call=bad),
        error,
        f"epochs_per_call must be an integer of at least 1, but it is {bad}",
    )
    case("fit_many", partial(many, epochs=bad), error, "epochs must be an integer of at least 1")
    case("shuffled_order", partial(jaxae.shuffled_order, KEY, bad), error, "n must be an integer")
    case("evaluate", partial(jaxae.evaluate, jnp.sum, X, batch_size=bad), error, "batch_size must")
case(
    "make_epoch",
    lambda: run_epoch(state, KEY, 0, X[:0]),
    ValueError,
    r"x must hold at least one example, but its shape is \(0, 3\)",
)
case("fit", lambda: jaxae.fit(RUN, state, KEY, NAN, epochs=1), ValueError, "x must be finite")
case("fit", lambda: jaxae.fit(RUN, state, KEY, INT, epochs=1), TypeError, "x must be floating")
case("fit", lambda: jaxae.fit(RUN, state, 0, X, epochs=1), TypeError, "key must be one PRNG")
case("pair_moments", lambda: jaxae.pair_moments(X[:, :2], X), ValueError, "same shape")
case("pair_moments", lambda: jaxae.pair_moments(X[0], X[0]), ValueError, r"\(n, d\) with n >= 1")
case("Streamed", lambda: jaxae.Streamed(5), TypeError, "source must have a length and rows")
case("Streamed", lambda: jaxae.Streamed([]), ValueError, "source must hold at least one example")
case("Streamed", lambda: jaxae.Streamed(INT), TypeError, "examples must be floating.*a transform")
case("Streamed", lambda: jaxae.Streamed(X, transform=3), TypeError, "transform must be a function")
BATCHES = {"examples": 4, "example_shape": (3,)}
case("StreamedBatches", lambda: jaxae.StreamedBatches(3, **BATCHES), TypeError, "make must be")
case(
    "StreamedBatches",
    lambda: jaxae.StreamedBatches(lambda *_: [], examples=0, example_shape=()),
    ValueError,
    "examples must be an integer",
)
case(
    "StreamedBatches",
    lambda: jaxae.StreamedBatches(lambda *_: [], **BATCHES, dtype=np.int32),
    TypeError,
    "examples must be floating",
)
POSITIONS = {"positions": jnp.ones(2)}
case(
    "shuffled_order",
    lambda: jaxae.shuffled_order(KEY, 5, **POSITIONS),
    TypeError,
    "positions must be an array of integers",
)
case(
    "shuffled_order",
    lambda: jaxae.shuffled_order(KEY, 5, positions=[1, 2]),
    TypeError,
    "positions must be an array of integers",
)
case("evaluate", lambda: jaxae.evaluate(3, X, batch_size=2), TypeError, "metric must be a function")
case("evaluate", lambda: jaxae.evaluate(jnp.sum, X[:0], batch_size=2), ValueError, "at least one")
case(
    "evaluate",
    lambda: jaxae.evaluate(jaxae.squared_error, X, X[:2], batch_size=2),
    ValueError,
    r"n >= 1 examples, but their shapes are data\[0\] \(4, 3\), data\[1\] \(2, 3\)",
)
case(
    "evaluate",
    lambda: jaxae.evaluate(jnp.sum, jnp.ones(()), batch_size=2),
    ValueError,
    "at least one",
)
case(
    "evaluate",
    lambda: jaxae.evaluate(jnp.sum, NAN, batch_size=2),
    ValueError,
    r"data\[0\] must be finite",
)

PARABOLA = lambda w: jnp.sum(w**2)
for bad in (0, -1):
    case("lbfgs", partial(jaxae.lbfgs, memory_size=bad), ValueError, f"memory_size .*is {bad}")
    for name in ("lbfgs", "conjugate_gradient"):
        method = partial(getattr(jaxae, name), max_linesearch_steps=bad)
        case(name, method, ValueError, f"max_linesearch_steps must be .* but it is {bad}")
for bad in (0.0, 1.0, np.nan):
    case(
        "conjugate_gradient",
        partial(jaxae.conjugate_gradient, curv_rtol=bad),
        ValueError,
        f"curv_rtol must be a finite number above 0 and below 1, but it is {bad}",
    )
minimize = partial(jaxae.minimize, PARABOLA, X, SGD)
case("minimize", partial(minimize, steps=0), ValueError, "steps must be an integer of at least 1")
case("minimize", partial(minimize, steps=1.5), TypeError, "steps must be an integer")
case("minimize", partial(minimize, steps=1, tol=-1.0), ValueError, "tol must be .* at least 0")
case(
    "minimize",
    partial(jaxae.minimize, 3, X, SGD, steps=1),
    TypeError,
    "loss must be a function, but it is 3",
)
case(
    "minimize",
    partial(jaxae.minimize, IDENTITY, X, SGD, steps=1),
    ValueError,
    r"loss must return one scalar, but it gave ShapeDtypeStruct\(shape=\(4, 3\)",
)
case(
    "minimize",
    partial(jaxae.minimize, PARABOLA, X, "adam", steps=1),
    TypeError,
    "optimizer must be an optax optimiser, but it is 'adam'",
)
for bad in (0, -1, 10**6):
    case("data_mesh", partial(jaxae.data_mesh, devices=bad), ValueError, f"devices must be .*{bad}")
case("data_mesh", lambda: jaxae.data_mesh(devices="all"), TypeError, "devices must be an integer")
case("data_mesh", lambda: jaxae.data_mesh(devices=[]), ValueError, "devices must be devices of JAX")
case("data_mesh", lambda: jaxae.data_mesh(devices=[3]), ValueError, r"devices of JAX.*it is \[3\]")

STEP = lambda key, x_i: x_i
chain = partial(jaxae.markov_chain, KEY, STEP, X)
case("markov_chain", partial(chain, steps=0), ValueError, "steps must be an integer of at least 1")
case("markov_chain", partial(chain, steps=5, thin=2), ValueError, "thin must divide steps")
case("markov_chain", partial(chain, steps=5, thin=6), ValueError, "thin .* at most 5")
case(
    "markov_chain",
    partial(chain, steps=5, schedule=jnp.ones(4)),
    ValueError,
    r"schedule must be .* leading axis of 5.*\(4,\)",
)
case("markov_chain", partial(chain, steps=5, fixed=X), TypeError, "fixed must be a boolean array")
case(
    "markov_chain",
    partial(chain, steps=5, fixed=jnp.ones(2, bool)),
    ValueError,
    r"fixed must have the shape \(4, 3\)",
)
case(
    "markov_chain",
    lambda: jaxae.markov_chain(KEY, lambda key, x_i: x_i[:2], X, steps=1),
    ValueError,
    r"transition must keep shape and dtype.*float32\[3\] into float32\[2\]",
)
case("markov_chain", lambda: jaxae.markov_chain(KEY, 3, X, steps=1), TypeError, "transition must")
case("markov_chain", lambda: jaxae.markov_chain(KEY, STEP, NAN, steps=1), ValueError, "x must be f")
case("markov_chain", lambda: jaxae.markov_chain(1, STEP, X, steps=1), TypeError, "key must be one")
case(
    "denoising_transition",
    lambda: jaxae.denoising_transition(ENCODE, DECODE, corrupt=0.5),
    TypeError,
    "corrupt must be a function",
)
case(
    "denoising_transition",
    lambda: jaxae.denoising_transition(ENCODE, DECODE, corrupt=MASK, sample="mean"),
    TypeError,
    "sample must be a function",
)
for bad in (0.0, -1.0, np.nan):
    case(
        "langevin_transition",
        partial(jaxae.langevin_transition, ENCODE, step_size=bad),
        ValueError,
        "step_size must be a finite number above 0",
    )
case("langevin_transition", lambda: jaxae.langevin_transition(X, step_size=1), TypeError, "score")
case(
    "langevin_transition",
    lambda: jaxae.markov_chain(
        KEY,
        jaxae.langevin_transition(lambda x_i, level: -x_i, step_size=1),
        X,
        steps=2,
        schedule={"stddev": jnp.ones(2)},
    ),
    TypeError,
    "each level of schedule must be a finite number, but it is a dict",
)
case(
    "tangent_transition",
    lambda: jaxae.tangent_transition(ENCODE, DECODE, stddev=-1.0),
    ValueError,
    "stddev must be a finite number of at least 0",
)
case("tangent_transition", lambda: jaxae.tangent_transition(0, DECODE, stddev=1), TypeError, "enc")
walk = partial(jaxae.walkback_loss, KEY, ENCODE, DECODE, X, corrupt=MASK)
case("walkback_loss", partial(walk, sample=STEP, steps=0), ValueError, "steps must be an integer")
case("walkback_loss", partial(walk, sample=None, steps=1), TypeError, "sample must be a function")
case(
    "walkback_loss",
    partial(walk, sample=lambda key, output: output[:2], steps=1),
    ValueError,
    r"sample must return an example, float32\[3\], but it gave float32\[2\]",
)
levels = partial(jaxae.noise_conditional_loss, KEY, lambda v, s: W @ v, lambda z, s: W.T @ z, X)
case("noise_conditional_loss", partial(levels, low=0.0, high=1.0), ValueError, "low must be .*ab")
case("noise_conditional_loss", partial(levels, low=1.0, high=0.5), ValueError, "low must be at mos")
case("noise_conditional_loss", partial(levels, low=1.0, high="2"), TypeError, "high must be")
levels = partial(levels, low=0.5, high=1.0)
case("noise_conditional_loss", partial(levels, weight=2.0), TypeError, "weight must be")
case("noise_conditional_loss", partial(levels, weight=lambda s: X), ValueError, "weight must.*scal")
for bad in (1.0, (1.0,), (1.0, -1.0), (np.nan, 1.0)):
    case(
        "denoising_loss",
        partial(jaxae.denoising_loss, KEY, ENCODE, DECODE, X, corrupt=MASK, emphasis=bad),
        ValueError,
        "emphasis",
    )

case("unit_norm", lambda: jaxae.unit_norm("adam"), TypeError, "optimizer must be an optax optimis")
case("unit_norm", lambda: jaxae.unit_norm(SGD, axis=0.5), TypeError, "axis must be an integer")
case(
    "unit_norm",
    lambda: jaxae.unit_norm(SGD).update(X, jaxae.unit_norm(SGD).init(X)),
    ValueError,
    "params must be passed to update",
)
weighted = jaxae.decoder_weighted_l1_penalty
case("decoder_weighted_l1_penalty", lambda: weighted(X, W), ValueError, r"with k = 3.*\(2, 3\)")
case("decoder_weighted_l1_penalty", lambda: weighted(X, X[0]), ValueError, r"shape is \(3,\)")
case("decoder_weighted_l1_penalty", lambda: weighted(X, INT), TypeError, "decoder must be floating")
case("decoder_weighted_l1_penalty", lambda: weighted(NAN, W.T), ValueError, "code must be finite")
DEAD = jnp.array([True, False, True])
dead = partial(jaxae.dead_unit_loss, X, IDENTITY, X)
case("dead_unit_loss", partial(dead, is_dead=DEAD, k=4), ValueError, "k must be .* at most 3")
case("dead_unit_loss", partial(dead, is_dead=X[0], k=1), TypeError, "is_dead must be a boolean")
case("dead_unit_loss", partial(dead, is_dead=DEAD[:2], k=1), ValueError, "is_dead .* 3 units")
case(
    "dead_unit_loss",
    lambda: jaxae.dead_unit_loss(X, IDENTITY, X[:2], is_dead=DEAD, k=1),
    ValueError,
    r"residual must have the batch axes \(4,\)",
)
case(
    "dead_unit_loss",
    lambda: jaxae.dead_unit_loss(X, lambda z: z[:2], X, is_dead=DEAD, k=1),
    ValueError,
    r"decode must return an example of shape \(3,\)",
)
case("best_cosines", lambda: jaxae.best_cosines(X, W.T), ValueError, "filters and atoms must be")
case(
    "best_cosines", lambda: jaxae.best_cosines(X[0], X[0]), ValueError, "filters and atoms must be"
)
case("best_cosines", lambda: jaxae.best_cosines(X, NAN), ValueError, "atoms must be finite")

case("keep_best", lambda: jaxae.keep_best("sgd", jnp.sum, every=1), TypeError, "optimizer must be")
case("keep_best", lambda: jaxae.keep_best(SGD, 0.1, every=1), TypeError, "score must be a function")
case("keep_best", lambda: jaxae.keep_best(SGD, jnp.sum, every=0), ValueError, "every must be .* 1")
case(
    "keep_best",
    lambda: jaxae.keep_best(SGD, IDENTITY, every=1).init(X),
    ValueError,
    "score must return a scalar",
)
keeper = jaxae.keep_best(SGD, jnp.sum, every=1)
case("keep_best", lambda: keeper.update(X, keeper.init(X)), ValueError, "params must be passed")


@pytest.mark.parametrize(("call", "error", "match"), CASES)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_every_public_function_is_in_the_table():
    covered = {param.id.split("-", 1)[1] for param in CASES}
    exempt = {"AutoencoderFunctions", "LinearDenoiser", "Minimum", "PairMoments"}
    exempt |= {"ContractionPlan", "NonFiniteLossError", "Run", "TrainState", "sweep_method"}
    exempt |= {"BestState", "Checkpoints", "LostProcessError", "Snapshot", "StoppedError"}
    assert covered | exempt == set(jaxae.__all__)


@pytest.mark.parametrize("name", NOISES)
def test_numbers_are_checked_at_trace_time_and_values_are_not(name):
    noise, strength, good, bad_values = NOISES[name]
    with pytest.raises(ValueError, match=strength):
        jax.jit(lambda x: noise(KEY, x, **{strength: bad_values[0]}))(X)
    traced = jax.jit(lambda x, level: noise(KEY, x, **{strength: level}))
    assert bool(jnp.isnan(traced(NAN, good)).any()) or name == "salt_and_pepper_noise"


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(TypeError, match=r"\.\.\. \(str\)") as caught:
        jaxae.masking_noise(KEY, X, rate="9" * 5000)
    assert len(str(caught.value)) < 200
