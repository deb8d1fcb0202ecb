"""What an overcomplete autoencoder copies: the measures, the verdicts, and a small run."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import overcomplete_copy as script
from experiments.common import command_line, data, records


def images(rows=200, shape=(2, 3, 1), seed=0):
    pixels = np.random.default_rng(seed).uniform(size=(rows, *shape)).astype(np.float32)
    return script.prepare(data.Dataset("x", pixels, pixels[:50], None, None), None)


def test_inputs_are_centred_and_have_one_scale():
    made = images()
    np.testing.assert_allclose(made.train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(made.train, axis=0).mean(), 1, rtol=1e-5)
    np.testing.assert_allclose(made.variances.sum(), 6, rtol=1e-5)  # d times 1
    assert (np.diff(made.variances) <= 0).all()
    np.testing.assert_allclose(made.rows(made.pictures(made.test)), made.test, atol=1e-5)


def test_span_leaves_out_constant_pixels():
    pixels = np.random.default_rng(0).uniform(size=(100, 1, 5, 1)).astype(np.float32)
    pixels[:, :, 2] = 0.5
    made = script.prepare(data.Dataset("x", pixels, pixels, None, None), None)
    assert made.in_span == 4
    projected = np.asarray(made.project(np.ones((1, 5))))
    np.testing.assert_allclose(projected, [[1, 1, 0, 1, 1]], atol=1e-5)


def test_block_means_by_hand():
    made = script.block_means(np.arange(10.0).reshape(1, 2, 5, 1), 2)
    assert made.reshape(-1).tolist() == [3.0, 5.0]  # (0+1+5+6)/4, (2+3+7+8)/4; the rest is cut


def test_other_inputs_are_the_test_images_rearranged(key):
    made = images()
    inputs = script.make_inputs(made, key)
    assert tuple(inputs) == script.INPUTS
    test, turned, permuted, noise = (made.pictures(rows) for rows in inputs.values())
    np.testing.assert_allclose(turned, test[:, ::-1, ::-1], atol=1e-5)
    flat = lambda x: np.sort(x.reshape(len(x), -1), axis=1)
    np.testing.assert_allclose(flat(permuted), flat(test), atol=1e-5)
    assert not np.allclose(permuted, test)
    np.testing.assert_allclose(np.var(inputs["white noise"]), 1, rtol=0.2)
    assert noise.shape == test.shape


def test_noise_beyond_the_span_is_orthogonal_to_it(key):
    pixels = np.random.default_rng(0).uniform(size=(100, 1, 5, 1)).astype(np.float32)
    pixels[:, :, 2] = 0.5
    made = script.prepare(data.Dataset("x", pixels, pixels, None, None), None)
    noise, beyond = script.make_noise(made, key, stddev=2.0)
    np.testing.assert_allclose(noise[:, 2], 0, atol=1e-5)
    np.testing.assert_allclose(np.var(noise[:, 0]), 4, rtol=0.5)
    np.testing.assert_allclose(np.delete(beyond, 2, axis=1), 0, atol=1e-5)


def test_measures_of_a_map_that_halves(key):
    halve = lambda x_i: 0.5 * x_i
    x, noise = jax.random.normal(key, (2, 30, 4))
    np.testing.assert_allclose(script.relative_error(halve, x), 0.25, rtol=1e-5)
    ratios = script.noise_ratios(halve, x, noise)
    np.testing.assert_allclose(ratios["noise_passed"], 0.25, rtol=1e-5)
    left = jnp.sum((noise - x) ** 2) / 4 / jnp.sum(noise**2)  # 0.5 (x + n) - x
    np.testing.assert_allclose(ratios["noise_left"], left, rtol=1e-4)
    np.testing.assert_allclose(script.gains(halve, x, jnp.eye(4)), 0.5, rtol=1e-6)


def test_copy_has_no_error_and_leaves_all_noise(key):
    x, noise = jax.random.normal(key, (2, 30, 4))
    identity = lambda x_i: x_i
    assert float(script.relative_error(identity, x)) == 0
    for ratio in script.noise_ratios(identity, x, noise).values():
        np.testing.assert_allclose(ratio, 1, rtol=1e-5)


def test_exact_gains():
    # l / (l + s^2), and max(0, 1 - lambda / 2l): science of the linear DAE and the tied CAE
    config = script.Config(noise_stddev=0.5, contraction_weight=0.25)
    exact = script.exact_gains(np.array([1.0, 0.25, 0.1, 0.0]), config)
    np.testing.assert_allclose(exact["DAE"], [0.8, 0.5, 0.1 / 0.35, 0.0], atol=1e-12)
    np.testing.assert_allclose(exact["CAE"], [0.875, 0.5, 0.0, 0.0])


def test_largest_angle_by_hand():
    a = np.array([[1.0, 0], [0, 1], [0, 0]])
    b = np.array([[1.0, 0], [0, np.cos(0.3)], [0, np.sin(0.3)]])
    np.testing.assert_allclose(script.largest_angle(a, b @ [[1, 2], [0, 3.0]]), np.degrees(0.3))
    assert script.largest_angle(a, a[:, ::-1]) == 0


def hand_made():
    number = lambda *values: records.over_seeds(values, "")

    def row(test, noise, left, passed):
        errors = dict.fromkeys(script.INPUTS, number(noise, noise))
        errors["test images"] = number(test, test)
        return {
            "relative_error": errors,
            "noise_left": number(left, left),
            "noise_passed": number(passed, passed),
            "error_beyond_span": number(0.7, 0.8),
            "active_share": number(0.5, 0.5),
        }

    methods = {"AE": row(1e-5, 1e-4, 1.0, 1.0), "sparse": row(0.01, 0.1, 0.8, 0.8)}
    methods |= {"DAE": row(0.03, 0.4, 0.4, 0.3), "CAE": row(0.03, 0.4, 0.5, 0.4)}
    return {
        "networks": {"linear": methods, "relu": copy.deepcopy(methods)},
        "code_dim": 8,
        "num_features": 4,
        "best_linear": {"noise_left": number(0.5, 0.5), "noise_passed": number(0.4, 0.4)},
        "closed_form_gap": {"DAE": number(0.01, 0.01), "CAE": number(0.01, 0.02)},
        "pca": {
            "code_dim": 2,
            "largest_angle": number(0.1, 0.2),
            "excess_loss": number(1e-6, 1e-6),
        },
    }


def verdicts(metrics):
    return [claim.verdict for claim in script.claims(metrics)]


def test_verdicts():
    metrics = hand_made()
    assert verdicts(metrics) == ["reproduced"] * 4
    metrics["networks"]["linear"]["AE"]["relative_error"]["white noise"]["values"][1] = 0.02
    metrics["networks"]["relu"]["sparse"]["noise_passed"]["values"][0] = 1.1
    metrics["best_linear"]["noise_left"]["values"][0] = 0.3
    metrics["pca"]["largest_angle"]["values"][0] = 5.0
    assert verdicts(metrics) == ["not reproduced"] * 4


BAD = {
    "code too small": (["--code-dim", "63"], "--code-dim must be at least 64, the number of inp"),
    "no noise": (["--noise-stddev", "0"], "--noise-stddev must be a finite number above 0"),
    "pool": (["--pool", "9"], "--pool must be at most 8"),
    "no blocks": (["--pool", "0"], "--pool must be at least 1"),
}


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    given = ["--dataset", "digits", "--out", str(tmp_path / "new"), *args]
    assert command_line.run(script.main, script.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not any(tmp_path.iterdir())


def test_a_small_run_leaves_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PCA_STEPS", 100)
    args = ["--dataset", "digits", "--quick", "--pool", "2", "--batch-size", "50"]
    args += ["--out", str(tmp_path)]
    with jax.numpy_dtype_promotion("standard"):
        assert command_line.run(script.main, script.Config, args) == 0
    names = {path.name for path in tmp_path.iterdir()}
    figures = {"copying", "noise", "training", "gains", "reconstructions", "pca"}
    assert {f"{name}.png" for name in figures} | {"metrics.json", "config.json"} <= names
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    found = script.claims(metrics)
    assert {claim.figure for claim in found} <= names
    assert found[3].verdict == "reproduced"  # PCA needs no long training
    assert (metrics["num_features"], metrics["code_dim"]) == (16, 32)
    assert len(metrics["networks"]["relu"]["CAE"]["gains"]) == 16
    assert [row["epoch"] for row in metrics["training"]["linear"]] == [0, 1, 2]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2 * 2 * 4
