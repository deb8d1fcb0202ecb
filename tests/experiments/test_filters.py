"""The filter experiment: its two numbers in closed form, one run end to end, bad options."""

import json
import re

import numpy as np
import pytest
from jax_settings import as_on_the_command_line

from experiments import filters
from experiments.common.plots import style
from experiments.common.run import command_line
from experiments.filters import structure

RNG = np.random.default_rng(9)


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Experiments run with JAX's own settings, as on the command line."""
    with as_on_the_command_line():
        yield


def test_roughness_of_noise_is_one_of_a_plane_almost_none_and_by_hand():
    noise = RNG.normal(size=(300, 12, 12, 1))
    # an independent pair has E d^2 = 2 var; 264 pairs of 300 filters: within 4 standard errors
    assert abs(structure.roughness(noise) - 1) < 4 * np.sqrt(8 / (264 * 300))
    plane = np.broadcast_to(np.arange(12.0)[None, :, None, None], (1, 12, 12, 1))
    # half of the neighbours differ by 1; the variance of 0..11 is 143 / 12
    np.testing.assert_allclose(structure.roughness(plane), 0.5 / (2 * 143 / 12), rtol=1e-12)
    checkers = np.indices((8, 8)).sum(0)[None, ..., None] % 2
    np.testing.assert_allclose(structure.roughness(checkers), 2.0)
    np.testing.assert_allclose(structure.roughness(7 * checkers - 3), 2.0)  # scale and offset free
    both = np.concatenate([checkers, np.ones((1, 8, 8, 1))])
    np.testing.assert_allclose(structure.roughness(both), 2.0)
    assert structure.roughness(np.ones((2, 3, 3, 1))) == 0


def test_extent_counts_pixels():
    some = np.zeros((3, 4, 4, 1))
    some[0, 0, 0] = 5.0
    some[1, :2, :2] = -0.5
    some[2] = 1.0
    assert structure.extent(some[:1]) == 1
    assert structure.extent(some) == 4
    assert structure.extent(some[2:]) == 16
    assert structure.extent(np.zeros((1, 4, 4, 1))) == 0


def run(folder, **arrays):
    np.savez(folder / "x.npz", **arrays)
    args = ["--dataset", str(folder / "x.npz"), "--epochs", "2", "--code-dim", "6"]
    args += ["--noise-levels", "0", "0.5", "--emphasis-level", "0.5", "--emphases", "1", "0"]
    args += ["--num-seeds", "2", "--batch-size", "40", "--quick", "--out", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch, as_on_the_command_line():
        patch.setitem(style.STYLE, "savefig.dpi", 30)
        assert command_line.run(filters.main, filters.Config, args) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """One run of very few steps on a user's own few images; its folder."""
    labels = np.arange(100) % 2
    x = RNG.random((100, 4, 4), np.float32)
    arrays = {"x_train": x[:80], "x_test": x[80:], "y_train": labels[:80], "y_test": labels[80:]}
    return run(tmp_path_factory.mktemp("filters"), **arrays)


def test_a_run_leaves_every_file_and_complete_numbers(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    grids = {"0_beta-1", "0.5_beta-1", "0.5_beta-0"}
    figures = {"filters.png", "compared.png", *(f"filters_noise-{grid}.png" for grid in grids)}
    assert names == figures | {"metrics.json", "config.json", "log.jsonl", ".files.json"}
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    rows = metrics["networks"]
    assert [(row["level"], row["beta"]) for row in rows] == [(0, 1), (0.5, 1), (0.5, 0)]
    for row in rows:
        assert set(row) == {"level", "beta", *structure.UNITS}
        assert all(len(row[name]["values"]) == 2 for name in structure.UNITS)
    nll = [row["test_nll"]["values"][0] for row in rows]
    assert len(set(nll)) == 3, "noise and emphasis make a difference"
    epochs = len((tiny_run / "log.jsonl").read_text().splitlines())
    assert epochs == 3 * 2 * (2 + 2)


BAD = {
    "falling": (["--noise-levels", "0.5", "0.1"], "--noise-levels must be values that rise"),
    "none": (["--noise-levels"], "--noise-levels must be values that rise"),
    "too much": (["--noise-levels", "2"], "--noise-levels must be .* at most 1"),
    "no noise": (["--emphasis-level", "0"], "--emphasis-level must be .* above 0"),
    "emphasis": (["--emphases", "-1"], "--emphases must be .* at least 0"),
    "twice": (["--emphases", "1", "1"], "--emphases must name no value twice"),
    "strip": ([], "images must have 2 x 2 pixels at least"),
}


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 1, 7), np.float32))
    given = ["--dataset", str(tmp_path / "x.npy"), "--out", str(tmp_path / "new"), *args]
    assert command_line.run(filters.main, filters.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert re.search(match, line)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
