"""CONTRIBUTING.md: its steps to add a figure are followed, in a copy of the experiments."""

import ast
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## How to add a figure to an experiment\n")[2].partition("\n## ")[0]
STEPS = re.split(r"^\d+\. ", SECTION, flags=re.MULTILINE)[1:]
OPTIONS = ["--epochs", "1", "--num-seeds", "1", "--code-dim", "4", "--top-k", "2"]
OPTIONS += ["--sparsity-weights", "0", "0.1", "--batch-size", "400"]
# The experiment, as its command runs it, and then the lecture's page of it.
RUN = """
import sys
from pathlib import Path
from experiments import sparse
from experiments.common.run import command_line
from experiments.lecture import page
out = Path("out")
status = command_line.run(sparse.main, sparse.Config, [*sys.argv[1:], "--out", str(out)])
if status == 0:
    parts = page.describe([page.Section("sparse", "Sparse", "command", out, sparse.claims)])
    html = page.render(parts, title="Title", command="command", is_quick=True)
    Path("index.html").write_text(html, encoding="utf-8")
sys.exit(status)
"""


def code(step, language="python"):
    """Returns the only block of code of a step."""
    (block,) = re.findall(rf"^   ```{language}\n(.*?)^   ```", step, re.DOTALL | re.MULTILINE)
    return textwrap.dedent(block)


def described(statement):
    """Returns what a statement imports from, or assigns to, and None for others."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module
    return ast.unparse(statement.target) if isinstance(statement, ast.AnnAssign) else None


def replaced(source, block):
    """Returns a source in which the statements of a block stand in place of its own."""
    for new in ast.parse(block).body:
        (old,) = [one for one in ast.parse(source).body if described(one) == described(new)]
        lines = source.splitlines()
        lines[old.lineno - 1 : old.end_lineno] = ast.get_source_segment(block, new).splitlines()
        source = "\n".join(lines) + "\n"
    return source


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy of the experiments in which steps 1 to 3 are followed; its folder."""
    folder = tmp_path_factory.mktemp("contributing")
    nothing_made = shutil.ignore_patterns("__pycache__", "*.png", "*.gif")
    for name in ("experiments", "jaxae"):
        shutil.copytree(ROOT / name, folder / name, ignore=nothing_made)
    (path,) = re.findall(r"`(experiments/sparse/\w+\.py)`", STEPS[0].partition("```")[0])[:1]
    (folder / path).write_text(code(STEPS[0]), encoding="utf-8")
    experiment = folder / "experiments" / "sparse" / "__init__.py"
    changed = replaced(experiment.read_text(encoding="utf-8"), code(STEPS[1]))
    experiment.write_text(changed, encoding="utf-8")
    images = np.random.default_rng(0).uniform(size=(1000, 4, 4)).astype(np.float32)
    np.save(folder / "x.npy", images)
    command = [sys.executable, "-c", RUN, "--dataset", "x.npy", *OPTIONS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.thorough
def test_the_figure_and_its_numbers_are_there(followed):
    assert (followed / "out" / "unit_use.png").stat().st_size > 5000
    metrics = json.loads((followed / "out" / "metrics.json").read_text())
    for numbers in metrics["unit_use"].values():
        shares = [number["mean"] for number in numbers]
        assert len(shares) == 4
        assert shares == sorted(shares, reverse=True)
        assert all(0 <= share <= 1 for share in shares)


@pytest.mark.thorough
def test_the_claim_is_on_the_page_with_its_figure(followed):
    html = (followed / "index.html").read_text(encoding="utf-8")
    assert "With the L1 norm every unit is off for most inputs." in html
    assert "Two falling curves, the share of the test images" in html
    assert "use of the most used unit, sparse" in html


def test_the_command_and_the_tests_that_it_names_exist():
    (line,) = code(STEPS[2], "bash").splitlines()
    assert line.startswith("python -m experiments.sparse ")
    for path in re.findall(r"tests/\S+\.py", PAGE):
        assert (ROOT / path.rstrip("`")).is_file(), path


def test_the_code_reads_like_the_code_of_the_project(tmp_path):
    for step in STEPS[:2]:
        (tmp_path / "code.py").write_text(code(step), encoding="utf-8")
        formatted = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100"]
        done = subprocess.run([*formatted, tmp_path / "code.py"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
