"""What single units answer to: their filters, the inputs that activate them, and their classes."""

import jax
import numpy as np

from experiments.common import plots
from experiments.common.results.claims import Claim, brief, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.sparse import units
from experiments.sparse.networks import Trained
from experiments.sparse.units import TOP, below

MOST_FILTERS = 48  # in the picture of all


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the purity of units that answer at random; nothing where there are no labels."""
    setup = trained.setup
    if setup.labels is None:
        return {}
    keys = [jax.random.fold_in(setup.key(seed), 2) for seed in range(setup.num_seeds)]
    chance = [units.chance_purity(setup.labels, key) for key in keys]
    return {"chance_purity": over_seeds(chance, units.UNITS["purity"])}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws activations, filters and top inputs of the plain and of one sparse network."""
    setup = trained.setup
    name = f"lambda {setup.weights[setup.chosen]:g}"
    plain, sparse = trained.kept[0], trained.kept[setup.chosen]
    run.draw(
        plots.histograms,
        "activations.png",
        {"AE": plain["code"], f"sparse, {name}": sparse["code"]},
        [plots.METHODS["AE"], plots.METHODS["sparse"]],
        x_label="activation (pixel value)",
        title="Activations of all units on all test images",
    )
    tests = np.asarray(setup.raw[1]).reshape(-1, *setup.shape)
    for method, network, what in (("ae", plain, "no penalty"), ("sparse", sparse, name)):
        code, filters = network["code"], network["filters"].reshape(-1, *setup.shape)
        often = by_use(code)
        most = often[:MOST_FILTERS]
        title = f"Filters, {what}: the {len(most)} units used most"
        shown = filters[most]
        run.draw(plots.image_grid, f"filters_{method}.png", shown, columns=16, title=title)
        title = f"Filters (left, 0 is grey) and the test images that activate them most, {what}"
        rows = top_inputs(code, filters, tests, often)
        run.draw(plots.image_rows, f"top_inputs_{method}.png", rows, title=title)


def by_use(code: np.ndarray) -> np.ndarray:
    """Returns the units that are ever active, or all if none is, those used most first."""
    often = np.argsort(-(code > 0).sum(0))
    live = often[code[:, often].max(0) > 0]
    return live if len(live) else often


def top_inputs(
    code: np.ndarray, filters: np.ndarray, images: np.ndarray, often: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the filter of eight units, from much to little used, and their top inputs."""
    rows = {}
    for unit in often[np.linspace(0, len(often) - 1, min(8, len(often))).astype(int)]:
        grey = 0.5 + 0.5 * filters[unit] / np.abs(filters[unit]).max()
        top = images[np.argsort(-code[:, unit])[:TOP]]
        rows[f"unit {unit}"] = np.concatenate([grey[None], top])
    return rows


def claims(found: Metrics) -> list[Claim]:
    """Returns what the slide says about features, beside what was measured."""
    rows = found["methods"]["L1"]
    plain, picked = rows[0], rows[found["chosen"]]
    has_labels = "chance_purity" in found
    purer = not has_labels or below(plain["purity"], picked["purity"])
    unlike = below(picked["correlation"], plain["correlation"])
    similar = below(plain["nearest_cosine"], picked["nearest_cosine"])
    purities = (
        {
            "class purity, sparse": picked["purity"],
            "class purity, AE": plain["purity"],
            "class purity, chance": found["chance_purity"],
        }
        if has_labels
        else {}
    )
    return [
        Claim(
            "The units of a sparse autoencoder respond to unique statistical features.",
            _class_finding(found) + "The activations of two units correlate by "
            f"{shown(picked['correlation'])} instead of {shown(plain['correlation'])}. "
            + (
                "The filters themselves do not become more different: the cosine with the most "
                f"similar other one rises from {shown(plain['nearest_cosine'])} to "
                f"{shown(picked['nearest_cosine'])}."
                if similar
                else "The cosine of a filter with the most similar other one goes from "
                f"{shown(plain['nearest_cosine'])} to {shown(picked['nearest_cosine'])}."
            ),
            verdict(purer and unlike, corrects=similar),
            purities
            | {
                "correlation of units, sparse": picked["correlation"],
                "correlation of units, AE": plain["correlation"],
            },
            "top_inputs_sparse.png",
            "Eight rows: a filter of the network with the penalty, and beside it the ten test "
            "images that activate it most.",
            anchor="sparse-features",
            plain=sentence(
                "Of the images that activate a unit most, {with_it} are of one class with the "
                "penalty and {without} without it.",
                with_it=percent(picked["purity"]["mean"]),
                without=percent(plain["purity"]["mean"]),
            )
            if has_labels
            else sentence(
                "The activations of two units correlate by {with_it} with the penalty and by "
                "{without} without it.",
                with_it=brief(picked["correlation"]["mean"]),
                without=brief(plain["correlation"]["mean"]),
            ),
            caption="Each row is a unit: its filter, then the test images that activate it most. "
            "The more alike the images of a row are, the clearer is the feature.",
            more={
                "top_inputs_ae.png": "The same eight rows for the network without the penalty.",
                "filters_sparse.png": (
                    "A grid of filters in blue and red, of the network with the penalty."
                ),
                "filters_ae.png": (
                    "A grid of filters in blue and red, of the network without the penalty."
                ),
            },
        )
    ]


def _class_finding(found: Metrics) -> str:
    if "chance_purity" not in found:
        return "The images have no labels, so whether a unit prefers a class is not measured. "
    rows = found["methods"]["L1"]
    return (
        f"Of the {TOP} test images that activate a unit most, "
        f"{shown(rows[found['chosen']]['purity'])} are of one class, without the penalty "
        f"{shown(rows[0]['purity'])} (at random {shown(found['chance_purity'])}). "
    )
