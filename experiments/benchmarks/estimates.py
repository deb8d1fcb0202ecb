"""Estimates of the contractive penalty beside matfree's Hutchinson estimator, at equal time.

Part of ``experiments.benchmarks.encoders``. matfree (https://github.com/pnkraemer/matfree) is
needed for this comparison only: ``pip install matfree``. Without it the numbers are left out.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.benchmarks import common
from experiments.benchmarks.side_by_side import Contender, race
from experiments.common.training.arrays import Function, Params

PROBES = 16  # of our estimates; matfree's has as many as take the same time
METHODS = ("hutchinson", "hutch++")
_DRAWS = 10  # keys with which an error is measured
_MAX_PROBES = 4096

# ``encode(params, x_i)``, and ``estimate(key, params, x)``, one number for each example.
Encoder = Callable[[Params, Array], Array]
Estimator = Callable[[Array, Params, Array], Array]
Compiled = Callable[[Array], Array]  # of the key


def find_matfree() -> ModuleType | None:
    """Returns matfree's module of estimators of traces, or None if matfree is not installed."""
    return import_module("matfree.stochtrace") if find_spec("matfree") else None


def ours(encode: Encoder, method: str) -> Estimator:
    """Returns the estimator of ``jaxae``."""

    def estimate(key: Array, params: Params, x: Array) -> Array:
        return jaxae.contractive_penalty_estimate(
            key,
            partial(encode, params),
            x,
            method=method,
            num_samples=PROBES,
            example_ndim=x.ndim - 1,
        ).value

    return estimate


def by_matfree(encode: Encoder, probes: int, stochtrace: ModuleType) -> Estimator:
    """Returns matfree's estimator of the squared Frobenius norm, with entries +1 and -1."""

    def estimate_one(key: Array, function: Function, x_i: Array) -> Array:
        _, derivative = jax.linearize(function, x_i)
        estimate = stochtrace.estimator_monte_carlo(
            stochtrace.monte_carlo_frobeniusnorm_squared(),
            stochtrace.sampler_signs(x_i, num=probes),
        )
        return jnp.asarray(estimate(derivative, key))

    def estimate(key: Array, params: Params, x: Array) -> Array:
        one = partial(estimate_one, function=partial(encode, params))
        return jax.vmap(lambda key, x_i: one(key, x_i=x_i))(jax.random.split(key, len(x)), x)

    return estimate


def compile_estimator(estimator: Estimator, params: Params, x: Array) -> Compiled:
    """Returns the compiled estimates of a batch as a function of the key."""
    program = jax.jit(estimator).lower(jax.random.key(0), params, x).compile()

    def estimate(key: Array) -> Array:
        return jax.block_until_ready(program(key, params, x))

    return estimate


def median_seconds(estimates: dict[str, Compiled], rounds: int) -> dict[str, float]:
    """Returns the median time of each; they run in turn."""
    key = jax.random.key(0)
    contenders = {name: Contender(partial(one, key)) for name, one in estimates.items()}
    return {name: found["seconds"]["median"] for name, found in race(contenders, rounds).items()}


def relative_error(estimate: Compiled, exact: np.ndarray) -> float:
    """Returns the root mean square error relative to the penalty of each example."""
    keys = jax.random.split(jax.random.key(1), _DRAWS)
    errors = [np.asarray(estimate(key)) / exact - 1 for key in keys]
    return float(np.sqrt(np.mean(np.square(errors))))


def compare_estimates(
    encode: Encoder, params: Params, x: Array, rounds: int
) -> common.Results | None:
    """Returns seconds and relative errors of our estimates and of matfree's; None without matfree.

    First matfree's estimator is timed with ``PROBES`` probes. Then it gets as many as take the time
    of our estimate, if its time is proportional to their number, and is timed again beside it.
    """
    stochtrace = find_matfree()
    if stochtrace is None:
        return None

    @jax.jit
    def penalty(params: Params, x: Array) -> Array:
        example_ndim = x.ndim - 1
        return jaxae.contractive_penalty(partial(encode, params), x, example_ndim=example_ndim)

    def compiled_matfree(probes: int) -> Compiled:
        return compile_estimator(by_matfree(encode, probes, stochtrace), params, x)

    exact = np.asarray(penalty(params, x))
    own = {method: compile_estimator(ours(encode, method), params, x) for method in METHODS}
    first = median_seconds(own | {"matfree": compiled_matfree(PROBES)}, rounds=1)
    found = {}
    for method in METHODS:
        probes = round(PROBES * first[method] / first["matfree"])
        counts = {"jaxae": PROBES, "matfree": min(max(probes, 1), _MAX_PROBES)}
        both = {"jaxae": own[method], "matfree": compiled_matfree(counts["matfree"])}
        seconds = median_seconds(both, rounds)
        found[method] = {
            name: {
                "probes": counts[name],
                "seconds": seconds[name],
                "relative_error": relative_error(estimate, exact),
            }
            for name, estimate in both.items()
        }
    return found


def summary(found: common.Results | None) -> str:
    """Returns the errors in one line."""
    if found is None:
        return "matfree is not installed, so no estimates are compared"
    return ", ".join(
        f"{method}: error {pair['jaxae']['relative_error']:.2g}, "
        f"matfree {pair['matfree']['relative_error']:.2g} at equal time"
        for method, pair in found.items()
    )
