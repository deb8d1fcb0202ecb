"""The languages of the lecture's page: every sentence is translated, and the numbers are kept."""

import ast
import json
import re
from pathlib import Path
from typing import get_args

import lecture_claims as plain
import pytest

from experiments import lecture
from experiments.common.data import densities, noises
from experiments.common.results import claims
from experiments.lecture import languages, page, play

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
TRANSLATIONS = [one for code, one in languages.LANGUAGES.items() if code != "en"]


def templates():
    """Returns every sentence with numbers that an experiment can say, whatever was measured."""
    found = set()
    for path in EXPERIMENTS.glob("**/*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "sentence":
                found |= constants(call.args[0])
    return found


def constants(expression):
    """Returns the texts that an expression can be: itself, or either case of a condition."""
    if isinstance(expression, ast.IfExp):
        return constants(expression.body) | constants(expression.orelse)
    return {ast.literal_eval(expression)}


def texts_of_claims():
    """Returns every text without numbers that the claims bring to the page."""
    found = {one.title for one in lecture.EXPERIMENTS.values()} | set(page.SYMBOLS)
    found |= {*page.GLOSSARY, *page.GLOSSARY.values()}
    for name, data in plain.COMMITTED:
        for claim in plain.claims_of(name, plain.metrics_of(name, data)):
            found |= {claim.slide, claim.source, claim.caption, claim.alt, *claim.more.values()}
    other_noise = plain.metrics_of("denoising", "digits") | {"corruption": "masking"}
    return found | {claim.caption for claim in plain.claims_of("denoising", other_noise)}


def labels():
    """Returns every text of the templates."""
    files = (EXPERIMENTS / "lecture").glob("**/*.html.jinja")
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    found = {a or b for a, b in re.findall(r"""say\((?:"([^"]*)"|'([^']*)')\)""", source)}
    assert len(found) > 20
    return found


def words_of_widgets():
    """Returns every text of the widgets that is not in their template."""
    script = set(re.findall(r'\bsay\("([^"]*)"', play.script()))
    assert len(script) > 10
    described = {
        text for kind in play._KINDS.values() for text in (kind.title, kind.how, kind.instead)
    }
    choices = {*get_args(noises.Name), *play._DIRECTIONS, *densities.ALL, *play._WORDS.values()}
    examples = {play._OF_CLASS, play._OF_NUMBER, play._PENALTY, play._NO_PENALTY}
    return script | described | choices | examples | {play._TOO_LARGE}


@pytest.mark.parametrize("language", TRANSLATIONS, ids=lambda one: one.code)
def test_every_text_is_translated_and_nothing_else(language):
    wanted = templates() | texts_of_claims() | labels() | words_of_widgets()
    wanted |= {claims.NOT_FINITE.template, lecture.TITLE}
    assert wanted == language.catalogue.keys()


@pytest.mark.parametrize("language", TRANSLATIONS, ids=lambda one: one.code)
def test_a_translation_has_the_numbers_of_the_original(language):
    for english, other in language.catalogue.items():
        names = r"\{\w+\}"
        assert sorted(re.findall(names, english)) == sorted(re.findall(names, other)), english
        assert other.endswith(".") == english.endswith("."), english


@pytest.mark.parametrize("language", TRANSLATIONS, ids=lambda one: one.code)
def test_translated_sentences_are_plain(language):
    for name, data in plain.COMMITTED:
        for claim in plain.claims_of(name, plain.metrics_of(name, data)):
            for sentence in plain.sentences_of(claim):
                plain.require_plain(language.say(sentence).replace(languages.NO_BREAK, " "))


def test_numbers_have_the_decimal_point_of_the_language():
    sentence = claims.Sentence("The code grows {times} times.", {"times": "1.5"})
    (german,) = TRANSLATIONS
    assert languages.ENGLISH.say(sentence) == "The code grows 1.5 times."
    assert german.say(sentence) == "The code grows 1,5 times.", "no translation, English stays"
    assert german.say("Contents") == "Inhalt"


def test_no_text_stands_twice_in_a_catalogue():
    def pairs(found):
        keys = [key for key, _ in found]
        assert len(set(keys)) == len(keys)
        return dict(found)

    text = (EXPERIMENTS / "lecture" / "german.json").read_text(encoding="utf-8")
    json.loads(text, object_pairs_hook=pairs)
