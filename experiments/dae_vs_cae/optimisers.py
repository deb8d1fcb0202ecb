"""Do second-order optimisers work on deterministic objectives?"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, Sentence, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.dae_vs_cae import race
from experiments.dae_vs_cae.networks import Trained, corrupt

BUDGET = 250  # gradient evaluations of a race
ADAM_RATES = (0.01, 0.03, 0.1)
LOOKS = {
    "Adam": plots.Look(plots.OTHERS[2].color, ":"),
    "CG": plots.Look(plots.OTHERS[1].color, "--"),
    "L-BFGS": plots.Look(plots.OTHERS[0].color, "-"),
}


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns how the optimisers come down on the full batch of AE, CAE and frozen-noise DAE."""

    def plain(params: Params, x_in: Array, x: Array) -> Array:
        x_hat = jax.vmap(partial(trained.reconstruct, params))(x_in)
        return jaxae.squared_error(x_hat, x).mean()

    result = {}
    x, noise, starts = trained.batch, corrupt(trained.noise), trained.starts()
    clean = [(params, x) for params, _ in starts]
    noisy = [(p, jaxae.corrupt_batch(key, noise, x), x) for p, key in starts]
    tasks: dict[str, tuple[Callable[..., Array], Sequence[tuple[Params, ...]]]] = {
        "CAE": (trained.cae_loss, clean),
        "AE": (plain, [(params, x, x) for params, _ in starts]),
        "DAE": (plain, noisy),
    }
    for task, (loss, starts_and_data) in tasks.items():

        def on_run(name: str, number: int, task: str = task) -> None:
            run.log(f"race on the {task}: {name}", race=task, optimiser=name, seed=number)

        result[task] = race.compare(
            loss, starts_and_data, rates=ADAM_RATES, budget=BUDGET, on_run=on_run
        )
    return {"optimisers": result}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    found = found["optimisers"]

    def panel(task: str, title: str, by_time: bool = False) -> plots.Panel:
        of_task = found[task]
        lines: list[plots.Line] = []
        for name, look in LOOKS.items():
            seconds = [number["mean"] for number in of_task[name]["seconds"]]
            x = seconds if by_time else of_task["evaluations"]
            lines += plots.every_seed(name, x, of_task[name]["loss"], look)
        label = "seconds" if by_time else "gradient evaluations"
        return plots.Panel(label, "lowest loss so far", lines, ("log", "log"), title=title)

    panels = [
        panel("CAE", "CAE"),
        panel("CAE", "CAE, against time", by_time=True),
        panel("AE", "plain AE"),
        panel("DAE", "DAE, noise frozen"),
    ]
    title = "Optimisers on the full batch, every seed"
    run.draw(plots.panels, "optimisers.png", panels, title=title)


def claims(found: Metrics) -> list[Claim]:
    """Returns the row of the comparison."""
    found = found["optimisers"]
    cae = found["CAE"]
    seeds = len(cae["Adam"]["loss"][0]["values"])
    reaching = {name: cae[name].get("evaluations_to_adam") for name in ("L-BFGS", "CG")}
    return [
        Claim(
            "The CAE's deterministic gradient lets second-order optimisers work: conjugate "
            "gradient and L-BFGS.",
            f"Adam with step size {cae['adam_rate']:g} (the best of {len(ADAM_RATES)}) spends "
            f"{cae['budget']} gradient evaluations on the full batch of the CAE. Its best loss is "
            f"reached by L-BFGS with {cae['L-BFGS']['reached_by']} of {seeds} seeds"
            f"{_after(reaching['L-BFGS'])}, and by conjugate gradient with "
            f"{cae['CG']['reached_by']}{_after(reaching['CG'])}.",
            verdict(all(number and number["mean"] < cae["budget"] for number in reaching.values())),
            {
                f"{name}, {label}": cae[name][entry]
                for name in ("L-BFGS", "CG")
                for label, entry in (
                    ("evaluations to Adam's best", "evaluations_to_adam"),
                    ("times as fast to it", "speedup"),
                )
                if entry in cae[name]
            },
            "optimisers.png",
            "Four panels of loss curves of Adam, conjugate gradient and L-BFGS: of the CAE "
            "against evaluations and against time, of the plain AE and of the DAE with frozen "
            "noise.",
            anchor="comparison-second-order",
            plain=_plain(cae, seeds),
            caption="Each line is one seed. The faster a line falls, the better is the optimiser; "
            "compare L-BFGS and CG with Adam.",
        ),
    ]


def _plain(cae: Metrics, seeds: int) -> Sentence:
    """Returns what part of Adam's gradient evaluations the others need to its best loss."""
    share = {
        name: percent(cae[name]["evaluations_to_adam"]["mean"] / cae["budget"])
        for name in ("L-BFGS", "CG")
        if "evaluations_to_adam" in cae[name]
    }
    if len(share) == 2:
        always = all(cae[name]["reached_by"] == seeds for name in share)
        return sentence(
            "L-BFGS reaches Adam's best loss with {lbfgs} of Adam's gradient evaluations, "
            "conjugate gradient with {cg}."
            if always
            else "Where they reach Adam's best loss, L-BFGS needs {lbfgs} of Adam's gradient "
            "evaluations and conjugate gradient {cg}; with some seeds they do not.",
            lbfgs=share["L-BFGS"],
            cg=share["CG"],
        )
    if not share:
        return sentence(
            "Neither L-BFGS nor conjugate gradient reaches Adam's best loss with as many gradient "
            "evaluations."
        )
    return sentence(
        "L-BFGS reaches Adam's best loss with {reached} of {seeds} seeds, conjugate gradient with "
        "none, in as many gradient evaluations."
        if "L-BFGS" in share
        else "Conjugate gradient reaches Adam's best loss with {reached} of {seeds} seeds, L-BFGS "
        "with none, in as many gradient evaluations.",
        reached=str(cae[next(iter(share))]["reached_by"]),
        seeds=str(seeds),
    )


def _after(evaluations: Metrics | None) -> str:
    return f", after {shown(evaluations)} evaluations" if evaluations else ""
