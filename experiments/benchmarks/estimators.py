"""Codes of the estimators of ``jaxae.sklearn`` as features of a classifier, beside those of PCA.

    python -m experiments.benchmarks.estimators

A pipeline of StandardScaler, reduction and LogisticRegression, cross-validated in five folds on two
tables that come with scikit-learn; each seed has its own folds, the same for all contenders, and
its own initial parameters. All settings are the defaults, nothing is searched for. About five
minutes on two cores. Expected: no estimator better than PCA beyond the spread over the seeds, the
table of docs/guides/sklearn.md, from ``results/estimators-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.estimators"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from sklearn.base import TransformerMixin
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.benchmarks import common
from experiments.common.results import environment
from experiments.common.results.over_seeds import over_seeds
from experiments.common.run import command_line
from jaxae.sklearn import ContractiveAutoencoder, DenoisingAutoencoder, SparseAutoencoder

TABLES = {"load_digits": (load_digits, 16), "load_breast_cancer": (load_breast_cancer, 8)}
NO_REDUCTION = "all features"
FOLDS = 5


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    num_seeds: int = 5
    """How many seeds; the table has mean and standard deviation over them."""
    out: Path | None = None
    """Folder for the result file, by default results/benchmarks/estimators."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A trial: two passes over each table."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        command_line.require_integer("--num-seeds", self.num_seeds, low=1)


def contenders(
    components: int, seed: int, options: common.Results
) -> dict[str, TransformerMixin | str]:
    """Returns the reductions to ``components`` numbers, by name, as steps of a pipeline."""
    options = {"n_components": components, "random_state": seed, "standardize": False, **options}
    return {
        NO_REDUCTION: "passthrough",
        "PCA": PCA(components, random_state=seed),
        "DenoisingAutoencoder": DenoisingAutoencoder(**options),
        "SparseAutoencoder": SparseAutoencoder(**options),
        "ContractiveAutoencoder": ContractiveAutoencoder(**options),
    }


def cross_validate(table: str, seed: int, options: common.Results) -> dict[str, float]:
    """Returns the mean accuracy over the folds of a seed, for each contender."""
    load, components = TABLES[table]
    x, labels = load(return_X_y=True)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    accuracies = {}
    for name, reduction in contenders(components, seed, options).items():
        pipeline = make_pipeline(StandardScaler(), reduction, LogisticRegression(max_iter=5000))
        accuracies[name] = float(cross_val_score(pipeline, x, labels, cv=folds).mean())
    return accuracies


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    options = {"max_iter": 2} if config.quick else {}
    with common.record("estimators", config.out) as record:
        tables = {}
        for table, (_, components) in TABLES.items():
            rows = []
            for seed in range(config.num_seeds):
                rows.append(cross_validate(table, seed, options))
                record.log(table=table, seed=seed, **rows[-1])
            accuracy = {name: over_seeds([row[name] for row in rows], "share") for name in rows[0]}
            tables[table] = {"components": components, "accuracy": accuracy}
        return common.write_results(
            record,
            "estimators",
            scikit_learn=environment.version("scikit-learn"),
            num_seeds=config.num_seeds,
            folds=FOLDS,
            tables=tables,
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
