"""Checkpoints: how a snapshot of training is written, and what is believed when it is read.

``<out>/checkpoints/<model>/<epoch>/`` holds one snapshot: its arrays in ``arrays/``, written by
Orbax, and ``manifest.json``: what it is of, and the SHA-256 of every file. It is written beside its
place and renamed, so it is whole or absent; bytes that are not those of the manifest are never
parsed. Nothing is pickled.

Nothing is removed but the older checkpoints of the same training, and of these only such whose
manifest names every file in them. Checkpoints of an earlier run that are in the way are moved to
``<out>/checkpoints.earlier-1/`` (2, 3, ...).
"""

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxae
from experiments.common import interrupts, processes
from experiments.common.errors import InputError, first_line
from experiments.common.results import atomic

_FORMAT = 2
_KEPT = 2  # the newest ones; the best one is kept beside them
_MOST_BYTES = 2**24  # of a manifest
_MOST_WAITING = 4  # snapshots on their way to the disk
_PLACE = re.compile(r"(\d{6,})(?:\.(\d{6,}))?", re.ASCII)  # epoch, and step where it is not over


class DamagedError(Exception):
    """A checkpoint is not what was written."""


class Checkpoints:
    """The checkpoints of one run of an experiment: of every model that it trains.

    Args:
      folder: where they are, one folder for each model.
      identity: what a checkpoint must be of, to be gone on from: settings, data, version.
      environment: versions and device; others are said, and not refused.
      epochs: the value of ``--epochs``, None where it was left out. It is no part of the identity,
        so that a run can go on to more or fewer epochs.
      every: epochs between two checkpoints; None: they stay in memory and are written only
        when the run ends before its time.
      is_resumed: whether to go on from those that are there; otherwise they are moved away before
        the first new one is written.
      say: prints a line.
      staging_in: folder on the same disk in which a checkpoint is made before it is renamed.

    Raises:
      InputError: if those that are there are of another configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: dict[str, Any],
        environment: dict[str, Any],
        every: int | None,
        is_resumed: bool,
        say: Callable[[str], None],
        epochs: int | None = None,
        staging_in: Path | None = None,
    ) -> None:
        self.folder, self.every, self._say = folder, every, say
        self._identity = json.loads(json.dumps(identity))
        self._environment = json.loads(json.dumps(environment))
        self._epochs, self._staging_in = epochs, staging_in
        self._is_resumed = is_resumed
        self._has_written = False
        self._earlier: Path | None = None  # where those of an earlier run are moved
        self._held: dict[str, jaxae.Snapshot] = {}
        self._headers: dict[str, dict[str, Any]] = {}
        self._is_stopped = threading.Event()
        self._writer = ThreadPoolExecutor(1)
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self._turn = threading.Lock()
        if is_resumed:
            self._check_identity()

    def of(
        self,
        names: Sequence[str],
        models: Sequence[dict[str, Any] | None] | None = None,
        *,
        any_length: int | None = None,
    ) -> jaxae.Checkpoints:
        """Returns the checkpoints of some models that are trained by one call.

        Args:
          names: what they are called.
          models: what each of them can be built from again, or None.
          any_length: how many epochs they are trained, if a longer training begins with the very
            steps of a shorter one; None where the steps depend on the number of epochs.

        Raises:
          ValueError: if a name was given before.
        """
        folders = [_folder_name(name) for name in names]
        described = [None] * len(folders) if models is None else models
        headers = [{"model": model, "epochs": self._epochs} for model in described]
        with self._turn:
            known = {folder.lower() for folder in [*self._headers, *folders]}  # as on macOS
            if len(known) < len(self._headers) + len(folders):
                raise ValueError(f"two models of a run are called alike: {folders}")
            self._headers |= dict(zip(folders, headers, strict=True))
            if self._is_resumed:
                self._adapt_length(folders, any_length)
        return _OfModels(self, folders)

    def _adapt_length(self, folders: Sequence[str], any_length: int | None) -> None:
        """Moves checkpoints away through which a run with this ``--epochs`` does not pass."""
        others, beyond, before = [], [], set()
        for place in (place for folder in folders for place in _places(self.folder / folder)):
            with contextlib.suppress(DamagedError):
                manifest = read_manifest(place)
                if manifest["epochs"] != self._epochs:
                    others.append(place)
                    before.add(str(manifest["epochs"] or "default"))
                if any_length is not None and _end(manifest) > any_length:
                    beyond.append(place)
        if others:
            now = self._epochs or "default"
            models = f"{folders[0]}{f' and {len(folders) - 1} more' if folders[1:] else ''}"
            doing = f"going on with {models}, as if it had been so from the start"
            if any_length is None:
                doing = f"training {models} anew, because every step depends on how many there are"
            elif beyond:
                doing = f"going on with {models} from before that, or anew"
            self._say(f"--epochs was {', '.join(sorted(before))} and is {now}: {doing}")
        self._move_away(others if any_length is None else beyond)

    def _move_away(self, places: Sequence[Path]) -> None:
        if not places:
            return
        if self._earlier is None:
            self._earlier = atomic.free_name(self.folder, "earlier")
            self._say(f"earlier checkpoints that are in the way are now in {self._earlier}")
        for place in places:
            to = self._earlier / place.parent.name / place.name
            to.parent.mkdir(parents=True, exist_ok=True)
            place.rename(to)
            with contextlib.suppress(OSError):  # not empty
                place.parent.rmdir()

    def stop(self) -> None:
        """Lets all models stop, and hand over a snapshot, after their next steps."""
        self._is_stopped.set()

    def should_stop(self) -> bool:
        """Returns whether models shall stop."""
        is_told = self._is_stopped.is_set() or interrupts.is_requested()
        return is_told or processes.is_abandoned()

    def restore(self, name: str, like: jaxae.TrainState) -> jaxae.Snapshot | None:
        """Returns the newest snapshot of a model that is not damaged, or None."""
        if not self._is_resumed:
            return None
        for path in _places(self.folder / name)[::-1]:
            try:
                manifest = read_manifest(path)
                found = _rebuild(read_arrays(path, manifest), manifest, like)
            except DamagedError as error:
                self._say(f"checkpoint {path} is damaged ({error}) and skipped")
                continue
            self._hold(name, found)
            return found
        return None

    def save(self, name: str, snapshot: jaxae.Snapshot) -> None:
        """Keeps a snapshot: on the disk, or in memory until the run is interrupted."""
        self._hold(name, snapshot)
        if self.every is not None:
            self._write_later(name, snapshot)

    def _hold(self, name: str, snapshot: jaxae.Snapshot) -> None:
        if self.every is None:
            self._held[name] = snapshot

    def close(self, *, is_over: bool) -> bool:
        """Waits until everything is written; returns whether there are checkpoints of this run.

        What is held in memory only is written too, unless the run is over and has left none before.
        """
        if not is_over or self._are_there():
            for name, snapshot in self._held.items():
                self._write_later(name, snapshot)
        self._held = {}
        self._writer.shutdown(wait=True)
        return self._are_there()

    def discard(self) -> None:
        """Removes the checkpoints of this run."""
        if not self._are_there():
            return
        for folder in self._headers:
            for place in _places(self.folder / folder):
                self._remove(place)
            with contextlib.suppress(OSError):  # not empty: something of the user's
                (self.folder / folder).rmdir()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _are_there(self) -> bool:
        """Returns whether the folder has checkpoints of this run, and not of an earlier one."""
        is_mine = self._is_resumed or self._has_written
        return is_mine and any(_places(model) for model in _subfolders(self.folder))

    def _write_later(self, name: str, snapshot: jaxae.Snapshot) -> None:
        self._waiting.acquire()
        self._writer.submit(self._write, name, snapshot)

    def _write(self, name: str, snapshot: jaxae.Snapshot) -> None:
        try:
            if not (self._is_resumed or self._has_written):
                models = _subfolders(self.folder)
                self._move_away([place for model in models for place in _places(model)])
            arrays, described = _flatten(snapshot)
            header = {"identity": self._identity, "environment": self._environment, **described}
            path = self.folder / name / _place(snapshot)
            header |= self._headers[name]
            write(path, arrays, header, staging_in=self._staging_in, is_ours=self._is_mine)
            self._has_written = True
            for place in _superseded(self.folder / name):
                self._remove(place)
        except Exception as error:  # a full disk, above all: what is there stays
            what = f"{snapshot.epoch} epochs of {name}"
            self._say(f"a checkpoint after {what} cannot be written: {first_line(error)}")
        finally:
            self._waiting.release()

    def _remove(self, place: Path) -> None:
        if self._is_mine(place):
            shutil.rmtree(place, ignore_errors=True)

    def _is_mine(self, place: Path) -> bool:
        """Returns whether a folder is a checkpoint of this configuration and nothing else."""
        try:
            manifest = read_manifest(place)
        except DamagedError:
            return False
        has_no_more = set(_files(place)) <= {"manifest.json", *manifest["files"]}
        return has_no_more and manifest["identity"] == self._identity

    def _check_identity(self) -> None:
        """Raises InputError if a checkpoint is of another configuration."""
        changes = set()
        for path in (place for model in _subfolders(self.folder) for place in _places(model)):
            try:
                found = read_manifest(path)
            except DamagedError:
                continue
            if found["identity"] != self._identity:
                raise InputError(
                    f"--resume: {path} is of another configuration: "
                    f"{_difference(found['identity'], self._identity)}"
                )
            if found["environment"] != self._environment:
                changes.add(_difference(found["environment"], self._environment))
        for change in sorted(changes):
            self._say(f"the last digits may change from here on: {change}")


class _OfModels:
    """The view of some models that ``jaxae.fit_many`` needs."""

    def __init__(self, store: Checkpoints, names: Sequence[str]) -> None:
        self._store, self._names = store, names
        self.every = store.every

    def restore(self, model: int, like: jaxae.TrainState) -> jaxae.Snapshot | None:
        return self._store.restore(self._names[model], like)

    def save(self, model: int, snapshot: jaxae.Snapshot) -> None:
        self._store.save(self._names[model], snapshot)

    def should_stop(self) -> bool:
        return self._store.should_stop()


def write(
    path: Path,
    arrays: dict[str, np.ndarray],
    header: dict[str, Any],
    *,
    staging_in: Path | None = None,
    is_ours: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Writes a checkpoint: whole at ``path``, or not at all.

    Args:
      path: its folder.
      arrays: what it holds, by name.
      header: what its manifest says beside that.
      staging_in: folder in which it is made first; by default beside its place.
      is_ours: whether a folder that is there may be replaced; otherwise it is renamed.

    Raises:
      OSError: if it cannot be written, and whatever Orbax raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < 2**20 + sum(a.nbytes for a in arrays.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(staging: Path) -> None:
        # Orbax refuses arrays without elements, such as the losses before the first epoch is over.
        _orbax().save(staging / "arrays", {name: a for name, a in arrays.items() if a.size})
        files = {name: atomic.file_digest(staging / name) for name in _files(staging)}
        shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
        body = {"format": _FORMAT, **header, "arrays": shapes, "files": files}
        with open(staging / "manifest.json", "w", encoding="utf-8") as file:
            json.dump(body | {"sha256": atomic.json_digest(body)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())

    atomic.write_folder(path, fill, staging_in=staging_in, is_ours=is_ours)


def models(folder: Path) -> dict[str, Path]:
    """Returns where the checkpoints are of every model below a folder, by their names.

    Args:
      folder: that of a run, of its checkpoints, of a model's checkpoints, or one checkpoint.
    """
    if (folder / "manifest.json").exists():
        return {folder.resolve().parent.name: folder}
    if _places(folder):
        return {folder.resolve().name: folder}
    all_of = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    return {path.name: path for path in _subfolders(all_of) if _places(path)}


def ranked(folder: Path, *, best: bool) -> list[Path]:
    """Returns the checkpoints of a model, the newest first, or that with the least loss."""
    newest_first = _places(folder)[::-1]
    losses = _losses(newest_first)
    return (
        sorted(newest_first, key=lambda path: losses.get(path, math.inf)) if best else newest_first
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint says of itself, after its own digest was checked.

    Raises:
      DamagedError: if it is missing, or not what was written.
    """
    try:
        with open(path / "manifest.json", "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise DamagedError("manifest.json is too large")
        body = json.loads(text)
        digest = body.pop("sha256")
        if digest != atomic.json_digest(body):
            raise DamagedError("manifest.json is not what was written")
        if body["format"] == 1:  # there the number of epochs was one of the settings
            body |= {"format": _FORMAT, "epochs": body["identity"]["settings"].pop("epochs", None)}
        if body["format"] != _FORMAT or not _is_complete(body):
            raise DamagedError("manifest.json is not what was written")
    except DamagedError:
        raise
    except OSError as error:
        raise DamagedError(f"manifest.json: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError("manifest.json is not what was written") from error
    return body


def read_arrays(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by name, after all its files were checked.

    Raises:
      DamagedError: if a file is missing, too many, or not what was written.
    """
    try:
        found = _files(path)
        if set(found) - {"manifest.json"} != set(manifest["files"]):
            raise DamagedError("files are missing, or there are too many")
        for name, digest in manifest["files"].items():
            if atomic.file_digest(path / name) != digest:
                raise DamagedError(f"{name} is not what was written")
        restored = _orbax().restore((path / "arrays").resolve())
        arrays = {}
        for name, (dtype, *shape) in manifest["arrays"].items():
            is_empty = 0 in shape
            arrays[name] = np.zeros(shape, dtype) if is_empty else np.asarray(restored[name])
            if [str(arrays[name].dtype), *arrays[name].shape] != [dtype, *shape]:
                raise DamagedError(f"array {name} is not what was written")
    except DamagedError:
        raise
    except OSError as error:
        raise DamagedError(f"{error.filename}: {error.strerror or error}") from error
    except Exception as error:  # Orbax and NumPy raise what their parts raise
        raise DamagedError(first_line(error)) from error
    return arrays


def _flatten(snapshot: jaxae.Snapshot) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays of a snapshot by name, and what describes it in the manifest."""
    leaves = jax.tree_util.tree_flatten_with_path(snapshot.state)[0]
    arrays = {f"state_{i:04d}": _plain(leaf) for i, (_, leaf) in enumerate(leaves)}
    arrays |= {"losses": snapshot.losses, "step_losses": snapshot.step_losses}
    described: dict[str, Any] = {
        "leaves": [jax.tree_util.keystr(path) for path, _ in leaves],
        "epoch": snapshot.epoch,
        "step": snapshot.step,
        "loss": float(snapshot.losses[-1]) if len(snapshot.losses) else None,
    }
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}, described


def _rebuild(
    arrays: dict[str, np.ndarray], manifest: dict[str, Any], like: jaxae.TrainState
) -> jaxae.Snapshot:
    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    if manifest["leaves"] != [jax.tree_util.keystr(path) for path, _ in leaves]:
        raise InputError("--resume: a checkpoint is of another model or optimiser")
    state = [_like(arrays[f"state_{i:04d}"], leaf) for i, (_, leaf) in enumerate(leaves)]
    rest = manifest["epoch"], manifest["step"], arrays["losses"], arrays["step_losses"]
    return jaxae.Snapshot(jax.tree.unflatten(tree, state), *rest)


def _plain(leaf: Any) -> np.ndarray:
    """Returns an array without PRNG keys, which are their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(array: np.ndarray, leaf: Any) -> Any:
    if not _is_key(leaf):
        return array
    return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _orbax() -> Any:
    """Returns what writes and reads a tree of arrays."""
    import orbax.checkpoint as ocp  # only where there is something to write

    logging.getLogger("absl").setLevel(logging.ERROR)
    options: dict[str, Any] = {}
    if processes.are_several():  # this one alone writes, and waits for nobody
        alone = {"primary_host": jax.process_index(), "active_processes": {jax.process_index()}}
        several = ocp.options.MultiprocessingOptions(**alone, barrier_sync_key_prefix="alone")
        options["multiprocessing_options"] = several
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options), **options)


def _superseded(folder: Path) -> list[Path]:
    """Returns all checkpoints of a model but the newest ones and the best."""
    places = _places(folder)
    losses = _losses(places)
    kept = {*places[-_KEPT:], min(losses, key=lambda path: losses[path], default=None)}
    return [path for path in places if path not in kept]


def _losses(places: Sequence[Path]) -> dict[Path, float]:
    """Returns the training losses of those checkpoints that have one and are not damaged."""
    losses: dict[Path, float] = {}
    for path in places:
        try:
            loss = read_manifest(path)["loss"]
        except DamagedError:
            continue
        if loss is not None:
            losses[path] = loss
    return losses


def _places(folder: Path) -> list[Path]:
    """Returns the checkpoints of a model, the newest one last; no clock is asked."""
    found = []
    for path in _subfolders(folder):
        if match := _PLACE.fullmatch(path.name):
            found.append((int(match[1]), int(match[2] or 0), path))
    return [path for _, _, path in sorted(found)]


def _end(manifest: dict[str, Any]) -> int:
    """Returns how many epochs a training needs to pass through a checkpoint."""
    return int(manifest["epoch"]) + bool(manifest["step"])


def _place(snapshot: jaxae.Snapshot) -> str:
    return f"{snapshot.epoch:06d}" + (f".{snapshot.step:06d}" if snapshot.step else "")


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _folder_name(name: str) -> str:
    """Returns a name that is one folder, whatever it is made from."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", name).strip("._")[:120] or "model"


def _is_complete(body: dict[str, Any]) -> bool:
    kinds: dict[str, type] = {
        "identity": dict,
        "environment": dict,
        "arrays": dict,
        "files": dict,
        "leaves": list,
    }
    kinds |= {"epoch": int, "step": int}
    return {"loss", "epochs"} <= body.keys() and all(
        isinstance(body.get(key), kind) for key, kind in kinds.items()
    )


def _files(folder: Path) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _difference(was: Any, now: Any, name: str = "") -> str:
    """Returns the first difference of two JSON values."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return f"{name} was {json.dumps(was)} and is {json.dumps(now)}"
    key = next(key for key in sorted(was | now) if was.get(key) != now.get(key))
    return _difference(was.get(key), now.get(key), f"{name}.{key}" if name else key)
