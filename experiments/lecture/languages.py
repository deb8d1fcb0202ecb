"""The languages of the page: a catalogue of whole sentences for each, by the English sentence.

Sentences with numbers are translated before the numbers are put in. The details below a statement,
its numbers and the words inside of the figures stay English; the page says so.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from experiments.common.results.claims import Sentence

Code = Literal["en", "de"]
NO_BREAK = "\N{NO-BREAK SPACE}"  # between a number and its unit


class Language(NamedTuple):
    """A language of the page.

    Attributes:
      code: its name in HTML.
      catalogue: the translation of every English text; English has none.
      decimal_point: what stands before the decimals of a number.
    """

    code: Code
    catalogue: Mapping[str, str] = MappingProxyType({})
    decimal_point: str = "."

    def say(self, text: str | Sentence) -> str:
        """Returns an English text in this language; in English where it is not translated."""
        if isinstance(text, str):
            return self.catalogue.get(text, text)
        values = {
            name: value.replace(".", self.decimal_point).replace(" ", NO_BREAK)
            for name, value in text.values.items()
        }
        return str(Sentence(self.catalogue.get(text.template, text.template), values))


_GERMAN = json.loads((Path(__file__).parent / "german.json").read_text(encoding="utf-8"))

ENGLISH = Language("en")
LANGUAGES: Mapping[Code, Language] = {
    "en": ENGLISH,
    "de": Language("de", _GERMAN, decimal_point=","),
}
