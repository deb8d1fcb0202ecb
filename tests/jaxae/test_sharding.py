"""One batch over several devices: eight virtual CPU devices in a process of their own.

The first process trains the same denoising autoencoder over 1, 2, 4 and 8 of them, and prints what
the tests below read. 100 examples in batches of 24 leave a last batch of 4, which 8 do not divide.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jaxae

ROOT = Path(__file__).parents[2]

PROGRAM = """
import functools, json
import jax, jax.numpy as jnp, numpy as np, optax
import jaxae

model = jaxae.DenseAutoencoder((12,), 5, output_activation=jax.nn.sigmoid)
init, encode, decode = jaxae.as_functions(model)
X = jax.random.uniform(jax.random.key(0), (100, 12))

def loss(params, key, x, level):
    corrupt = functools.partial(jaxae.uniform_noise, scale=level)
    bound = functools.partial(encode, params), functools.partial(decode, params)
    return jaxae.denoising_loss(key, *bound, x, corrupt=corrupt)

optimizer = optax.adam(1e-2)
start = lambda key: jaxae.create_train_state(init(key), optimizer)
key = jaxae.hash_key(jax.random.key(1))
found = {"curves": {}, "reductions": {}, "devices": {}}

@functools.cache
def make(devices):
    mesh = jaxae.data_mesh(devices=devices) if devices else None
    return jaxae.make_run(loss, optimizer, batch_size=24, mesh=mesh)

for devices in (0, 1, 2, 4, 8):
    curve = []
    run = make(devices)
    state = jaxae.fit(run, start(key), key, X, 0.3, epochs=15,
                      on_epoch=lambda epoch, loss: curve.append(loss))
    found["curves"][devices] = curve
    found["devices"][devices] = len(state.params["encoder_kernel_0"].devices())
    (program,) = run._compiled.values()
    found["reductions"][devices] = "all-reduce" in program.as_text()

class Kept:
    every, saved = 7, None
    def restore(self, model, like): return self.saved
    def save(self, model, snapshot):
        if snapshot.epoch == 7: self.saved = snapshot
    def should_stop(self): return False

kept, again = Kept(), []
whole = jaxae.fit(make(4), start(key), key, X, 0.3, epochs=15, checkpoints=kept)
part = jaxae.fit(make(4), start(key), key, X, 0.3, epochs=15, checkpoints=kept)
same = lambda a, b: all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (a, b))))
found["resumed on as many"] = same(whole, part)
jaxae.fit(make(2), start(key), key, X, 0.3, epochs=15, checkpoints=kept,
          on_epoch=lambda epoch, loss: again.append(loss))
found["resumed on fewer"] = again

keys = jax.vmap(jaxae.hash_key)(jax.random.split(jax.random.key(2), 3))
levels = jnp.array([0.1, 0.3, 0.5])
states = jax.vmap(start)(keys)
for method in ("threads", "vmap"):
    one, four = (jaxae.fit_many(make(n), states, keys, X, levels, epochs=4, method=method)
                 for n in (1, 4))
    gaps = [np.abs(np.asarray(a) - np.asarray(b)).max()
            for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params))]
    found[method] = float(max(gaps))
def tree_loss(params, key, batch, level):
    values = loss(params, key, batch["x"], level) * batch["weight"]
    return values, {"label": batch["label"]}

tree = {"x": X, "weight": jnp.linspace(0.5, 1.5, 100), "label": jnp.arange(100)}
found["tree"] = []
for data, mesh in ((tree, None), (jaxae.Streamed(tree), jaxae.data_mesh(devices=4))):
    run = jaxae.make_run(tree_loss, optimizer, batch_size=24, mesh=mesh)
    jaxae.fit(run, start(key), key, data, 0.3, epochs=2,
              on_epoch=lambda epoch, loss, aux: found["tree"].append((loss, aux["label"])))
explicit = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
try:
    divided = jax.device_put(X, jax.NamedSharding(explicit, jax.P("data")))
    jaxae.fit(make(0), start(key), key, divided, 0.3, epochs=1)
except ValueError as error:
    found["explicit"] = str(error)
print(json.dumps(found))
"""


IN_SHARD_MAP = """
import functools, json
import jax, jax.numpy as jnp
import jaxae

P = jax.sharding.PartitionSpec
weights = jax.random.normal(jax.random.key(3), (2, 5, 5))
ENCODERS = {
    "one layer": lambda w, v: jax.nn.sigmoid(w[0] @ v),
    "two layers": lambda w, v: jnp.tanh(w[1] @ jnp.tanh(w[0] @ v)),
    "relu": lambda w, v: jax.nn.relu(w[0] @ v),
    "no chain": lambda w, v: jnp.tanh(w[0] @ v) * v,
}
rows = jax.random.uniform(jax.random.key(0), (8, 5))
around = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
found = {}

def gaps(name, encode, method):
    def penalty(w, x):
        bound = functools.partial(encode, w)
        return jaxae.contractive_penalty(bound, x, method=method, chunk_size=2)

    def mean(w, x):
        return jax.lax.pmean(penalty(w, x).mean(), "data")

    specs = {"mesh": around, "in_specs": (P(), P("data"))}
    inside = jax.shard_map(penalty, **specs, out_specs=P("data"))
    gradient = jax.shard_map(jax.grad(mean), **specs, out_specs=P())

    @jax.jit  # one program: operation by operation it takes half a minute
    def all_of(w, x):
        of_mean = jax.grad(lambda w: penalty(w, x).mean())(w)
        return (inside(w, x), penalty(w, x)), (gradient(w, x), of_mean)

    pairs = all_of(weights, rows)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs)

for name, encode in ENCODERS.items():
    found[name] = gaps(name, encode, "auto")
for method in ("jacfwd", "jacrev"):
    found[method] = gaps(method, ENCODERS["two layers"], method)
print(json.dumps(found))
"""


def run_on_eight_devices(program):
    """Returns what a program prints that runs on eight virtual devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def found():
    return run_on_eight_devices(PROGRAM)


@pytest.mark.parametrize("devices", ["1", "2", "4", "8"])
def test_the_loss_curve_does_not_depend_on_the_number_of_devices(devices, found):
    curve = found["curves"][devices]
    assert len(curve) == 15
    assert curve[-1] < 0.7 * curve[0]  # it learns
    np.testing.assert_allclose(curve, found["curves"]["0"], rtol=1e-5)


def test_the_batch_is_really_divided(found):
    assert found["devices"] == {"0": 1, "1": 1, "2": 2, "4": 4, "8": 8}
    assert found["reductions"] == {"0": False, "1": False, "2": True, "4": True, "8": True}


def test_a_run_over_several_devices_goes_on_to_its_own_bits_and_moves_to_fewer(found):
    assert found["resumed on as many"]
    np.testing.assert_allclose(found["resumed on fewer"], found["curves"]["0"], rtol=1e-5)


@pytest.mark.parametrize("method", ["threads", "vmap"])
def test_several_models_over_several_devices(method, found):
    assert found[method] < 1e-5


@pytest.mark.thorough
def test_penalties_inside_shard_map_are_those_outside():
    gaps = run_on_eight_devices(IN_SHARD_MAP)
    assert gaps.keys() == {"one layer", "two layers", "relu", "no chain", "jacfwd", "jacrev"}
    assert max(gaps.values()) < 1e-4, gaps


def test_data_on_an_explicit_mesh_are_refused_with_the_way_out(found):
    assert "make_run(mesh=jaxae.data_mesh())" in found["explicit"]


@pytest.mark.usefixtures("no_type_hook")
def test_a_batch_that_devices_cannot_share_is_refused():
    class Six:
        size, axis_names, axis_types = 6, ("data",), ()

    with pytest.raises(ValueError, match=r"batch_size must be a multiple of the 6 devices.*is 64"):
        jaxae.make_run(lambda *_: 0.0, optax.sgd(0.1), batch_size=64, mesh=Six())


def test_a_mesh_of_given_devices():
    mesh = jaxae.data_mesh(devices=jax.devices()[:1])
    assert mesh.axis_names == ("data",)
    assert mesh.size == 1
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)


def test_several_arrays_are_divided_alike(found):
    np.testing.assert_allclose(found["tree"][2:], found["tree"][:2], rtol=1e-5)
    np.testing.assert_allclose([label for _, label in found["tree"]], 49.5, rtol=1e-6)


def mesh_of_one(name="data", kind=jax.sharding.AxisType.Explicit):
    return jax.make_mesh((1,), (name,), axis_types=(kind,))


@pytest.mark.usefixtures("no_type_hook")
@pytest.mark.parametrize(
    ("mesh", "match"),
    [
        (mesh_of_one("batch", jax.sharding.AxisType.Auto), "must have an axis 'data'.*'batch'"),
        (mesh_of_one(), r"Auto axes only, as jaxae.data_mesh\(\) has.*Explicit"),
        (4, "mesh must be a jax.sharding.Mesh, but it is a int"),
    ],
)
def test_a_mesh_of_ones_own_is_refused_in_a_line(mesh, match):
    with pytest.raises((TypeError, ValueError), match=match) as caught:
        jaxae.make_run(lambda *_: 0.0, optax.sgd(0.1), batch_size=64, mesh=mesh)
    assert "\n" not in str(caught.value)


IDENTITY = lambda v, *_: v
NOISE = partial(jaxae.gaussian_noise, stddev=0.3)
KEY = jax.random.key(0)
ON_EXPLICIT_AXES = {
    "denoising_loss": lambda x: jaxae.denoising_loss(
        KEY, IDENTITY, IDENTITY, x, corrupt=NOISE, sample_code=lambda key, code: NOISE(key, code)
    ),
    "walkback_loss": lambda x: jaxae.walkback_loss(
        KEY, IDENTITY, IDENTITY, x, corrupt=NOISE, sample=lambda key, output: output, steps=2
    ),
    "noise_conditional_loss": lambda x: jaxae.noise_conditional_loss(
        KEY, IDENTITY, IDENTITY, x, low=0.1, high=1.0
    ),
    "corrupt_batch": lambda x: jaxae.corrupt_batch(KEY, NOISE, x),
    "markov_chain": lambda x: jaxae.markov_chain(KEY, NOISE, x, steps=2),
    "keep_top_k": lambda x: jaxae.keep_top_k(x, k=2),
    "gradient of keep_top_k": jax.grad(lambda x: (x * jaxae.keep_top_k(x, k=2)).sum()),
    "contraction_curve": lambda x: jaxae.contraction_curve(
        KEY, IDENTITY, x, radii=jax.numpy.array([0.1])
    ),
}


@pytest.mark.thorough(
    by_default=["corrupt_batch", "keep_top_k", "gradient of keep_top_k", "markov_chain"]
)
@pytest.mark.parametrize("name", ON_EXPLICIT_AXES)
def test_examples_that_are_divided_over_explicit_axes(name):
    x = jax.random.normal(jax.random.key(1), (4, 3))
    place = jax.sharding.NamedSharding(mesh_of_one(), jax.sharding.PartitionSpec("data"))
    function = jax.jit(ON_EXPLICIT_AXES[name])
    found = function(jax.device_put(x, place))
    np.testing.assert_allclose(found, function(x), rtol=1e-5)


@pytest.mark.parametrize("entry", ["fit", "evaluate", "make_epoch"])
def test_data_sets_that_are_divided_over_explicit_axes_are_refused(entry):
    place = jax.sharding.NamedSharding(mesh_of_one(), jax.sharding.PartitionSpec("data"))
    data = {"x": jax.device_put(jax.numpy.ones((4, 3)), place)}
    sgd = optax.sgd(0.1)
    loss = lambda params, key, x: params * x["x"].sum(-1)
    state = jaxae.create_train_state(jax.numpy.ones(()), sgd)
    calls = {
        "fit": lambda: jaxae.fit(
            jaxae.make_run(loss, sgd, batch_size=2), state, KEY, data, epochs=1
        ),
        "evaluate": lambda: jaxae.evaluate(lambda x: x["x"].sum(), data, batch_size=2),
        "make_epoch": lambda: jaxae.make_epoch(loss, sgd, batch_size=2)(state, KEY, 0, data),
    }
    with pytest.raises(
        ValueError, match=r"\['x'\] must not be divided over a mesh of explicit"
    ) as e:
        calls[entry]()
    assert "\n" not in str(e.value)
