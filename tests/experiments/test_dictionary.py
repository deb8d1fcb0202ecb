"""The dictionary experiment: its examples, what a step carries, recovery, one run end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_settings import as_on_the_command_line

from experiments import dictionary
from experiments.common.plots import style
from experiments.common.run import command_line
from experiments.dictionary import (
    examples,
    frontier,
    known_truth,
    networks,
    recovery,
    synthetic_truth,
    truth_networks,
)


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Experiments run with JAX's own settings, as on the command line."""
    with as_on_the_command_line():
        yield


class Log:
    """Takes what a run is told, and keeps no checkpoints."""

    def __init__(self):
        self.lines = []

    def log(self, doing, **entry):
        self.lines.append(entry)

    def checkpoints(self, names, model):
        return None


def test_examples_are_sums_of_so_many_atoms(key):
    data = examples.sums(key, atoms=10, inputs=16, active=3, count=200)
    np.testing.assert_allclose(jnp.linalg.norm(data.atoms, axis=1), 1, rtol=1e-5)
    assert (len(data.train), len(data.test)) == (200, 40)
    for x in (data.train, data.test):
        weights = np.linalg.lstsq(np.asarray(data.atoms).T, np.asarray(x).T, rcond=None)[0].T
        is_active = np.abs(weights) > 1e-3
        assert (is_active.sum(axis=1) == 3).all()
        assert weights[is_active].min() > 0.49
        assert weights[is_active].max() < 1.51
        assert (is_active.mean(axis=0) > 0.1).all()


def test_patches_are_parts_of_images_and_never_of_one_colour():
    places = np.arange(6 * 7, dtype=np.float32).reshape(6, 7)
    images = np.stack([places, 100 + places, np.zeros((6, 7), np.float32)])[..., None]
    generator = np.random.default_rng(0)
    found = examples.patches(images, size=3, count=50, generator=generator)
    assert found.shape == (50, 3, 3, 1)
    corner = found[:, :1, :1]
    by_hand = np.arange(3)[:, None] * 7 + np.arange(3)[None]
    np.testing.assert_array_equal(found - corner, np.broadcast_to(by_hand[..., None], found.shape))
    assert {0, 100} == set((corner // 100 * 100).reshape(-1).astype(int))
    assert len(np.unique(corner)) > 10
    blank = examples.patches(images[2:], size=3, count=50, generator=generator)
    assert len(blank) == 0


def test_a_step_of_size_one_sets_what_is_carried():
    now, following = jnp.array([1.0, -2.0]), jnp.array([0.5, 7.0])
    value, gradient = jax.value_and_grad(networks.carried)(now, following)
    assert float(value) == 0
    np.testing.assert_allclose(now - gradient, following)


def small(name, active, epochs=1, count=600):
    schedule = networks.Schedule(32, 1e-2, 100, epochs, 1)
    family = networks.Family(networks.KINDS[name], 24, [active], schedule, count)
    data = examples.sums(jax.random.key(1), atoms=32, inputs=24, active=active, count=count)
    return family, data


@pytest.mark.thorough(by_default=["top-k", "L1, unit atoms"])
@pytest.mark.parametrize("name", networks.KINDS)
def test_what_a_step_remembers_is_right(name):
    family, data = small(name, 2)
    log = Log()
    on_epoch = lambda _, epoch, loss: networks.tag("one").log(log, epoch, loss)
    keys, options = [jax.random.key(2)], {"on_epoch": on_epoch, "checkpoints": None}
    (params,) = family.fit_many(keys, data.train, [0.0], **options)
    assert float(params["steps"]) == 6
    assert [line["epoch"] for line in log.lines] == [1]
    # after t batches the running mean is (1 - m)^t + m * sum of shares: between these bounds
    low = (1 - networks.MEMORY) ** 6
    assert (params["firing"] >= low - 1e-6).all()
    assert (params["firing"] <= 1).all()
    assert float(params["firing"].min()) < 0.999
    norms = jnp.linalg.norm(params["atoms"], axis=1)
    if networks.KINDS[name].has_unit_norm:
        np.testing.assert_allclose(norms, 1, rtol=1e-5)
    else:
        assert float(jnp.abs(norms - 1).max()) > 1e-3
    code = jax.vmap(family.code, (None, None, 0))(params, jnp.float32(0), data.test)
    if networks.KINDS[name].is_top_k:
        assert int((code > 0).sum(axis=1).max()) <= 2


def test_the_weight_rises_from_zero_over_the_first_tenth():
    family, data = small("L1, free atoms", 2, epochs=50)  # 300 steps, 30 of warm-up
    params = networks.initial(jax.random.key(0), 24, 32)
    loss = lambda steps, weight: family._loss(
        params | {"steps": jnp.float32(steps)}, None, data.train[:5], jnp.float32(weight)
    )
    np.testing.assert_allclose(loss(0, 3.0), loss(0, 0.0), rtol=1e-6)
    whole = loss(30, 3.0) - loss(30, 0.0)
    assert float(whole.min()) > 0
    np.testing.assert_allclose(loss(15, 3.0) - loss(15, 0.0), whole / 2, rtol=1e-4)
    np.testing.assert_allclose(loss(200, 3.0) - loss(200, 0.0), whole, rtol=1e-4)


@pytest.mark.thorough(by_default=["L1, unit atoms"])
@pytest.mark.parametrize("name", ["L1, free atoms", "L1, unit atoms", "top-k"])
def test_known_atoms_are_found(name):
    family, data = small(name, 2, epochs=40, count=3000)
    kind = networks.KINDS[name]
    (run,) = recovery.train_and_measure(family, [jax.random.key(3)], [data], [0], ["one"], Log())
    assert run["recovered_share"] >= 0.9, kind
    assert run["explained_variance"] > 0.8
    assert run["active_units"] <= (2 if kind.is_top_k else 8)


TINY = synthetic_truth.Size(100, 8, 1, 12, 20, 1e-2, 4000, (2, 4))


@pytest.fixture(scope="module")
def tiny_truth():
    with as_on_the_command_line():
        return synthetic_truth.make_truth(jax.random.key(0), TINY)


@pytest.mark.thorough(by_default=["JumpReLU", "Matryoshka"])
@pytest.mark.parametrize("method", truth_networks.LOOKS)
def test_every_method_trains_with_the_number_of_units_it_was_told(method, tiny_truth):
    trainer = truth_networks.MethodTrainer(method, tiny_truth, TINY, 400, 1)
    slots, keys = jnp.zeros((800, 1)), [jax.random.key(1)] * 2
    options = {"on_epoch": lambda network, epoch, loss: None, "checkpoints": None}
    x, _ = synthetic_truth.draw_examples(tiny_truth, jax.random.key(2), 500)
    trained = trainer.fit_many(keys, slots, [0.0, 1.0], **options)
    for params, target in zip(trained, TINY.targets, strict=True):
        network = trainer.network(target)
        _, encode, decode = network.make(**network.arguments)
        code = jax.vmap(encode, (None, 0))(params, x)
        x_hat = jax.vmap(decode, (None, 0))(params, code)
        l0 = float((code > 0).sum(axis=1).mean())
        assert 0.5 * target < l0 < 1.5 * target, (method, target, l0)
        assert 1 - float(((x - x_hat).var(axis=0)).sum() / x.var(axis=0).sum()) > 0.3
        np.testing.assert_allclose(jnp.linalg.norm(params["atoms"], axis=1), 1, rtol=1e-5)
        assert (params["firing"] <= 1).all()
        assert float(params["firing"].min()) < 0.9


def test_scores_of_a_dictionary_that_is_the_truth(tiny_truth, monkeypatch):
    monkeypatch.setattr(known_truth, "HELD_OUT", 2048)
    units = tiny_truth.atoms[:8]  # as many as there are dimensions

    def encode(params, x_i):  # by least squares; the strengths of all other atoms are noise
        return jax.nn.relu(jnp.linalg.solve(params["atoms"].T, x_i) - 1.0)

    decode = lambda params, code: code @ params["atoms"]
    network = type("Network", (), {"encode": staticmethod(encode), "decode": staticmethod(decode)})
    measure_piece = known_truth._make_measure_piece(tiny_truth, network)
    found = known_truth._scores(tiny_truth, measure_piece, {"atoms": units}, jax.random.key(3))
    assert set(found) == set(known_truth.UNITS)
    np.testing.assert_allclose(found["mean_correlation"], 1, rtol=1e-5)
    assert found["uniqueness"] == 1
    assert found["recall"] > 0.5
    assert 0 < found["precision"] < 1
    assert min(found["precision"], found["recall"]) * 0.9 < found["f1"] < 1


LEFT_OUT = tuple(name for name in networks.KINDS if name != "top-k")  # compiling takes its time
KEPT = set(networks.KINDS) - set(LEFT_OUT)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """One run of very few steps on a user's own images without labels; its folder."""
    folder = tmp_path_factory.mktemp("dictionary")
    np.save(folder / "x.npy", np.random.default_rng(0).random((60, 5, 5), np.float32))
    args = ["--dataset", str(folder / "x.npy"), "--epochs", "1", "--num-seeds", "2"]
    args += ["--patch-size", "4", "--patches", "300", "--units", "8", "--quick"]
    args += ["--out", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch, as_on_the_command_line():
        patch.setitem(style.STYLE, "savefig.dpi", 30)
        patch.setattr(synthetic_truth, "SMALL", TINY)
        patch.setattr(known_truth, "HELD_OUT", 1024)
        patch.setattr(known_truth, "LOOKS", {"BatchTopK": truth_networks.LOOKS["BatchTopK"]})
        for name in LEFT_OUT:
            patch.delitem(networks.KINDS, name)
        assert command_line.run(dictionary.main, dictionary.Config, args) == 0
    return folder / "out"


def test_a_run_leaves_every_file_and_complete_numbers(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    atoms = {"top-k"}
    figures = {"recovery", "frontier", "known_truth", *(f"atoms_{name}" for name in atoms)}
    files = {"metrics.json", "config.json", "log.jsonl", ".files.json"}
    assert names == {f"{name}.png" for name in figures} | files
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    rows = {(row["method"], row["active_atoms"]) for row in metrics["recovery"]}
    assert rows == {(name, active) for name in KEPT for active in (3, 4, 5)}
    for row in metrics["recovery"]:
        assert set(recovery.UNITS) < set(row)
        assert len(row["recovered_share"]["values"]) == 2
        assert 0 < row["mean_max_cosine"]["mean"] <= 1
    for row in metrics["frontier"]:
        assert set(frontier.UNITS) < set(row)
        if networks.KINDS[row["method"]].is_top_k:
            assert row["active_units"]["mean"] <= row["setting"] in (4, 8)
    rows = {(row["method"], row["target"]) for row in metrics["known_truth"]}
    assert rows == {("BatchTopK", 2), ("BatchTopK", 4)}
    for row in metrics["known_truth"]:
        assert set(known_truth.UNITS) < set(row)
        assert len(row["f1"]["values"]) == 2
    about = metrics["synthetic_truth"]
    assert (about["atoms"], about["dimensions"], about["units"]) == (100, 8, 12)
    assert about["samples"] == 200
    assert 1 < about["active_atoms"] < 10
    epochs = len((tiny_run / "log.jsonl").read_text().splitlines())
    assert epochs == 2 * (3 + 2 + 2 * truth_networks.EPOCHS)


BAD = {
    "patch": (["--patch-size", "1"], "--patch-size must be at least 2"),
    "patches": (["--patches", "3"], "--patches must be at least 10"),
    "samples": (["--truth-samples", "0"], "--truth-samples must be at least 1"),
    "units": (["--units", "2"], "--units must be at least 4"),
    "blank": ([], "--dataset has no patches with something in them"),
}


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8), np.float32))
    given = ["--dataset", str(tmp_path / "x.npy"), "--out", str(tmp_path / "new"), *args]
    assert command_line.run(dictionary.main, dictionary.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
