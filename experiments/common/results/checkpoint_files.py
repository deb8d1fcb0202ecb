"""One checkpoint on the disk: how it is written, and what is believed when it is read.

A checkpoint is a folder with two files: ``arrays.safetensors``, and ``manifest.json``, which says
what the arrays are of and has the SHA-256 of the other file. The folder is written beside its
place and renamed, so it is whole or absent. Bytes that are not those of the manifest are never
parsed, and nothing is pickled.

Formats 1 and 2 had the arrays in a folder ``arrays/``, written by Orbax; they can still be read. To
go on training from a checkpoint of another release is refused, in ``checkpoint_store``.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import jax
import jax.numpy as jnp
import numpy as np

import jaxae
from experiments.common.errors import InputError, first_line
from experiments.common.files import atomic
from experiments.common.files.atomic import JsonObject

MANIFEST = "manifest.json"
_ARRAYS = "arrays.safetensors"
_FORMAT = 3
_MOST_BYTES = 2**24  # of a manifest
_SPARE_BYTES = 2**20  # of the disk, for the manifest and for what else a run writes


class DamagedError(Exception):
    """A checkpoint is not what was written."""


class Manifest(TypedDict):
    """What a checkpoint says of itself.

    Attributes:
      format: number of the version of this format.
      identity: settings, data and version of the run.
      environment: versions and device of the run.
      model: what the model can be built from again, or None.
      epochs: the value of ``--epochs``, None where it was left out.
      epoch: epochs behind the snapshot.
      step: steps of the next epoch behind it.
      loss: training loss of the last epoch, or None before the first one is over.
      leaves: paths of the arrays of the state in its tree; ``state_0000`` is the first of them.
      arrays: dtype and shape of every array, by its name.
      files: SHA-256 of every file, by its path in the folder.
    """

    format: int
    identity: JsonObject
    environment: JsonObject
    model: NotRequired[JsonObject | None]
    epochs: int | None
    epoch: int
    step: int
    loss: float | None
    leaves: list[str]
    arrays: dict[str, list[Any]]
    files: dict[str, str]


# Those fields whose type is checked when a manifest is read; two others may be None.
_REQUIRED_TYPES: dict[str, type] = {
    **dict.fromkeys(("identity", "environment", "arrays", "files"), dict),
    **dict.fromkeys(("epoch", "step"), int),
    "leaves": list,
}
_REQUIRED_OR_NONE = {"loss", "epochs"}


def write(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    header: Mapping[str, object],
    *,
    staging_in: Path | None = None,
    is_ours: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Writes a checkpoint: whole at ``path``, or not at all.

    Args:
      path: its folder.
      arrays: what it holds, by name, each in C order.
      header: what its manifest says beside the arrays and the files.
      staging_in: folder in which it is made first; by default beside its place.
      is_ours: whether a folder that is there may be replaced; otherwise it is renamed.

    Raises:
      OSError: if it cannot be written, and whatever safetensors raises.
    """
    import safetensors.numpy

    path.parent.mkdir(parents=True, exist_ok=True)
    needed = _SPARE_BYTES + sum(array.nbytes for array in arrays.values())
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))

    def fill(staging: Path) -> None:
        # Not save_file: newer versions of it make a file that others may not read.
        _write_to_disk(staging / _ARRAYS, safetensors.numpy.save(dict(arrays)))
        shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
        files = {_ARRAYS: atomic.file_digest(staging / _ARRAYS)}
        body = {"format": _FORMAT, **header, "arrays": shapes, "files": files}
        manifest = json.dumps(body | {"sha256": atomic.json_digest(body)}, indent=1)
        _write_to_disk(staging / MANIFEST, manifest.encode())

    atomic.write_folder(path, fill, staging_in=staging_in, is_ours=is_ours)


def _write_to_disk(path: Path, content: bytes) -> None:
    """Writes a file, and waits until the disk has it, so that a power cut does not take it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(path: Path) -> Manifest:
    """Returns what a checkpoint says of itself, after its own digest was checked.

    Raises:
      DamagedError: if it is missing, or not what was written.
    """
    try:
        with open(path / MANIFEST, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise DamagedError("manifest.json is too large")
        body = json.loads(text)
        digest = body.pop("sha256")
        if digest != atomic.json_digest(body):
            raise DamagedError("manifest.json is not what was written")
        if body["format"] == 1:  # there the number of epochs was one of the settings
            body |= {"format": 2, "epochs": body["identity"]["settings"].pop("epochs", None)}
        if body["format"] not in (2, _FORMAT) or not _is_complete(body):
            raise DamagedError("manifest.json is not what was written")
    except DamagedError:
        raise
    except OSError as error:
        raise DamagedError(f"manifest.json: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError("manifest.json is not what was written") from error
    return cast(Manifest, body)


def _is_complete(body: JsonObject) -> bool:
    """Returns whether a manifest has all of its fields, with values of the right types."""
    return body.keys() >= _REQUIRED_OR_NONE and all(
        isinstance(body.get(name), kind) for name, kind in _REQUIRED_TYPES.items()
    )


def read_arrays(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by name, after all its files were checked.

    Raises:
      DamagedError: if a file is missing, too many, or not what was written.
    """
    try:
        if set(list_files(path)) - {MANIFEST} != set(manifest["files"]):
            raise DamagedError("files are missing, or there are too many")
        for name, digest in manifest["files"].items():
            if atomic.file_digest(path / name) != digest:
                raise DamagedError(f"{name} is not what was written")
        stored = _load_arrays(path, manifest["format"])
        arrays = {}
        for name, (dtype, *shape) in manifest["arrays"].items():
            # Formats 1 and 2 left arrays without elements out: Orbax refuses them.
            arrays[name] = np.zeros(shape, dtype) if 0 in shape else np.asarray(stored[name])
            if [str(arrays[name].dtype), *arrays[name].shape] != [dtype, *shape]:
                raise DamagedError(f"array {name} is not what was written")
    except DamagedError:
        raise
    except OSError as error:
        raise DamagedError(f"{error.filename}: {error.strerror or error}") from error
    except Exception as error:  # safetensors, Orbax and NumPy raise what their parts raise
        raise DamagedError(first_line(error)) from error
    return arrays


def _load_arrays(path: Path, format_number: int) -> Mapping[str, np.ndarray]:
    """Returns the arrays that the files of a checkpoint hold."""
    if format_number == _FORMAT:
        import safetensors.numpy

        return safetensors.numpy.load_file(path / _ARRAYS)
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    # The handler alone: around it, Orbax's Checkpointer waits for the other processes of a run.
    return ocp.PyTreeCheckpointHandler().restore((path / "arrays").resolve())


def list_files(folder: Path) -> list[str]:
    """Returns the paths of the files and links below a folder, relative to it."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def flatten_snapshot(
    snapshot: jaxae.Snapshot,
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Returns the arrays of a snapshot by name, and what describes it in the manifest."""
    leaves = jax.tree_util.tree_flatten_with_path(snapshot.state)[0]
    arrays = {f"state_{i:04d}": _unwrap_key(leaf) for i, (_, leaf) in enumerate(leaves)}
    arrays |= {"losses": snapshot.losses, "step_losses": snapshot.step_losses}
    described: dict[str, object] = {
        "leaves": [jax.tree_util.keystr(path) for path, _ in leaves],
        "epoch": snapshot.epoch,
        "step": snapshot.step,
        "loss": float(snapshot.losses[-1]) if len(snapshot.losses) else None,
    }
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}, described


def rebuild_snapshot(
    arrays: Mapping[str, np.ndarray], manifest: Manifest, like: jaxae.TrainState
) -> jaxae.Snapshot:
    """Returns the snapshot that :func:`flatten_snapshot` took apart, its state built as ``like``.

    Raises:
      InputError: if it is of another model or optimiser.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    if manifest["leaves"] != [jax.tree_util.keystr(path) for path, _ in leaves]:
        raise InputError("--resume: a checkpoint is of another model or optimiser")
    state = [_wrap_key(arrays[f"state_{i:04d}"], leaf) for i, (_, leaf) in enumerate(leaves)]
    return jaxae.Snapshot(
        state=jax.tree.unflatten(tree, state),
        epoch=manifest["epoch"],
        step=manifest["step"],
        losses=arrays["losses"],
        step_losses=arrays["step_losses"],
    )


def _unwrap_key(leaf: jax.Array) -> np.ndarray:
    """Returns an array in NumPy; of PRNG keys, which NumPy cannot hold, their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _wrap_key(array: np.ndarray, like: jax.Array) -> np.ndarray | jax.Array:
    """Returns PRNG keys from their data where ``like`` is some, else the array itself."""
    if not _is_key(like):
        return array
    return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))


def _is_key(leaf: jax.Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
