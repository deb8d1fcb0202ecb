"""Exact means over a data set: of arrays, of several at once, and of data read in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae

X = np.random.default_rng(9).uniform(size=(37, 6)).astype(np.float32)
LABEL = np.arange(37)


def metric(x_i):
    return {"sum": x_i.sum(), "first": x_i[0]}


def of_pair(pair):
    x_i, label_i = pair
    return {"sum": x_i.sum() * (label_i < 5), "label": label_i, "is_odd": label_i % 2 == 1}


@pytest.mark.parametrize("batch_size", [1, 4, 7, 36, 37, 38, 1000])
def test_evaluation_counts_every_example_once(batch_size):
    got = jax.jit(lambda x: jaxae.evaluate(metric, x, batch_size=batch_size))(X)
    np.testing.assert_allclose(got["sum"], X.astype(np.float64).sum(-1).mean(), rtol=1e-6)
    np.testing.assert_allclose(got["first"], X.astype(np.float64)[:, 0].mean(), rtol=1e-6)


def test_evaluation_of_pairs():
    x, twice = jnp.asarray(X), jnp.asarray(2 * X)
    got = jaxae.evaluate(jaxae.squared_error, x, twice, batch_size=10)
    np.testing.assert_allclose(got, (X**2).sum(-1).mean(), rtol=1e-5)


class Source:
    """A source that notes how many rows it was asked for at a time."""

    shape, dtype = X.shape, np.float32

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 37

    def __getitem__(self, rows):
        self.asked.append(len(rows))
        return X[rows]


@pytest.mark.parametrize("batch_size", [8, 1000])
def test_evaluation_of_a_stream_is_exact_and_reads_a_batch_at_a_time(batch_size):
    source = Source()
    got = jaxae.evaluate(metric, jaxae.Streamed(source), batch_size=batch_size)
    assert source.asked == ([1, 8, 8, 8, 8, 5] if batch_size == 8 else [1, 37])
    expected = jaxae.evaluate(metric, jnp.asarray(X), batch_size=8)
    assert jax.tree.map(lambda mean: mean.dtype, got) == {"sum": np.float32, "first": np.float32}
    np.testing.assert_allclose(got["sum"], X.astype(np.float64).sum(-1).mean(), rtol=1e-7)
    np.testing.assert_allclose(got["first"], expected["first"], rtol=1e-6)


@pytest.mark.parametrize(
    "data", [(jnp.asarray(X), LABEL), jaxae.Streamed((X, LABEL))], ids=["arrays", "stream"]
)
def test_evaluation_of_data_of_several_arrays(data):
    with jax.numpy_dtype_promotion("standard"):
        got = jaxae.evaluate(of_pair, data, batch_size=8)
    np.testing.assert_allclose(got["label"], 18.0, rtol=1e-6)
    np.testing.assert_allclose(got["is_odd"], 18 / 37, rtol=1e-6)
    np.testing.assert_allclose(got["sum"], X[:5].sum() / 37, rtol=1e-6)


def test_evaluation_of_a_stream_beside_an_array():
    twice, five = jnp.asarray(2 * X), jnp.asarray(X[:5])
    got = jaxae.evaluate(jaxae.squared_error, jaxae.Streamed(X), twice, batch_size=10)
    np.testing.assert_allclose(got, (X**2).sum(-1).mean(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"data\[0\] \(37, 6\), data\[1\] \(5, 6\)"):
        jaxae.evaluate(jaxae.squared_error, jaxae.Streamed(X), five, batch_size=10)


@pytest.mark.usefixtures("no_type_hook")
def test_batches_of_ones_own_and_no_data_are_refused_by_name():
    batches = jaxae.StreamedBatches(lambda epoch, step: [], examples=3, example_shape=(6,))
    with pytest.raises(TypeError, match=r"data\[0\] must be arrays or a Streamed"):
        jaxae.evaluate(metric, batches, batch_size=10)
    with pytest.raises(ValueError, match="data must be at least one array"):
        jaxae.evaluate(metric, batch_size=10)
