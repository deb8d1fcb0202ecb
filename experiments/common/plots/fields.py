"""Figures in the plane: vector fields, corruptions of one point, paths."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.common.plots.style import (
    ACCENT,
    INK,
    MUTED,
    SECOND,
    new_figure,
    save_figure,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


def vector_fields(
    path: Path,
    points: np.ndarray,
    panels: Mapping[str, np.ndarray],
    *,
    background: np.ndarray,
    half_width: float,
    title: str,
) -> None:
    """Writes arrows ``(n, 2)`` at points ``(n, 2)``, one panel per field, over a density.

    Args:
      path: file to write; its ending is the format.
      points: where the arrows start.
      panels: label and displacements of each field; arrows are drawn to scale.
      background: density on a grid over the drawn square, drawn as shades.
      half_width: half of the side of the drawn square.
      title: headline.
    """
    extent = (-half_width, half_width, -half_width, half_width)
    with write_figure(path, (4.6 * len(panels), 4.9), title) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)
        for ax, (label, vectors) in zip(axes[0], panels.items(), strict=True):
            ax.imshow(background, origin="lower", extent=extent, cmap="Greys", alpha=0.6)
            ax.quiver(
                *points.T,
                *vectors.T,
                angles="xy",
                scale_units="xy",
                scale=1,
                color=ACCENT,
                width=0.004,
            )
            ax.set(title=label, aspect="equal", xlim=extent[:2], ylim=extent[2:])


def corruption_ring(
    path: Path,
    manifold: np.ndarray,
    centre: np.ndarray,
    corrupted: np.ndarray,
    moved: np.ndarray,
    *,
    title: str,
) -> None:
    """Writes one clean point, a circle of its equally likely corruptions, and where they go.

    Args:
      path: file to write; its ending is the format.
      manifold: points ``(m, 2)`` of the data.
      centre: the clean point ``(2,)``.
      corrupted: its corruptions ``(n, 2)``, all at one distance.
      moved: their reconstructions ``(n, 2)``.
      title: headline.
    """
    radius = float(np.linalg.norm(corrupted[0] - centre))
    with write_figure(path, (5, 5), title) as figure:
        from matplotlib.patches import Circle

        ax = figure.subplots()
        ax.plot(
            *manifold.T, ".", color=INK, markersize=2 if len(manifold) > 50 else 8, label="data"
        )
        ax.add_patch(Circle(tuple(centre), radius, color=MUTED, alpha=0.3, linewidth=0))
        ax.plot(*corrupted.T, "o", color=MUTED, markersize=4, label="corrupted")
        ax.quiver(
            *corrupted.T,
            *(moved - corrupted).T,
            angles="xy",
            scale_units="xy",
            scale=1,
            color=ACCENT,
            width=0.005,
            label="dec(enc(x~)) - x~",
        )
        ax.plot(*centre, "s", color=SECOND, label="clean point")
        view = 2.2 * radius
        ax.set(
            aspect="equal",
            xlim=(centre[0] - view, centre[0] + view),
            ylim=(centre[1] - view, centre[1] + view),
        )
        figure.legend(loc="outside lower center", ncols=4, fontsize=8)


def paths(
    path: Path, positions: np.ndarray, manifold: np.ndarray, *, half_width: float, title: str
) -> None:
    """Writes the paths of some points: all of them, or as an animation if the file is a GIF.

    Args:
      path: file to write.
      positions: positions ``(time, n, 2)``.
      manifold: points ``(m, 2)`` of the data.
      half_width: half of the side of the drawn square.
      title: headline.
    """
    resolution = {"figure.dpi": 90, "savefig.dpi": 90}
    with new_figure((4.6, 4.9), layout="constrained", style=resolution) as figure:
        ax = figure.subplots()
        size = 2 if len(manifold) > 50 else 8
        ax.plot(*manifold.T, ".", color=MUTED, markersize=size)
        ax.set(aspect="equal", xlim=(-half_width, half_width), ylim=(-half_width, half_width))
        count = positions.shape[1]
        trails = [ax.plot([], [], "-", color=ACCENT, linewidth=1)[0] for _ in range(count)]
        (heads,) = ax.plot([], [], "o", color=SECOND, markersize=5)
        figure.suptitle(title, x=0.02, ha="left")

        def show_until(time: int) -> "list[Line2D]":
            for index, trail in enumerate(trails):
                trail.set_data(*positions[: time + 1, index].T)
            heads.set_data(*positions[time].T)
            return [*trails, heads]

        if path.suffix == ".gif":
            _write_film(path, figure, show_until, len(positions))
        else:
            show_until(len(positions) - 1)
            save_figure(figure, path)


def _write_film(
    path: Path, figure: "Figure", show_until: "Callable[[int], list[Line2D]]", times: int
) -> None:
    """Writes an animation with 8 pictures per second.

    What does not move is drawn once, with the layout; matplotlib's ``FuncAnimation`` would draw
    all of it twice for every picture, which takes ten times as long.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    for line in show_until(0):
        line.set_animated(True)  # is left out when the canvas is drawn
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    pictures = []
    for time in range(times):
        canvas.restore_region(background)
        for line in show_until(time):
            figure.draw_artist(line)
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125, loop=0)


def scatters(
    path: Path, panels: Mapping[str, np.ndarray], *, half_width: float, title: str
) -> None:
    """Writes points ``(n, 2)``, one panel per sample, side by side.

    Args:
      path: file to write; its ending is the format.
      panels: label and points of each sample.
      half_width: half of the side of the drawn square.
      title: headline.
    """
    with write_figure(path, (3.2 * len(panels), 3.7), title) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)
        for ax, (label, points) in zip(axes[0], panels.items(), strict=True):
            ax.plot(*points.T, ".", color=ACCENT, markersize=2, alpha=0.5)
            ax.set(aspect="equal", xlim=(-half_width, half_width), ylim=(-half_width, half_width))
            ax.set_title(label, fontsize=10)
