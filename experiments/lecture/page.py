"""The lecture as one HTML page: statements, figures, numbers and verdicts, nothing from outside.

The page is a pure function of the result folders: what it says of a number is read from a
``metrics.json``, and the figures are embedded, so that the file can be put anywhere.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jinja2
from PIL import Image

from experiments.common.errors import visible
from experiments.common.results.claims import Claim, shown
from experiments.common.results.over_seeds import Metrics
from jaxae._version import __version__

SYMBOLS = {"reproduced": "✓", "corrected": "≈", "not reproduced": "✗"}

_Described: TypeAlias = dict[str, Any]  # values by their names in the template


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


def describe(sections: Sequence[Section]) -> list[_Described]:
    """Returns the sections as the template needs them, read from their result folders."""
    return [_describe_section(section) for section in sections]


def outcome(part: _Described) -> Metrics:
    """Returns the error and the verdicts of one described part."""
    verdicts = {claim["slide"]: claim["verdict"] for claim in part["claims"]}
    return {"error": part["error"], "verdicts": verdicts}


def render(parts: Sequence[_Described], *, title: str, command: str, is_quick: bool) -> str:
    """Returns the page of some described parts as HTML text."""
    verdicts = Counter(claim["verdict"] for part in parts for claim in part["claims"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    html = environment.get_template("page.html.jinja").render(
        title=title,
        command=command,
        is_quick=is_quick,
        version=__version__,
        symbols=SYMBOLS,
        counts={verdict: verdicts[verdict] for verdict in SYMBOLS},
        failed=sum(bool(part["error"]) for part in parts),
        parts=parts,
    )
    return "\n".join(visible(line) for line in html.split("\n"))


def _describe_section(section: Section) -> _Described:
    """Returns what the template needs; results that cannot be read are an error of the section."""
    result: _Described = {
        "name": section.name,
        "title": section.title,
        "command": section.command,
    }
    result |= {"claims": [], "facts": "", "settings": "", "error": section.error}
    if section.folder is None:
        return result
    try:
        metrics = json.loads((section.folder / "metrics.json").read_text(encoding="utf-8"))
        config = json.loads((section.folder / "config.json").read_text(encoding="utf-8"))
        rows = [
            _shown_claim(f"{section.name}-{number}", claim, section.folder)
            for number, claim in enumerate(section.claims(metrics), start=1)
        ]
        facts = _facts(metrics, config)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        return result | {"error": f"the results in {section.folder.name} cannot be read: {reason}"}
    return result | {"claims": rows, "facts": facts, "settings": json.dumps(config, indent=2)}


def _shown_claim(anchor: str, claim: Claim, folder: Path) -> _Described:
    pictures = {claim.figure: claim.alt, **claim.more}
    return {
        **claim._asdict(),
        "anchor": anchor,
        "pictures": [_embedded(folder / name, alt) for name, alt in pictures.items()],
        "numbers": [
            {
                "label": label,
                "shown": shown(number),
                "seeds": len(number["values"]),
                "unit": number["unit"],
            }
            for label, number in claim.numbers.items()
        ],
    }


def _embedded(path: Path, alt: str) -> _Described:
    """Returns a picture as a data URI, with its size so that the page does not jump."""
    with Image.open(path) as image:
        width, height = image.size
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    uri = f"data:image/{path.suffix[1:]};base64,{data}"
    return {"image": uri, "alt": alt, "width": width, "height": height}


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
