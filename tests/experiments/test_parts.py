"""The parts of the experiments: all of them have the functions of the interface."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from experiments.common.run import parts

FOLDER = Path(parts.__file__).parents[2]
FUNCTIONS = ("measure", "draw", "claims")


def parts_of_experiments():
    """Returns the parts of all experiments."""
    found = []
    for path in sorted(FOLDER.glob("*/__init__.py")):
        if "\nPARTS: tuple[" in path.read_text(encoding="utf-8"):
            found += importlib.import_module(f"experiments.{path.parent.name}").PARTS
    return found


ALL = parts_of_experiments()


def signature(function):
    """Returns names and types of the arguments, and the type of the result."""
    found = inspect.signature(function)
    arguments = [(p.name, p.annotation) for p in found.parameters.values() if p.name != "self"]
    return [one if one[0] != "trained" else ("trained", None) for one in arguments], (
        found.return_annotation
    )


@pytest.mark.parametrize("part", ALL, ids=lambda part: part.__name__.removeprefix("experiments."))
def test_every_part_has_the_functions_of_the_interface(part):
    for name in FUNCTIONS:
        wanted = getattr(parts.LecturePart, name)
        if name == "claims" and not hasattr(part, name):
            package = importlib.import_module(part.__name__.rpartition(".")[0])
            assert not hasattr(package, name), "an experiment of the lecture has claims"
        else:
            assert signature(getattr(part, name)) == signature(wanted), name
            assert getattr(part, name).__doc__, name


def test_every_file_with_such_a_function_is_a_part():
    known = {part.__name__ for part in ALL}
    folders = {part.__name__.split(".")[1] for part in ALL}
    for path in FOLDER.glob("*/*.py"):
        functions = {
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        if path.parent.name in folders and path.stem != "__init__" and functions & {*FUNCTIONS}:
            assert f"experiments.{path.parent.name}.{path.stem}" in known, path
    assert len(known) > 20


def test_the_numbers_of_parts_are_merged_and_never_replaced():
    found = {"a": 1, "methods": {"AE": {"x": 1}}}
    merged = parts.merge(found, {"b": 2, "methods": {"AE": {"y": 2}, "CAE": {}}})
    assert merged == {"a": 1, "b": 2, "methods": {"AE": {"x": 1, "y": 2}, "CAE": {}}}
    assert found == {"a": 1, "methods": {"AE": {"x": 1}}}
    with pytest.raises(ValueError, match="two parts measure 'x'"):
        parts.merge(found, {"methods": {"AE": {"x": 1}}})


def test_a_part_sees_the_numbers_of_those_before_it():
    class First:
        def measure(self, run, trained, found):
            return {"first": trained}

    class Second:
        def measure(self, run, trained, found):
            return {"second": found["first"] + found["known"]}

    found = parts.measure([First(), Second()], None, 2, {"known": 3})
    assert found == {"known": 3, "first": 2, "second": 5}


def test_what_is_written_knows_nothing_of_who_writes_it():
    for path in (FOLDER / "common" / "results").glob("*.py"):
        assert "experiments.common.run" not in path.read_text(encoding="utf-8"), path
