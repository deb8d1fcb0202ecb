"""The benchmark beside SAELens: what both sides train, and that it notices if they differ."""

import json

import jax
import numpy as np
import pytest
from jax_settings import without_kept_programs

from experiments.benchmarks import dictionaries_in_jaxae, in_saelens, saelens
from experiments.benchmarks.dictionary_task import METHODS, QUICK, Task, initial_weights
from experiments.common.run import command_line

SIZE = QUICK._replace(steps=200, held_out=500)


@pytest.fixture(scope="module")
def task():
    """Sums of few known atoms, without the library that draws those of the benchmark."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(SIZE.atoms, SIZE.inputs)) / np.sqrt(SIZE.inputs)
    count = SIZE.steps * SIZE.batch
    is_active = rng.uniform(size=(count + SIZE.held_out, SIZE.atoms)) < 0.05
    strengths = is_active * rng.normal(5, 0.5, is_active.shape)
    x, strengths = (strengths @ atoms).astype(np.float32), strengths.astype(np.float32)
    atoms = atoms.astype(np.float32)
    return Task(SIZE, atoms, x[:count], x[count:], strengths[count:], initial_weights(SIZE, 0))


def test_a_dictionary_is_trained_written_and_measured(task, tmp_path):
    train = dictionaries_in_jaxae.Training(METHODS["Matryoshka"], SIZE)
    with jax.numpy_dtype_promotion("standard"):  # Adam needs it
        assert train(task, tmp_path / "one") > 0
    found = dictionaries_in_jaxae.measure(tmp_path / "one", task)
    assert found["explained_variance"] > 0.1
    assert 1 < found["active_units"] < SIZE.units / 2  # the threshold rises from 0
    settings = json.loads((tmp_path / "one" / "cfg.json").read_text(encoding="utf-8"))
    assert settings["architecture"] == "jumprelu"


@pytest.mark.skipif(in_saelens.is_installed(), reason="SAELens is installed")
def test_without_saelens_it_says_what_is_missing(capsys, tmp_path):
    arguments = ["--out", str(tmp_path)]
    assert command_line.run(saelens.main, saelens.Config, arguments) == 2
    assert "pip install sae-lens" in capsys.readouterr().err


@pytest.fixture
def with_saelens():
    """SAELens, imported here, where its warnings are no errors, or the test is skipped."""
    pytest.importorskip("sae_lens", reason="SAELens is not installed")


@pytest.mark.usefixtures("with_saelens")
@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_those_of_saelens(name, task):
    apart = saelens.require_the_same_loss(name, task)
    assert apart.keys() >= {"loss", "W_enc", "W_dec", "b_enc", "b_dec"}


@pytest.mark.usefixtures("with_saelens")
def test_another_loss_is_noticed(task, monkeypatch):
    monkeypatch.setattr(dictionaries_in_jaxae, "BANDWIDTH", 0.9)
    with pytest.raises(RuntimeError, match="JumpReLU is not the same function"):
        saelens.require_the_same_loss("JumpReLU", task)


@pytest.mark.usefixtures("with_saelens")
@pytest.mark.thorough
def test_a_quick_run_writes_a_whole_file(tmp_path):
    arguments = ["--quick", "--num-seeds", "1", "--methods", "BatchTopK"]
    arguments += ["--out", str(tmp_path)]
    with without_kept_programs(), jax.numpy_dtype_promotion("standard"):
        assert command_line.run(saelens.main, saelens.Config, arguments) == 0
    (path,) = tmp_path.glob("saelens-*.json")
    found = json.loads(path.read_text(encoding="utf-8"))["methods"]["BatchTopK"]
    assert set(found["sides"]) == {"jaxae", "SAELens"}
    assert found["times_as_fast"]["median"] > 0
