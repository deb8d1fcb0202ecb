"""Known atoms: which of them are found again."""

import jax
import jax.numpy as jnp

import jaxae
from experiments.common import plots
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.dictionary import examples
from experiments.dictionary.networks import KINDS, Family, Schedule, Trained, tag

ATOMS, INPUTS, EXAMPLES = 256, 64, 50_000
ACTIVE = (3, 4, 5)  # atoms of each example
RECOVERED = 0.9  # cosine above which an atom counts as recovered
L1_WEIGHT = 0.15  # over the root mean square norm of the examples
UNITS = {
    "mean_max_cosine": "cosine of an atom with the nearest filter, mean over atoms",
    "recovered_share": f"share of the atoms with a cosine above {RECOVERED}",
    "explained_variance": "share of the variance of held-out examples",
    "active_units": "units above 0 per held-out example",
    "dead_share": "share of units that no held-out example activates",
}


def epochs(schedule: Schedule, seeds: int) -> int:
    """Returns how many epochs all networks take, for the progress bar."""
    return len(KINDS) * len(ACTIVE) * seeds * schedule.epochs


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Trains every kind for each number of active atoms; returns the numbers.

    Each network has its own examples. They are made, and dropped, as it is trained.
    """
    sums = trained.sums
    rows = []
    for name, kind in KINDS.items():
        family = Family(kind, INPUTS, ACTIVE, sums.schedule, sums.count)
        for position, active in enumerate(ACTIVE):
            scores = []
            for seed in range(sums.num_seeds):
                data_key, key = jax.random.split(jax.random.fold_in(sums.key, seed))
                data = examples.sums(
                    data_key, atoms=ATOMS, inputs=INPUTS, active=active, count=sums.count
                )
                named = f"{name}_atoms-{active}_seed-{seed}"
                scores.append(train_and_measure(family, key, data, position, named, run))
            numbers = rows_over_seeds(scores, UNITS)
            rows.append({"method": name, "active_atoms": active, **numbers})
            share = numbers["recovered_share"]["mean"]
            run.say(f"{active} of {ATOMS} atoms, {name}: {100 * share:.1f} % recovered")
    return {"recovery": rows}


def train_and_measure(
    family: Family,
    key: jax.Array,
    data: examples.Sums,
    position: int,
    named: str,
    run: ExperimentRun,
) -> dict[str, float]:
    """Returns the numbers of one network, trained on its own sums of its own atoms."""
    norm = float(jnp.sqrt(jnp.mean(jnp.sum(data.train**2, axis=1))))
    setting = float(position) if family.kind.is_top_k else L1_WEIGHT * norm
    log = tag(named).log
    (params,) = family.fit_many(
        [key],
        data.train,
        [setting],
        on_epoch=lambda _, epoch, loss: log(run, epoch, loss),
        checkpoints=run.checkpoints([named], family.network(setting)),
    )
    cosines = jaxae.best_cosines(params["atoms"], data.atoms)
    return {
        "mean_max_cosine": float(cosines.mean()),
        "recovered_share": float((cosines > RECOVERED).mean()),
        **family.measure(params, setting, data.test),
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws recovery against the number of active atoms."""
    rows, panels = found["recovery"], []
    for key, label in (
        ("recovered_share", "share of atoms recovered"),
        ("mean_max_cosine", "mean max cosine similarity"),
        ("active_units", "active units per example"),
    ):
        lines = []
        for name, kind in KINDS.items():
            own = [row for row in rows if row["method"] == name]
            at = [row["active_atoms"] for row in own]
            lines.append(plots.line(name, at, [row[key] for row in own], kind.look))
        panels.append(plots.Panel("atoms of an example", label, lines, ticks=ACTIVE))
    title = f"{ATOMS} known atoms in {INPUTS} dimensions"
    run.draw(plots.panels, "recovery.png", panels, title=title)
