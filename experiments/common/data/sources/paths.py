"""Paths that a person types or that an environment variable gives."""

import os
import re
from pathlib import Path

from experiments.common.errors import InputError

# A Path makes one slash of two; C:/ is a folder of Windows.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def expand(path: str | Path, named: str) -> Path:
    """Returns a path with the home folder in place of ``~``.

    Raises:
      InputError: if there is no such home folder, or the path is an address such as ``gs://...``,
        which would become a folder ``gs:`` here; ``named`` is the option that gave the path.
    """
    if _ADDRESS.match(str(path)):
        raise InputError(
            f"{named} {path} is an address; only files of this machine are read and written, so "
            "copy it from there or to there"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{named} {path}: there is no such home folder; write the path without ~"
        ) from error


def tfds_folder() -> Path:
    """Returns the default folder of TensorFlow Datasets: $TFDS_DATA_DIR, or one at home.

    Raises:
      InputError: if it is in a home folder that is not known, or is a file.
    """
    if given := os.environ.get("TFDS_DATA_DIR"):
        folder = expand(given, "TFDS_DATA_DIR")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"TFDS_DATA_DIR {given} is not a folder; name the one with the data")
        return folder
    try:
        return Path("~/tensorflow_datasets").expanduser()
    except RuntimeError as error:
        raise InputError(
            "the home folder, in which TensorFlow Datasets keeps its data, is not known; name a "
            "folder with --data-dir or TFDS_DATA_DIR, or take --dataset digits"
        ) from error
