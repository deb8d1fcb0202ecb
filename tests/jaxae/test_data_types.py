"""What people pass by mistake, against every public entry that takes data.

It works, or there is one line that names the argument and the remedy. No message costs more for
larger data: the ``repr`` of them is never made (most of the stand-ins below have none).
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

import jaxae

pytestmark = pytest.mark.usefixtures("no_type_hook")

KEY = jax.random.key(0)
X = np.full((4, 3), 0.5, np.float32)
W = jnp.ones((2, 3))
ENCODE, DECODE = (lambda v: W @ v), (lambda z: W.T @ z)
LEVELLED = (lambda v, stddev: W @ v), (lambda z, stddev: W.T @ z)
AUTOENCODER = ENCODE, DECODE
NONE = jaxae.compose()
DRAWN = {"corrupt": NONE, "sample": lambda key, output: output}
DENOISER = jaxae.fit_linear_denoiser(jnp.asarray(X), jnp.asarray(X))
DENSE = jaxae.as_functions(jaxae.DenseAutoencoder((4, 3), 2))
CONV = jaxae.as_functions(jaxae.ConvAutoencoder((4, 3, 1), 2, channels=(2,)))
PARAMS = {"dense": DENSE.init(KEY), "conv": CONV.init(KEY)}
OPTIMIZER = optax.sgd(0.1)
LOSS = lambda params, key, x: params * x[:, 0]
RUN = jaxae.make_run(LOSS, OPTIMIZER, batch_size=2)
STATE = jaxae.create_train_state(jnp.zeros(()), OPTIMIZER)
STATES = jax.tree.map(lambda leaf: leaf[None], STATE)


class Data:
    """A stand-in for the data of a library that need not be installed; it cannot be shown."""

    def __init__(self, x):
        self.shape, self._x = x.shape, x

    def __len__(self):
        return len(self._x)

    def __repr__(self):
        raise AssertionError("the repr of data was made")

    __str__ = __repr__


class DataFrame(Data):  # of pandas or polars
    def to_numpy(self, dtype=None):
        return self._x


class Tensor(Data):  # of PyTorch
    dtype = "torch.float32"

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self._x


class EagerTensor(Data):  # of TensorFlow
    dtype = "tf.float32"

    def numpy(self):
        return self._x


class LongList(list):
    def __repr__(self):
        raise AssertionError("the repr of data was made")


WORKS = None
MISTAKES = {  # what is made of a floating array, and the remedy that must be named
    "list": (lambda x: LongList(x.tolist()), r"np\.asarray"),
    "data frame": (DataFrame, r"\.to_numpy\("),
    "CSR": (lambda x: scipy.sparse.csr_array(np.atleast_2d(x)), r"\.toarray\(\)"),
    "masked array": (lambda x: np.ma.array(x, mask=x == x.flat[0]), r"\.filled\("),
    "masked array, nothing masked": (lambda x: np.ma.array(x, mask=False), WORKS),
    "torch tensor": (Tensor, r"\.detach\(\)\.cpu\(\)\.numpy\(\)"),
    "TF tensor": (EagerTensor, r"\.numpy\(\)"),
    "complex": (lambda x: x.astype(np.complex64), r"jnp\.stack\(\[.*\.real, .*\.imag\]"),
    "integer": (lambda x: x.astype(np.int32), r"\.astype\('float32'\)"),
    "bytes 0 to 255": (lambda x: x.astype(np.uint8), r"\.astype\('float32'\) / 255"),
    "object": (lambda x: x.astype(object), r"\.astype\('float32'\)"),
    "NaN": (lambda x: np.full_like(x, np.nan), "finite"),
    "a key": (lambda x: KEY, "mind the order of the arguments"),
    "nothing": (lambda x: None, "pass an array"),
    "big-endian": (lambda x: x.astype(">f4"), WORKS),
    "longdouble": (lambda x: x.astype(np.longdouble), WORKS),
}
for library, kind in (("pandas", "DataFrame"), ("torch", "from_numpy"), ("tensorflow", "constant")):
    try:  # the real ones, where they are installed
        module = __import__(library)
    except ImportError:
        continue
    like = {"pandas": "data frame", "torch": "torch tensor", "tensorflow": "TF tensor"}[library]
    make = getattr(module, kind)
    if library == "pandas":  # a frame has rows and columns, and no more axes
        make = partial(lambda make, x: make(x.reshape(len(x), -1)), make)
    MISTAKES[f"{like} of {library}"] = make, MISTAKES[like][1]

# Each entry: the arguments that take data, and a call with something in the place of one of them.
ENTRIES = {}


def entry(name, call, **arguments):
    """Adds an entry ``call(**arguments)``; each argument is a good value."""
    for argument in arguments:
        rest = {other: value for other, value in arguments.items() if other != argument}
        ENTRIES[f"{name}({argument})"] = name, argument, arguments[argument], partial(call, **rest)


for noise, strength in (
    (jaxae.masking_noise, "rate"),
    (jaxae.gaussian_noise, "stddev"),
    (jaxae.uniform_noise, "scale"),
    (jaxae.salt_and_pepper_noise, "rate"),
):
    entry(noise.__name__, partial(noise, KEY, **{strength: 0.5}), x=X)
MASK = partial(jaxae.masking_noise, rate=0.5)
entry("compose", lambda x: jaxae.compose(MASK)(KEY, x), x=X)
entry("corrupt_batch", partial(jaxae.corrupt_batch, KEY, NONE), x=X)
for error in (jaxae.squared_error, jaxae.mean_squared_error, jaxae.psnr, jaxae.explained_variance):
    entry(error.__name__, error, x_hat=X, x=X)
entry("gaussian_nll", jaxae.gaussian_nll, mean=X, x=X)
entry("bernoulli_nll", jaxae.bernoulli_nll, logits=X, x=X)
entry("Bernoulli", lambda logits, x: jaxae.Bernoulli().log_prob(logits, x), logits=X, x=X)
entry("Bernoulli.mean", jaxae.Bernoulli().mean, output=X)
entry("Gaussian", lambda mean, x: jaxae.Gaussian(1.0).log_prob(mean, x), mean=X, x=X)
entry("Gaussian.mean", jaxae.Gaussian(1.0).mean, output=X)
DIAGONAL = jaxae.DiagonalGaussian()
entry(
    "DiagonalGaussian",
    lambda output, x: DIAGONAL.log_prob(output, x),
    output=X[:, [0, 1]],
    x=X[:, :1],
)
entry("DiagonalGaussian.mean", DIAGONAL.mean, output=X[:, :2])
for penalty in (jaxae.l1_penalty, jaxae.active_units, jaxae.dead_units, jaxae.saturated_share):
    entry(penalty.__name__, penalty, code=X)
entry("kl_sparsity_penalty", partial(jaxae.kl_sparsity_penalty, target=0.1), code=X)
entry("keep_top_k", partial(jaxae.keep_top_k, k=2), code=X)
entry("decoder_weighted_l1_penalty", jaxae.decoder_weighted_l1_penalty, code=X, decoder=X[:3])
entry(
    "dead_unit_loss",
    lambda code, residual: jaxae.dead_unit_loss(
        code, lambda z: z, residual, is_dead=jnp.ones(3, bool), k=1
    ),
    code=X,
    residual=X,
)
for penalty in (
    jaxae.contractive_penalty,
    jaxae.code_and_contractive_penalty,
    jaxae.explain_contraction,
    jaxae.jacobian_singular_values,
):
    entry(penalty.__name__, partial(penalty, ENCODE), x=X)
through = partial(jaxae.reconstruction_contractive_penalty, *AUTOENCODER)
entry("reconstruction_contractive_penalty", through, x=X)
higher = partial(jaxae.higher_order_contractive_penalty, KEY, ENCODE, stddev=0.1)
entry("higher_order_contractive_penalty", higher, x=X)
estimate = partial(jaxae.contractive_penalty_estimate, KEY, ENCODE)
entry("contractive_penalty_estimate", estimate, x=X)
entry("contraction_curve", partial(jaxae.contraction_curve, KEY, ENCODE), x=X, radii=X[0])
entry("best_cosines", jaxae.best_cosines, filters=X, atoms=X)
for penalty in (jaxae.jump_relu, jaxae.step_l0_penalty):
    entry(penalty.__name__, partial(penalty, bandwidth=0.1), pre=X, threshold=X[0])
entry("tanh_l0_penalty", jaxae.tanh_l0_penalty, code=X, decoder=X[:3])
entry("batch_top_k", partial(jaxae.batch_top_k, k=2), pre=X)
entry("batch_top_k_threshold", jaxae.batch_top_k_threshold, code=X)
entry("dense_units", jaxae.dense_units, code=X)
entry("shrinkage", jaxae.shrinkage, x_hat=X, x=X)
for measure in (jaxae.mean_correlation, jaxae.nearest_atoms, jaxae.uniqueness):
    entry(measure.__name__, measure, filters=X, atoms=X)
counts = lambda code, truth: jaxae.unit_counts(code, truth, jnp.arange(3))
entry("unit_counts", counts, code=X, truth=X)
entry("gated_relu", jaxae.gated_relu, gate=X, magnitude=X)
gated = lambda gate, x: jaxae.gated_auxiliary_loss(gate, lambda z: z, x)
entry("gated_auxiliary_loss", gated, gate=X, x=X)
nested = partial(jaxae.matryoshka_loss, prefixes=(1, 3))
entry("matryoshka_loss", nested, code=X, decoder=X[:3], x=X)
few = lambda values, decoder: jaxae.sparse_decode(values, jnp.zeros((4, 3), int), decoder)
entry("sparse_decode", few, values=X, decoder=X[:3])
entry("reconstruction_loss", partial(jaxae.reconstruction_loss, *AUTOENCODER), x=X)
entry("sparse_loss", partial(jaxae.sparse_loss, *AUTOENCODER, weight=1.0), x=X)
entry("contractive_loss", partial(jaxae.contractive_loss, *AUTOENCODER, weight=1.0), x=X)
entry("denoising_loss", partial(jaxae.denoising_loss, KEY, *AUTOENCODER, corrupt=NONE), x=X)
entry("combined_loss", partial(jaxae.combined_loss, KEY, *AUTOENCODER, corrupt=NONE), x=X)
walk = partial(jaxae.walkback_loss, KEY, *AUTOENCODER, steps=1, **DRAWN)
entry("walkback_loss", walk, x=X)
levelled = partial(jaxae.noise_conditional_loss, KEY, *LEVELLED, low=0.5, high=1.0)
entry("noise_conditional_loss", levelled, x=X)
entry("reconstruction_field", partial(jaxae.reconstruction_field, *AUTOENCODER), x=X)
entry("score_estimate", partial(jaxae.score_estimate, *AUTOENCODER, stddev=1.0), x=X)
TRANSITIONS = {
    "denoising_transition": jaxae.denoising_transition(*AUTOENCODER, corrupt=NONE),
    "langevin_transition": jaxae.langevin_transition(lambda x_i: -x_i, step_size=0.1),
    "tangent_transition": jaxae.tangent_transition(*AUTOENCODER, stddev=0.1),
    "markov_chain": lambda key, x_i: x_i,
}
for name, transition in TRANSITIONS.items():
    entry(name, partial(jaxae.markov_chain, KEY, transition, steps=1), x=X)
annealed = partial(jaxae.markov_chain, KEY, lambda key, x_i, level: x_i, X, steps=4)
entry("markov_chain", annealed, schedule=X[:, 0])
entry("fit_linear_denoiser", jaxae.fit_linear_denoiser, x_noisy=X, x=X)
entry("pair_moments", jaxae.pair_moments, x_noisy=X, x=X)
entry("LinearDenoiser", partial(DENOISER, rank=1), x_noisy=X)
entry("LinearDenoiser.decode", DENOISER.decode, code=X)
entry("as_functions", partial(DENSE.decode, PARAMS["dense"]), code=X[0, :2])
entry("DenseAutoencoder", partial(DENSE.encode, PARAMS["dense"]), x_i=X)
entry("ConvAutoencoder", partial(CONV.encode, PARAMS["conv"]), x_i=X[..., None])
entry("ConvAutoencoder.decode", partial(CONV.decode, PARAMS["conv"]), code=X[0, :2])
entry(
    "evaluate",
    lambda **data: jaxae.evaluate(jnp.sum, data["data[0]"], batch_size=2),
    **{"data[0]": X},
)
entry("fit", partial(jaxae.fit, RUN, STATE, KEY, epochs=1), x=X)
many = lambda x: jaxae.fit_many(RUN, STATES, KEY[None], x, epochs=1)
entry("fit_many", many, x=X)
epoch = jaxae.make_epoch(LOSS, OPTIMIZER, batch_size=2)
entry("make_epoch", lambda x: epoch(STATE, KEY, 0, x), x=X)
entry("make_train_step", partial(jaxae.make_train_step(LOSS, OPTIMIZER), STATE, KEY), x=X)

# They take data too, and what they make of each mistake is tested with them.
ELSEWHERE = {
    "Streamed": "tests/jaxae/test_streams.py",
    "StreamedBatches": "tests/jaxae/test_streams.py",
    "Run": "fit, fit_many",
    "make_run": "fit, fit_many",
}
NO_DATA = {
    *("AutoencoderFunctions", "BestState", "Checkpoints", "ContractionPlan", "Estimate"),
    *(
        "LostProcessError",
        "Minimum",
        "NonFiniteLossError",
        "PairMoments",
        "Snapshot",
        "StoppedError",
        "TrainState",
    ),
    *("conjugate_gradient", "create_train_state", "data_mesh", "hash_key", "keep_best", "lbfgs"),
    *("minimize", "shuffled_order", "sweep_method", "target_l0", "TargetL0State", "unit_norm"),
    *("UnitCounts", "register_contraction_rule"),
}
RUNS = {"fit", "fit_many"}  # of which one is compiled below


def test_every_public_name_is_in_the_table():
    covered = {name.split(".")[0] for name, *_ in ENTRIES.values()}
    assert covered | set(ELSEWHERE) | NO_DATA == set(jaxae.__all__)


# Values of these mistakes are allowed, or are another mistake, for these arguments.
def is_allowed(mistake, name, argument):
    if name in {"make_epoch", "make_train_step"}:  # labels may be integers: the loss decides
        return mistake in {"complex", "integer", "bytes 0 to 255", "NaN", "a key", "nothing"}
    if argument == "schedule":  # numbers of any type, read by the transition; None is the default
        return mistake in {"complex", "integer", "bytes 0 to 255", "NaN", "a key", "nothing"}
    return mistake == "CSR" and name.startswith("ConvAutoencoder")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_works_or_one_line_says_what_to_do(mistake):
    make, remedy = MISTAKES[mistake]
    for label, (name, argument, good, call) in ENTRIES.items():
        if is_allowed(mistake, name, argument) or (remedy is WORKS and name in RUNS):
            continue
        bad = make(good)
        if remedy is WORKS:
            traced = lambda call, arguments: [call(**arguments), None][1]
            jax.eval_shape(partial(traced, call, {argument: bad}))
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            call(**{argument: bad})
        message = str(caught.value)
        assert "\n" not in message, label
        assert re.search(rf"(^|\b){re.escape(argument)} must be .*{remedy}", message), (
            label,
            message,
        )


IN_0_TO_1 = [
    "bernoulli_nll(x)",
    "Bernoulli(x)",
    "kl_sparsity_penalty(code)",
    "saturated_share(code)",
]


@pytest.mark.parametrize("label", IN_0_TO_1)
def test_pixels_of_0_to_255_are_refused_where_0_to_1_is_meant(label):
    _, argument, good, call = ENTRIES[label]
    with pytest.raises(ValueError, match=rf"^{argument} must be at most 1, but 12 of its values"):
        call(**{argument: 255 * good})


def test_other_orders_of_bytes_give_the_numbers_of_the_native_one():
    x = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    expected = jaxae.squared_error(x, 2 * x)
    np.testing.assert_array_equal(jaxae.squared_error(x.astype(">f4"), 2 * x), expected)
    states = [jaxae.fit(RUN, STATE, KEY, data, epochs=1) for data in (x, x.astype(">f4"))]
    assert states[0].params == states[1].params != 0


def test_channels_first_get_the_way_to_move_them():
    images = np.zeros((2, 1, 4, 3), np.float32)
    functions = partial(CONV.encode, PARAMS["conv"]), partial(CONV.decode, PARAMS["conv"])
    with pytest.raises(ValueError, match=r"encode gets ONE .*moveaxis\(x, -3, -1\)") as caught:
        jaxae.reconstruction_loss(*functions, images, example_ndim=3)
    assert "\n" not in str(caught.value)
    moved = jnp.moveaxis(images, -3, -1)
    loss = partial(jaxae.reconstruction_loss, *functions, example_ndim=3)
    assert jax.eval_shape(loss, moved).shape == (2,)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("positions", lambda bad: jaxae.shuffled_order(KEY, 5, positions=bad.astype(int))),
        ("fixed", lambda bad: jaxae.markov_chain(KEY, lambda k, v: v, X, steps=1, fixed=bad > 0)),
        (
            "is_dead",
            lambda bad: jaxae.dead_unit_loss(X, lambda z: z, X, is_dead=bad[0] > 0, k=1),
        ),
        ("stddev", lambda bad: jaxae.gaussian_nll(X, X, stddev=bad)),
        ("stddev", lambda bad: jaxae.gaussian_noise(KEY, X, stddev=bad[0, 0, ...])),
        ("rate", lambda bad: jaxae.masking_noise(KEY, X, rate=bad[0, 0, ...])),
    ],
)
def test_a_mask_is_lost_nowhere(name, call):
    masked = np.ma.array(X, mask=[[True, False, False]] * 4)
    with pytest.raises(TypeError, match=rf"^{name} must be an array without masked entries"):
        call(masked)


def test_settings_in_the_wrong_place_are_not_shown_either():
    for bad in (DataFrame(X), np.ones((1000, 1000)), {"a": Data(X)}, (Data(X), 1), "9\n" * 999):
        for call in (
            lambda bad: jaxae.keep_top_k(X, k=bad),
            lambda bad: jaxae.masking_noise(KEY, X, rate=bad),
            lambda bad: jaxae.contractive_penalty(ENCODE, X, method=bad),
            lambda bad: jaxae.contractive_penalty(5, bad),
            lambda bad: jaxae.data_mesh(devices=bad),
            lambda bad: jaxae.fit(bad, STATE, KEY, X, epochs=1),
            lambda bad: jaxae.denoising_loss(KEY, *AUTOENCODER, X, corrupt=NONE, emphasis=bad),
            lambda bad: jaxae.hash_key(bad),
        ):
            with pytest.raises((TypeError, ValueError)) as caught:
                call(bad)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 300
