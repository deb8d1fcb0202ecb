"""Full-batch L-BFGS to convergence, for identities about minima."""

import jax
import optax


def minimise(loss, params, steps=300):
    """Returns the parameters after ``steps`` of L-BFGS and the norm of the gradient there."""
    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry, _):
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=loss
        )
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params):
        start = (params, optimizer.init(params))
        # The initial state of the line search is weakly typed; one step makes it strong.
        start, _ = step(start, None)
        (params, _), _ = jax.lax.scan(step, start, length=steps)
        return params, optax.tree.norm(jax.grad(loss)(params))

    # optax's L-BFGS mixes integer widths under float64.
    with jax.numpy_dtype_promotion("standard"):
        return run(params)
