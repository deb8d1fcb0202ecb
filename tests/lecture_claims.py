"""The claims of the lecture on the committed results, and what a plain sentence is."""

import json
import re

from finished_lecture import RESULTS

from experiments import lecture

DATA_SETS = {
    name: ["synthetic"] if experiment.is_synthetic else ["digits", "mnist"]
    for name, experiment in lecture.EXPERIMENTS.items()
}
COMMITTED = [(name, data) for name, folders in DATA_SETS.items() for data in folders]


def metrics_of(name, data):
    return json.loads((RESULTS / name / data / "metrics.json").read_text(encoding="utf-8"))


def claims_of(name, metrics):
    return lecture.make_job(name, lecture.Config(dataset="digits"), RESULTS).module.claims(metrics)


def require_plain(text):
    """Fails if a sentence has more words, numbers or digits than a reader takes in at once."""
    words = [word for word in text.split() if re.search(r"\w", word)]
    assert len(words) <= 25, text
    numbers = re.findall(r"(?<!\w)\d+(?:[.,]\d+)?(?!\w)", text)
    assert len(numbers) <= 2, text
    assert all(sum(map(str.isdigit, number)) <= 3 for number in numbers), text
    assert text.endswith("."), text
    assert not re.search(r"[~{|^]", text), text


def sentences_of(claim):
    return [claim.plain, *([claim.take_home] if claim.take_home else [])]
