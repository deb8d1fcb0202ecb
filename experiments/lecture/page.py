"""The lecture as one HTML page: statements, figures, numbers and verdicts, nothing from outside.

The page is a pure function of the result folders: what it says of a number is read from a
``metrics.json``, and the figures are embedded, so that the file can be put anywhere. It is read
from the top: what to take home, and then every statement with its formula, its verdict, one plain
sentence and one figure. The rest of the evidence is folded below each statement.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from latex2mathml.converter import convert
from markupsafe import Markup, escape

from experiments.common.errors import visible
from experiments.common.results.claims import Claim, Sentence, Verdict, shown
from experiments.common.results.over_seeds import Metrics
from experiments.lecture import play
from experiments.lecture.languages import ENGLISH, Language
from experiments.lecture.pictures import Picture, embed
from experiments.lecture.play import Widget
from jaxae._version import __version__

SYMBOLS: dict[Verdict, str] = {"reproduced": "✓", "corrected": "≈", "not reproduced": "✗"}

# What a student may not know yet, in the order in which it is met.
GLOSSARY = {
    "code": "the numbers that the network makes of an input; code dimension, code size: how many "
    "there are. A unit is one of them.",
    "x, enc, dec, r": "the input, the encoder from input to code, the decoder from code to output, "
    "and both in turn: r(x) = dec(enc(x)), the reconstruction.",
    "overcomplete": "the code has more numbers than the input.",
    "loss": "what training makes as small as possible: here the squared difference between output "
    "and clean input, and sometimes a penalty.",
    "regulariser": "a change of the loss or of the input that keeps the network from only copying.",
    "AE, sparse, DAE, CAE": "an autoencoder without a regulariser; with a penalty on the sum of "
    "the code's absolute values (L1), so that most of them become 0; trained to remove noise; with "
    "a penalty on how far the code moves when the input moves.",
    "linear, relu, sigmoid": "what each code unit does to its weighted sum of the pixels: nothing; "
    "negative numbers become 0; everything is squeezed between 0 and 1.",
    "Jacobian": "the matrix of the derivatives of all code numbers by all input numbers; its "
    "squared norm is the sum of their squares.",
    "manifold": "the thin set around which the data lie, for example a curve in the plane.",
}

COVER = "denoising-more-noise"  # the statement whose picture stands on the first screen

_FOLDER = Path(__file__).parent


class Section(NamedTuple):
    """One experiment on the page.

    Attributes:
      name: name of the script.
      title: headline of its section.
      command: how to run it alone.
      folder: where its results are, or None if it failed.
      claims: from what its ``metrics.json`` holds to its rows.
      error: why it failed, or "".
    """

    name: str
    title: str
    command: str
    folder: Path | None
    claims: Callable[[Metrics], Sequence[Claim]]
    error: str = ""


class Statement(NamedTuple):
    """A claim, and its pictures.

    Attributes:
      claim: what is stated, with the evidence.
      formula: the claim's formula in MathML, or "".
      picture: the main figure.
      more: further figures.
      old_anchor: its name in the links of earlier versions.
    """

    claim: Claim
    formula: Markup
    picture: Picture
    more: Sequence[Picture]
    old_anchor: str


class DescribedSection(NamedTuple):
    """One section as it stands on the page.

    Attributes:
      name: name of the script.
      title: headline.
      command: how to run it alone.
      statements: what it says; none if it failed.
      facts: data, device and time in one line.
      settings: all settings and versions, as text.
      error: why it failed, or "".
    """

    name: str
    title: str
    command: str
    statements: Sequence[Statement] = ()
    facts: str = ""
    settings: str = ""
    error: str = ""


def describe(sections: Sequence[Section]) -> list[DescribedSection]:
    """Returns the sections as the template needs them, read from their result folders."""
    return [_read_section(section) for section in sections]


def outcome(part: DescribedSection) -> Metrics:
    """Returns the error and the verdicts of one described section."""
    verdicts = {one.claim.slide: one.claim.verdict for one in part.statements}
    return {"error": part.error, "verdicts": verdicts}


def render(
    parts: Sequence[DescribedSection],
    *,
    title: str,
    command: str,
    is_quick: bool,
    language: Language = ENGLISH,
    widgets: Sequence[Widget] = (),
) -> str:
    """Returns the page of some described sections as HTML text.

    Args:
      parts: what :func:`describe` returns.
      title: headline of the page.
      command: what has written the page.
      is_quick: whether the numbers come from a trial run and mean nothing.
      language: of everything but the details; the widgets are in it already.
      widgets: sections to play with; each stands at the end of its part.
    """
    statements = [one for part in parts for one in part.statements]
    verdicts = Counter(one.claim.verdict for one in statements)
    return _render(
        "page.html.jinja",
        scripts=[_source("page.js"), *([play.script()] if widgets else [])],
        styles=[_source("page.css"), *([play.style()] if widgets else [])],
        title=title,
        command=command,
        is_quick=is_quick,
        version=__version__,
        counts={verdict: verdicts[verdict] for verdict in SYMBOLS},
        failed=sum(bool(part.error) for part in parts),
        parts=parts,
        cover=next((one for one in statements if one.claim.anchor == COVER), None),
        take_home=_take_home(statements),
        glossary=GLOSSARY,
        widgets=widgets,
        language=language,
    )


def render_widget(widget: Widget, *, is_quick: bool = False, language: Language = ENGLISH) -> str:
    """Returns a small page with one widget, for a learning platform."""
    return _render(
        "alone.html.jinja",
        scripts=[play.script()],
        styles=[_source("page.css"), play.style()],
        title=widget.title,
        is_quick=is_quick,
        one=None,
        widget=widget,
        language=language,
    )


def render_statement(
    one: Statement, part: DescribedSection, *, is_quick: bool = False, language: Language = ENGLISH
) -> str:
    """Returns a small page with one statement of a part, for a learning platform."""
    return _render(
        "alone.html.jinja",
        scripts=[],
        styles=[_source("page.css")],
        title=language.say(one.claim.slide),
        is_quick=is_quick,
        one=one,
        part=part,
        language=language,
    )


def _render(
    template: str,
    *,
    scripts: Sequence[str],
    styles: Sequence[str],
    language: Language,
    **names: object,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["numbers"] = _with_superscripts
    html = environment.get_template(template).render(
        **names,
        language=language,
        say=language.say,
        symbols=SYMBOLS,
        shown=shown,
        scripts=[Markup(source) for source in scripts],
        styles=[Markup(source) for source in styles],
        policy=_content_security_policy(scripts),
    )
    return "\n".join(visible(line) for line in html.split("\n"))


def _source(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _content_security_policy(scripts: Sequence[str]) -> str:
    """Returns the policy under which nothing is loaded and no other script runs."""
    digests = (hashlib.sha256(source.encode()).digest() for source in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    allowed = allowed or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _take_home(statements: Sequence[Statement]) -> list[tuple[str, Sentence]]:
    """Returns the sentences of the first screen, each with the anchor of its statement."""
    return [
        (one.claim.anchor, one.claim.take_home)
        for one in statements
        if one.claim.take_home is not None
    ]


def _with_superscripts(text: str) -> Markup:
    """Returns a text in which powers of ten are typeset, such as x 10^-4."""

    def power(match: re.Match[str]) -> str:
        return f"&times; 10<sup>{match[1].replace('-', '&minus;')}</sup>"

    return Markup(re.sub(r"x 10\^(-?\d+)", power, str(escape(text))))


def _read_section(section: Section) -> DescribedSection:
    """Returns what the template needs; results that cannot be read are an error of the section."""
    part = DescribedSection(section.name, section.title, section.command, error=section.error)
    if section.folder is None:
        return part
    try:
        metrics = json.loads((section.folder / "metrics.json").read_text(encoding="utf-8"))
        config = json.loads((section.folder / "config.json").read_text(encoding="utf-8"))
        statements = [
            _with_pictures(claim, section.folder, f"{section.name}-{number}")
            for number, claim in enumerate(section.claims(metrics), start=1)
        ]
        facts = _facts(metrics, config)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        return part._replace(error=f"the results in {section.folder.name} cannot be read: {reason}")
    return part._replace(statements=statements, facts=facts, settings=json.dumps(config, indent=2))


def _with_pictures(claim: Claim, folder: Path, old_anchor: str) -> Statement:
    return Statement(
        claim,
        _typeset(claim.formula),
        embed(folder / claim.figure, claim.alt),
        [embed(folder / name, alt) for name, alt in claim.more.items()],
        old_anchor,
    )


def _typeset(formula: str) -> Markup:
    """Returns a formula in LaTeX as MathML, "" for none.

    Raises:
      ValueError: if it has a character that could end the markup; the converter lets some through.
    """
    if set(formula) & set("<>&"):
        raise ValueError(f"write \\lt and \\gt for < and >, and no &, in a formula: {formula!r}")
    return Markup(convert(formula, display="block") if formula else "")


def _facts(metrics: Metrics, config: Metrics) -> str:
    """Returns data, device and time in one line."""
    device = config["environment"]["device"]
    facts = [f"data: {metrics['dataset']}"]
    if "train_examples" in metrics:
        facts[0] += f" ({metrics['train_examples']} train, {metrics['test_examples']} test)"
    cores = f", {device['cores']} cores" if device["platform"] == "cpu" else ""
    facts.append(f"device: {device['count']} x {device['kind']}{cores}")
    facts.append(f"time: {metrics['seconds']:.0f} s")
    facts.append(f"jax {config['environment']['jax']}")
    return " · ".join(facts)
