"""Fitted estimators as safetensors files: arrays, and their description in JSON.

Unlike a pickle such a file runs no code when it is read.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

FORMAT = "jaxae.sklearn 1"


def write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], about: object) -> None:
    """Writes arrays and their description to a file, which appears whole or not at all."""
    target = Path(path).expanduser()
    partial = target.with_name(f"{target.name}.partial")
    metadata = {"format": FORMAT, "about": json.dumps(about, default=_as_json)}
    # save_file would write the memory of a transposed array in its own order.
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, metadata
    )
    os.replace(partial, target)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], Any]:
    """Returns the arrays of a file and their description.

    Raises:
      ValueError: if the file was not written by :func:`write`.
    """
    with safe_open(Path(path).expanduser(), framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} must be a file that an estimator of jaxae.sklearn has saved")
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(metadata["about"])


def _as_json(value: object) -> object:
    """Returns a value that JSON does not know as one that it knows."""
    if isinstance(value, np.generic):  # a grid of parameters is often a NumPy array
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be saved")
