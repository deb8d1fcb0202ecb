"""What is released says one version everywhere, and the changelog says what is in it."""

import re
from pathlib import Path

from jaxae import __version__

ROOT = Path(__file__).parent.parent


def test_the_changelog_and_the_citation_have_the_version_of_the_package():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", changes, re.MULTILINE)
    released = [head for head in heads if head != "Unreleased"]
    version, day = re.fullmatch(r"(\S+) \((\d{4}-\d\d-\d\d)\)", released[0]).groups()
    assert version == __version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    assert f"\ndate-released: {day}\n" in citation


def test_the_newest_entry_of_the_changelog_comes_first():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+)\.(\d+)\.(\d+)", changes, re.MULTILINE)
    numbers = [tuple(map(int, version)) for version in versions]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == len(numbers) > 2
