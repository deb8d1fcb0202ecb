"""The wheel of this checkout: it holds the whole library and nothing else, and it can be used."""

import json
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import jaxae

ROOT = Path(__file__).parent.parent
# What a build needs, and the other packages of this checkout, which must stay out of the wheel.
COPIED_FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
COPIED_FOLDERS = ("jaxae", "experiments", "tests")

# Prints which names jaxae lacks and where its modules lie, as JSON. It is run isolated (-I): only
# the installed packages and the given folder can be imported, and not the current folder.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
folder, names = sys.argv[1], sys.argv[2:]
sys.path.insert(0, folder)
import jaxae
found = pkgutil.walk_packages(jaxae.__path__, "jaxae.")
modules = [jaxae, *(importlib.import_module(module.name) for module in found)]
missing = [name for name in names if not hasattr(jaxae, name)]
print(json.dumps({"missing": missing, "files": [module.__file__ for module in modules]}))
"""


def require_build_backend():
    """Skips the test where pip or the setuptools that ``pyproject.toml`` asks for is missing."""
    pytest.importorskip("pip", reason="this environment has no pip")
    setuptools = Requirement("setuptools>=77")
    assert str(setuptools) in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    try:
        version = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        pytest.skip("this environment has no setuptools")
    if version not in setuptools.specifier:
        pytest.skip(f"a wheel needs {setuptools}, and this environment has {version}")


def pip(*arguments):
    """Runs pip, which must ask no index."""
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--quiet"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def build_wheel(folder):
    """Returns the wheel, built in ``folder`` from a copy: a build writes into its source folder."""
    source = folder / "source"
    source.mkdir()
    for name in COPIED_FILES:
        shutil.copy(ROOT / name, source)
    for name in COPIED_FOLDERS:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    pip("wheel", str(source), "--no-build-isolation", "--wheel-dir", str(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel


def import_all(folder):
    """Returns what ``IMPORT_ALL`` finds in the library that is installed in ``folder``."""
    command = [sys.executable, "-I", "-c", IMPORT_ALL, str(folder), *jaxae.__all__]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.thorough
def test_the_wheel_holds_the_library_alone_and_all_of_it_can_be_imported(tmp_path):
    require_build_backend()
    wheel = build_wheel(tmp_path)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "jaxae").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {*modules, "jaxae/py.typed"}

    folder = tmp_path / "installed"
    pip("install", str(wheel), "--no-compile", "--target", str(folder))
    found = import_all(folder)
    assert found["missing"] == []
    assert {Path(file).relative_to(folder).as_posix() for file in found["files"]} == modules
