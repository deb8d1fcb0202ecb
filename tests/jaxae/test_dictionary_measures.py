"""Measures of dictionaries, against numbers worked by hand and against other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import precision_recall_fscore_support

import jaxae

RNG = np.random.default_rng(35)


def test_dense_units_are_active_for_more_than_a_share():
    code = jnp.array([[1.0, 0.0, -2.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.01, 0.0]])
    assert jaxae.dense_units(code).tolist() == [True, True, True]
    assert jaxae.dense_units(code, share=0.25).tolist() == [True, False, False]
    assert jaxae.dense_units(code, threshold=0.1).tolist() == [True, False, True]
    assert jaxae.dense_units(code, share=1.0).tolist() == [False] * 3
    assert jaxae.dense_units(code.reshape(2, 2, 3), share=0.25).tolist() == [True, False, False]


def test_shrinkage_is_the_ratio_of_norms():
    x = jnp.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    x_hat = jnp.array([[0.0, 2.5], [0.0, 2.0], [0.0, 1.0]])
    np.testing.assert_allclose(jaxae.shrinkage(x_hat, x)[:2], [0.5, 1.0])
    images = jaxae.shrinkage(x_hat[:2].reshape(1, 2, 2), x[:2].reshape(1, 2, 2), example_ndim=2)
    np.testing.assert_allclose(images, np.sqrt([10.25 / 29]), rtol=1e-6)
    assert jnp.isnan(jaxae.shrinkage(0 * x, x)[2])


def test_matching_is_one_to_one_and_the_best_of_all():
    # cosines with the axes: (0.8, 0.6), (1, 0); each filter is nearest to the first axis, but one
    # of them has to take the second: 0.6 + 1 is more than 0.8 + 0
    filters = jnp.array([[0.8, 0.6], [-2.0, 0.0]])
    np.testing.assert_allclose(jaxae.mean_correlation(filters, jnp.eye(2)), 0.8, rtol=1e-6)
    assert jaxae.nearest_atoms(filters, jnp.eye(2)).tolist() == [0, 0]
    assert float(jaxae.uniqueness(filters, jnp.eye(2))) == 0.5
    # a rotation of the order, signs and lengths are no matter
    atoms = jnp.asarray(RNG.normal(size=(5, 7)), jnp.float32)
    order, factors = np.array([3, 0, 4, 1, 2]), np.array([[2.0], [-1.0], [-3.0], [0.1], [5.0]])
    same = jnp.asarray(factors, jnp.float32) * atoms[order]
    correlations = jax.jit(jax.vmap(jaxae.mean_correlation, (0, None)))
    several = jnp.stack([same, same, jnp.full_like(same, jnp.nan)])
    np.testing.assert_allclose(correlations(several, atoms), [1, 1, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(jaxae.nearest_atoms(same, atoms), order)
    assert float(jaxae.uniqueness(same, atoms)) == 1


def test_with_fewer_units_than_atoms_all_units_are_matched():
    atoms, filters = jnp.eye(4), jnp.array([[0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(jaxae.mean_correlation(filters, atoms), (0.8 + 0) / 2, rtol=1e-6)


def test_counts_by_hand_and_those_of_scikit_learn():
    # unit 0 stands for atom 1: hit, false alarm, miss, miss; unit 1 for atom 0: never active
    code = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    truth = jnp.array([[0.0, 3.0], [0.0, 0.0], [1.0, 2.0], [0.0, 2.0]])
    counts = jax.jit(jaxae.unit_counts)(code, truth, jnp.array([1, 0]))
    assert [field.tolist() for field in counts] == [[1.0, 0.0], [1.0, 0.0], [2.0, 1.0]]
    np.testing.assert_allclose(counts.precision, [1 / 2, 0])
    np.testing.assert_allclose(counts.recall, [1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(counts.f1, [2 / 5, 0], rtol=1e-6)

    code = jnp.asarray(RNG.normal(size=(60, 4)) * (RNG.random((60, 4)) < 0.4), jnp.float32)
    truth = jnp.asarray(np.abs(RNG.normal(size=(60, 6))) * (RNG.random((60, 6)) < 0.3), jnp.float32)
    nearest = jnp.array([5, 0, 0, 3])
    halves = [jaxae.unit_counts(code[i::2], truth[i::2], nearest) for i in range(2)]
    counts = jax.tree.map(jnp.add, *halves)
    for unit, atom in enumerate(nearest):
        expected = precision_recall_fscore_support(
            np.asarray(truth[:, atom] != 0), np.asarray(code[:, unit] != 0), average="binary"
        )
        got = [counts.precision[unit], counts.recall[unit], counts.f1[unit]]
        np.testing.assert_allclose(got, expected[:3], rtol=1e-6)
