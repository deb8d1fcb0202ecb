"""Data that are read in pieces: the bits of an array, whatever the pieces, and what goes wrong."""

import functools
import itertools
import threading
import time
from functools import partial

import grain
import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

import jaxae
from jaxae.training import _drive, _windows
from jaxae.training.epoch import Epoch, epoch_keys

RAW = np.random.default_rng(3).integers(0, 256, (403, 6)).astype(np.uint8)
SGD = optax.sgd(0.1)
STATE = jaxae.create_train_state(jnp.zeros(6), SGD)
KEY = jaxae.hash_key(jax.random.key(1))
shuffled_order = jax.jit(jaxae.shuffled_order, static_argnames="n")


def to_unit(rows):
    return rows.astype(np.float32) / np.float32(255)


X = to_unit(RAW)


def loss(params, key, x, level):
    noisy = jaxae.corrupt_batch(key, partial(jaxae.uniform_noise, scale=level), x)
    return jnp.square(noisy * params[None] - x).sum(-1)


# 403 examples: of 2, an epoch of blocks of two steps and a last step that is alone, of one row
RUNS = {size: jaxae.make_run(loss, SGD, batch_size=size) for size in (2, 32)}


def train(data, size=32, epochs=3, **options):
    """Returns the losses and the parameters."""
    losses = []
    note = lambda epoch, loss: losses.append(loss)
    state = jaxae.fit(
        RUNS[size], STATE, KEY, data, jnp.float32(0.3), epochs=epochs, on_epoch=note, **options
    )
    return losses, np.asarray(state.params)


def same(a, b):
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1], b[1])


class ByNumber:
    """A source that is asked for one example at a time, and notes for which."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return len(RAW)

    def __getitem__(self, i):
        self.asked.append(i)
        return X[i]


class ByNumbers(ByNumber):
    def __getitems__(self, numbers):
        return [X[i] for i in numbers]


@pytest.fixture(scope="module")
def from_memory():
    return {size: train(jnp.asarray(X), size) for size in RUNS}


@pytest.fixture
def memory_map(tmp_path):
    np.save(tmp_path / "x.npy", RAW)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


@pytest.mark.thorough(by_default=["3000-32"])
@pytest.mark.parametrize("size", RUNS)
@pytest.mark.parametrize("window", [1, 3000, 2**25])
def test_the_bits_of_an_array(size, window, memory_map, from_memory, monkeypatch):
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", window)
    same(train(jaxae.Streamed(memory_map, transform=to_unit), size), from_memory[size])


SOURCES = {
    "an array": lambda: X,
    "one at a time": ByNumber,
    "several at a time": ByNumbers,
    "a list": lambda: list(X),
    "Grain": lambda: grain.MapDataset.source(list(RAW)).map(to_unit),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_source_gives_the_same(source, from_memory):
    same(train(jaxae.Streamed(SOURCES[source]())), from_memory[32])


@functools.cache
def shuffle(n, epoch, model):
    """Returns the whole order of an epoch; model None is the one that trains alone."""
    key = KEY if model is None else jax.random.split(KEY, 3)[model]
    return np.asarray(shuffled_order(epoch_keys(key, epoch)[0], n))


@examples(40)
@given(
    n=st.sampled_from([1, 2, 7, 40, 131]),
    size=st.integers(1, 40),
    window=st.integers(1, 4000),
    models=st.sampled_from([(), (3,)]),
    begin=st.floats(0, 1),
)
def test_windows_hold_the_batches_of_the_shuffle(n, size, window, models, begin):
    x = np.arange(2.0 * n, dtype=np.float32).reshape(n, 2)
    epoch = Epoch(lambda p, k, x: x, SGD, size)
    layout = epoch.layout(x)
    size, steps, per_block = layout.batch_size, layout.full_steps, layout.steps_per_block
    keys = jax.random.split(KEY, models) if models else KEY

    def order(key, epoch, n, positions):
        found = [shuffle(n, int(epoch), model)[positions] for model in range(3) if models]
        return np.stack(found) if models else shuffle(n, int(epoch), None)[positions]

    blocks = layout.blocks
    at, end = int(begin * (2 * blocks - 1)), 2 * blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_windows, "_WINDOW_BYTES", window)
        patch.setattr(_windows, "_find_rows", order)  # that it is the same is tested below
        reader = _windows.WindowReader(jaxae.Streamed(x), epoch, keys, at, end_block=end)
        like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), reader.like)
        for block in range(at, end):
            found, until = reader.window(block)
            assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), found) == like
            assert block < until <= blocks * (block // blocks + 1)
            number, of_epoch = divmod(block, blocks)
            for model in np.ndindex(models):
                rows_of = shuffle(n, number, *model or (None,))
                first = of_epoch * per_block
                for step in range(first, min(first + per_block, steps)):
                    rows = rows_of[step * size : (step + 1) * size]
                    batch = found.batches[(*model, step - int(found.first))]
                    np.testing.assert_array_equal(batch, x[rows])
                if layout.rest and of_epoch == blocks - 1:
                    np.testing.assert_array_equal(found.rest[model], x[rows_of[steps * size :]])
        reader.close()


@pytest.mark.thorough(by_default=["threads"])
@pytest.mark.parametrize("method", ["threads", "vmap"])
def test_many_models_each_in_its_own_order(method, monkeypatch):
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", 9000)
    states = jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf] * 3)), STATE)
    many = RUNS[32], states, jax.random.split(KEY, 3)
    levels = jnp.array([0.1, 0.2, 0.3])
    fit = lambda x: jaxae.fit_many(*many, x, levels, epochs=2, method=method).params
    found = fit(jaxae.Streamed(RAW, transform=to_unit))
    np.testing.assert_array_equal(found, fit(jnp.asarray(X)))
    assert len(np.unique(found, axis=0)) == 3


class Kept:
    """Checkpoints in memory that stop after some questions."""

    def __init__(self, questions):
        self.every, self.questions, self.saved = None, questions, None

    def restore(self, model, like):
        return self.saved

    def save(self, model, snapshot):
        self.saved = snapshot

    def should_stop(self):
        self.questions -= 1
        return self.questions < 0


def test_a_stopped_run_goes_on_without_reading_what_is_behind_it(from_memory, monkeypatch):
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", 32 * 24 * 4)  # four of 13 steps
    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 3)
    kept, source = Kept(9), ByNumber()
    with pytest.raises(jaxae.StoppedError):
        train(jaxae.Streamed(source), checkpoints=kept)
    assert (kept.saved.epoch, kept.saved.step) == (2, 4)  # in the middle
    kept.questions, source.asked = 10**6, []
    same(train(jaxae.Streamed(source), checkpoints=kept), from_memory[32])
    assert len(source.asked) == 403 - 4 * 32 + 1  # and one for its shape


def shuffled_batches(epoch, first_step, asked=None):
    """Yields the batches that a run from memory has."""
    if asked is not None:
        asked.append((epoch, first_step))
    order = np.asarray(shuffled_order(epoch_keys(KEY, epoch)[0], 403))
    return (X[order[i : i + 32]] for i in range(32 * first_step, 403, 32))


def batches(make):
    return jaxae.StreamedBatches(make, examples=403, example_shape=(6,))


@pytest.mark.parametrize("window", [1, 3000, 2**25])
def test_batches_of_ones_own(window, from_memory, monkeypatch):
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", window)
    asked = []
    same(train(batches(partial(shuffled_batches, asked=asked))), from_memory[32])
    assert asked == [(0, 0), (1, 0), (2, 0)]


def test_batches_of_ones_own_go_on_where_the_run_was_stopped(from_memory, monkeypatch):
    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 3)
    monkeypatch.setattr(_drive, "_SECONDS_PER_CALL", 0.0)
    kept, asked = Kept(1), []
    with pytest.raises(jaxae.StoppedError):
        train(batches(shuffled_batches), checkpoints=kept)
    kept.questions = 10**6
    same(train(batches(partial(shuffled_batches, asked=asked)), checkpoints=kept), from_memory[32])
    assert asked == [(0, 6), (1, 0), (2, 0)]


def test_a_pipeline_of_grain_with_its_own_shuffle():
    def make(epoch, first_step):
        data = grain.MapDataset.source(list(RAW)).map(to_unit).seed(epoch).shuffle().batch(32)
        return data[first_step:].to_iter_dataset(grain.ReadOptions(num_threads=2))

    whole = train(batches(make))
    assert whole[0][-1] < 0.9 * whole[0][0]
    kept = Kept(0)
    with pytest.raises(jaxae.StoppedError):
        train(batches(make), checkpoints=kept)
    kept.questions = 10**6
    same(train(batches(make), checkpoints=kept), whole)


def test_models_under_vmap_share_their_batches():
    states = jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf] * 2)), STATE)
    levels = jnp.array([0.3, 0.3])
    many = partial(jaxae.fit_many, RUNS[32], states, jnp.stack([KEY, KEY]))
    found = many(batches(shuffled_batches), levels, epochs=2, method="vmap").params
    np.testing.assert_array_equal(
        found, many(jnp.asarray(X), levels, epochs=2, method="vmap").params
    )


@pytest.mark.thorough
def test_a_raw_key_will_do(from_memory):
    raw = jax.random.PRNGKey(3)
    fit = lambda x: jaxae.fit(RUNS[32], STATE, raw, x, jnp.float32(0.3), epochs=2).params
    np.testing.assert_array_equal(fit(jaxae.Streamed(X)), fit(jnp.asarray(X)))


@pytest.mark.thorough
def test_the_thread_that_reads_is_in_the_contexts_of_its_caller():
    key = jax.random.key(3)  # of a generator that the context changes
    run = lambda: jaxae.make_run(loss, SGD, batch_size=32)
    fit = lambda x: np.asarray(jaxae.fit(run(), STATE, key, x, jnp.float32(0.3), epochs=2).params)
    plain = fit(jnp.asarray(X))
    with jax.threefry_partitionable(False):
        other = fit(jnp.asarray(X))
        np.testing.assert_array_equal(fit(jaxae.Streamed(X)), other)
    assert (other != plain).any()
    with jax.enable_x64(True):
        wide = X.astype(np.float64)
        state = jaxae.create_train_state(jnp.zeros(6), SGD)
        fit = lambda x: jaxae.fit(run(), state, key, x, 0.3, epochs=2).params
        found = fit(jaxae.Streamed(wide))
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, fit(jnp.asarray(wide)))


def test_the_threads_of_many_models_are_in_the_contexts_of_their_caller():
    run = lambda: jaxae.make_run(loss, SGD, batch_size=32)
    keys = jax.random.split(jax.random.key(3), 2)

    def fit(x, dtype):
        start = jaxae.create_train_state(jnp.zeros(6, dtype), SGD)
        states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), start)
        levels = jnp.array([0.1, 0.3], dtype)
        many = jaxae.fit_many(run(), states, keys, x, levels, epochs=2, method="threads")
        return many.params

    with jax.threefry_partitionable(False):
        found = fit(jaxae.Streamed(X), jnp.float32)
        np.testing.assert_array_equal(found, fit(jnp.asarray(X), jnp.float32))
    with jax.enable_x64(True):
        wide = X.astype(np.float64)
        found = fit(jaxae.Streamed(wide), jnp.float64)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, fit(jnp.asarray(wide), jnp.float64))


FAULTY = {
    "too few": (lambda e, s: [X[:32]] * 3, ValueError, "batch 3 of epoch 0 is missing"),
    "too small": (lambda e, s: [X[:31]] * 13, ValueError, r"batch 0 .* \(32, 6\).* \(31, 6\)"),
    "another shape": (lambda e, s: [X[:32, :5]] * 13, ValueError, r"\(32, 6\), but it is \(32, 5"),
    "bytes": (lambda e, s: [RAW[:32]] * 13, TypeError, "batch 0 of epoch 0 must be floating"),
    "NaN": (lambda e, s: [X[:32], X[:32] * np.nan] * 7, ValueError, "batch 1 .* must be finite"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_batches_that_are_not_what_was_said(fault):
    make, error, match = FAULTY[fault]
    with pytest.raises(error, match=match):
        train(batches(make))


def test_rows_that_are_not_finite_are_named_when_they_are_read():
    bad = X.copy()
    bad[200, 3] = np.inf
    with pytest.raises(ValueError, match=r"rows \[.*\]\.\.\. of the source must be finite"):
        train(jaxae.Streamed(bad))
    large = np.full((40, 6), 3e38, np.float32)  # finite, and no sum is
    np.testing.assert_array_equal(jaxae.Streamed(large).rows(np.arange(40)), large)


def test_an_error_of_a_source_reaches_the_caller_and_no_thread_stays():
    class Broken(ByNumber):
        def __getitem__(self, i):
            if len(self.asked) > 50:
                raise OSError("the disk is gone")
            return super().__getitem__(i)

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone") as caught:
        train(jaxae.Streamed(Broken()))
    assert any("__getitem__" in entry.name for entry in caught.traceback)
    assert threading.active_count() == before


def test_reading_is_ahead_by_a_window_and_by_no_more(monkeypatch):
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", 32 * 24)  # one step of 13
    epoch, source = Epoch(loss, SGD, 32), ByNumber()
    reader = _windows.WindowReader(jaxae.Streamed(source), epoch, KEY, 0, end_block=39)
    for block in range(3):
        reader.window(block)
        wanted, until = 1 + 32 * (block + 2), time.monotonic() + 20  # one for its shape
        while len(source.asked) < wanted and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(source.asked) == wanted
    reader.close()


def test_positions_of_an_order():
    for n in (40, 403):
        order = np.asarray(shuffled_order(KEY, n))
        places = np.array([n - 1, 0, 7, 7], np.int32)
        found = shuffled_order(KEY, n, positions=places)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, order[places])
        beyond = shuffled_order(KEY, n, positions=np.array([-1, n, 2**31 - 1], np.int32))
        np.testing.assert_array_equal(beyond, order[[0, n - 1, n - 1]])


def test_a_stream_of_batches_may_be_endless(from_memory):
    def make(epoch, first_step):
        return itertools.chain(shuffled_batches(epoch, first_step), itertools.repeat(X[:32]))

    same(train(batches(make)), from_memory[32])


class RisingRowsOnly:
    """A source as h5py has them: indices must rise strictly, or it is a TypeError."""

    shape, dtype = X.shape, X.dtype

    def __len__(self):
        return len(X)

    def __getitem__(self, rows):
        if (np.diff(rows) <= 0).any():
            raise TypeError("Indexing elements must be in increasing order")
        return X[rows]


class Tensor:
    """A tensor of PyTorch, as NumPy sees it."""

    shape, dtype = X.shape, "torch.float32"

    def __init__(self, values=X):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return Tensor(self.values[rows])

    def __array__(self, dtype=None, copy=None):
        return self.values

    def numpy(self):
        return self.values


READABLE = {
    "h5py": RisingRowsOnly,
    "a tensor": Tensor,
    "CSR": lambda: scipy.sparse.csr_array(X),
    "a CSR matrix": lambda: scipy.sparse.csr_matrix(X),
    "CSC": lambda: scipy.sparse.csc_array(X),
    "rows of CSR in a list": lambda: [scipy.sparse.csr_matrix(row) for row in X[:, None]],
    "big-endian": lambda: X.astype(">f4"),
    "big-endian rows": lambda: list(X.astype(">f4")),
    "long doubles": lambda: X.astype(np.longdouble),
    "columns first in memory": lambda: np.asfortranarray(X),
    "lists of numbers": lambda: X.tolist(),
    "tuples of numbers": lambda: list(map(tuple, X.tolist())),
    "nothing masked": lambda: np.ma.array(X, mask=False),
    "an array of JAX": lambda: jnp.asarray(X),
}
ROWS = np.array([7, 3, 402, 3, 0])


@pytest.mark.parametrize("source", READABLE)
def test_rows_of_every_source_are_those_asked_for(source):
    data = jaxae.Streamed(READABLE[source]())
    found = data.rows(ROWS)
    if source == "rows of CSR in a list":
        assert data.shape == (403, 1, 6)
        found = found[:, 0]
    assert found.dtype == np.float32
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, X[ROWS])


def test_half_precision_rows_and_sparse_counts():
    half = X.astype(jnp.bfloat16)
    np.testing.assert_array_equal(jaxae.Streamed(half).rows(ROWS), half[ROWS])
    counts = scipy.sparse.csr_array(RAW.astype(np.int32))
    found = jaxae.Streamed(counts, transform=to_unit).rows(ROWS)
    np.testing.assert_array_equal(found, X[ROWS])


@pytest.mark.parametrize("array", [X.astype(">f4"), X.astype(np.longdouble)])
@pytest.mark.usefixtures("no_type_hook")
def test_arrays_in_memory_of_another_byte_order_or_width(array, from_memory):
    same(train(array), from_memory[32])


ODD = {
    "masked rows": (lambda: [np.ma.array(row, mask=True) for row in X], "without masked entries"),
    "masked by the transform": (lambda: X, "without masked entries"),
    "diagonals": (lambda: scipy.sparse.dia_array(np.eye(6)), r"convert it with source\.tocsr\(\)"),
    "COO": (lambda: scipy.sparse.coo_matrix(X), r"source\.tocsr\(\)"),
    "sparse of JAX": (lambda: jax.experimental.sparse.BCOO.fromdense(X), r"source\.todense\(\)"),
    "complex": (lambda: X.astype(np.complex64), r"np\.stack\(\[rows\.real, rows\.imag\]"),
    "objects": (lambda: X.astype(object), "their dtype is object; a transform"),
    "a scalar": (lambda: np.float32(3), "must have a length and rows"),
    "a generator": (lambda: iter(X), "must have a length and rows"),
    "nothing": (lambda: None, "must have a length and rows, but it is a NoneType"),
}


@pytest.mark.parametrize("name", ODD)
def test_sources_that_cannot_be_read_are_refused_in_a_line(name):
    make, match = ODD[name]
    mask = lambda rows: np.ma.array(rows, mask=True)
    transform = mask if name == "masked by the transform" else None
    with pytest.raises((TypeError, ValueError), match=match) as caught:
        jaxae.Streamed(make(), transform=transform)
    assert "\n" not in str(caught.value)
