"""Activations and losses of dictionaries: JumpReLU, BatchTopK, gated, Matryoshka."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxae

RNG = np.random.default_rng(31)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


# JumpReLU


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_jump_relu_keeps_what_exceeds_its_threshold(batch):
    pre, threshold = normal(*batch, 5), jnp.array([0.0, 0.1, 0.5, 1.0, 2.0])
    got = jax.jit(jaxae.jump_relu)(pre, threshold, bandwidth=0.1)
    by_hand = np.where(np.asarray(pre) > np.asarray(threshold), pre, 0)
    np.testing.assert_array_equal(got, by_hand)
    count = jaxae.step_l0_penalty(pre, threshold, bandwidth=0.1)
    np.testing.assert_array_equal(count, (by_hand != 0).sum(-1))


def test_jump_relu_gradients_by_hand():
    # threshold 2, bandwidth 0.5: the window is (1.75, 2.25); at 2.0 itself the unit is off
    pre = jnp.array([[1.7], [1.8], [2.0], [2.2], [2.3], [-1.0]])
    threshold = jnp.array([2.0])
    of_units = lambda pre, threshold, trains_input: jaxae.jump_relu(
        pre, threshold, bandwidth=0.5, trains_input=trains_input
    )
    slopes = jax.jit(jax.vmap(jax.grad(lambda *a: of_units(*a, True).sum(), (0, 1)), (0, None)))
    of_pre, of_threshold = slopes(pre, threshold)
    # 2 / 0.5 = 4 in the window, and for z also 1 where the unit is on
    np.testing.assert_allclose(of_threshold[:, 0], [0, -4, -4, -4, 0, 0])
    np.testing.assert_allclose(of_pre[:, 0], [0, 4, 4, 5, 1, 0])
    plain = jax.jit(jax.grad(lambda pre: of_units(pre, threshold, False).sum()))(pre)
    np.testing.assert_allclose(plain[:, 0], [0, 0, 0, 1, 1, 0])


def test_step_l0_gradients_by_hand():
    pre, threshold = jnp.array([[1.7], [1.8], [2.2], [2.3]]), jnp.array([2.0])
    penalty = lambda pre, threshold, **options: jaxae.step_l0_penalty(
        pre, threshold, bandwidth=0.5, **options
    ).sum()
    of_pre, of_threshold = jax.grad(penalty, (0, 1))(pre, threshold)
    np.testing.assert_allclose(of_threshold, [-4.0])  # two in the window, 1 / 0.5 each
    assert not of_pre.any()
    of_pre = jax.grad(penalty)(pre, threshold, trains_input=True)
    np.testing.assert_allclose(of_pre[:, 0], [0, 2, 2, 0])


def test_a_threshold_below_zero_counts_as_zero_and_can_come_back():
    pre, below = jnp.array([-0.5, 0.1, 0.5]), jnp.full(3, -1.0)
    np.testing.assert_array_equal(jaxae.jump_relu(pre, below, bandwidth=1.0), jax.nn.relu(pre))
    penalty = lambda threshold: jaxae.step_l0_penalty(pre, threshold, bandwidth=0.5)
    value, gradient = jax.value_and_grad(penalty)(below)
    assert float(value) == 2
    np.testing.assert_array_equal(gradient, [0.0, -2.0, 0.0])


def test_gradients_scale_with_the_unit_of_the_data():
    """Data, threshold and bandwidth in another unit are the same problem."""
    pre, threshold = normal(50, 4), jnp.full(4, 0.3)
    value = lambda threshold, unit: jaxae.jump_relu(unit * pre, threshold, bandwidth=unit / 2).sum()
    gradient = jax.jit(lambda unit: jax.grad(value)(unit * threshold, unit))
    np.testing.assert_allclose(gradient(32.0), gradient(1.0), rtol=1e-6)
    assert (gradient(1.0) < 0).all()


def test_tanh_l0_by_hand_and_its_gradient(float64):
    # filters of norm 5 and 1, code 0.1 and -2: tanh(2 * 0.5) + tanh(2 * 2)
    filters = jnp.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    code = jnp.array([0.1, -2.0, 3.0])
    got = jaxae.tanh_l0_penalty(code, filters, scale=2.0)
    np.testing.assert_allclose(got, np.tanh(1.0) + np.tanh(4.0), rtol=1e-12)
    code, filters = jnp.asarray(RNG.normal(size=(2, 4))), jnp.asarray(RNG.normal(size=(4, 3)))
    penalty = jax.jit(jaxae.tanh_l0_penalty)
    check_grads(penalty, (code, filters), order=1, modes=("rev",))
    gradients = jax.jit(jax.grad(lambda z, w: penalty(z, w).sum(), (0, 1)))
    assert jnp.isfinite(gradients(code, filters.at[1].set(0))[1]).all()
    assert not gradients(1e3 * code, filters)[0].any()  # strong units do not shrink


# BatchTopK


@pytest.mark.parametrize("batch", [(1,), (6,), (2, 3)])
def test_batch_top_k_keeps_the_largest_of_the_batch(batch):
    pre = normal(*batch, 7)
    got = np.asarray(jax.jit(jaxae.batch_top_k, static_argnames="k")(pre, k=2))
    count = 2 * int(np.prod(batch))
    least = np.sort(np.asarray(pre).reshape(-1))[-count]
    expected = np.where((np.asarray(pre) >= least) & (np.asarray(pre) > 0), pre, 0)
    np.testing.assert_array_equal(got, expected)
    threshold = float(jaxae.batch_top_k_threshold(got))
    assert threshold == got[got > 0].min()
    fixed = jnp.where(pre >= threshold, pre, 0)  # at inference, of one example at a time
    np.testing.assert_array_equal(fixed, got)


def test_batch_top_k_gives_an_example_as_many_units_as_it_needs():
    pre = jnp.array([[5.0, 4.0, 3.0], [1.0, 0.5, -1.0]])
    assert jaxae.active_units(jaxae.batch_top_k(pre, k=2)).tolist() == [3.0, 1.0]
    negative = jaxae.batch_top_k(-jnp.abs(pre), k=2)
    assert not negative.any()
    assert float(jaxae.batch_top_k_threshold(negative)) == 0
    equal = jaxae.batch_top_k(jnp.ones((2, 3)), k=1)
    assert equal.tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_batch_top_k_passes_the_gradient_of_what_stays():
    pre = jnp.array([[5.0, 1.0], [4.0, 3.0]])
    gradient = jax.grad(lambda pre: (jaxae.batch_top_k(pre, k=1) ** 2).sum())(pre)
    np.testing.assert_array_equal(gradient, [[10.0, 0.0], [8.0, 0.0]])


# Gated


def test_gated_relu_and_its_gradients():
    gate, magnitude = jnp.array([1.0, -1.0, 2.0, 0.0]), jnp.array([3.0, 3.0, -3.0, 3.0])
    np.testing.assert_array_equal(jaxae.gated_relu(gate, magnitude), [3.0, 0.0, 0.0, 0.0])
    of_gate, of_magnitude = jax.grad(lambda *a: jaxae.gated_relu(*a).sum(), (0, 1))(gate, magnitude)
    assert not of_gate.any()
    np.testing.assert_array_equal(of_magnitude, [1.0, 0.0, 0.0, 0.0])


def test_gated_auxiliary_loss_trains_the_gates_and_not_the_decoder(float64):
    w, b = jnp.asarray(RNG.normal(size=(4, 6))), jnp.asarray(RNG.normal(size=6))
    gate, x = jnp.asarray(RNG.normal(size=(2, 3, 4))), jnp.asarray(RNG.normal(size=(2, 3, 6)))

    def loss(gate, w, b):
        decode = lambda z: jnp.tanh(z @ w + b).reshape(2, 3)  # an image, and not linear
        images = x.reshape(2, 3, 2, 3)
        return jaxae.gated_auxiliary_loss(gate, decode, images).sum()

    def unfrozen(gate, w, b):
        axes = (2, 3, 6)
        x_hat = jnp.tanh(jax.nn.relu(gate) @ w + jnp.broadcast_to(b, axes))
        return ((x - x_hat) ** 2).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(gate, w, b)
    plain, expected = jax.value_and_grad(unfrozen, (0, 1, 2))(gate, w, b)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    np.testing.assert_allclose(gradients[0], expected[0], rtol=1e-10)
    assert expected[1].any()
    assert not gradients[1].any()
    assert not gradients[2].any()


# Matryoshka


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_matryoshka_loss_is_the_sum_over_prefixes(batch):
    code, filters, x = normal(*batch, 6), normal(6, 4), normal(*batch, 4)
    got = jax.jit(jaxae.matryoshka_loss, static_argnames="prefixes")(
        code, filters, x, prefixes=(1, 3, 6)
    )
    by_hand = sum(
        np.sum((np.asarray(x) - np.asarray(code)[..., :m] @ np.asarray(filters)[:m]) ** 2, -1)
        for m in (1, 3, 6)
    )
    np.testing.assert_allclose(got, by_hand, rtol=1e-5)
    whole = jaxae.matryoshka_loss(code, filters, x, prefixes=(6,))
    np.testing.assert_allclose(whole, jaxae.squared_error(code @ filters, x), rtol=1e-5)


def test_matryoshka_gradients(float64):
    arrays = (RNG.normal(size=(2, 4)), RNG.normal(size=(4, 3)), RNG.normal(size=(2, 3)))
    loss = jax.jit(lambda *a: jaxae.matryoshka_loss(*a, prefixes=(2, 4)))
    check_grads(loss, tuple(map(jnp.asarray, arrays)), order=1, modes=("rev",))


# Decoding from the active units


def dense_decode(values, indices, decoder):
    """The product of the whole code with the decoder, units that come twice added up."""
    one_hot = jax.nn.one_hot(indices, len(decoder), dtype=values.dtype)
    return jnp.einsum("...k,...ku->...u", values, one_hot) @ decoder


def values_and_gradients(decode):
    """Returns ``decode`` with the gradients of the sum of its sines, compiled."""

    def total(values, indices, decoder):
        return jnp.sum(jnp.sin(decode(values, indices, decoder)))

    gradients = jax.grad(total, argnums=(0, 2))
    return jax.jit(lambda *arrays: (decode(*arrays), gradients(*arrays)))


def test_decoding_from_the_active_units_is_the_product_with_the_whole_code(float64):
    decoder, values = jnp.asarray(RNG.normal(size=(5, 3))), RNG.normal(size=(2, 4, 5))
    values[0, 0] = 0
    values[1, :, 3:] = 0
    all_units = np.stack([RNG.permutation(5) for _ in range(8)]).reshape(2, 4, 5)
    repeated = RNG.integers(5, size=(2, 4, 5))
    repeated[0, :2] = 4
    sparse, dense = values_and_gradients(jaxae.sparse_decode), values_and_gradients(dense_decode)
    for indices in (all_units, repeated):
        arrays = jnp.asarray(values), jnp.asarray(indices), decoder
        results = jax.tree.leaves(sparse(*arrays)), jax.tree.leaves(dense(*arrays))
        for got, by_hand in zip(*results, strict=True):
            np.testing.assert_allclose(got, by_hand, rtol=1e-12, atol=1e-14)
    one = jaxae.sparse_decode(jnp.array([2.0, 3.0]), jnp.array([4, 4]), decoder)
    np.testing.assert_allclose(one, 5 * decoder[4], rtol=1e-12)
    beyond = jax.jit(jaxae.sparse_decode)(jnp.ones(1), jnp.array([5]), decoder)
    assert np.isnan(beyond).all()


def test_the_gradient_of_a_top_k_dictionary_is_the_same_from_its_active_units(float64):
    decoder, pre = jnp.asarray(RNG.normal(size=(9, 4))), jnp.asarray(RNG.normal(size=(5, 9)))

    def sparse(pre, decoder):
        return jaxae.sparse_decode(*jax.lax.top_k(jax.nn.relu(pre), 6), decoder)

    def dense(pre, decoder):
        return jaxae.keep_top_k(jax.nn.relu(pre), k=6) @ decoder

    def of_the_batch(pre, decoder):
        code = jaxae.batch_top_k(pre, k=2)
        return jaxae.sparse_decode(*jax.lax.top_k(code, 6), decoder)

    def of_the_batch_dense(pre, decoder):
        return jaxae.batch_top_k(pre, k=2) @ decoder

    @jax.jit
    def found(pre, decoder):
        results = []
        for decode in (sparse, dense, of_the_batch, of_the_batch_dense):
            total = lambda *arrays, decode=decode: jnp.sum(jnp.sin(decode(*arrays)))
            results.append((decode(pre, decoder), jax.grad(total, argnums=(0, 1))(pre, decoder)))
        return results

    by_method = [jax.tree.leaves(result) for result in found(pre, decoder)]
    assert (np.asarray(pre) < 0).sum(axis=1).max() > 3  # some of the 6 largest are 0
    assert (np.asarray(jaxae.batch_top_k(pre, k=2)) > 0).sum(axis=1).max() <= 6
    for got, by_hand in zip(by_method[0] + by_method[2], by_method[1] + by_method[3], strict=True):
        np.testing.assert_allclose(got, by_hand, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_is_kept_and_thresholds_stay_in_float32(dtype):
    pre, threshold = jnp.full((3, 4), 0.5, dtype), jnp.full(4, 0.25)
    filters, x = jnp.ones((4, 2), dtype), jnp.ones((3, 2), dtype)

    def results(pre, filters, x):
        return (
            jaxae.jump_relu(pre, threshold, bandwidth=0.1),
            jaxae.step_l0_penalty(pre, threshold, bandwidth=0.1),
            jaxae.tanh_l0_penalty(pre, filters),
            jaxae.batch_top_k(pre, k=2),
            jaxae.gated_relu(pre, pre),
            jaxae.gated_auxiliary_loss(pre, lambda z: z @ filters, x),
            jaxae.matryoshka_loss(pre, filters, x, prefixes=(2, 4)),
            jaxae.batch_top_k_threshold(pre),
        )

    *shapes, of_inference = jax.eval_shape(results, pre, filters, x)
    assert {shape.dtype for shape in shapes} == {jnp.dtype(dtype)}
    assert of_inference.dtype == jnp.float32


ON_FOUR_DEVICES = """
import json
import jax, jax.numpy as jnp, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxae

MESH = jax.make_mesh((4,), ("units",), axis_types=(AxisType.Auto,))
AXES = {"encoder": P(None, "units"), "atoms": P("units"), "threshold": P("units")}

x = jax.random.normal(jax.random.key(1), (32, 6))
residual = jax.random.normal(jax.random.key(3), (32, 6))
atoms = jax.random.normal(jax.random.key(2), (16, 6)) / 3
start = {
    "encoder": atoms.T, "atoms": atoms, "threshold": jnp.full(16, 0.1), "bias": jnp.zeros(6),
}

def dead_loss(atoms, pre, residual, is_dead):
    return jaxae.dead_unit_loss(pre, lambda z: z @ atoms, residual, is_dead=is_dead, k=2)

def loss(params, key, x):
    pre = (x - params["bias"]) @ params["encoder"]
    values, indices = jax.lax.top_k(jax.nn.relu(pre), 3)
    found = jaxae.sparse_decode(values, indices, params["atoms"]) + params["bias"]
    jumped = jaxae.jump_relu(pre, params["threshold"], bandwidth=0.5)
    error = jaxae.squared_error(found, x) + jaxae.squared_error(jumped @ params["atoms"], x)
    error = error + dead_loss(params["atoms"], pre, x - found, jnp.arange(16) < 5)
    return error + jaxae.step_l0_penalty(pre, params["threshold"], bandwidth=0.5)

def train(place):
    optimizer = optax.partition(
        {"atoms": jaxae.unit_norm(optax.sgd(1e-2, 0.9)), "rest": optax.sgd(1e-2, 0.9)},
        lambda params: {name: "atoms" if name == "atoms" else "rest" for name in params},
    )
    params = {name: place(name, jnp.array(array)) for name, array in start.items()}
    run = jaxae.make_run(loss, optimizer, batch_size=8)
    state = jaxae.create_train_state(params, optimizer)
    return jaxae.fit(run, state, jax.random.key(0), x, epochs=5).params

one = train(lambda name, array: array)
four = train(
    lambda name, array: jax.device_put(array, NamedSharding(MESH, AXES.get(name, P())))
)
found = {
    "gap": max(float(abs(jax.device_get(one[n]) - jax.device_get(four[n])).max()) for n in one),
    "moved": float(abs(one["atoms"] - start["atoms"]).max()),
    "rows on a device": [s.data.shape[0] for s in four["atoms"].addressable_shards],
}

# The loss of dead units chooses at run time whether it does anything; each device may choose.
pre = x @ atoms.T
outside = lambda *arrays: (
    dead_loss(*arrays), jax.grad(lambda *a: dead_loss(*a).sum(), argnums=(0, 1))(*arrays)
)
batch = P("units")
inside = jax.jit(jax.shard_map(
    outside, mesh=MESH, in_specs=(P(), batch, batch, P()), out_specs=(batch, (P(), batch))
))
gaps = []
for is_dead in (jnp.zeros(16, bool), jnp.arange(16) < 5):
    arrays = atoms, pre, residual, is_dead
    differences = jax.tree.map(lambda a, b: abs(a - b).max(), inside(*arrays), outside(*arrays))
    gaps.append(max(map(float, jax.tree.leaves(differences))))
found["inside shard_map"] = gaps
print(json.dumps(found))
"""


def run_on_devices(count, program):
    """Returns what a program prints that runs on several virtual devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", program]
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_a_dictionary_with_its_units_over_four_devices_is_that_of_one():
    found = run_on_devices(4, ON_FOUR_DEVICES)
    assert found["rows on a device"] == [4, 4, 4, 4]
    assert found["gap"] < 1e-5
    assert found["moved"] > 0.1
    assert max(found["inside shard_map"]) < 1e-4


ON_TWO_DEVICES = """
import jax, jax.numpy as jnp, optax
import jaxae

x = jax.random.normal(jax.random.key(1), (32, 6))
atoms = jax.random.normal(jax.random.key(2), (8, 6))
start = {"atoms": atoms, "encoder": atoms.T, "threshold": jnp.full(8, 0.1)}

def loss(params, key, x):
    pre, filters = x @ params["encoder"], params["atoms"]
    code = jaxae.batch_top_k(pre, k=2)
    jumped = jaxae.jump_relu(pre, params["threshold"], bandwidth=0.5)
    values = jaxae.matryoshka_loss(code, filters, x, prefixes=(2, 8))
    values = values + jaxae.tanh_l0_penalty(jumped, filters)
    values = values + jaxae.step_l0_penalty(pre, params["threshold"], bandwidth=0.5)
    values = values + jaxae.gated_auxiliary_loss(pre, lambda z: z @ filters, x)
    return values + jaxae.squared_error(jaxae.gated_relu(pre, pre) @ filters, x)

def trained(mesh):
    run = jaxae.make_run(loss, optax.sgd(1e-3), batch_size=16, mesh=mesh)
    state = jaxae.create_train_state(jax.tree.map(jnp.array, start), optax.sgd(1e-3))
    return jaxae.fit(run, state, jax.random.key(0), x, epochs=2).params

one, two = trained(None), trained(jaxae.data_mesh(devices=2))
print(max(float(abs(jax.device_get(one[name]) - jax.device_get(two[name])).max()) for name in one))
"""


@pytest.mark.thorough
def test_a_batch_over_two_devices_gives_the_parameters_of_one():
    assert run_on_devices(2, ON_TWO_DEVICES) < 1e-5
