"""Contraction against distance: how far codes move when inputs move near and far."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, brief, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, rows_over_seeds, values_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function, Params
from experiments.contractive.networks import METHODS, Trained, seed_keys
from experiments.contractive.probes import Probes

UNITS = {
    "contraction": "code distance / input distance, root mean squares",
    "pair_contraction": "code distance / input distance of two test examples, root mean squares",
    "similar_code_ratio": "contraction of a small random step / that of two test examples",
    "neighbour_code_ratio": "contraction to the nearest neighbour / that of two test examples",
    "rise": "largest ratio of the contraction curve / ratio at the smallest distance",
}


def distances(key: Array, encode: Function, probes: Probes) -> dict[str, Array]:
    """Returns how code distances follow input distances, as ratios of root mean squares."""

    def rms(v: Array) -> Array:
        return jnp.sqrt(jnp.mean(jnp.square(v), axis=0))

    codes = jax.vmap(encode)(probes.test)
    other = jnp.roll(probes.test, 1, axis=0)
    length = partial(jnp.linalg.norm, axis=-1)
    pairs = rms(length(codes - jnp.roll(codes, 1, axis=0))) / rms(length(probes.test - other))
    nearest = jax.vmap(encode)(probes.sample + probes.neighbours[:, 0])
    moved = rms(length(nearest - codes[: len(nearest)])) / rms(length(probes.neighbours[:, 0]))
    curve = rms(jaxae.contraction_curve(key, encode, probes.test, radii=probes.radii))
    return {
        "contraction": curve,
        "pair_contraction": pairs,
        "similar_code_ratio": curve[0] / pairs,
        "neighbour_code_ratio": moved / pairs,
        "rise": jnp.max(curve) / curve[0],
    }


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the distances of each method's codes."""

    @jax.jit
    def measure_one(params: Params, key: Array, probes: Probes) -> dict[str, Array]:
        return distances(key, trained.encoder(params), probes)

    def measure_method(per_seed: list[Params]) -> Metrics:
        rows = [
            measure_one(params, seed_keys(trained.seed, number)[1], trained.probes)
            for number, params in enumerate(per_seed)
        ]
        return rows_over_seeds(rows, UNITS)

    methods = trained.methods.items()
    return {"methods": {method: measure_method(own.params) for method, own in methods}}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    radii = found["radii"]
    raw, relative = [], []
    for method in METHODS:
        numbers, look = found["methods"][method]["contraction"], plots.METHODS[method]
        raw.append(plots.line(method, radii, numbers, look))
        start = numbers[0]["mean"]
        shape = [number["mean"] / start for number in numbers]
        relative.append(plots.plain(method, radii, shape, look))
    at = "distance r / distance of two test examples"
    panels = [
        plots.Panel(at, "code distance / r", raw, ("log", "linear")),
        plots.Panel(at, "the same, relative to the smallest r", relative, ("log", "linear")),
    ]
    title = "How much the encoder shrinks distances, in random directions"
    run.draw(plots.panels, "contraction.png", panels, title=title)


def claims(found: Metrics) -> list[Claim]:
    """Returns what is said of similar inputs, and of where the CAE contracts."""
    return [similar_claim(found), local_claim(found)]


def similar_claim(found: Metrics) -> Claim:
    """Holds if small steps, and steps to a neighbour, move the CAE's code less than the AE's."""
    methods = found["methods"]
    ae, cae = methods["AE"], methods["CAE"]
    smaller = {
        name: bool((values_over_seeds([cae], name) < values_over_seeds([ae], name)).all())
        for name in ("similar_code_ratio", "neighbour_code_ratio")
    }
    return Claim(
        "Similar inputs get similar codes.",
        "Shrinking all codes alike would make nothing more similar, so distances of codes are "
        "taken relative to those of two different test examples. Per unit of input distance, a "
        f"small step in a random direction moves the code {shown(cae['similar_code_ratio'])} "
        "times as far as the way to another example (AE "
        f"{shown(ae['similar_code_ratio'])}, DAE {shown(methods['DAE']['similar_code_ratio'])}). "
        f"For the step to the nearest training example it is {shown(cae['neighbour_code_ratio'])} "
        f"(AE {shown(ae['neighbour_code_ratio'])})"
        + (
            ": along the data the code is shrunk less."
            if cae["neighbour_code_ratio"]["mean"] > cae["similar_code_ratio"]["mean"]
            else "."
        ),
        verdict(smaller["similar_code_ratio"], corrects=not smaller["neighbour_code_ratio"]),
        {
            f"{label}, {method}": methods[method][name]
            for label, name in (
                ("random step", "similar_code_ratio"),
                ("nearest neighbour", "neighbour_code_ratio"),
            )
            for method in METHODS
        },
        "contraction.png",
        "Two panels, a line for each of AE, DAE and CAE. Left: code distance over input "
        "distance, against the distance. Right: the same as a multiple of its value at the "
        "smallest distance.",
        anchor="contractive-similar-codes",
        plain=sentence(
            "Relative to typical code distances, a small random step moves the CAE's code {share} "
            "as far as the plain autoencoder's.",
            share=percent(ratio(cae["similar_code_ratio"], ae["similar_code_ratio"])),
        )
        if smaller["neighbour_code_ratio"] or not smaller["similar_code_ratio"]
        else sentence(
            "A small random step moves the CAE's code {share} as far as the plain autoencoder's, a "
            "step to a neighbour moves it {neighbour} as far.",
            share=percent(ratio(cae["similar_code_ratio"], ae["similar_code_ratio"])),
            neighbour=percent(ratio(cae["neighbour_code_ratio"], ae["neighbour_code_ratio"])),
        ),
        caption="Left: how far the code moves per unit of input, against the length of the step. "
        "Right: the same, divided by its value for the shortest step.",
    )


def local_claim(found: Metrics) -> Claim:
    """Holds if only the CAE's ratio rises with distance; corrected where it falls again."""
    ae, cae = found["methods"]["AE"], found["methods"]["CAE"]
    holds = bool((values_over_seeds([cae], "rise") > 1.02).all() and (ae["rise"]["mean"] < 1.02))
    curve = [number["mean"] for number in cae["contraction"]]
    peak = int(np.argmax(curve))
    falls = curve[-1] < curve[peak]
    where = f"up to a distance of {found['radii'][peak]:.2g} times that of two test examples"
    return Claim(
        "A CAE is contractive only locally.",
        (
            f"Code distance over input distance of the CAE rises {where}, to "
            f"{shown(cae['rise'])} times its value near the data, while the AE's only falls. "
            + ("Farther out it falls: sigmoid codes are bounded. " if falls else "")
            if holds
            else "In random directions the ratio of the CAE hardly rises with distance: its "
            f"largest value is {shown(cae['rise'])} times the one near the data. "
        )
        + f"Near the data it is {shown(cae['contraction'][0])}, the AE's "
        f"{shown(ae['contraction'][0])}; at the largest distance {shown(cae['contraction'][-1])} "
        f"and {shown(ae['contraction'][-1])}.",
        verdict(holds, corrects=falls),
        {"rise of the ratio, CAE": cae["rise"], "rise of the ratio, AE": ae["rise"]},
        "contraction.png",
        "Right panel: code distance over input distance, as a multiple of its value at the "
        "smallest distance; a line for each of AE, DAE and CAE.",
        anchor="contractive-local",
        plain=sentence(
            "Away from the data, the CAE's code moves up to {cae} times as far per step as near "
            "them, the plain code {ae} times.",
            cae=brief(cae["rise"]["mean"]),
            ae=brief(ae["rise"]["mean"]),
        ),
        caption="Look at the panel on the right: where a curve rises above 1, the code moves "
        "farther per unit of input than near the data.",
        source="The Deep Learning book says (sec. 14.7)",
    )
