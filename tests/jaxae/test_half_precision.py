"""Every public function in float16 and bfloat16 against itself in float64.

Both get the same inputs, rounded to half precision: of each row of ``x`` another scale, from 1e-4
to 3e4. What is compared is what fits the dtype: there the result may differ by a few rounding
steps, and nowhere by an overflow or an underflow on the way.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae

RNG = np.random.default_rng(19)
SCALES = np.array([1e-4, 1e-3, 1e-2, 0.1, 1, 10, 200, 3000, 3e4])[:, None]
ROWS = np.clip(RNG.normal(size=(9, 6)), -1, 1) * SCALES
UNIT = RNG.uniform(0.01, 0.99, (9, 6))  # pixels, or a sigmoid code
IDENTITY = lambda v: v
HALVE = lambda v: v * jnp.asarray(0.5, v.dtype)
KEY = jax.random.key(0)
STDDEVS = (1e-3, 1.0, 300.0)


def thresholds(c):
    """Returns thresholds, which are in float32 where the other arrays are in half precision."""
    return c(UNIT[0]).astype(max(c(UNIT[0]).dtype, jnp.dtype("float32")))


def each(function, *arrays):
    """Returns the results for each row, where a function makes a scalar of a batch."""
    return jnp.stack([function(*(array[i] for array in arrays)) for i in range(len(arrays[0]))])


def moved(v, share=0.3):
    """Returns something near ``v``, in its dtype."""
    return v * jnp.asarray(1 + share, v.dtype)


def norms_after_two_updates(w):
    optimizer = jaxae.unit_norm(optax.sgd(0.0))
    w = w / jnp.asarray(100, w.dtype)  # longer ones take more of them
    for _ in range(2):
        w = w + optimizer.update(jnp.zeros_like(w), optimizer.init(w), w)[0]
    return jnp.linalg.norm(w.astype("float32"), axis=1).astype(w.dtype)


def gaussian_decoder(v):
    return jnp.concatenate([v, jnp.log(jnp.abs(v))], axis=-1)


DENOISE = partial(jaxae.masking_noise, rate=0.5)
CASES = {
    "Bernoulli": lambda c: [
        jaxae.Bernoulli().log_prob(c(ROWS), c(UNIT)),
        jaxae.Bernoulli().mean(jnp.clip(c(ROWS), -8, 8)),
    ],
    "DiagonalGaussian": lambda c: jaxae.DiagonalGaussian().log_prob(
        gaussian_decoder(c(ROWS)), moved(c(ROWS))
    ),
    "Gaussian": lambda c: [
        jaxae.Gaussian(stddev).log_prob(c(ROWS), moved(c(ROWS))) for stddev in STDDEVS
    ],
    "active_units": lambda c: jaxae.active_units(c(ROWS), threshold=0.05),
    "bernoulli_nll": lambda c: jaxae.bernoulli_nll(c(ROWS), c(UNIT)),
    "batch_top_k": lambda c: jaxae.batch_top_k(c(ROWS), k=2),
    "batch_top_k_threshold": lambda c: jaxae.batch_top_k_threshold(c(ROWS)).astype(c(ROWS).dtype),
    "best_cosines": lambda c: jnp.stack(
        [jaxae.best_cosines(c(RNG_ROWS * s), c(ROWS)) for s in (1e-4, 1, 3e4)]
    ),
    "compose": lambda c: jaxae.compose(DENOISE, DENOISE)(KEY, c(ROWS)),
    "corrupt_batch": lambda c: jaxae.corrupt_batch(KEY, DENOISE, c(ROWS)),
    "contraction_curve": lambda c: jaxae.contraction_curve(
        KEY, HALVE, c(np.zeros(6)), radii=c(SCALES[:, 0])
    ),
    "dead_unit_loss": lambda c: jaxae.dead_unit_loss(
        c(UNIT), IDENTITY, c(ROWS), is_dead=jnp.arange(6) < 4, k=2
    ),
    "dead_units": lambda c: jaxae.dead_units(c(ROWS), threshold=0.05),
    "decoder_weighted_l1_penalty": lambda c: [
        jaxae.decoder_weighted_l1_penalty(c(UNIT), c(RNG_ROWS[:6] * s)) for s in (1e-4, 1, 3e3)
    ],
    "dense_units": lambda c: jaxae.dense_units(c(ROWS), threshold=0.05),
    "denoising_loss": lambda c: [
        jaxae.denoising_loss(KEY, IDENTITY, IDENTITY, c(ROWS), corrupt=DENOISE, emphasis=emphasis)
        for emphasis in (None, (2.0, 1.0), (1e-6, 1.0))
    ],
    "denoising_transition": lambda c: jaxae.denoising_transition(IDENTITY, HALVE, corrupt=DENOISE)(
        KEY, c(ROWS)
    ),
    "evaluate": lambda c: jaxae.evaluate(lambda v: v.sum(), c(UNIT), batch_size=2),
    "explained_variance": lambda c: each(
        jaxae.explained_variance, moved(c(ROWS)).reshape(9, 6, 1), c(ROWS).reshape(9, 6, 1)
    ),
    "fit_linear_denoiser": lambda c: jaxae.fit_linear_denoiser(c(UNIT), c(UNIT))(
        c(UNIT), rank=6
    ).astype(c(UNIT).dtype),
    "gaussian_nll": lambda c: [
        jaxae.gaussian_nll(c(ROWS), moved(c(ROWS)), stddev=jnp.abs(c(ROWS[::-1]))),
        *(jaxae.gaussian_nll(c(ROWS), moved(c(ROWS)), stddev=stddev) for stddev in STDDEVS),
    ],
    "gated_auxiliary_loss": lambda c: jaxae.gated_auxiliary_loss(c(UNIT), IDENTITY, c(ROWS)),
    "gated_relu": lambda c: jaxae.gated_relu(c(ROWS), moved(c(ROWS))),
    "gaussian_noise": lambda c: jaxae.gaussian_noise(KEY, c(ROWS), stddev=1e-4),
    "jump_relu": lambda c: jaxae.jump_relu(c(ROWS), thresholds(c), bandwidth=0.1),
    "keep_top_k": lambda c: jaxae.keep_top_k(c(ROWS), k=2),
    "kl_sparsity_penalty": lambda c: each(
        partial(jaxae.kl_sparsity_penalty, target=0.1), c(UNIT[:, :, None])
    ),
    "l1_penalty": lambda c: jaxae.l1_penalty(c(ROWS)),
    "langevin_transition": lambda c: [
        jaxae.langevin_transition(lambda v, s: -v, step_size=0.1)(KEY, c(ROWS), c(level))
        for level in (1e-3, 1.0, 100.0)
    ],
    "markov_chain": lambda c: jaxae.markov_chain(KEY, lambda key, v: HALVE(v), c(ROWS), steps=2),
    "masking_noise": lambda c: jaxae.masking_noise(KEY, c(ROWS), rate=0.5),
    "matryoshka_loss": lambda c: jaxae.matryoshka_loss(
        c(UNIT), c(RNG_ROWS[:6]), c(ROWS), prefixes=(2, 6)
    ),
    "mean_correlation": lambda c: jaxae.mean_correlation(c(RNG_ROWS), c(ROWS)),
    "nearest_atoms": lambda c: jaxae.nearest_atoms(c(RNG_ROWS), c(RNG_ROWS * 0.1)),
    "mean_squared_error": lambda c: jaxae.mean_squared_error(c(ROWS), moved(c(ROWS))),
    "noise_conditional_loss": lambda c: [
        jaxae.noise_conditional_loss(
            KEY,
            lambda v, s: HALVE(v),
            lambda v, s: v,
            c(ROWS),
            low=low,
            high=2 * low,
            weight=weight,
        )
        for low, weight in ((1e-3, None), (100.0, None), (1.0, lambda stddev: 1e-6 * stddev))
    ],
    "pair_moments": lambda c: jaxae.pair_moments(c(UNIT), c(UNIT)).noisy.astype(c(UNIT).dtype),
    "psnr": lambda c: [
        jaxae.psnr(c(ROWS), moved(c(ROWS)), peak=peak) for peak in (1.0, 255.0, 65535.0)
    ],
    "reconstruction_field": lambda c: jaxae.reconstruction_field(HALVE, IDENTITY, c(ROWS)),
    "reconstruction_loss": lambda c: jaxae.reconstruction_loss(HALVE, IDENTITY, c(ROWS)),
    "salt_and_pepper_noise": lambda c: jaxae.salt_and_pepper_noise(KEY, c(ROWS), rate=0.5),
    "saturated_share": lambda c: [
        jaxae.saturated_share(c(UNIT)),
    ],
    "score_estimate": lambda c: [
        jaxae.score_estimate(HALVE, IDENTITY, c(ROWS), stddev=stddev) for stddev in STDDEVS
    ],
    "shrinkage": lambda c: jaxae.shrinkage(moved(c(ROWS)), c(ROWS)),
    "sparse_decode": lambda c: jaxae.sparse_decode(
        c(ROWS), jnp.tile(jnp.arange(6), (len(ROWS), 1)), c(RNG_ROWS[:6])
    ),
    "sparse_loss": lambda c: [
        jaxae.sparse_loss(HALVE, IDENTITY, c(ROWS), weight=weight) for weight in (1e-8, 1.0, 1e5)
    ],
    "squared_error": lambda c: jaxae.squared_error(c(ROWS), moved(c(ROWS))),
    "step_l0_penalty": lambda c: jaxae.step_l0_penalty(c(ROWS), thresholds(c), bandwidth=0.1),
    "tanh_l0_penalty": lambda c: [
        jaxae.tanh_l0_penalty(c(UNIT), c(RNG_ROWS[:6] * s)) for s in (1e-4, 1, 3e3)
    ],
    "target_l0": lambda c: jaxae.target_l0(target=9.0, rate=0.1).update(
        c(SCALES[:, 0]), jaxae.target_l0(target=9.0, rate=0.1).init(c(SCALES[:, 0])), c(UNIT[:, 0])
    )[0],
    "uniqueness": lambda c: jaxae.uniqueness(c(RNG_ROWS), c(RNG_ROWS * 0.1)),
    "unit_counts": lambda c: jaxae.unit_counts(c(ROWS), c(ROWS[:, ::-1]), jnp.arange(6)).f1,
    "uniform_noise": lambda c: jaxae.uniform_noise(KEY, c(ROWS), scale=1e-4, low=-1e4, high=1e4),
    "unit_norm": lambda c: norms_after_two_updates(c(ROWS)),
    "walkback_loss": lambda c: jaxae.walkback_loss(
        KEY, IDENTITY, HALVE, c(ROWS), corrupt=DENOISE, sample=lambda key, v: v, steps=2
    ),
}
RNG_ROWS = RNG.normal(size=(7, 6))

CASES |= {  # those that differentiate the encoder
    "code_and_contractive_penalty": lambda c: jaxae.code_and_contractive_penalty(CURVED, c(ROWS)),
    "combined_loss": lambda c: jaxae.combined_loss(
        KEY, CURVED, IDENTITY, c(ROWS), corrupt=jaxae.compose(), contraction_weight=1e-6
    ),
    "contractive_loss": lambda c: jaxae.contractive_loss(CURVED, IDENTITY, c(ROWS), weight=1e-6),
    "contractive_penalty": lambda c: [
        jaxae.contractive_penalty(encode, c(x), method=method)
        for encode, x in ((CURVED, ROWS), (SMALL, MANY))
        for method in ("auto", "jacfwd", "jacrev")
    ],
    # Of a diagonal Jacobian every probe gives the exact penalty.
    "contractive_penalty_estimate": lambda c: (
        jaxae.contractive_penalty_estimate(KEY, CURVED, c(ROWS), method="hutchinson").value
    ),
    "higher_order_contractive_penalty": lambda c: jaxae.higher_order_contractive_penalty(
        KEY, HALVE, c(ROWS), stddev=0.1
    ),
    "jacobian_singular_values": lambda c: jaxae.jacobian_singular_values(CURVED, c(ROWS)),
    "reconstruction_contractive_penalty": lambda c: jaxae.reconstruction_contractive_penalty(
        CURVED, HALVE, c(ROWS)
    ),
    "tangent_transition": lambda c: jaxae.tangent_transition(CURVED, HALVE, stddev=0.0)(
        KEY, c(UNIT[0])
    ),
}
CURVED = lambda v: jnp.asarray(1e-3, v.dtype) * v * v  # derivatives from 2e-7 to 60
SMALL = lambda v: jnp.asarray(2e-4, v.dtype) * v * v  # whose squares are lost in float16
MANY = np.ones((1, 400))

# Their draws are those of the dtype in which they are made: float32, also for half precision.
DRAWN_IN_FLOAT32 = {"gaussian_noise", "uniform_noise", "langevin_transition",
                    "noise_conditional_loss", "higher_order_contractive_penalty"}  # fmt: skip

WITHOUT_ARRAYS = {
    "a class of results, or what is raised": """AutoencoderFunctions BestState Checkpoints
        ContractionPlan Estimate LinearDenoiser LostProcessError Minimum NonFiniteLossError
        PairMoments Run Snapshot StoppedError Streamed StreamedBatches TargetL0State TrainState
        UnitCounts""",
    "a module: its arithmetic is that of Flax": "ConvAutoencoder DenseAutoencoder as_functions",
    "keys, integers or devices": "data_mesh hash_key shuffled_order sweep_method",
    "a plan, no numbers": "explain_contraction",
    "a layer of the user's own": "register_contraction_rule",
    "training: the numbers are those of the user's loss and of optax": """conjugate_gradient
        create_train_state fit fit_many keep_best lbfgs make_epoch make_run make_train_step
        minimize""",
}


def test_every_public_function_is_here():
    listed = [name for names in WITHOUT_ARRAYS.values() for name in names.split()]
    listed += CASES
    assert sorted(listed) == sorted(jaxae.__all__)


def assert_right_in_half_precision(name, case):
    reference = jnp.float32 if name in DRAWN_IN_FLOAT32 else jnp.float64

    @jax.jit  # one program for all four, which takes less time to compile
    def in_both():
        return {
            dtype: [case(partial(cast, dtype, to)) for to in (dtype, reference)]
            for dtype in ("float16", "bfloat16")
        }

    for dtype, pair in in_both().items():
        for ours, true in zip(*map(jax.tree.leaves, pair), strict=True):
            assert ours.dtype in (dtype, true.dtype)
            assert_close(name, np.asarray(ours, np.float64), np.asarray(true, np.float64), dtype)


def cast(dtype, to, array):
    """Returns an array rounded to half precision, so that both get the same numbers."""
    return jnp.asarray(np.asarray(array).astype(jnp.dtype(dtype))).astype(to)


def assert_close(name, ours, true, dtype):
    info = jnp.finfo(dtype)
    # x plus noise is rounded before the network sees it, and then x is taken away
    steps = 20 if name == "noise_conditional_loss" else 6
    fits = np.abs(true) < float(info.max)
    assert fits.any()
    least = 8 * float(info.smallest_subnormal if dtype == "float16" else info.tiny)
    np.testing.assert_allclose(
        ours[fits], true[fits], rtol=steps * float(info.eps), atol=least, err_msg=str(dtype)
    )


@pytest.mark.thorough(
    by_default=[
        "Bernoulli",
        "DiagonalGaussian",
        "Gaussian",
        "bernoulli_nll",
        "gaussian_nll",
        "squared_error",
        "kl_sparsity_penalty",
        "contractive_loss",
        "psnr",
        "keep_top_k",
        "score_estimate",
        "unit_norm",
        "explained_variance",
        "dead_unit_loss",
    ]
)
@pytest.mark.parametrize("name", CASES)
def test_half_precision(name, float64):
    assert_right_in_half_precision(name, CASES[name])


def test_counts_and_directions_beyond_the_range_of_float16(key):
    """70,000 is more than float16 can hold."""
    many = jnp.zeros((1, 70_000), jnp.float16)
    ratio = jaxae.contraction_curve(key, IDENTITY, many, radii=jnp.ones(1, jnp.float16))
    np.testing.assert_allclose(ratio, 1, rtol=1e-3)
    np.testing.assert_array_equal(jaxae.saturated_share(many), 1)
