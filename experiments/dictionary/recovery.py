"""Known atoms: which of them are found again."""

from collections.abc import Sequence

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

    Each network has its own examples, the same for every kind.
    """
    sums = trained.sums
    cases = [(active, seed) for active in ACTIVE for seed in range(sums.num_seeds)]
    rows = []
    for name, kind in KINDS.items():
        family = Family(kind, INPUTS, ACTIVE, sums.schedule, sums.count)
        keys = [jax.random.split(jax.random.fold_in(sums.key, seed)) for _, seed in cases]
        data = [
            examples.sums(data_key, atoms=ATOMS, inputs=INPUTS, active=active, count=sums.count)
            for (data_key, _), (active, _) in zip(keys, cases, strict=True)
        ]
        positions = [ACTIVE.index(active) for active, _ in cases]
        names = [f"{name}_atoms-{active}_seed-{seed}" for active, seed in cases]
        scores = train_and_measure(family, [key for _, key in keys], data, positions, names, run)
        for active in ACTIVE:
            own = [one for one, (its, _) in zip(scores, cases, strict=True) if its == active]
            numbers = rows_over_seeds(own, UNITS)
            rows.append({"method": name, "active_atoms": active, **numbers})
            share = numbers["recovered_share"]["mean"]
            run.say(f"{active} of {ATOMS} atoms, {name}: {100 * share:.1f} % recovered")
    return {"recovery": rows}


def train_and_measure(
    family: Family,
    keys: Sequence[jax.Array],
    data: Sequence[examples.Sums],
    positions: Sequence[int],
    names: Sequence[str],
    run: ExperimentRun,
) -> list[dict[str, float]]:
    """Returns the numbers of networks of one kind, each trained on its own sums of its own atoms.

    They share one program: what they train on are the numbers of the examples, and the examples
    themselves are a setting of each network.
    """
    settings = [float(position) for position in positions]
    if not family.kind.is_top_k:
        norms = [jnp.sqrt(jnp.mean(jnp.sum(one.train**2, axis=1))) for one in data]
        settings = [L1_WEIGHT * float(norm) for norm in norms]
    tags = [tag(name) for name in names]
    trained = family.fit_many(
        keys,
        jnp.arange(len(data[0].train), dtype=jnp.float32)[:, None],
        settings,
        jnp.stack([one.train for one in data]),
        on_epoch=lambda network, epoch, loss: tags[network].log(run, epoch, loss),
        checkpoints=run.checkpoints(names, [family.network(one) for one in settings]),
    )
    scores = []
    for params, setting, one in zip(trained, settings, data, strict=True):
        cosines = jaxae.best_cosines(params["atoms"], one.atoms)
        scores.append(
            {
                "mean_max_cosine": float(cosines.mean()),
                "recovered_share": float((cosines > RECOVERED).mean()),
                **family.measure(params, setting, one.test),
            }
        )
    return scores


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
