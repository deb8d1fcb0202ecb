"""The convolutional experiment: its measures by hand, its verdicts, one run end to end."""

import copy
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from experiments import convolutional
from experiments.common.plots import style
from experiments.common.results.over_seeds import over_seeds
from experiments.common.run import command_line
from experiments.convolutional import contraction, cost, denoised, networks


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """One run of very few steps on a user's own few images; returns (folder, metrics)."""
    folder = tmp_path_factory.mktemp("convolutional")
    out, images = folder / "out", folder / "images.npy"
    np.save(images, np.random.default_rng(0).random((25, 6, 6), np.float32))
    args = ["--dataset", str(images), "--epochs", "1", "--batch-size", "10", "--code-dim", "3"]
    args += ["--channels", "2", "--weights", "1", "--num-seeds", "2", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setitem(style.STYLE, "savefig.dpi", 30)
        assert command_line.run(convolutional.main, convolutional.Config, args) == 0
    return out, json.loads((out / "metrics.json").read_text())


def test_sensitivity_is_a_ratio_that_no_scale_changes():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2, 3, 1)), jnp.float32)
    for scale in (1.0, 7.0):  # of the identity: every step moves the code like the way to another
        found = networks.sensitivity(lambda v, s=scale: s * v.reshape(-1), x, 6 * scale**2)
        np.testing.assert_allclose(found, 1.0, rtol=1e-5)
    # One pixel of six as the code: a sixth of a step's square, and its share of the variance.
    variances = np.asarray(x).reshape(40, 6).var(axis=0)
    found = networks.sensitivity(lambda v: v[0, 0], x, 1.0)
    np.testing.assert_allclose(found, np.sqrt(variances.sum() / variances[0] / 6), rtol=1e-5)


def test_full_jacobians_of_a_dense_encoder_cost_what_their_passes_cost():
    """Forward mode takes a pass for each of 36 pixels, reverse for each of 3, an estimate one."""
    functions = jaxae.as_functions(jaxae.DenseAutoencoder((6, 6, 1), 3, code_activation=nn.sigmoid))
    params = functions.init(jax.random.key(0))

    def bound(params):
        return tuple(lambda v, f=f: f(params, v) for f in (functions.encode, functions.decode))

    found = cost.count_ratios(bound, params, jnp.ones((4, 6, 6, 1)))
    assert 1 <= found["jaxae's choice"] < found["full Jacobian, reverse"]
    assert found[cost.ESTIMATE] < found["full Jacobian, reverse"] < found["full Jacobian, forward"]


def test_a_run_leaves_every_file(tiny_run):
    out, metrics = tiny_run
    figures = {"denoised", "cost", "contraction"}
    assert {f"{name}.png" for name in figures} <= {path.name for path in out.iterdir()}
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert (settings["channels"], settings["weights"], settings["num_seeds"]) == ([2], [1.0], 2)
    assert len((out / "log.jsonl").read_text().splitlines()) == 2 * 4
    # 36 pixels, 3 numbers: two matrices with their biases, and one stage of 3 x 3 kernels
    counts = {name: row["parameters"] for name, row in metrics["denoising"].items()}
    assert counts["dense"] == 2 * 36 * 3 + 3 + 36
    assert counts["convolutional"] == (9 * 2 + 2) + (18 * 3 + 3) + (3 * 18 + 18) + (9 * 2 + 1)
    made = convolutional.claims(metrics)
    assert {claim.figure.removesuffix(".png") for claim in made} == figures
    for one in (one for claim in made for one in claim.numbers.values()):
        assert len(one["values"]) in (1, 2), "counted operations do not depend on the seed"


def number(*values):
    return over_seeds(values, "unit")


def made_up(metrics):
    """Returns metrics of a run that shows all the effects."""
    metrics = copy.deepcopy(metrics)
    for name, value in (("dense", 0.2), ("convolutional", 0.1)):
        metrics["denoising"][name]["noisy_mse"] = number(value, value)
    metrics["cost"] = {
        name: dict.fromkeys(cost.METHODS, number(1.5)) for name in ("dense", "convolutional")
    }
    for rank, row in enumerate([metrics["plain"], *metrics["contractive"]]):
        row |= {"jacobian_norm": number(9 - rank, 9 - rank)}
        row |= {"sensitivity": number(0.9 - rank / 10, 0.9 - rank / 10)}
    return metrics


def test_claims_hold_where_every_effect_is_there(tiny_run):
    made = convolutional.claims(made_up(tiny_run[1]))
    assert [claim.verdict for claim in made] == ["reproduced"] * 3


EXACT_IS_DEAR = dict.fromkeys(cost.EXACT, number(3.0)) | {cost.ESTIMATE: number(1.5)}


@pytest.mark.parametrize(
    ("part", "where", "changes", "expected"),
    [
        (denoised, ["denoising", "dense"], {"noisy_mse": number(0.2, 0.09)}, "not reproduced"),
        (denoised, ["denoising", "convolutional"], {"parameters": 10**6}, "not reproduced"),
        (cost, ["cost"], {"dense": dict.fromkeys(cost.METHODS, number(3.0))}, "not reproduced"),
        (cost, ["cost"], {"convolutional": EXACT_IS_DEAR}, "corrected"),
        (contraction, ["plain"], {"jacobian_norm": number(9, 1)}, "not reproduced"),
        (contraction, ["plain"], {"sensitivity": number(0.9, 0.1)}, "corrected"),
    ],
)
def test_each_verdict_follows_its_numbers(part, where, changes, expected, tiny_run):
    metrics = made_up(tiny_run[1])
    changed = metrics
    for name in where:
        changed = changed[name]
    changed |= changes
    assert part.claims(metrics)[0].verdict == expected


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--weights"], "--weights must be values that rise"),
        (["--weights", "1", "0.3"], "--weights must be values that rise"),
        (["--weights", "0", "1"], "--weights must be a finite number above 0"),
        (["--channels"], "--channels must be 1 to 8 values"),
        (["--channels", "4", "0"], "--channels must be at least 1"),
        (["--noise", "nan"], "--noise must be a finite number above 0"),
        (["--code-dim", "0"], "--code-dim must be at least 1"),
    ],
)
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    given = ["--dataset", "digits", "--out", str(tmp_path / "new"), *args]
    assert command_line.run(convolutional.main, convolutional.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not any(tmp_path.iterdir())
