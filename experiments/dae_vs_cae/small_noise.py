r"""The denoising loss as the noise goes to 0: its expansion, and what the expansion leaves.

For noise e ~ N(0, s^2 I) and a smooth reconstruction r,

    E||r(x + e) - x||^2
        = ||r(x) - x||^2 + s^2 ||J_r||_F^2 + s^2 <r(x) - x, Laplacian r(x)> + O(s^4).

Sampled naively the remainder drowns in the sampling error of the terms before it. Here the noise
comes in pairs +e and -e, which removes all odd orders, and the second-order Taylor polynomial in
e, whose expectation is known exactly, is the control variate: every single pair is O(s^4).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.common import plots
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.dae_vs_cae.networks import Trained

STDDEVS = np.geomspace(0.003, 1, 16)
FITTED = STDDEVS < 0.1  # where the slopes are taken


class Expansion(NamedTuple):
    """Means over the examples; summed over the features, squared units of x.

    Attributes:
      jacobian: ||J_r||_F^2.
      laplacian: <r(x) - x, Laplacian r(x)>.
      remainder: the loss minus the whole expansion, for each standard deviation ``(s,)``.
    """

    jacobian: Float[Array, ""]
    laplacian: Float[Array, ""]
    remainder: Float[Array, " s"]


def second_derivative(
    function: Callable[[Array], Array], x: Array, direction: Array
) -> tuple[Array, Array]:
    """Returns the first and second derivative of t -> function(x + t direction) at 0."""

    def slope_at(point: Array) -> Array:
        return jax.jvp(function, (point,), (direction,))[1]

    return jax.jvp(slope_at, (x,), (direction,))


def expand(
    key: Array,
    reconstruct: Callable[[Array], Array],
    x: Float[Array, "n d"],
    stddevs: Float[Array, " s"],
    *,
    pairs: int,
) -> Expansion:
    """Returns the expansion of a reconstruction at some inputs, and its remainder.

    Args:
      key: PRNG key of the noise; all standard deviations scale the same draws.
      reconstruct: smooth function of one example ``(d,)`` to its reconstruction ``(d,)``.
      x: inputs ``(n, d)``; float64, or rounding hides small remainders.
      stddevs: standard deviations of the noise.
      pairs: draws +e, -e for each example.
    """

    def expand_example(inputs: tuple[Array, Array]) -> Expansion:
        key_i, x_i = inputs
        basis = jnp.eye(x_i.size, dtype=x_i.dtype)
        columns, curvatures = jax.vmap(lambda e: second_derivative(reconstruct, x_i, e))(basis)

        def loss(point: Array) -> Array:
            return jnp.sum((reconstruct(point) - x_i) ** 2)

        clean = loss(x_i)

        def left_over(direction: Array) -> Array:
            _, curvature = second_derivative(loss, x_i, direction)

            def pair(s: Array) -> Array:
                return (loss(x_i + s * direction) + loss(x_i - s * direction)) / 2

            return jax.vmap(pair)(stddevs) - clean - stddevs**2 * curvature / 2

        draws = jax.random.normal(key_i, (pairs, x_i.size), x_i.dtype)
        return Expansion(
            jnp.sum(columns**2),
            jnp.dot(reconstruct(x_i) - x_i, curvatures.sum(0)),
            jax.vmap(left_over)(draws).mean(0),
        )

    keys = jax.random.split(key, len(x))
    each = jax.lax.map(expand_example, (keys, x), batch_size=8)
    return jax.tree.map(lambda values: values.mean(0), each)


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the slope of log y against log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns what the small-noise expansion leaves, with and without its Laplacian term."""
    x, (_, expansion_key) = trained.test[:64], trained.noise_keys()
    remainders: dict[str, list[np.ndarray]] = {"with": [], "without": []}
    slopes: dict[str, list[float]] = {"with": [], "without": []}
    shares = []
    with jax.enable_x64(True):
        widen = partial(jnp.asarray, dtype=jnp.float64)

        @jax.jit
        def expanded(params: Params, x: Array, key: Array) -> Expansion:
            reconstruct = partial(trained.reconstruct, params)
            return expand(key, reconstruct, x, jnp.asarray(STDDEVS), pairs=16)

        for seed, params in enumerate(trained.dae):
            key = jax.random.fold_in(expansion_key, seed)
            expansion = expanded(jax.tree.map(widen, params), widen(x), key)
            remainder = np.asarray(expansion.remainder)
            gaps = {
                "with": np.abs(remainder),
                "without": np.abs(remainder + STDDEVS**2 * float(expansion.laplacian)),
            }
            shares.append(abs(float(expansion.laplacian) / float(expansion.jacobian)))
            for name, gap in gaps.items():
                remainders[name].append(gap)
                slopes[name].append(slope(STDDEVS[FITTED], gap[FITTED]))
    summed = "squared error, summed over pixels"
    result: Metrics = {"stddevs": list(STDDEVS)}
    for name, gaps_of in remainders.items():
        columns = np.stack(gaps_of).T
        result[f"gap_{name}_laplacian"] = [over_seeds(c, summed) for c in columns]
        unit = f"slope of the gap, log-log, below s = {STDDEVS[FITTED][-1]:.2g}"
        result[f"slope_{name}_laplacian"] = over_seeds(slopes[name], unit)
    result["laplacian_share"] = over_seeds(shares, "size of the term over ||J_r||^2")
    return {"small_noise": result}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    found = found["small_noise"]
    run.draw(
        plots.panels,
        "small_noise.png",
        [
            plots.Panel(
                "standard deviation s of the noise (pixel values)",
                "gap to the denoising loss",
                [
                    plots.line(
                        "reconstruction + s² ‖J_r‖²",
                        STDDEVS,
                        found["gap_without_laplacian"],
                        plots.OTHERS[2],
                    ),
                    plots.line(
                        "the same + s² ⟨r(x) - x, Δr(x)⟩",
                        STDDEVS,
                        found["gap_with_laplacian"],
                        plots.OTHERS[0],
                    ),
                ],
                ("log", "log"),
            )
        ],
        title="The denoising loss and its small-noise expansion",
    )


def claims(found: Metrics) -> list[Claim]:
    """Returns the row of the comparison."""
    found = found["small_noise"]
    return [
        Claim(
            "For small Gaussian noise the DAE is a contractive penalty on the reconstruction: its "
            "loss is the reconstruction error plus s² times the squared norm of the Jacobian.",
            "That leaves a gap of the same order: it falls with slope "
            f"{shown(found['slope_without_laplacian'])}, because the term with the Laplacian "
            f"of r, here {shown(found['laplacian_share'])} of the Jacobian term, is of order "
            f"s² too. With it the slope is {shown(found['slope_with_laplacian'])}; theory: 4.",
            verdict(
                min(found["slope_with_laplacian"]["values"]) >= 3.5,
                corrects=max(found["slope_without_laplacian"]["values"]) < 3,
            ),
            {
                "slope with the Laplacian": found["slope_with_laplacian"],
                "slope without": found["slope_without_laplacian"],
                "Laplacian term / Jacobian term": found["laplacian_share"],
            },
            "small_noise.png",
            "Two lines on logarithmic axes: the gap between formula and denoising loss against "
            "the noise, without the Laplacian term and with it.",
            anchor="comparison-small-noise",
            plain=sentence(
                "The error of this formula falls like the noise to the power {without}; with the "
                "omitted Laplacian term, to the power {with_it}.",
                without=brief(found["slope_without_laplacian"]["mean"]),
                with_it=brief(found["slope_with_laplacian"]["mean"]),
            ),
            caption="The distance of the formula from the denoising loss, against the noise. The "
            "steeper the line, the better is the formula for small noise.",
            formula=r"E \|r(\tilde x) - x\|^2 \approx \|r(x) - x\|^2 + s^2 \left\| "
            r"\frac{\partial r(x)}{\partial x} \right\|_F^2",
            source="The literature says (Alain and Bengio 2014)",
        ),
    ]
