"""The contractive experiment: its measures in closed form, its verdicts, one run end to end."""

import copy
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from experiments import contractive
from experiments.common.plots import style
from experiments.common.results.over_seeds import over_seeds
from experiments.common.run import command_line
from experiments.contractive import (
    curves,
    jacobians,
    networks,
    probes,
    residual,
    residual_networks,
    scale_collapse,
    spectrum,
    tangents,
    trade_off,
)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """One run of very few steps on a user's own few images; yields (folder, metrics)."""
    folder = tmp_path_factory.mktemp("contractive")
    out, images = folder / "out", folder / "images.npz"
    x = np.random.default_rng(0).random((120, 6, 6), np.float32)
    np.savez(images, x_train=x[:100], x_test=x[100:], y_train=np.arange(100), y_test=[0, 1] * 10)
    args = ["--dataset", str(images), "--epochs", "1", "--batch-size", "50", "--code-dim", "16"]
    args += ["--weights", "0.3", "1", "--weight", "0.3", "--num-seeds", "2", "--out", str(out)]
    args += ["--residual"]
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setitem(style.STYLE, "savefig.dpi", 30)
        patch.setattr(residual_networks, "BLOCKS", 1)
        patch.setattr(residual, "PROBES", {"hutchinson": (2,), "hutch++": (4,)})
        assert command_line.run(contractive.main, contractive.Config, args) == 0
    return out, json.loads((out / "metrics.json").read_text())


def test_penalty_of_the_encoder_is_its_closed_form(key, float64):
    # one sigmoid layer: sum_j f'(a_j)^2 ||W_j||^2, W_j the j-th column of the Flax kernel
    model = jaxae.DenseAutoencoder(
        (6,), 9, code_activation=nn.sigmoid, tied=True, param_dtype=jnp.float64
    )
    init, encode, decode = jaxae.as_functions(model)
    params = jax.jit(lambda key: jax.tree.map(lambda leaf: 3 * leaf + 0.1, init(key)))(key)
    x = np.random.default_rng(1).uniform(size=(5, 6))
    bound = [lambda v: encode(params, v), lambda z: decode(params, z)]
    kernel, bias = (np.asarray(params[f"encoder_{part}_0"]) for part in ("kernel", "bias"))
    codes = 1 / (1 + np.exp(-(x @ kernel + bias)))
    expected = np.square(codes * (1 - codes)) @ np.square(kernel).sum(0)

    @jax.jit
    def measured(x):
        losses = (networks.contractive(key, *bound, x, jnp.float64(w)) for w in (0.0, 2.0))
        norm = networks.over_examples(*bound, x)["jacobian_norm"]
        return norm, *losses, *jacobians.jacobian_svd(bound[0], x[0])

    norm, plain, penalised, values, vectors = jax.device_get(measured(x))
    np.testing.assert_allclose(norm, expected.mean(), rtol=1e-10)
    np.testing.assert_allclose(penalised - plain, 2 * expected, rtol=1e-9)
    np.testing.assert_allclose(np.square(values).sum(), expected[0], rtol=1e-10)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(6), atol=1e-12)
    row = scale_collapse.rescaled(params, x, x)[0]
    np.testing.assert_allclose(row["jacobian_norm"], expected.mean(), rtol=1e-10)


def test_tangents_of_a_ramp_are_known():
    # the image y + 2 x: constant derivatives 1 and 2; turning it about its centre moves each
    # pixel (y, x) by (-x, y), which changes the value by 2 y - x
    y, x = np.mgrid[:5, :4].astype(np.float32)
    (down, right, turn) = probes.image_tangents((y + 2 * x)[None, ..., None])[0]
    np.testing.assert_allclose(down, 1.0)
    np.testing.assert_allclose(right, 2.0)
    np.testing.assert_allclose(turn, (2 * (y - 2) - (x - 1.5)).reshape(-1), atol=1e-6)


def test_share_in_span_is_that_of_squared_lengths_at_each_example():
    bases = jnp.stack([jnp.eye(4)[:2], jnp.eye(4)[2:]])
    directions = jnp.array([[3.0, 0, 4, 0], [0, 5, 0, 0], [0, 0, 0, 1]])
    both, none = jnp.stack([directions] * 2), jnp.zeros((2, 1, 4))
    given = probes.Probes(both[0], both[0], both, none, jnp.ones(1))
    found = tangents.shares(bases, given)
    first, second = (9 / 25 + 1 + 0) / 3, (16 / 25 + 0 + 1) / 3
    np.testing.assert_allclose(found["tangent_share"], (first + second) / 2, rtol=1e-6)
    assert found["neighbour_share"] == 0


def test_a_linear_encoder_contracts_everywhere_alike(key):
    x = jax.random.normal(key, (30, 4))
    near = x[:5, None] * 0.1
    given = probes.Probes(x, x[:5], near, near, jnp.array([0.1, 1.0, 10.0]))
    numbers = jax.jit(lambda key, given: curves.distances(key, lambda v: 0.5 * v, given))(
        key, given
    )
    np.testing.assert_allclose(numbers["contraction"], 0.5, rtol=1e-4)
    for name in ("similar_code_ratio", "neighbour_code_ratio", "rise"):
        np.testing.assert_allclose(numbers[name], 1.0, rtol=1e-4)


def test_spectrum_counts_each_example_and_takes_the_mean():
    numbers = spectrum.summarise_spectra(jnp.array([[3.0, 1.1, 0.5, 0.0], [0.4, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(numbers["singular_values"], [1.7, 0.55, 0.25, 0], rtol=1e-6)
    assert (numbers["values_above_1"], numbers["values_for_90_percent"]) == (1, 1.5)


def test_rescaling_escapes_the_penalty_without_cost(key):
    # six sigmoid units see five inputs: in the limit the code is an invertible linear map
    x = np.asarray(jax.random.normal(key, (200, 5)))
    kernel = jax.random.normal(jax.random.fold_in(key, 1), (5, 6))
    params = {"encoder_kernel_0": kernel, "encoder_bias_0": jnp.zeros(6)}
    rows = scale_collapse.rescaled(params, x, x)
    norms, errors = ([row[n] for row in rows] for n in ("jacobian_norm", "test_mse"))
    limit = 1e-4 / 16 * np.square(kernel).sum()  # f'(0) = 1/4, epsilon = 0.01
    np.testing.assert_allclose(norms[-1], limit, rtol=1e-2)
    assert errors[-1] < 1e-6 < errors[0]


def test_a_run_leaves_every_file(tiny_run):
    out, metrics = tiny_run
    figures = {"weights", "trade", "spectrum", "contraction", "tangents", "collapse", "rescaling"}
    figures |= {"residual", "estimates"}
    names = {path.name for path in out.iterdir()}
    assert {f"{name}.png" for name in figures} | {"networks.safetensors"} <= names
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert (settings["weights"], settings["weight"], settings["num_seeds"]) == ([0.3, 1.0], 0.3, 2)
    assert len((out / "log.jsonl").read_text().splitlines()) == 2 * (2 * 2 + 2 + 3)
    assert metrics["methods"]["CAE"]["test_nll"] == metrics["sweep"]["tied"][0]["test_nll"]
    made = contractive.claims(metrics)
    assert {claim.figure.removesuffix(".png") for claim in made} <= figures
    for number in (number for claim in made[:-1] for number in claim.numbers.values()):
        assert len(number["values"]) == 2


def number(*values):
    return over_seeds(values, "unit")


def made_up_residual(metrics, **estimate):
    """Returns numbers of deep networks that show all the effects, with changes to one estimate."""
    found = copy.deepcopy(metrics["residual"])
    for rows in found["scores"].values():
        for index, row in enumerate(rows):
            row |= {"jacobian_norm": number(30 - 9 * index, 30 - 9 * index)}
            row |= {"test_nll": number(10 + index, 10 + index), "test_mse": number(0.1, 0.1)}
            row |= {"code_variance": number(5, 5)}
    found["methods"]["CAE"]["values_above_1"] = number(1, 1)
    exact, first, *_ = found["estimates"]
    exact["seconds"] = number(0.2)
    for row in found["estimates"][1:]:
        row["seconds"] = number(0.4)
    first |= {"seconds": number(0.1), "gradient_error": number(0.05)} | estimate
    return found


def made_up(metrics, **changes):
    """Returns metrics of a run that shows all the effects, with changes to methods' numbers."""
    metrics = copy.deepcopy(metrics)
    methods, sweep = metrics["methods"], metrics["sweep"]
    for rank, method in enumerate(("AE", "DAE", "CAE")):
        methods[method] |= {
            "jacobian_norm": number(40 - rank, 41 - rank),
            "test_nll": number(10 + rank, 10 + rank),
            "saturated_share": number(0.1 + 0.1 * rank, 0.1 + 0.1 * rank),
            "values_above_1": number(6 - 2 * rank, 6 - 2 * rank),
            "tangent_share": number(0.5 + 0.2 * rank, 0.5 + 0.21 * rank),
            "neighbour_share": number(0.5 + 0.2 * rank, 0.5 + 0.21 * rank),
            "similar_code_ratio": number(0.9 - 0.2 * rank, 0.9 - 0.2 * rank),
            "neighbour_code_ratio": number(0.9 - 0.1 * rank, 0.9 - 0.1 * rank),
            "rise": number(1 + 0.1 * rank, 1 + 0.1 * rank),
            "contraction": [number(0.1 * (i + 1), 0.1 * (i + 1)) for i in range(14)],
        }
    for index, (tied, untied) in enumerate(zip(sweep["tied"], sweep["untied"], strict=True)):
        tied |= {"jacobian_norm": number(30 - index, 30 - index)}
        tied |= {"test_nll": number(13 + index, 13 + index)}
        tied |= {"saturated_share": number(0.3 + index / 10, 0.3 + index / 10)}
        untied |= {"jacobian_norm": number(0.1, 0.1), "test_nll": number(11.0, 11.0)}
    metrics["rescaled"][0] |= {"jacobian_norm": number(30, 30), "test_mse": number(0.1, 0.1)}
    metrics["rescaled"][-1] |= {"jacobian_norm": number(0.1, 0.1), "test_mse": number(0.1, 0.1)}
    metrics["residual"] = made_up_residual(metrics)
    metrics["principal_components"] = {
        name: number(0.6) for name in ("tangent_share", "neighbour_share")
    }
    methods["CAE"] |= changes
    return metrics


def test_claims_hold_where_every_effect_is_there(tiny_run):
    changes = {"tangent_share": number(0.95, 0.95), "neighbour_share": number(0.95, 0.95)}
    metrics = made_up(tiny_run[1], **changes)
    made = contractive.claims(metrics)
    assert [claim.verdict for claim in made] == ["reproduced"] * 9
    del metrics["residual"]
    assert len(contractive.claims(metrics)) == 7, "a run without --residual says nothing of it"


@pytest.mark.parametrize(
    ("row", "position", "changes", "expected"),
    [
        (trade_off, 1, {"saturated_share": number(0.05, 0.5)}, "not reproduced"),
        (curves, 0, {"similar_code_ratio": number(0.95, 0.5)}, "not reproduced"),
        (curves, 0, {"neighbour_code_ratio": number(0.95, 0.95)}, "corrected"),
        (curves, 1, {"rise": number(1.0, 1.2)}, "not reproduced"),
        (curves, 1, {"contraction": [number(v) for v in (1.0, 1.2, 0.9)]}, "corrected"),
        (spectrum, 0, {"values_above_1": number(0.0, 2.0)}, "not reproduced"),
        (spectrum, 0, {"values_above_1": number(7.0, 7.0)}, "not reproduced"),
        (tangents, 0, {"tangent_share": number(0.4, 0.9)}, "not reproduced"),
        (tangents, 0, {"tangent_share": number(0.58, 0.58)}, "corrected"),
    ],
)
def test_each_verdict_follows_its_numbers(row, position, changes, expected, tiny_run):
    assert row.claims(made_up(tiny_run[1], **changes))[position].verdict == expected


def test_verdicts_on_the_sweep(tiny_run):
    metrics = made_up(tiny_run[1])
    metrics["sweep"]["tied"][1]["jacobian_norm"] = number(35.0, 20.0)
    metrics["sweep"]["tied"][0]["saturated_share"] = number(0.9, 0.9)
    metrics["sweep"]["untied"][0]["jacobian_norm"] = number(10.0, 10.0)
    trade, saturation = trade_off.claims(metrics)
    (collapse,) = scale_collapse.claims(metrics)
    found = (trade.verdict, saturation.verdict, collapse.verdict)
    assert found == ("not reproduced", "corrected", "corrected")
    metrics["sweep"]["untied"][0]["test_nll"] = number(20.0, 11.0)
    assert scale_collapse.claims(metrics)[0].verdict == "not reproduced"


def test_verdicts_on_deep_networks(tiny_run):
    metrics = made_up(tiny_run[1])
    trade, estimates = residual.claims(metrics)
    assert str(trade.plain).startswith("The penalty leaves 70 % of"), "21 of 30 are left"
    assert str(estimates.plain).endswith("a gradient error of 5 %.")
    for row in metrics["residual"]["scores"]["deep"]:  # codes that only become smaller
        row["code_variance"] = {**row["jacobian_norm"]}
    assert residual.claims(metrics)[0].verdict == "corrected"
    metrics["residual"]["scores"]["deep"][1]["test_nll"] = number(12.5, 10.5)
    assert residual.claims(metrics)[0].verdict == "not reproduced"
    metrics["residual"] = made_up_residual(metrics, gradient_error=number(0.2))
    assert residual.claims(metrics)[1].verdict == "corrected"
    metrics["residual"] = made_up_residual(metrics, seconds=number(0.3))
    slower = residual.claims(metrics)[1]
    assert slower.verdict == "not reproduced"
    assert str(slower.plain).startswith("Even the fastest estimate takes 1.50 times as long")


def test_a_deep_network_starts_as_the_shallow_one(key):
    functions = residual_networks.residual_autoencoder(6, 5, 2, 9)
    params = functions.init(key)
    x_i = jnp.linspace(0.0, 1.0, 6)
    kernel = params["first"] @ params["last"]
    code = nn.sigmoid(x_i @ kernel)
    np.testing.assert_allclose(functions.encode(params, x_i), code, rtol=1e-5)
    np.testing.assert_allclose(functions.decode(params, code), code @ kernel.T, atol=1e-5)


def test_errors_of_estimates_are_relative_and_root_mean_squares():
    draws = [np.array([3.0, 4.0]), np.array([5.0, 4.0])]
    assert residual.relative_error(draws, np.array([4.0, 4.0])) == pytest.approx(0.5**0.5 / 4)


def test_spectrum_says_that_the_jacobian_norms_differ(tiny_run):
    metrics = made_up(tiny_run[1])
    for method, norm in (("CAE", 6.5), ("AE", 46.4), ("DAE", 13.3)):
        metrics["methods"][method]["jacobian_norm"] = number(norm, norm)
    (claim,) = spectrum.claims(metrics)
    assert "norms are not equal (CAE 6.50, AE 46.4, DAE 13.3)" in claim.finding


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--weights"], "--weights must be values that rise"),
        (["--weights", "1", "0.3"], "--weights must be values that rise"),
        (["--weights", "0", "1"], "--weights must be a finite number above 0"),
        (["--weight", "0.2"], "--weight must be one of"),
        (["--noise", "nan"], "--noise must be a finite number above 0"),
        (["--code-dim", "1"], "--code-dim must be at least 2"),
    ],
)
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    given = ["--dataset", "digits", "--out", str(tmp_path / "new"), *args]
    assert command_line.run(contractive.main, contractive.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not any(tmp_path.iterdir())
