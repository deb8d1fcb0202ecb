"""Who may import whom, read from the source.

A unit is a module of ``jaxae/`` itself, or one of its packages. The rules need no list of modules:
units import each other in one direction, and so do the modules of a package; a name that starts
with an underscore is used only inside the folder that it lies in.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "jaxae").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
ALLOWED_PACKAGES = {"jax", "flax", "optax", "jaxtyping", "numpy", "jaxae"}
STANDARD = {
    "__future__",
    *("collections", "contextlib", "dataclasses", "functools", "inspect", "itertools", "math"),
    *("numbers", "operator", "re", "typing", "warnings"),
}
# The estimators: they may use scikit-learn, write a file, and print what they are told to print.
ESTIMATORS = "sklearn"
# Dictionaries in the files of other projects: read and written here, and imported by nobody.
FILES = "dictionary_files"
# Which units each of these may import; what is not here is free, as long as there is no circle.
KNOWS = {
    "_checks": set(),
    "models": {"_checks"},
    "training": {"_checks", "_batching", "_convolutions", "_optax", "shuffle"},  # no loss
    "optimizers": {"_checks", "_optax", "training"},
}


def module_of(path):
    """Returns the dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in [*LIBRARY, *EXPERIMENTS]}


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


def modules_used(path):
    """Returns the modules of this project that a file imports."""
    found = set()
    for name in imported(path):
        while name not in MODULES and "." in name:
            name = name.rpartition(".")[0]
        found |= {name} & MODULES.keys()
    return found


def unit_of(module):
    return module.split(".")[1] if "." in module else ""


def units_used(unit):
    """Returns the other units of the library that a unit imports."""
    own = [path for name, path in MODULES.items() if name.startswith("jaxae.")]
    own = [path for path in own if unit_of(module_of(path)) == unit]
    used = set().union(*(modules_used(path) for path in own))
    return {unit_of(name) for name in used if name.startswith("jaxae.")} - {unit}


def test_units_import_in_one_direction():
    units = {unit_of(name) for name in MODULES if name.startswith("jaxae.")}
    graph = {unit: units_used(unit) for unit in units}
    assert len(list(TopologicalSorter(graph).static_order())) == len(units)  # a circle raises
    for unit, known in KNOWS.items():
        assert graph[unit] <= known, unit


def test_no_other_unit_imports_the_estimators():
    """Scikit-learn is an extra, so ``import jaxae`` must do without it."""
    users = {module_of(path) for path in LIBRARY if ESTIMATORS in map(unit_of, modules_used(path))}
    assert {unit_of(module) for module in users} == {ESTIMATORS}
    assert not any(FILES in map(unit_of, modules_used(path)) for path in LIBRARY)


@pytest.mark.parametrize("package", ["jaxae", "experiments"])
def test_modules_import_in_one_direction(package):
    names = [name for name in MODULES if name.partition(".")[0] == package]
    # A package imports its own modules; they name it when they import each other.
    is_above = lambda other, name: name.startswith(f"{other}.")
    graph = {
        name: {other for other in modules_used(MODULES[name]) if not is_above(other, name)}
        for name in names
    }
    list(TopologicalSorter(graph).static_order())


def test_the_rooms_that_experiments_share_import_in_one_direction():
    def rooms(modules):
        parts = (name.split(".") for name in modules)
        return {room[2] for room in parts if room[:2] == ["experiments", "common"] and room[2:]}

    graph = {}
    for name, path in MODULES.items():
        for room in rooms([name]):
            graph.setdefault(room, set()).update(rooms(modules_used(path)) - {room})
    assert {"data", "files", "plots", "results", "run", "training"} <= graph.keys()
    list(TopologicalSorter(graph).static_order())  # a circle raises


def test_matplotlib_is_imported_when_a_figure_is_drawn():
    for path in EXPERIMENTS:
        body = ast.Module(ast.parse(path.read_text()).body, [])
        tops = [node for node in body.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [getattr(node, "module", None) or node.names[0].name for node in tops]
        assert not any(name.startswith("matplotlib") for name in names), path


def test_no_experiment_imports_another():
    """What two share is in ``experiments.common``; only the tables read from the experiments."""
    for name in MODULES:
        if name.startswith("experiments.") and unit_of(name) != "readme_tables":
            allowed = {"common", unit_of(name)} if unit_of(name) != "common" else {"common"}
            used = {other for other in modules_used(MODULES[name]) if "experiments." in other}
            assert {unit_of(other) for other in used} <= allowed, name


def test_private_modules_are_used_in_their_folder_only():
    pairs = [(path, name) for path in MODULES.values() for name in modules_used(path)]
    for path, name in pairs:
        parts = name.split(".")
        private = [i for i, part in enumerate(parts) if part.startswith("_")]
        if private and name != "jaxae._version":
            folder = ".".join(parts[: private[0]])
            assert f"{module_of(path)}.".startswith(f"{folder}."), f"{path} imports {name}"


def test_the_library_imports_only_its_hard_dependencies():
    for path in LIBRARY:
        packages = {name.split(".")[0] for name in imported(path)}
        own = {
            "dictionary": {"scipy"},  # which JAX needs itself
            FILES: {"safetensors", "json", "os", "pathlib", "zipfile"},
            "training": {"concurrent", "os", "threading", "time"},
            ESTIMATORS: {"sklearn", "safetensors", "json", "os", "pathlib"},
        }.get(unit_of(module_of(path)), set())
        assert packages <= ALLOWED_PACKAGES | STANDARD | own, path


def test_the_library_does_no_io():
    for path in LIBRARY:
        allowed = {"print"} if unit_of(module_of(path)) == ESTIMATORS else set()
        nodes = ast.walk(ast.parse(path.read_text()))
        calls = [node.func for node in nodes if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"open", "print", "input", "exec", "eval"} - allowed, path


def test_only_the_input_of_experiments_uses_tfds_and_only_plots_use_matplotlib():
    for path in EXPERIMENTS:
        names = imported(path)
        if path.stem not in ("tfds_source", "tfds_prepare"):
            assert not any(name.startswith("tensorflow_datasets") for name in names), path
        if path.parent.name != "plots":
            assert not any(name.startswith("matplotlib") for name in names), path
        assert not any(name.startswith("tests") for name in names), path
