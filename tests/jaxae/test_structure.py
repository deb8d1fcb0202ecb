"""The penalty from an encoder's structure equals the full Jacobian, and falls back where it must.

Everything is compared, value and gradient, with ``jax.jacrev`` in float64 at weights of order one.
"""

import dataclasses
from functools import partial
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

import jaxae
from jaxae.contraction import _chain, _evaluate, _search, _trace

RNG = np.random.default_rng(8)


def full(encode, x):
    """Returns the squared Frobenius norms of the Jacobians, written out."""
    jacobians = jax.vmap(jax.jacrev(encode))(x)
    return jnp.sum(jnp.square(jacobians).reshape(len(x), -1), axis=1)


def assert_same(got, expected, rtol=1e-10):
    """Every array agrees relative to its own norm."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.linalg.norm(np.subtract(a, b)), 0, atol=rtol * max(np.linalg.norm(b), 1e-30)
        ),
        got,
        expected,
    )


def check(encode, params, x, rtol=1e-10, **options):
    """Compares value and gradient, in the parameters and in x, with the full Jacobian."""

    def loss(params, x, penalty):
        values = penalty(partial(encode, params), x)
        return jnp.sum(values * jnp.arange(1, len(x) + 1, dtype=values.dtype)), values

    by_structure = partial(jaxae.contractive_penalty, example_ndim=x.ndim - 1, **options)
    both = [
        jax.value_and_grad(partial(loss, penalty=p), argnums=(0, 1), has_aux=True)
        for p in (by_structure, full)
    ]
    # One program: two would take half as long again to compile.
    got, expected = jax.jit(lambda params, x: [f(params, x) for f in both])(params, x)
    assert_same(got[0][1], expected[0][1], rtol)
    assert_same(got[1], expected[1], rtol)


def plan(encode, x):
    return jaxae.explain_contraction(encode, x, example_ndim=x.ndim - 1)


# ------------------------------------------------------------- five ways to write a dense layer


def plain(kernel, bias):
    return lambda v: v @ kernel if bias is None else v @ kernel + bias


def linen(kernel, bias):
    params = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    layer = nn.Dense(kernel.shape[1], use_bias=bias is not None, param_dtype=kernel.dtype)
    return partial(layer.apply, {"params": params})


def nnx(kernel, bias):
    library = pytest.importorskip("flax.nnx", exc_type=Exception)
    shape = {"use_bias": bias is not None, "param_dtype": kernel.dtype}
    graph, state = library.split(library.Linear(*kernel.shape, rngs=library.Rngs(0), **shape))
    state["kernel"].set_value(kernel)
    if bias is not None:
        state["bias"].set_value(bias)
    return library.merge(graph, state)


def equinox(kernel, bias):
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.Linear(*kernel.shape, use_bias=bias is not None, key=jax.random.key(0))
    layer = eqx.tree_at(lambda m: m.weight, layer, kernel.T)
    return layer if bias is None else eqx.tree_at(lambda m: m.bias, layer, bias)


def haiku(kernel, bias):
    hk = pytest.importorskip("haiku")
    layer = lambda v: hk.Linear(kernel.shape[1], with_bias=bias is not None)(v)
    params = {"w": kernel} if bias is None else {"w": kernel, "b": bias}
    return partial(hk.without_apply_rng(hk.transform(layer)).apply, {"linear": params})


WAYS = [plain, linen, nnx, equinox, haiku]
ACTIVATIONS = [
    jnp.tanh,
    jax.nn.sigmoid,
    jax.nn.relu,
    jax.nn.softplus,
    jax.nn.gelu,
    jax.nn.silu,
    jax.nn.elu,
    lambda v: v,
]


# Widths, input first. Every way is met with and without a bias, and every activation.
WIDTHS = {
    "one unit": [1, 1],
    "one layer": [61, 7],
    "tied": [30, 12, 30],
    "two layers": [17, 21, 43],
    "three layers": [6, 34, 14, 48],
    "five layers, a narrow one": [27, 63, 1, 26, 17, 9],
}


def layers_of(name, rng):
    """Returns kernel, bias, activation and way of each layer, numbered over all networks."""
    names = list(WIDTHS)
    first = sum(len(WIDTHS[other]) - 1 for other in names[: names.index(name)])
    layers = []
    for number, pair in enumerate(pairwise(WIDTHS[name]), first):
        kernel = rng.normal(size=pair) / np.sqrt(pair[0])
        bias = rng.normal(size=pair[1]) if number % 2 else None
        activation, way = ACTIVATIONS[number % len(ACTIVATIONS)], WAYS[number % len(WAYS)]
        layers.append((kernel, bias, activation, way))
    return layers


@pytest.mark.thorough(by_default=["one unit", "three layers"])
@pytest.mark.parametrize("name", WIDTHS)
def test_dense_encoders_written_in_five_ways(name, float64):
    kernels, biases, activations, ways = zip(*layers_of(name, RNG), strict=True)
    if name == "tied":
        kernels = kernels[:1]

    def encode(params, x_i):
        kernels, biases = params
        kernels = [*kernels, kernels[0].T] if name == "tied" else kernels
        h = x_i
        for kernel, bias, activation, way in zip(kernels, biases, activations, ways, strict=True):
            h = activation(way(kernel, bias)(h))
        return h

    x = RNG.normal(size=(3, WIDTHS[name][0]))
    params, x = jax.tree.map(jnp.asarray, ((kernels, biases), x))
    assert plan(partial(encode, params), x).method == "structure"
    check(encode, params, x)


@given(
    st.sampled_from(["SAME", "VALID", "CIRCULAR"]),
    st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    st.sampled_from([1, 2]),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
)
@examples(10, derandomize=True)
def test_convolutional_encoders(padding, strides, groups, activation, is_deep):
    conv = nn.Conv(4, (3, 2), strides, padding, feature_group_count=groups)
    conv = conv.copy(param_dtype=jnp.float64, bias_init=nn.initializers.normal(1.0))

    def encode(params, image):
        h = activation(conv.apply(params["conv"], image))
        if is_deep:
            return jnp.tanh(h.reshape(-1) @ params["dense"])
        return h.transpose(2, 0, 1).reshape(-1)

    with jax.enable_x64(True):
        x = jnp.asarray(RNG.normal(size=(3, 5, 4, 2)))
        params = {"conv": conv.init(jax.random.key(0), x[0])}
        size = conv.apply(params["conv"], x[0]).size
        params["dense"] = jnp.asarray(RNG.normal(size=(size, 3)) / np.sqrt(size))
        check(encode, params, x)


# ------------------------------------------------------------- chains in disguise, and others

W = {
    "w": RNG.normal(size=(5, 6)),
    "v": RNG.normal(size=(6, 4)),
    "u": RNG.normal(size=(4, 4)),
    "c": RNG.normal(size=6),
}
PERMUTATION = np.array([3, 0, 4, 1, 2])


@jax.custom_jvp
def straight_through(v):
    return jnp.round(v)


straight_through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


@jax.custom_jvp
def mixing(v):
    return jnp.tanh(v)


@mixing.defjvp
def _(primals, tangents):  # a rule that is not elementwise
    return jnp.tanh(primals[0]), tangents[0] + jnp.sum(tangents[0])


@jax.custom_vjp
def only_reverse(v):
    return jnp.tanh(v)


only_reverse.defvjp(lambda v: (jnp.tanh(v), v), lambda v, ct: (ct * (1 - jnp.square(jnp.tanh(v))),))


def norm(h):
    return (h - h.mean()) / jnp.sqrt(h.var() + 0.1)


CHAINS = {
    "identity": lambda p, x: x,
    "elementwise": lambda p, x: jnp.sin(x) * x,
    "scaled input": lambda p, x: jnp.tanh((3 * x - 1) / 2 @ p["w"]),
    "curved input": lambda p, x: jnp.tanh(jnp.arctan(x) @ p["w"]),
    "curved input, two layers": lambda p, x: jnp.tanh(jnp.sin(jnp.exp(x) @ p["w"]) @ p["v"]),
    "linear": lambda p, x: x @ p["w"] @ p["v"] + 1,
    "linear code": lambda p, x: jnp.tanh(x @ p["w"] + p["c"]) @ p["v"],
    "tied": lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"].T),
    "equal products": lambda p, x: jnp.where(x @ p["w"] > 0, x @ p["w"], 0.1 * (x @ p["w"])),
    "difference of itself": lambda p, x: jnp.tanh(x @ p["w"]) - 0.3 * (x @ p["w"]),
    "quotient": lambda p, x: (x @ p["w"]) / (1 + jnp.square(x @ p["w"])),
    "prelu": lambda p, x: jnp.where(x @ p["w"] > p["c"], p["c"], 2.0) * (x @ p["w"]),
    "clipped": lambda p, x: jnp.clip(x @ p["w"], -0.5, 0.5) @ p["v"],
    "straight through": lambda p, x: straight_through(x @ p["w"]) @ p["v"],
    "remat": lambda p, x: jax.checkpoint(lambda h: jnp.tanh(h @ p["w"]))(x) @ p["v"],
    "jit": lambda p, x: jax.jit(lambda h: jax.nn.gelu(h @ p["w"]))(x) @ p["v"],
    "reversed and sliced": lambda p, x: jnp.tanh(x @ p["w"])[::-1][1:5] @ p["u"],
    "padded": lambda p, x: jnp.tanh(jnp.pad(x, (0, 1)) @ p["v"]),
    "padded and curved": lambda p, x: jnp.tanh(jnp.cos(jnp.pad(x, (0, 1))) @ p["v"]),
    "one more input": lambda p, x: jnp.tanh(jnp.concatenate([x, jnp.ones(1)]) @ p["v"]),
    "crelu": lambda p, x: jnp.concatenate([jax.nn.relu(x @ p["w"]), jax.nn.relu(-(x @ p["w"]))]),
    "repeated": lambda p, x: jnp.tanh(jnp.broadcast_to(x[None], (2, 5)).reshape(-1)),
    "repeated, then dense": lambda p, x: jnp.tanh(jnp.tile(x, 2)[:6] @ p["v"]),
    "repeated code": lambda p, x: jnp.broadcast_to(jnp.tanh(x @ p["w"]), (3, 6)).reshape(-1),
    "permuted": lambda p, x: jnp.tanh(x[PERMUTATION] @ p["w"]),
    "cumulated": lambda p, x: jnp.tanh(jnp.cumsum(jnp.sin(x @ p["w"]))),
    "summed": lambda p, x: jnp.tanh((x[:, None] * p["w"]).sum(0)),
    "maximum": lambda p, x: (x @ p["w"]).max(keepdims=True),
    "stretched": lambda p, x: jnp.tanh((x[:, None] + p["w"]).ravel()),
    "stretched zero": lambda p, x: (x[:, None] + jnp.zeros((5, 2))).ravel() * 2,
    "over rows": lambda p, x: jnp.tanh(jnp.tanh((x @ p["w"]).reshape(3, 2)) @ p["u"][:2]).ravel(),
    "cancelling pair": lambda p, x: jnp.tanh(x @ p["w"]) @ jnp.concatenate([p["v"], -p["v"]], 1),
    "noise known beforehand": lambda p, x: jnp.tanh(x + jax.random.normal(jax.random.key(1), (5,))),
    "nothing": lambda p, x: jax.lax.stop_gradient(x) @ p["w"],
    "half stopped": lambda p, x: jnp.tanh(jax.lax.stop_gradient(x @ p["w"]) * (x @ p["w"])),
}
# With a stretch that is no chain, where it pays to cut it out (more are in test_segments.py).
CUT = {
    "softmax": lambda p, x: jax.nn.softmax(x @ p["w"]),
    "sorted": lambda p, x: jnp.sort(x @ p["w"]),
    "index by value": lambda p, x: jnp.tanh(x)[jnp.argsort(x)],
}
OTHERS = {
    "skip": lambda p, x: jnp.tanh(x @ p["w"] @ p["v"] + x[:4]),
    "skip from the input": lambda p, x: x + jnp.tanh(jnp.pad(x, (0, 1)) @ p["w"].T),
    "gate": lambda p, x: jax.nn.sigmoid(x @ p["w"]) * jnp.tanh(x @ p["w"][:, ::-1]),
    "glu": lambda p, x: jax.nn.glu(x @ p["w"]),
    "normalised": lambda p, x: norm(x @ p["w"]),
    "attention": lambda p, x: (jnp.outer(x, x) @ p["w"]).sum(0),
    "bilinear": lambda p, x: (x @ p["w"]) * jnp.sum(x),
    "scan": lambda p, x: jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["u"]), 0), x[:4], length=3)[0],
    "cond": lambda p, x: jax.lax.cond(x[0] > 0, jnp.tanh, jnp.sin, x @ p["w"]),
    "weights from x": lambda p, x: x @ (p["w"] * x[:, None]),
    "two paths side by side": lambda p, x: jnp.concatenate([x @ p["w"], jnp.tanh(x)]),
    "mixing rule": lambda p, x: mixing(x @ p["w"]),
    "reverse rule": lambda p, x: only_reverse(x @ p["w"]) @ p["v"],
    "fft": lambda p, x: jnp.abs(jnp.fft.rfft(x)) ** 2,
}


@pytest.mark.thorough(
    by_default=[
        "identity",
        "curved input, two layers",
        "tied",
        "difference of itself",
        "crelu",
        "cancelling pair",
        "nothing",
        "skip",
        "mixing rule",
        "reverse rule",
        "scan",
    ]
)
@pytest.mark.parametrize("name", [*CHAINS, *CUT, *OTHERS])
def test_chains_and_what_is_none(name, float64):
    encode = (CHAINS | CUT | OTHERS)[name]
    params, x = jax.tree.map(jnp.asarray, (W, RNG.normal(size=(3, 5))))
    found = plan(partial(encode, params), x)
    assert (found.method == "structure") == (name not in OTHERS), str(found)
    assert bool(found.reason) == (name in OTHERS)
    check(encode, params, x)


def test_a_loop_without_a_reverse_derivative_gets_a_forward_one(float64):
    x, weights = jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray(W["u"])
    step = lambda h: jnp.tanh(h @ weights)
    encode = lambda x_i: jax.lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, step(s[1])), (0, x_i)
    )[1]
    unrolled = lambda x_i: step(step(step(x_i)))
    assert plan(encode, x).method == "jacfwd"
    np.testing.assert_allclose(jaxae.contractive_penalty(encode, x), full(unrolled, x), rtol=1e-12)


def test_a_rule_that_is_not_linear_is_not_taken_for_one(float64):
    @jax.custom_jvp
    def odd(v):
        return v

    odd.defjvp(lambda primals, tangents: (primals[0], tangents[0] + 1.0))
    with pytest.raises(_chain.NotAChain, match="not linear"):
        _trace.read_chain(lambda x_i: odd(x_i), jax.ShapeDtypeStruct((3,), jnp.float64))


def test_the_reason_names_the_line():
    def skip(x_i):
        return x_i + x_i[::-1]

    reason = plan(skip, jnp.ones((2, 3))).reason
    assert "add_any joins two paths" in reason or "add joins two paths" in reason
    assert __file__.rsplit("/", 1)[-1] in reason


# ------------------------------------------------------------- every order, groups, cancellation


def three_layers(params, x_i):
    h = jnp.tanh(x_i @ params[0] + 0.1)
    return jnp.tanh(jax.nn.sigmoid(h @ params[1]) @ params[2])


def linear_ends(params, x_i):
    return jnp.tanh(x_i @ params[0]) @ params[1] @ params[2]


@pytest.mark.thorough(by_default=["1-which1-linear_ends", "5-which2-three_layers"])
@pytest.mark.parametrize("encode", [three_layers, linear_ends])
@pytest.mark.parametrize(("group", "which"), [(2, range(7)), (1, [0, 1]), (5, [1])])
def test_every_order_gives_the_same(encode, group, which, float64):
    shapes = [(9, 7), (7, 6), (6, 4)]
    params = [jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[0])) for shape in shapes]
    x = jnp.asarray(RNG.normal(size=(5, 9)))
    example = jax.ShapeDtypeStruct((9,), x.dtype)

    def loss(params, x, order):
        chain = _trace.read_chain(partial(encode, params), example)
        found = _evaluate.factored_jacobian(chain, len(x), x.dtype, group)
        assert len(found.orders) == 7
        plain = [o for o in found.orders if len(o.parts) == 1]
        found = found._replace(orders=found.orders[order : order + 1] + plain)
        return jnp.sum(found.codes_and_norms(x)[1] * jnp.arange(1.0, 6.0))

    reference = lambda params, x: jnp.sum(full(partial(encode, params), x) * jnp.arange(1.0, 6.0))
    losses = [reference, *(partial(loss, order=order) for order in which)]
    gradients = [jax.value_and_grad(f, argnums=(0, 1)) for f in losses]
    expected, *found = jax.jit(lambda params, x: [f(params, x) for f in gradients])(params, x)
    for of_order in found:
        assert_same(of_order, expected)


def cancelling(scale, inputs, hidden):
    """Two layers whose product is ``scale`` times a matrix of order one: the rest cancels."""
    rng = np.random.default_rng(3)
    w, v = rng.normal(size=(inputs, hidden)), rng.normal(size=(hidden, 4))
    weights = [np.concatenate([w, w], 1), np.concatenate([v, (scale - 1) * v], 0)]
    return [jnp.asarray(weight, jnp.float32) for weight in weights]


@pytest.mark.thorough(
    by_default=["sin-<X, X S>-0.001-sizes1-2097152", "<lambda>-<T, S>-0.001-sizes0-4096"]
)
@pytest.mark.parametrize("group_bytes", [2**21, 2**12])
@pytest.mark.parametrize("sizes", [(40, 6), (1000, 6)])  # so wide that the way out is in pieces
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 0.0])
@pytest.mark.parametrize(("last", "formula"), [(lambda v: v, "<T, S>"), (jnp.sin, "<X, X S>")])
def test_what_cancels_is_no_worse_than_the_product(
    last, formula, scale, sizes, group_bytes, monkeypatch
):
    """In float32, <X, X W W^T> alone would be off by the rounding of terms of order one."""
    monkeypatch.setitem(_evaluate._GROUP_BYTES, "cpu", group_bytes)
    params = cancelling(scale, *sizes)
    encode = lambda params, x_i: last(jnp.sin(x_i @ params[0]) @ params[1])
    x = jnp.asarray(np.random.default_rng(4).normal(size=(64, sizes[0])), jnp.float32)
    assert plan(partial(encode, params), x).formula.startswith(formula)
    both = [
        jax.jit(jax.value_and_grad(lambda p, f=f: jnp.sum(f(partial(encode, p), x))))(params)
        for f in (jaxae.contractive_penalty, full)
    ]
    with jax.enable_x64(True):
        wide = [jnp.asarray(weight, jnp.float64) for weight in params]
        exact = np.asarray(full(partial(encode, wide), jnp.asarray(x, jnp.float64)).sum())
        natural = float(jnp.sum(jnp.square(wide[1]))) * float(jnp.sum(jnp.square(wide[0])))
    (value, gradient), (of_product, gradient_of_product) = both
    assert value >= 0
    off = abs(float(value) - exact)
    assert off <= max(3 * abs(float(of_product) - exact), 2e-6 * exact)
    if scale == 0:
        assert float(value) <= 1e-10 * natural
    # The gradient in W keeps the rounding of X^T X W, relative to its terms, as is said there.
    w, v = (np.linalg.norm(weight) for weight in params)
    terms = 64 * w * v * max(w, v)
    for a, b in zip(gradient, gradient_of_product, strict=True):
        scale_of_b = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, atol=max(1e-4 * scale_of_b, 1e-7 * terms))


# ------------------------------------------------------------- cost, transformations, dtypes


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def test_one_layer_costs_about_one_forward_pass():
    weights, x = jnp.ones((300, 200)), jnp.ones((64, 300))
    encode = lambda w, x_i: jax.nn.sigmoid(x_i @ w)
    penalty = lambda w: jaxae.contractive_penalty(partial(encode, w), x).sum()
    forward = compiled(lambda w: jax.vmap(partial(encode, w))(x), weights).cost_analysis()["flops"]
    assert compiled(penalty, weights).cost_analysis()["flops"] < 1.2 * forward
    gradient = compiled(jax.grad(penalty), weights)
    assert gradient.cost_analysis()["flops"] < 2.5 * forward
    # No Jacobian: not even one of its 200 x 300 matrices per example.
    assert gradient.memory_analysis().temp_size_in_bytes < 64 * 300 * 200 * 4 / 10


def test_the_width_of_the_input_disappears_from_the_work_per_example():
    params = [jnp.ones((600, 32)) / 600, jnp.ones((32, 8)) / 32]
    encode = lambda x_i: jnp.tanh(jnp.tanh(x_i @ params[0]) @ params[1])
    found = plan(encode, jnp.ones((256, 600)))
    assert found.formula == "<X, X S>, X = D2 W2, S = D1 W1 (D1 W1)ᵀ"
    # X S, and W1 W1^T once per batch; the scaling of X is not counted.
    assert found.flops == 2 * 256 * 8 * 32**2 + 2 * 600 * 32**2
    of_jacrev = next(flops for name, flops, _ in found.rejected if name == "jacrev")
    assert found.flops < of_jacrev / 10


@pytest.mark.parametrize(
    ("platform", "precision", "dtype", "formula"),
    [
        ("cpu", None, "float32", "<X, X S>"),
        ("gpu", None, "float32", "‖"),
        ("gpu", "tensorfloat32", "float32", "‖"),
        ("gpu", "highest", "float32", "<X, X S>"),
        ("gpu", "F32_F32_F32", "float32", "<X, X S>"),
        ("gpu", None, "float64", "<X, X S>"),
        ("tpu", None, "bfloat16", "‖"),
    ],
)
def test_exact_products_are_dear_where_others_are_rounded(
    platform, precision, dtype, formula, monkeypatch, float64
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    sizes = [784, 512, 256, 64]
    params = [jnp.ones(shape, dtype) / 512 for shape in pairwise(sizes)]
    with jax.default_matmul_precision(precision):
        found = plan(partial(three_layers, params), jnp.ones((128, 784), dtype))
    assert found.formula.startswith(formula)


def test_square_matrices_have_all_digits():
    params = [jnp.ones(shape) / 9 for shape in ((9, 7), (7, 6), (6, 4))]
    chain = _trace.read_chain(partial(three_layers, params), jax.ShapeDtypeStruct((9,), "float32"))
    search = _search.Search(chain.factors, 5, jnp.float32)
    values = _evaluate.MatrixValues(jnp.float32, None, {})
    for start in range(2):
        first, second = search.leaves[start : start + 2]
        node = search._congruence(
            *(dataclasses.replace(n, rows=None, cols=None) for n in (second, search.gram(first)))
        )
        text = str(jax.make_jaxpr(lambda node=node: values.matrix(node).core)())
        assert text.count("dot_general") == 3
        assert text.count("Precision.HIGHEST") == 6  # two factors each


def test_one_layer_is_not_taken_in_groups():
    weights = jnp.ones((20, 8))
    encode = lambda x_i: jnp.tanh(x_i @ weights)
    penalty = lambda x: jaxae.contractive_penalty(encode, x, chunk_size=1)
    assert "scan" not in str(jax.make_jaxpr(penalty)(jnp.ones((64, 20))))


def test_a_large_batch_is_taken_in_groups():
    params = [jnp.ones((64, 128)) / 64, jnp.ones((128, 128)) / 128, jnp.ones((128, 32)) / 128]
    loss = lambda params, x: jaxae.contractive_penalty(partial(three_layers, params), x).sum()
    few, many = (
        compiled(jax.grad(loss), params, jnp.ones((n, 64))).memory_analysis().temp_size_in_bytes / n
        for n in (512, 2**16)
    )
    assert many < few / 4  # bytes per example


@pytest.mark.parametrize(
    ("widths", "batch"),
    [((200, 16, 100), 2048), ((200, 16, 8, 16, 200), 1024), ((10_000, 64, 16), 64)],
)
def test_the_way_out_of_cancellation_takes_little_memory(widths, batch):
    """It is planned for even if it is not taken: in the second case inside a loop over groups."""
    params = [jnp.ones(shape) / 100 for shape in pairwise(widths)]

    def encode(params, x_i):
        for kernel in params:
            x_i = jnp.tanh(x_i @ kernel)
        return x_i

    loss = lambda params, x: jaxae.contractive_penalty(partial(encode, params), x).sum()
    gradient = compiled(jax.value_and_grad(loss), params, jnp.ones((batch, widths[0])))
    jacobians = batch * widths[0] * widths[-1] * 4
    assert gradient.memory_analysis().temp_size_in_bytes < jacobians / 2


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_chunk_size_changes_the_memory_and_not_the_value(chunk_size, float64):
    params = [jnp.asarray(RNG.normal(size=s)) / 3 for s in ((9, 7), (7, 6), (6, 4))]
    check(three_layers, params, jnp.asarray(RNG.normal(size=(7, 9))), chunk_size=chunk_size)


def test_vmap_over_networks_and_over_single_examples(float64):
    params = [jnp.asarray(RNG.normal(size=(3, *s))) / 3 for s in ((9, 7), (7, 6), (6, 4))]
    x = jnp.asarray(RNG.normal(size=(5, 9)))
    penalty = lambda params, x: jaxae.contractive_penalty(partial(three_layers, params), x)
    reference = lambda params: full(partial(three_layers, params), x)

    @jax.jit
    def penalties(params, x):
        one = jax.tree.map(lambda w: w[0], params)
        each = jax.vmap(partial(penalty, one))(x)
        return jax.vmap(penalty, (0, None))(params, x), each, penalty(one, x[0])

    expected = jax.jit(jax.vmap(reference))(params)
    assert_same(penalties(params, x), (expected, expected[0], expected[0, 0]))


def test_second_derivatives(float64):
    params = [jnp.asarray(RNG.normal(size=s)) / 2 for s in ((40, 9), (9, 7), (7, 2))]
    x, along = jnp.asarray(RNG.normal(size=(30, 40))), jnp.asarray(RNG.normal(size=(40, 9)))

    def curvature(penalty):
        loss = lambda w: penalty(partial(three_layers, [w, *params[1:]]), x).sum()
        return jax.jit(lambda w: jax.jvp(jax.grad(loss), (w,), (along,))[1])(params[0])

    assert plan(partial(three_layers, params), x).formula.startswith("<X, X S>")
    assert_same(curvature(jaxae.contractive_penalty), curvature(full), rtol=1e-9)


@pytest.mark.thorough
def test_a_cast_to_float32_inside_is_exact_where_the_product_rounds(float64):
    """The derivative of a cast is 1; only the layer in between is computed in float32."""
    w, v = (jnp.asarray(RNG.normal(size=s)) for s in ((5, 6), (6, 4)))
    narrow = lambda a: a.astype(jnp.float32)
    encode = lambda x_i: jnp.tanh((jnp.tanh(narrow(x_i) @ narrow(w)) @ narrow(v)).astype(w.dtype))
    x = jnp.asarray(RNG.normal(size=(3, 5)))
    assert plan(encode, x).method == "structure"
    slope = np.asarray(1 - jnp.square(jnp.tanh(narrow(x) @ narrow(w))), np.float64)
    outer = 1 - np.tanh(np.asarray(narrow(jnp.tanh(narrow(x) @ narrow(w))) @ narrow(v))) ** 2
    jacobian = np.einsum("nk,hk,nh,dh->nkd", outer, narrow(v), slope, narrow(w))
    got = jaxae.contractive_penalty(encode, x)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, (jacobian**2).sum((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(got, full(encode, x), rtol=2e-6)


@pytest.mark.thorough(by_default=["bfloat16"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_sums_in_float32(dtype):
    w = jnp.asarray(RNG.normal(size=(200, 100)) / 14, dtype)
    x = jnp.asarray(RNG.normal(size=(3, 200)), dtype)
    got = jaxae.contractive_penalty(lambda x_i: jnp.tanh(x_i @ w), x)
    assert got.dtype == dtype
    wide = w.astype(jnp.float32)
    slopes = 1 - jnp.square(jnp.tanh(x.astype(jnp.float32) @ wide))
    expected = jnp.square(slopes) @ jnp.square(wide).sum(0)
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=0.02)


# ------------------------------------------------------------- what is built on it


def test_the_code_comes_with_the_penalty(float64):
    params = [jnp.asarray(RNG.normal(size=s)) / 3 for s in ((9, 7), (7, 6), (6, 4))]
    x = jnp.asarray(RNG.normal(size=(2, 3, 9)))
    encode = partial(three_layers, params)
    methods = ("auto", "jacfwd", "jacrev", "hutchinson")
    both = partial(jaxae.code_and_contractive_penalty, encode, key=jax.random.key(0), chunk_size=2)
    expected = jax.jit(jax.vmap(jax.vmap(encode)))(x)
    for code, penalty in jax.jit(lambda x: [both(x, method=method) for method in methods])(x):
        assert_same(code, expected)
        assert penalty.shape == (2, 3)


def test_penalty_on_the_reconstruction(float64):
    w = jnp.asarray(RNG.normal(size=(20, 3)))
    encode, decode = (lambda x_i: jnp.tanh(x_i @ w)), (lambda z: jax.nn.sigmoid(z @ w.T))
    x = jnp.asarray(RNG.normal(size=(4, 20)))

    @jax.jit
    def penalties(x):
        of_images = jaxae.reconstruction_contractive_penalty(
            lambda image: encode(image.ravel()),
            lambda z: decode(z).reshape(5, 4, 1),
            x.reshape(4, 5, 4, 1),
            example_ndim=3,
        )
        of_rows = jaxae.reconstruction_contractive_penalty(encode, decode, x)
        return of_rows, of_images, full(lambda x_i: decode(encode(x_i)), x)

    got, of_images, expected = penalties(x)
    assert_same(got, expected)
    assert_same(of_images, got)
    # Through a small code nothing of size d x d is multiplied per example.
    found = plan(lambda x_i: decode(encode(x_i)), x)
    assert found.formula.startswith("<T, S>")
    assert found.flops < min(flops for name, flops, _ in found.rejected if name.startswith("jac"))


def disguised(encode, x_i):
    """The same function, which no longer looks like a chain."""
    return encode(x_i) + 0 * jnp.sort(x_i)[0]


HIGHER = {
    "one layer": lambda p, x: jnp.tanh(x @ p["w"]),
    "curved input": lambda p, x: jnp.tanh(jnp.sin(x) @ p["w"]),
    "two layers": lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["v"]),
    "two layers, curved input": lambda p, x: jnp.tanh(jnp.tanh(jnp.sin(x) @ p["w"]) @ p["v"]),
    "elementwise": lambda p, x: jnp.square(x),
    "to more units": lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["v"] @ p["v"].T @ p["w"].T),
}


@pytest.mark.thorough(by_default=["elementwise"])
@pytest.mark.parametrize("name", HIGHER)
def test_higher_order_penalty_is_that_of_the_full_jacobian(name, key, float64):
    params, x = jax.tree.map(jnp.asarray, (W, RNG.normal(size=(4, 5))))
    of = partial(jaxae.higher_order_contractive_penalty, key, x=x, stddev=0.3, num_samples=2)

    def value_and_grad(hide, params):
        encode = lambda p: partial(HIGHER[name], p)
        shown = lambda p: partial(disguised, encode(p)) if hide else encode(p)
        return jax.value_and_grad(lambda p: of(encode=shown(p)).sum())(params)

    assert plan(partial(HIGHER[name], params), x).method == "structure"
    assert plan(partial(disguised, partial(HIGHER[name], params)), x).method != "structure"
    assert_same(*jax.jit(lambda p: [value_and_grad(hide, p) for hide in (False, True)])(params))


def test_higher_order_penalty_of_squares_is_known(key, float64):
    """enc = x^2 has J(x) - J(x + e) = -2 diag(e): the expectation is 4 d s^2, at any x."""
    x = jnp.asarray(RNG.normal(size=(2000, 3)))
    draws = jaxae.higher_order_contractive_penalty(key, jnp.square, x, stddev=0.1)
    expected = 4 * 3 * 0.1**2
    assert abs(float(draws.mean()) - expected) < 4 * float(draws.std()) / np.sqrt(2000)
    again = jaxae.higher_order_contractive_penalty(key, jnp.square, x, stddev=0.1)
    assert_same(again, draws)


@pytest.mark.thorough(by_default=["jacfwd"])
@pytest.mark.parametrize("method", ["jacfwd", "jacrev"])
def test_higher_order_penalty_without_structure_in_chunks(method, key, float64):
    shape = (4, 30) if method == "jacfwd" else (40, 2)
    w = jnp.asarray(RNG.normal(size=shape))
    encode = lambda x_i: jnp.tanh(x_i @ w) + jnp.sum(jnp.square(x_i))
    x = jnp.asarray(RNG.normal(size=(2, shape[0])))
    assert plan(encode, x).method == method
    of = partial(jaxae.higher_order_contractive_penalty, key, encode, x, stddev=0.2)
    assert_same(of(chunk_size=1), of())


def test_formulas_are_readable():
    params = [jnp.ones(s) for s in ((40, 9), (9, 7), (7, 2))]
    found = plan(partial(three_layers, params), jnp.ones((30, 40)))
    formulas = {found.formula, *(formula for formula, _, _ in found.rejected)}
    assert "<X, X S>, X = D3 W3 D2 W2, S = D1 W1 (D1 W1)ᵀ" in formulas
    assert "<T, S>, T = (D3 W3 D2 W2)ᵀ D3 W3 D2 W2, S = D1 W1 (D1 W1)ᵀ" in formulas
    assert "‖D3 W3 D2 W2 D1 W1‖²" in formulas or "‖D3 W3 (D2 W2 D1 W1)‖²" in formulas


def test_explanation_is_a_table():
    w = jnp.ones((8, 3))
    table = str(plan(lambda x_i: jnp.tanh(x_i @ w), jnp.ones((16, 8))))
    chosen, *rejected, estimate = table.split("\n")[1:]
    assert chosen.startswith("chosen")
    assert chosen.endswith("‖D1 W1‖²")
    assert [line.split()[-1] for line in rejected] == ["jacrev", "jacfwd"]
    skip = str(plan(lambda x_i: x_i + x_i[::-1], jnp.ones((16, 8))))
    assert estimate.startswith("estimate")
    assert skip.split("\n")[1].endswith("jacfwd, 2 for 8")  # two entries of each row
    assert "because add" in skip
