"""The comparison of DAE and CAE: its measurements against closed forms, and a short run."""

import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from experiments import dae_vs_cae
from experiments.common.run import command_line
from experiments.dae_vs_cae import gradient_noise, race, sensitivity, small_noise

RNG = np.random.default_rng(7)


def test_expansion_of_a_linear_map_is_exact_and_has_no_laplacian(key, float64):
    # E||A(x + e) - x||^2 = ||A x - x||^2 + s^2 ||A||^2: nothing is left at any s.
    a, x = jnp.asarray(RNG.normal(size=(4, 4))), jnp.asarray(RNG.normal(size=(6, 4)))
    found = small_noise.expand(key, lambda v: a @ v, x, jnp.array([0.1, 1.0]), pairs=3)
    np.testing.assert_allclose(found.jacobian, jnp.sum(a**2), rtol=1e-12)
    np.testing.assert_allclose(found.laplacian, 0, atol=1e-12)
    np.testing.assert_allclose(found.remainder, 0, atol=1e-12)


def test_expansion_of_a_cubic_by_hand(key, float64):
    # r(x) = x^3 in one dimension at x = 2: J = 12, Laplacian 12, residual 6; and with z = x + e
    # E(z^3 - 2)^2 = E z^6 - 4 E z^3 + 4, whose terms beyond s^2 are 45 x^2 s^4 + ... for z^6.
    x, s = 2.0, 0.3
    found = small_noise.expand(
        key, lambda v: v**3, jnp.full((1, 1), x), jnp.array([s]), pairs=200_000
    )
    np.testing.assert_allclose([found.jacobian, found.laplacian], [144, 72])
    expected = 45 * x**2 * s**4 + 15 * s**6
    np.testing.assert_allclose(found.remainder, expected, rtol=0.03)


def test_slope_of_a_power():
    x = np.geomspace(0.01, 1, 9)
    np.testing.assert_allclose(small_noise.slope(x, 3 * x**4), 4.0)


def test_relative_variance_by_hand():
    # mean (1, 0); squared deviations 1 + 1, over n - 1 = 1; squared mean 1
    assert gradient_noise.relative_variance(np.array([[0.0, 0.0], [2.0, 0.0]])) == 2.0
    rows = np.arange(10.0).reshape(5, 2)
    np.testing.assert_array_equal(gradient_noise.mean_of(rows, 2), [[1.0, 2.0], [5.0, 6.0]])


def test_gradient_noise_of_a_known_loss(key):
    # gradient of (w - e)^2 at w = 1 is 2 (1 - e), e ~ N(0, s^2): variance 4 s^2 over mean^2 = 4
    loss = lambda w, key, x: jnp.sum((w - 0.5 * jax.random.normal(key)) ** 2)
    sample = gradient_noise.make_sampler(loss)
    gradients = sample(jnp.ones(1), key, jnp.zeros((3, 1)), 4000)
    np.testing.assert_allclose(gradient_noise.relative_variance(gradients), 0.25, rtol=0.1)
    deterministic = gradient_noise.make_sampler(lambda w, key, x: jnp.sum(w[None] ** 2 * x))
    gradients = deterministic(jnp.ones(1), key, jnp.ones((3, 1)), 8)
    assert gradient_noise.relative_variance(gradients) == 0.0


def test_minibatches_are_drawn_without_replacement(key):
    x = jnp.arange(6.0)[:, None]
    sample = gradient_noise.make_sampler(lambda w, key, x: jnp.sum(w[None] * x), batch_size=6)
    np.testing.assert_array_equal(sample(jnp.ones(1), key, x, 5), 15.0)


def sensitivities(*of_cae):
    """DAE and CAEs of one seed, each with a clean error and the sensitivity of its encoder."""
    point = lambda error, value: {
        "clean_mse": error,
        "encoder": [value],
        "reconstruction": [2 * value],
    }
    sweep = zip(sensitivity.WEIGHTS, of_cae, strict=True)
    return {"DAE": [point(0.01, 0.5)]} | {f"CAE {w:g}": [point(*pair)] for w, pair in sweep}


def test_sensitivities_are_interpolated_at_equal_clean_error():
    rising = sensitivities((0.0001, 8.0), (0.001, 4.0), (0.1, 1.0), (1.0, 0.5))
    found = sensitivity.at_equal_error(rising)  # half way between 4 and 1, log against log: 2
    np.testing.assert_allclose(found["encoder"]["mean"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(found["reconstruction"]["mean"], 4.0, rtol=1e-6)
    # a weak penalty that lowers the error is not a second answer
    falling = sensitivities((0.005, 9.0), (0.02, 8.0), (0.001, 4.0), (0.1, 1.0))
    found = sensitivity.at_equal_error(falling)
    np.testing.assert_allclose(found["encoder"]["mean"], 4.0, rtol=1e-6)


@pytest.mark.parametrize("errors", [(0.001, 0.002, 0.003, 0.004), (0.02, 0.03, 0.04, 0.05)])
def test_sensitivities_are_not_compared_beyond_the_sweep(errors):
    assert sensitivity.at_equal_error(sensitivities(*((e, 1.0) for e in errors))) == {}
    number = lambda value: {"mean": value, "std": None, "values": [value], "unit": ""}
    found = {"DAE": {"clean_mse": number(0.01)}, "at_equal_clean_error": {}, "radii": []}
    found |= {f"CAE {e:g}": {"clean_mse": number(e)} for e in errors}
    (claim,) = sensitivity.claims({"sensitivity": found})
    assert claim.finding == sensitivity.NOT_COMPARABLE
    assert claim.verdict == "not reproduced"
    assert len(claim.numbers) == 5


def test_a_race_is_won_by_who_needs_fewer_evaluations():
    slow = race.Trace(np.array([4.0, 2, 1]), np.array([1.0, 2, 3]), np.array([1.0, 2, 3]))
    fast = race.Trace(np.array([4.0, 0.5]), np.array([1.0, 2]), np.array([0.5, 1.0]))
    assert slow.when(2.0) == (2.0, 2.0)
    assert slow.when(0.9) is None
    found = race.summary({"Adam": [slow], "L-BFGS": [fast], "CG": [slow]}, budget=3)
    assert found["L-BFGS"]["evaluations_to_adam"]["values"] == [2.0]
    assert found["L-BFGS"]["speedup"]["values"] == [3.0]
    assert [n["mean"] for n in found["L-BFGS"]["loss"]] == [4.0, 0.5, 0.5]
    never = race.Trace(np.array([4.0, 3]), np.array([1.0, 2]), np.array([1.0, 2]))
    found = race.summary({"Adam": [slow], "L-BFGS": [never], "CG": [slow]}, budget=3)
    assert found["L-BFGS"]["reached_by"] == 0
    assert "evaluations_to_adam" not in found["L-BFGS"]


def test_a_racer_counts_and_times_until_the_budget_is_spent():
    loss = lambda w, target: jnp.sum((w - target) ** 4)
    trace = race.Racer(loss, optax.adam(0.1)).run(jnp.zeros(2), jnp.ones(2), budget=25)
    assert trace.evaluations.tolist() == list(range(1, 31))  # whole chunks of 10
    assert np.all(np.diff(trace.seconds) > 0)
    assert trace.values[-1] < trace.values[0]


RACERS = (
    (jaxae, "lbfgs"),
    (jaxae, "conjugate_gradient"),
    (race.optax, "adam"),
    (race, "Racer"),
)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A run on a few digits with all rows; yields its folder."""
    out = tmp_path_factory.mktemp("comparison")
    args = ["--dataset", "digits", "--quick", "--epochs", "1", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(dae_vs_cae, "FULL_BATCH", {True: 32})
        patch.setattr(dae_vs_cae.networks, "CODE_DIM", 4)
        patch.setattr(dae_vs_cae.optimisers, "BUDGET", 30)
        patch.setattr(dae_vs_cae.optimisers, "ADAM_RATES", (0.03,))
        patch.setattr(dae_vs_cae.resampled_noise, "BUDGET", 40)
        patch.setattr(dae_vs_cae.gradient_noise, "DRAWS", 64)
        patch.setattr(small_noise, "expand", partial(few_pairs, small_noise.expand))
        for module, name in RACERS:  # AE and DAE have one loss: their programs are compiled once
            patch.setattr(module, name, cache(getattr(module, name)))
        assert command_line.run(dae_vs_cae.main, dae_vs_cae.Config, args) == 0
    return out


def few_pairs(expand, key, reconstruct, x, stddevs, *, pairs):
    """The expansion at a few examples."""
    return expand(key, reconstruct, x[:4], stddevs, pairs=2)


def test_a_short_run_leaves_every_file_and_its_claims_hold_together(short_run):
    metrics = json.loads((short_run / "metrics.json").read_text())
    claims = dae_vs_cae.claims(metrics)
    assert len(claims) == 6
    for claim in claims:
        assert (short_run / claim.figure).stat().st_size > 5000
        assert claim.numbers
    assert metrics["gradient_noise"]["CAE"]["values"] == [0.0]
    assert metrics["small_noise"]["slope_with_laplacian"]["mean"] > 3.5
    settings = json.loads((short_run / "config.json").read_text())["settings"]
    assert (settings["full_batch"], settings["race_seeds"]) == (32, 1)


def test_verdicts_follow_the_numbers(short_run):
    metrics = json.loads((short_run / "metrics.json").read_text())
    number = lambda value: {"mean": value, "std": None, "values": [value], "unit": ""}
    verdicts = lambda: [claim.verdict for claim in dae_vs_cae.claims(metrics)]
    metrics["sensitivity"]["at_equal_clean_error"] = {
        "encoder": number(0.9),
        "reconstruction": number(1.1),
    }
    metrics["small_noise"]["slope_without_laplacian"] = number(2.0)
    assert (verdicts()[0], verdicts()[3]) == ("reproduced", "corrected")
    metrics["sensitivity"]["at_equal_clean_error"]["encoder"] = number(1.2)
    metrics["small_noise"]["slope_with_laplacian"] = number(2.1)
    metrics["gradient_noise"]["CAE"] = number(1e-9)
    metrics["optimisers"]["CAE"]["CG"].pop("evaluations_to_adam", None)
    found = verdicts()
    assert [found[i] for i in (0, 2, 3, 4)] == ["not reproduced"] * 4


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--noise", "0"], "--noise must be a finite number above 0"),
        (["--race-seeds", "0"], "--race-seeds must"),
    ],
)
def test_bad_options(option, message, tmp_path, capsys):
    args = ["--dataset", "digits", "--out", str(tmp_path / "new"), *option]
    assert command_line.run(dae_vs_cae.main, dae_vs_cae.Config, args) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_same_network_is_compared():
    functions = jaxae.as_functions(dae_vs_cae.networks.model(5))
    assert sorted(functions.init(jax.random.key(0))) == [
        "decoder_bias_0",
        "encoder_bias_0",
        "encoder_kernel_0",
    ]  # tied
