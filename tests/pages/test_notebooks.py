"""The notebooks: they are made from the Markdown and run; the laboratory sheet finds mistakes."""

import subprocess
import sys

import jax
import pytest
from jax_settings import as_on_the_command_line
from optional_libraries import require_nnx

for package in ("jupytext", "nbclient", "ipykernel"):
    pytest.importorskip(package)
nbformat = pytest.importorskip("nbformat")
make = pytest.importorskip("docs.notebooks.make")

MADE = [name for source in make.find_sources() for name in make.notebooks_of(source)]
MOST_BYTES = 300_000


def read_committed(name):
    return nbformat.read(make.HERE / f"{name}.ipynb", as_version=4)


def source_cells(notebook):
    """Returns kind, text and tags of each cell: all that the Markdown decides."""
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def outputs_of(notebook):
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output for cell in cells for output in cell.outputs]


@pytest.mark.parametrize("source", make.find_sources())
def test_the_committed_notebooks_have_the_cells_of_the_markdown(source):
    for name, notebook in make.notebooks_of(source).items():
        found = source_cells(read_committed(name))
        assert found == source_cells(notebook), "run python docs/notebooks/make.py"


def test_every_committed_notebook_has_its_markdown():
    assert {path.stem for path in make.HERE.glob("*.ipynb")} == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_a_committed_notebook_was_run_and_is_small(name):
    assert (make.HERE / f"{name}.ipynb").stat().st_size < MOST_BYTES
    outputs = outputs_of(read_committed(name))
    kinds = {output.get("name", output.output_type) for output in outputs}
    expected = set() if name == "lab_sheet" else {"stdout", "display_data"}
    assert kinds - {"execute_result"} == expected  # neither errors nor warnings


@pytest.mark.parametrize("name", MADE)
def test_a_notebook_begins_with_the_cell_that_installs_what_is_missing(name):
    first, *others = (cell for cell in read_committed(name).cells if cell.cell_type == "code")
    reference = (cell for cell in read_committed(MADE[0]).cells if cell.cell_type == "code")
    assert first.source == next(reference).source
    assert "%pip install" in first.source
    assert not any("/tmp" in cell.source or "/home" in cell.source for cell in others)


@pytest.mark.thorough
@pytest.mark.parametrize("source", make.find_sources())
def test_a_notebook_runs(source, tmp_path, monkeypatch):
    if source == "three_libraries":
        pytest.importorskip("equinox")
        require_nnx()
    else:  # they compute more than they compile
        monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    command = [sys.executable, make.__file__, source, "--folder", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for name in make.notebooks_of(source):
        made = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
        assert source_cells(made) == source_cells(read_committed(name))
        pictures = [
            sum("image/png" in output.get("data", {}) for output in outputs_of(notebook))
            for notebook in (made, read_committed(name))
        ]
        assert pictures[0] == pictures[1]


def code_with_tag(notebook, tag=None):
    """Returns the code cells that have a tag, or all of them."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if tag in (None, *cell.metadata.get("tags", []))]


GAPS = ("mask", "penalty", "keep_largest")
CHECKS = dict(zip(GAPS, code_with_tag(make.notebooks_of("lab")["lab_sheet"], "check"), strict=True))


@pytest.fixture(scope="module")
def solution():
    """Returns the names that the solution defines, before anything is checked or trained."""
    notebook = make.notebooks_of("lab")["lab_solution"]
    _install, *cells, _train = code_with_tag(notebook)
    names = {}
    with jax.enable_x64(True):
        for code in cells:
            if code not in code_with_tag(notebook, "check"):
                exec(code.replace('jax.config.update("jax_enable_x64", True)', ""), names)
    return names


@pytest.fixture
def lab(solution, no_type_hook):
    """Gives a copy of these names, and the settings of a student."""
    with as_on_the_command_line(), jax.enable_x64(True):
        yield dict(solution)


@pytest.mark.thorough(by_default=["penalty"])
@pytest.mark.parametrize("gap", GAPS)
def test_the_solution_of_the_laboratory_sheet_is_right(lab, gap, capsys):
    exec(CHECKS[gap], lab)
    assert capsys.readouterr().out.splitlines()[-1].startswith("right:")


@pytest.mark.parametrize("gap", GAPS)
def test_the_sheet_has_a_gap_instead_of_the_solution(lab, gap):
    stubs = code_with_tag(make.notebooks_of("lab")["lab_sheet"], "sheet")
    exec(stubs[GAPS.index(gap)], lab)
    with pytest.raises(NotImplementedError):
        exec(CHECKS[gap], lab)


# Each defines one function of the sheet, as a student might.
WRONG = {
    "divided as dropout does": """
def mask(key, x, rate):
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)
""",
    "the rate is that of the entries that stay": """
def mask(key, x, rate):
    return jnp.where(jax.random.bernoulli(key, rate, x.shape), x, 0)
""",
    "a key of its own": """
def mask(key, x, rate):
    return jnp.where(jax.random.bernoulli(jax.random.key(7), 1 - rate, x.shape), x, 0)
""",
    "the derivative of the sigmoid is not squared": """
def penalty(params, x_i):
    code = encode(params, x_i)
    return (code * (1 - code)) @ jnp.square(params["w"]).sum(axis=0)
""",
    "the norm is not squared": """
def penalty(params, x_i):
    return jnp.linalg.norm(jax.jacobian(partial(encode, params))(x_i))
""",
    "no gradient": """
def penalty(params, x_i):
    jacobian = jax.jacobian(partial(encode, params))(x_i)
    return jax.lax.stop_gradient(jnp.square(jacobian).sum())
""",
    "the largest magnitudes": """
def keep_largest(code, k):
    return jnp.where(jnp.abs(code) >= jax.lax.top_k(jnp.abs(code), k)[0][-1], code, 0)
""",
    "negative entries are lost": """
def keep_largest(code, k):
    return jnp.where(code >= jax.lax.top_k(code, k)[0][-1], jax.nn.relu(code), 0)
""",
    "no derivative": """
def keep_largest(code, k):
    return jax.lax.stop_gradient(jnp.where(code >= jax.lax.top_k(code, k)[0][-1], code, 0))
""",
}


@pytest.mark.parametrize("mistake", WRONG)
def test_the_sheet_notices_a_mistake(lab, mistake):
    (gap,) = (gap for gap in GAPS if f"def {gap}(" in WRONG[mistake])
    exec(WRONG[mistake], lab)
    with pytest.raises(AssertionError):
        exec(CHECKS[gap], lab)
