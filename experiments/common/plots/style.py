"""One look for all figures: colours that colour-blind readers can tell apart, and markers too.

The colours are those of Okabe and Ito; a method has the same colour and the same marker in every
figure, so that a figure reads without its legend and in print without its colours.
"""

from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

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

STYLE: Any = {
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
