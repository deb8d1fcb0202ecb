"""The table of the experiments: what each shows, how long it takes, and how the lecture fared."""

from collections import Counter
from collections.abc import Iterable

from experiments.common.results.claims import Claim
from experiments.lecture.page import SYMBOLS
from experiments.readme_tables import lecture
from experiments.readme_tables.markdown import RESULTS, read, table_of

TOPICS = {
    "overcomplete_copy": "an overcomplete autoencoder copies its input; what regularisers change",
    "sparse": "the L1 path, the learned features, KL and k-sparse codes, shrinkage",
    "denoising": "code dimensions from 8 to 1568, and rising noise",
    "vector_field": "the learned field around a circle, a spiral and a mixture",
    "contractive": "the trade-off over lambda, singular values, tangents, untied weights",
    "dae_vs_cae": "which function resists noise; noise of the gradients; second-order optimisers",
    "convolutional": "convolutions beside dense layers; the contractive penalty on them",
    "feature_learning": "Rifai et al. 2011: features learned without labels, then classified",
    "filters": "Vincent et al. 2010: filters against the corruption level",
    "sampling": "samples by Langevin dynamics, denoising chains, annealing and tangents",
    "dictionary": "sparse autoencoders as dictionaries: known atoms found again",
}


def experiments_table() -> str:
    """Returns the Markdown table of all experiments: topic, minutes on two data sets, verdicts."""
    found = lecture.parts()
    header = ["name", "what it shows", "minutes, digits", "MNIST", "statements"]
    rows = []
    for name, topic in TOPICS.items():
        parts = found.get(name, {})
        folder = "synthetic" if (RESULTS / name / "synthetic").is_dir() else "mnist"
        verdicts = count_verdicts(parts["mnist"].claims.values()) if "mnist" in parts else ""
        rows.append([f"`{name}`", topic, minutes(name, "digits"), minutes(name, folder), verdicts])
    return table_of(header, rows, "llrrl")


def minutes(name: str, folder: str) -> str:
    """Returns the time of a run in whole minutes, at least 1; nothing if there is no such run."""
    if not (RESULTS / name / folder).is_dir():
        return ""
    return str(max(1, round(read(name, folder, "metrics")["seconds"] / 60)))


def count_verdicts(claims: Iterable[Claim]) -> str:
    """Returns how many statements have each verdict, such as "3 ✓ 1 ≈"."""
    counts: Counter[str] = Counter(claim.verdict for claim in claims)
    return " ".join(
        f"{counts[verdict]} {mark}" for verdict, mark in SYMBOLS.items() if counts[verdict]
    )
