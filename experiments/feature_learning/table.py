"""The table: every method's numbers, and its errors beside those that the papers print."""

from collections.abc import Mapping

from experiments.common import plots
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.feature_learning import verdicts
from experiments.feature_learning.methods import METHODS, Papers
from experiments.feature_learning.search import Trained

GROUPS = {
    "fine-tuned": plots.METHODS["AE"],
    "two layers, fine-tuned": plots.METHODS["DAE"],
    "softmax on the frozen code": plots.METHODS["sparse"],
    "published (Rifai et al. 2011)": plots.Look(plots.METHODS["CAE"].color, "x-"),
}


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the rows of the table, and which statements about them hold."""
    return {"methods": trained.rows, "verdicts": verdicts.of(trained.rows, trained.papers)}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the errors, and the contraction of the codes, with what the papers print beside."""
    rows, papers = found["methods"], trained.papers
    draw_errors(run, rows, papers)
    measured = {name: row for name, row in rows.items() if "jacobian_per_entry" in row}
    if measured:
        draw_contraction(run, measured, papers)


def _as_number(values: list[float]) -> Metrics:
    """Returns one number, or none, in the form of numbers over seeds."""
    return {"mean": values[0] if values else float("nan"), "std": None, "values": values}


def draw_errors(run: ExperimentRun, rows: Mapping[str, Metrics], papers: Papers) -> None:
    """Draws the test errors of every row."""
    kinds = ("test_error", "stacked_test_error", "probe_error")
    groups = GROUPS if papers else dict(list(GROUPS.items())[:-1])
    table = {}
    for name, row in rows.items():
        printed = [papers[name].test_error] if name in papers else []
        numbers = [*(row.get(kind, _as_number([])) for kind in kinds), _as_number(printed)]
        table[name] = numbers[: len(groups)]
    title = "What a classifier makes of features learned without labels"
    label = "test error (percent; pale: single seeds)"
    run.draw(plots.dots, "errors.png", table, groups, x_label=label, title=title)


def draw_contraction(run: ExperimentRun, measured: Mapping[str, Metrics], papers: Papers) -> None:
    """Draws the test error against the Jacobian norm, and the saturated units beside."""
    panels = []
    for kind, label in (
        ("test_error", "test error after fine-tuning (percent)"),
        ("saturated", "saturated units (percent)"),
    ):
        lines = []
        for name, row in measured.items():
            look = METHODS[name].look
            at = [row["jacobian_per_entry"]["mean"]]
            marker = plots.Look(look.color, look.style[0])
            lines.append(plots.line(name, at, [row[kind]], marker))
            if name in papers:
                paper = papers[name]
                printed = paper.test_error if kind == "test_error" else paper.saturated
                cross = plots.Look(look.color, "x")
                lines.append(plots.plain(f"{name}, published", [paper.jacobian], [printed], cross))
        x_label = "squared entry of the Jacobian, mean (1e-4)"
        panels.append(plots.Panel(x_label, label, lines, ("log", "linear")))
    title = "One layer: contraction, error and saturation"
    run.draw(plots.panels, "contraction.png", panels, title=title)
