"""Figures in further formats, for slides: the same bytes every time, and beside every PNG."""

import re
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageSequence

from experiments import vector_field
from experiments.common import plots
from experiments.common.run.experiment import ExperimentRun

RNG = np.random.default_rng(0)
PANEL = plots.Panel("x", "y", [plots.plain("a line", [1, 2, 3], [3.0, 1.0, 2.0], plots.EXACT)])
IMAGES = RNG.uniform(size=(2, 4, 4, 1))
POINTS = RNG.normal(size=(5, 2))
FIGURES = {
    "panels": partial(plots.panels, parts=[PANEL], title="Lines"),
    "image_rows": partial(plots.image_rows, rows={"row": IMAGES}, title="Images"),
    "image_grid": partial(plots.image_grid, images=IMAGES, columns=2, title="Grid"),
    "flow_chart": partial(
        plots.flow_chart, clean=IMAGES[0], noisy=IMAGES[1], code=POINTS[0], denoised=IMAGES[0]
    ),
    "paths": partial(
        plots.paths,
        positions=np.stack([POINTS, POINTS / 2]),
        manifold=POINTS,
        half_width=2,
        title="Paths",
    ),
}
BEGINNINGS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize("kind", BEGINNINGS)
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_the_same_file_every_time(tmp_path, coarse_figures, figure, kind):
    files = [tmp_path / f"{turn}.{kind}" for turn in ("first", "second")]
    for file in files:
        FIGURES[figure](file)
    first, second = (file.read_bytes() for file in files)
    assert first.startswith(BEGINNINGS[kind])
    assert first == second
    assert not re.search(rb"<dc:date|CreationDate", first)


def test_the_last_picture_of_a_film_is_the_figure_of_the_whole_way(tmp_path):
    for kind in ("png", "gif"):
        FIGURES["paths"](tmp_path / f"way.{kind}")
    with Image.open(tmp_path / "way.gif") as film, Image.open(tmp_path / "way.png") as figure:
        assert film.n_frames == 2
        pictures = [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(film)]
        whole = np.asarray(figure.convert("RGB"), int)
    # A GIF has 256 colours: a few pixels at the edges of letters and lines are a little off.
    assert (np.abs(pictures[1] - whole).max(axis=-1) > 60).mean() < 1e-4
    assert (np.abs(pictures[0] - whole).max(axis=-1) > 60).mean() > 1e-3


def test_a_figure_is_written_in_every_format_that_is_asked_for(tmp_path):
    config = vector_field.Config(out=tmp_path, figures="pdf,svg", quick=True)
    with ExperimentRun("vector_field", config, None, total=1) as run:
        run.draw(FIGURES["panels"], "noise-0.5.png")
        run.draw(FIGURES["paths"], "film.gif")
        run.finish({})
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"noise-0.5.{kind}" for kind in BEGINNINGS} <= names
    assert {name for name in names if name.startswith("film")} == {"film.gif"}


def test_without_the_option_there_are_png_files_only(tmp_path):
    with ExperimentRun("vector_field", vector_field.Config(out=tmp_path), None, total=1) as run:
        run.draw(FIGURES["panels"], "lines.png")
        run.finish({})
    assert {path.name for path in tmp_path.glob("lines.*")} == {"lines.png"}
