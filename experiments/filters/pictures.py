"""The filters of every network as pictures."""

from experiments.common import plots
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.filters.networks import Trained

SHOWN = 40  # filters of each network in its own picture
COMPARED = 16  # units that are compared over all networks


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns nothing: the numbers are those of the structure."""
    return {}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the filters of the first seed, and the same units of every network."""
    corruption = found["corruption"]
    first = {setting: trained.filters(setting)[0] for setting in trained.params}
    compared = {
        f"{corruption} {setting.level:g}"
        + (f", beta {setting.beta:g}" if setting.beta != 1 else ""): filters[:COMPARED]
        for setting, filters in first.items()
    }
    title = "The same units, from the same start, under rising corruption"
    signed = compared.keys()
    run.draw(plots.image_rows, "compared.png", compared, title=title, signed=signed)
    for setting, filters in first.items():
        name = f"filters_noise-{setting.level:g}_beta-{setting.beta:g}.png"
        title = f"{corruption} {setting.level:g}, beta {setting.beta:g}"
        run.draw(plots.image_grid, name, filters[:SHOWN], columns=10, title=title)
