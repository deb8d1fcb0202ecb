"""Whether the libraries of the experiments are there, and take the variables of the environment.

A Python in which nothing was installed, and a variable such as ``JAX_ENABLE_X64=maybe``, end an
import with a traceback of other people's code. Here it becomes one line.
"""

import importlib
import importlib.util
import os
import sys

_NEEDED = (
    *("numpy", "scipy", "jax", "jaxlib", "flax", "optax", "jaxtyping"),
    *("tyro", "tqdm", "psutil", "filelock", "safetensors", "matplotlib"),
)
_READ_VARIABLES = ("jax", "tqdm")  # while they are imported, JAX_... and TQDM_...


def require() -> None:
    """Ends a command with status 2 where a library is missing or cannot be imported."""
    # The list of the commands needs none, and benchmarks run in environments of other libraries.
    words = [word for word in sys.orig_argv if word.startswith("experiments.")]
    if not words or words[0].startswith("experiments.benchmarks"):
        return
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        _end(
            f"{', '.join(missing)} must be installed for {sys.executable}: "
            f"{sys.executable} -m pip install -r requirements.txt; or start the Python in which "
            "they are, such as .venv/bin/python"
        )
    for name in _READ_VARIABLES:
        try:
            importlib.import_module(name)
        except Exception as error:  # of whatever class
            said = next(iter(str(error).splitlines()), type(error).__name__)
            prefix = f"{name.upper()}_"
            given = [
                f"{key}={value}" for key, value in os.environ.items() if key.startswith(prefix)
            ]
            hint = f"; the environment has {' and '.join(given)}" if given else ""
            _end(f"{name} cannot be imported: {said}{hint}")


def _end(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
