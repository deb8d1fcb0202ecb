"""The scores of networks in ``metrics.json``: how they get there, and their curves."""

from experiments.common import plots
from experiments.common.results import over_seeds
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting


def scores_over_seeds(scores: list[dict[str, float]]) -> Metrics:
    """Returns mean and spread over the seeds of each test score."""
    return {
        f"test_{name}": over_seeds.over_seeds([score[name] for score in scores], unit)
        for name, unit in fitting.UNITS.items()
    }


def error(row: Metrics) -> Metrics:
    """Returns the test error of a row, a number over the seeds."""
    return row["test_mse"]


def noise_error(row: Metrics) -> Metrics:
    """Returns the error of the corrupted input itself."""
    return row["corrupted"]["test_mse"]


def draw_curves(
    run: ExperimentRun,
    rows: list[Metrics],
    against: str,
    x_label: str,
    scale: str,
    title: str,
) -> None:
    """Draws the scores of some rows against one of their settings."""
    x = [row[against] for row in rows]
    panels = [
        plots.Panel(x_label, y_label, _lines(x, rows, quantity), (scale, "linear"), x)
        for quantity, y_label in (
            ("test_mse", "test MSE per pixel"),
            ("test_psnr", "test PSNR (dB)"),
        )
    ]
    run.draw(plots.panels, f"curves_{against}.png", panels, title=title)


def _lines(x: list[float], rows: list[Metrics], quantity: str) -> list[plots.Line]:
    series = [
        ("denoising autoencoder", rows, plots.METHODS["DAE"]),
        ("best linear map of rank k", [row["linear"] for row in rows], plots.OTHERS[0]),
        ("corrupted input", [row["corrupted"] for row in rows], plots.EXACT),
    ]
    return [
        plots.line(label, x, [part[quantity] for part in parts], look)
        for label, parts, look in series
    ]
