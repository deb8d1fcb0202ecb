"""Folders given as ``--data-dir``: the prepared data sets in them, and what else lies there."""

import re
import zipfile
from pathlib import Path

from experiments.common.data.sources import idx, image_folder
from experiments.common.errors import InputError

_INFO, _FEATURES = "dataset_info.json", "features.json"
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_prepared(root: Path, name: str, config: str | None, version: str | None) -> Path | None:
    """Returns the folder of the wanted or newest version, as TensorFlow Datasets lays them out.

    Raises:
      InputError: if there is none, but one that lacks a file.
    """
    if not root.is_dir():
        return None
    if (root / _INFO).is_file():  # under whatever name
        return root
    finished = [path for path in _versions(root, name, config) if (path / _INFO).is_file()]
    wanted = [path for path in finished if version in (None, path.name)]
    if not wanted:
        _refuse_incomplete(root, name, config)
    return max(wanted, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def _versions(root: Path, name: str, config: str | None) -> list[Path]:
    """Returns the folders of all versions below ``root``."""
    parents = [root / name / config, root / config] if config else []
    parents += [root / name, root]
    found = [path for parent in parents for path in parent.glob("*")]
    return [path for path in found if _VERSION.fullmatch(path.name) and path.is_dir()]


def _refuse_incomplete(root: Path, name: str, config: str | None) -> None:
    """Raises InputError if there are shards without their description, or packed files."""
    for place in (root, *_versions(root, name, config)):
        if (place / _INFO).is_file() or not _has_shards(place):
            continue
        raise InputError(
            f"{place} holds the shards of a prepared data set, but not {_INFO}; "
            "copy it there from where they were prepared"
        )
    for path in _archives(root):
        if path.suffix.lower() == ".zip" and _is_of_data(path):
            raise InputError(f"--data-dir {root} holds {path.name}; unpack it there")


def require_features(folder: Path) -> None:
    """Raises InputError if a prepared folder lacks the description of its features."""
    if not (folder / _FEATURES).is_file():
        raise InputError(
            f"{folder} cannot be read as a prepared data set: it holds no {_FEATURES}; "
            "copy it there from where the data were prepared"
        )


def describe(root: Path, name: str, config: str | None) -> str:
    """Returns what lies in a folder instead of a data set, and what to do, after a semicolon."""
    if not root.is_dir():
        return ""
    if others := sorted({path.name for path in _versions(root, name, config)}):
        return f"; prepared there is {', '.join(f'{name}:{version}' for version in others)}"
    if archives := _archives(root):
        return f"; {archives[0].name} lies there: unpack it"
    if idx.are_in(root):
        return f"; the IDX files that lie there are of {', '.join(idx.RELATIVES)} only"
    files = (path for path in sorted(root.iterdir()) if path.suffix.lower() in _FILES)
    if file := next(files, None):
        return f"; {file.name} lies there: --dataset {file} reads it"
    if image_folder.is_image_folder(root):
        return f"; images lie there: --dataset {root} reads them"
    return ""


_FILES = (".npy", ".npz", ".csv")


def _has_shards(folder: Path) -> bool:
    return any(any(folder.glob(f"*.{kind}*-of-*")) for kind in ("array_record", "tfrecord"))


def _archives(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(_ARCHIVES)]


def _is_of_data(path: Path) -> bool:
    """Returns whether a zip file holds IDX files or a prepared data set."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = " ".join(archive.namelist())
    except Exception:  # damaged, or no zip file
        return False
    return any(sign in names for sign in ("-ubyte", ".array_record", ".tfrecord"))
