"""The estimators: their losses are the library's, and they work as scikit-learn's users expect.

``test_sklearn_checks.py`` runs scikit-learn's own checks.
"""

import inspect
import pickle
import re
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jaxae
from jaxae import sklearn as estimators
from jaxae.sklearn import ContractiveAutoencoder, DenoisingAutoencoder, SparseAutoencoder
from jaxae.sklearn._network import Architecture, make_network

ESTIMATORS = [getattr(estimators, name) for name in estimators.__all__]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
ROWS, FEATURES = 40, 4
# So small a step that the parameters stay the initial ones.
STILL = {"learning_rate": 1e-30, "max_iter": 1}


# Users see the errors of the estimator, not those of the type checker.
pytestmark = pytest.mark.usefixtures("no_type_hook")


@pytest.fixture(scope="module")
def table():
    """Rows near a plane, features of different units."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(ROWS, 2)) @ rng.normal(size=(2, FEATURES))
    noise = 0.1 * rng.normal(size=(ROWS, FEATURES))
    return (plane + noise) * [1, 10, 100, 0.1] + [0, 5, -70, 1]


@pytest.fixture
def unit_table(table):
    """The same between 0 and 1."""
    low, high = table.min(0), table.max(0)
    return (table - low) / (high - low)


def make(estimator=SparseAutoencoder, **options):
    """Returns an estimator that compiles little: all rows in a batch, two units."""
    given = {"n_components": 2, "batch_size": 100, "max_iter": 2, "random_state": 0}
    return estimator(**given | options)


def functions(model):
    """Returns encoder and decoder of a fitted estimator as jaxae wants them."""
    parts = jaxae.as_functions(
        jaxae.DenseAutoencoder(
            (FEATURES,),
            model.n_components,
            code_activation={
                "relu": jax.nn.relu,
                "sigmoid": jax.nn.sigmoid,
                "tanh": jax.numpy.tanh,
            }[model.code_activation],
            tied=model.tied_weights,
        )
    )
    return partial(parts.encode, model.params_), partial(parts.decode, model.params_)


def standardized(table):
    return ((table - table.mean(0)) / table.std(0)).astype(np.float32)


def test_the_library_does_not_import_scikit_learn():
    code = "import sys, jaxae; print('sklearn' in sys.modules, 'safetensors' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "False"]


@pytest.mark.thorough(by_default=["SparseAutoencoder"])
@each_estimator
def test_the_docstring_describes_every_parameter_and_no_other(estimator, table):
    doc = inspect.getdoc(estimator)
    for section in ("Args", "Attributes", "Raises", "Example", "References"):
        assert f"\n{section}:\n" in doc
    args = doc.split("\nArgs:\n")[1].split("\nAttributes:\n")[0]
    described = re.findall(r"^  (\w+): ", args, flags=re.MULTILINE)
    assert sorted(described) == sorted(inspect.signature(estimator).parameters)
    attributes = doc.split("\nAttributes:\n")[1].split("\nRaises:\n")[0]
    described = re.findall(r"^  (\w+): ", attributes, flags=re.MULTILINE)
    fitted = make(estimator).fit(table)
    assert {*described} - {"feature_names_in_"} <= set(dir(fitted))
    assert {name for name in vars(fitted) if name.endswith("_")} <= {*described}


@pytest.mark.parametrize(
    "name",
    [
        *("fit", "partial_fit", "transform", "inverse_transform", "reconstruction_error", "score"),
        "load",
    ],
)
def test_the_methods_are_documented(name):
    method = getattr(SparseAutoencoder, name)
    doc = inspect.getdoc(method)
    assert re.match(r"(Returns|Trains) .*\.$", doc.splitlines()[0])
    order = [doc.index(f"\n{section}:\n") for section in ("Args", "Returns", "Raises")]
    assert order == sorted(order)
    described = re.findall(r"^  (\w+): ", doc[order[0] : order[1]], flags=re.MULTILINE)
    assert described == [name for name in inspect.signature(method).parameters if name != "self"]


def test_the_sparse_loss_is_that_of_the_library(table):
    model = make(SparseAutoencoder, weight=0.5, **STILL).fit(table)
    encode, decode = functions(model)
    penalty = partial(
        jaxae.decoder_weighted_l1_penalty,
        decoder=jax.numpy.array(model.params_["decoder_kernel_0"]),
    )
    loss = partial(jaxae.sparse_loss, encode, decode, weight=0.5, penalty=penalty)
    expected = np.mean(jax.jit(loss)(standardized(table)))
    np.testing.assert_allclose(model.loss_curve_, [expected], rtol=1e-5)


def test_the_contractive_loss_is_that_of_the_library(table):
    model = make(ContractiveAutoencoder, weight=0.5, **STILL).fit(table)
    encode, decode = functions(model)
    loss = partial(jaxae.contractive_loss, encode, decode, weight=0.5)
    expected = np.mean(jax.jit(loss)(standardized(table)))
    np.testing.assert_allclose(model.loss_curve_, [expected], rtol=1e-5)
    assert "decoder_kernel_0" not in model.params_  # tied


@pytest.mark.thorough(by_default=["masking-1.0"])
@pytest.mark.parametrize(("noise", "level"), [("gaussian", 0.0), ("masking", 1.0)])
def test_the_denoising_loss_is_that_of_the_library(noise, level, table):
    model = make(DenoisingAutoencoder, noise=noise, noise_level=level, **STILL).fit(table)
    encode, decode = functions(model)
    x = standardized(table)
    x_noisy = np.zeros_like(x) if noise == "masking" else x  # all features masked, or no noise
    x_hat = np.asarray(jax.jit(jax.vmap(lambda x_i: decode(encode(x_i))))(x_noisy))
    expected = np.square(x_hat - x).sum(1).mean()
    np.testing.assert_allclose(model.loss_curve_, [expected], rtol=1e-5)


def test_the_filters_of_tied_and_deep_networks():
    up, down = np.ones((3, 2)), np.zeros((2, 3))
    params = {"encoder_kernel_1": up, "decoder_kernel_0": down}
    plain = Architecture(FEATURES, 2, (3,), "relu", "relu", False, "squared_error", "float32")
    np.testing.assert_array_equal(make_network(plain).filters(params), down)
    tied = plain._replace(tied_weights=True)
    np.testing.assert_array_equal(make_network(tied).filters(params), up.T)


def test_rows_come_back_in_their_units(table):
    model = make(n_components=8, max_iter=2000, learning_rate=0.01, weight=0.0).fit(table)
    codes = model.transform(table)
    assert codes.shape == (ROWS, 8)
    x_hat = model.inverse_transform(codes)
    assert np.abs((x_hat - table) / table.std(0)).mean() < 0.05
    errors = model.reconstruction_error(table)
    by_hand = (((x_hat - table) / table.std(0)) ** 2).sum(1)
    np.testing.assert_allclose(errors, by_hand, rtol=1e-3, atol=1e-5)
    assert model.score(table) == pytest.approx(-errors.mean())
    with pytest.raises(ValueError, match="X must be codes with 8 columns"):
        model.inverse_transform(table)


def test_a_row_off_the_plane_has_a_large_error(table):
    model = make(
        DenoisingAutoencoder, code_activation="identity", max_iter=1000, learning_rate=0.01
    )
    model.fit(table)
    plane = np.linalg.svd(standardized(table))[2]
    off = table.mean(0) + 3 * plane[-1] * table.std(0)
    assert model.reconstruction_error(off[None]) > 5 * model.reconstruction_error(table).max()


def test_the_loss_is_chosen_for_the_data(table, unit_table):
    assert make().fit(table).loss_function_ == "squared_error"
    assert make().fit(unit_table).loss_function_ == "squared_error"  # standardised
    assert make(standardize=False).fit(table).loss_function_ == "squared_error"
    model = make(standardize=False).fit(unit_table)
    assert model.loss_function_ == "cross_entropy"
    x_hat = model.inverse_transform(1e3 * model.transform(unit_table))
    assert x_hat.min() >= 0
    assert x_hat.max() <= 1
    encode, decode = functions(model)
    x = unit_table.astype(np.float32)
    options = {"reconstruction": jaxae.bernoulli_nll}
    nats = jax.jit(partial(jaxae.reconstruction_loss, encode, decode, **options))(x)
    np.testing.assert_allclose(model.reconstruction_error(unit_table), nats, rtol=1e-5)
    assert model.transform(unit_table + 1).shape == (ROWS, 2)  # a code does not need targets
    for method in (model.reconstruction_error, model.score, model.partial_fit):
        with pytest.raises(
            ValueError, match=r"in \[0, 1\] for the cross-entropy, but has .* to 2;"
        ):
            method(unit_table + 1)


@each_estimator
def test_two_passes_by_hand_are_a_fit_of_two_passes(estimator, table):
    at_once = make(estimator).fit(table)
    by_hand = make(estimator).partial_fit(table).partial_fit(table)
    assert by_hand.n_iter_ == at_once.n_iter_ == 2
    assert by_hand.loss_curve_ == at_once.loss_curve_
    jax.tree.map(np.testing.assert_array_equal, by_hand.params_, at_once.params_)
    by_hand.fit(table)  # from the start again
    jax.tree.map(np.testing.assert_array_equal, by_hand.params_, at_once.params_)


def test_the_first_part_decides_the_standardisation(table):
    model = make().partial_fit(table)
    mean = model.mean_
    assert model.partial_fit(2 * table).mean_ is mean
    np.testing.assert_allclose(mean, table.mean(0))


def test_early_stopping_keeps_the_best(table, monkeypatch):
    options = {"early_stopping": True, "validation_fraction": 0.25, "learning_rate": 0.3}
    model = make(max_iter=500, n_iter_no_change=5, **options).fit(table)
    assert 5 < model.n_iter_ < 500
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
    # The stop is heard after the pass that follows it.
    assert model.n_iter_ - 1 - np.argmax(model.validation_scores_) in (5, 6)
    _, held_out = train_test_split(table, test_size=0.25, random_state=model._seed)
    assert model.score(held_out) == pytest.approx(max(model.validation_scores_))
    assert make().fit(table).validation_scores_ is None


def test_computations_are_in_the_dtype_of_the_library(table):
    model = make().fit(table)
    assert model.params_["encoder_kernel_0"].dtype == np.float32
    for dtype in (np.float32, np.float64):
        codes = model.transform(table.astype(dtype))
        assert codes.dtype == model.inverse_transform(codes).dtype == dtype
        assert model.reconstruction_error(table.astype(dtype)).dtype == dtype
    with jax.enable_x64(True):
        wide = make().fit(table)
        assert wide.params_["encoder_kernel_0"].dtype == np.float64
        np.testing.assert_allclose(wide.mean_, model.mean_)
        assert wide.transform(table).dtype == np.float64


def test_the_code_of_a_row_does_not_depend_on_the_others(table):
    model = make().fit(table)
    many = np.tile(table, (20, 1))  # more than are encoded at a time
    np.testing.assert_array_equal(model.transform(many)[-ROWS:], model.transform(table))
    np.testing.assert_array_equal(model.transform(table[7:8])[0], model.transform(table)[7])


def test_the_random_state_decides(table):
    first, same, other = (make(random_state=seed).fit(table).params_ for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, same)
    assert not np.array_equal(first["encoder_kernel_0"], other["encoder_kernel_0"])
    np.random.seed(3)  # noqa: NPY002 (what random_state=None means in scikit-learn)
    drawn = make(random_state=None)
    seeds = {drawn.fit(table)._seed, drawn.fit(table)._seed}
    assert len(seeds) == 2
    assert make(random_state=np.random.RandomState(0)).fit(table)._seed not in seeds


def test_verbose_prints_every_pass(table, capsys):
    make(verbose=True).fit(table)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", loss ")[0] for line in lines] == [
        "[SparseAutoencoder] epoch 1",
        "[SparseAutoencoder] epoch 2",
    ]
    make().fit(table)
    assert capsys.readouterr().out == ""


def test_data_frames_come_and_go_with_names(table):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(table, columns=list("abcd"))
    model = make().set_output(transform="pandas").fit(frame)
    codes = model.transform(frame)
    assert list(codes.columns) == ["sparseautoencoder0", "sparseautoencoder1"]
    assert list(model.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame[list("badc")])


def test_the_names_of_the_codes(table):
    names = make(DenoisingAutoencoder).fit(table).get_feature_names_out()
    assert list(names) == ["denoisingautoencoder0", "denoisingautoencoder1"]


def test_a_grid_search_compiles_one_program(table):
    labels = np.arange(ROWS) % 2
    weights = [0.01, 0.02, 0.04]
    pipeline = make_pipeline(StandardScaler(), make(learning_rate=0.011), RidgeClassifier())
    search = GridSearchCV(pipeline, {"sparseautoencoder__weight": weights}, cv=2, refit=False)
    search.fit(table, labels)
    assert len(search.cv_results_["mean_test_score"]) == 3
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    fitted = clone(pipeline).fit(table[: ROWS // 2], labels[: ROWS // 2])
    assert len(fitted[1]._make_training().run._compiled) == 1
    alone = GridSearchCV(make(learning_rate=0.011), {"weight": weights}, cv=2).fit(table)
    assert alone.best_score_ == max(alone.cv_results_["mean_test_score"])
    assert alone.transform(table).shape == (ROWS, 2)


@each_estimator
def test_estimators_are_pickled_cloned_and_saved(estimator, table, tmp_path):
    hidden = (3,) if estimator is SparseAutoencoder else ()
    model = make(estimator, n_components=np.int64(2), hidden_layer_sizes=hidden).fit(table)
    assert clone(model).get_params() == model.get_params()
    model.save(tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = estimator.load(tmp_path / "model.safetensors")
    for again in (pickle.loads(pickle.dumps(model)), loaded):
        assert again.get_params() == model.get_params()
        assert again.loss_curve_ == model.loss_curve_
        np.testing.assert_array_equal(again.transform(table), model.transform(table))
        assert again.score(table) == model.score(table)
        assert again.partial_fit(table).n_iter_ == 3
    others = [other for other in ESTIMATORS if other is not estimator]
    with pytest.raises(ValueError, match=f"must hold a {others[0].__name__}, but holds a"):
        others[0].load(tmp_path / "model.safetensors")


def test_names_and_states_are_saved_where_they_can_be(unit_table, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    random_state = np.random.RandomState(0)
    model = make(standardize=False, random_state=random_state).fit(unit_table)
    model.feature_names_in_ = np.array(list("abcd"), dtype=object)
    model.save("~/model.safetensors")
    loaded = SparseAutoencoder.load(tmp_path / "model.safetensors")
    assert loaded.random_state is None
    assert loaded.scale_ is None
    assert loaded.loss_function_ == "cross_entropy"
    assert list(loaded.feature_names_in_) == list("abcd")


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must be a file that an estimator of jaxae\.sklearn has"):
        SparseAutoencoder.load(tmp_path / "other.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>")
    with pytest.raises(ValueError, match=r"page.safetensors must be a file that an estimator of"):
        SparseAutoencoder.load(tmp_path / "page.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SparseAutoencoder.load(tmp_path / "nowhere")


def test_a_file_that_is_cut_is_refused_and_one_that_cannot_be_written_leaves_nothing(
    unit_table, tmp_path
):
    model = make(standardize=False).fit(unit_table)
    model.save(tmp_path / "model")
    (tmp_path / "new").write_text("as the umask of the user says")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "new").stat().st_mode
    (tmp_path / "model").write_bytes((tmp_path / "model").read_bytes()[:-5])
    with pytest.raises(ValueError, match="must be a file that an estimator of"):
        SparseAutoencoder.load(tmp_path / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        model.save(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        model.save(tmp_path / "nowhere" / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "model", "new"}


@pytest.mark.parametrize(
    ("estimator", "options", "error", "match"),
    [
        (SparseAutoencoder, {"n_components": 0}, ValueError, "n_components must be an integer"),
        (SparseAutoencoder, {"n_components": 2.5}, TypeError, "n_components must be an integer"),
        (SparseAutoencoder, {"hidden_layer_sizes": (0,)}, ValueError, "hidden_layer_sizes must be"),
        (SparseAutoencoder, {"activation": "gelu"}, ValueError, "activation must be one of ident"),
        (SparseAutoencoder, {"code_activation": 3}, ValueError, "code_activation must be one of"),
        (SparseAutoencoder, {"weight": -1}, ValueError, "weight must be .* of at least 0"),
        (ContractiveAutoencoder, {"weight": -1}, ValueError, "weight must be .* of at least 0"),
        (
            DenoisingAutoencoder,
            {"noise": "salt"},
            ValueError,
            "noise must be one of gaussian, mask",
        ),
        (
            DenoisingAutoencoder,
            {"noise_level": -1},
            ValueError,
            "noise_level must be .* at least 0",
        ),
        (
            DenoisingAutoencoder,
            {"noise": "masking", "noise_level": 2},
            ValueError,
            "noise_level must be .* at most 1",
        ),
        (SparseAutoencoder, {"loss": "l1"}, ValueError, "loss must be one of auto, squared_error"),
        (SparseAutoencoder, {"loss": "cross_entropy"}, ValueError, "set standardize=False"),
        (SparseAutoencoder, {"learning_rate": 0}, ValueError, "learning_rate must be .* above 0"),
        (SparseAutoencoder, {"batch_size": 0}, ValueError, "batch_size must be an integer"),
        (SparseAutoencoder, {"max_iter": 0}, ValueError, "max_iter must be an integer"),
        (
            SparseAutoencoder,
            {"early_stopping": True, "validation_fraction": 1.0},
            ValueError,
            "validation_fraction must be .* below 1",
        ),
        (
            SparseAutoencoder,
            {"early_stopping": True, "n_iter_no_change": 0},
            ValueError,
            "n_iter_no_change must be",
        ),
    ],
)
def test_a_wrong_parameter_is_named(estimator, options, error, match, table):
    with pytest.raises(error, match=match):
        make(estimator, **options).fit(table)


def test_a_training_that_breaks_down_says_so(table):
    with pytest.raises(jaxae.NonFiniteLossError, match="lower the learning rate"):
        make(learning_rate=1e30, max_iter=50).fit(table)
