"""The figures of a run as text inside a page: lines as SVG, images as PNG, paths as animations."""

import base64
import io
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

# Thousands of points take ten times as much as an SVG than as a PNG, and the page is one file.
_MOST_BYTES = 200_000


class Picture(NamedTuple):
    """A figure that is embedded in the page.

    Attributes:
      image: the file as a data URI.
      still: the same for a picture without motion, where the figure is an animation, or "".
      alt: what is to be seen.
      width: in pixels, so that the page does not jump when it is drawn.
      height: in pixels.
    """

    image: str
    still: str
    alt: str
    width: int
    height: int


def embed(path: Path, alt: str) -> Picture:
    """Returns a picture as data: drawn lines as SVG where the run has left it, images as PNG."""
    with Image.open(path) as image:
        width, height = image.size
    drawing = path.with_suffix(".svg")
    still = path.with_suffix(".png")
    return Picture(
        _data_uri(drawing if path.suffix == ".png" and _is_drawing(drawing) else path),
        _data_uri(still) if path.suffix == ".gif" and still.is_file() else "",
        alt,
        width,
        height,
    )


def _is_drawing(path: Path) -> bool:
    """Returns whether there is such an SVG file, of lines without pixels, that is not too large."""
    return (
        path.is_file() and path.stat().st_size <= _MOST_BYTES and b"<image" not in path.read_bytes()
    )


def _data_uri(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".svg":
        return f"data:image/svg+xml,{_as_text(content.decode('utf-8'))}"
    kind = path.suffix[1:]
    content = _with_palette(content) if kind == "png" else content
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _as_text(svg: str) -> str:
    """Returns an SVG as part of an address, which takes a quarter less than base64."""
    without_comments = re.sub("<!--.*?-->", "", svg, flags=re.DOTALL)
    # A browser drops the ends of lines in an address.
    return quote(" ".join(without_comments.split()), safe=" /:;=,.()-+*!?@[]{}|~^_")


@lru_cache
def _with_palette(png: bytes) -> bytes:
    """Returns a PNG with 256 colours, which look the same in a figure and take a third."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        palette = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        palette.save(small, "png", optimize=True)
    return min(png, small.getvalue(), key=len)
