"""Figures: everything that is drawn, in one look. Only this package knows matplotlib.

It is imported when the first figure is drawn: that takes half a second, and a run draws last.
"""

from experiments.common.plots.fields import corruption_ring as corruption_ring
from experiments.common.plots.fields import paths as paths
from experiments.common.plots.fields import scatters as scatters
from experiments.common.plots.fields import vector_fields as vector_fields
from experiments.common.plots.images import flow_chart as flow_chart
from experiments.common.plots.images import image_grid as image_grid
from experiments.common.plots.images import image_rows as image_rows
from experiments.common.plots.lines import Line as Line
from experiments.common.plots.lines import Panel as Panel
from experiments.common.plots.lines import dots as dots
from experiments.common.plots.lines import every_seed as every_seed
from experiments.common.plots.lines import histograms as histograms
from experiments.common.plots.lines import line as line
from experiments.common.plots.lines import panels as panels
from experiments.common.plots.lines import plain as plain
from experiments.common.plots.style import EXACT as EXACT
from experiments.common.plots.style import METHODS as METHODS
from experiments.common.plots.style import OTHERS as OTHERS
from experiments.common.plots.style import Look as Look
