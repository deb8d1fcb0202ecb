"""The contractive penalty: exact methods agree with a Jacobian built by hand."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxae
from jaxae.contraction import _full, spectrum

RNG = np.random.default_rng(3)
EXACT = ["auto", "jacfwd", "jacrev"]
W1, W2, B1 = RNG.normal(size=(7, 5)), RNG.normal(size=(4, 7)), RNG.normal(size=7)


def deep(x_i, w1=W1, w2=W2, b1=B1):
    """An encoder 5 -> 7 -> 4 at O(1) weights."""
    return jnp.tanh(jnp.asarray(w2) @ jax.nn.sigmoid(jnp.asarray(w1) @ x_i + jnp.asarray(b1)))


def by_hand(x):
    """The chain rule in NumPy: diag(1 - z^2) W2 diag(s (1 - s)) W1, squared and summed."""
    s = 1 / (1 + np.exp(-(x @ W1.T + B1)))
    z = np.tanh(s @ W2.T)
    jacobian = np.einsum("nk,kh,nh,hd->nkd", 1 - z**2, W2, s * (1 - s), W1)
    return (jacobian**2).sum((1, 2))


@pytest.fixture
def x(float64):
    return jnp.asarray(RNG.normal(size=(6, 5)))


@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_give_the_chain_rule(x, method):
    of = partial(jaxae.contractive_penalty, deep, method=method)
    chunk_sizes = (None, 1, 2, 3, 5, 100)
    found = jax.jit(lambda x: [of(x, chunk_size=size) for size in chunk_sizes])(x)
    for chunk_size, got in zip(chunk_sizes, found, strict=True):
        expected = by_hand(np.asarray(x))
        np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=str(chunk_size))
    np.testing.assert_allclose(of(x), expected, rtol=1e-12)  # not compiled


@pytest.mark.thorough(by_default=["2-auto", "None-jacfwd", "None-jacrev"])
@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_gradient_in_every_weight_at_order_one(x, method, chunk_size):
    def loss(w1, w2, b1, x):
        encode = partial(deep, w1=w1, w2=w2, b1=b1)
        penalty = jaxae.contractive_penalty(encode, x, method=method, chunk_size=chunk_size)
        return penalty.mean()

    weights = tuple(map(jnp.asarray, (W1, W2, B1)))
    check_grads(jax.jit(loss), (*weights, x), order=1, modes=["rev"], rtol=1e-6)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*weights, x)
    assert all(float(jnp.abs(g).max()) > 1e-3 for g in gradients)


@pytest.mark.thorough(
    by_default=["hutchinson-batch1", "auto-batch2", "jacrev-batch2", "jacfwd-batch1"]
)
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
@pytest.mark.parametrize("method", [*EXACT, "hutchinson"])
def test_batch_axes_jit_and_vmap(x, key, batch, method):
    x = x.reshape(6, 5)[0] if batch == () else x.reshape(*batch, 5)
    penalty = partial(jaxae.contractive_penalty, deep, method=method, key=key)
    got = penalty(x)
    assert got.shape == batch
    np.testing.assert_allclose(jax.jit(penalty)(x), got, rtol=1e-12)
    if method != "hutchinson" and batch == (6,):
        np.testing.assert_allclose(jax.vmap(penalty)(x), got, rtol=1e-12)


def test_images_are_examples_of_three_axes(float64):
    images = jnp.asarray(RNG.normal(size=(3, 2, 2, 2)))
    weights = jnp.asarray(RNG.normal(size=(4, 8)))
    encode = lambda image: jnp.tanh(weights @ image.reshape(-1))
    flat = jaxae.contractive_penalty(lambda v: jnp.tanh(weights @ v), images.reshape(3, 8))
    penalty = partial(jaxae.contractive_penalty, encode, example_ndim=3)
    options = [(method, size) for method in ("jacfwd", "jacrev") for size in (None, 3)]
    found = jax.jit(lambda x: [penalty(x, method=m, chunk_size=size) for m, size in options])
    for got in found(images):
        np.testing.assert_allclose(got, flat, rtol=1e-12)


@pytest.mark.thorough(by_default=["5-2-rademacher", "1-None-gaussian"])
@pytest.mark.parametrize("probes", ["rademacher", "gaussian"])
@pytest.mark.parametrize(("num_samples", "chunk_size"), [(1, None), (5, None), (5, 2)])
def test_hutchinson_is_unbiased(key, probes, num_samples, chunk_size):
    n = 20_000
    x = jnp.tile(jnp.asarray(RNG.normal(size=5), jnp.float32), (n, 1))
    encode = lambda x_i: jnp.tanh(jnp.asarray(W2 @ W1, jnp.float32) @ x_i)
    exact = float(jaxae.contractive_penalty(encode, x[:1])[0])
    draws = np.asarray(
        jaxae.contractive_penalty(
            encode,
            x,
            method="hutchinson",
            key=key,
            probes=probes,
            num_samples=num_samples,
            chunk_size=chunk_size,
        ),
        np.float64,
    )
    assert abs(draws.mean() - exact) < 4 * draws.std() / np.sqrt(n)
    assert draws.std() > 0


@pytest.mark.parametrize(("d", "k"), [(100, 3), (6, 50)])
def test_auto_takes_the_cheaper_direction(d, k):
    weights = jnp.ones((k, d))
    penalty = partial(jaxae.contractive_penalty, lambda x_i: jnp.sin(weights @ x_i))
    x = jnp.ones((2, d))
    cost = {
        method: jax.jit(partial(penalty, method=method)).lower(x).compile().cost_analysis()["flops"]
        for method in EXACT
    }
    assert cost["auto"] == min(cost.values())
    assert cost["jacfwd"] != cost["jacrev"]


def test_chunks_bound_the_memory_of_the_gradient():
    weights = jnp.asarray(RNG.normal(size=(64, 784)) / 28, jnp.float32)
    x = jnp.zeros((64, 784))

    def peak(method, chunk_size):
        def loss(w):
            encode = lambda x_i: jax.nn.sigmoid(w @ x_i)
            return jaxae.contractive_penalty(encode, x, method=method, chunk_size=chunk_size).mean()

        compiled = jax.jit(jax.grad(loss)).lower(weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak("jacfwd", 28) < peak("jacfwd", None) / 4
    assert peak("jacrev", 4) < peak("jacrev", None) / 4


# ------------------------------------------------------------- derivatives that do not exist


@jax.custom_vjp
def reverse_only(v):
    return jnp.tanh(v)


reverse_only.defvjp(lambda v: (jnp.tanh(v), v), lambda v, ct: (ct * (1 - jnp.square(jnp.tanh(v))),))


@jax.custom_vjp
def rounded(w):
    """Rounding with the derivative 1, as for quantised weights."""
    return jnp.round(w)


rounded.defvjp(lambda w: (jnp.round(w), None), lambda _, ct: (ct,))


def looped(step):
    """Returns three steps in a loop that has no reverse derivative."""
    one = lambda state: (state[0] + 1, step(state[1]))
    return lambda v: jax.lax.while_loop(lambda state: state[0] < 3, one, (0, v))[1]


SQUARE = jnp.asarray(RNG.normal(size=(5, 5)), jnp.float32)
PLAIN = lambda v: jnp.tanh(SQUARE.astype(v.dtype) @ v)
REVERSE = lambda v: reverse_only(SQUARE.astype(v.dtype) @ v)
LOOP = looped(PLAIN)
UNROLLED = lambda v: PLAIN(PLAIN(PLAIN(v)))


def test_a_custom_rule_for_the_weights_does_not_forbid_forward_derivatives(x):
    encode = lambda w, v: looped(lambda h: jnp.tanh(rounded(2 * w) @ h))(v)
    unrolled = lambda w, h: jnp.tanh(jnp.round(2 * w) @ h)
    w = SQUARE.astype(x.dtype)
    assert jaxae.explain_contraction(partial(encode, w), x).rejected == ()
    got = jaxae.contractive_penalty(partial(encode, w), x)
    three = lambda v: unrolled(w, unrolled(w, unrolled(w, v)))
    np.testing.assert_allclose(got, jaxae.contractive_penalty(three, x, method="jacrev"), 1e-12)


@pytest.mark.parametrize(
    ("encode", "same"), [(REVERSE, PLAIN), (LOOP, UNROLLED)], ids=["custom_vjp", "while_loop"]
)
def test_what_needs_one_kind_of_derivative_takes_the_other(encode, same, x, key):
    def numbers(encode):
        walk = jaxae.tangent_transition(encode, lambda z: z, stddev=0.3)
        estimate = partial(jaxae.contractive_penalty, method="hutchinson", key=key, num_samples=3)
        higher = jaxae.higher_order_contractive_penalty(key, encode, x, stddev=0.1)
        values = jaxae.jacobian_singular_values(encode, x)
        return walk(key, x[0]), estimate(encode, x), higher, values

    found, expected = jax.jit(lambda: [numbers(encode), numbers(same)])()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12), found, expected)


def test_the_estimate_by_reverse_derivatives_has_the_same_gradient(x, key):
    def loss(w, activation):
        encode = lambda v: activation(w @ v)
        return jaxae.contractive_penalty(encode, x, method="hutchinson", key=key).sum()

    gradients = jax.jit(lambda w: [jax.grad(loss)(w, f) for f in (reverse_only, jnp.tanh)])
    np.testing.assert_allclose(*gradients(SQUARE.astype(x.dtype)), rtol=1e-10)


@pytest.mark.parametrize(
    ("method", "encode", "error", "match"),
    [
        ("jacfwd", REVERSE, ValueError, "method must be one that works .* 'jacfwd' does not"),
        ("jacrev", LOOP, ValueError, "method must be one that works .* 'jacrev' does not"),
        ("auto", lambda v: reverse_only(LOOP(v)), TypeError, "encode must have forward or"),
        ("hutchinson", lambda v: reverse_only(LOOP(v)), TypeError, "encode must have forward or"),
    ],
)
def test_a_derivative_that_does_not_exist_is_one_line(method, encode, error, match, x, key):
    with pytest.raises(error, match=match) as caught:
        jaxae.contractive_penalty(encode, x, method=method, key=key)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------- half precision, sizes of 0, devices


def disguised(encode):
    """Returns the same function, which is no chain any more."""
    return lambda v: encode(v) + 0 * jnp.sort(v)[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_squares_of_small_derivatives_are_not_lost_in_half_precision(dtype, key):
    """J has 200 x 50 entries of 1e-4 in size, the squares of which are 0 in float16."""
    w = jnp.asarray(RNG.choice([-1e-4, 1e-4], size=(50, 200)), dtype)
    encode, x = lambda v: w @ v, jnp.zeros((2, 200), dtype)
    expected = np.square(np.asarray(w, np.float64)).sum()
    penalty = partial(jaxae.contractive_penalty, encode, x, key=key, num_samples=64)
    options = [("auto", None), ("jacfwd", None), ("jacfwd", 7), ("jacrev", 7), ("hutchinson", 7)]
    for (method, _), value in zip(
        options,
        jax.jit(lambda: [penalty(method=m, chunk_size=s) for m, s in options])(),
        strict=True,
    ):
        rtol = 0.1 if method == "hutchinson" else 0.01
        np.testing.assert_allclose(np.asarray(value, np.float64), expected, rtol, err_msg=method)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_derivatives_are_multiplied_in_float32(dtype):
    """1e-3 * 1e-3 * 1e-3 is 0 in float16, times 1e6 as well; 1 / 1e-6 is infinite."""
    by = lambda number: jnp.asarray(number, dtype)
    x = jnp.ones((1, 8), dtype)
    small = lambda v: v * by(1e-3) * by(1e-3) * by(1e-3) * by(1e3) * by(1e3)
    inverse = lambda v: v * by(1e-6) / by(1e-6)
    for encode, expected in ((small, 8e-6), (inverse, 8.0)):
        value = jaxae.contractive_penalty(encode, x)
        np.testing.assert_allclose(np.asarray(value, np.float64), expected, rtol=0.03)


@pytest.mark.thorough(by_default=["float16-None"])
@pytest.mark.parametrize(("dtype", "units"), [("float16", 40), ("float16", None), ("bfloat16", 40)])
def test_small_changes_of_the_jacobian_are_not_lost_in_half_precision(dtype, units, key):
    """enc = 2^-11 x^2 has the change -2^-10 diag(e), of which each square is 0 in float16."""
    scale, d, stddev = 2.0**-11, 400, 0.1
    encode = disguised(lambda v: v * v * jnp.asarray(scale, dtype))
    keep = slice(None, units)  # few units take reverse derivatives
    x = jnp.zeros((4, d), dtype)
    of = partial(jaxae.higher_order_contractive_penalty, key, lambda v: encode(v)[keep], x)
    expected = 4 * scale**2 * stddev**2 * (units or d)
    values = np.asarray(of(stddev=stddev, chunk_size=16), np.float64)
    np.testing.assert_allclose(values.mean(), expected, rtol=4 * np.sqrt(2 / (4 * (units or d))))


EMPTY = {
    "no unit": (lambda v: jnp.tanh(v)[:0], 6),
    "no unit, no chain": (lambda v: (v + jnp.sin(v[::-1]))[:0], 6),
    "no input": (lambda v: jnp.tanh(jnp.ones((3, 0), v.dtype) @ v), 0),
    "no hidden unit": (lambda v: jnp.tanh(jnp.ones((3, 0)) @ (jnp.ones((0, 6)) @ v)), 6),
}


@pytest.mark.thorough(by_default=["no input"])
@pytest.mark.parametrize("name", EMPTY)
def test_a_jacobian_without_entries_is_zero(name, key):
    encode, d = EMPTY[name]
    x = jnp.ones((2, d))
    assert jaxae.contractive_penalty(encode, x, chunk_size=2).tolist() == [0.0, 0.0]
    of = partial(jaxae.higher_order_contractive_penalty, key, encode, x, stddev=0.1)
    assert of(chunk_size=2).tolist() == [0.0, 0.0]
    assert jaxae.explain_contraction(encode, x, chunk_size=2).flops >= 0


def test_reverse_derivatives_of_reverse_derivatives_inside_shard_map(key):
    mesh, x = jaxae.data_mesh(devices=1), jnp.ones((2, 5))
    walk = jax.vmap(partial(jaxae.tangent_transition(REVERSE, lambda z: z, stddev=0.1), key))
    estimate = lambda x: jaxae.contractive_penalty(REVERSE, x, method="hutchinson", key=key)
    both = lambda x: (walk(x), estimate(x))
    specs = {"in_specs": jax.P("data"), "out_specs": jax.P("data")}
    inside = jax.jit(jax.shard_map(both, mesh=mesh, **specs))(x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), inside, both(x))


def test_explicitly_sharded_examples(key):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
    options = [
        {"method": "hutchinson", "key": key, "num_samples": 3, "chunk_size": 2},
        {"method": "auto", "chunk_size": 1},
    ]
    two_layers = lambda v: PLAIN(PLAIN(v))

    @jax.jit
    def penalties(x):
        return [jaxae.contractive_penalty(two_layers, x, **chosen) for chosen in options]

    expected = penalties(x)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
        found = penalties(sharded)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, expected)


def test_singular_values_square_to_the_penalty(x):
    values = jaxae.jacobian_singular_values(deep, x)
    assert values.shape == (6, 4)
    assert bool((jnp.diff(values) <= 0).all())
    np.testing.assert_allclose(
        jnp.square(values).sum(-1), jaxae.contractive_penalty(deep, x), rtol=1e-10
    )


# ------------------------------------------------------------- full Jacobians that are divided

KERNEL, DENSE = RNG.normal(size=(3, 3, 2, 4)) / 3, RNG.normal(size=(4 * 3 * 3, 8)) / 6


def pooled(pool, image, kernel=KERNEL):
    """A convolution, a pooling and a dense code: 6 x 6 x 2 -> 8."""
    kernel = jnp.asarray(kernel, image.dtype)
    layout = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    h = jax.lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=layout)
    return jnp.tanh(pool(h[0]).reshape(-1) @ jnp.asarray(DENSE, image.dtype))


def maximum(h):
    return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")


@pytest.mark.parametrize("method", ["jacfwd", "jacrev"])
def test_an_encoder_with_convolutions_in_chunks(method, float64):
    encode, x = partial(pooled, maximum), jnp.asarray(RNG.normal(size=(3, 6, 6, 2)))
    of = partial(jaxae.contractive_penalty, encode, method=method, example_ndim=3)
    found = jax.jit(lambda x: [of(x, chunk_size=size) for size in (3, 100)])(x)
    expected = jax.vmap(lambda v: jnp.sum(jnp.square(jax.jacrev(encode)(v))))(x)
    for value in found:
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the order is for CPUs")
def test_convolutions_in_the_loop_over_chunks_have_the_order_that_is_fast():
    x, kernel = jnp.ones((4, 6, 6, 2)), jnp.asarray(KERNEL, jnp.float32)

    def compiled(chunk_size):
        def loss(kernel):
            encode = partial(pooled, maximum, kernel=kernel)
            penalty = jaxae.contractive_penalty(
                encode, x, method="jacrev", chunk_size=chunk_size, example_ndim=3
            )
            return penalty.mean()

        return jax.jit(jax.grad(loss)).lower(kernel).compile()

    whole, chunks = compiled(8), compiled(2)
    labels = re.findall(r"dim_labels=(\S+?),?[ \n]", chunks.as_text())
    assert len(labels) >= 4  # forwards, J^T u, and the derivatives of both in the kernel
    assert set(labels) == {"b01f_01io->b01f"}
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (whole, chunks)]
    assert sizes[1] < sizes[0] / 2


def test_the_cheaper_full_jacobian_is_known_from_the_operations():
    """Forward derivatives of a max pooling look for the largest entry once for each direction."""
    x = jnp.ones((4, 28, 28, 1))
    weights = jnp.ones((14 * 14, 600)) / 14
    encode = lambda image: jnp.tanh(maximum(jnp.sin(image)).reshape(-1) @ weights)
    example, code = (jax.ShapeDtypeStruct(shape, x.dtype) for shape in (x.shape[1:], (600,)))
    full = _full.cheapest_full_jacobian(encode, example, code, len(x), None)
    assert full.method == "jacrev"


def test_singular_values_come_from_the_cheaper_derivatives_in_bounded_memory():
    weights = jnp.ones((20_000, 64)) / 100
    encode = lambda x_i: jnp.tanh(x_i @ weights) + jnp.sum(x_i)
    x = jnp.ones((32, 20_000))
    compiled = jax.jit(partial(jaxae.jacobian_singular_values, encode)).lower(x).compile()
    jacobians = 32 * 64 * 20_000 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * jacobians


@pytest.mark.parametrize("part", [1, 500, 10_000, 2**31])
@pytest.mark.parametrize(("encode", "shape"), [(deep, (5,)), (partial(pooled, maximum), (6, 6, 2))])
def test_singular_values_in_parts(encode, shape, part, float64, monkeypatch):
    monkeypatch.setattr(spectrum, "MAX_PART_BYTES", part)
    monkeypatch.setattr(_full, "MAX_PART_BYTES", part)
    x = jnp.asarray(RNG.normal(size=(7, *shape)))
    found = jax.jit(partial(jaxae.jacobian_singular_values, encode, example_ndim=len(shape)))(x)
    jacobians = jax.vmap(jax.jacrev(encode))(x)
    jacobians = jacobians.reshape(*jacobians.shape[:2], -1)
    np.testing.assert_allclose(found, np.linalg.svd(jacobians, compute_uv=False), atol=1e-12)
