"""What is needed to run: files that say the same as setup.cfg, bounds, and wheels for every system.

Whether every package has a wheel takes a minute and the index of packages; uv, unlike pip, judges
the markers by the system that is asked about and not by the one it runs on:

    JAXAE_RESOLVE=1 python -m pytest -n 0 tests/test_requirements.py

promise, which TensorFlow Datasets needs, is Python alone and has no wheel: it is left out there.
"""

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SYSTEMS = ("windows", "macos", "aarch64-manylinux_2_28", "x86_64-manylinux_2_28")
PYTHONS = ("3.11", "3.12", "3.13")


def lines_of(name):
    """Returns the lines of a requirements file that name a package, in order."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def stated():
    """Returns all lines that name a package: what the experiments need, then what the tests do."""
    return [*lines_of("requirements.txt"), *lines_of("tests/requirements.txt")]


def test_requirements_and_setup_agree():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    library, experiments, test = (
        part.strip().splitlines()
        for part in (setup["options"]["install_requires"], extras["experiments"], extras["test"])
    )
    assert lines_of("requirements.txt") == [*library, *experiments, test[0]]
    assert test[0].startswith("pytest>")
    assert lines_of("tests/requirements.txt") == test[1:]


def test_the_estimators_ask_for_what_the_experiments_ask_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    wanted = setup["options.extras_require"]["sklearn"].strip().splitlines()
    assert {Requirement(line).name for line in wanted} == {"scikit-learn", "safetensors"}
    assert set(wanted) <= set(stated())


def test_every_requirement_has_a_lower_bound():
    for line in stated():
        assert any(bound.operator == ">=" for bound in Requirement(line).specifier), line


def test_array_record_is_not_asked_for_where_it_has_no_wheel():
    (marker,) = (one.marker for one in map(Requirement, stated()) if one.name == "array_record")
    systems = ("Linux", "Darwin", "Windows")
    assert [marker.evaluate({"platform_system": name}) for name in systems] == [True, True, False]


def resolve(requirements, system, python):
    """Returns how uv ends that looks for a wheel of every package, and what it says."""
    command = ["uv", "pip", "compile", "-", "--python-platform", system, "--python-version", python]
    command += ["--only-binary", ":all:", "--no-binary", "promise", "--no-header"]
    found = subprocess.run(
        command, input="\n".join(requirements), capture_output=True, text=True, check=False
    )
    return found.returncode, found.stdout + found.stderr


@pytest.mark.skipif("JAXAE_RESOLVE" not in os.environ, reason="asks the index of packages")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_package_has_a_wheel(system, python):
    assert shutil.which("uv"), "pip install uv"
    status, said = resolve(stated(), system, python)
    assert status == 0, said
    assert ("array-record==" in said) == (system != "windows")


@pytest.mark.skipif("JAXAE_RESOLVE" not in os.environ, reason="asks the index of packages")
def test_a_package_without_a_wheel_is_found():
    status, said = resolve(["array_record>=0.8,<0.9"], "windows", "3.12")
    assert status != 0
    assert "no wheels" in said
