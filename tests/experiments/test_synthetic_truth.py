"""The synthetic truth of the dictionary experiment: every line of its recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_settings import as_on_the_command_line

from experiments.dictionary import synthetic_truth

SIZE = synthetic_truth.SMALL._replace(
    atoms=400, inputs=40, roots=2
)  # 2 * (1 + 4 + 16 + 64) in the forest
COUNT = 20_000


@pytest.fixture(scope="module")
def drawn():
    """A truth, and examples of it."""
    with as_on_the_command_line():
        truth = synthetic_truth.make_truth(jax.random.key(0), SIZE)
        x, strengths = jax.jit(lambda key: synthetic_truth.draw_examples(truth, key, COUNT))(
            jax.random.key(1)
        )
        return truth, np.asarray(x), np.asarray(strengths)


def test_atoms_have_norm_1_and_are_further_apart_than_random_ones(drawn):
    atoms = np.asarray(drawn[0].atoms)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    overlap = np.sum((atoms @ atoms.T) ** 2)
    least = 400**2 / 40  # the Welch bound; random ones are at 400 more
    assert least < overlap < least + 200


def test_an_example_is_the_sum_of_its_atoms(drawn):
    truth, x, strengths = drawn
    np.testing.assert_allclose(x, strengths @ np.asarray(truth.atoms), atol=1e-3)


def test_rates_and_strengths_of_free_atoms(drawn):
    truth, _, strengths = drawn
    rates = np.asarray(synthetic_truth.firing_rates(400))
    np.testing.assert_allclose(rates[[0, -1]], [0.4, 5e-4], rtol=1e-5)
    free = np.r_[0:2, 170:400]  # roots, and what is beyond the forest
    share = (strengths[:, free] > 0).mean(axis=0)
    error = 5 * np.sqrt(rates[free] / COUNT)
    assert (np.abs(share - rates[free]) < error).all()
    means = strengths[:, 0][strengths[:, 0] > 0].mean()
    np.testing.assert_allclose(means, truth.means[0], rtol=0.05)
    np.testing.assert_allclose(truth.means[jnp.array([0, -1])], [5.0, 4.0])


def test_children_are_about_as_frequent_as_their_rates_say(drawn):
    strengths = drawn[2]
    rates = np.asarray(synthetic_truth.firing_rates(400))
    share = (strengths > 0).mean(axis=0)
    for first, begin, end in ((0, 2, 10), (2, 10, 42), (10, 42, 170)):
        # there is no more than one child for each active parent
        wanted = min(rates[begin:end].sum(), share[first:begin].sum())
        assert 0.5 < share[begin:end].sum() / wanted < 1.1
    before = np.asarray(synthetic_truth.rates_before_the_forest(jnp.full(400, 0.2), 2))
    np.testing.assert_allclose(
        before[2:170], 1 - synthetic_truth.LOWEST_RATE, rtol=1e-5
    )  # 4, but capped
    rates = np.where(np.arange(400) < 2, 0.4, 0.02).astype(np.float32)
    before = np.asarray(synthetic_truth.rates_before_the_forest(jnp.asarray(rates), 2))
    np.testing.assert_allclose(before[2:10], 0.05 * (1 + 0.06 / 0.4), rtol=1e-5)
    np.testing.assert_array_equal(before[[0, 1, 399]], rates[[0, 1, 399]])


def test_children_need_their_parent_and_exclude_each_other(drawn):
    truth, _, strengths = drawn
    begin, parents = 0, 2
    for _ in range(3):
        own = strengths[:, begin : begin + parents]
        begin, parents = begin + parents, 4 * parents
        children = strengths[:, begin : begin + parents].reshape(COUNT, -1, 4)
        assert children.any()
        assert not children[own == 0].any()
        assert ((children > 0).sum(axis=-1) <= 1).all()
    # a child is as strong as its parent is, relative to their means
    parent, child = strengths[:, 0], strengths[:, 2]
    both = child > 0
    ratio = child[both] / parent[both] * float(truth.means[0])
    np.testing.assert_allclose(ratio.mean(), truth.means[2], rtol=0.05)


def strengths_of_the_whole_forest(truth, generator):
    """Strengths as the recipe says it: every atom is drawn, then the forest takes away."""
    factors, means = np.asarray(truth.factors), np.asarray(truth.means)
    common = generator.standard_normal((COUNT, 25)) @ factors.T
    own = generator.standard_normal((COUNT, 400)) * np.sqrt(1 - (factors**2).sum(axis=1))
    fires = common + own > np.asarray(truth.thresholds)
    noise = generator.standard_normal(fires.shape)
    strengths = fires * np.maximum(means + np.asarray(truth.spreads) * noise, 0)
    begin, parents = 0, 2
    for _ in range(3):
        ratios = strengths[:, begin : begin + parents] / means[begin : begin + parents]
        begin, parents = begin + parents, 4 * parents
        children = strengths[:, begin : begin + parents].reshape(COUNT, -1, 4)
        lots = np.where(children > 0, generator.random(children.shape), -1)
        is_chosen = lots.argmax(axis=-1)[..., None] == np.arange(4)
        kept = children * is_chosen * ratios[..., None]
        strengths[:, begin : begin + parents] = kept.reshape(COUNT, -1)
    return strengths


def test_one_path_from_each_root_has_the_distribution_of_the_whole_forest(drawn):
    truth, _, strengths = drawn
    whole = strengths_of_the_whole_forest(truth, np.random.default_rng(0))
    for moment in (lambda s: s, np.square):  # the shares of active atoms are among the pairs
        found, wanted = moment(strengths), moment(whole)
        error = np.abs(found.mean(axis=0) - wanted.mean(axis=0))
        assert (error <= 5 * np.sqrt((found.var(axis=0) + wanted.var(axis=0)) / COUNT)).all()
    pairs, wanted = ((s > 0).T.astype(np.float32) @ (s > 0) / COUNT for s in (strengths, whole))
    assert (wanted > 0.001).mean() > 0.01
    assert (np.abs(pairs - wanted) <= 6 * np.sqrt((pairs + wanted) / COUNT)).all()


def test_atoms_fire_together_as_their_factors_say():
    with as_on_the_command_line():
        truth = synthetic_truth.make_truth(jax.random.key(0), SIZE)
    pair = jnp.zeros_like(truth.factors).at[200:202, 0].set(0.9)  # a correlation of 0.81
    rates = jnp.full(400, 0.5)
    correlated = synthetic_truth.Truth(
        truth.atoms, 0 * rates, pair, truth.means, 0 * truth.spreads, truth.roots
    )
    with as_on_the_command_line():
        _, strengths = jax.jit(lambda key: synthetic_truth.draw_examples(correlated, key, COUNT))(
            jax.random.key(2)
        )
    both = np.asarray((strengths[:, 200] > 0) & (strengths[:, 201] > 0)).mean()
    # of two Gaussians with a correlation c both are positive with 1/4 + arcsin(c) / (2 pi)
    np.testing.assert_allclose(both, 0.25 + np.arcsin(0.81) / (2 * np.pi), atol=0.015)
