"""The claims of the lecture on the committed results, and what a plain sentence is."""

import json
import re

from finished_lecture import RESULTS

from experiments import lecture
from experiments.common.results.over_seeds import over_seeds

DATA_SETS = {
    name: [data for data in ("synthetic", "digits", "mnist") if (RESULTS / name / data).is_dir()]
    for name in lecture.EXPERIMENTS
}
COMMITTED = [(name, data) for name, folders in DATA_SETS.items() for data in folders]


def metrics_of(name, data):
    """Returns committed numbers; those of ``experiments.contractive --residual`` are made up."""
    metrics = json.loads((RESULTS / name / data / "metrics.json").read_text(encoding="utf-8"))
    return metrics | residual_metrics(metrics) if name == "contractive" else metrics


def residual_metrics(metrics):
    """Returns numbers of deep contractive networks as ``--residual`` measures them, made up."""

    def row(*values, **named):
        names = ("jacobian_norm", "test_nll", "test_mse", "code_variance")
        return named | {
            name: over_seeds([value], "unit") for name, value in zip(names, values, strict=True)
        }

    def penalty(name, seconds, error):
        numbers = {"seconds": seconds, "penalty_error": error, "gradient_error": error}
        return {"penalty": name} | {key: over_seeds([v], "unit") for key, v in numbers.items()}

    weight = metrics["weight"]
    scores = [row(100.0, 14.0, 0.003, 9.0, weight=0.0), row(2.0, 16.0, 0.009, 1.0, weight=weight)]
    above = {"CAE": {"values_above_1": over_seeds([1.5], "unit")}}
    estimates = [
        penalty("exact", 0.02, 0.0),
        penalty("hutchinson with 2 probes", 0.01, 0.5),
        penalty("exact, shallow network", 0.001, 0.0),
    ]
    deep = {"blocks": 2, "methods": above, "estimates": estimates}
    return {"residual": deep | {"scores": {"shallow": scores, "deep": scores}}}


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
