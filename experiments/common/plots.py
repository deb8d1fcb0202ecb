"""Figures: rows of pictures, curves with error bars, the flow chart of an autoencoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import animation
from matplotlib.patches import FancyArrowPatch, Polygon

INK, ACCENT, SECOND, MUTED = "#222222", "#0b6e99", "#c8553d", "#8a8a8a"

_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "legend.frameon": False,
}


class Curve(NamedTuple):
    """One line of a plot: means, and standard deviations or None where there is one seed."""

    label: str
    mean: Sequence[float]
    std: Sequence[float | None]
    color: str
    style: str = "o-"


def show(ax: Any, image: np.ndarray) -> None:
    """Draws one image ``(h, w, c)`` with 0 black and 1 white, values beyond clipped."""
    pixels = np.clip(image, 0, 1)
    if pixels.shape[-1] not in (3, 4):
        pixels = pixels[..., 0]
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def image_rows(
    path: Path, rows: Mapping[str, np.ndarray], *, title: str, gaps: Sequence[int] = ()
) -> None:
    """Writes a figure of labelled rows of images ``(n, h, w, c)``.

    Args:
      path: PNG file.
      rows: label and images of each row, from the top.
      title: headline.
      gaps: rows before which some space is left.
    """
    count = max(len(images) for images in rows.values())
    heights: list[float] = []
    slots = []
    for row in range(len(rows)):
        if row in gaps:
            heights.append(0.35)
        slots.append(len(heights))
        heights.append(1.0)
    inches = 0.62
    label_width = 0.095 * max(len(label) for label in rows) + 0.25
    size = (count * inches + label_width, sum(heights) * inches + 0.45)
    with plt.rc_context(_STYLE):
        figure = plt.figure(figsize=size)
        grid = figure.add_gridspec(
            len(heights),
            count,
            height_ratios=heights,
            left=label_width / size[0],
            right=1 - 0.05 / size[0],
            top=1 - 0.4 / size[1],
            bottom=0.05 / size[1],
            wspace=0.06,
            hspace=0.06,
        )
        for (label, images), slot in zip(rows.items(), slots, strict=True):
            for column, image in enumerate(images):
                ax = figure.add_subplot(grid[slot, column])
                show(ax, image)
                if column == 0:
                    ax.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        figure.suptitle(title, x=0.05 / size[0], ha="left", y=1 - 0.12 / size[1], va="top")
        figure.savefig(path)
        plt.close(figure)


def curves(
    path: Path,
    x: Sequence[float],
    panels: Mapping[str, Sequence[Curve]],
    *,
    x_label: str,
    title: str,
    log2_x: bool = False,
) -> None:
    """Writes a figure with one panel per quantity: curves against ``x`` with error bars.

    Args:
      path: PNG file.
      x: horizontal positions, common to all curves.
      panels: label of the vertical axis, with its unit, and the curves of each panel.
      x_label: label of the horizontal axis, with its unit.
      title: headline.
      log2_x: whether the horizontal axis is logarithmic, with a tick at each ``x``.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.4 * len(panels), 3.7), layout="constrained", squeeze=False
        )
        for ax, (label, lines) in zip(axes[0], panels.items(), strict=True):
            for line in lines:
                spread = None if None in line.std else np.asarray(line.std, float)
                ax.errorbar(
                    x,
                    line.mean,
                    yerr=spread,
                    fmt=line.style,
                    color=line.color,
                    label=line.label,
                    capsize=3,
                    markersize=4,
                    linewidth=1.4,
                )
            if log2_x:
                ax.set_xscale("log", base=2)
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.minorticks_off()
            ax.set(xlabel=x_label, ylabel=label)
            ax.grid(alpha=0.2)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(title, x=0.02, ha="left")
        figure.savefig(path)
        plt.close(figure)


def flow_chart(
    path: Path, *, clean: np.ndarray, noisy: np.ndarray, code: np.ndarray, denoised: np.ndarray
) -> None:
    """Writes the flow chart of a denoising autoencoder around one real example.

    Args:
      path: PNG file.
      clean: image ``(h, w, c)``.
      noisy: its corruption.
      code: the code ``(k,)`` of the corrupted image.
      denoised: the reconstruction.
    """
    with plt.rc_context(_STYLE):
        figure = plt.figure(figsize=(10, 2.6))
        canvas = figure.add_axes((0, 0, 1, 1))
        canvas.set(xlim=(0, 10), ylim=(0, 2.6))
        canvas.axis("off")

        pictures = [(0.3, clean, "$x$\nclean"), (2.3, noisy, r"$\tilde{x}$" + "\ncorrupted")]
        pictures.append((8.4, denoised, r"$\hat{x}$" + "\nreconstruction"))
        for left, image, label in pictures:
            show(figure.add_axes((left / 10, 0.95 / 2.6, 0.13, 1.3 / 2.6)), image)
            canvas.text(left + 0.65, 0.78, label, ha="center", va="top")

        for left, tall, low, label in ((4.15, 1.3, 0.7, "encoder"), (7.0, 0.7, 1.3, "decoder")):
            middle = 1.6
            corners = [
                (left, middle - tall / 2),
                (left, middle + tall / 2),
                (left + 0.9, middle + low / 2),
                (left + 0.9, middle - low / 2),
            ]
            canvas.add_patch(Polygon(corners, facecolor="#dbeaf0", edgecolor=ACCENT))
            canvas.text(left + 0.45, middle, label, ha="center", va="center", fontsize=9)

        strip = figure.add_axes((5.78 / 10, 0.95 / 2.6, 0.035, 1.3 / 2.6))
        limit = float(np.abs(code).max()) or 1.0
        strip.imshow(code[:, None], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
        strip.set(xticks=[], yticks=[])
        canvas.text(5.95, 0.78, f"$z$\ncode, {len(code)} numbers", ha="center", va="top")

        arrows = [(1.68, 2.24, "noise"), (3.68, 4.1, ""), (5.1, 5.7, ""), (6.2, 6.95, "")]
        for start, end, label in [*arrows, (7.95, 8.34, "")]:
            canvas.add_patch(
                FancyArrowPatch((start, 1.6), (end, 1.6), arrowstyle="-|>", mutation_scale=12)
            )
            canvas.text((start + end) / 2, 1.72, label, ha="center", fontsize=9)
        canvas.annotate(
            "",
            xy=(0.95, 2.3),
            xytext=(9.05, 2.3),
            arrowprops={
                "arrowstyle": "<|-|>",
                "linestyle": "--",
                "color": SECOND,
                "connectionstyle": "bar,fraction=0.02",
            },
        )
        canvas.text(
            5,
            2.47,
            "loss: reconstruction against the CLEAN input",
            ha="center",
            va="center",
            color=SECOND,
            fontsize=9,
            backgroundcolor="white",
        )
        figure.savefig(path)
        plt.close(figure)


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
      path: PNG file.
      points: where the arrows start.
      panels: label and displacements of each field; arrows are drawn to scale.
      background: density on a grid over the drawn square, drawn as shades.
      half_width: half of the side of the drawn square.
      title: headline.
    """
    extent = (-half_width, half_width, -half_width, half_width)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.6 * len(panels), 4.9), layout="constrained", squeeze=False
        )
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
        figure.suptitle(title, x=0.02, ha="left")
        figure.savefig(path)
        plt.close(figure)


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
      path: PNG file.
      manifold: points ``(m, 2)`` of the data.
      centre: the clean point ``(2,)``.
      corrupted: its corruptions ``(n, 2)``, all at one distance.
      moved: their reconstructions ``(n, 2)``.
      title: headline.
    """
    radius = float(np.linalg.norm(corrupted[0] - centre))
    with plt.rc_context(_STYLE):
        figure, ax = plt.subplots(figsize=(5, 5), layout="constrained")
        ax.plot(
            *manifold.T, ".", color=INK, markersize=2 if len(manifold) > 50 else 8, label="data"
        )
        ax.add_patch(plt.Circle(tuple(centre), radius, color=MUTED, alpha=0.3, linewidth=0))
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
        figure.suptitle(title, x=0.02, ha="left")
        figure.savefig(path)
        plt.close(figure)


def paths(
    path: Path, positions: np.ndarray, manifold: np.ndarray, *, half_width: float, title: str
) -> None:
    """Writes the paths of some points as a picture (.png) and as an animation (.gif).

    Args:
      path: file without its ending.
      positions: positions ``(time, n, 2)``.
      manifold: points ``(m, 2)`` of the data.
      half_width: half of the side of the drawn square.
      title: headline.
    """
    with plt.rc_context(_STYLE | {"savefig.dpi": 90}):
        figure, ax = plt.subplots(figsize=(4.6, 4.9), layout="constrained")
        size = 2 if len(manifold) > 50 else 8
        ax.plot(*manifold.T, ".", color=MUTED, markersize=size)
        ax.set(aspect="equal", xlim=(-half_width, half_width), ylim=(-half_width, half_width))
        count = positions.shape[1]
        trails = [ax.plot([], [], "-", color=ACCENT, linewidth=1)[0] for _ in range(count)]
        (heads,) = ax.plot([], [], "o", color=SECOND, markersize=5)
        figure.suptitle(title, x=0.02, ha="left")

        def show_until(time: int) -> list[Any]:
            for index, trail in enumerate(trails):
                trail.set_data(*positions[: time + 1, index].T)
            heads.set_data(*positions[time].T)
            return [*trails, heads]

        show_until(len(positions) - 1)
        figure.savefig(path.with_suffix(".png"))
        film = animation.FuncAnimation(figure, show_until, frames=len(positions))
        film.save(path.with_suffix(".gif"), writer=animation.PillowWriter(fps=8))
        plt.close(figure)
