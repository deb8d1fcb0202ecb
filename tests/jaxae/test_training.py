"""Training: optimisers, shuffles, the last batch, reproducibility, divergence."""

import inspect
import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import jaxae

RNG = np.random.default_rng(9)


@pytest.fixture(autouse=True)
def optax_promotes():
    """optax's Adam mixes a Python float with an int32 count, which is not strict."""
    with jax.numpy_dtype_promotion("standard"):
        yield


X = jnp.asarray(RNG.uniform(size=(37, 6)), jnp.float32)
MODEL = jaxae.DenseAutoencoder((6,), 3, output_activation=jax.nn.sigmoid)
INIT, ENCODE, DECODE = jaxae.as_functions(MODEL)


def dae_loss(params, key, x, stddev):
    f = partial(ENCODE, params), partial(DECODE, params)
    return jaxae.denoising_loss(key, *f, x, corrupt=partial(jaxae.gaussian_noise, stddev=stddev))


def distance(params, key, x):
    """A loss whose optimum is the mean of the data."""
    return jaxae.squared_error(jnp.broadcast_to(params, x.shape), x)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1),
        optax.adam(0.05),
        optax.lbfgs(),
        optax.chain(optax.clip(1.0), optax.adamw(0.05)),
    ],
    ids=["sgd", "adam", "lbfgs", "clipped adamw"],
)
def test_any_optax_optimiser_trains(optimizer, key):
    step = jax.jit(jaxae.make_train_step(distance, optimizer))
    state = jaxae.create_train_state(jnp.zeros(6), optimizer)
    for _ in range(60):
        state, loss = step(state, key, X)
    assert int(state.step) == 60
    # distance is quadratic about the mean: its minimum is the total variance
    np.testing.assert_allclose(loss, np.asarray(X).var(0).sum(), rtol=0.02)


def test_a_step_is_compiled_once(key):
    optimizer = optax.adam(0.1)
    step = jax.jit(jaxae.make_train_step(distance, optimizer))
    state = jaxae.create_train_state(jnp.zeros(6), optimizer)
    for _ in range(3):
        state, _ = step(state, key, X)
    assert step._cache_size() == 1


def test_step_takes_the_mean_over_the_batch(key):
    optimizer = optax.sgd(1.0)
    step = jax.jit(jaxae.make_train_step(lambda p, k, x: p * x.sum(-1), optimizer))
    state, loss = step(jaxae.create_train_state(jnp.ones(()), optimizer), key, X)
    mean = np.asarray(X).sum(-1).mean()
    np.testing.assert_allclose(loss, mean, rtol=1e-6)
    np.testing.assert_allclose(state.params, 1 - mean, rtol=1e-6)


def batches_of_an_epoch(key, epoch, n, batch_size):
    """Returns the rows of each step, in order, as the loss saw them."""
    seen = []

    def loss(params, step_key, x):
        # ordered, so that the callbacks arrive in the order of the steps
        jax.debug.callback(lambda v: seen.append(np.asarray(v).ravel().tolist()), x, ordered=True)
        return params * x[:, 0]

    optimizer = optax.sgd(0.0)
    run_epoch = jaxae.make_epoch(loss, optimizer, batch_size=batch_size)
    state = jaxae.create_train_state(jnp.zeros(()), optimizer)
    state, _ = run_epoch(state, key, epoch, jnp.asarray(np.arange(n, dtype=np.float32)[:, None]))
    jax.effects_barrier()
    assert int(state.step) == -(-n // batch_size)
    return seen


@pytest.mark.thorough(by_default=["10-3", "7-7"])
@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (9, 3), (2, 5), (1, 1), (7, 7)])
def test_every_example_is_used_once_per_epoch(key, n, batch_size):
    seen = batches_of_an_epoch(key, 0, n, batch_size)
    assert sorted(itertools.chain(*seen)) == list(range(n))
    assert [len(batch) for batch in seen[:-1]] == [batch_size] * (len(seen) - 1)


def test_the_shuffle_depends_on_key_and_epoch_alone(key):
    first = batches_of_an_epoch(key, 0, 20, 4)
    assert batches_of_an_epoch(key, 0, 20, 4) == first
    assert batches_of_an_epoch(key, 1, 20, 4) != first
    assert batches_of_an_epoch(jax.random.fold_in(key, 1), 0, 20, 4) != first
    assert list(itertools.chain(*first)) != list(range(20))


def test_epoch_equals_the_loop_of_steps(key):
    # The documented keys: split(fold_in(key, epoch)) is (shuffle, noise); fold_in(noise, step).
    optimizer = optax.adam(0.01)
    run_epoch = jaxae.make_epoch(dae_loss, optimizer, batch_size=8)
    start = jaxae.create_train_state(INIT(key), optimizer)
    got, mean_loss = run_epoch(start, key, 3, X, 0.2)

    step = jax.jit(jaxae.make_train_step(dae_loss, optimizer))
    shuffle_key, noise_key = jax.random.split(jax.random.fold_in(key, 3))
    order, x = np.asarray(jaxae.shuffled_order(shuffle_key, 37)), np.asarray(X)
    state, total = start, 0.0
    for i in range(5):
        rows = order[8 * i : 8 * i + 8]
        state, loss = step(state, jax.random.fold_in(noise_key, i), x[rows], 0.2)
        total += float(loss) * len(rows)
    np.testing.assert_allclose(mean_loss, total / 37, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), got, state)


def test_a_run_is_reproducible_and_settings_do_not_recompile(key):
    optimizer = optax.adam(0.01)
    run_epoch = jaxae.make_epoch(dae_loss, optimizer, batch_size=8)

    def run(seed, level):
        state = jaxae.create_train_state(INIT(key), optimizer)
        for epoch in range(3):
            state, _ = run_epoch(state, jax.random.key(seed), epoch, X, level)
        return state.params

    first = run(0, 0.2)
    jax.tree.map(np.testing.assert_array_equal, run(0, 0.2), first)
    other = run(1, 0.5)
    assert not np.array_equal(other["encoder_kernel_0"], first["encoder_kernel_0"])
    assert run_epoch.__wrapped__._cache_size() == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mean_loss_of_an_epoch_is_summed_in_float32(dtype, key):
    optimizer = optax.sgd(0.0)
    run_epoch = jaxae.make_epoch(lambda p, k, x: 50 + p * x[:, 0], optimizer, batch_size=2)
    state = jaxae.create_train_state(jnp.zeros((), dtype), optimizer)
    _, mean_loss = run_epoch(state, key, 0, jnp.ones((6401, 1), dtype))
    np.testing.assert_allclose(mean_loss, 50.0, rtol=1e-3)


def test_a_batch_larger_than_the_data_is_one_step(key):
    optimizer = optax.sgd(0.1)
    run_epoch = jaxae.make_epoch(distance, optimizer, batch_size=10**12)
    state, _ = run_epoch(jaxae.create_train_state(jnp.zeros(6), optimizer), key, 0, X)
    assert int(state.step) == 1


def test_training_denoises(key):
    optimizer = optax.adam(0.02)
    run = jaxae.make_run(dae_loss, optimizer, batch_size=16)
    losses = []
    state = jaxae.create_train_state(INIT(key), optimizer)
    jaxae.fit(run, state, key, X, 0.1, epochs=40, on_epoch=lambda e, v: losses.append((e, v)))
    assert [epoch for epoch, _ in losses] == list(range(1, 41))
    assert losses[-1][1] < 0.8 * losses[0][1]


# ---- every optimiser of optax -------------------------------------------------------------------


def one_layer(params, key, x):
    return jnp.sum((x - (params["w"] @ jnp.ones(2))[None] - params["b"][None]) ** 2, axis=1)


LAYER = {"w": jnp.ones((3, 2)), "b": jnp.zeros(3)}
THREE = jnp.ones((4, 3))
SGD = optax.sgd(0.1)
# What they need beside a learning rate.
ARGUMENTS = {
    "adaptive_grad_clip": (0.1,),
    "add_noise": (0.1, 0.5),
    "apply_if_finite": (SGD, 3),
    "chain": (SGD, optax.clip(1.0)),
    "clip": (1.0,),
    "clip_by_block_rms": (1.0,),
    "clip_by_global_norm": (1.0,),
    "conditionally_mask": (SGD, lambda step: step < 3),
    "conditionally_transform": (SGD, lambda step: step < 3),
    "ema": (0.9,),
    "flatten": (SGD,),
    "freeze": ({"w": True, "b": False},),
    "masked": (SGD, {"w": True, "b": False}),
    "mechanize": (SGD,),
    "multi_transform": ({"x": SGD}, {"w": "x", "b": "x"}),
    "partition": ({"x": SGD}, {"w": "x", "b": "x"}),
    "sam": (SGD, optax.sgd(0.01)),
    "scale": (-0.1,),
    "scale_by_backtracking_linesearch": (5,),
    "scale_by_schedule": (lambda step: -0.1,),
    "scale_by_zoom_linesearch": (5,),
    "schedule_free": (SGD, 0.1),
    "selective_transform": (SGD,),
    "split_real_and_imaginary": (SGD,),
    "stateless": (lambda updates, params: updates,),
    "stateless_with_tree_map": (lambda update, param: update,),
    "trace": (0.9,),
    "with_extra_args_support": (SGD,),
}
# Those that no train step can serve, and what they are told.
REFUSED = {
    "differentially_private_aggregate": ((1.0, 0.1), "params.* as dpsgd, cannot be used"),
    "dpsgd": ((0.1, 1.0, 0.1), "params.* as dpsgd, cannot be used"),
    "lookahead": ((SGD, 2, 0.5), "cannot be used here .*no attribute 'fast'"),
}
# No optimisers, although they are said to return one; or only for other parameters than LAYER.
LEFT_OUT = {
    "_deprecated_differentially_private_aggregate",
    "_deprecated_dpsgd",
    "inject_hyperparams",  # makes a factory of optimisers
    "inject_stateful_hyperparams",
    "measure_with_ema",  # gauges
    "snapshot",
    "optimistic_adam",  # deprecated
    "scale_by_muon",  # matrices only, inside muon
}


def optimizers_of(module):
    """Returns the names of the functions of a module that return an optimiser."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return [
        name
        for name, function in functions
        if "GradientTransformation" in str(inspect.signature(function).return_annotation)
        and name not in LEFT_OUT
    ]


def made(module, name):
    function = getattr(module, name)
    names = inspect.signature(function).parameters
    arguments = REFUSED[name][0] if name in REFUSED else ARGUMENTS.get(name, ())
    if not arguments and "learning_rate" in names:
        arguments = (0.1,)
    options = {"freeze_mask": {"w": True, "b": False}} if name == "selective_transform" else {}
    if "key" in names:
        options["key"] = jax.random.key(0)
    elif "seed" in names:  # as older releases have it
        options["seed"] = 0
    return function(*arguments, **options)


def traced_step(optimizer):
    """Returns the shapes of a state before and after one step, without compiling it."""
    state = jax.eval_shape(partial(jaxae.create_train_state, optimizer=optimizer), LAYER)
    step = jaxae.make_train_step(one_layer, optimizer)
    with jax.numpy_rank_promotion("allow"):  # some of optax need it
        return state, jax.eval_shape(step, state, jax.random.key(0), THREE)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of optax about its seeds
@pytest.mark.parametrize("module", [optax, optax.contrib], ids=lambda module: module.__name__)
def test_every_optimiser_of_optax_makes_a_step_or_says_why_not(module):
    names = optimizers_of(module)
    assert len(names) > 20
    for name in names:
        optimizer = made(module, name)
        if name in REFUSED:
            with pytest.raises((TypeError, ValueError), match=f"^optimizer .*{REFUSED[name][1]}"):
                traced_step(optimizer)
        else:
            before, after = traced_step(optimizer)
            assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after), name


SAM = optax.contrib.sam(SGD, optax.sgd(0.05), opaque_mode=True)


@pytest.mark.parametrize(
    "optimizer",
    [SAM, jaxae.keep_best(SAM, lambda p: jnp.sum(p**2), every=1)],
    ids=["alone", "in keep_best"],
)
def test_sam_steps_by_the_gradient_at_the_place_it_climbs_to(optimizer, key):
    # loss (p - 1)^2 at 0: gradient -2, climbs to -0.1, where the gradient is -2.2; step 0.22
    step = jax.jit(jaxae.make_train_step(lambda p, key, x: (p - x) ** 2, optimizer))
    state, _ = step(jaxae.create_train_state(0.0, optimizer), key, np.ones(1, np.float32))
    np.testing.assert_allclose(state.params, 0.22, rtol=1e-6)


def test_sophia_is_given_the_loss_whose_curvature_it_estimates(key):
    # the curvature of sum((p - 1)^2) is 2, whatever the signs that are drawn
    optimizer = optax.contrib.hutchinson_estimator_diag_hessian(jax.random.key(0))
    step = jax.jit(jaxae.make_train_step(lambda p, key, x: jnp.sum((p - x) ** 2), optimizer))
    state, _ = step(jaxae.create_train_state(jnp.zeros(2), optimizer), key, jnp.ones(2))
    np.testing.assert_allclose(state.params, 2.0, rtol=1e-6)


def test_several_small_steps_are_one_step(key):
    optimizer = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=2)
    run = jaxae.make_run(lambda p, key, x: (p - x) ** 2, optimizer, batch_size=2)
    state = jaxae.create_train_state(0.0, optimizer)
    state = jaxae.fit(run, state, key, jnp.array([1.0, 2.0, 3.0, 4.0]), epochs=1)
    np.testing.assert_allclose(state.params, 2.5)  # the mean: one step of Newton's method


def test_the_loss_reaches_a_line_search_inside_of_small_steps():
    before, after = traced_step(optax.MultiSteps(jaxae.conjugate_gradient(), 2))
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)


def test_an_optimiser_that_takes_no_extra_argument_inside_a_chain_is_named(key):
    with pytest.raises(TypeError, match=r"^optimizer cannot be used .*must be the outermost"):
        traced_step(optax.chain(SAM, optax.clip(1.0)))


# ---- states -------------------------------------------------------------------------------------


def buffers(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


def squares(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


SHARING = {
    "adam": optax.adam(0.1),
    "conjugate_gradient": jaxae.conjugate_gradient(),
    "lbfgs": jaxae.lbfgs(),
    "optax's lbfgs": optax.lbfgs(),
    "keep_best": jaxae.keep_best(jaxae.conjugate_gradient(), squares, every=1),
    "unit_norm": optax.partition({"w": jaxae.unit_norm(SGD), "b": SGD}, {"w": "w", "b": "b"}),
    "chain": optax.chain(optax.clip(1.0), optax.adamw(0.1)),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2),
    "sam": optax.contrib.sam(SGD, SGD),
    "schedule_free": optax.contrib.schedule_free_sgd(0.1),
}


@pytest.mark.parametrize("name", SHARING)
def test_no_two_arrays_of_a_fresh_state_are_one_buffer(name):
    found = buffers((LAYER, jaxae.create_train_state(LAYER, SHARING[name])))
    assert len(set(found)) == len(found)


def test_states_that_minimize_and_fit_return_share_no_buffer(key):
    result = jaxae.minimize(lambda p: squares(p), LAYER, optax.sgd(0.1), steps=1)
    optimizer = SHARING["keep_best"]
    run = jaxae.make_run(one_layer, optimizer, batch_size=4)
    start = jaxae.create_train_state(LAYER, optimizer)
    found = buffers((LAYER, result, start, jaxae.fit(run, start, key, THREE, epochs=1)))
    assert len(set(found)) == len(found)


def test_a_step_may_use_up_its_state_and_the_parameters_stay(key):
    optimizer = SHARING["keep_best"]
    step = jax.jit(jaxae.make_train_step(one_layer, optimizer), donate_argnums=0)
    state = jaxae.create_train_state(LAYER, optimizer)
    before = state
    for _ in range(2):
        state, _ = step(state, key, THREE)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(LAYER))
    assert int(state.step) == 2


# ---- what is no parameter and no state ----------------------------------------------------------


def test_equinox_networks_are_told_how_to_take_their_arrays_apart(key):
    network = eqx.nn.MLP(2, 2, 3, depth=1, key=key)
    with pytest.raises(TypeError, match=r"^params .*params\.activation is a .*eqx\.partition\(.*$"):
        jaxae.create_train_state(network, SGD)
    params, _ = eqx.partition(network, eqx.is_inexact_array)
    assert jaxae.create_train_state(params, SGD).params.layers[0].weight.shape == (3, 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": [jnp.ones(2), jnp.arange(3)]}, r"params\['a'\]\[1\] has dtype int32; make it"),
        ({"a": 3}, r"params\['a'\] has dtype int32"),
        (jnp.ones(2, "complex64"), "params has dtype complex64; keep its real and imaginary parts"),
        (jax.random.key(0), "params has dtype key"),
        ("weights.npz", "params is a str"),
        (jaxae.create_train_state(1.0, SGD), "it is a TrainState; pass its field params"),
    ],
    ids=["integer", "number", "complex", "key", "name", "state"],
)
def test_what_is_no_parameter_is_named(params, message):
    for call in (
        lambda: jaxae.create_train_state(params, SGD),
        lambda: jaxae.minimize(squares, params, SGD, steps=1),
    ):
        with pytest.raises(TypeError, match=rf"^params must .*{message}.*$"):
            call()


def test_numbers_are_parameters():
    state = jaxae.create_train_state({"a": 1.0, "b": np.ones(2)}, jaxae.lbfgs())
    assert jax.tree.map(jnp.shape, state.params) == {"a": (), "b": (2,)}


def test_what_is_no_state_is_refused_before_the_first_step(key, no_type_hook):
    run = jaxae.make_run(one_layer, SGD, batch_size=4)
    flax_state = TrainState.create(apply_fn=None, params=LAYER, tx=SGD)
    with pytest.raises(TypeError, match=r"^params must be the parameters alone.* a TrainState;"):
        jaxae.create_train_state(flax_state, SGD)
    for wrong in (flax_state, LAYER):
        with pytest.raises(TypeError, match=r"^state must be a jaxae\.TrainState, .* it is a "):
            jaxae.fit(run, wrong, key, THREE, epochs=1)
        with pytest.raises(TypeError, match=r"^states must be a jaxae\.TrainState, .* it is a "):
            jaxae.fit_many(run, wrong, key[None], THREE, epochs=1)
    frozen = jaxae.create_train_state(LAYER, SGD)._replace(params={"w": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"^params must be floating, but params\['w'\] has dtype"):
        jaxae.fit(run, frozen, key, THREE, epochs=1)
