"""Trained autoencoders: loaded from checkpoints, exported, and run without this library."""

import ast
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from saved_checkpoints import params_of, save

import jaxae
from experiments import export
from experiments.common.errors import InputError
from experiments.common.results import checkpoint_store, trained
from experiments.common.run import command_line
from experiments.dictionary import networks as dictionaries
from experiments.dictionary import synthetic_truth, truth_networks
from experiments.feature_learning import methods
from experiments.overcomplete_copy import networks as copying
from experiments.sampling import conditional
from experiments.sparse import networks as sparse

DENSE = jaxae.DenseAutoencoder((12,), 5, hidden_dims=(7,), output_activation=nn.sigmoid)
CONV = jaxae.ConvAutoencoder((8, 6, 1), 4, channels=(3,), code_activation=nn.sigmoid)
MODELS = {"dense": DENSE, "conv": CONV}
OTHER = jaxae.DenseAutoencoder((12,), 5, activation=jnp.sin)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The checkpoints of a run with both models."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for name, model in MODELS.items():
        save(folder, name, model)
    return folder.parent


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert command_line.run(export.main, export.Config, [str(run), "--out", str(out)]) == 0
    return out


def codes_and_outputs(encode, decode, x):
    """Returns the code of every example and what it is decoded to."""

    @jax.jit
    def run(x):
        codes = jax.vmap(encode)(x)
        return codes, jax.vmap(decode)(codes)

    return run(x)


def expected(model, seed=1):
    """Returns what the functions with these weights give for some examples."""
    _, encode, decode = jaxae.as_functions(model)
    params = params_of(model, seed)
    x = np.random.default_rng(5).uniform(size=(7, *model.example_shape)).astype(np.float32)
    return x, *codes_and_outputs(partial(encode, params), partial(decode, params), x)


def check(autoencoder, model, seed=1):
    x, codes, x_hat = expected(model, seed)
    found = codes_and_outputs(autoencoder.encode, autoencoder.decode, x)
    np.testing.assert_allclose(found[0], codes, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], x_hat, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough(by_default=["dense"])
@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_is_loaded_for_use(name, run):
    autoencoder = trained.load(run / "checkpoints" / name)
    check(autoencoder, MODELS[name])
    assert autoencoder.model == MODELS[name]
    assert autoencoder.about["epoch"] == 1
    check(trained.load(str(run / "checkpoints" / name / "000001")), MODELS[name])


def test_what_is_loaded_goes_into_every_function_of_the_library(run):
    autoencoder = trained.load(run / "checkpoints" / "dense")
    x = expected(DENSE)[0]
    loss = partial(jaxae.contractive_loss, autoencoder.encode, autoencoder.decode, weight=0.1)
    assert jax.jit(loss)(x).shape == (7,)


@pytest.mark.parametrize("name", MODELS)
def test_an_export_is_loaded_for_use(name, exported):
    autoencoder = trained.load(exported / name)
    check(autoencoder, MODELS[name])
    assert trained.describe(autoencoder.model) == trained.describe(MODELS[name])


def test_the_weights_are_those_of_the_model_by_name(exported):
    params = safetensors.flax.load_file(exported / "dense" / "model.safetensors")
    _, encode, _ = jaxae.as_functions(DENSE)
    x, codes, _ = expected(DENSE)
    found = jax.jit(jax.vmap(partial(encode, params)))(x)
    np.testing.assert_allclose(found, codes, rtol=1e-5, atol=1e-6)


ALONE = """
import sys
for name in ("jaxae", "experiments", "flax", "optax"):
    sys.modules[name] = None  # an import of it fails
import jax, numpy as np
functions = [jax.export.deserialize(bytearray(open(f"{p}.jax", "rb").read())) for p in
             ("encoder", "decoder")]
x = np.load(sys.argv[1])
for batch in (x, x[:1]):
    codes = functions[0].call(batch)
    x_hat = functions[1].call(codes)
    assert len(codes) == len(x_hat) == len(batch)
    if len(batch) == len(x):
        np.savez(sys.argv[2], codes=codes, x_hat=x_hat)
print(sorted(functions[0].platforms))
"""


@pytest.mark.thorough(by_default=["dense"])
@pytest.mark.parametrize("name", MODELS)
def test_the_programs_run_without_this_library(name, exported, tmp_path):
    x, codes, x_hat = expected(MODELS[name])
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path / "x.npy"), str(tmp_path / "out")]
    found = subprocess.run(
        command, cwd=exported / name, capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "['cpu', 'cuda', 'tpu']"
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_allclose(arrays["codes"], codes, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(arrays["x_hat"], x_hat, rtol=1e-5, atol=1e-6)


def test_an_export_says_what_it_is_and_others_may_read_it(exported):
    about = json.loads((exported / "dense" / "model.json").read_text())
    assert about["identity"] == {"experiment": "none"}
    assert about["model"]["hidden_dims"] == [7]
    assert set(about["files"]) == {"model.safetensors", "encoder.jax", "decoder.jax"}
    mask = os.umask(0)
    os.umask(mask)
    for path in (exported / "dense", *(exported / "dense").iterdir()):
        assert path.stat().st_mode & 0o444 == 0o444 & ~mask


def test_the_newest_or_the_best(tmp_path):
    place = save(tmp_path, "m", DENSE, losses=(3.0, 1.0, 2.0))
    check(trained.load(place), DENSE, seed=3)
    assert trained.load(place).about["loss"] == 2.0
    check(trained.load(place, best=True), DENSE, seed=2)
    (place / "000003" / "arrays.safetensors").write_text("{}")
    check(trained.load(place), DENSE, seed=2)  # a damaged one is skipped


ACTIVATIONS = st.sampled_from([None, *trained._ACTIVATIONS.values()])


@examples(40)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    code_dim=st.integers(1, 30),
    hidden=st.lists(st.integers(1, 30), max_size=3),
    activations=st.tuples(ACTIVATIONS, ACTIVATIONS, ACTIVATIONS),
    tied=st.booleans(),
    dtype=st.sampled_from([jnp.float32, jnp.float16, np.float64]),
)
def test_a_model_is_its_description(shape, code_dim, hidden, activations, tied, dtype):
    names = ("activation", "code_activation", "output_activation")
    options = dict(zip(names, activations, strict=True)) | {"tied": tied, "param_dtype": dtype}
    model = jaxae.DenseAutoencoder(tuple(shape), code_dim, hidden_dims=tuple(hidden), **options)
    description = json.loads(json.dumps(trained.describe(model)))
    again = trained.build(description)
    assert trained.describe(again) == description
    for name in ("example_shape", "code_dim", "hidden_dims", "tied", *names):
        assert getattr(again, name) == getattr(model, name)


def test_a_network_of_ones_own_is_refused_in_one_line(tmp_path):
    assert trained.describe(OTHER) is None
    assert trained.describe(None) is None
    place = save(tmp_path, "m", OTHER)
    with pytest.raises(InputError, match=r"experiments\.none says not how its network is built"):
        trained.load(place)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "a flipped bit": lambda folder: flip(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no JSON": lambda folder: (folder / "model.json").write_text("{"),
    "a list": lambda folder: (folder / "model.json").write_text("[]"),
    "another class": lambda folder: edit(folder, {"class": "Path"}),
    "another shape": lambda folder: edit(folder, {"code_dim": 6}),
    "a word": lambda folder: edit(folder, {"code_dim": "6"}),
    "another activation": lambda folder: edit(folder, {"activation": "eval"}),
}


def edit(folder, change):
    about = json.loads((folder / "model.json").read_text())
    about["model"] |= change
    (folder / "model.json").write_text(json.dumps(about))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_export_is_refused_in_one_line(damage, exported, tmp_path):
    folder = shutil.copytree(exported / "dense", tmp_path / "dense")
    DAMAGES[damage](folder)
    with pytest.raises(InputError, match="is no exported model") as caught:
        trained.load(folder)
    assert "\n" not in str(caught.value)


BAD_PATHS = ["nothing", "empty", "file", "damaged", "other", "n" * 300]


@pytest.mark.parametrize("name", [*BAD_PATHS, "in the way", "x" * 300])
def test_bad_input_of_the_export(name, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    damaged = shutil.copytree(run / "checkpoints" / "dense", tmp_path / "damaged")
    (damaged / "000001" / "manifest.json").write_text("{}")
    save(tmp_path / "other" / "checkpoints", "m", OTHER)
    out = tmp_path / ("out" if name in BAD_PATHS else "file" if name == "in the way" else name)
    before = sorted(tmp_path.rglob("*"))
    path = tmp_path / name if name in BAD_PATHS else run
    assert command_line.run(export.main, export.Config, [str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_never_takes_the_place_of_something_else(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    before = sorted(copy.rglob("*"))
    args = [str(copy), "--out", str(copy / "checkpoints")]
    assert command_line.run(export.main, export.Config, args) == 2
    assert "is there and no exported model" in capsys.readouterr().err
    assert sorted(copy.rglob("*")) == before
    args = [str(copy / "checkpoints" / "dense"), "--out", str(tmp_path / "out")]
    for _ in range(2):  # an earlier export is replaced
        assert command_line.run(export.main, export.Config, args) == 0
    check(trained.load(tmp_path / "out" / "dense"), DENSE)


def test_the_folder_of_a_run_a_model_and_a_checkpoint(run, tmp_path):
    names = lambda path: sorted(checkpoint_store.find_models(Path(path)))
    assert names(run) == names(run / "checkpoints") == ["conv", "dense"]
    assert names(run / "checkpoints" / "conv") == ["conv"]
    assert names(run / "checkpoints" / "conv" / "000001") == ["conv"]
    assert names(tmp_path) == []


# Networks that experiments put together themselves.

PLAN = sparse.Setup(
    shape=(12,),
    raw=(jnp.ones((4, 12)), jnp.ones((4, 12))),
    centred=(jnp.ones((4, 12)), jnp.ones((4, 12))),
    labels=None,
    code_dim=5,
    weights=(0.0, 0.1),
    top_k=(1, 3),
    learning_rate=0.1,
    batch_size=2,
    devices=1,
    epochs=1,
    seed=0,
    num_seeds=1,
)
SETTINGS = {
    "L1": sparse.Setting(0.1),
    "free": sparse.Setting(0.1, is_free=np.bool_(True)),
    "top-k": sparse.Setting(0.0, np.int32(2)),
}


def of_sparse(setting, family, monkeypatch):
    """Returns what is saved of a network of experiments.sparse, and its functions."""
    monkeypatch.setattr(sparse, "Family", lambda *args: args)
    _, encode, decode, *_, of_setting = family(PLAN)
    bound = lambda function, params: lambda v: function(params, setting, v)
    return of_setting(setting), lambda params: (bound(encode, params), bound(decode, params))


def of_dictionary(kind, setting):
    schedule = dictionaries.Schedule(5, 0.1, 2, 1, 1)
    family = dictionaries.Family(dictionaries.KINDS[kind], 12, (1, 3), schedule, 4)
    decode = lambda params, code: code @ params["atoms"] + params["decoder_bias"]
    value = jnp.float32(setting)
    functions = lambda p: (lambda x_i: family.code(p, value, x_i), lambda z: decode(p, z))
    return family.network(setting), functions


def of_truth_method(method):
    """Returns a dictionary of the synthetic truth, whose codes are written out here."""
    size = synthetic_truth.SMALL._replace(inputs=12, units=5)
    network = truth_networks.MethodTrainer(method, None, size, steps=10, devices=1).network(2)

    def functions(p):
        def encode(x_i):
            products = (x_i - p["decoder_bias"]) @ p["encoder"]
            pre = products * jnp.exp(p["log_scale"]) + p["encoder_bias"]
            threshold = {"JumpReLU": p["threshold"], "L1": 0}.get(method, p["batch_threshold"])
            kept = jax.lax.top_k(pre, 2)[0][-1] if method == "top-k" else threshold
            is_on = products + p["gate_bias"] > 0 if method == "gated" else pre >= kept
            return jnp.where(is_on, jax.nn.relu(pre), 0)

        return encode, lambda code: code @ p["atoms"] + p["decoder_bias"]

    return network, functions


def of_levels(network):
    kind, levels = conditional.POINTS, conditional.Levels(0.1, 1.0)
    options = {"learning_rate": 0.1, "steps": 1, "batch_size": 2, "epochs": 1}
    denoiser = conditional.Denoiser(network, kind, levels, **options)
    return denoiser.model, denoiser.bound


def of_copying():
    """Returns the model of a relu code, whose slope below 0 is a setting while it is trained."""
    images = SimpleNamespace(train=jnp.ones((4, 12)), axes=np.eye(12))
    trainer = copying.VariantTrainer(images, copying.CommonConfig(), {"epochs": 1, "code_dim": 5})

    def functions(params):
        encode, decode = trainer._plain.bound(params)
        return copying.activated(encode, copying.SLOPES["relu"]), decode

    return trainer._models["relu"], functions


def of_layer():
    """Returns the k-sparse layer of experiments.feature_learning."""
    keep = methods.activation("k-sparse", 2)
    model = jaxae.DenseAutoencoder((12,), 5, code_activation=keep, tied=True)
    bound = lambda params: [partial(f, params) for f in jaxae.as_functions(model)[1:]]
    return model, bound


OWN = {
    **{name: partial(of_sparse, setting, sparse.relu_family) for name, setting in SETTINGS.items()},
    "KL": partial(of_sparse, sparse.Setting(0.1), sparse.sigmoid_family),
    "dictionary, L1": lambda _: of_dictionary("L1, free atoms", 0.3),
    "dictionary, top-k": lambda _: of_dictionary("top-k", 1.0),
    **{
        f"truth, {name}": lambda _, name=name: of_truth_method(name)
        for name in truth_networks.LOOKS
    },
    "copying": lambda _: of_copying(),
    "feature learning": lambda _: of_layer(),
    "points": lambda _: of_levels(conditional.Scaled((5, 4), 12, 0.7)),
    "pixels": lambda _: of_levels(conditional.OfPixels((5,), 12, 0.7)),
}


@pytest.mark.parametrize("name", OWN)
def test_the_network_of_every_experiment_is_loaded(name, tmp_path, monkeypatch):
    model, bound = OWN[name](monkeypatch)
    loaded = trained.load(save(tmp_path, "m", model))
    description = json.loads(json.dumps(trained.describe(model)))
    assert trained.describe(loaded.model) == description
    encode, decode = bound(params_of(model, 1))
    level = (jnp.float32(0.5),) if name in ("points", "pixels") else ()

    @jax.jit
    def of_both(x_i):
        code = loaded.encode(x_i, *level)
        x_hat = loaded.decode(code, *level)
        return (code, x_hat), (encode(x_i, *level), decode(code, *level))

    found, known = of_both(np.random.default_rng(5).uniform(size=12).astype(np.float32))
    np.testing.assert_allclose(found[0], known[0], rtol=1e-5, atol=1e-6)
    assert np.asarray(found[0]).any()
    np.testing.assert_allclose(found[1], known[1], rtol=1e-5, atol=1e-6)


def test_a_network_of_an_experiment_is_exported_and_loaded_again(tmp_path, monkeypatch):
    model, _ = OWN["top-k"](monkeypatch)
    loaded = trained.load(save(tmp_path, "m", model))
    trained.export(loaded, tmp_path / "out")
    again = trained.load(tmp_path / "out")
    x_i = np.random.default_rng(5).uniform(size=12).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(again.encode)(x_i), jax.jit(loaded.encode)(x_i))
    assert again.model.takes == "pixels minus their mean over the training images"
    told, _ = OWN["points"](monkeypatch)
    with pytest.raises(InputError, match="told how strong the noise is"):
        trained.export(trained.load(save(tmp_path, "told", told)), tmp_path / "told-out")
    assert not (tmp_path / "told-out").exists()


@pytest.mark.parametrize("make", ["os:system", "experiments.export:main", "experiments.no:way", 3])
def test_a_file_names_no_function_but_those_that_make_networks(make):
    fields = {"arguments": {}, "example_shape": [1], "takes": "", "param_dtype": "float32"}
    with pytest.raises(ValueError, match="no model of this library"):
        trained.build({"class": "Network", "make": make, **fields})


def test_every_network_but_a_classifier_says_what_it_can_be_built_from():
    without = []
    folder = Path(trained.__file__).parents[2]
    for path in sorted(folder.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)) if ".checkpoints(" in source else ():
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr == "checkpoints" and len(node.args) < 2:
                without.append(path.name)
    assert sorted(without) == ["classifier_scores.py", "sweep.py"]  # both train classifiers
