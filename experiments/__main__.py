"""``python -m experiments`` lists the commands."""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print("error: run python -m experiments in the repository root", file=sys.stderr)
    sys.exit(2)

import ast
import pkgutil
from pathlib import Path

import experiments

# Every command, by what it is for.
TOPICS = {
    "The whole chapter, as one page": ("lecture",),
    "Its parts, in the order of the slides": (
        *("overcomplete_copy", "sparse", "denoising", "vector_field", "contractive", "dae_vs_cae"),
    ),
    "Beyond the chapter": ("convolutional",),
    "The papers behind it": ("feature_learning", "filters", "sampling", "dictionary"),
    "What was trained, for use elsewhere": ("export",),
    "For maintainers": ("readme_tables",),
}
NO_COMMANDS = ("common", "benchmarks", "__main__")


def commands() -> dict[str, str]:
    """Returns the first line of the docstring of every command, by its name."""
    found = {}
    for module in pkgutil.iter_modules(experiments.__path__):
        if module.name not in NO_COMMANDS:
            path = Path(experiments.__path__[0], module.name)
            file = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
            # Read and not imported: importing all of them would take seconds.
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[module.name] = text.partition("\n")[0]
    return found


def main() -> None:
    """Prints the list."""
    lines = commands()
    print("Run one with python -m experiments.NAME, and see its options with --help.")
    for topic, names in TOPICS.items():
        print(f"\n{topic}")
        for name in names:
            print(f"  {name:18} {lines[name]}")
    print("\nSpeed and memory: python -m experiments.benchmarks.NAME (see docs/speed.md)")


if __name__ == "__main__":
    main()
