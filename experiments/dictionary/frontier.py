"""Patches of images: what a dictionary explains, against how many units it takes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.numbers import over_seeds
from experiments.common.run.experiment import Run
from experiments.common.training.arrays import unit_rows
from experiments.common.training.sweep import Sweep, Tag
from experiments.dictionary.networks import KINDS, Family, Schedule, tag

FRACTIONS = (0.03, 0.06, 0.12, 0.25)  # weights of the L1 norm over the patches' rms norm
TOP_K = (4, 8, 16, 32)
UNITS = {
    "explained_variance": "share of the variance of held-out patches",
    "active_units": "units above 0 per held-out patch",
    "dead_share": "share of units that no held-out patch activates",
}


class Patches(NamedTuple):
    """Patches as rows, minus the mean of the training patches, and their shape."""

    train: Array
    test: Array
    shape: tuple[int, ...]


class Found(NamedTuple):
    """The numbers of all networks, and atoms to look at."""

    rows: list[dict[str, Any]]
    atoms: dict[str, np.ndarray]  # of the first seed, by kind


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


def measure(key: Array, data: Patches, schedule: Schedule, num_seeds: int, run: Run) -> Found:
    """Returns the numbers of every kind over its settings."""
    rms = float(np.sqrt(np.mean(np.sum(np.asarray(data.train) ** 2, axis=1))))
    rows: list[dict[str, Any]] = []
    atoms = {}
    for name, kind in KINDS.items():
        inputs = data.train.shape[1]
        family = Family(kind, inputs, ks(schedule.units), schedule, len(data.train))
        settings = settings_of(name, rms, schedule.units)
        sweep = Sweep(run, range(num_seeds), partial(jax.random.fold_in, key), partial(_tag, name))
        trained = sweep.fit(
            family,
            data.train,
            {label: (value,) for label, value in settings.items()},
            models={label: family.network(value) for label, value in settings.items()},
        )
        for label, value in settings.items():
            scores = [family.measure(params, value, data.test) for params in trained[label]]
            numbers = {
                quantity: over_seeds([one[quantity] for one in scores], unit)
                for quantity, unit in UNITS.items()
            }
            rows.append({"method": name, "setting": label, **numbers})
        shown = list(settings)[len(settings) // 2]
        atoms[name] = _most_used(family, trained[shown][0], settings[shown], data)
        run.say(f"patches, {name}: {len(settings) * num_seeds} networks")
    return Found(rows, atoms)


def _tag(name: str, label: float, seed: int) -> Tag:
    return tag(f"{name}_patches-{label:g}_seed-{seed}")


def _most_used(family: Family, params: Any, setting: float, data: Patches) -> np.ndarray:
    """Returns the atoms of the units that most held-out patches activate, as pictures."""
    code = jax.vmap(family.code, (None, None, 0))(params, jnp.float32(setting), data.test)
    use = np.asarray((code > 0).mean(axis=0))
    order = np.argsort(-use, kind="stable")[:64]
    atoms = np.asarray(unit_rows(params["atoms"][order]))
    return atoms.reshape(len(order), *data.shape)


def draw(run: Run, found: Found) -> None:
    """Writes the frontier and the atoms."""
    panels = []
    for key, label, scale in (
        ("explained_variance", "explained variance", "linear"),
        ("dead_share", "share of dead units", "linear"),
    ):
        lines = []
        for name, kind in KINDS.items():
            own = [row for row in found.rows if row["method"] == name]
            at = [row["active_units"]["mean"] for row in own]
            lines.append(plots.line(name, at, [row[key] for row in own], kind.look))
        panels.append(plots.Panel("active units per patch (L0)", label, lines, ("log", scale)))
    title = "Dictionaries of patches: what is explained, with how many units"
    run.draw(plots.panels, "frontier.png", panels, title=title)
    for name, atoms in found.atoms.items():
        slug = name.split(",")[0].lower() + ("_free" if "free" in name else "")
        slug += "_without_auxiliary" if "nothing" in name else ""
        title = f"The atoms that are used most ({name})"
        run.draw(plots.image_grid, f"atoms_{slug}.png", atoms, columns=16, title=title)
