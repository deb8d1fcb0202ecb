"""Sampling: the distance in closed form, the denoiser's scales, exact chains, one run."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_settings import as_on_the_command_line

from experiments import sampling
from experiments.common.plots import style
from experiments.common.run import command_line
from experiments.sampling import chains, classifier_scores, conditional, distances, mixture


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


def make_untrained(key, network, kind, levels):
    """Returns a compiled function to the reconstruction and the score, with fresh weights."""
    options = {"learning_rate": 1e-3, "steps": 10, "batch_size": 5, "epochs": 1}
    denoiser = conditional.Denoiser(network, kind, levels, **options)

    @jax.jit
    def estimates(x_i, stddev):
        params = network.init(key, x_i, stddev)["params"]
        return denoiser.reconstruct(params, x_i, stddev), denoiser.score(params, x_i, stddev)

    return estimates


def test_an_untrained_denoiser_is_that_of_gaussian_data(key):
    levels = conditional.Levels(0.1, 2.0)
    network = conditional.Scaled(hidden=(8, 8), outputs=3, of_data=0.5)
    estimates = make_untrained(key, network, conditional.POINTS, levels)
    x_i = np.array([1.0, -2.0, 0.5], np.float32)
    for stddev in (0.1, 0.5, 2.0):
        shrink = 0.25 / (0.25 + stddev**2)
        found, score = estimates(x_i, np.float32(stddev))
        np.testing.assert_allclose(found, shrink * x_i, rtol=1e-5)
        np.testing.assert_allclose(score, -x_i / (0.25 + stddev**2), rtol=1e-4)
    ladder = np.asarray(levels.ladder(5))
    np.testing.assert_allclose(ladder[[0, -1]], [2.0, 0.1], rtol=1e-5)
    np.testing.assert_allclose(ladder[1:] / ladder[:-1], (0.1 / 2) ** 0.25, rtol=1e-5)


def test_the_exact_score_is_the_gradient_of_the_log_density():
    points = np.array([[0.3, 1.2], [-0.9, 0.1], [0.0, 0.0]], np.float32)
    score = jax.jit(jax.vmap(mixture.exact_score, (0, None)))
    of_density = jax.jit(jax.vmap(jax.grad(mixture.DENSITY.log_noisy_density), (0, None)))
    for stddev in (0.1, 0.8):
        exact = of_density(points, stddev)
        np.testing.assert_allclose(score(points, stddev), exact, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def exact_ratios():
    sizes = mixture.Sizes(1, 1, 800, (10, 200), 1, 1)
    with as_on_the_command_line():
        truth = mixture.Truth(jax.random.key(1), sizes.samples)
        exact = mixture.Estimates(mixture.DENSITY.posterior_mean, mixture.exact_score)
        return mixture.measure_samplers(jax.random.key(2), exact, truth, sizes)


@pytest.mark.thorough
def test_exact_chains_are_as_near_as_true_samples(exact_ratios):
    assert exact_ratios["annealed Langevin"]["200"] < 2
    assert exact_ratios["denoising chain, by length"]["200"] < 2
    assert exact_ratios["annealed Langevin"]["10"] > 5  # too few steps
    by_noise = exact_ratios["Langevin, by noise"]
    assert by_noise["0.8"] > 5 > by_noise["0.2"]  # the density of the noisy points is wider


def test_the_unit_is_the_distance_of_true_samples():
    truth = mixture.Truth(jax.random.key(3), 800)
    other = mixture.DENSITY.sample(jax.random.key(4), 800)
    assert 0.4 < truth.ratio(other) < 2
    assert truth.ratio(other + 0.2) > 3


def test_completion_keeps_what_is_known_and_shows_it_with_noise(key):
    # The "network" returns what it is shown; its score passes the noise of the known entry on.
    known = jnp.array([True, False, False])
    x = np.array([[0.25, 1.0, -1.0]] * 10_000, np.float32)

    def score(x_i, stddev):
        return jnp.array([0.0, 0.0, 1.0]) * (x_i[0] - 0.25) / stddev

    shown = lambda x_i, stddev: x_i + jnp.array([0.0, 1.0, 0.0]) * (x_i[0] - 0.25)
    options = {"score": score, "reconstruct": shown, "step_size": 2.0}
    levels = np.full(2, 0.5, np.float32)
    complete = jax.jit(partial(conditional.anneal, fixed=known, keep=2, **options))
    clean = np.asarray(complete(key, x, levels))
    assert clean.shape == (2, 10_000, 3)
    np.testing.assert_array_equal(clean[..., 0], 0.25)
    # two steps add N(0, 2 level^2) each, and to the last entry level^2 times the noise over level;
    # the reconstruction sees noise on the known entry as well, and passes it to the second one
    level = 0.5
    want = [np.sqrt(4 * level**2 + level**2), np.sqrt(4 * level**2 + 2 * level**4)]
    np.testing.assert_allclose(np.std(clean[1], axis=0)[1:], want, rtol=0.025)
    free = np.asarray(jax.jit(partial(conditional.anneal, **options))(key, x, levels))
    assert free.shape == (1, 10_000, 3)
    assert np.std(free[0, :, 0]) > 0.9


def test_pixels_are_between_0_and_1_and_every_level_counts_the_same(key):
    network = conditional.OfPixels(hidden=(8, 8), outputs=3, of_data=0.3)
    estimates = make_untrained(key, network, conditional.PIXELS, conditional.Levels(0.1, 2.0))
    x_i = np.array([5.0, -2.0, 0.5], np.float32)
    for stddev in (0.1, 2.0):  # before training the logits are 0
        found, score = estimates(x_i, np.float32(stddev))
        np.testing.assert_allclose(found, 0.5)
        np.testing.assert_allclose(score, (0.5 - x_i) / stddev**2, rtol=1e-5)
    assert float(conditional.PIXELS.weight(jnp.float32(0.1))) == 1.0


def test_confidence_and_balance_in_closed_form():
    sure = np.eye(4)[[0, 1, 2, 3]]
    found = classifier_scores.view_of(sure)
    assert (found["confidence"], found["class_shares"]) == (100, [25, 25, 25, 25])
    np.testing.assert_allclose(found["classes"], 4)
    same = classifier_scores.view_of(np.array([[0.7, 0.3, 0, 0]] * 5))
    np.testing.assert_allclose(same["confidence"], 70)
    assert same["class_shares"] == [100, 0, 0, 0]
    np.testing.assert_allclose(np.log(same["classes"]), -0.7 * np.log(0.7) - 0.3 * np.log(0.3))


def test_chains_corrupt_and_draw_and_the_walk_does_neither(key, monkeypatch):
    # An autoencoder of two pictures by their first pixel, of which it is sure: without corruption
    # the chain stays at its picture, and with all pixels tossed it is at each half of the time.
    class Shallow:
        def bound(self, params):
            return (lambda x_i: x_i[:1]), (lambda code: 60 * (code - 0.5) * params)

    names = ("walkback", "CAE")
    signs = jnp.array([1.0, 1.0, -1.0])
    found = chains.Autoencoders(None, Shallow(), {name: [signs] for name in names})
    pictures = np.array([[1, 1, 0], [0, 0, 1]], np.float32)
    start = np.repeat(pictures, 100, axis=0)
    for rate, moved in ((0.0, 0.0), (1.0, 0.5)):
        monkeypatch.setattr(chains, "RATE", rate)
        (samplers,) = chains.samplers_of(found)
        states = np.asarray(samplers.chain("walkback", key, jnp.asarray(start), keep=2))
        assert states.shape == (2, 200, 3)
        is_picture = np.abs(states[:, :, None] - pictures).max(-1).min(-1) < 1e-6
        assert is_picture.all()
        share = np.mean(np.abs(states[1] - start).max(-1) > 0.5)
        assert abs(share - moved) < 0.11
    monkeypatch.setattr(chains, "TANGENT", 0.0)
    (samplers,) = chains.samplers_of(found)
    states = np.asarray(samplers.chain("CAE", key, jnp.asarray(start)))
    np.testing.assert_allclose(states[-1], start, atol=1e-6)


def test_upper_half_of_pictures_with_channels():
    for height in (4, 5):
        known = np.asarray(chains.upper_half((height, 3, 2))).reshape(height, 3, 2)
        assert known[:2].all()
        assert not known[2:].any()


def run_part(part, out):
    """Runs one part, of very few steps; returns its folder."""
    args = ["--quick", "--dataset", "digits", "--steps", "2", "5", "--samples", "50"]
    args += ["--code-dim", "8", "--hidden", "8", "--pictures", "20", "--out", str(out)]
    args += ["--parts", part]
    with pytest.MonkeyPatch.context() as patch, as_on_the_command_line():
        patch.setitem(style.STYLE, "savefig.dpi", 30)
        patch.setattr(chains, "LENGTH", 20)
        assert command_line.run(sampling.main, sampling.Config, args) == 0
    return out


@pytest.fixture(scope="module")
def mixture_run(tmp_path_factory):
    return run_part("mixture", tmp_path_factory.mktemp("mixture") / "out")


@pytest.fixture(scope="module")
def images_run(tmp_path_factory):
    return run_part("images", tmp_path_factory.mktemp("images") / "out")


FIGURES = {
    "mixture": {"mixture.png", "mixture_distances.png"},
    "images": {"samples.png", "strips.png", "completions.png", "classes.png"},
}


FILES = {"metrics.json", "config.json", "log.jsonl", ".files.json"}


def test_a_run_leaves_every_file_and_complete_numbers(mixture_run):
    assert {path.name for path in mixture_run.iterdir()} == FIGURES["mixture"] | FILES
    found = json.loads((mixture_run / "metrics.json").read_text())["mixture"]
    assert found.keys() == {"true samples", "learned", "exact"}
    assert 0.2 < found["true samples"]["mean"] < 3
    for kind in (found["learned"], found["exact"]):
        assert kind["annealed Langevin"].keys() == {"2", "5"}
        for name in ("Langevin", "denoising chain"):
            assert kind[f"{name}, by length"].keys() == {"2", "5"}
            assert kind[f"{name}, by noise"].keys() == {f"{level:g}" for level in mixture.NOISES}
            assert all(len(n["values"]) == 1 for n in kind[f"{name}, by noise"].values())


@pytest.mark.thorough
def test_images_have_the_numbers_of_every_sampler(images_run):
    assert {path.name for path in images_run.iterdir()} == FIGURES["images"] | FILES
    found = json.loads((images_run / "metrics.json").read_text())["images"]
    seen = {"confidence", "classes", "class_shares", "nearest"}
    for name in ("test images", "test images, denoised", "annealed Langevin, 10 steps"):
        assert found[name].keys() == seen
    for name in ("denoising chain", "walkback"):
        assert found[f"{name}, from noise"].keys() == seen
        assert found[f"{name}, from digits"].keys() == seen | {"left"}
    assert found["tangent walk, from digits"].keys() == seen | {"left"}
    assert found["completion"].keys() == {"completed", "half"}
    for row in found.values():
        for name, numbers in row.items() if isinstance(row, dict) else ():
            values = [numbers] if isinstance(numbers, dict) else numbers
            assert len(values) == (10 if name == "class_shares" else 1)
            assert all(np.isfinite(one["mean"]) for one in values)
    shares = [one["mean"] for one in found["walkback, from noise"]["class_shares"]]
    np.testing.assert_allclose(sum(shares), 100)
    config = json.loads((images_run / "config.json").read_text())
    assert config["settings"]["pictures"] == 20


def test_images_without_labels_are_refused_before_anything_is_trained(tmp_path, capsys):
    np.save(tmp_path / "mine.npy", np.zeros((20, 4, 4), np.float32))
    given = ["--dataset", str(tmp_path / "mine.npy"), "--out", str(tmp_path / "new")]
    assert command_line.run(sampling.main, sampling.Config, given) == 2
    assert "--dataset must have labels" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_mixture_alone_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling.plane, "train", lambda key, sizes, run: sizes)
    measure = lambda run, trained, found: {"mixture": {"seeds": trained.plane.seeds}}
    monkeypatch.setattr(sampling.mixture, "measure", measure)
    monkeypatch.setattr(sampling.mixture, "draw", lambda run, trained, found: None)
    args = ["--parts", "mixture", "--data-dir", "missing", "--num-seeds", "2"]
    out = tmp_path / "out"
    assert command_line.run(sampling.main, sampling.Config, [*args, "--out", str(out)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert (found["dataset"], found["mixture"]) == ("synthetic", {"seeds": 2})
    assert "images" not in found


BAD = {
    "falling": (["--steps", "5", "2"], "--steps must be values that rise, but they are [5, 2]"),
    "none": (["--steps"], "--steps must be values that rise"),
    "no step": (["--steps", "0"], "--steps must be at least 1"),
    "no picture step": (["--picture-steps", "0"], "--picture-steps must be at least 1"),
    "one sample": (["--samples", "1"], "--samples must be at least 2"),
    "one picture": (["--pictures", "1"], "--pictures must be at least 2"),
    "no part": (["--parts"], "--parts must name at least one part"),
    "twice": (["--parts", "images", "images"], "none twice"),
    "no unit": (["--hidden", "0"], "--hidden must be at least 1"),
}


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    given = ["--out", str(tmp_path / "new"), *args]
    assert command_line.run(sampling.main, sampling.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not list(tmp_path.iterdir())
