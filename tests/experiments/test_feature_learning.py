"""Feature learning: losses in closed form, early stopping, the search, one run end to end."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_settings import as_on_the_command_line

import jaxae
from experiments import feature_learning
from experiments.common.data import datasets
from experiments.common.errors import InputError
from experiments.common.plots import style
from experiments.common.run import command_line
from experiments.common.training import classifiers
from experiments.common.training.classifiers import Classifier, Examples, Split
from experiments.feature_learning import methods, search, verdicts

RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Experiments run with JAX's own settings, as on the command line."""
    with as_on_the_command_line():
        yield


def test_weight_decay_is_the_squared_norm_of_the_tied_weights(key):
    model = jaxae.DenseAutoencoder((5,), 7, code_activation=jax.nn.sigmoid, tied=True)
    init, encode, decode = jaxae.as_functions(model)
    params = init(key)
    bound = (lambda x_i: encode(params, x_i)), (lambda z: decode(params, z))
    x = jnp.asarray(RNG.uniform(size=(3, 5)), jnp.float32)
    plain = methods.plain(key, *bound, x, 0.0)
    decayed = methods.decayed(key, *bound, x, 0.25)
    squared = float(jnp.sum(params["encoder_kernel_0"] ** 2))
    np.testing.assert_allclose(decayed - plain, 0.25 * squared, rtol=1e-4)
    for loss in (methods.contractive, methods.masked, methods.denoising, methods.decayed):
        np.testing.assert_allclose(loss(key, *bound, x, 0.0), plain, rtol=1e-5)
        assert float(loss(key, *bound, x, 0.5).sum()) != float(plain.sum())


def three_classes(n):
    y = RNG.integers(0, 3, size=n)
    x = np.eye(3)[y] @ np.array([[1, 0, 0, 1.0], [0, 1, 0, 1], [0, 0, 1, 1]])
    noisy = x + 0.7 * RNG.normal(size=(n, 4))
    return Examples(jnp.asarray(noisy, jnp.float32), jnp.asarray(y))


@pytest.fixture(scope="module")
def split():
    return Split(three_classes(300), three_classes(90), three_classes(90), 3)


@pytest.mark.thorough(by_default=["False"])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_the_epoch_with_the_least_validation_error_counts(split, is_frozen):
    options = {"learning_rate": 0.3, "batch_size": 50, "epochs": 4, "devices": 1}
    rows = classifiers.labelled(split.train)
    classifier = Classifier(jax.nn.sigmoid, rows, split, is_frozen=is_frozen, **options)
    layer = (jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32), jnp.zeros(6))
    encoders = [(layer,), ((2 * layer[0], layer[1]),)]
    keys = [jax.random.key(0), jax.random.key(1)]
    nothing = {"on_epoch": lambda *_: None, "checkpoints": None}
    outcomes = [classifier.outcome(b) for b in classifier.best_of_many(keys, encoders, **nothing)]
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert outcome.epochs in (1, 2, 3, 4)
        assert outcome.validation_error < 50 < 200 / 3
        # a whole number of the 90 images
        assert abs(outcome.test_error * 0.9 - round(outcome.test_error * 0.9)) < 1e-3
    (alone,) = classifier.best_of_many(keys[:1], encoders[:1], **nothing)
    assert classifier.outcome(alone) == outcomes[0]
    assert bool(jnp.all(alone.params["layers"][0][0] == layer[0])) == is_frozen
    logits = jax.vmap(classifier.logits, (None, 0))(alone.params, split.test.x)
    wrong = 100 * float(jnp.mean(jnp.argmax(logits, axis=1) != split.test.y))
    np.testing.assert_allclose(wrong, outcomes[0].test_error, rtol=1e-5)


def test_codes_and_neighbours_by_hand(split):
    kernel, bias = jnp.eye(4), jnp.zeros(4)
    x_i = split.test.x[0]
    both = classifiers.encode(((kernel, bias), (2 * kernel, bias)), jnp.tanh, x_i)
    np.testing.assert_allclose(both, np.tanh(2 * np.tanh(x_i)), rtol=1e-6)
    error = classifiers.neighbours_error(((kernel, bias),), lambda h: h, split)
    x, y = (np.asarray(part) for part in split.train)
    wrong = 0
    for example, label in zip(*map(np.asarray, split.test), strict=True):
        near = y[np.argsort(((x - example) ** 2).sum(1))[: classifiers.NEIGHBOURS]]
        wrong += np.bincount(near, minlength=3).argmax() != label
    np.testing.assert_allclose(error, 100 * wrong / 90, atol=1e-4)


def dataset(n=60, *, labels=True):
    x = RNG.random((n, 4, 4, 1), np.float32)
    y = np.arange(n) % 3 + 5
    return datasets.Dataset("x", x, x[:10], *((y, y[:10]) if labels else (None, None)))


def test_the_last_sixth_validates_and_classes_count_from_zero():
    split = classifiers.split_of(dataset())
    assert [len(part.x) for part in split[:3]] == [50, 10, 10]
    assert split.num_classes == 3
    np.testing.assert_array_equal(split.validation.y, np.arange(50, 60) % 3)
    trained_on, held_out = (np.asarray(part.x) for part in split[:2])
    assert not (trained_on[:, None] == held_out[None]).all(-1).any()
    with pytest.raises(InputError, match="must have labels"):
        classifiers.split_of(dataset(labels=False))
    with pytest.raises(InputError, match="6 training images"):
        classifiers.split_of(dataset(5))


def row(error, jacobian):
    return {"test_error": {"mean": error}, "jacobian_norm": {"mean": jacobian}}


def test_verdicts_follow_the_numbers():
    papers = methods.papers("mnist", 50_000, 1000)
    assert methods.papers("digits", 50_000, 1000) == methods.papers("mnist", 50_000, 100) == {}
    assert methods.papers("mnist", 833, 1000) == {}  # a quick run
    good = {name: row(paper.test_error, paper.jacobian) for name, paper in papers.items()}
    found = verdicts.of(good, papers)
    assert len(found) == 5 + 2 + 2
    assert all(found.values())
    worse = good | {"CAE": row(1.14 + 0.26, 0.73), "DAE-g": row(1.8, 0.6)}
    false = {statement for statement, holds in verdicts.of(worse, papers).items() if not holds}
    assert {statement[:5] for statement in false} == {"CAE: ", "DAE-g", "order"}
    assert len(false) == 5
    assert verdicts.of({"CAE": good["CAE"]}, papers).keys() == {
        "CAE: at most 0.25 points above the published error"
    }


VALIDATION = {  # by strength and step size, of two seeds
    (0.3, 0.01): (1.0, 4.0),  # the least of the first seed, and of all runs
    (0.6, 0.01): (2.0, 3.1),
    (1.2, 0.01): (3.0, 3.0),
    (0.3, 0.02): (2.6, 2.6),
    (0.6, 0.02): (2.5, 2.3),  # the least mean
    (1.2, 0.02): (2.4, 2.6),
}


class Tabled(search.MethodTrainer):
    """Trains nothing; its validation errors stand in a table."""

    def pretrain(self):
        names = {strength: f"layers of strength {strength}" for strength, _ in VALIDATION}
        return {
            strength: [f"{name}, seed {seed}" for seed in (0, 1)]
            for strength, name in names.items()
        }

    def fine_tune(self, encoders, rate):
        assert encoders == self.pretrain()
        outcome = lambda error: classifiers.Outcome(error, 10 * error, 1.0)
        return {
            strength: [outcome(error) for error in VALIDATION[strength, rate]]
            for strength in encoders
        }


def test_the_least_mean_over_the_seeds_chooses():
    setup = search.Setup(None, 8, 3, 1e-3, None, (0.01, 0.02), 25, 1, 2, 0, 2, 1)
    choice, encoders, outcomes = Tabled("CAE", setup, None, None).search()
    assert (choice.strength, choice.rate) == (0.6, 0.02)
    assert encoders == ["layers of strength 0.6, seed 0", "layers of strength 0.6, seed 1"]
    assert [outcome.test_error for outcome in outcomes] == [25.0, 23.0]
    assert len(choice.tried) == 6
    for tried in choice.tried:
        error = tried["validation_error"]
        assert tuple(error["values"]) == VALIDATION[tried["strength"], tried["rate"]]
        np.testing.assert_allclose(error["mean"], np.mean(error["values"]))


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """One run of very few steps on a user's own few images; its folder."""
    folder = tmp_path_factory.mktemp("features")
    labels = np.arange(120) % 2
    x = (0.5 * labels[:, None, None] + 0.5 * RNG.random((120, 4, 4))).astype(np.float32)
    np.savez(
        folder / "x.npz",
        x_train=x[:90],
        x_test=x[90:],
        y_train=labels[:90],
        y_test=labels[90:],
    )
    args = ["--dataset", str(folder / "x.npz"), "--epochs", "1", "--fine-tuning-epochs", "2"]
    args += ["--code-dim", "8", "--top-k", "3", "--batch-size", "25", "--num-seeds", "2"]
    args += ["--fine-tuning-rates", "0.006"]  # compiling takes its time
    args += ["--strengths", "2"]
    args += ["--methods", "CAE", "k-sparse", "no pretraining", "--out", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch, as_on_the_command_line():
        patch.setitem(style.STYLE, "savefig.dpi", 30)
        assert command_line.run(feature_learning.main, feature_learning.Config, args) == 0
    return folder / "out"


def test_a_run_leaves_every_file_and_complete_numbers(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    files = {"metrics.json", "config.json", "log.jsonl", ".files.json"}
    assert names == {"errors.png", "contraction.png"} | files
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    cae, sparse, none = (metrics["methods"][n] for n in ("CAE", "k-sparse", "no pretraining"))
    always = {"validation_error", "test_error", "epochs"}
    of_layer = {"probe_error", "neighbours_error"}
    assert always < set(none)
    assert not of_layer & set(none)
    assert of_layer < set(sparse)
    assert set(search.UNITS) < set(cae)
    for name in search.UNITS:
        assert len(cae[name]["values"]) == 2
    np.testing.assert_allclose(
        cae["jacobian_per_entry"]["mean"], 1e4 * cae["jacobian_norm"]["mean"] / (16 * 8)
    )
    best = min(cae["searched"], key=lambda tried: tried["validation_error"]["mean"])
    assert [tried["strength"] for tried in cae["searched"]] == [0.15, 1.8]
    assert (cae["strength"], cae["fine_tuning_rate"]) == (best["strength"], best["rate"])
    assert cae["validation_error"] == best["validation_error"]
    assert metrics["images"] == {"pretraining and fine-tuning": 75, "validation": 15, "test": 30}
    assert metrics["verdicts"] == {}  # nothing is printed of such data


def test_the_log_has_as_many_epochs_as_the_progress_bar_waits_for(tiny_run):
    log = (tiny_run / "log.jsonl").read_text().splitlines()
    config = json.loads((tiny_run / "config.json").read_text())["settings"]
    setup = search.Setup(None, 8, 3, 1e-3, 2, (6e-3,), 25, 1, 2, 0, 2, 1)
    assert config["methods"] == ["CAE", "k-sparse", "no pretraining"]
    assert len(log) == sum(search.epochs_of(name, setup) for name in config["methods"])


BAD = {
    "method": (["--methods", "RBM"], "--methods must be of CAE, .* but has 'RBM'"),
    "twice": (["--methods", "AE", "AE"], "--methods must name at least one method, and none twice"),
    "rates": (["--fine-tuning-rates", "0"], "--fine-tuning-rates must be a finite number above 0"),
    "one strength": (["--strengths", "1"], "--strengths must be at least 2 and at most 100"),
    "rates twice": (
        ["--fine-tuning-rates", "0.1", "0.1"],
        "--fine-tuning-rates must be values that rise",
    ),
    "top k": (["--code-dim", "8", "--top-k", "9"], "--top-k must be at least 1 and at most 8"),
    "epochs": (["--fine-tuning-epochs", "0"], "--fine-tuning-epochs must be at least 1"),
    "labels": ([], "--dataset must have labels"),
}


@pytest.mark.parametrize(("args", "match"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 4, 4), np.float32))
    given = ["--dataset", str(tmp_path / "x.npy"), "--out", str(tmp_path / "new"), *args]
    assert command_line.run(feature_learning.main, feature_learning.Config, given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert re.search(match, line)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
