"""The exact fields of known densities, and the experiment that learns them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from experiments import vector_field
from experiments.common import plots
from experiments.common.data import densities
from experiments.common.run import command_line
from experiments.common.training import fitting
from experiments.vector_field import centre_of_mass, grid, nearest_point, way_home, zeros

each_density = pytest.mark.parametrize("make", densities.ALL.values(), ids=densities.ALL.keys())
Y = np.random.default_rng(0).uniform(-1.5, 1.5, (40, 2))


def in_float64(density):
    return density._replace(nodes=jnp.asarray(np.asarray(density.nodes), jnp.float64))


@pytest.mark.thorough(by_default=["mixture"])
@each_density
def test_posterior_mean_is_the_score_of_the_noisy_density(make, float64):
    # Miyasawa 1961: E[x | y] = y + s^2 grad log p_s(y)
    density, stddev = in_float64(make()), 0.2
    score = jax.vmap(jax.grad(lambda y: density.log_noisy_density(y, stddev)))(jnp.asarray(Y))
    mean = jax.vmap(lambda y: density.posterior_mean(y, stddev))(jnp.asarray(Y))
    np.testing.assert_allclose(mean, Y + stddev**2 * np.asarray(score), rtol=1e-9, atol=1e-12)


@pytest.mark.thorough(by_default=["mixture"])
@each_density
def test_noisy_density_integrates_to_one(make, float64):
    density = in_float64(make())
    line = np.linspace(-3.5, 3.5, 71)  # steps of half a standard deviation: exact to 1e-30
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2))
    log_p = jax.lax.map(lambda y: density.log_noisy_density(y, 0.2), grid, batch_size=4000)
    np.testing.assert_allclose(jnp.exp(log_p).sum() * (line[1] - line[0]) ** 2, 1.0, rtol=1e-3)


@each_density
def test_samples_have_the_moments_of_the_nodes(make, key):
    density = make()
    points = np.asarray(density.sample(key, 100_000), np.float64)
    nodes = np.asarray(density.nodes, np.float64)
    covariance = np.cov(nodes.T, bias=True) + density.spread**2 * np.eye(2)
    np.testing.assert_allclose(points.mean(0), nodes.mean(0), atol=0.015)
    np.testing.assert_allclose(np.cov(points.T), covariance, atol=0.015)


def test_curves_are_what_they_are_called():
    np.testing.assert_allclose(np.linalg.norm(densities.circle().nodes, axis=1), 1.0, rtol=1e-6)
    steps = np.linalg.norm(
        np.diff(np.asarray(densities.spiral().nodes, np.float64), axis=0), axis=1
    )
    assert steps.std() / steps.mean() < 0.01  # uniform in length


def test_field_on_a_circle_points_to_it_and_vanishes_at_its_centre():
    field = lambda y: grid.exact_field(densities.circle(), 0.1, y)
    np.testing.assert_allclose(field(jnp.zeros(2)), 0.0, atol=1e-6)
    # nearly the nearest point; a little inside of it, because the circle is curved
    for radius in (0.7, 1.3):
        moved = radius + float(field(jnp.array([radius, 0.0]))[0])
        assert abs(moved - 1) < 0.05


def test_critical_points_of_the_mixture_are_found_and_told_apart():
    density = densities.mixture()
    exact = lambda y: grid.exact_field(density, 0.2, y)
    line = jnp.linspace(-1.5, 1.5, 16)
    starts = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    critical = zeros.critical_points(density, 0.2, starts)
    rows = zeros.with_learned_zeros(critical, zeros.zeros(exact, starts))
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("maximum"), kinds.count("saddle"), kinds.count("minimum")) == (5, 5, 1)
    (minimum,) = [row["at"] for row in rows if row["kind"] == "minimum"]
    np.testing.assert_allclose(minimum, 0.0, atol=1e-3)
    assert all(row["distance_to_learned_zero"] < 1e-3 for row in rows)


def test_a_field_to_the_nearest_point_arrives_and_doing_nothing_stays(key):
    circle = densities.circle()
    y = jaxae.gaussian_noise(key, circle.sample(key, 50), stddev=0.1)
    to_circle = lambda p: p / jnp.linalg.norm(p) - p
    assert nearest_point.error_of_nearest(circle, to_circle, y) < 0.03  # nodes are 0.003 apart
    assert way_home.distance_left(circle, to_circle, y) < 0.03
    still = lambda p: 0 * p
    numbers = (nearest_point.error_of_nearest, way_home.distance_left)
    np.testing.assert_allclose([number(circle, still, y) for number in numbers], 1, rtol=1e-6)


def test_verdicts_follow_the_numbers():
    number = lambda value: {"mean": value, "std": None, "values": [value], "unit": ""}
    names = ("error_near", "error_far", "error_of_nearest", "distance_left", "distance_to_zeros")
    result = dict(zip(names, map(number, (0.03, 0.1, 0.2, 0.1, 0.02)), strict=True))
    result["critical_points"] = [{"kind": kind} for kind in ("maximum", "saddle", "minimum")]
    metrics = {"densities": {name: dict(result) for name in densities.ALL}}
    verdicts = lambda: [claim.verdict for claim in vector_field.claims(metrics)]
    assert verdicts() == ["corrected", "reproduced", "reproduced", "corrected"]
    for name, worse in (("spiral", 0.09), ("circle", 0.051), ("mixture", 0.051)):
        metrics["densities"][name]["error_near"] = number(worse)
        assert verdicts()[1] == "not reproduced"
        metrics["densities"][name]["error_near"] = number(0.03)
    metrics["densities"]["spiral"] |= {"distance_left": number(0.6)}
    metrics["densities"]["mixture"] |= {"distance_to_zeros": number(0.2)}
    assert verdicts()[2:] == ["not reproduced", "not reproduced"]


def test_relative_error_is_a_ratio_of_norms():
    both = grid.Fields(
        grid=np.zeros((3, 2)),
        learned=np.array([[1.0, 0], [0, 2], [9, 9]]),
        exact=np.array([[1.0, 1], [0, 1], [1, 1]]),
        density=np.array([1.0, 0.5, 0.01]),
    )
    assert both.is_dense.tolist() == [True, True, False]
    found = centre_of_mass.relative_error(both, both.is_dense)
    np.testing.assert_allclose(found, np.sqrt(2) / np.sqrt(3))


def test_networks_start_where_they_are_told_to(key):
    model = jaxae.DenseAutoencoder((2,), 1)
    start = jaxae.as_functions(model).init(key)
    loss = lambda key, encode, decode, x: jaxae.reconstruction_loss(encode, decode, x)
    options = {"learning_rate": 0.0, "batch_size": 2, "epochs": 1, "start": start}
    trainer = fitting.AutoencoderTrainer(model, loss, **options)
    keys = [jax.random.fold_in(key, seed) for seed in range(2)]
    ignored = {"on_epoch": lambda *_: None, "checkpoints": None}
    with jax.numpy_dtype_promotion("standard"):
        trained = trainer.fit_many(keys, jnp.ones((4, 2)), **ignored)
    for params in trained:
        jax.tree.map(np.testing.assert_array_equal, params, start)


def test_a_short_run_learns_something_and_leaves_every_file(tmp_path, monkeypatch, coarse_figures):
    monkeypatch.setattr(densities, "ALL", {"mixture": densities.mixture})
    paths = plots.paths

    def draw_fewer_frames(path, positions, manifold, **options):
        paths(path, positions[::15], manifold, **options)

    monkeypatch.setattr(plots, "paths", draw_fewer_frames)
    args = ["--quick", "--epochs", "40", "--batch-size", "256", "--out", str(tmp_path)]
    with jax.numpy_dtype_promotion("standard"):
        assert command_line.run(vector_field.main, vector_field.Config, args) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert "networks.safetensors" in names
    for name in densities.ALL:
        assert {f"field_{name}.png", f"ring_{name}.png", f"path_{name}.png"} <= names
        assert (tmp_path / f"path_{name}.gif").read_bytes()[:4] == b"GIF8"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    result = metrics["densities"]["mixture"]
    assert 0 < result["error_near"]["mean"] < 0.5  # doing nothing has error 1
    assert len(result["critical_points"]) == 11
    assert [row["noise_stddev"] for row in result["other_levels"]] == [0.1, 0.4]
    assert all(0 < row["error_near"]["mean"] < 0.5 for row in result["other_levels"])
