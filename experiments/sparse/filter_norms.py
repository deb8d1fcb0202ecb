"""The objective as the slide states it: what it does when the filters may have any norm."""

from experiments.common import plots
from experiments.common.results.claims import (
    Claim,
    Sentence,
    percent,
    ratio,
    sentence,
    shown,
    verdict,
)
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.sparse.networks import Trained
from experiments.sparse.path import LABEL
from experiments.sparse.units import below

FIGURE = "filter_norms.png"


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns nothing: the free filters are among the rows of ``path``."""
    return {}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    methods = {
        "filters of norm 1": (found["methods"]["L1"][1:], plots.METHODS["sparse"]),
        "free filters": (found["methods"]["L1, free filters"], plots.OTHERS[0]),
    }
    x = [row["weight"] for row in found["methods"]["L1"][1:]]

    def lines(number: str) -> list[plots.Line]:
        return [
            plots.line(name, [row["weight"] for row in rows], [row[number] for row in rows], look)
            for name, (rows, look) in methods.items()
        ]

    # with filters of norm 1 the norm of the stored weights means nothing
    norms = [
        plots.plain("filters of norm 1", x, [1.0] * len(x), plots.METHODS["sparse"]),
        lines("filter_norm")[1],
    ]
    weights = [*lines("effective_weight"), plots.plain("lambda itself", x, x, plots.EXACT)]
    panels = [
        plots.Panel(LABEL, "norm of a filter, mean", norms, ("log", "linear"), x),
        plots.Panel(LABEL, "lambda that the residual shows", weights, ("log", "log"), x),
    ]
    run.draw(plots.panels, FIGURE, panels, title="Free filters grow and weaken the penalty")


def claims(found: Metrics) -> list[Claim]:
    """Returns what the slide's objective needs to work."""
    picked = found["methods"]["L1"][found["chosen"]]
    rows = found["methods"]["L1, free filters"]
    free = next(row for row in rows if row["weight"] == picked["weight"])
    return [
        Claim(
            "The sparse autoencoder minimises the reconstruction error plus lambda times the L1 "
            "norm of the code.",
            "This needs a condition that the slide does not state: the norm of the decoder's "
            "filters must be fixed. If it is free, the code gets small and the filters large, "
            f"which changes no reconstruction: to a norm of {shown(free['filter_norm'])}, and the "
            f"penalty of weight {free['weight']:g} acts like one of "
            f"{shown(free['effective_weight'])}; with filters of norm 1 like one of "
            f"{shown(picked['effective_weight'])}. The test MSE is {shown(free['test_mse'])} "
            f"instead of {shown(picked['test_mse'])}.",
            verdict(
                _shrinks(free, picked)
                and below(free["effective_weight"], picked["effective_weight"], 0.75)
                and min(free["filter_norm"]["values"]) > 1.25,
                corrects=True,
            ),
            {
                "effective weight, filters of norm 1": picked["effective_weight"],
                "effective weight, free filters": free["effective_weight"],
                "norm of the free filters": free["filter_norm"],
            },
            FIGURE,
            "Two panels against lambda. Left: the norm of free filters and of filters of norm 1. "
            "Right, on logarithmic axes: the lambda that the residual shows, for both, and a "
            "dashed diagonal.",
            anchor="sparse-filter-norms",
            plain=_strength_on_free_filters(free, picked),
            caption="Left: the norm of the decoder's filters. Right: the strength with which the "
            "penalty acts, against the strength that was set; on the dashed line they are equal.",
            formula=r"L(x, \text{dec}(\text{enc}(x))) + \lambda \|z\|_1",
        )
    ]


def _shrinks(free: Metrics, picked: Metrics) -> bool:
    """Returns whether the penalty shrinks codes, on free filters and on those of norm 1."""
    means = [row["effective_weight"]["mean"] for row in (free, picked)]
    return all(mean is None or mean > 0 for mean in means)


def _strength_on_free_filters(free: Metrics, picked: Metrics) -> Sentence:
    """Returns how strong the penalty is on free filters, if it shrinks codes at all."""
    if not _shrinks(free, picked):
        return sentence(
            "The penalty does not shrink every code here, so its strengths with free filters and "
            "with filters of norm one cannot be compared."
        )
    return sentence(
        "When the decoder's filters may grow, the penalty acts with {share} of the strength that "
        "it has on filters of norm one.",
        share=percent(ratio(free["effective_weight"], picked["effective_weight"])),
    )
