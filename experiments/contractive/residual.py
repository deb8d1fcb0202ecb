"""A deep residual encoder with the contractive penalty, beside the shallow one of the lecture.

Measured with ``--residual`` only: it trains networks of its own, and it measures times, for which
nothing else should run on the machine.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, brief, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import (
    Metrics,
    over_seeds,
    rows_over_seeds,
    values_over_seeds,
)
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function, Params
from experiments.contractive import residual_networks
from experiments.contractive.jacobians import make_decompose
from experiments.contractive.networks import Trained
from experiments.contractive.spectrum import UNITS as SPECTRUM_UNITS
from experiments.contractive.spectrum import summarise_spectra

PROBES = {"hutchinson": (2, 8, 32), "hutch++": (4, 16)}  # numbers of probes, by the estimator
_DRAWS = 8  # keys with which an error is measured
_ROUNDS = 15  # of which the time is the median
UNITS = {
    "penalty_error": "root mean square error of the penalty of an example / root mean square",
    "gradient_error": "root mean square error of the gradient of the mean penalty / its norm",
    "seconds": "seconds for value and gradient of the mean penalty of a batch, median",
}

EXACT, EXACT_SHALLOW = "exact", "exact, shallow network"


class Network(NamedTuple):
    """A trained network."""

    functions: jaxae.AutoencoderFunctions
    params: Params


# ``penalty(key, encode, x)``, one number for each example.
Penalty = Callable[[Array, Function, Array], Array]
# ``value_and_gradient(key, params, x)``: the penalties of the examples, the gradient of the mean.
Step = Callable[[Array, Params, Array], tuple[Array, Params]]


def exact(key: Array, encode: Function, x: Array) -> Array:
    """Returns the exact penalties; they need no ``key``."""
    return jaxae.contractive_penalty(encode, x)


def estimate(method: str, probes: int, key: Array, encode: Function, x: Array) -> Array:
    """Returns estimated penalties."""
    return jaxae.contractive_penalty_estimate(
        key, encode, x, method=method, num_samples=probes
    ).value


def estimate_name(method: str, probes: int) -> str:
    """Returns the name of an estimate in ``metrics.json`` and on the page."""
    return f"{method} with {probes} probes"


def make_step(functions: jaxae.AutoencoderFunctions, penalty: Penalty) -> Step:
    """Returns the compiled penalty of a batch with its gradient in the parameters."""

    def mean_penalty(params: Params, key: Array, x: Array) -> tuple[Array, Array]:
        values = penalty(key, partial(functions.encode, params), x)
        return jnp.mean(values), values

    @jax.jit
    def step(key: Array, params: Params, x: Array) -> tuple[Array, Params]:
        gradient, values = jax.grad(mean_penalty, has_aux=True)(params, key, x)
        return values, gradient

    return step


def median_seconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Returns the median time of each call; all have their turn in every round.

    So whatever else the machine does meets all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(taken)) for name, taken in seconds.items()}


def relative_error(found: list[np.ndarray], exact_value: np.ndarray) -> float:
    """Returns the root mean square error of some draws, over the root mean square."""
    errors = [np.square(one - exact_value).mean() for one in found]
    return float(np.sqrt(np.mean(errors) / np.square(exact_value).mean()))


def flat(tree: Params) -> np.ndarray:
    """Returns all entries of a pytree in one vector."""
    return np.concatenate(
        [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    )


def compare_estimates(
    key: Array, deep: Network, shallow: Network, x: Array
) -> dict[str, dict[str, float]]:
    """Returns time and errors of the exact penalty, and of estimates with more and more probes.

    All are those of the deep network; only the time of ``EXACT_SHALLOW`` is of the shallow one.
    """
    functions, params = deep
    penalties: dict[str, Penalty] = {EXACT: exact}
    for method, counts in PROBES.items():
        for count in counts:
            penalties[estimate_name(method, count)] = partial(estimate, method, count)
    steps = {name: make_step(functions, penalty) for name, penalty in penalties.items()}
    values, gradient = (flat(part) for part in steps[EXACT](key, params, x))
    rows = {}
    for name, step in steps.items():
        draws = [step(draw_key, params, x) for draw_key in jax.random.split(key, _DRAWS)]
        rows[name] = {
            "penalty_error": relative_error([flat(found) for found, _ in draws], values),
            "gradient_error": relative_error([flat(found) for _, found in draws], gradient),
        }
    calls: dict[str, Callable[[], object]] = {
        name: partial(step, key, params, x) for name, step in steps.items()
    }
    calls[EXACT_SHALLOW] = partial(make_step(shallow.functions, exact), key, shallow.params, x)
    jax.block_until_ready(calls[EXACT_SHALLOW]())  # the time to compile it does not count
    return {
        name: rows.get(name, {}) | {"seconds": taken}
        for name, taken in median_seconds(calls).items()
    }


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns scores and spectra of shallow and deep networks, errors and times of estimates."""
    deep = trained.residual
    if deep is None:
        return {}
    weight, x = found["weight"], trained.probes.test
    shallow = {0.0: trained.methods["AE"].params} | {
        swept: trained.sweep["tied"][swept].params for swept in deep.params if swept
    }
    scores = {
        kind: [
            {"weight": swept, **residual_networks.score(functions, params, x)}
            for swept, params in own.items()
        ]
        for kind, functions, own in (
            ("shallow", trained.functions, shallow),
            ("deep", deep.functions, deep.params),
        )
    }
    decompose = make_decompose(lambda params: partial(deep.functions.encode, params))
    spectra = {
        name: rows_over_seeds(
            [
                summarise_spectra(decompose(params, trained.probes.sample).values)
                for params in deep.params[swept]
            ],
            SPECTRUM_UNITS,
        )
        for name, swept in (("AE", 0.0), ("CAE", weight))
    }
    rows = compare_estimates(
        jax.random.fold_in(jax.random.key(trained.seed), 2),
        Network(deep.functions, deep.params[weight][0]),
        Network(trained.functions, trained.methods["CAE"].params[0]),
        x[: run.config.batch_size],
    )
    estimates = [
        {"penalty": name, **{one: over_seeds([row[one]], UNITS[one]) for one in row}}
        for name, row in rows.items()
    ]
    return {
        "residual": {
            "blocks": residual_networks.BLOCKS,
            "scores": scores,
            "methods": spectra,
            "estimates": estimates,
        }
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figures, if the deep networks were trained."""
    if "residual" in found:
        draw_networks(run, found)
        draw_estimates(run, found)


def rows_of(found: Metrics) -> dict[str, Metrics]:
    """Returns time and errors by the name of the penalty."""
    return {row["penalty"]: row for row in found["residual"]["estimates"]}


LOOKS = {"shallow": plots.METHODS["CAE"], "deep": plots.OTHERS[1]}


def draw_networks(run: ExperimentRun, found: Metrics) -> None:
    """Writes the errors against the Jacobian norms, and the singular values."""
    own = found["residual"]
    path: list[plots.Line] = []
    notes: list[tuple[float, float, str]] = []
    for kind, look in LOOKS.items():
        rows = own["scores"][kind]
        norms, errors = ([row[n]["mean"] for row in rows] for n in ("jacobian_norm", "test_mse"))
        path.append(plots.plain(f"{kind} CAE", norms, errors, look))
        if kind == "deep":  # the texts of both would lie on each other
            notes = [
                (x, y, f"{row['weight']:g}") for x, y, row in zip(norms, errors, rows, strict=True)
            ]
    values = []
    for kind, look in LOOKS.items():
        methods = own["methods"] if kind == "deep" else found["methods"]
        for method, style in (("CAE", "-"), ("AE", ":")):
            means = [number["mean"] for number in methods[method]["singular_values"]]
            seen = [value if value and value > 1e-3 else np.nan for value in means]
            index = range(1, len(seen) + 1)
            label = f"{kind} {method}"
            values.append(plots.plain(label, index, seen, plots.Look(look.color, style)))
    axes = ("squared Jacobian norm per example", "test MSE per pixel")
    trade = plots.Panel(*axes, path, ("log", "linear"), annotations=notes)
    axes = ("index of singular value", "singular value (code units per pixel unit)")
    spectrum = plots.Panel(*axes, values, ("linear", "log"))
    title = "A deep residual encoder, lambda beside its points, and the shallow one"
    run.draw(plots.panels, "residual.png", [trade, spectrum], title=title)


def draw_estimates(run: ExperimentRun, found: Metrics) -> None:
    """Writes the errors of the estimates against the time that they take."""
    rows = rows_of(found)
    milliseconds = {name: 1000 * row["seconds"]["mean"] for name, row in rows.items()}
    panels = []
    for error, label in (
        ("penalty_error", "relative error of the penalty"),
        ("gradient_error", "relative error of its gradient"),
    ):
        lines = []
        for (method, counts), look in zip(PROBES.items(), plots.OTHERS, strict=False):
            names = [estimate_name(method, count) for count in counts]
            times, errors = (
                [milliseconds[n] for n in names],
                [rows[n][error]["mean"] for n in names],
            )
            lines.append(plots.plain(method, times, errors, look))
        ends = [extreme([y for one in lines for y in one.y]) for extreme in (max, min)]
        look = plots.Look(plots.EXACT.color, "--")
        exact_time = [milliseconds[EXACT]] * 2
        lines.append(plots.plain("time of the exact penalty", exact_time, ends, look))
        axes = ("milliseconds for value and gradient of a batch", label)
        panels.append(plots.Panel(*axes, lines, ("log", "log")))
    title = "Estimates of the penalty of the deep encoder, with more and more probes"
    run.draw(plots.panels, "estimates.png", panels, title=title)


def claims(found: Metrics) -> list[Claim]:
    """Returns the statements about deep encoders; none if no deep network was trained."""
    return [trade_claim(found), estimates_claim(found)] if "residual" in found else []


def trade_claim(found: Metrics) -> Claim:
    """Holds if the deep CAE's norm falls and its error rises with lambda, in every seed.

    Corrected if the norm relative to the variance of the code does not fall: then the code has only
    become smaller.
    """
    own, weight = found["residual"], found["weight"]
    rows = own["scores"]["deep"]
    norms, errors, variances = (
        values_over_seeds(rows, name) for name in ("jacobian_norm", "test_nll", "code_variance")
    )
    relative = norms / np.maximum(variances, 1e-12)
    holds = bool((np.diff(norms, axis=0) < 0).all() and (np.diff(errors, axis=0) > 0).all())
    ae, cae, shallow_ae, shallow = (
        next(row for row in own["scores"][kind] if row["weight"] == at)
        for kind in ("deep", "shallow")
        for at in (0.0, weight)
    )
    above = {
        "shallow": found["methods"]["CAE"]["values_above_1"],
        "deep": own["methods"]["CAE"]["values_above_1"],
    }
    return Claim(
        "The contractive penalty works for deep encoders with skip connections too.",
        f"With {own['blocks']} residual blocks and layer normalisation, the squared Jacobian norm "
        f"goes from {shown(ae['jacobian_norm'])} without the penalty to "
        f"{shown(cae['jacobian_norm'])} at lambda = {weight:g}, and the test MSE per pixel from "
        f"{shown(ae['test_mse'])} to {shown(cae['test_mse'])}. The shallow network of the other "
        f"figures goes from {shown(shallow_ae['jacobian_norm'])} to "
        f"{shown(shallow['jacobian_norm'])}, and from {shown(shallow_ae['test_mse'])} to "
        f"{shown(shallow['test_mse'])}. "
        f"{shown(above['deep'])} singular values of the deep CAE exceed 1, and "
        f"{shown(above['shallow'])} of the shallow one. The variance of the code goes from "
        f"{shown(ae['code_variance'])} to {shown(cae['code_variance'])} in the deep network: a "
        "smaller code has a smaller norm without contracting more.",
        verdict(holds, corrects=not bool((np.diff(relative, axis=0) < 0).all())),
        {
            "squared Jacobian norm, deep AE": ae["jacobian_norm"],
            "squared Jacobian norm, deep CAE": cae["jacobian_norm"],
            "squared Jacobian norm, shallow CAE": shallow["jacobian_norm"],
            "test MSE, deep CAE": cae["test_mse"],
            "test MSE, shallow CAE": shallow["test_mse"],
        },
        "residual.png",
        "Left: test error against the squared Jacobian norm, a curve for the deep and one for the "
        "shallow network. Right: singular values on a logarithmic axis against their index, with "
        "and without the penalty.",
        anchor="contractive-deep",
        plain=sentence(
            "The penalty leaves {deep} of the squared Jacobian norm of the deep encoder, and "
            "{shallow} of that of the shallow one.",
            deep=percent(ratio(cae["jacobian_norm"], ae["jacobian_norm"])),
            shallow=percent(ratio(shallow["jacobian_norm"], shallow_ae["jacobian_norm"])),
        ),
        caption="Left: the lower a curve at the same Jacobian norm, the less reconstruction is "
        "given up for contraction. Right: a steep curve keeps few directions.",
        source="Not on the slide",
    )


def estimates_claim(found: Metrics) -> Claim:
    """Holds if some estimate is faster than the exact penalty.

    Corrected if the most accurate of those has a gradient that is more than a tenth off.
    """
    rows = rows_of(found)
    exact_row = rows[EXACT]
    estimates = {n: row for n, row in rows.items() if n not in (EXACT, EXACT_SHALLOW)}
    limit = exact_row["seconds"]["mean"]
    faster = {n: row for n, row in estimates.items() if row["seconds"]["mean"] <= limit}
    # The most accurate one at equal time, or the fastest of all.
    name = (
        min(faster, key=lambda n: faster[n]["gradient_error"]["mean"])
        if faster
        else min(estimates, key=lambda n: estimates[n]["seconds"]["mean"])
    )
    best = estimates[name]
    error, times = best["gradient_error"]["mean"], ratio(best["seconds"], exact_row["seconds"])
    most = list(estimates)[-1]  # the one with the most probes
    return Claim(
        "The exact penalty of a deep encoder takes too long, and is estimated from random probes.",
        "Value and gradient of the exact penalty of a batch take "
        f"{shown(exact_row['seconds'])} seconds for the deep encoder and "
        f"{shown(rows[EXACT_SHALLOW]['seconds'])} for the shallow one. "
        + (
            f"The most accurate estimate that takes no longer is {name}"
            if faster
            else f"No estimate takes less, and the fastest is {name}"
        )
        + f": its relative error is {shown(best['penalty_error'])} for the penalty of an example "
        f"and {shown(best['gradient_error'])} for the gradient. It takes {shown(best['seconds'])} "
        f"seconds. {most} takes {shown(estimates[most]['seconds'])} seconds, and its gradient has "
        f"the error {shown(estimates[most]['gradient_error'])}.",
        verdict(bool(faster), corrects=error is None or error > 0.1),
        {
            "seconds, exact": exact_row["seconds"],
            f"seconds, {name}": best["seconds"],
            f"error of the gradient, {name}": best["gradient_error"],
            f"error of the penalty, {name}": best["penalty_error"],
        },
        "estimates.png",
        "Two panels, the error of the penalty and that of its gradient against time on "
        "logarithmic axes. A curve for each estimator, a point for each number of probes; a "
        "vertical dashed line marks the time of the exact penalty.",
        anchor="contractive-deep-estimates",
        plain=sentence(
            "The most accurate estimate that takes no longer than the exact penalty has a gradient "
            "error of {error}.",
            error=percent(error),
        )
        if faster
        else sentence(
            "Even the fastest estimate takes {times} times as long as the exact penalty, and has a "
            "gradient error of {error}.",
            times=brief(times),
            error=percent(error),
        ),
        caption="Left of the dashed line an estimate takes less time than the exact penalty; the "
        "lower a point, the smaller its error.",
        source="Not on the slide",
    )
