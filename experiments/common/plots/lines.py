"""Figures made of lines: numbers against numbers, with error bars over the seeds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.common.plots.style import MUTED, Look, write_figure
from experiments.common.results.over_seeds import Metrics

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


class Line(NamedTuple):
    """One line: positions, means, and standard deviations or None where there is one seed."""

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float]
    std: Sequence[float | None]
    look: Look


def line(
    label: str, x: Sequence[float] | np.ndarray, numbers: Sequence[Metrics], look: Look
) -> Line:
    """Returns the line of some numbers over seeds, as ``over_seeds.over_seeds`` makes them."""
    means = [np.nan if n["mean"] is None else n["mean"] for n in numbers]
    return Line(label, x, means, [n["std"] for n in numbers], look)


def plain(label: str, x: Sequence[float] | np.ndarray, y: Sequence[float], look: Look) -> Line:
    """Returns a line without error bars: one run, or a closed form."""
    return Line(label, x, y, [None] * len(x), look)


def every_seed(
    label: str, x: Sequence[float] | np.ndarray, numbers: Sequence[Metrics], look: Look
) -> list[Line]:
    """Returns one thin line per seed, where a mean would hide what single runs do."""
    by_seed = np.array([n["values"] for n in numbers], float).T
    return [plain(label, x, values.tolist(), look) for values in by_seed]


class Panel(NamedTuple):
    """Axes and the lines in it.

    Attributes:
      x_label: label of the horizontal axis, with its unit.
      y_label: label of the vertical axis, with its unit.
      lines: what is drawn.
      scales: of both axes, as in ``set_xscale``; ``"log2"`` for base 2.
      ticks: where the horizontal axis has its ticks, or None.
      title: headline of the panel.
      annotations: texts to write beside points ``(x, y)``.
    """

    x_label: str
    y_label: str
    lines: Sequence[Line]
    scales: tuple[str, str] = ("linear", "linear")
    ticks: Sequence[float] | np.ndarray | None = None
    title: str = ""
    annotations: Sequence[tuple[float, float, str]] = ()


def panels(path: Path, parts: Sequence[Panel], *, title: str) -> None:
    """Writes a figure with panels side by side and one legend for all of them.

    Args:
      path: file to write; its ending is the format.
      parts: the panels, from the left; lines of one label are one entry of the legend.
      title: headline.
    """
    has_spread = any(None not in one.std for panel in parts for one in panel.lines)
    columns = 2 if len(parts) == 4 else len(parts)
    rows = -(-len(parts) // columns)
    width = max(6.4, 4.4 * columns)
    with write_figure(path, (width, 3.6 * rows + 0.9), title) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax, panel in zip(axes.flat, parts, strict=True):
            _draw(ax, panel)
        entries: dict[str, Artist] = {}
        for ax in axes.flat:
            handles, labels = ax.get_legend_handles_labels()
            entries = dict(zip(labels, handles, strict=True)) | entries
        letters = max(len(label) for label in entries) + 6
        legend = figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=max(1, min(len(entries), int(width * 13 / letters))),
            fontsize=9,
            title="bars: one standard deviation over the seeds" if has_spread else None,
            title_fontsize=7,
        )
        for handle in legend.get_lines():
            handle.set_linewidth(1.6)


def _plain_ticks(axis: "Axis") -> None:
    """Labels a logarithmic axis of less than two decades with plain numbers."""
    low, high = axis.get_view_interval()
    if low > 0 and high / low < 100:
        from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_formatter(NullFormatter())


def _draw(ax: "Axes", panel: Panel) -> None:
    count = Counter(one.label for one in panel.lines)
    for one in panel.lines:
        spread = None if None in one.std else np.asarray(one.std, float)
        # A single point of a look without markers would not be seen: it is a stroke.
        is_stroke = len(one.x) == 1 and one.look.style[0] in "-:"
        ax.errorbar(
            one.x,
            one.y,
            yerr=spread,
            fmt="_" if is_stroke else one.look.style,
            color=one.look.color,
            label=one.label,
            capsize=3,
            markersize=24 if is_stroke else 4,
            linewidth=1.4 if count[one.label] == 1 else 0.8,
        )
    for x, y, text in panel.annotations:
        ax.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    for axis, scale in zip("xy", panel.scales, strict=True):
        options = {"base": 2} if scale == "log2" else {}
        getattr(ax, f"set_{axis}scale")(scale.removesuffix("2"), **options)
        if scale == "log":
            _plain_ticks(getattr(ax, f"{axis}axis"))
    if panel.ticks is not None:
        ax.set_xticks(panel.ticks, [f"{value:g}" for value in panel.ticks])
        ax.minorticks_off()
    ax.set(xlabel=panel.x_label, ylabel=panel.y_label)
    ax.set_title(panel.title, fontsize=10)
    ax.grid(alpha=0.2)


def histograms(
    path: Path,
    values: Mapping[str, np.ndarray],
    looks: Sequence[Look],
    *,
    x_label: str,
    title: str,
) -> None:
    """Writes histograms of some samples over each other, as shares on a logarithmic axis.

    Args:
      path: file to write; its ending is the format.
      values: label and sample of each; all samples share the bins.
      looks: colour of each.
      x_label: label of the horizontal axis, with its unit.
      title: headline.
    """
    everything = np.concatenate([np.ravel(sample) for sample in values.values()])
    edges = np.linspace(everything.min(), everything.max() + 1e-9, 61)
    with write_figure(path, (5.6, 4.0), title) as figure:
        ax = figure.subplots()
        for (label, sample), look in zip(values.items(), looks, strict=True):
            share = np.histogram(sample, edges)[0] / np.size(sample)
            ax.stairs(share, edges, color=look.color, label=label, linewidth=1.6)
        ax.set_yscale("log")
        ax.set(xlabel=x_label, ylabel="share of activations per bin")
        ax.grid(alpha=0.2)
        figure.legend(loc="outside lower center", ncols=len(values), fontsize=9)


def dots(
    path: Path,
    rows: Mapping[str, Sequence[Metrics]],
    groups: Mapping[str, Look],
    *,
    x_label: str,
    title: str,
    scale: str = "log",
) -> None:
    """Writes a dot chart: one row per label, one marker per group, every seed a pale marker.

    Args:
      path: file to write; its ending is the format.
      rows: label, and one number over seeds for each group, from the top.
      groups: label and look of each group.
      x_label: label of the horizontal axis, with its unit.
      title: headline.
      scale: of the horizontal axis.
    """
    with write_figure(path, (8.6, 0.42 * len(rows) + 1.6), title) as figure:
        ax = figure.subplots()
        for row, numbers in enumerate(rows.values()):
            ax.axhline(row, color=MUTED, alpha=0.2, linewidth=1)
            for (label, look), number in zip(groups.items(), numbers, strict=True):
                marker, color = look.style[0], look.color
                y = [row] * len(number["values"])
                ax.plot(number["values"], y, marker, color=color, alpha=0.3, markersize=5)
                name = label if row == 0 else None
                ax.plot([number["mean"]], [row], marker, color=color, markersize=8, label=name)
        ax.set_yticks(range(len(rows)), list(rows))
        ax.invert_yaxis()
        ax.set_xscale(scale)
        if scale == "log":
            _plain_ticks(ax.xaxis)
        ax.set(xlabel=x_label)
        ax.grid(alpha=0.2, axis="x")
        figure.legend(loc="outside lower center", ncols=len(groups), fontsize=9)
