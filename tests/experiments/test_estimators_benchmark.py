"""The benchmark of the estimators: it writes a whole file, with the accuracies of the folds."""

import json

import jax
import pytest

from experiments.benchmarks import estimators
from experiments.common.run import command_line


@pytest.fixture
def one_small_case(monkeypatch):
    """One table and, of the autoencoders, the one that compiles fastest."""
    make_all = estimators.contenders

    def make_some(*arguments):
        wanted = (estimators.NO_REDUCTION, "PCA", "SparseAutoencoder")
        return {name: step for name, step in make_all(*arguments).items() if name in wanted}

    monkeypatch.setattr(estimators, "contenders", make_some)
    monkeypatch.delitem(estimators.TABLES, "load_digits")
    monkeypatch.setattr(estimators, "FOLDS", 2)


@pytest.fixture
def programs_not_kept():
    """A benchmark refuses to measure where compiled programs are kept."""
    kept = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", kept)


def test_a_quick_run_writes_a_whole_file(one_small_case, programs_not_kept, tmp_path):
    arguments = ["--quick", "--num-seeds", "1", "--out", str(tmp_path)]
    assert command_line.run(estimators.main, estimators.Config, arguments) == 0
    (path,) = tmp_path.glob("estimators-*.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    assert (results["num_seeds"], results["folds"]) == (1, 2)
    accuracy = results["tables"]["load_breast_cancer"]["accuracy"]
    assert list(accuracy) == ["all features", "PCA", "SparseAutoencoder"]
    assert all(0.5 < number["mean"] < 1 for number in accuracy.values())


def test_every_contender_has_as_many_components():
    steps = estimators.contenders(5, 0, {"max_iter": 2})
    assert steps.pop(estimators.NO_REDUCTION) == "passthrough"
    assert {step.n_components for step in steps.values()} == {5}
    assert {step.random_state for step in steps.values()} == {0}


def test_bad_options(capsys):
    arguments = ["--num-seeds", "0"]
    assert command_line.run(estimators.main, estimators.Config, arguments) == 2
    assert "--num-seeds" in capsys.readouterr().err
