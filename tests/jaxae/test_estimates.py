"""Estimates of the contractive penalty: unbiased, error bars that hold, exact at full rank.

What is said about a mean or a rate is checked over 1,000 trials in one program.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxae
from jaxae.contraction import _probes

TRIALS, HIDDEN = 1000, 24


def residual(weights, x_i):
    """An encoder with constant ends and a middle that is no chain."""
    first, middle, last = weights
    h = x_i @ first
    return (h + jnp.tanh(h @ middle)) @ last


def random_weights(inputs, outputs, rank=HIDDEN):
    rng = np.random.default_rng(inputs)
    first = (
        rng.normal(size=(inputs, rank)) @ rng.normal(size=(rank, HIDDEN)) / np.sqrt(inputs * rank)
    )
    others = [rng.normal(size=shape) / 5 for shape in ((HIDDEN, HIDDEN), (HIDDEN, outputs))]
    return [jnp.asarray(w) for w in (first, *others)]


# The ends of an encoder are made smaller if they are larger than its middle, and the probes are on
# the side of the code if this has fewer entries.
@pytest.mark.parametrize(
    ("inputs", "outputs", "method", "num_samples", "chunk_size"),
    [
        (40, 50, "hutchinson", 6, None),
        (40, 16, "hutchinson", 6, 4),
        (40, 50, "hutch++", 8, None),
        (16, 50, "hutch++", 7, 2),
    ],
)
def test_the_mean_and_the_error_bar_are_right(
    inputs, outputs, method, num_samples, chunk_size, key, float64
):
    weights = random_weights(inputs, outputs)
    tangents = [jnp.cos(w) for w in weights]
    x = jnp.tile(jnp.linspace(-1.0, 1.0, inputs), (TRIALS, 1))
    options = {"method": method, "num_samples": num_samples, "chunk_size": chunk_size}

    def penalty(weights):
        return jaxae.contractive_penalty(partial(residual, weights), x[0])

    def estimate(weights):
        return jaxae.contractive_penalty_estimate(key, partial(residual, weights), x, **options)

    @jax.jit
    def values_and_derivatives(weights):
        return [jax.jvp(f, (weights,), (tangents,)) for f in (penalty, estimate)]

    (exact, exact_slope), (found, slopes) = jax.tree.map(
        np.asarray, values_and_derivatives(weights)
    )
    for values, expected in ((found.value, exact), (slopes.value, exact_slope)):
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(TRIALS)
        assert values.std() > 0.01 * abs(expected)
    np.testing.assert_allclose(
        np.sqrt(np.mean(found.standard_error**2)), found.value.std(), rtol=0.15
    )
    freedom = (num_samples if method == "hutchinson" else num_samples - num_samples // 2) - 1
    for width in (1, 2):
        rate = np.mean(abs(found.value - exact) <= width * found.standard_error)
        # The squared lengths are no normal distribution: 5 % for that and for the trials.
        assert abs(rate - (1 - 2 * stats.t.sf(width, freedom))) < 0.05


def test_hutch_plus_plus_is_exact_once_half_of_the_probes_reach_the_rank(key, float64):
    x = jnp.linspace(-1.0, 1.0, 40 * 30).reshape(30, 40)
    weights = random_weights(40, 30, rank=3)

    def loss(weights, **options):
        estimate = jaxae.contractive_penalty_estimate(key, partial(residual, weights), x, **options)
        return estimate.value.sum(), estimate.standard_error

    def exact(weights):
        return jaxae.contractive_penalty(partial(residual, weights), x).sum()

    expected = jax.jit(jax.value_and_grad(exact))(weights)
    # Three of the probes find all of J; or there are as many probes as entries of the middle.
    for num_samples in (6, 30):
        (value, errors), gradient = jax.jit(
            jax.value_and_grad(partial(loss, num_samples=num_samples), has_aux=True)
        )(weights)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), (value, gradient), expected
        )
        np.testing.assert_allclose(errors, 0, atol=1e-12)


def test_probes_are_on_the_side_with_fewer_entries(key):
    # One entry has two probes of length 1 only: the estimate is exact.
    one_unit = lambda x_i: jnp.tanh(x_i @ jnp.arange(5.0))[None]
    x = jnp.linspace(0.0, 0.2, 10).reshape(2, 5)
    exact = jaxae.contractive_penalty(one_unit, x)
    for method in ("hutchinson", "hutch++"):
        found = jax.jit(partial(jaxae.contractive_penalty_estimate, key, one_unit, method=method))(
            x
        )
        np.testing.assert_allclose(found.value, exact, rtol=1e-5)
        assert bool((found.standard_error <= 1e-6 * exact).all())


def test_small_ends_are_made_where_they_pay(float64):
    chain = _probes.read_chain(
        partial(residual, random_weights(40, 50)), jax.ShapeDtypeStruct((40,), jnp.float64)
    )
    with_ends = partial(_probes.with_small_ends, chain.factors, dtype=jnp.float64)
    assert with_ends(applications=1) is None
    changed = with_ends(applications=1000)
    assert [f.linear.inputs for f in changed] == [(HIDDEN,)] * 3
    assert [f.linear.outputs for f in changed] == [(HIDDEN,)] * 3
    # The norms of the Gram matrices are those of before.
    for new, old in zip(changed[::2], chain.factors[::2], strict=True):
        norms = [_probes.dense_matrix(f.linear, jnp.float64) for f in (new, old)]
        np.testing.assert_allclose(*(jnp.linalg.norm(m) for m in norms), rtol=1e-12)


def test_second_derivatives_of_small_ends_are_refused(key):
    weights, x = random_weights(40, 50), jnp.ones((100, 40))

    def loss(scale):
        scaled = [scale * weights[0], *weights[1:]]
        encode = lambda x_i: residual(scaled, x_i)
        return jaxae.contractive_penalty_estimate(key, encode, x, num_samples=4).value.sum()

    with pytest.raises(NotImplementedError, match="no second derivatives in the weights"):
        jax.hessian(loss)(1.0)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_shapes_and_dtypes(batch, key):
    encode = lambda x_i: jnp.tanh(x_i[:2] * x_i[2])
    for method, num_samples in (("hutchinson", 2), ("hutch++", 4)):
        estimate = partial(
            jaxae.contractive_penalty_estimate, method=method, num_samples=num_samples
        )
        found = jax.eval_shape(partial(estimate, key, encode), jnp.ones((*batch, 4), jnp.bfloat16))
        assert [(a.shape, a.dtype) for a in found] == [(batch, jnp.bfloat16)] * 2


def test_the_plan_says_what_a_probe_costs_and_how_far_off_it_may_be():
    first, _, last = random_weights(40, 50)
    x = jnp.ones((7, 40))
    few = jaxae.explain_contraction(lambda x_i: jnp.tanh(x_i @ first[:, :2]), x)
    assert few.probe_error == 1.0  # of two entries: sqrt(2 (1 - 1/2))
    many = jaxae.explain_contraction(lambda x_i: jnp.tanh(x_i @ first) @ last, x)
    assert many.probe_error == pytest.approx(np.sqrt(2 * (1 - 1 / 40)))
    full = next(flops for name, flops, _ in many.rejected if name == "jacfwd")
    assert many.probe_flops == full / 40
    assert "one probe, relative standard error at most 1.4" in str(many)
