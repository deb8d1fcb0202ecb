"""Which function resists perturbations: the encoder or the reconstruction?"""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.dae_vs_cae.networks import WEIGHTS, Trained

RADII = np.geomspace(0.01, 10, 13)  # pixel values
NOT_COMPARABLE = (
    "No weight of the CAE's sweep comes to the DAE's error on clean test inputs, so the two cannot "
    "be compared where both reconstruct equally well."
)


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns how far encoder and reconstruction move, per distance of the input.

    The root mean square over examples and random directions; for a small distance it is
    ||J||_F / sqrt(d).
    """

    x = trained.test

    @jax.jit
    def curves(params: Params) -> dict[str, Array]:
        encode, reconstruct = trained.bound(params)[0], partial(trained.reconstruct, params)

        def rms(function: Function) -> Array:
            radii = jnp.asarray(RADII, x.dtype)
            curve = jaxae.contraction_curve(jax.random.key(1), function, x, radii=radii)
            return jnp.sqrt(jnp.mean(curve**2, axis=0))

        clean = jnp.mean(jaxae.mean_squared_error(jax.vmap(reconstruct)(x), x))
        return {"encoder": rms(encode), "reconstruction": rms(reconstruct), "clean_mse": clean}

    rows = trained.by_name() | {f"CAE {w:g}": trained.cae[w] for w in WEIGHTS}
    measured = {name: [curves(p) for p in per_seed] for name, per_seed in rows.items()}
    result: Metrics = {"radii": list(RADII)}
    for name, per_seed in measured.items():
        result[name] = {
            part: [
                over_seeds([float(m[part][i]) for m in per_seed], "output per input unit")
                for i in range(len(RADII))
            ]
            for part in ("encoder", "reconstruction")
        }
        result[name]["clean_mse"] = over_seeds(
            [float(m["clean_mse"]) for m in per_seed], fitting.UNITS["mse"]
        )
    return {"sensitivity": result | {"at_equal_clean_error": at_equal_error(measured)}}


def at_equal_error(measured: Mapping[str, Sequence[Metrics]]) -> Metrics:
    """Returns CAE over DAE sensitivity where the CAE has the DAE's clean error.

    The CAE's sensitivity is interpolated between the two weights around that error, log against
    log; of several such pairs the largest weights count, because a weak penalty can lower the error
    on test data. Empty where the sweep does not reach the DAE's error in every seed.
    """
    ratios: dict[str, list[float]] = {"encoder": [], "reconstruction": []}
    for seed, dae in enumerate(measured["DAE"]):
        sweep = [measured[f"CAE {weight:g}"][seed] for weight in WEIGHTS]
        errors = [float(m["clean_mse"]) for m in sweep]
        error = float(dae["clean_mse"])
        around = [i for i in range(len(sweep) - 1) if errors[i] <= error <= errors[i + 1]]
        if not around:
            return {}
        pair = slice(around[-1], around[-1] + 2)
        for part, values in ratios.items():
            cae_sensitivity = np.log([float(m[part][0]) for m in sweep[pair]])
            interpolated = np.interp(np.log(error), np.log(errors[pair]), cae_sensitivity)
            values.append(float(np.exp(interpolated)) / float(dae[part][0]))
    unit = "CAE's sensitivity over DAE's, distance 0.01, at the DAE's clean error"
    return {part: over_seeds(values, unit) for part, values in ratios.items()}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    found = found["sensitivity"]
    run.draw(
        plots.panels,
        "sensitivity.png",
        [
            plots.Panel(
                "distance of the input (pixel values)",
                "distance of the output / distance of the input",
                [
                    plots.line(name, RADII, found[name][part], plots.METHODS[name])
                    for name in ("AE", "DAE", "CAE")
                ],
                ("log", "linear"),
                title=part,
            )
            for part in ("encoder", "reconstruction")
        ],
        title="How far encoder and reconstruction move when the input moves",
    )


def claims(found: Metrics) -> list[Claim]:
    """Returns the row of the comparison."""
    found = found["sensitivity"]
    equal = found["at_equal_clean_error"]
    holds = bool(equal) and (
        max(equal["encoder"]["values"]) < 1 < min(equal["reconstruction"]["values"])
    )
    numbers = {f"{part}, CAE / DAE": number for part, number in equal.items()}
    unequal = {name: found[name]["clean_mse"] for name in found if name[:3] in ("DAE", "CAE")}
    return [
        Claim(
            "The DAE makes the decoder (reconstruction) function resist small perturbations of the "
            "input; the CAE makes the encoder resist them.",
            comparison(found, holds=holds) if equal else NOT_COMPARABLE,
            verdict(holds),
            numbers or {f"clean error, {name}": number for name, number in unequal.items()},
            "sensitivity.png",
            "Two panels of three curves, AE, DAE and CAE: output distance over input distance "
            "against the distance, for the encoder and for the reconstruction.",
            anchor="comparison-sensitivity",
            plain=sentence(
                "At equal error on clean images, the CAE's code moves {encoder} times as far as "
                "the DAE's, and its reconstruction {reconstruction} times.",
                encoder=brief(equal["encoder"]["mean"]),
                reconstruction=brief(equal["reconstruction"]["mean"]),
            )
            if equal
            else sentence(
                "No strength of the CAE comes to the DAE's error on clean images, so they cannot "
                "be compared at equal error."
            ),
            caption="How far the code (left) and the reconstruction (right) move when the input "
            "moves. The lower the curve, the more it resists.",
        ),
    ]


def comparison(found: Metrics, *, holds: bool) -> str:
    """Returns what is found at equal clean error."""
    equal = found["at_equal_clean_error"]
    calmer = all(
        found[name][part][0]["mean"] < found["AE"][part][0]["mean"]
        for name in ("DAE", "CAE")
        for part in equal
    )
    return (
        "Compared where both reconstruct clean test inputs equally well, the CAE's encoder "
        f"moves {shown(equal['encoder'])} times as far as the DAE's, and its reconstruction "
        f"{shown(equal['reconstruction'])} times as far. "
        + ("Both regularisers calm both functions. " if calmer else "")
        + (
            "Each calms its own function more than the other does."
            if holds
            else "It is not so that each calms its own function more than the other does."
        )
    )
