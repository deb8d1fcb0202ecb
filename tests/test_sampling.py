"""Sampling: the distance in closed form, the denoiser's scales, exact chains, one run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_settings import as_on_the_command_line

from experiments import sampling
from experiments.common import command_line
from experiments.common.plots import style
from experiments.samplers import conditional, distances, plane


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Experiments run with JAX's own settings, as on the command line."""
    with as_on_the_command_line():
        yield


def test_sliced_distance_of_shifted_and_of_scaled_points():
    points = np.random.default_rng(0).normal(size=(4000, 2))
    assert distances.sliced_wasserstein(points, points[::-1]) < 1e-12
    # a shift by v moves the projection on a direction by |v| |cos|, whose mean is 2 / pi
    shift = np.array([3.0, -4.0])
    found = distances.sliced_wasserstein(points, points + shift)
    np.testing.assert_allclose(found, 5 * 2 / np.pi, rtol=1e-3)
    # N(0, 1) against N(0, 4): every projection is moved by |x|, E|x| = sqrt(2 / pi)
    found = distances.sliced_wasserstein(points, 2 * points)
    np.testing.assert_allclose(found, np.sqrt(2 / np.pi), rtol=0.05)


def test_an_untrained_denoiser_is_that_of_gaussian_data(key):
    levels = conditional.Levels(0.1, 2.0)
    network = conditional.Scaled(hidden=(8, 8), outputs=3, of_data=0.5)
    options = {"learning_rate": 1e-3, "steps": 10, "batch_size": 5}
    denoiser = conditional.Denoiser(network, conditional.POINTS, levels, **options)
    params = network.init(key, jnp.zeros(3), jnp.ones(()))["params"]
    x_i = jnp.array([1.0, -2.0, 0.5])
    for stddev in (0.1, 0.5, 2.0):
        shrink = 0.25 / (0.25 + stddev**2)
        found = denoiser.reconstruct(params, x_i, jnp.float32(stddev))
        np.testing.assert_allclose(found, shrink * x_i, rtol=1e-5)
        score = denoiser.score(params, x_i, jnp.float32(stddev))
        np.testing.assert_allclose(score, -x_i / (0.25 + stddev**2), rtol=1e-4)
    ladder = np.asarray(levels.ladder(5))
    np.testing.assert_allclose(ladder[[0, -1]], [2.0, 0.1], rtol=1e-5)
    np.testing.assert_allclose(ladder[1:] / ladder[:-1], (0.1 / 2) ** 0.25, rtol=1e-5)


def test_the_exact_score_is_the_gradient_of_the_log_density():
    points = jnp.array([[0.3, 1.2], [-0.9, 0.1], [0.0, 0.0]])
    of_density = jax.jit(jax.vmap(jax.grad(plane.DENSITY.log_noisy_density), (0, None)))
    for stddev in (0.1, 0.8):
        exact = of_density(points, stddev)
        found = jax.vmap(plane.exact_score, (0, None))(points, jnp.float32(stddev))
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def exact_ratios():
    sizes = plane.Sizes(1, 1, 1e-3, 800, (10, 200), 1, 1)
    with as_on_the_command_line():
        truth = plane.Truth(jax.random.key(1), sizes.samples)
        functions = plane.DENSITY.posterior_mean, plane.exact_score
        return plane.of_functions(jax.random.key(2), *functions, truth, sizes)


def test_exact_chains_are_as_near_as_true_samples(exact_ratios):
    assert exact_ratios["annealed Langevin"]["200"] < 2
    assert exact_ratios["denoising chain, by length"]["200"] < 2
    assert exact_ratios["annealed Langevin"]["10"] > 5  # too few steps
    by_noise = exact_ratios["Langevin, by noise"]
    assert by_noise["0.8"] > 5 > by_noise["0.2"]  # the density of the noisy points is wider


def test_the_unit_is_the_distance_of_true_samples():
    truth = plane.Truth(jax.random.key(3), 800)
    other = plane.DENSITY.sample(jax.random.key(4), 800)
    assert 0.4 < truth.ratio(other) < 2
    assert truth.ratio(other + 0.2) > 3


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """One run of very few steps; its folder."""
    out = tmp_path_factory.mktemp("sampling") / "out"
    args = ["--quick", "--steps", "2", "5", "--samples", "50", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch, as_on_the_command_line():
        patch.setitem(style.STYLE, "savefig.dpi", 30)
        assert command_line.run(sampling.main, sampling.Config, args) == 0
    return out


def test_a_run_leaves_every_file_and_complete_numbers(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    figures = {"mixture.png", "mixture_distances.png"}
    assert names == figures | {"metrics.json", "config.json", "log.jsonl", ".files.json"}
    found = json.loads((tiny_run / "metrics.json").read_text())["mixture"]
    assert found.keys() == {"learned", "exact"}
    for kind in found.values():
        assert kind["annealed Langevin"].keys() == {"2", "5"}
        for name in ("Langevin", "denoising chain"):
            assert kind[f"{name}, by length"].keys() == {"2", "5"}
            assert kind[f"{name}, by noise"].keys() == {f"{level:g}" for level in plane.NOISES}
            assert all(len(n["values"]) == 1 for n in kind[f"{name}, by noise"].values())


BAD = {
    "falling": (["--steps", "5", "2"], "--steps must be values that rise, but they are [5, 2]"),
    "none": (["--steps"], "--steps must be values that rise"),
    "no step": (["--steps", "0"], "--steps must be at least 1"),
    "one sample": (["--samples", "1"], "--samples must be at least 2"),
}


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    given = ["--out", str(tmp_path / "new"), *args]
    assert command_line.run(sampling.main, sampling.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not list(tmp_path.iterdir())
