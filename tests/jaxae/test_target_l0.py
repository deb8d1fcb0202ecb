"""The controller that finds the weight of a penalty for a number of active units."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae


def test_one_update_by_hand():
    optimizer = jaxae.target_l0(target=10.0, rate=0.1, damping=2.0)
    weight = jnp.array(3.0)
    state = optimizer.init(weight)
    update, state = optimizer.update(jnp.array(30.0), state, weight)
    np.testing.assert_allclose(update, 3 * np.expm1(0.1 * 0.5), rtol=1e-5)  # (30 - 10) / 40
    # then L0 is 10: the excess fell by 0.5, which takes back exp(2 * 0.5)
    update, state = optimizer.update(jnp.array(10.0), state, weight)
    np.testing.assert_allclose(update, 3 * np.expm1(-1.0), rtol=1e-5)
    update, _ = optimizer.update(jnp.array(10.0), state, weight)
    assert float(update) == 0


@pytest.mark.parametrize("start", [1e-4, 1.0, 100.0])
def test_it_finds_the_weight_of_a_system_that_follows_slowly(start):
    """L0 goes to 40 / (1 + weight), by one percent of the way in each step."""
    optimizer = jaxae.target_l0(target=8.0, rate=0.01)

    def step(carry, _):
        weight, l0, state = carry
        l0 = l0 + 0.01 * (40 / (1 + weight) - l0)
        update, state = optimizer.update(l0, state, weight)
        return (weight + update, l0, state), None

    weight = jnp.array(start)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=6000)[0])
    weight, l0, _ = run((weight, jnp.array(40.0), optimizer.init(weight)))
    np.testing.assert_allclose(l0, 8.0, rtol=0.01)
    np.testing.assert_allclose(weight, 4.0, rtol=0.05)


def test_the_gradient_for_the_weight_is_l0_and_the_rest_has_its_own_optimiser():
    pre = jnp.array([[0.5, 2.0, 3.0], [0.1, 0.2, 4.0]])
    params = {"threshold": jnp.ones(3), "weight": jnp.array(0.5)}

    def loss(params):
        l0 = jaxae.step_l0_penalty(pre, params["threshold"], bandwidth=3.0)
        return (params["weight"] * l0).mean()

    gradients = jax.grad(loss)(params)
    np.testing.assert_allclose(gradients["weight"], 1.5)
    groups = {"weight": jaxae.target_l0(target=3.0, rate=0.3), "rest": optax.sgd(1.0)}
    label = lambda params: {name: "weight" if name == "weight" else "rest" for name in params}
    optimizer = optax.partition(groups, label)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["weight"], 0.5 * np.expm1(0.3 * -1.5 / 4.5), rtol=1e-5)
    np.testing.assert_allclose(updates["threshold"], -gradients["threshold"])
    assert (updates["threshold"] > 0).any()
