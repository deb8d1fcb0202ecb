"""Figures made of pictures: rows of them, grids of filters, the flow chart."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common.plots.style import ACCENT, SECOND, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show(ax: "Axes", image: np.ndarray) -> None:
    """Draws one image ``(h, w, c)`` that fills its axes: grey levels 0 to 1."""
    pixels, colours = _coloured(image, signed=False)
    ax.imshow(pixels, interpolation="nearest", **colours)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _coloured(image: np.ndarray, *, signed: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns pixels and the options of ``imshow`` for grey levels 0 to 1, or signed values.

    Values beyond are clipped. Signed values, from -1 to 1, are blue below 0, white at 0 and red
    above.
    """
    pixels = np.clip(image, -1 if signed else 0, 1)
    if signed or pixels.shape[-1] not in (3, 4):
        pixels = pixels.mean(-1)
    colours, least = ("RdBu_r", -1) if signed else ("gray", 0)
    return pixels, {"cmap": colours, "vmin": least, "vmax": 1}


class _Mosaic:
    """Axes in which images stand in cells of one unit; axes for each would take seconds to draw.

    Args:
      figure: where it is drawn.
      columns: cells in a row.
      height: of all rows, in cells.
      inches: of a cell.
      left: inches to the left of it, for labels.
      top: inches above it, for the headline.
    """

    def __init__(
        self,
        figure: "Figure",
        *,
        columns: int,
        height: float,
        inches: float,
        left: float,
        top: float,
    ) -> None:
        size = (left + columns * inches + _MARGIN, top + height * inches + _MARGIN)
        figure.set_size_inches(*size)
        box = (left / size[0], _MARGIN / size[1])
        self.size = size
        self.axes = figure.add_axes((*box, columns * inches / size[0], height * inches / size[1]))
        self.axes.set(xlim=(0, columns), ylim=(height, 0), autoscale_on=False)
        self.axes.axis("off")

    def show(self, image: np.ndarray, left: float, top: float, *, signed: bool = False) -> None:
        """Draws an image ``(h, w, c)`` into the cell with this corner, in its own proportions."""
        pixels, colours = _coloured(image, signed=signed)
        height, width = np.array(pixels.shape[:2]) / max(pixels.shape[:2]) * (1 - _GAP)
        x, y = left + (1 - width) / 2, top + (1 - height) / 2
        extent = (x, x + width, y + height, y)
        self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest", **colours)


_MARGIN = 0.05  # inches around all images
_GAP = 0.06  # between two images, in cells


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
    label_width = 0.095 * max(len(label) for label in rows) + 0.25
    with new_figure((1, 1)) as figure:
        mosaic = _Mosaic(
            figure,
            columns=max(len(images) for images in rows.values()),
            height=len(rows) + 0.35 * sum(1 <= gap < len(rows) for gap in gaps),
            inches=0.62,
            left=label_width,
            top=0.4,
        )
        top = 0.0
        for number, (label, images) in enumerate(rows.items()):
            top += 0.35 if number in gaps and number > 0 else 0
            scale = np.abs(images).max() if label in signed else 1
            for column, image in enumerate(images):
                mosaic.show(image / (scale or 1), column, top, signed=label in signed)
            mosaic.axes.text(-0.1, top + 0.5, label, ha="right", va="center")
            top += 1
        width, height = mosaic.size
        figure.suptitle(title, x=0.05 / width, ha="left", y=1 - 0.12 / height, va="top")
        save_figure(figure, path)


def image_grid(path: Path, images: np.ndarray, *, columns: int, title: str) -> None:
    """Writes signed images ``(n, h, w, c)``, such as filters, as a grid on one scale.

    Args:
      path: file to write; its ending is the format.
      images: any unit; the scale is their largest magnitude.
      columns: how many images stand side by side.
      title: headline.
    """
    scale = float(np.abs(images).max()) or 1.0
    with new_figure((1, 1)) as figure:
        mosaic = _Mosaic(
            figure,
            columns=columns,
            height=-(-len(images) // columns),
            inches=0.55,
            left=_MARGIN,
            top=0.4,
        )
        for index, image in enumerate(images):
            row, column = divmod(index, columns)
            mosaic.show(image / scale, column, row, signed=True)
        width, height = mosaic.size
        figure.suptitle(title, x=0.05 / width, ha="left", y=1 - 0.1 / height, va="top")
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
