"""Who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "jaxae").glob("*.py"))

# A module may import those of the lower rows only.
ROWS = [
    {"_version", "_advice", "_batch_layers"},
    {"_remedies"},
    {"_checks", "_batching", "_products", "_contexts"},
    {"_draws", "_data", "_derivatives", "_optimizers", "_line_search"},
    {"_objective"},
    {
        "corruption",
        "generator",
        "reconstruction",
        "sparsity",
        "score",
        "linear",
        "projection",
        "selection",
        "_structure",
        "sharding",
    },
    {"_orders"},
    {"contraction", "metrics", "distributions", "models", "training"},
    {"objectives", "denoising", "snapshots", "streams", "_program", "second_order"},
    {"_hosts", "_reader", "evaluation"},
    {"_driver"},
    {"runs"},
    {"__init__"},
]
MODELS_AND_TRAINING_KNOW = {
    "_advice",
    "_checks",
    "_batching",
    "_data",
    "_optimizers",
    "generator",
    "sharding",
}
ALLOWED_PACKAGES = {"jax", "flax", "optax", "jaxtyping", "numpy", "jaxae"}


def imported(path):
    """Returns the dotted names that a file imports anywhere."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def rank(module):
    return next(i for i, row in enumerate(ROWS) if module in row)


def siblings(path):
    parts = [name.split(".") for name in imported(path) if name.startswith("jaxae.")]
    return {part[1] for part in parts}


def test_every_module_has_a_row():
    assert {path.stem for path in LIBRARY} == set().union(*ROWS)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_imports_point_downwards(path):
    for other in siblings(path):
        assert rank(other) < rank(path.stem), f"{path.stem} imports {other}"


@pytest.mark.parametrize("name", ["models", "training"])
def test_models_and_training_know_no_loss(name):
    assert siblings(ROOT / "jaxae" / f"{name}.py") <= MODELS_AND_TRAINING_KNOW


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_imports_only_its_hard_dependencies(path):
    packages = {name.split(".")[0] for name in imported(path)}
    allowed = ALLOWED_PACKAGES | {
        "collections",
        "contextlib",
        "dataclasses",
        "functools",
        "inspect",
        "itertools",
        "math",
        "numbers",
        "operator",
        "re",
        "warnings",
        "typing",
    }
    on_the_host = {"_driver", "_program", "runs", "_reader", "_contexts"}
    host = {"concurrent", "os", "threading", "time"}
    host = host if path.stem in on_the_host else set()
    assert packages <= allowed | host


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_does_no_io(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    assert not names & {"open", "print", "input", "exec", "eval"}


def test_only_the_input_of_experiments_uses_tfds_and_only_plots_use_matplotlib():
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        names = imported(path)
        if path.stem != "tfds_source":
            assert not any(name.startswith("tensorflow_datasets") for name in names), path
        if path.parent.name != "plots":
            assert not any(name.startswith("matplotlib") for name in names), path
        assert not any(name.startswith("tests") for name in names), path
