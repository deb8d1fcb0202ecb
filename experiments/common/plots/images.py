"""Figures made of pictures: rows of them, grids of filters, the flow chart."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.common.plots.style import ACCENT, SECOND, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show(ax: "Axes", image: np.ndarray, signed: bool = False) -> None:
    """Draws one image ``(h, w, c)``: grey levels 0 to 1, or signed values -1 to 1 in colour.

    Values beyond are clipped. Signed images are blue below 0, white at 0 and red above.
    """
    pixels = np.clip(image, -1 if signed else 0, 1)
    if signed or pixels.shape[-1] not in (3, 4):
        pixels = pixels.mean(-1)
    colours, least = ("RdBu_r", -1) if signed else ("gray", 0)
    ax.imshow(pixels, colours, vmin=least, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def image_rows(
    path: Path,
    rows: Mapping[str, np.ndarray],
    *,
    title: str,
    gaps: Sequence[int] = (),
    signed: Collection[str] = (),
) -> None:
    """Writes a figure of labelled rows of images ``(n, h, w, c)``.

    Args:
      path: file to write; its ending is the format.
      rows: label and images of each row, from the top.
      title: headline.
      gaps: rows before which some space is left.
      signed: labels of rows of signed images; such a row is scaled by its largest magnitude.
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
    with new_figure(size) as figure:
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
            is_signed = label in signed
            scale = np.abs(images).max() if is_signed else 1
            for column, image in enumerate(images):
                ax = figure.add_subplot(grid[slot, column])
                show(ax, image / (scale or 1), is_signed)
                if column == 0:
                    ax.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        figure.suptitle(title, x=0.05 / size[0], ha="left", y=1 - 0.12 / size[1], va="top")
        save_figure(figure, path)


def image_grid(path: Path, images: np.ndarray, *, columns: int, title: str) -> None:
    """Writes signed images ``(n, h, w, c)``, such as filters, as a grid on one scale.

    Args:
      path: file to write; its ending is the format.
      images: any unit; the scale is their largest magnitude.
      columns: how many images stand side by side.
      title: headline.
    """
    rows = -(-len(images) // columns)
    size = (0.55 * columns + 0.1, 0.55 * rows + 0.5)
    scale = float(np.abs(images).max()) or 1.0
    with new_figure(size) as figure:
        grid = figure.add_gridspec(
            rows,
            columns,
            left=0.05 / size[0],
            right=1 - 0.05 / size[0],
            top=1 - 0.4 / size[1],
            bottom=0.05 / size[1],
            wspace=0.08,
            hspace=0.08,
        )
        for index, image in enumerate(images):
            show(figure.add_subplot(grid[divmod(index, columns)]), image / scale, signed=True)
        figure.suptitle(title, x=0.05 / size[0], ha="left", y=1 - 0.1 / size[1], va="top")
        save_figure(figure, path)


def flow_chart(
    path: Path, *, clean: np.ndarray, noisy: np.ndarray, code: np.ndarray, denoised: np.ndarray
) -> None:
    """Writes the flow chart of a denoising autoencoder around one real example.

    Args:
      path: file to write; its ending is the format.
      clean: image ``(h, w, c)``.
      noisy: its corruption.
      code: the code ``(k,)`` of the corrupted image.
      denoised: the reconstruction.
    """
    with new_figure((10, 2.6)) as figure:
        from matplotlib.patches import FancyArrowPatch, Polygon

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
        save_figure(figure, path)
