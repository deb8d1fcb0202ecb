"""The synthetic truth: what each method finds of it, against the number of active units."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.common.training.sweep import Sweep, Tag
from experiments.dictionary import synthetic_truth
from experiments.dictionary.networks import Trained, TruthSetup, tag
from experiments.dictionary.truth_networks import EPOCHS, LOOKS, MethodTrainer

HELD_OUT, PIECE = 16_384, 1024  # examples that are measured, and how many at a time
UNITS = {
    "explained_variance": "share of the variance of held-out examples",
    "active_units": "units above 0 per held-out example",
    "f1": "F1 of a unit as a sign of the atom nearest to it, mean over units",
    "precision": "share of hits where a unit is active, mean over units",
    "recall": "share of hits where its atom is active, mean over units",
    "mean_correlation": "absolute cosine of filter and atom, matched one to one",
    "uniqueness": "different atoms nearest to the units, over the units",
    "shrinkage": "norm of a reconstruction over that of its example",
    "dead_share": "share of units that no held-out example activates",
}

# ``measure_piece(params, nearest, key)``: counts of units, active units, examples, reconstructions.
MeasurePiece: TypeAlias = Callable[
    [Params, Array, Array], tuple[jaxae.UnitCounts, Array, Array, Array]
]


def epochs(setup: TruthSetup) -> int:
    """Returns how many epochs all networks take, for the progress bar."""
    return len(LOOKS) * len(setup.size.targets) * setup.num_seeds * EPOCHS


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Trains every method for each number of active units; returns the numbers."""
    setup, size = trained.truth, trained.truth.size
    truth_key, train_key, test_key = jax.random.split(setup.key, 3)
    truth = synthetic_truth.make_truth(truth_key, size)
    steps = max(EPOCHS, setup.samples // size.batch_size)
    slots = jnp.zeros((steps // EPOCHS * size.batch_size, 1))  # examples are made in the step
    settings = {target: (float(position),) for position, target in enumerate(size.targets)}
    rows = []
    for method in LOOKS:
        trainer = MethodTrainer(method, truth, size, steps, setup.devices)
        sweep = Sweep(
            run,
            range(setup.num_seeds),
            partial(jax.random.fold_in, train_key),
            partial(_tag, method),
        )
        networks = {target: trainer.network(target) for target in settings}
        params = sweep.fit(trainer, slots, settings, models=networks)
        for target, own in params.items():
            network = networks[target].make(**networks[target].arguments)
            measure_piece = _make_measure_piece(truth, network)
            scores = [_scores(truth, measure_piece, one, test_key) for one in own]
            numbers = rows_over_seeds(scores, UNITS)
            rows.append({"method": method, "target": target, **numbers})
            f1, explained = (numbers[name]["mean"] for name in ("f1", "explained_variance"))
            run.say(
                f"synthetic truth, {method}, {target} units: F1 {f1:.2f}, explained {explained:.2f}"
            )
    about = {
        "atoms": size.atoms,
        "dimensions": size.inputs,
        "units": size.units,
        "samples": steps // EPOCHS * EPOCHS * size.batch_size,
        "active_atoms": float(_active_atoms(truth, test_key)),
    }
    return {"known_truth": rows, "synthetic_truth": about}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws what is explained and what is found against the number of active units."""
    panels = []
    for key, label in (
        ("explained_variance", "explained variance"),
        ("f1", "F1 of the units"),
        ("mean_correlation", "mean correlation"),
    ):
        lines = []
        for method, look in LOOKS.items():
            own = [row for row in found["known_truth"] if row["method"] == method]
            at = [row["active_units"]["mean"] for row in own]
            lines.append(plots.line(method, at, [row[key] for row in own], look))
        panels.append(plots.Panel("active units per example (L0)", label, lines))
    about = found["synthetic_truth"]
    title = f"{about['units']} units for {about['atoms']} atoms in {about['dimensions']} dimensions"
    run.draw(plots.panels, "known_truth.png", panels, title=title)


def _tag(method: str, target: int, seed: int) -> Tag:
    return tag(f"{method}_truth-{target}_seed-{seed}")


def _active_atoms(truth: synthetic_truth.Truth, key: Array) -> Array:
    """Returns the mean number of atoms in an example."""
    strengths = jax.jit(lambda key: synthetic_truth.draw_examples(truth, key, PIECE)[1])(key)
    return jaxae.active_units(strengths).mean()


def _make_measure_piece(
    truth: synthetic_truth.Truth, network: jaxae.AutoencoderFunctions
) -> MeasurePiece:
    """Returns the compiled measures of a piece of the examples, one program for all seeds."""

    @jax.jit
    def measure_piece(
        params: Params, nearest: Array, key: Array
    ) -> tuple[jaxae.UnitCounts, Array, Array, Array]:
        x, strengths = synthetic_truth.draw_examples(truth, key, PIECE)
        code = jax.vmap(partial(network.encode, params))(x)
        x_hat = jax.vmap(partial(network.decode, params))(code)
        return jaxae.unit_counts(code, strengths, nearest), jaxae.active_units(code), x, x_hat

    return measure_piece


def _scores(
    truth: synthetic_truth.Truth, measure_piece: MeasurePiece, params: Params, key: Array
) -> dict[str, float]:
    """Returns the measures of a dictionary on held-out examples, which are drawn in pieces."""
    nearest = jaxae.nearest_atoms(params["atoms"], truth.atoms)
    with jax.default_matmul_precision("highest"):
        keys = jax.random.split(key, HELD_OUT // PIECE)
        pieces = [measure_piece(params, nearest, one) for one in keys]
        counts = jax.tree.map(lambda *several: sum(several), *(found[0] for found in pieces))
        l0, x, x_hat = (jnp.concatenate(several) for several in list(zip(*pieces, strict=True))[1:])
        is_there = jnp.linalg.norm(x, axis=1) > 0  # an example may have no atom at all
        ratios = jaxae.shrinkage(x_hat, x)
        found = {
            "explained_variance": jaxae.explained_variance(x_hat, x),
            "active_units": l0.mean(),
            "f1": counts.f1.mean(),
            "precision": counts.precision.mean(),
            "recall": counts.recall.mean(),
            "mean_correlation": jaxae.mean_correlation(params["atoms"], truth.atoms),
            "uniqueness": jaxae.uniqueness(params["atoms"], truth.atoms),
            "shrinkage": jnp.mean(ratios, where=is_there),
            "dead_share": (counts.hits + counts.false_alarms == 0).mean(),
        }
    return {name: float(value) for name, value in found.items()}
