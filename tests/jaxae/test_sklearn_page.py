"""docs/guides/sklearn.md: its table is the committed result, and its parameters exist."""

import inspect
import json
import re
from pathlib import Path

from jaxae import sklearn as estimators

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guides" / "sklearn.md").read_text(encoding="utf-8")
RESULTS = ROOT / "experiments" / "benchmarks" / "results" / "estimators-cpu-2-cores.json"


def test_the_table_is_the_committed_result():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    tables = results["tables"]
    heads = [f"`{name}`, {tables[name]['components']} components" for name in tables]
    lines = [["reduction", *heads], ["---", *["---:"] * len(tables)]]
    for contender in next(iter(tables.values()))["accuracy"]:
        accuracies = [table["accuracy"][contender] for table in tables.values()]
        cells = [f"{100 * a['mean']:.1f} ± {100 * a['std']:.1f}" for a in accuracies]
        lines.append([contender, *cells])
    assert "\n".join(f"| {' | '.join(line)} |" for line in lines) in PAGE
    assert f"over {results['num_seeds']} seeds" in PAGE.replace("\n", " ")


def test_the_parameters_exist():
    parameters = {
        parameter
        for name in estimators.__all__
        for parameter in inspect.signature(getattr(estimators, name)).parameters
    }
    written = re.findall(r"Autoencoder\(([^)]*)\)", PAGE)
    assert written
    for arguments in written:
        assert set(re.findall(r"(\w+)=", arguments)) <= parameters
    inline = re.findall(r"`(\w+)=[^`]*`", PAGE)
    assert set(inline) <= parameters
