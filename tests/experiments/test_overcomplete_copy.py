"""What an overcomplete autoencoder copies: the measures, the verdicts, and a small run."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import overcomplete_copy as script
from experiments.common import plots
from experiments.common.data import datasets
from experiments.common.results.over_seeds import over_seeds
from experiments.common.run import command_line
from experiments.overcomplete_copy import inputs, networks, undercomplete


def pixels(constant=False):
    """Returns 4 x 4 pixels: the first three vary most, the last may be constant."""
    spread = np.array([1.0] * 3 + [0.3] * 12 + [0.0 if constant else 0.3], np.float32)
    uniform = np.random.default_rng(0).uniform(-0.5, 0.5, (300, 16)).astype(np.float32)
    return (0.5 + spread * uniform).reshape(-1, 4, 4, 1)


def images(constant=False):
    made = pixels(constant)
    return inputs.prepare(datasets.Dataset("x", made[:200], made[200:], None, None), None)


def probes_of(made, key):
    return inputs.make_probes(made, inputs.Keys(*jax.random.split(key, 4)), stddev=2.0)


def test_inputs_are_centred_and_have_one_scale():
    made = images()
    train = np.asarray(made.train)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.var(0).mean(), 1, rtol=1e-5)
    np.testing.assert_allclose(made.variances.sum(), 16, rtol=1e-5)  # d times 1
    assert (np.diff(made.variances) <= 0).all()
    np.testing.assert_allclose(made.rows(made.pictures(made.test)), made.test, atol=1e-5)


def test_span_leaves_out_constant_pixels():
    made = images(constant=True)
    assert made.in_span == 15
    (projected,) = np.asarray(made.project(np.ones((1, 16))))
    np.testing.assert_allclose(projected, [1.0] * 15 + [0.0], atol=1e-5)


def test_block_means_by_hand():
    made = inputs.block_means(np.arange(10.0).reshape(1, 2, 5, 1), 2)
    assert made.reshape(-1).tolist() == [3.0, 5.0]  # (0+1+5+6)/4, (2+3+7+8)/4; the rest is cut


def test_other_inputs_are_the_test_images_rearranged(key):
    made = images()
    found = probes_of(made, key).inputs
    assert tuple(found) == inputs.INPUTS
    test, turned, permuted, noise = (made.pictures(rows) for rows in found.values())
    np.testing.assert_allclose(turned, test[:, ::-1, ::-1], atol=1e-5)
    flat = lambda x: np.sort(x.reshape(len(x), -1), axis=1)
    np.testing.assert_allclose(flat(permuted), flat(test), atol=1e-5)
    assert not np.allclose(permuted, test)
    np.testing.assert_allclose(np.asarray(found["white noise"]).var(), 1, rtol=0.2)
    assert noise.shape == test.shape


def test_pictures_keep_their_order_inside_a_compiled_function(key):
    found = probes_of(images(), key)
    np.testing.assert_array_equal(jax.jit(lambda probes: probes.shown)(found), found.shown)


def test_noise_is_in_the_span_and_the_rest_beyond_it(key):
    found = probes_of(images(constant=True), key)
    noise, beyond = np.asarray(found.noise), np.asarray(found.beyond)
    np.testing.assert_allclose(noise[:, 15], 0, atol=1e-5)
    np.testing.assert_allclose(noise[:, :15].var(), 4, rtol=0.2)
    np.testing.assert_allclose(beyond[:, :15], 0, atol=1e-5)
    np.testing.assert_allclose(beyond[:, 15].var(), 1, rtol=0.5)


def test_the_activation_is_a_copy_or_a_relu():
    z = jnp.array([-2.0, 0.0, 3.0])
    for kind, expected in (("linear", z), ("relu", jnp.maximum(z, 0.0))):
        code = networks.activated(lambda x_i: x_i, networks.SLOPES[kind])
        np.testing.assert_array_equal(code(z), expected)


@jax.jit
def measured(factor, x, noise):
    scale = lambda x_i: factor * x_i
    ratios = networks.noise_ratios(scale, x, noise)
    return networks.relative_error(scale, x), ratios, networks.gains(scale, x, jnp.eye(4))


def test_measures_of_a_map_that_halves(key):
    x, noise = np.asarray(jax.random.normal(key, (2, 30, 4)))
    error, ratios, gains = measured(0.5, x, noise)
    np.testing.assert_allclose(error, 0.25, rtol=1e-5)
    np.testing.assert_allclose(ratios["noise_passed"], 0.25, rtol=1e-5)
    left = np.sum((noise - x) ** 2) / 4 / np.sum(noise**2)  # 0.5 (x + n) - x
    np.testing.assert_allclose(ratios["noise_left"], left, rtol=1e-4)
    np.testing.assert_allclose(gains, 0.5, rtol=1e-6)


def test_copy_has_no_error_and_leaves_all_noise(key):
    x, noise = np.asarray(jax.random.normal(key, (2, 30, 4)))
    error, ratios, _ = measured(1.0, x, noise)
    assert float(error) == 0
    for ratio in ratios.values():
        np.testing.assert_allclose(ratio, 1, rtol=1e-5)


def test_exact_gains():
    # l / (l + s^2), and max(0, 1 - lambda / 2l): science of the linear DAE and the tied CAE
    config = script.Config(noise_stddev=0.5, contraction_weight=0.25)
    variances = np.array([1.0, 0.25, 0.1, 0.0])
    exact = networks.exact_gains(variances, config.strengths())
    np.testing.assert_allclose(exact["DAE"], [0.8, 0.5, 0.1 / 0.35, 0.0], atol=1e-12)
    np.testing.assert_allclose(exact["CAE"], [0.875, 0.5, 0.0, 0.0])


def test_largest_angle_by_hand():
    a = np.array([[1.0, 0], [0, 1], [0, 0]])
    b = np.array([[1.0, 0], [0, np.cos(0.3)], [0, np.sin(0.3)]])
    np.testing.assert_allclose(
        undercomplete.largest_angle(a, b @ [[1, 2], [0, 3.0]]), np.degrees(0.3)
    )
    assert undercomplete.largest_angle(a, a[:, ::-1]) == 0


def hand_made():
    number = lambda *values: over_seeds(values, "")

    def row(test, noise, left, passed):
        errors = dict.fromkeys(inputs.INPUTS, number(noise, noise))
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
    # An L1 penalty that lets most of the noise through a linear code corrects the slide.
    assert verdicts(metrics) == ["reproduced", "corrected", "reproduced", "reproduced"]
    metrics["networks"]["linear"]["sparse"]["noise_passed"] = over_seeds([0.4, 0.4], "")
    assert verdicts(metrics) == ["reproduced"] * 4
    metrics["networks"]["linear"]["AE"]["relative_error"]["white noise"]["values"][1] = 0.02
    metrics["networks"]["relu"]["sparse"]["noise_passed"]["values"][0] = 1.1
    metrics["best_linear"]["noise_left"]["values"][0] = 0.3
    metrics["pca"]["largest_angle"]["values"][0] = 5.0
    assert verdicts(metrics) == ["not reproduced"] * 4


def test_findings_judge_no_gap_and_say_what_l1_does_on_a_linear_code():
    metrics = hand_made()
    metrics["closed_form_gap"]["CAE"] = over_seeds([0.5, 0.5], "")
    texts = [claim.finding + claim.alt for claim in script.claims(metrics)]
    assert not any("agree" in text for text in texts)
    assert "from its closed form is 0.0100 and 0.500." in texts[1]
    assert "The L1 penalty does little on a linear code" in texts[1]
    metrics["networks"]["linear"]["sparse"]["noise_passed"]["mean"] = 0.3
    assert "does little" not in script.claims(metrics)[1].finding


METHODS = ("AE", "sparse", "DAE", "CAE")
BAD = {
    "code too small": (["--code-dim", "15"], "--code-dim must be at least 16, the number of inp"),
    "no noise": (["--noise-stddev", "0"], "--noise-stddev must be a finite number above 0"),
    "pool": (["--pool", "5"], "--pool must be at most 4"),
    "no blocks": (["--pool", "0"], "--pool must be at least 1"),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    made = pixels()
    np.savez(path, x_train=made[:200], x_test=made[200:])
    return str(path)


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, stored, tmp_path, capsys):
    given = ["--dataset", stored, "--out", str(tmp_path / "new"), *args]
    assert command_line.run(script.main, script.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small_run(stored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small_run")
    args = ["--dataset", stored, "--quick", "--batch-size", "50", "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(undercomplete, "OPTIMIZER", optax.adam(0.03))  # L-BFGS compiles for long
        patch.setattr(inputs, "SHOWN", 1)
        patch.setitem(plots.style.STYLE, "savefig.dpi", 30)
        assert command_line.run(script.main, script.Config, args) == 0
    return folder, json.loads((folder / "metrics.json").read_text())


def test_a_small_run_leaves_every_file(small_run):
    folder, metrics = small_run
    names = {path.name for path in folder.iterdir()}
    figures = {"copying", "noise", "training", "gains", "reconstructions", "pca"}
    numbers = {"metrics.json", "config.json", "networks.safetensors"}
    assert {f"{name}.png" for name in figures} | numbers <= names
    assert {claim.figure for claim in script.claims(metrics)} <= names
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2 * 2 * 4


def test_a_small_run_measures_every_network(small_run):
    _, metrics = small_run
    assert script.claims(metrics)[3].verdict == "reproduced"  # PCA needs no long training
    assert (metrics["num_features"], metrics["code_dim"]) == (16, 32)
    rows = networks.by_name(metrics)
    assert list(rows) == [f"{kind} {name}" for kind in networks.SLOPES for name in METHODS]
    assert all(len(row["gains"]) == 16 for row in rows.values())
    assert rows["linear AE"]["active_share"]["mean"] == 1 > rows["relu AE"]["active_share"]["mean"]
    assert [row["epoch"] for row in metrics["training"]["linear"]] == [0, 1, 2]
