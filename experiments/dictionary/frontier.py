"""Patches of images: what a dictionary explains, against how many units it takes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import unit_rows
from experiments.common.training.sweep import Sweep, Tag
from experiments.dictionary.examples import Patches
from experiments.dictionary.networks import (
    KINDS,
    Family,
    Schedule,
    SumsSetup,
    Trained,
    TruthSetup,
    tag,
)

FRACTIONS = (0.03, 0.06, 0.12, 0.25)  # weights of the L1 norm over the patches' rms norm
TOP_K = (4, 8, 16, 32)
UNITS = {
    "explained_variance": "share of the variance of held-out patches",
    "active_units": "units above 0 per held-out patch",
    "dead_share": "share of units that no held-out patch activates",
}


def settings_of(name: str, rms: float, most: int) -> dict[float, float]:
    """Returns settings by labels: weights of the L1 norm, or positions by numbers of units."""
    if KINDS[name].is_top_k:
        return {float(k): float(position) for position, k in enumerate(ks(most))}
    weights = [float(f"{fraction * rms:.2g}") for fraction in FRACTIONS]
    return {weight: weight for weight in weights}


def ks(most: int) -> list[int]:
    """Returns the numbers of units that top-k keeps."""
    return [k for k in TOP_K if k <= most]


def epochs(schedule: Schedule, seeds: int) -> int:
    """Returns how many epochs all networks take, for the progress bar."""
    count = sum(len(settings_of(name, 1.0, schedule.units)) for name in KINDS)
    return count * seeds * schedule.epochs


def train(
    key: Array,
    patches: Patches,
    schedule: Schedule,
    sums: SumsSetup,
    truth: TruthSetup,
    run: ExperimentRun,
) -> Trained:
    """Returns the networks of every kind and setting, trained on patches."""
    rms = float(np.sqrt(np.mean(np.sum(np.asarray(patches.train) ** 2, axis=1))))
    most, inputs = schedule.units, patches.train.shape[1]
    families = {
        name: Family(kind, inputs, ks(most), schedule, len(patches.train))
        for name, kind in KINDS.items()
    }
    settings = {name: settings_of(name, rms, most) for name in KINDS}
    params = {}
    for name, family in families.items():
        seeds, seed_key = range(sums.num_seeds), partial(jax.random.fold_in, key)
        params[name] = Sweep(run, seeds, seed_key, partial(_tag, name)).fit(
            family,
            patches.train,
            {label: (value,) for label, value in settings[name].items()},
            models={label: family.network(value) for label, value in settings[name].items()},
        )
        run.say(f"patches, {name}: {len(settings[name]) * sums.num_seeds} networks")
    return Trained(sums, patches, families, settings, params, truth)


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the numbers of every kind over its settings."""
    rows: list[Metrics] = []
    for name, family in trained.families.items():
        for label, value in trained.settings[name].items():
            networks, test = trained.params[name][label], trained.patches.test
            scores = [family.measure(params, value, test) for params in networks]
            rows.append({"method": name, "setting": label, **rows_over_seeds(scores, UNITS)})
    return {"frontier": rows}


def _tag(name: str, label: float, seed: int) -> Tag:
    return tag(f"{name}_patches-{label:g}_seed-{seed}")


def _most_used(trained: Trained, name: str) -> np.ndarray:
    """Returns the atoms of the units that most held-out patches activate, as pictures.

    They are those of the middle setting, with the first seed.
    """
    labels = list(trained.settings[name])
    label = labels[len(labels) // 2]
    params = trained.params[name][label][0]
    setting = jnp.float32(trained.settings[name][label])
    encode = jax.vmap(trained.families[name].code, (None, None, 0))
    use = np.asarray((encode(params, setting, trained.patches.test) > 0).mean(axis=0))
    order = np.argsort(-use, kind="stable")[:64]
    atoms = np.asarray(unit_rows(params["atoms"][order]))
    return atoms.reshape(len(order), *trained.patches.shape)


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the frontier and the atoms."""
    panels = []
    for key, label, scale in (
        ("explained_variance", "explained variance", "linear"),
        ("dead_share", "share of dead units", "linear"),
    ):
        lines = []
        for name, kind in KINDS.items():
            own = [row for row in found["frontier"] if row["method"] == name]
            at = [row["active_units"]["mean"] for row in own]
            lines.append(plots.line(name, at, [row[key] for row in own], kind.look))
        panels.append(plots.Panel("active units per patch (L0)", label, lines, ("log", scale)))
    title = "Dictionaries of patches: what is explained, with how many units"
    run.draw(plots.panels, "frontier.png", panels, title=title)
    for name in KINDS:
        slug = name.split(",")[0].lower() + ("_free" if "free" in name else "")
        slug += "_without_auxiliary" if "nothing" in name else ""
        title = f"The atoms that are used most ({name})"
        atoms = _most_used(trained, name)
        run.draw(plots.image_grid, f"atoms_{slug}.png", atoms, columns=16, title=title)
