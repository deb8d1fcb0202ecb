"""Fitted estimators as safetensors files: arrays, and their description in JSON.

Unlike a pickle such a file runs no code when it is read.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT = "jaxae.sklearn 1"


def write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], about: object) -> None:
    """Writes arrays and their description to a file, which appears whole or not at all."""
    target = Path(path).expanduser()
    partial = target.with_name(f"{target.name}.partial")
    metadata = {"format": FORMAT, "about": json.dumps(about, default=_as_json)}
    # The memory of a transposed array would be written in its own order. And not save_file: newer
    # versions of it make a file that others may not read.
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
    try:
        partial.write_bytes(content)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], Any]:
    """Returns the arrays of a file and their description.

    Raises:
      OSError: if there is no such file, or it cannot be read.
      ValueError: if the file was not written by :func:`write`, or is damaged.
    """
    place = Path(path).expanduser()
    place.open("rb").close()  # says in Python's words that it is missing, or a folder
    try:
        with safe_open(place, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == FORMAT:
                names = file.keys()
                return {name: file.get_tensor(name) for name in names}, json.loads(
                    metadata["about"]
                )
        reason = "it is of another program"
    except (SafetensorError, ValueError, KeyError) as error:
        reason = str(error)
    raise ValueError(
        f"{path} must be a file that an estimator of jaxae.sklearn has saved ({reason})"
    )


def _as_json(value: object) -> object:
    """Returns a value that JSON does not know as one that it knows."""
    if isinstance(value, np.generic):  # a grid of parameters is often a NumPy array
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be saved")
