"""Runs the suite in fresh environments: every Python, newest and oldest packages.

    python tests/environments.py                   all of them; writes docs/environments.md
    python tests/environments.py --only 3.13       this version alone; writes its lines
    python tests/environments.py --newest-other    the newest besides this one, or this one where
                                                   it is alone, with the thorough tests;
                                                   writes nothing

Each environment is made from nothing in a temporary folder, from a clone of the last commit, so
what is not committed is not tested. Python 3.11 and newer are looked for on the path and among
the versions of pyenv. "newest" is what ``pip`` takes for the two requirements.txt, "oldest" are the
lower bounds in them, as ``uv`` resolves them. On two cores a run takes about ten minutes, with
the thorough tests half an hour; needs a package index.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "environments.md"
PACKAGES = ("jax", "flax", "optax", "numpy", "orbax-checkpoint", "matplotlib")
OLDEST_PYTHON = (3, 11)
HEAD = f"""# Where the tests were run

Each line is a run of the suite as the README starts it, in a fresh environment, from a fresh clone,
by `python tests/environments.py`. "newest" is what `pip` takes for the two `requirements.txt` on
that day, "oldest" the lower bounds in these files. The thorough tests run besides at every change,
in the newest Python (`.ci/run`).

| Python | packages | {" | ".join(PACKAGES)} | result | minutes | cores | day |
|---|---|{"---|" * len(PACKAGES)}---|---:|---:|---|
"""


class Python(NamedTuple):
    """An interpreter, and its version such as (3, 13)."""

    path: str
    version: tuple[int, int]


def find_pythons() -> list[Python]:
    """Returns one interpreter of each version from 3.11 on, the oldest version first."""
    places = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
        places += sorted(Path(root).glob("versions/*/bin"))
    candidates = [sys.executable]
    candidates += [str(path) for place in places for path in sorted(place.glob("python3.*"))]
    found: dict[tuple[int, int], Python] = {}
    ask = "import sys, venv, ensurepip; print(sys.version_info[0], sys.version_info[1])"
    for path in candidates:
        if not re.fullmatch(r"python(3(\.\d+)?)?(\.exe)?", Path(path).name):
            continue
        answer = subprocess.run([path, "-c", ask], capture_output=True, text=True)
        if answer.returncode == 0:  # a shim of pyenv without its version fails
            major, minor = map(int, answer.stdout.split())
            found.setdefault((major, minor), Python(path, (major, minor)))
    return [found[version] for version in sorted(found) if version >= OLDEST_PYTHON]


def newest_other(pythons: Sequence[Python]) -> Python | None:
    """Returns the newest interpreter of another version than this one, or None."""
    others = [python for python in pythons if python.version != sys.version_info[:2]]
    return others[-1] if others else None


def run_suite(python: Python, packages: str, *options: str) -> tuple[bool, str]:
    """Runs the suite in an environment of its own.

    Args:
      python: the interpreter.
      packages: "newest" or "oldest".
      *options: of pytest.

    Returns:
      Whether it passed, and its line of the table.
    """
    with tempfile.TemporaryDirectory() as folder:
        clone, environment = Path(folder, "clone"), Path(folder, "environment")
        _call("git", "clone", "--quiet", str(ROOT), str(clone))
        data = ROOT.parent / "shared"
        if data.is_dir():  # the tests look for real data beside the repository
            Path(folder, "shared").symlink_to(data)
        _call(python.path, "-m", "venv", str(environment))
        own = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
        files = []
        for name in ("requirements.txt", "tests/requirements.txt"):
            files += ["-r", str(clone / name)]
        if packages == "newest":
            _call(str(own), "-m", "pip", "install", "--quiet", *files)
        else:
            _call(str(own), "-m", "pip", "install", "--quiet", "uv")
            of_uv = ["--quiet", "--python", str(own), "--resolution", "lowest-direct"]
            _call(str(own), "-m", "uv", "pip", "install", *of_uv, *files)
        started = time.monotonic()
        suite = subprocess.run(
            [str(own), "-m", "pytest", *options], cwd=clone, text=True, stdout=subprocess.PIPE
        )
        minutes = (time.monotonic() - started) / 60
        print(suite.stdout[-6000:], flush=True)
        summary = suite.stdout.strip().rpartition("\n")[2]
        result = summary.rpartition(" in ")[0] or f"no tests ran, exit status {suite.returncode}"
        ask = "from importlib.metadata import version; import sys\n"
        ask += "print(*map(version, sys.argv[1:]))"
        versions = _call(str(own), "-c", ask, *PACKAGES).split()
        exact = _call(str(own), "-c", "import platform; print(platform.python_version())").strip()
    day = datetime.date.today().isoformat()
    last = [result, f"{minutes:.1f}", str(os.cpu_count()), f"{day}, {platform.system()}"]
    return suite.returncode == 0, f"| {' | '.join([exact, packages, *versions, *last])} |"


def _call(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def main() -> int:
    """Returns 0 if the suite passed everywhere."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--newest-other", action="store_true", help="one run, nothing is written")
    parser.add_argument("--only", metavar="3.x", help="one version; its lines are written")
    parser.add_argument("--packages", choices=("newest", "oldest"), help="of these alone")
    options = parser.parse_args()
    pythons = find_pythons()
    print("Python here:", ", ".join(f"{p.version[0]}.{p.version[1]} ({p.path})" for p in pythons))
    if options.newest_other:
        other = newest_other(pythons)
        if other is None:
            print("no other Python from 3.11 on is here")
            other = Python(sys.executable, (sys.version_info[0], sys.version_info[1]))
        print(f"the whole suite once more in Python {other.version[0]}.{other.version[1]}")
        passed, line = run_suite(other, "newest", "--thorough")
        print(line)
        return 0 if passed else 1
    runs = [(python, "newest") for python in pythons] + [(pythons[0], "oldest")]
    have_passed = True
    for python, packages in runs:
        version = ".".join(map(str, python.version))
        if options.only in (None, version) and options.packages in (None, packages):
            passed, line = run_suite(python, packages)
            have_passed &= passed
            write_line(line)
    return 0 if have_passed else 1


def write_line(line: str) -> None:
    """Writes a line into the table, in the place of the older one of its Python and packages."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    lines = [old for old in text.splitlines() if old.startswith("| 3.")] + [line]
    places = {}
    for one in lines:
        exact, packages = (cell.strip() for cell in one.split("|")[1:3])
        places[packages, tuple(map(int, exact.split(".")[:2]))] = one
    table = "\n".join(places[place] for place in sorted(places))
    PAGE.write_text(f"{HEAD}{table}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
