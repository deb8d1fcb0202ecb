"""The widgets of the lecture's page, with which a reader tries the networks of this very run.

The way of the data, from the training to the screen:

1. When an experiment has its numbers, it keeps the few networks that its widget needs in one file
   of its result folder, ``networks.safetensors``, in half precision, with a test image of each
   class (``ExperimentRun.keep_networks`` and ``experiments.common.results.networks_file``).
2. :func:`sections` reads these files, and puts the arrays of each as base64 into a block of JSON
   inside the HTML of its widget, with the words of the script in the language of the page. Where a
   file is missing, the page has no such widget.
3. ``play.js`` finds the blocks when the page is opened, and computes with the networks what it
   draws: encoders, decoders, fields and noise, in double precision. It asks for nothing from
   outside, and what it shows it also leaves as numbers in the property ``shown`` of the widget's
   element, which the tests compare with JAX.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import jinja2
from markupsafe import Markup

from experiments.common.data import noises
from experiments.common.errors import InputError
from experiments.common.files.atomic import JsonObject
from experiments.common.results import networks_file
from experiments.common.results.claims import Sentence
from experiments.common.results.networks_file import NetworksFile
from experiments.lecture.languages import ENGLISH, Language

_FOLDER = Path(__file__).parent
_DIRECTIONS = ("shift down", "shift right", "rotation", "noise")
# What a reader sees of a choice, where its name in the file would tell too little.
_WORDS = {
    "AE": "No regulariser",
    "sparse": "Sparse",
    "DAE": "Denoising",
    "CAE": "Contractive",
    "relu": "relu units",
    "linear": "linear units",
}
_OF_CLASS, _OF_NUMBER = "test image of class {label}", "test image {number}"
_PENALTY, _NO_PENALTY = "lambda {weight}", "no penalty"
_TOO_LARGE = "The networks of this run are too large for a page."


class Widget(NamedTuple):
    """One widget of the page.

    Attributes:
      name: its anchor; it stays the same.
      title: its headline, in the language of the page.
      part: name of the experiment under which it stands.
      html: what stands below the headline.
    """

    name: str
    title: str
    part: str
    html: Markup


class _Kind(NamedTuple):
    """A kind of widget: its words, and the function of the script that makes it work.

    Attributes:
      name: its anchor.
      title: its headline.
      function: the function of ``play.js`` that fills it.
      how: what can be done with it, and what is seen.
      instead: which figure shows the same without a script.
    """

    name: str
    title: str
    function: str
    how: str
    instead: str


_KINDS = {
    "overcomplete_copy": _Kind(
        "copy-or-learn",
        "Try it: does the network copy, or has it learned?",
        "copy",
        "The code of every network is larger than its input. Feed them a test image, the same "
        "image with its pixels shuffled, or a drawing of your own. A network that copies returns "
        "everything unchanged; one that has learned about the data changes what is unlike them.",
        "The figure of reconstructions above shows the same for fixed inputs.",
    ),
    "sparse": _Kind(
        "sparse-code",
        "Try it: which units fire for your image?",
        "sparse",
        "Pick a test image or draw one. Below are the units that fire for it, the strongest "
        "first, each with its filter. Switch units off and see what the reconstruction loses.",
        "The figures of activations and filters above show the same for fixed inputs.",
    ),
    "denoising": _Kind(
        "denoise-it-yourself",
        "Try it: denoise it yourself",
        "denoise",
        "Pick a test image or draw one, add noise, and choose a network by the numbers in its "
        "code. Beside the denoised image is that of the best linear map of the same rank.",
        "The figure of denoised images above shows the same for fixed inputs.",
    ),
    "vector_field": _Kind(
        "follow-the-field",
        "Try it: follow the field home",
        "field",
        "Click into the plane, or move the cross with the arrow keys and press Enter. The point "
        "walks home along the learned field and along the exact one. The grey circle is that of "
        "equally probable corruptions of the point in its centre, two standard deviations away; "
        "the short lines show where the network moves them.",
        "The animations and the figures of arrows above show the same for fixed points.",
    ),
    "contractive": _Kind(
        "contract-it",
        "Try it: contract the code",
        "contract",
        "Raise lambda and see what the code keeps. The image is pushed along directions in which "
        "images vary, shifts and a rotation, and along noise. The bars are the singular values of "
        "the encoder's Jacobian: how far the code moves along each main direction of the input.",
        "The figures of singular values and of tangents above show the same for all test images.",
    ),
}


def sections(
    folders: Mapping[str, Path],
    language: Language = ENGLISH,
    *,
    say: Callable[[str], object] = lambda _: None,
) -> list[Widget]:
    """Returns the widgets of some experiments, in the order of the slides.

    Args:
      folders: result folders by the name of the experiment; one without networks, as the results
        in this repository are, gets no widget.
      language: of every word.
      say: is told of each experiment that gets none.
    """
    widgets = []
    for part, kind in _KINDS.items():
        if part in folders:
            try:
                found = networks_file.read(folders[part])
            except InputError as error:
                say(f"{part} cannot be tried on the page: {error}")
            else:
                widgets.append(_make_widget(part, kind, found, language))
    return widgets


def _make_widget(part: str, kind: _Kind, found: NetworksFile, language: Language) -> Widget:
    choices = _choices(found, language)
    html = _template("widget.html.jinja").render(
        **choices,
        kind=kind,
        data=Markup(encode(found, language)),
        missing="" if choices["names"] else _TOO_LARGE,
        say=language.say,
    )
    return Widget(kind.name, language.say(kind.title), part, Markup(html))


def _choices(found: NetworksFile, language: Language) -> JsonObject:
    """Returns the choices of the reader, by their names in the template."""
    networks = [network for network in found.about["networks"] if "rank" not in network]

    def in_words(names: Iterable[str]) -> dict[str, str]:
        return {name: language.say(_WORDS.get(name, name)) for name in names}

    def distinct(key: str) -> dict[str, str]:
        return in_words(network[key] for network in networks if key in network)

    labels = found.about.get("labels")
    count = len(found.arrays.get("examples", ()))
    return {
        "names": [network["name"] for network in networks],
        "examples": [
            language.say(
                Sentence(_OF_CLASS, {"label": str(labels[i])})
                if labels
                else Sentence(_OF_NUMBER, {"number": str(i + 1)})
            )
            for i in range(count)
        ],
        "densities": distinct("density"),
        "codes": distinct("code_activation"),
        "methods": distinct("method"),
        "penalties": {
            network["name"]: language.say(
                Sentence(_PENALTY, {"weight": f"{network['weight']:g}"})
                if network["weight"]
                else _NO_PENALTY
            )
            for network in networks
            if "weight" in network
        },
        "noises": in_words(_noises(found.about.get("corruption", ""))),
        "directions": in_words(_DIRECTIONS),
    }


def _noises(trained_with: str) -> list[str]:
    """Returns the kinds of noise, that of the training first."""
    return sorted(get_args(noises.Name), key=lambda kind: kind != trained_with)


def encode(found: NetworksFile, language: Language = ENGLISH) -> str:
    """Returns networks as text that can stand in a block of JSON inside a page.

    With them go the translations of those texts that the script contains as literals.
    """
    words = {
        english: translation
        for english, translation in language.catalogue.items()
        if json.dumps(english) in script()
    }
    arrays = {
        name: {
            "shape": array.shape,
            "dtype": array.dtype.name,
            "base64": base64.b64encode(array.tobytes()).decode("ascii"),
        }
        for name, array in found.arrays.items()
    }
    text = json.dumps({"about": found.about, "words": words, "arrays": arrays})
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def script() -> Markup:
    """Returns the script of all widgets; a page has it between its tags without a change."""
    return Markup((_FOLDER / "play.js").read_text(encoding="utf-8"))


@cache
def style() -> Markup:
    """Returns the style sheet of all widgets."""
    return Markup((_FOLDER / "play.css").read_text(encoding="utf-8"))


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)
