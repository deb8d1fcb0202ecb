"""How many units are active, and the error that this costs, as lambda rises."""

import itertools

from experiments.common import plots
from experiments.common.results.claims import Claim, brief, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.sparse.networks import Trained, tops
from experiments.sparse.units import below

FIGURE = "path.png"
ALT = (
    "Three panels. Left, on logarithmic axes: test MSE against the number of active units, for "
    "L1, top-k and KL. Middle: active units against lambda. Right: dead units against lambda."
)
LABEL = "lambda, weight of the L1 norm"


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the rows of every method, which stand for all the figures."""
    return {"methods": trained.rows}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    methods, look = found["methods"], plots.METHODS["sparse"]
    series = {
        "L1": (methods["L1"], look),
        "top-k": (list(tops(methods).values()), plots.OTHERS[1]),
        "KL, units above 1/2": (methods["KL"], plots.OTHERS[2]),
    }
    error = [
        plots.line(
            name,
            [row["active_units"]["mean"] for row in rows],
            [row["test_mse"] for row in rows],
            row_look,
        )
        for name, (rows, row_look) in series.items()
    ]
    rows = methods["L1"][1:]
    x = [row["weight"] for row in rows]
    active = plots.line("L1", x, [row["active_units"] for row in rows], look)
    dead = plots.line("L1", x, [row["dead_share"] for row in rows], look)
    count = "active units per test image"
    ticks = [2**power for power in range(found["code_dim"].bit_length())]
    panels = [
        plots.Panel(count, "test MSE per pixel", error, ("log", "log"), ticks),
        plots.Panel(LABEL, count, [active], ("log", "linear"), x),
        plots.Panel(LABEL, "share of dead units", [dead], ("log", "linear"), x),
    ]
    run.draw(plots.panels, FIGURE, panels, title="Fewer active units cost reconstruction")


def claims(found: Metrics) -> list[Claim]:
    """Returns what the slide says about active units, beside what was measured."""
    rows = found["methods"]["L1"]
    plain, last, picked = rows[0], rows[-1], rows[found["chosen"]]
    falls = all(below(b["active_units"], a["active_units"]) for a, b in itertools.pairwise(rows))
    return [
        Claim(
            "The L1 norm of the code keeps the number of active units per input low.",
            f"Of {found['code_dim']} units {shown(plain['active_units'])} are active for a test "
            f"image without a penalty, {shown(picked['active_units'])} at lambda "
            f"{picked['weight']:g} and {shown(last['active_units'])} at {last['weight']:g}. The "
            f"test MSE rises from {shown(plain['test_mse'])} to {shown(picked['test_mse'])} and "
            f"{shown(last['test_mse'])}, and the share of units that no test image activates from "
            f"{shown(plain['dead_share'])} to {shown(last['dead_share'])}.",
            verdict(falls and below(last["active_units"], plain["active_units"], 0.25)),
            {f"active units, lambda {row['weight']:g}": row["active_units"] for row in rows},
            FIGURE,
            ALT,
            anchor="sparse-active-units",
            plain=sentence(
                "On average, an image activates {without} units without the L1 penalty and "
                "{with_it} units with it.",
                without=brief(plain["active_units"]["mean"]),
                with_it=brief(picked["active_units"]["mean"]),
            ),
            caption="Left: each marker is one strength of a penalty; the best corner is at the "
            "bottom left. Middle and right: active units and dead units against the strength of "
            "the L1 penalty.",
            formula=r"\|z\|_1 = \sum_j |z_j|",
            more={
                "activations.png": (
                    "Histogram of all activations on a logarithmic axis, with the penalty and "
                    "without it."
                ),
            },
        )
    ]
