"""One look for all figures: colours that colour-blind readers can tell apart, and markers too.

The colours are those of Okabe and Ito; a method has the same colour and the same marker in every
figure, so that a figure reads without its legend and in print without its colours.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple
from unittest import mock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT, SECOND, MUTED = "#222222", "#0072b2", "#d55e00", "#8a8a8a"


class Look(NamedTuple):
    """How a line is drawn: its colour, and marker and dashes as in ``plot``."""

    color: str
    style: str = "o-"


METHODS = {
    "AE": Look(INK, "o-"),
    "sparse": Look("#009e73", "^-"),
    "DAE": Look(ACCENT, "s-"),
    "CAE": Look(SECOND, "D-"),
}
"""The looks of the four autoencoders of the lecture."""

OTHERS = (Look("#cc79a7", "v-"), Look("#56b4e9", "P-"), Look("#e69f00", "X-"))
"""Looks for lines that belong to none of them."""

EXACT = Look(MUTED, "--")
"""The look of a closed form or a reference."""

STYLE: dict[str, object] = {
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
    "svg.hashsalt": "jaxae",  # the names inside of a file, which are random without it
}


def import_matplotlib() -> ModuleType:
    """Returns matplotlib, whatever settings of it the user has."""
    try:
        import matplotlib
    except Exception:  # for a backend or a matplotlibrc of the user's that does not work here
        with mock.patch.dict(os.environ, {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}):
            import matplotlib
    return matplotlib


@contextmanager
def new_figure(
    size: tuple[float, float],
    *,
    layout: Literal["constrained"] | None = None,
    style: Mapping[str, object] = {},
) -> Iterator["Figure"]:
    """Gives an empty figure, and our style to what is drawn in the block.

    It starts from matplotlib's own defaults and its Agg renderer. Neither a user's matplotlibrc
    nor the backend of a notebook has a part in it, and both stay as they are.

    Args:
      size: width and height in inches.
      layout: as in ``matplotlib.figure.Figure``.
      style: settings beside those of ``STYLE``.
    """
    matplotlib = import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | dict(style))
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure in the format that its name ends with, the same bytes every time."""
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, metadata=undated.get(path.suffix))


@contextmanager
def write_figure(path: Path, size: tuple[float, float], title: str) -> Iterator["Figure"]:
    """Gives an empty figure, and writes it under a title when the block has drawn in it."""
    with new_figure(size, layout="constrained") as figure:
        yield figure
        figure.suptitle(title, x=0.02, ha="left")
        save_figure(figure, path)
