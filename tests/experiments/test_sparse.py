"""Sparse autoencoders: the measures of units, the verdicts, and a small run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sparse as script
from experiments.common.results.over_seeds import over_seeds
from experiments.common.run import command_line
from experiments.common.training.arrays import unit_rows
from experiments.sparse import features, networks, shrinkage, units


def test_filters_have_unit_norm_unless_they_are_free():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    params = {"decoder_kernel_0": kernel, "decoder_bias_0": jnp.ones(3)}
    scaled = params | {"decoder_kernel_0": 7 * params["decoder_kernel_0"]}
    fixed, free = networks.Setting(0.0), networks.Setting(0.0, is_free=True)
    code = jnp.arange(5.0)
    by_hand = code @ unit_rows(params["decoder_kernel_0"]) + 1
    np.testing.assert_allclose(networks.add_filters(params, fixed, code), by_hand, rtol=1e-6)
    np.testing.assert_allclose(networks.add_filters(scaled, fixed, code), by_hand, rtol=1e-5)
    by_hand = code @ scaled["decoder_kernel_0"] + 1
    np.testing.assert_allclose(networks.add_filters(scaled, free, code), by_hand, rtol=1e-6)
    norms = jnp.linalg.norm(unit_rows(scaled["decoder_kernel_0"]), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_purity_by_hand():
    labels = np.repeat([0, 1, 2], 10)
    code = np.zeros((30, 3))
    code[:10, 0] = 1.0  # only class 0
    code[5:15, 1] = 1.0  # half class 0, half class 1
    code[:9, 2] = 1.0  # too few inputs: does not count
    np.testing.assert_allclose(units.purity(code, labels), (1.0 + 0.5) / 2)
    assert np.isnan(units.purity(np.zeros((30, 2)), labels))
    any_labels = np.array([-1, 9 * 10**9, 5])[labels]  # no array may be as long as the largest
    assert units.purity(code, any_labels) == units.purity(code, labels)


def test_purity_of_chance_is_between_one_class_and_equal_shares(key):
    labels = np.tile(np.arange(10), 40)
    assert 0.2 < units.chance_purity(labels, key) < 0.35
    assert units.chance_purity(np.zeros(400, int), key) == 1.0


def test_nearest_cosine_by_hand():
    filters = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0]])
    np.testing.assert_allclose(units.nearest_cosine(filters), np.sqrt(0.5))
    assert np.isnan(units.nearest_cosine(filters[:1]))


def test_correlation_by_hand():
    a = np.array([1.0, -1.0, 1.0, -1.0])
    b = np.array([1.0, 1.0, -1.0, -1.0])
    code = np.stack([a, b, -2 * a], 1) + 5
    np.testing.assert_allclose(units.correlation(code), 1 / 3)  # one pair of three at 1
    assert np.isnan(units.correlation(code[:, :1]))


def test_units_by_use_are_all_units_if_none_is_active():
    code = np.array([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    assert features.by_use(code).tolist() == [1, 2]
    assert len(features.by_use(np.zeros((2, 3)))) == 3


def test_soft_threshold_is_the_optimum_of_an_orthonormal_decoder():
    # min over z of (t - z)^2 + lambda |z|: on a fine grid
    weight, grid = 0.6, np.linspace(-3, 3, 60_001)
    for t in (-2.0, -0.25, 0.0, 0.1, 0.35, 1.7):
        best = grid[np.argmin((t - grid) ** 2 + weight * np.abs(grid))]
        found = float(shrinkage.soft_threshold(jnp.asarray(t), weight / 2))
        np.testing.assert_allclose(found, best, atol=1e-4)


def row(weight, **changes):
    values = {
        "test_mse": 0.01,
        "active_units": 10.0,
        "dead_share": 0.1,
        "mean_activation": 0.1,
        "residual_along_filters": 0.0,
        "effective_weight": 0.0,
        "filter_norm": 1.0,
        "purity": 0.7,
        "nearest_cosine": 0.5,
        "correlation": 0.1,
    } | changes
    numbers = {name: over_seeds([v, v], "") for name, v in values.items()}
    return {"weight": weight} | numbers


def hand_made():
    plain = {"active_units": 100.0, "purity": 0.5, "correlation": 0.2, "nearest_cosine": 0.6}
    at = {"residual_along_filters": 0.1, "effective_weight": 0.2}
    return {
        "code_dim": 128,
        "chosen": 1,
        "methods": {
            "L1": [row(0.0, **plain), row(0.2, active_units=30.0, **at), row(0.4)],
            "L1, free filters": [row(0.2, effective_weight=0.1, filter_norm=2.0)],
            "KL": [row(0.01, mean_activation=0.3), row(0.1, mean_activation=0.11), row(1.0)],
            "top 4": [row(None)],
        },
        "orthonormal": {"weight": 0.2, "code_error": over_seeds([0.01, 0.02], "")},
        "chance_purity": over_seeds([0.27, 0.28], ""),
    }


def verdicts(metrics):
    return [claim.verdict for claim in script.claims(metrics)]


def without_labels(metrics):
    del metrics["chance_purity"]
    for rows in metrics["methods"].values():
        for one in rows:
            del one["purity"]
    return metrics


def test_verdicts():
    good = ["reproduced", "corrected", "reproduced", "reproduced", "reproduced"]
    assert verdicts(hand_made()) == good
    metrics = hand_made()
    metrics["methods"]["L1"][0]["nearest_cosine"]["values"] = [0.4, 0.4]
    metrics["methods"]["KL"][1]["mean_activation"]["values"] = [0.15, 0.15]
    assert verdicts(metrics)[2:4] == ["corrected", "corrected"]
    metrics["methods"]["L1"][2]["active_units"]["values"][1] = 50.0
    metrics["methods"]["L1, free filters"][0]["filter_norm"]["values"][0] = 1.0
    metrics["methods"]["L1"][0]["purity"]["values"][0] = 0.8
    metrics["methods"]["KL"][2]["mean_activation"]["values"][0] = 0.2
    metrics["orthonormal"]["code_error"]["values"][1] = 0.2
    assert verdicts(metrics) == ["not reproduced"] * 5


def test_without_labels_nothing_is_said_about_classes():
    claim = script.claims(without_labels(hand_made()))[2]
    assert claim.verdict == "reproduced"
    assert "no labels" in claim.finding
    assert not any("purity" in label for label in claim.numbers)


def test_a_number_that_does_not_exist_reproduces_nothing():
    metrics = hand_made()
    metrics["methods"]["L1"][1]["purity"]["values"] = [None, None]
    metrics["orthonormal"]["code_error"]["values"] = [None, 0.01]
    assert verdicts(metrics)[2::2] == ["not reproduced"] * 2


BAD = {
    "not from 0": (["--sparsity-weights", "0.1", "0.2"], "--sparsity-weights must start with 0"),
    "falling": (["--sparsity-weights", "0", "0.2", "0.1"], "--sparsity-weights must start with 0"),
    "only 0": (["--sparsity-weights", "0"], "--sparsity-weights must start with 0"),
    "too many kept": (["--top-k", "129"], "--top-k must be at most 128"),
    "none kept": (["--top-k", "0"], "--top-k must be at least 1"),
    "no top k": (["--top-k"], "--top-k must name at least one value"),
    "one unit": (["--code-dim", "1"], "--code-dim must be at least 2"),
}


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8), np.float32))
    given = ["--dataset", str(tmp_path / "x.npy"), "--out", str(tmp_path / "new"), *args]
    assert command_line.run(script.main, script.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.fixture(scope="module")
def unlabelled_run(tmp_path_factory):
    """One tiny run on images without labels; returns its folder."""
    folder = tmp_path_factory.mktemp("run")
    images = np.random.default_rng(0).uniform(size=(1000, 4, 4)).astype(np.float32)
    np.save(folder / "x.npy", images)
    args = ["--dataset", str(folder / "x.npy"), "--batch-size", "400", "--code-dim", "4"]
    args += ["--epochs", "2", "--num-seeds", "1", "--top-k", "2"]
    args += ["--sparsity-weights", "0", "0.1", "0.4", "--out", str(folder / "out")]
    with jax.numpy_dtype_promotion("standard"):
        assert command_line.run(script.main, script.Config, args) == 0
    return folder / "out"


def test_a_run_leaves_every_file(unlabelled_run):
    names = {path.name for path in unlabelled_run.iterdir()}
    figures = {"path", "shrinkage", "filter_norms", "activations", "filters_ae", "filters_sparse"}
    figures |= {"top_inputs_ae", "top_inputs_sparse"}
    files = {"metrics.json", "config.json", "log.jsonl", ".files.json", "networks.safetensors"}
    assert names == {f"{name}.png" for name in figures} | files
    assert len((unlabelled_run / "log.jsonl").read_text().splitlines()) == 2 * (3 + 2 + 3 + 1)


def test_a_run_without_labels_has_all_other_numbers(unlabelled_run):
    metrics = json.loads((unlabelled_run / "metrics.json").read_text())
    found = script.claims(metrics)
    assert len(found) == 5
    assert {claim.figure for claim in found} <= {path.name for path in unlabelled_run.iterdir()}
    methods = metrics["methods"]
    assert "chance_purity" not in metrics
    assert set(methods["L1"][0]) == {"weight", *units.UNITS} - {"purity"}
    assert methods["top 2"][0]["active_units"]["mean"] <= 2
    assert [row["weight"] for row in methods["L1, free filters"]] == [0.1, 0.4]
    np.testing.assert_allclose(methods["KL"][1]["weight"], 2 * 16 * 0.001)  # the lecture's
    assert metrics["orthonormal"]["code_error"]["mean"] < 0.1  # trained to convergence
