"""Every program of the library, lowered on this CPU for NVIDIA and AMD GPUs and for TPUs.

Whatever branches on the platform takes the branch of an accelerator here. The text of a program
shows what would make it slow or wrong there: numbers in double precision, calls back to Python, a
copy of the data set inside of a step, buffers that are not reused.
"""

import ast
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxae
from jaxae.training import _windows
from jaxae.training.epoch import Window

ROOT = Path(__file__).parents[2]
PLATFORMS = ("cuda", "rocm", "tpu")
N, D, K = 97, 20, 6  # no other array has the shape of the data
KEY = jax.random.key(0)
X = jnp.linspace(0.0, 1.0, N * D, dtype=jnp.float32).reshape(N, D)
FEW, IMAGES = X[:5], X[:6].reshape(6, 5, 4, 1)


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch):
    """Takes every branch that an accelerator takes."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def require_portable(text):
    """Fails for numbers in double precision and for calls back to Python."""
    assert "stablehlo" in text
    assert not re.search(r"\bf64\b|xf64\b", text)
    assert not re.search(r"callback|infeed|outfeed|stablehlo\.(send|recv)\b", text)


def copies_of_the_data(text):
    """Returns the operations whose result has the shape of the data set.

    Loops and conditions hand the data on, and make none.
    """
    hands_on = ("while", "case", "if", "optimization_barrier")
    found = []
    for line in text.splitlines():
        operation = re.search(r' = "?(?:stablehlo|chlo)\.(\w+)', line)
        if operation and operation[1] not in hands_on:
            result = re.split(r"->| : ", line)[-1]
            found += [line.strip()] if f"<{N}x{D}x" in result else []
    return found


MODELS = {
    "one layer": jaxae.DenseAutoencoder((D,), K, code_activation=nn.sigmoid),
    "deep": jaxae.DenseAutoencoder((D,), K, hidden_dims=(9,), activation=jnp.tanh),
    "convolutional": jaxae.ConvAutoencoder((5, 4, 1), K, channels=(2,)),
}
FUNCTIONS = {name: jaxae.as_functions(model) for name, model in MODELS.items()}


def constant_params(name):
    """Returns parameters of a model without a draw, which would be compiled."""
    shapes = jax.eval_shape(FUNCTIONS[name].init, KEY)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)


def bound(params, name="one layer"):
    """Returns encoder and decoder of an autoencoder with its parameters."""
    functions = FUNCTIONS[name]
    return partial(functions.encode, params[name]), partial(functions.decode, params[name])


def lower(function, *arguments):
    """Returns the text of a program for all platforms."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=PLATFORMS).as_text()


# Programs of parameters and a key: their gradients are lowered with them


def penalties(name, x, params, key, **options):
    """Returns the penalties of an encoder, by every method."""
    encode, _ = bound(params, name)
    penalty = partial(jaxae.contractive_penalty, encode, x, **options)
    return {
        **{method: penalty(method=method) for method in ("auto", "jacfwd", "jacrev")},
        "groups": penalty(method="jacrev", chunk_size=2),
        "estimate": penalty(method="hutchinson", key=key),
        "second order": jaxae.higher_order_contractive_penalty(
            key, encode, x, stddev=0.1, **options
        ),
    }


def penalty_of_the_reconstruction(params, key):
    return jaxae.reconstruction_contractive_penalty(*bound(params), FEW)


def denoising_losses(params, key):
    """Returns the losses that draw noise, with every kind of it."""
    encode, decode = bound(params)
    noises = {
        "masking": partial(jaxae.masking_noise, rate=0.3),
        "gaussian": partial(jaxae.gaussian_noise, stddev=0.3),
        "uniform": partial(jaxae.uniform_noise, scale=0.3, low=0, high=1),
        "salt and pepper": partial(jaxae.salt_and_pepper_noise, rate=0.3),
    }
    loss = partial(jaxae.denoising_loss, key, encode, decode, FEW)
    sample = jaxae.Gaussian(stddev=0.1).sample
    return {
        **{name: loss(corrupt=corrupt) for name, corrupt in noises.items()},
        "emphasis": loss(corrupt=noises["masking"], emphasis=(1, 2)),
        "walkback": jaxae.walkback_loss(
            key, encode, decode, FEW, corrupt=noises["uniform"], sample=sample, steps=2
        ),
        "levels": jaxae.noise_conditional_loss(
            key,
            lambda x_i, level: encode(level * x_i),
            lambda code, level: decode(code),
            FEW,
            low=0.1,
            high=1.0,
        ),
    }


def other_losses(params, key):
    encode, decode = bound(params)
    code = jax.vmap(encode)(FEW)
    weights = {"sparsity_weight": 0.1, "contraction_weight": 0.1}
    corrupt = partial(jaxae.gaussian_noise, stddev=0.1)
    return {
        "bernoulli": jaxae.reconstruction_loss(
            encode, decode, FEW, reconstruction=jaxae.bernoulli_nll
        ),
        "sparse": jaxae.sparse_loss(encode, decode, FEW, weight=0.1),
        "kl": jaxae.kl_sparsity_penalty(code, target=0.1),
        "top-k": jaxae.keep_top_k(code, k=2),
        "dead units": jaxae.dead_unit_loss(code, decode, FEW, is_dead=code[0] > 0.5, k=2),
        "contractive": jaxae.contractive_loss(encode, decode, FEW, weight=0.1),
        "combined": jaxae.combined_loss(key, encode, decode, FEW, corrupt=corrupt, **weights),
    }


WITH_GRADIENTS = {
    "penalties, one layer": partial(penalties, "one layer", FEW),
    "penalties, deep": partial(penalties, "deep", FEW),
    "penalties, convolutional": partial(penalties, "convolutional", IMAGES, example_ndim=3),
    "penalty of the reconstruction": penalty_of_the_reconstruction,
    "denoising losses": denoising_losses,
    "other losses": other_losses,
}


def lower_with_gradient(name):
    """Returns the text of a program that computes the sum of some losses and its gradient."""

    def total(params):
        outputs = jax.tree.leaves(WITH_GRADIENTS[name](params, key=KEY))
        return sum(jnp.sum(output) for output in outputs)

    return lower(jax.value_and_grad(total), {model: constant_params(model) for model in MODELS})


@pytest.mark.thorough(by_default=["penalties, deep", "denoising losses", "other losses"])
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_a_loss_and_its_gradient_are_lowered_for_every_platform(name):
    require_portable(lower_with_gradient(name))


@pytest.mark.parametrize("name", ["penalty of the reconstruction", "other losses"])
def test_single_precision_stays_single_where_double_is_allowed(name):
    """Arrays do; numbers of the source are double, until the compiler has rounded them."""
    with jax.enable_x64(True):
        assert not re.search(r"xf64\b", lower_with_gradient(name))


# Other programs


def samplers(params):
    encode, decode = bound(params)
    corrupt = partial(jaxae.gaussian_noise, stddev=0.3)
    score = partial(jaxae.score_estimate, encode, decode, stddev=0.3)
    transitions = {
        "denoising": jaxae.denoising_transition(encode, decode, corrupt=corrupt),
        "langevin": jaxae.langevin_transition(score, step_size=0.1),
        "tangent": jaxae.tangent_transition(encode, decode, stddev=0.1),
    }
    chain = partial(jaxae.markov_chain, KEY, x=FEW, steps=4, thin=2)
    return {name: chain(transition=transition) for name, transition in transitions.items()}


def solve(optimizer, params):
    """Returns the minimum of a deterministic loss."""

    def loss(params):
        return jnp.mean(jaxae.contractive_loss(*bound(params), FEW, weight=0.1))

    return jaxae.minimize(loss, params, optimizer, steps=2)


def measures(params):
    encode, decode = bound(params)

    def error(x_i):
        return jaxae.squared_error(decode(encode(x_i)), x_i)

    return {
        "evaluation": jaxae.evaluate(error, X, batch_size=8),
        "singular values": jaxae.jacobian_singular_values(encode, FEW),
        "curve": jaxae.contraction_curve(KEY, encode, FEW, radii=jnp.array([0.1, 1.0])),
        "psnr": jaxae.psnr(FEW, FEW[::-1]),
        "explained": jaxae.explained_variance(FEW, FEW[::-1]),
        "moments": jaxae.pair_moments(X[::-1], X),
        "cosines": jaxae.best_cosines(FEW, FEW[::-1]),
        "order": jaxae.shuffled_order(KEY, N),
    }


OTHERS = {
    "samplers": samplers,
    "L-BFGS": partial(solve, jaxae.lbfgs()),
    "conjugate gradients": partial(solve, jaxae.conjugate_gradient()),
    "measures": measures,
}


@pytest.mark.thorough(by_default=["samplers", "conjugate gradients", "measures"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_program_is_lowered_for_every_platform(name):
    params = {"one layer": constant_params("one layer")}
    require_portable(lower(OTHERS[name], params))


# Training


def loss(params, key, x, level):
    """Returns a denoising loss with a penalty; the level of the noise is a setting."""
    encode, decode = bound({"one layer": params})
    corrupt = partial(jaxae.uniform_noise, scale=level)
    penalty = jaxae.contractive_penalty(encode, x)
    return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt) + penalty


def make_state():
    return jaxae.create_train_state(constant_params("one layer"), optax.adam(1e-3))


class LoweredError(Exception):
    """Carries the text of a lowered program past the compiler, which is for this CPU."""


def lowered_run(monkeypatch, *, models=None, mesh=None, is_streamed=False):
    """Returns the program that ``fit`` and ``fit_many`` compile, and how many buffers it gives up.

    It comes from the library's own function, up to the compiler.
    """
    lower_traced = jax.stages.Traced.lower

    def lower_and_stop(traced):
        raise LoweredError(lower_traced(traced, lowering_platforms=PLATFORMS).as_text())

    run = jaxae.make_run(loss, optax.adam(1e-3), batch_size=8, epochs_per_call=2, mesh=mesh)
    state, key, level = make_state(), jaxae.hash_key(KEY), jnp.float32(0.3)
    if models:
        repeat = partial(jax.tree.map, lambda leaf: jnp.stack([leaf] * models))
        state, key, level = repeat((state, key, level))
    monkeypatch.setattr(jax.stages.Traced, "lower", lower_and_stop)
    with jax.numpy_dtype_promotion("standard"):  # of optax
        arguments = run.arguments(state, key, X, level)
        if is_streamed:  # a window of three steps takes the place of the data
            lead = (models,) if models else ()
            batches, rest = jnp.zeros((*lead, 3, 8, D)), jnp.zeros((*lead, N % 8, D))
            arguments = *arguments[:5], Window(batches, rest, jnp.int32(0), N), level
        with pytest.raises(LoweredError) as stopped:
            run.program(*arguments, is_batched=bool(models))
    return stopped.value.args[0], len(jax.tree.leaves(arguments[:2]))


RUNS = {
    "one model": {},
    "three models": {"models": 3},
    "one model, streamed": {"is_streamed": True},
    "three models, streamed": {"models": 3, "is_streamed": True},
}


@pytest.mark.thorough(by_default=["three models", "one model, streamed"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_lowered_for_every_platform_and_reuses_its_buffers(name, monkeypatch):
    text, donated = lowered_run(monkeypatch, **RUNS[name])
    require_portable(text)
    assert not copies_of_the_data(text)
    assert count_reused(text) == donated


def count_reused(text):
    """Returns how many arguments of a program are marked as those whose memory it may use."""
    return len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", text))


FOUR_DEVICES = """
import jax, pytest
import test_platforms as here

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "gpu")
    for options in ({}, {"models": 3}):
        with pytest.MonkeyPatch.context() as inner:
            mesh = here.jaxae.data_mesh(devices=4)
            text, donated = here.lowered_run(inner, mesh=mesh, **options)
        here.require_portable(text)
        assert not here.copies_of_the_data(text)
        assert here.count_reused(text) == donated
        assert "num_partitions = 4" in text
"""


@pytest.mark.thorough
def test_a_run_over_four_devices_is_lowered_for_every_platform():
    """In a process of its own, which has four virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, "-c", FOUR_DEVICES]
    subprocess.run(command, env=environment, check=True, timeout=300)


def test_a_copy_of_the_data_would_be_seen():
    def step(x, i):
        return jnp.sum(jnp.flip(x, 0)[i])

    text = lower(lambda x: jax.lax.fori_loop(0, 3, lambda i, sum_: sum_ + step(x, i), 0.0), X)
    assert "reverse" in "".join(copies_of_the_data(text))


def test_a_train_step_is_lowered_for_every_platform():
    state = make_state()
    step = jaxae.make_train_step(loss, optax.adam(1e-3))
    with jax.numpy_dtype_promotion("standard"):  # of optax
        require_portable(lower(step, state, KEY, X[:8], jnp.float32(0.3)))


# Where the platform decides


# Every function that asks for the platform, with the test that takes the other way on a CPU.
BRANCHES = {
    "jaxae/contraction/_costs.py exact_cost": (
        "jaxae/test_structure.py test_exact_products_are_dear_where_others_are_rounded"
    ),
    "jaxae/contraction/_evaluate.py _group_size": (
        "jaxae/test_platforms.py test_groups_of_an_accelerator_change_no_number"
    ),
    "jaxae/contraction/_full.py for_loops": (
        "jaxae/test_platforms.py test_a_loss_and_its_gradient_are_lowered_for_every_platform"
    ),
    "jaxae/training/_windows.py _put_on_host": (
        "jaxae/test_platforms.py test_orders_are_computed_without_a_cpu_too"
    ),
    "jaxae/training/many.py sweep_method": (
        "jaxae/test_runs.py test_the_method_follows_from_the_platform_alone"
    ),
    "jaxae/training/programs.py _lower": (
        "jaxae/test_platforms.py test_a_sweep_as_on_an_accelerator_trains_the_same_models"
    ),
    "jaxae/training/programs.py _compile": (
        "jaxae/test_platforms.py test_a_sweep_as_on_an_accelerator_trains_the_same_models"
    ),
    "experiments/common/run/compilation.py use_products": (
        "experiments/test_experiment_platforms.py test_bfloat16_products_reach_the_program"
    ),
    "experiments/common/run/memory.py on_the_device": (
        "experiments/test_experiment_platforms.py test_the_memory_of_an_accelerator_bounds_the_data"
    ),
    "experiments/common/results/environment.py describe": "no branch: it writes the device down",
    "experiments/lecture/page.py _facts": "no branch in what is computed: cores are for CPUs",
    "experiments/readme_tables/markdown.py provenance": "no branch in what is computed",
    "experiments/benchmarks/agreement.py on_the_cpu": "experiments/test_benchmarks.py "
    "test_the_agreement_of_this_device",
    "experiments/benchmarks/common.py device_name": (
        "experiments/test_experiment_platforms.py test_benchmarks_name_an_accelerator"
    ),
    "experiments/benchmarks/common.py torch_device": (
        "experiments/test_experiment_platforms.py test_benchmarks_name_an_accelerator"
    ),
    "experiments/benchmarks/convolutional.py main": (
        "no branch in what is computed: an accelerator takes more steps"
    ),
    "experiments/benchmarks/rounding.py main": "no branch in what is computed: a GPU is refused",
    "experiments/benchmarks/epoch.py variants": (
        "experiments/test_experiment_platforms.py test_benchmarks_name_an_accelerator"
    ),
}


def asks_for_the_platform(node):
    """Returns whether a node of a syntax tree reads which device there is."""
    if isinstance(node, ast.Attribute):
        of_the_system = isinstance(node.value, ast.Name) and node.value.id == "sys"
        names = ("default_backend", "device_kind", "platform_dependent", "memory_stats")
        return node.attr in names or (node.attr == "platform" and not of_the_system)
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "platform"
    return isinstance(node, ast.keyword) and node.arg == "backend"


def test_every_branch_on_the_platform_is_known_and_has_a_test():
    found = {
        f"{path.relative_to(ROOT).as_posix()} {function.name}"
        for package in ("jaxae", "experiments")
        for path in (ROOT / package).glob("**/*.py")
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        and any(map(asks_for_the_platform, ast.walk(function)))
    }
    assert found == BRANCHES.keys()
    for test in BRANCHES.values():
        if not test.startswith("no branch"):
            path, name = test.split()
            assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")


def test_groups_of_an_accelerator_change_no_number(monkeypatch):
    """A CPU takes this batch in groups of examples, an accelerator at once."""
    sizes = (120, 110, 100, 90)
    keys = jax.random.split(KEY, 3)
    weights = [jax.random.normal(keys[i], sizes[i : i + 2]) / 11 for i in range(3)]

    def encode(x_i):
        for weight in weights:
            x_i = jnp.tanh(x_i @ weight)
        return x_i

    x = jax.random.normal(KEY, (300, 120))
    penalty = partial(jaxae.contractive_penalty, encode)
    with jax.default_matmul_precision("highest"):  # the same order of the products
        at_once, text = jax.jit(penalty)(x), jax.jit(penalty).lower(x).as_text()
        monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
        jax.clear_caches()
        in_groups, other = jax.jit(penalty)(x), jax.jit(penalty).lower(x).as_text()
    assert text.count("stablehlo.while") < other.count("stablehlo.while")
    np.testing.assert_allclose(at_once, in_groups, rtol=1e-5)


def test_a_sweep_as_on_an_accelerator_trains_the_same_models(monkeypatch):
    """Under vmap, and compiled without the options of a CPU: to rounding, what threads train."""
    keys = jax.random.split(KEY, 2)
    optimizer = optax.sgd(0.1)
    states = jaxae.create_train_state(jnp.zeros((2, D)), optimizer)._replace(
        step=jnp.zeros(2, jnp.int32)
    )

    def distance(params, key, x, weight):
        target = jaxae.gaussian_noise(key, x, stddev=0.1)
        return weight * jnp.sum((params[None] - target) ** 2, axis=1)

    def train():
        run = jaxae.make_run(distance, optimizer, batch_size=32, epochs_per_call=2)
        return jaxae.fit_many(run, states, keys, X, jnp.array([0.1, 0.3]), epochs=2).params

    assert jaxae.sweep_method() == "vmap"
    stacked = train()
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    np.testing.assert_allclose(stacked, train(), rtol=1e-5)
    assert jnp.abs(stacked).min() > 0.01


def test_orders_are_computed_without_a_cpu_too(monkeypatch):
    """JAX may have been told to have accelerators only: then a key stays where it is."""

    def refuse(**_):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", refuse)
    assert _windows._put_on_host(KEY) is KEY
