"""Data that are several arrays, and losses with auxiliary outputs: everywhere like one array."""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from jaxae.training import _drive, _windows
from jaxae.training.epoch import epoch_keys

RNG = np.random.default_rng(5)
N = 37  # of 8: four full steps and a rest of five
X = RNG.normal(size=(N, 3)).astype(np.float32)
KNOWN = RNG.uniform(size=(N, 3)) < 0.7
LABEL = np.arange(N)  # int64, as NumPy has it
DATA = {"x": X, "known": KNOWN, "label": LABEL}
SGD = optax.sgd(0.1)
STATE = jaxae.create_train_state(jnp.zeros(3), SGD)
KEY = jaxae.hash_key(jax.random.key(2))


def masked_error(params, key, x, known):
    noise = 0.1 * jax.random.normal(key, params.shape)
    return jnp.where(known, jnp.square((params + noise)[None] - x), 0).sum(-1)


def loss(params, key, batch, scale):
    """A loss whose auxiliary outputs are of three dtypes: two for each example, one of a batch."""
    x, known, label = batch["x"], batch["known"], batch["label"]
    values = scale * masked_error(params, key, x, known)
    return values, {"label": label, "late": [label > 30], "batch": jnp.float32(len(x))}


RUN = jaxae.make_run(loss, SGD, batch_size=8)


def train(data, run=RUN, epochs=3, **options):
    """Returns what every epoch reported, and the parameters."""
    seen = []
    note = lambda *reported: seen.append(reported)
    state = jaxae.fit(run, STATE, KEY, data, 1.0, epochs=epochs, on_epoch=note, **options)
    return seen, np.asarray(state.params)


def same(a, b):
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1], b[1])


@pytest.fixture(scope="module")
def from_memory():
    return train(DATA)


def test_several_arrays_train_as_their_columns_side_by_side_do(from_memory):
    def of_columns(params, key, x, scale):
        return scale * masked_error(params, key, x[:, :3], x[:, 3:] > 0)

    columns = np.concatenate([X, KNOWN.astype(np.float32)], axis=1)
    seen, params = train(columns, jaxae.make_run(of_columns, SGD, batch_size=8))
    np.testing.assert_allclose(from_memory[1], params, rtol=1e-6)
    np.testing.assert_allclose([loss for _, loss, _ in from_memory[0]], [loss for _, loss in seen])


def test_auxiliary_means_count_every_example_once(from_memory):
    # Four batches of 8 and one of 5: a number of the batch counts for each of its examples.
    expected = {"label": 18.0, "late": [6 / N], "batch": (4 * 8 * 8 + 5 * 5) / N}
    assert [epoch for epoch, _, _ in from_memory[0]] == [1, 2, 3]
    for _, _, aux in from_memory[0]:
        assert jax.tree.structure(aux) == jax.tree.structure(expected)
        np.testing.assert_allclose(*map(jax.tree.leaves, (aux, expected)), rtol=1e-6)


def test_a_step_and_an_epoch_return_the_means_of_auxiliary_outputs(from_memory):
    arrays = jax.tree.map(jnp.asarray, DATA)
    step = jaxae.make_train_step(loss, SGD)
    _, (value, aux) = jax.eval_shape(step, STATE, KEY, arrays, 1.0)
    assert {leaf.shape for leaf in jax.tree.leaves((value, aux))} == {()}
    assert aux["late"][0].dtype == jnp.float32
    _, (value, aux) = jaxae.make_epoch(loss, SGD, batch_size=8)(STATE, KEY, 0, arrays, 1.0)
    _, first, first_aux = from_memory[0][0]
    np.testing.assert_allclose(value, first, rtol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), aux, first_aux)
    _, means = jax.eval_shape(RUN, STATE, KEY, 0, 2, arrays, 1.0)
    assert jax.tree.structure(means) == jax.tree.structure((value, aux))
    assert {leaf.shape for leaf in jax.tree.leaves(means)} == {(RUN.epochs_per_call,)}


class Examples:
    """A source that gives one example after another, each of several arrays."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {name: part[i] for name, part in DATA.items()}


class Labelled(NamedTuple):
    x: object
    known: object
    label: object


def as_dictionary(rows):
    return {"x": rows.x.astype(np.float32), "known": rows.known > 0, "label": rows.label}


def shuffled_batches(epoch, first_step):
    order = np.asarray(jaxae.shuffled_order(epoch_keys(KEY, epoch)[0], N))
    rows = (order[i : i + 8] for i in range(8 * first_step, N, 8))
    return ({name: part[at] for name, part in DATA.items()} for at in rows)


EXAMPLE = {name: jax.ShapeDtypeStruct(part.shape[1:], part.dtype) for name, part in DATA.items()}
STREAMS = {
    "a source each": lambda: jaxae.Streamed(DATA),
    "a source of examples": lambda: jaxae.Streamed(Examples()),
    "a transform of all of them": lambda: jaxae.Streamed(
        Labelled(X.astype(np.float64), KNOWN.astype(np.uint8), list(LABEL)),
        transform=as_dictionary,
    ),
    "batches": lambda: jaxae.StreamedBatches(shuffled_batches, examples=N, example_shape=EXAMPLE),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_of_several_arrays_give_the_bits_of_arrays(stream, from_memory, monkeypatch):
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", 8 * 23 * 2)  # two of five steps
    data = STREAMS[stream]()
    assert data.shape == {"x": (N, 3), "known": (N, 3), "label": (N,)}
    assert data.dtype == {"x": np.float32, "known": np.bool_, "label": np.int32}
    same(train(data), from_memory)


@pytest.mark.thorough(by_default=["arrays-threads", "stream-vmap"])
@pytest.mark.parametrize("method", ["threads", "vmap"])
@pytest.mark.parametrize("data", [DATA, jaxae.Streamed(DATA)], ids=["arrays", "stream"])
def test_many_models_on_several_arrays(method, data):
    states = jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf] * 2)), STATE)
    keys, seen = jnp.stack([jax.random.fold_in(KEY, 1), KEY]), [[], []]
    trained = jaxae.fit_many(
        RUN, states, keys, data, jnp.array([0.5, 1.0]), epochs=3, method=method,
        on_epoch=lambda model, *reported: seen[model].append(reported),
    )  # fmt: skip
    alone, params = train(DATA)
    np.testing.assert_allclose(trained.params[1], params, rtol=1e-5)
    assert [epoch for epoch, _, _ in seen[1]] == [1, 2, 3]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), seen[1], alone)
    np.testing.assert_allclose(seen[0][2][2]["label"], 18.0, rtol=1e-6)
    assert seen[0][2][1] != seen[1][2][1]


class Kept:
    """Checkpoints in memory that stop after some questions."""

    every = None

    def __init__(self, questions):
        self.questions, self.saved = questions, None

    def restore(self, model, like):
        return self.saved

    def save(self, model, snapshot):
        self.saved = snapshot

    def should_stop(self):
        self.questions -= 1
        return self.questions < 0


@pytest.mark.parametrize("data", [DATA, jaxae.Streamed(DATA)], ids=["arrays", "stream"])
def test_a_stopped_run_goes_on_to_the_same_auxiliary_means(data, from_memory, monkeypatch):
    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 3)
    monkeypatch.setattr(_drive, "_SECONDS_PER_CALL", 0.0)
    kept = Kept(3)
    with pytest.raises(jaxae.StoppedError):
        train(data, checkpoints=kept)
    assert kept.saved.epoch == 1
    assert kept.saved.step in (2, 3)  # a call ends with its window
    assert kept.saved.losses[1]["label"].shape == (1,)
    kept.questions = 10**6
    same(train(data, checkpoints=kept), from_memory)
    plain = jaxae.make_run(lambda *given: loss(*given)[0], SGD, batch_size=8)
    with pytest.raises(ValueError, match="or of a loss with other auxiliary outputs"):
        train(data, plain, checkpoints=kept)


def test_auxiliary_outputs_that_are_not_finite_stop_nothing():
    run = jaxae.make_run(
        lambda p, k, x: ((p[None] - x).sum(-1), (jnp.nan, x[:, 0])), SGD, batch_size=8
    )
    seen = []
    jaxae.fit(run, STATE, KEY, X, epochs=1, on_epoch=lambda *reported: seen.append(reported))
    ((_, _, (missing, mean)),) = seen
    assert np.isnan(missing)
    np.testing.assert_allclose(mean, X[:, 0].mean(), rtol=1e-5)


def test_auxiliary_means_of_half_precision_are_taken_in_float32():
    half = lambda params, key, x: (params * x, {"large": 60_000 + 0 * x, "small": 1e-6 + 0 * x})
    state = jaxae.create_train_state(jnp.zeros((), jnp.float16), SGD)
    step = jax.jit(jaxae.make_train_step(half, SGD))
    _, (_, aux) = step(state, KEY, np.ones(64, np.float16))
    assert aux["large"].dtype == jnp.float32
    np.testing.assert_allclose(aux["large"], 60_000, rtol=1e-3)


OUTPUTS = {
    "a dictionary": ({"loss": 0.0}, TypeError, r"loss must return .* it returned dict"),
    "a list": ([0.0, 1.0], TypeError, r"loss must return .* it returned list"),
    "nothing": (None, TypeError, r"loss must return .* it returned NoneType"),
    "three": ((0.0, 1.0, 2.0), TypeError, r"it returned \(float, float, float\)"),
    "aux first": (({"kl": 0.0}, 0.0), TypeError, r"it returned \(dict, float\)"),
    "aux per unit": (
        (0.0, {"code": np.zeros((N, 3))}), ValueError,
        r"aux\['code'\] of the loss must be a scalar or have the shape \(37,\).*\(37, 3\)",
    ),
    "aux of words": ((0.0, ["a"]), TypeError, r"aux\[0\] of the loss .* but it is a str"),
    "complex aux": ((0.0, 1j), TypeError, "aux of the loss must be an array of real numbers"),
}  # fmt: skip


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_loss_of_another_form_is_named(output):
    value, error, match = OUTPUTS[output]
    with pytest.raises(error, match=match) as caught:
        jaxae.make_train_step(lambda params, key, x: value, SGD)(STATE, KEY, X)
    assert "\n" not in str(caught.value)


class Frame:
    """What a data frame of pandas offers: a column for a name."""

    shape, columns = (N, 3), ["a", "b", "c"]

    def __len__(self):
        return N

    def __getitem__(self, name):
        return X[:, self.columns.index(name)]

    def to_numpy(self):
        return X


class Tensor:
    """What a tensor of TensorFlow offers: no rows by an array of their numbers."""

    shape, dtype = (N, 3), "float32"

    def __len__(self):
        return N

    def __getitem__(self, index):
        raise TypeError("Only integers, slices, ellipsis\nare valid indices")

    def numpy(self):
        return X


MASKED = np.ma.array(X, mask=~KNOWN)
WRONG = {
    "differing n": ((X, LABEL[:5]), ValueError, r"\[0\].*37.*\[1\].*5"),
    "differing n by name": ({"x": X, "w": LABEL[:5]}, ValueError, r"\['w'\].*5.*\['x'\].*37"),
    "a frame": (Frame(), TypeError, r"Frame; convert it first, with .*\.to_numpy\('float32'\)"),
    "a frame among others": (
        (X, Frame()),
        TypeError,
        r"\[1\].*convert it first, with .*\.to_numpy\('float32'\)",
    ),
    "masked": (MASKED, TypeError, r"without masked entries.*\.filled\(0\.0\)"),
    "masked among others": (
        {"x": MASKED},
        TypeError,
        r"\['x'\] must be an array without masked entries",
    ),
    "a tensor": (Tensor(), TypeError, r"Tensor.*\.numpy\(\)"),
    "words": ((X, LABEL.astype(str)), TypeError, r"\[1\] must be numbers or booleans.*<U"),
    "dates": ((X, LABEL.astype("M8[s]")), TypeError, r"\[1\] must be numbers or booleans.*date"),
    "large numbers": ((X, LABEL + 2**40), ValueError, r"\[1\].* must fit into int32.*x64"),
    "not finite": ((X, np.full(N, np.nan)), ValueError, r"\[1\].* must be finite"),
    "complex, not finite": ((X, np.full(N, 1j * np.inf)), ValueError, r"\[1\].* must be finite"),
}
IN_MEMORY = {
    "rows in a list": (list(X), TypeError, "must be an array, but it is .*list"),
    "no arrays": ({}, ValueError, "must be arrays with one leading axis of n >= 1"),
    "empty": ((X[:0], LABEL[:0]), ValueError, r"\[0\] must hold at least one example"),
    "a scalar among others": ((X, 3.0), TypeError, r"\[1\] must be an array"),
}


@pytest.mark.usefixtures("no_type_hook")
@pytest.mark.parametrize("name", WRONG | IN_MEMORY)
def test_data_that_are_no_arrays_of_n_examples_are_named(name):
    data, error, match = (WRONG | IN_MEMORY)[name]
    calls = {
        "x": lambda: jaxae.fit(RUN, STATE, KEY, data, 1.0, epochs=1),
        "data": lambda: jaxae.evaluate(lambda row: row, data, batch_size=4),
    }
    for argument, call in calls.items():
        with pytest.raises(error, match=match) as caught:
            call()
        assert argument in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRONG)
def test_sources_that_are_no_rows_are_named(name):
    data, error, match = WRONG[name]
    with pytest.raises(error, match=match) as caught:
        jaxae.Streamed(data).rows(LABEL)
    assert "\n" not in str(caught.value)
    assert re.search("source|examples", str(caught.value))


def test_an_epoch_names_arrays_that_differ_too():
    run_epoch = jaxae.make_epoch(loss, SGD, batch_size=8)
    with pytest.raises(ValueError, match=r"x\['known'\] \(5, 3\)"):
        run_epoch(STATE, KEY, 0, DATA | {"known": KNOWN[:5]}, 1.0)


FAULTY = {
    "another tree": (lambda batch: batch["x"], ValueError, r"batch 0 .* must have the arrays"),
    "another kind": (
        lambda batch: batch | {"label": batch["x"][:, 0]}, TypeError,
        r"\['label'\] of batch 0 of epoch 0 must be integer, but the dtype is float32",
    ),
    "another shape": (
        lambda batch: batch | {"known": batch["known"][:, 0]}, ValueError,
        r"\['known'\] of batch 0 of epoch 0 must have the shape \(8, 3\)",
    ),
    "masked": (
        lambda batch: batch | {"x": np.ma.array(batch["x"], mask=True)}, TypeError,
        "batch 0 of epoch 0 must be an array without masked entries",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY)
def test_batches_of_several_arrays_that_are_not_what_was_said(fault):
    change, error, match = FAULTY[fault]
    make = lambda epoch, first_step: map(change, shuffled_batches(epoch, first_step))
    with pytest.raises(error, match=match):
        train(jaxae.StreamedBatches(make, examples=N, example_shape=EXAMPLE))


def test_the_page_about_data_runs():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(code, "data.md", "exec"), names)
    # Entries that are missing have no part in it: other numbers beneath them change nothing.
    x, is_known = names["x"], names["is_known"]
    params, key = names["state"].params, names["key"]
    changed = jnp.where(is_known, x, -999.0)
    masked_loss = jax.jit(names["masked_loss"])
    found = [masked_loss(params, key, (data, is_known)) for data in (x, changed)]
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (len(x),)
    assert names["terms"][-1]["error"] < names["terms"][0]["error"]
