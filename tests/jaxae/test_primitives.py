"""The table of rules of the contractive penalty against what this JAX binds, and random chains.

A release of JAX that gives an operation a new parameter fails the first test, and not a user.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core as jex

import jaxae
from jaxae.contraction import _chain, _rules, _trace

X = jnp.ones((4, 6))
IMAGES, KERNELS = jnp.ones((2, 4, 5, 5)), jnp.ones((6, 2, 2, 2))

# One use of every operation that has a rule, or that is read through.
USES = {
    "convert_element_type": lambda x: x.astype(jnp.float16),
    "copy": jnp.copy,
    "mul": lambda x: x * x,
    "div": lambda x: x / x,
    "neg": lambda x: -x,
    "add": lambda x: x + x,
    "add_any": lambda x: jax.grad(lambda v: jnp.sum(v * v))(x),
    "sub": lambda x: x - x,
    "select_n": lambda x: lax.select(x > 0, x, x),
    "concatenate": lambda x: lax.concatenate([x, x], 0),
    "reshape": lambda x: lax.reshape(x, (24,), (1, 0)),
    "squeeze": lambda x: lax.squeeze(x[None], (0,)),
    "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x, (2, 4, 6), (1, 2)),
    "transpose": jnp.transpose,
    "slice": lambda x: lax.slice(x, (0, 0), (4, 3), (2, 1)),
    "rev": lambda x: lax.rev(x, (0,)),
    "pad": lambda x: lax.pad(x, 0.0, ((1, 1, 1), (0, 0, 0))),
    "tile": lambda x: lax.tile(x, (2, 1)),
    "dot_general": lambda x: lax.dot(x, x.T, precision="highest", preferred_element_type=x.dtype),
    "conv_general_dilated": lambda x: lax.conv_general_dilated(
        IMAGES, KERNELS, (1, 2), "SAME", rhs_dilation=(2, 1), feature_group_count=2
    ),
    "reduce_sum": lambda x: lax.reduce(x, 0.0, lax.add, (0,)),
    "cumsum": lambda x: lax.cumsum(x, 1, reverse=True),
    "reduce_window_sum": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "SAME"),
    "gather": lambda x: x[jnp.array([1, 0])],
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (1, 0), (2, 2)),
}


def equations(jaxpr):
    """Yields all equations of a trace, those of inner calls too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jex.jaxprs_in_params(eqn.params):
            yield from equations(inner)


def test_the_table_has_every_parameter_that_this_jax_binds():
    assert set(USES) == set(_rules.RULES)
    for name, use in USES.items():
        eqns = [e for e in equations(jax.make_jaxpr(use)(X).jaxpr) if e.primitive.name == name]
        assert eqns, name
        for eqn in eqns:
            assert set(eqn.params) == set(_rules.RULES[name].parameters), name


def square_of_jacobian(encode, x):
    """Returns the squared Frobenius norms of the Jacobians, written out."""
    jacobians = jax.vmap(jax.jacrev(encode))(x)
    return jnp.sum(jnp.square(jacobians).reshape(len(x), -1), axis=1)


# ------------------------------------------------------------- what a rule does not understand


@pytest.mark.parametrize(
    ("name", "parameter", "encode"),
    [
        ("reshape", "dimensions", lambda x: x.reshape(2, 3).reshape(-1, order="F")),
        ("dot_general", "precision", lambda x: jnp.ones((3, 6)) @ x),
        ("reduce_sum", "axes", lambda x: lax.reduce(x, 0.0, lax.add, (0,))[None]),
    ],
)
def test_a_parameter_that_is_not_in_the_table_is_no_part_of_a_chain(
    name, parameter, encode, monkeypatch
):
    assert jaxae.explain_contraction(encode, X).method == "structure"
    monkeypatch.delitem(_rules.RULES[name].parameters, parameter)
    found = jaxae.explain_contraction(encode, X)
    assert found.method != "structure"
    assert f"{name} with {parameter}=" in found.reason


INDEX = jnp.array([[0], [9], [2]])


def gathered(t, mode, fill_value):
    numbers = lax.GatherDimensionNumbers((), (0,), (0,))
    return lax.gather(t, INDEX, numbers, (1,), mode=mode, fill_value=fill_value)


def with_rule(rule):
    """Returns a function that is its own derivative rule: what it does acts on the direction."""
    function = jax.custom_jvp(rule)
    function.defjvp(lambda primals, tangents: (rule(*primals), rule(*tangents)))
    return function


MODE = lax.GatherScatterMode
UNKNOWN_VALUES = {
    "mode=": with_rule(partial(gathered, mode=MODE.FILL_OR_DROP, fill_value=3.0)),
    "GatherScatterMode.ONE_HOT": with_rule(partial(gathered, mode=MODE.ONE_HOT, fill_value=0)),
    "reduce_precision": lambda x: lax.reduce_precision(1.3 * x, 5, 2),
    "not real": lambda x: lax.dot_general(
        jnp.ones((3, 6), jnp.complex64),
        x,
        (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    ),
}


def test_a_product_by_an_algorithm_is_a_factor(float64):
    weights = jnp.linspace(-1.0, 1.0, 18, dtype=jnp.float32).reshape(3, 6)
    rows = jnp.linspace(0.0, 1.0, 48, dtype=jnp.float32).reshape(2, 4, 6)
    encode = lambda x_i: jnp.sin(x_i @ weights.T).reshape(-1)
    penalty = jax.jit(partial(jaxae.contractive_penalty, encode, example_ndim=2))
    plain = penalty(rows)
    with jax.default_matmul_precision("F32_F32_F32"):
        explained = jaxae.explain_contraction(encode, rows, example_ndim=2)
        found = penalty(rows)
    assert not explained.reason
    np.testing.assert_allclose(found, plain, rtol=1e-6)


@pytest.mark.parametrize("reason", UNKNOWN_VALUES)
def test_a_value_that_is_not_understood_is_no_part_of_a_chain(reason):
    example = jax.ShapeDtypeStruct((6,), jnp.float32)
    with pytest.raises(_chain.NotAChain, match=reason):
        _trace.read_chain(UNKNOWN_VALUES[reason], example)


# ------------------------------------------------------------- weights that are not floating

INTEGERS = np.array([[1, 2, -3, 0, 4, 1], [0, -2, 1, 1, 3, -1], [2, 2, 0, -1, 1, 5]])
WEIGHTS = {
    "integer": INTEGERS,
    "int8": INTEGERS.astype(np.int8) * 25,
    "unsigned": np.abs(INTEGERS).astype(np.uint32),
    "boolean": INTEGERS > 0,
    "float16": (INTEGERS / 7).astype(np.float16),
    "complex": INTEGERS * (1 + 2j),
}


@pytest.mark.thorough(by_default=["integer", "boolean"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_what_is_a_weight_does_not_depend_on_its_dtype(name, float64):
    def encode(v):
        numbers = ((1,), (0,)), ((), ())
        weights = jnp.asarray(WEIGHTS[name])
        return lax.dot_general(weights, 2 * jnp.sin(v), numbers, preferred_element_type=v.dtype)

    x = np.random.default_rng(0).normal(size=(2, 6))
    total = lambda x: jaxae.contractive_penalty(encode, x).sum()
    value, gradient = jax.jit(jax.value_and_grad(total))(x)
    # sum_ij (2 W_ij cos x_j)^2, of the real parts of the weights
    columns = 4 * np.square(np.real(WEIGHTS[name]).astype(float)).sum(0)
    np.testing.assert_allclose(value, (np.cos(x) ** 2 @ columns).sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient, -2 * np.cos(x) * np.sin(x) * columns, rtol=1e-10)


@pytest.mark.parametrize(("narrow", "wide"), [("float32", "float64"), ("float16", "float32")])
def test_two_dtypes_in_one_encoder_need_no_promotion(narrow, wide, float64):
    """Worked by hand: 4 cos(0)^2 for each of six entries; tests forbid implicit promotion."""
    encode = lambda v: (2 * jnp.sin(v)).astype(wide) * jnp.ones(6, wide)
    value = jax.jit(partial(jaxae.contractive_penalty, encode))(np.zeros((1, 6), narrow))
    assert (value.dtype, value.tolist()) == (jnp.dtype(narrow), [24.0])


def test_the_order_of_a_reshape_is_followed(float64):
    """Worked by hand: of v * [1, 2, 3, 4] in the order 0, 2, 1, 3 the first two are kept."""
    encode = lambda v: (
        (v.reshape(2, 2) * jnp.array([[1.0, 2.0], [3.0, 4.0]])).reshape(-1, order="F")
        * jnp.array([1.0, 1.0, 0.0, 0.0])
    )
    penalty = jax.jit(partial(jaxae.contractive_penalty, encode))
    assert penalty(np.ones((1, 4))).tolist() == [10.0]


def test_a_broadcast_that_permutes_axes_is_no_reshape(float64):
    """Worked by hand: entries 0, 3, 1, 4, 2, 5 are added to 0, 1, ... 5; two meet themselves."""

    def encode(v):
        scaled = v * jnp.arange(1.0, 7.0)
        permuted = lax.broadcast_in_dim(scaled.reshape(2, 3), (3, 2), (1, 0))
        return permuted.reshape(-1) + scaled

    # 4 (1 + 36) for the ends; for the others two entries each: 2 (4 + 9 + 16 + 25)
    value = jax.jit(partial(jaxae.contractive_penalty, encode))(np.ones((1, 6)))
    np.testing.assert_allclose(value, 4 * 37 + 2 * 54, rtol=1e-12)


# ------------------------------------------------------------- random chains

SIZE = 6
KERNEL_NUMBERS = ("NCH", "OIH", "NCH")


def affine(rng):
    """Returns a dense layer, half of the time with weights that are not float64."""
    weights = rng.normal(size=(SIZE, SIZE)) / 2
    kind = rng.choice(["parameter", "parameter", "int8", "bool", "float16", "layout"])
    if kind == "parameter":
        return lambda w, h: w @ h
    if kind == "layout":
        return lambda w, h: jnp.einsum("ajib,bij->a", w.reshape(SIZE, 3, 2, 1), h.reshape(1, 2, 3))
    constant = {"int8": 3 * weights, "bool": weights > 0, "float16": weights}[kind].astype(kind)
    numbers = ((0,), (0,)), ((), ())
    return lambda w, h: lax.dot_general(h, constant, numbers, preferred_element_type=h.dtype)


def convolution(rng):
    """Returns a convolution in one dimension with strides, dilations and groups."""
    groups, window = rng.choice([1, 2]), rng.choice([1, 2])
    strides, padding = (int(rng.choice([1, 2])),), ((int(rng.choice([0, 1, 2])), 2),)
    dilations = {f"{side}_dilation": (int(rng.choice([1, 2])),) for side in ("lhs", "rhs")}
    by = str(rng.choice(["feature_group_count", "batch_group_count"]))
    images = (2, 1, 3) if by == "batch_group_count" and groups == 2 else (1, 2, 3)
    shape = (2, images[1] // (1 if by == "batch_group_count" else groups), window)

    def convolve(w, h):
        kernel = w.reshape(-1)[: np.prod(shape)].reshape(shape)
        options = {by: int(groups), **dilations, "dimension_numbers": KERNEL_NUMBERS}
        image = h.reshape(images)
        return lax.conv_general_dilated(image, kernel, strides, padding, **options).reshape(-1)

    return convolve


def layout(rng):
    """Returns a selection or a change of layout."""
    orders = rng.choice(["C", "F"], size=2)
    index = jnp.asarray(rng.integers(-2, SIZE + 2, size=SIZE))
    mode = str(rng.choice(["clip", "fill", "wrap"]))
    low, start = int(rng.integers(-1, 2)), int(rng.integers(0, 3))
    choices = [
        lambda w, h: h.reshape(2, 3, order=orders[0]).reshape(-1, order=orders[1]),
        lambda w, h: lax.reshape(h.reshape(1, 3, 2), (SIZE,), (2, 0, 1)),
        lambda w, h: h.reshape(3, 2).T[::-1].reshape(-1),
        lambda w, h: jnp.take(h, index, mode=mode, fill_value=0),
        lambda w, h: lax.pad(h, 0.0, ((low, 1, 1),)),
        lambda w, h: jnp.tile(h.reshape(3, 1, 2), (1, 2, 1)).reshape(-1),
        lambda w, h: lax.dynamic_slice(h, (jnp.asarray(start),), (4,)),
        lambda w, h: jnp.concatenate([jnp.zeros(1), h[1:4], jnp.zeros(2)]),
    ]
    return choices[rng.integers(len(choices))]


def arithmetic(rng):
    """Returns an elementwise function, a sum over windows, or what is no chain."""
    constant = rng.integers(-2, 3, size=SIZE)
    axis = {"window_dilation": (2,), "base_dilation": (2,)}
    choices = [
        lambda w, h: jnp.sin(h) * 0.5 * constant[: h.size].astype(h.dtype),
        lambda w, h: jnp.where(h > 0, h, 0.3 * h),
        lambda w, h: jnp.tanh(h) - 0.2 * h,
        lambda w, h: lax.mul(h, jnp.asarray(constant)[: h.size], out_dtype=h.dtype),
        lambda w, h: h / (1 + jnp.square(h)),
        lambda w, h: lax.cumsum(h, reverse=True) / 3,
        lambda w, h: lax.reduce_window(h, 0.0, lax.add, (2,), (2,), ((1, 2),), **axis),
        lambda w, h: jnp.real(lax.complex(h, 1 + h) * lax.complex(h, h)),  # no chain
        lambda w, h: h + h[::-1],  # no chain
    ]
    return choices[rng.integers(len(choices))]


def to_size(h):
    return jnp.pad(h, (0, max(0, SIZE - h.size)))[:SIZE]


def random_chain(rng):
    """Returns an encoder of some steps, each followed by a cut or padding to one size."""
    kinds = [affine, convolution, layout, layout, arithmetic]
    steps = [kinds[i](rng) for i in rng.integers(len(kinds), size=rng.integers(2, 6))]

    def encode(params, x_i):
        h = x_i
        for w, step in zip(params, steps, strict=False):
            h = to_size(step(w, h))
        return h

    return encode


@pytest.mark.thorough(by_default=["2"])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_chains_are_their_full_jacobian(seed, float64):
    rng = np.random.default_rng(seed)
    encoders = [random_chain(rng) for _ in range(5)]
    params = [jnp.asarray(rng.normal(size=(SIZE, SIZE)) / 2) for _ in range(5)]
    x = jnp.asarray(rng.normal(size=(2, SIZE)))

    def loss(params, x, encode, penalty):
        return penalty(partial(encode, params), x) @ jnp.array([1.0, 2.0])

    @jax.jit
    def both(params, x):
        return [
            [
                jax.value_and_grad(partial(loss, encode=e, penalty=p), argnums=(0, 1))(params, x)
                for e in encoders
            ]
            for p in (jaxae.contractive_penalty, square_of_jacobian)
        ]

    found, expected = both(params, x)
    for got, of_jacobian in zip(found, expected, strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), got, of_jacobian)
    methods = [jaxae.explain_contraction(partial(e, params), x).method for e in encoders]
    assert methods.count("structure") >= 3
