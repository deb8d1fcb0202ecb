"""Trained autoencoders: loaded from checkpoints, exported, and run without this library."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxae
from experiments import export
from experiments.common import checkpoints, command_line, trained
from experiments.common.errors import InputError

DENSE = jaxae.DenseAutoencoder((12,), 5, hidden_dims=(7,), output_activation=nn.sigmoid)
CONV = jaxae.ConvAutoencoder((8, 6, 1), 4, channels=(3,), code_activation=nn.sigmoid)
MODELS = {"dense": DENSE, "conv": CONV}
OTHER = jaxae.DenseAutoencoder((12,), 5, activation=jnp.sin)


def params_of(model, seed=0):
    """Returns weights with biases that are not 0."""
    params = jaxae.as_functions(model).init(jax.random.key(seed))
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


def save(folder, name, model, *, losses=(3.0,), seed=0):
    """Writes a checkpoint for each loss, after 1, 2, ... epochs; the weights are of that seed."""
    options = {"identity": {"experiment": "none"}, "environment": {}, "every": 1}
    store = checkpoints.Checkpoints(folder, is_resumed=True, say=pytest.fail, **options)
    view = store.of([name], trained.describe(model))
    for epoch in range(1, len(losses) + 1):
        params = jax.tree.map(np.asarray, params_of(model, seed + epoch))
        state = jaxae.TrainState(params, (), np.int32(epoch))
        view.save(0, jaxae.Snapshot(state, epoch, 0, np.array(losses[:epoch]), np.zeros(1)))
    assert store.close(is_over=True)
    return folder / name


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


def expected(model, seed=1):
    """Returns what the functions with these weights give for some examples."""
    _, encode, decode = jaxae.as_functions(model)
    params = params_of(model, seed)
    x = jax.random.uniform(jax.random.key(5), (7, *model.example_shape))
    codes = jax.vmap(lambda x_i: encode(params, x_i))(x)
    return x, codes, jax.vmap(lambda code: decode(params, code))(codes)


def check(autoencoder, model, seed=1):
    x, codes, x_hat = expected(model, seed)
    np.testing.assert_allclose(jax.vmap(autoencoder.encode)(x), codes, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(autoencoder.decode)(codes), x_hat, rtol=1e-5, atol=1e-6)


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
    loss = jaxae.contractive_loss(autoencoder.encode, autoencoder.decode, x, weight=0.1)
    assert loss.shape == (7,)


@pytest.mark.parametrize("name", MODELS)
def test_an_export_is_loaded_for_use(name, exported):
    autoencoder = trained.load(exported / name)
    check(autoencoder, MODELS[name])
    assert trained.describe(autoencoder.model) == trained.describe(MODELS[name])


def test_the_weights_are_those_of_the_model_by_name(exported):
    params = safetensors.flax.load_file(exported / "dense" / "model.safetensors")
    _, encode, _ = jaxae.as_functions(DENSE)
    x, codes, _ = expected(DENSE)
    found = jax.vmap(lambda x_i: encode(params, x_i))(x)
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
    (place / "000003" / "arrays" / "_METADATA").write_text("{}")
    check(trained.load(place), DENSE, seed=2)  # a damaged one is skipped


ACTIVATIONS = st.sampled_from([None, *trained._ACTIVATIONS.values()])


@settings(max_examples=40, deadline=None)
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
    with pytest.raises(InputError, match=r"experiments\.none puts together itself"):
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


@pytest.mark.parametrize("name", ["nothing", "empty", "file", "damaged", "other", "in the way"])
def test_bad_input_of_the_export(name, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    damaged = shutil.copytree(run / "checkpoints" / "dense", tmp_path / "damaged")
    (damaged / "000001" / "manifest.json").write_text("{}")
    save(tmp_path / "other" / "checkpoints", "m", OTHER)
    out = tmp_path / ("file" if name == "in the way" else "out")
    before = sorted(tmp_path.rglob("*"))
    path = run if name == "in the way" else tmp_path / name
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
    names = lambda path: sorted(checkpoints.models(Path(path)))
    assert names(run) == names(run / "checkpoints") == ["conv", "dense"]
    assert names(run / "checkpoints" / "conv") == ["conv"]
    assert names(run / "checkpoints" / "conv" / "000001") == ["conv"]
    assert names(tmp_path) == []
