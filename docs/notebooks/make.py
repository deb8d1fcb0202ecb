"""Makes the notebooks of this folder from the Markdown files beside them, with their outputs.

    python docs/notebooks/make.py                  all of them, about two minutes on two cores
    python docs/notebooks/make.py vector_field     only those of the named files

The Markdown files are what is edited and reviewed. A notebook has the same cells, and what they
printed and drew when this command ran them with the code of this checkout. The laboratory sheet and
its solution are two notebooks from one file: a cell with the tag ``solution`` is left out of the
sheet, and a cell with the tag ``sheet`` is left out of the solution. The sheet is not run, because
its gaps stop it.
"""

import argparse
import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"}


def find_sources() -> list[str]:
    """Returns the names of the Markdown files, without their suffix."""
    return sorted(path.stem for path in HERE.glob("*.md"))


def read_source(name: str, *, leave_out: str | None = None) -> NotebookNode:
    """Returns the notebook of a Markdown file, without the cells that have the tag `leave_out`."""
    notebook = jupytext.read(HERE / f"{name}.md")
    cells = [cell for cell in notebook.cells if leave_out not in cell.metadata.get("tags", [])]
    # jupytext draws the ids at random; these are the same each time.
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    metadata = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def notebooks_of(name: str) -> dict[str, NotebookNode]:
    """Returns the notebooks that are made from a Markdown file, by their names, before they run."""
    if name == "lab":
        return {
            "lab_sheet": read_source("lab", leave_out="solution"),
            "lab_solution": read_source("lab", leave_out="sheet"),
        }
    return {name: read_source(name)}


def execute(notebook: NotebookNode) -> None:
    """Runs all cells with the code of this checkout, and keeps their outputs in the notebook.

    Raises:
      CellExecutionError: if a cell fails; it shows the cell and its traceback.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,  # times would change the file each time
        resources={"metadata": {"path": str(HERE)}},
    ).execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    notebook.metadata.language_info = LANGUAGE  # without the version of Python


def main() -> None:
    """Writes the notebooks of the named Markdown files, or of all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sources", nargs="*", metavar="NAME", help=", ".join(find_sources()))
    parser.add_argument("--folder", type=Path, default=HERE, help="where they are written")
    options = parser.parse_args()
    for source in options.sources or find_sources():
        for name, notebook in notebooks_of(source).items():
            if name != "lab_sheet":
                execute(notebook)
            nbformat.write(notebook, options.folder / f"{name}.ipynb")
            print(options.folder / f"{name}.ipynb", flush=True)


if __name__ == "__main__":
    main()
