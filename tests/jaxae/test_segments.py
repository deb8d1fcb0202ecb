"""Encoders that are cut into segments: random ones against the full Jacobian, and when they are.

Everything is compared, value and gradient, with ``jax.jacrev`` in float64 at weights of order one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from jax.extend import core as jex

import jaxae
from jaxae.contraction import _choice, _cuts, _evaluate, _search, _trace

SIZE = 6


def full(encode, x):
    """Returns the squared Frobenius norms of the Jacobians, written out."""
    return jnp.sum(jnp.square(jax.vmap(jax.jacrev(encode))(x)).reshape(len(x), -1), axis=1)


def dense(weights, h):
    return jnp.tanh(h @ weights)


def linear(weights, h):
    return h @ weights


def layer_norm(weights, h):
    return weights[0] * (h - h.mean()) / jnp.sqrt(h.var() + 0.1) + weights[1]


def rms_norm(weights, h):
    return weights[0] * h / jnp.sqrt(jnp.mean(jnp.square(h)) + 0.1)


def batch_norm(weights, h):
    """Batch normalisation as it is after training, with constant statistics."""
    return (h - weights[0]) / jnp.sqrt(jnp.square(weights[1]) + 0.1) * weights[2]


def residual(weights, h):
    return h + jax.nn.gelu(layer_norm(weights, h) @ weights)


def post_norm(weights, h):
    return layer_norm(weights, h + jnp.sin(h @ weights))


def gated(weights, h):
    return jax.nn.sigmoid(h @ weights) * (h @ weights.T)


def glu(weights, h):
    return jax.nn.glu(jnp.concatenate([h @ weights, h @ weights.T]))


def softmax(weights, h):
    return jax.nn.softmax(h @ weights)


def max_pooled(weights, h):
    pooled = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (2,), (2,), "VALID")
    return jnp.concatenate([pooled, pooled]) @ weights


def average_pooled(weights, h):
    return jnp.tile(h.reshape(3, 2).mean(1), 2) * weights[0]


def convolved(weights, h):
    return h + jnp.convolve(jnp.tanh(h), weights[0][:3], mode="same")


def attention(weights, h):
    tokens = h.reshape(3, 2)
    scores = jax.nn.softmax(tokens @ weights[:2, :2] @ tokens.T)
    return (scores @ tokens).reshape(-1)


def sorted_entries(weights, h):
    return jnp.sort(h) @ weights


def convolved_image(weights, h):
    """Two convolutions in two dimensions with a pooling between them, around a skip connection."""
    image = h.reshape(1, 2, 3, 1)
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    inner = jax.nn.relu(convolve(image, weights[:2, :4].reshape(2, 2, 1, 2)))
    inner = jax.lax.reduce_window(inner, 0.0, jax.lax.add, (1, 1, 2, 1), (1, 1, 1, 1), "SAME")
    return h + convolve(jnp.tanh(inner), weights[2:4, :2].reshape(1, 2, 2, 1)).reshape(-1)


def token_wise(weights, h):
    """The same residual layers for each of three tokens."""
    tokens = h.reshape(3, 2)
    return (tokens + jax.nn.gelu(tokens @ weights[:2, :4]) @ weights[2:4, :4].T).reshape(-1)


def mixer(weights, h):
    """A layer across the tokens and one across the features, with normalisation."""
    tokens = layer_norm(weights[:, :1, None][:2], h.reshape(2, 3))
    tokens = tokens + jnp.sin(weights[:2, :2] @ tokens)
    return (tokens + jnp.tanh(tokens @ weights[:3, 3:])).reshape(-1)


def scaled_by_own_norm(weights, h):
    return h * jax.nn.sigmoid(jnp.vdot(h, weights[0])) + weights[1]


def around(*layers):
    """Returns a skip connection around layers, which get the weights in turn."""

    def skip(weights, h):
        inner = h
        for shift, layer in enumerate(layers):
            inner = layer(jnp.roll(weights, shift, axis=1), inner)
        return h + inner

    skip.__name__ = f"around {' and '.join(layer.__name__ for layer in layers)}"
    return skip


def product(first, second):
    """Returns a gate: the product of two layers of the same input."""

    def gate(weights, h):
        return first(weights, h) * second(jnp.roll(weights, 1, axis=1), h)

    gate.__name__ = f"{first.__name__} times {second.__name__}"
    return gate


LAYERS = (
    *(dense, linear, layer_norm, rms_norm, batch_norm, residual, post_norm, gated, glu, softmax),
    *(max_pooled, average_pooled, convolved, attention, sorted_entries, convolved_image),
    *(token_wise, mixer, scaled_by_own_norm),
)


def encode(layers, params, x_i):
    for layer, weights in zip(layers, params, strict=True):
        x_i = layer(weights, x_i)
    return x_i


@st.composite
def middles(draw):
    """Draws layers, some of them in skip connections and products."""
    layer = st.sampled_from(LAYERS)
    skip = st.builds(around, layer, layer)
    return draw(st.lists(st.one_of(layer, skip, st.builds(product, layer, layer)), max_size=4))


def random_params(layers, ends, seed):
    """Returns weights of order one; those at the ends make the input and the code another size."""
    rng = np.random.default_rng(seed)
    shapes = [(SIZE, SIZE)] * len(layers)
    inputs, codes = ends
    shapes = [(inputs, SIZE), *shapes, (SIZE, codes)]
    return [jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0])) for shape in shapes]


def compare(layers, params, x, **options):
    """Compares value and gradient, in the parameters and in x, with the full Jacobian."""

    def loss(penalty, params, x):
        return jnp.vdot(penalty(partial(encode, layers, params), x), jnp.arange(1.0, len(x) + 1))

    penalties = (partial(jaxae.contractive_penalty, **options), full)
    both = [jax.value_and_grad(partial(loss, penalty), (0, 1)) for penalty in penalties]
    got, expected = jax.jit(lambda params, x: [f(params, x) for f in both])(params, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-10 * max(np.linalg.norm(b), 1e-3)


@pytest.fixture
def always_cut(monkeypatch):
    """Cuts encoders also where it does not pay, as it does not for so small ones."""
    monkeypatch.setattr(_choice, "_WORTH_CUTTING", float("inf"))


@pytest.mark.thorough  # each example is another program
@given(
    middles(),
    st.sampled_from([(9, 8), (3, 8), (9, 2)]),
    st.sampled_from([None, 1]),
    st.integers(0, 100),
)
@examples(20, derandomize=True)
def test_random_encoders_have_the_penalty_of_their_full_jacobian(layers, ends, chunk, seed):
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(_choice, "_WORTH_CUTTING", float("inf"))
        layers = [linear, *layers, linear]
        params = random_params(layers[1:-1], ends, seed)
        x = jnp.asarray(np.random.default_rng(seed).normal(size=(3, ends[0])))
        compare(layers, params, x, chunk_size=chunk)


# The seeds of the encoders with the largest errors in a longer search that was run once.
# They stand for these encoders as long as ``LAYERS`` and ``draw_encoder`` stay as they are.
WORST = (1020, 1045, 50, 1005, 48, 19, 1001, 11, 9, 1016, 54, 1042, 15, 33, 1064, 46, 51, 1035)
WORST += (1061, 1027)


def draw_encoder(rng):
    """Returns one to three random layers, some of them in skip connections and products."""

    def pick():
        return LAYERS[rng.integers(len(LAYERS))]

    def draw():
        kind = rng.integers(4)
        if kind < 2:
            return pick()
        return around(pick(), pick()) if kind == 2 else product(pick(), pick())

    return [draw() for _ in range(rng.integers(1, 4))]


@pytest.mark.thorough
@pytest.mark.parametrize("seed", WORST)
def test_the_random_encoders_with_the_largest_errors(seed, float64, always_cut):
    rng = np.random.default_rng(seed)
    middle = draw_encoder(rng)
    ends = [(9, 8), (3, 8), (9, 2)][rng.integers(3)]
    first, last = (linear if rng.random() < 0.7 else dense for _ in range(2))
    x = jnp.asarray(rng.normal(size=(2, ends[0])))
    chunk = [None, None, 1][rng.integers(3)]
    params = random_params(middle, ends, seed)
    compare([first, *middle, last], params, x, chunk_size=chunk)


@pytest.mark.thorough(by_default=["residual", "layer_norm", "gated", "attention", "max_pooled"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_layer_between_two_dense_ones(layer, float64, always_cut):
    layers = [dense, layer, dense]
    params = random_params([layer], (9, 8), 0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 9)))
    assert jaxae.explain_contraction(partial(encode, layers, params), x).method == "structure"
    compare(layers, params, x)


def test_segments_in_groups_of_examples(float64, always_cut):
    layers = [dense, residual, max_pooled, dense]
    params = random_params(layers[1:-1], (9, 8), 0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 9)))
    penalty = partial(jaxae.contractive_penalty, partial(encode, layers, params), chunk_size=2)
    assert " scan[" in str(jax.make_jaxpr(penalty)(x))
    compare(layers, params, x, chunk_size=2)


@pytest.mark.parametrize("layers", [[residual], [dense, residual, gated, linear]])
def test_the_change_of_a_jacobian_with_segments(layers, key, float64, monkeypatch):
    params = random_params(layers[1:-1], (SIZE, 8), 0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, SIZE)))
    of = partial(
        jaxae.higher_order_contractive_penalty, key, partial(encode, layers, params[: len(layers)])
    )
    found = []
    for share in (0.0, float("inf")):
        monkeypatch.setattr(_choice, "_WORTH_CUTTING", share)
        found.append(of(x, stddev=0.2, num_samples=2))
    assert bool((found[0] > 0).all())
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_an_encoder_is_cut_where_that_is_cheaper():
    weights = jnp.ones((64, 64)) / 64
    wide = [jnp.ones((784, 64)) / 784, weights, jnp.ones((64, 784)) / 64]
    layers = [linear, residual, linear]
    x = jnp.ones((32, 784))
    plan = jaxae.explain_contraction(partial(encode, layers, wide), x)
    assert "G2" in plan.formula
    assert "W1 (W1)ᵀ" in plan.formula
    assert plan.reason == ""
    assert plan.flops < min(flops for name, flops, _ in plan.rejected if name.startswith("jac")) / 4
    # With few codes the reverse derivatives do the same.
    few = [wide[0], weights, jnp.ones((64, 2)) / 64]
    plan = jaxae.explain_contraction(partial(encode, layers, few), x)
    assert plan.method == "jacrev"
    assert "is not linear" in plan.reason or "joins two paths" in plan.reason


def test_a_product_that_is_needed_twice_is_counted_once(float64, always_cut):
    """With wide ends <T, S> is cheapest, and one of the two has the product G3 G2 twice."""
    layers = [linear, residual, residual, linear]
    params = random_params(layers[1:-1], (40, 40), 0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 40)))
    plan = jaxae.explain_contraction(partial(encode, layers, params), x)
    assert plan.formula.startswith("<T, S>")
    assert plan.formula.count("G3 G2") == 2
    compare(layers, params, x)


def test_a_matrix_that_is_part_of_two_others_is_computed_once():
    calls = []

    def core():
        calls.append("")
        return jnp.eye(2)

    shared = _search.Node("P", (2, 2), core, is_constant=False)
    others = [_search.Node(name, (2, 2), lambda p: 2 * p.core, (shared,)) for name in "AB"]
    values = _evaluate.MatrixValues(jnp.float32, _evaluate.ExampleValues({}, {}), {})
    for node in others:
        np.testing.assert_array_equal(values.matrix(node).core, 2 * np.eye(2))
    assert len(calls) == 1


def cuts_of(function, size=SIZE):
    """Returns the names of the operations of which the results are cuts."""
    shape = jax.ShapeDtypeStruct((size,), jnp.float32)
    trace = jax.make_jaxpr(lambda x, t: jax.jvp(function, (x,), (t,)))(shape, shape)
    tangents, names = {trace.jaxpr.invars[1]}, []
    for eqn in trace.jaxpr.eqns:
        if tangents.intersection(v for v in eqn.invars if isinstance(v, jex.Var)):
            tangents |= set(eqn.outvars)
            names.append(eqn.primitive.name)
    places = _cuts.find_cuts(trace.jaxpr)
    assert len(places) == len(names)
    found = [name for name, place in zip(names, places, strict=True) if place.cut is not None]
    return [{"add_any": "add"}.get(name, name) for name in found]


def test_cuts_are_where_everything_passes_through_one_value():
    assert cuts_of(lambda x: jnp.sin(3 * x)) == ["mul", "mul"]
    assert cuts_of(lambda x: x + jnp.sin(x)) == ["add"]
    assert cuts_of(lambda x: jnp.sin(2 * x + jnp.sin(x)) * 2) == ["add", "mul", "mul"]
    # What the code does not depend on is no way around.
    assert cuts_of(lambda x: (jnp.sin(x), jnp.cos(x))[0]) == ["mul"]


def test_a_stretch_that_is_not_linear_is_no_segment():
    @jax.custom_jvp
    def odd(v):
        return v

    odd.defjvp(lambda primals, tangents: (primals[0], tangents[0] + jnp.square(tangents[0])))
    weights = jnp.ones((SIZE, SIZE))
    with pytest.raises(_trace.NotAChain, match="square is no map or scaling that is known"):
        _trace.read_chain(
            lambda x: odd(x @ weights) @ weights, jax.ShapeDtypeStruct((SIZE,), jnp.float32)
        )
