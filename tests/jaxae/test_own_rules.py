"""Closed forms for layers of a user: read as factors, right in value and gradient."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae

PAGE = Path(__file__).parents[2] / "docs" / "contraction.md"
SECTION = PAGE.read_text(encoding="utf-8").split("## A rule of your own")[1]
NAMES = {}
exec(re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1], NAMES)


def test_the_layer_of_the_page_is_one_diagonal():
    assert NAMES["plan"].formula == "‖D1 W1‖²"
    assert "‖D1 W1‖²" in SECTION
    without = jaxae.explain_contraction(
        lambda x_i: NAMES["solve"](NAMES["weights"] @ x_i), jnp.ones((8, 3))
    )
    assert without.method != "structure"


def plain_rotation(v, angle):
    return (
        jnp.stack([jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle)]).reshape(2, 2)
        @ v
    )


def plain_squares(v):
    return jnp.stack([jnp.square(v).sum(), v[0] * v[1]])


ROTATION = jaxae.register_contraction_rule(
    plain_rotation, matrix=lambda v, angle: jax.jacfwd(plain_rotation)(jnp.zeros_like(v), angle)
)
SQUARES = jaxae.register_contraction_rule(
    plain_squares, matrix=lambda v: jnp.stack([2 * v, v[::-1]])
)


def encode(layers, params, x_i):
    angle, weights = params
    rotation, squares = layers
    h = squares(rotation(jax.nn.softplus(weights @ x_i), angle))
    return jnp.tanh(h) + NAMES["layer"](h)


def test_value_and_gradients_are_those_of_the_full_jacobian(float64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)))
    params = [jnp.asarray(0.3), jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)))]

    def ours(params):
        return jaxae.contractive_penalty(partial(encode, (ROTATION, SQUARES), params), x).sum()

    def full(params):
        jacobian = jax.jacrev(partial(encode, (plain_rotation, plain_squares), params))
        return jnp.square(jax.vmap(jacobian)(x)).sum()

    def derivatives(loss):
        along = [jnp.ones_like(p) for p in params]
        return loss(params), jax.jvp(jax.grad(loss), (params,), (along,))

    got, expected = jax.jit(lambda: [derivatives(loss) for loss in (ours, full)])()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), got, expected)


def test_a_constant_matrix_is_a_factor():
    plan = jaxae.explain_contraction(lambda x_i: ROTATION(jnp.tanh(x_i), 0.3), jnp.ones((3, 2)))
    assert plan.formula == "‖W1 D0‖²"


def test_a_rule_of_the_wrong_shape_is_an_error():
    x = jnp.ones((2, 3))
    for options, message in (
        ({"diagonal": lambda v: v[:2]}, r"diagonal must return shape \(3,\).*but it is \(2,\)"),
        ({"matrix": lambda v: v}, r"matrix must return shape \(3, 3\).*but it is \(3,\)"),
    ):
        layer = jaxae.register_contraction_rule(jnp.tanh, **options)
        with pytest.raises(ValueError, match=message):
            jaxae.contractive_penalty(layer, x)
