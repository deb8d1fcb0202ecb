"""Settings of the documentation site.

    python -m sphinx -W --keep-going -b html docs docs/_build

The pages are read on GitHub as well, so they are plain Markdown as far as possible. What the site
adds is done here: mathematics as MathML, which browsers draw without a script and without the
network, and links from every public name to its entry in the reference.
"""

import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

import jaxae

project = "jaxae"
author = "The jaxae authors"
copyright = f"2026, {author}"
version = release = jaxae.__version__

extensions = [
    "myst_nb",  # Markdown, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
# Of a notebook what was made from its Markdown is shown.
exclude_patterns = ["_build", "jupyter_execute", "notebooks/*.md"]
nitpicky = True  # a reference in a docstring that leads nowhere is a warning
nitpick_ignore_regex = [("py:.*", r"(?!jaxae).*")]  # names of other libraries have no page here

html_theme = "furo"
html_title = f"jaxae {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "monokai"

# The docstrings say shape, dtype and unit of each argument; types in the signature repeat them.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields as a list, where the docstring of the class describes them

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # their outputs are committed: docs/notebooks/make.py
nb_merge_streams = True

LOGGER = logging.getLogger(__name__)


def draw_math(node: nodes.Element, *, as_block: bool) -> str:
    """Returns a formula as MathML; one that docutils cannot read is a warning."""
    try:
        formula = re.sub(r"\\dots\b", r"\\ldots", node.astext())  # docutils does not know \dots
        return tex2mathml(formula, as_block=as_block)
    except MathError as error:
        LOGGER.warning("formula %s: %s", node.astext(), error, location=node)
        return node.astext()


def visit_math(translator, node: nodes.math) -> None:
    """Writes a formula within a line."""
    translator.body.append(draw_math(node, as_block=False))
    raise nodes.SkipNode


def visit_math_block(translator, node: nodes.math_block) -> None:
    """Writes a formula on a line of its own."""
    translator.body.append(f'<div class="math">{draw_math(node, as_block=True)}</div>')
    raise nodes.SkipNode


def link_public_names(app: Sphinx, doctree: nodes.document) -> None:
    """Makes `masking_noise`, `jaxae.fit` and `fit(run, ...)` links to the entry of that name."""
    for literal in list(doctree.findall(nodes.literal)):
        name = re.fullmatch(r"(?:jaxae\.)?(\w+)(?:\(.*\))?", literal.astext(), re.DOTALL)
        is_free = not isinstance(literal.parent, nodes.reference | addnodes.pending_xref)
        if name and name[1] in jaxae.__all__ and is_free:
            target = {"refdomain": "py", "reftype": "obj", "reftarget": f"jaxae.{name[1]}"}
            link = addnodes.pending_xref("", refdoc=app.env.docname, refexplicit=True, **target)
            literal.replace_self(link)
            link += literal


def keep_text_of_folders(app: Sphinx, doctree: nodes.document) -> None:
    """Makes links to folders of the repository their text: the site holds files alone."""
    here = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link["reftype"] == "myst" and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def skip_fields(app: Sphinx, what: str, name: str, value, skip: bool, options) -> bool | None:
    """Keeps the methods of this library: the docstring of a class describes its fields."""
    module = getattr(value, "__module__", None) or ""
    is_method = inspect.isroutine(value) and module.startswith("jaxae")
    return None if is_method and name != "setup" else True


def shorten_signature(app: Sphinx, what: str, name: str, value, options, signature, returns):
    """Writes "..." for defaults that have no short text, and hides what Flax adds to a model."""
    signature = re.sub(r"=<.*?>(?=, \w+=|\))", "=...", signature or "")
    return signature.replace(", parent=..., name=None", ""), returns


def setup(app: Sphinx) -> None:
    """Registers the functions of this file."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("doctree-read", link_public_names)
    app.connect("doctree-read", keep_text_of_folders)
