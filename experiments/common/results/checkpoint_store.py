"""The checkpoints of a run: which are kept, gone on from, moved out of the way and removed.

``<out>/checkpoints/<model>/<epoch>/`` holds one snapshot of one model; ``checkpoint_files`` says
how it is written. Each model keeps its newest ones, and the one with the least training loss.

Nothing is removed but the older checkpoints of the same training, and of these only such whose
manifest names every file in them. Checkpoints of an earlier run that are in the way are moved to
``<out>/checkpoints.earlier-1/`` (2, 3, ...).

``docs/design.md`` says why this is not Orbax's ``CheckpointManager``.
"""

import contextlib
import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jaxae
from experiments.common import interrupts, processes
from experiments.common.errors import InputError, first_line
from experiments.common.files import atomic
from experiments.common.files.atomic import JsonObject
from experiments.common.results import checkpoint_files
from experiments.common.results.checkpoint_files import DamagedError

_NEWEST_KEPT = 2  # the best one is kept beside them
_MOST_WAITING = 4  # snapshots on their way to the disk
_FOLDER = re.compile(r"(\d{6,})(?:\.(\d{6,}))?", re.ASCII)  # epoch, and step where it is not over


class CheckpointStore:
    """The checkpoints of one run of an experiment: of every model that it trains.

    Args:
      folder: where they are, one folder for each model.
      identity: settings, data and version of the run; a run does not go on from a checkpoint
        with another identity.
      environment: versions and device of the run; if they were others, a line says so.
      epochs: the value of ``--epochs``, None where it was left out. It is no part of the identity,
        so that a run can go on to more or fewer epochs.
      every: epochs between two checkpoints; None: snapshots stay in memory, and are written only
        when the run ends before its time.
      is_resumed: whether to go on from the checkpoints that are there; otherwise they are moved
        away before the first new one is written.
      say: prints a line.
      staging_in: folder in which a checkpoint is made before it is renamed.

    Raises:
      InputError: if the checkpoints that are there are of another configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: JsonObject,
        environment: JsonObject,
        every: int | None,
        is_resumed: bool,
        say: Callable[[str], None],
        epochs: int | None = None,
        staging_in: Path | None = None,
    ) -> None:
        self.folder, self.every, self._say = folder, every, say
        # As JSON gives them back, so that they can be compared with those of a manifest.
        self._identity = json.loads(json.dumps(identity))
        self._environment = json.loads(json.dumps(environment))
        self._epochs, self._staging_in = epochs, staging_in
        self._is_resumed = is_resumed
        self._has_written = False
        self._earlier_folder: Path | None = None  # where those of an earlier run are moved
        self._in_memory: dict[str, jaxae.Snapshot] = {}  # the newest of each model
        self._headers: dict[str, JsonObject] = {}  # what manifests say of each model
        self._must_stop = threading.Event()
        # One thread writes while others train. If it falls behind they wait for it, since every
        # snapshot on its way to the disk takes memory.
        self._writer = ThreadPoolExecutor(1)
        self._writer_slots = threading.BoundedSemaphore(_MOST_WAITING)
        self._lock = threading.Lock()  # models are registered in several threads
        if is_resumed:
            self._check_identity()

    def register(
        self,
        names: Sequence[str],
        models: Sequence[JsonObject | None] | None = None,
        *,
        epochs_if_extendable: int | None = None,
    ) -> jaxae.Checkpoints:
        """Registers models that are trained by one call; returns what that call needs.

        Args:
          names: what the models are called.
          models: what each of them can be built from again, or None.
          epochs_if_extendable: how many epochs they are trained, where the steps do not depend
            on this number, so that a later run can train for more; None where they do.

        Raises:
          ValueError: if a name was registered before.
        """
        folders = [_make_folder_name(name) for name in names]
        descriptions = [None] * len(folders) if models is None else models
        headers = [{"model": model, "epochs": self._epochs} for model in descriptions]
        with self._lock:
            known = {folder.lower() for folder in [*self._headers, *folders]}  # as on macOS
            if len(known) < len(self._headers) + len(folders):
                raise ValueError(f"two models of a run are called alike: {folders}")
            self._headers |= dict(zip(folders, headers, strict=True))
            if self._is_resumed:
                self._move_other_lengths_away(folders, epochs_if_extendable)
        return _RegisteredModels(self, folders)

    def _move_other_lengths_away(
        self, folders: Sequence[str], epochs_if_extendable: int | None
    ) -> None:
        """Moves away the checkpoints that a run with this ``--epochs`` would never have written."""
        others, beyond, earlier_lengths = [], [], set()
        for folder in folders:
            for place in list_checkpoints(self.folder / folder):
                with contextlib.suppress(DamagedError):
                    manifest = checkpoint_files.read_manifest(place)
                    if manifest["epochs"] != self._epochs:
                        others.append(place)
                        earlier_lengths.add(str(manifest["epochs"] or "default"))
                    needed = manifest["epoch"] + bool(manifest["step"])
                    if epochs_if_extendable is not None and needed > epochs_if_extendable:
                        beyond.append(place)
        if others:
            models = f"{folders[0]}{f' and {len(folders) - 1} more' if folders[1:] else ''}"
            if epochs_if_extendable is None:
                doing = f"training {models} anew, because every step depends on how many there are"
            elif beyond:
                doing = f"going on with {models} from before that, or anew"
            else:
                doing = f"going on with {models}, as if it had been so from the start"
            was, now = ", ".join(sorted(earlier_lengths)), self._epochs or "default"
            self._say(f"--epochs was {was} and is {now}: {doing}")
        self._move_away(others if epochs_if_extendable is None else beyond)

    def _move_away(self, places: Sequence[Path]) -> None:
        """Moves checkpoints into the folder of those of earlier runs."""
        if not places:
            return
        if self._earlier_folder is None:
            self._earlier_folder = atomic.free_name(self.folder, "earlier")
            self._say(f"earlier checkpoints that are in the way are now in {self._earlier_folder}")
        for place in places:
            to = self._earlier_folder / place.parent.name / place.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(place, to)  # the folder may be a link to another disk
            atomic.remove_empty(place.parent)

    def stop(self) -> None:
        """Tells all models to stop after their next steps, and to hand over a snapshot."""
        self._must_stop.set()

    def should_stop(self) -> bool:
        """Returns whether models shall stop."""
        is_told = self._must_stop.is_set() or interrupts.is_requested()
        return is_told or processes.is_abandoned()

    def restore(self, name: str, like: jaxae.TrainState) -> jaxae.Snapshot | None:
        """Returns the newest snapshot of a model that is not damaged, or None."""
        if not self._is_resumed:
            return None
        for path in list_checkpoints(self.folder / name)[::-1]:
            try:
                manifest = checkpoint_files.read_manifest(path)
                arrays = checkpoint_files.read_arrays(path, manifest)
                found = checkpoint_files.rebuild_snapshot(arrays, manifest, like)
            except DamagedError as error:
                self._say(f"checkpoint {path} is damaged ({error}) and skipped")
                continue
            self._keep_in_memory(name, found)
            return found
        return None

    def save(self, name: str, snapshot: jaxae.Snapshot) -> None:
        """Keeps a snapshot: on the disk, or in memory until the run is interrupted."""
        self._keep_in_memory(name, snapshot)
        if self.every is not None:
            self._write_later(name, snapshot)

    def _keep_in_memory(self, name: str, snapshot: jaxae.Snapshot) -> None:
        """Keeps a snapshot in memory, where none are written to the disk as the run goes."""
        if self.every is None:
            self._in_memory[name] = snapshot

    def close(self, *, is_over: bool) -> bool:
        """Waits until everything is written; returns whether there are checkpoints of this run.

        Snapshots that are in memory only are written too, unless the run is over and has left none
        before.
        """
        if not is_over or self._has_checkpoints():
            for name, snapshot in self._in_memory.items():
                self._write_later(name, snapshot)
        self._in_memory = {}
        self._writer.shutdown(wait=True)
        return self._has_checkpoints()

    def discard(self) -> None:
        """Removes the checkpoints of this run."""
        if not self._has_checkpoints():
            return
        for name in self._headers:
            for place in list_checkpoints(self.folder / name):
                self._remove(place)
            atomic.remove_empty(self.folder / name)
        atomic.remove_empty(self.folder)

    def _has_checkpoints(self) -> bool:
        """Returns whether the folder has checkpoints of this run, and not of an earlier one."""
        is_mine = self._is_resumed or self._has_written
        return is_mine and bool(self._list_all())

    def _list_all(self) -> list[Path]:
        """Returns the checkpoints of all models that are in the folder, of whatever run."""
        return [place for model in _subfolders(self.folder) for place in list_checkpoints(model)]

    def _write_later(self, name: str, snapshot: jaxae.Snapshot) -> None:
        """Lets the thread that writes write a snapshot."""
        self._writer_slots.acquire()
        self._writer.submit(self._write, name, snapshot)

    def _write(self, name: str, snapshot: jaxae.Snapshot) -> None:
        """Writes a snapshot, and removes the checkpoints that it makes superfluous."""
        try:
            if not (self._is_resumed or self._has_written):
                self._move_away(self._list_all())
            arrays, described = checkpoint_files.flatten_snapshot(snapshot)
            header = {"identity": self._identity, "environment": self._environment, **described}
            checkpoint_files.write(
                self.folder / name / _make_checkpoint_name(snapshot),
                arrays,
                header | self._headers[name],
                staging_in=self._staging_in,
                is_ours=self._is_mine,
            )
            self._has_written = True
            for place in list_superseded(self.folder / name):
                self._remove(place)
        except Exception as error:  # a full disk, above all: what is there stays
            what = f"{snapshot.epoch} epochs of {name}"
            self._say(f"a checkpoint after {what} cannot be written: {first_line(error)}")
        finally:
            self._writer_slots.release()

    def _remove(self, place: Path) -> None:
        """Removes a folder, if it is a checkpoint of this configuration and nothing else."""
        if self._is_mine(place):
            shutil.rmtree(place, ignore_errors=True)

    def _is_mine(self, place: Path) -> bool:
        """Returns whether a folder is a checkpoint of this configuration and nothing else."""
        try:
            manifest = checkpoint_files.read_manifest(place)
        except DamagedError:
            return False
        known_files = {checkpoint_files.MANIFEST, *manifest["files"]}
        has_no_more = set(checkpoint_files.list_files(place)) <= known_files
        return has_no_more and manifest["identity"] == self._identity

    def _check_identity(self) -> None:
        """Raises InputError if a checkpoint is of another configuration."""
        changes = set()
        for path in self._list_all():
            try:
                found = checkpoint_files.read_manifest(path)
            except DamagedError:
                continue
            if found["identity"] != self._identity:
                raise InputError(
                    f"--resume: {path} is of another configuration: "
                    f"{_describe_difference(found['identity'], self._identity)}"
                )
            if found["environment"] != self._environment:
                changes.add(_describe_difference(found["environment"], self._environment))
        for change in sorted(changes):
            self._say(f"the last digits may change from here on: {change}")


class _RegisteredModels:
    """The checkpoints of models that one call trains, by their numbers: a jaxae.Checkpoints."""

    def __init__(self, store: CheckpointStore, names: Sequence[str]) -> None:
        self._store, self._names = store, names
        self.every = store.every

    def restore(self, model: int, like: jaxae.TrainState) -> jaxae.Snapshot | None:
        return self._store.restore(self._names[model], like)

    def save(self, model: int, snapshot: jaxae.Snapshot) -> None:
        self._store.save(self._names[model], snapshot)

    def should_stop(self) -> bool:
        return self._store.should_stop()


def find_models(folder: Path) -> dict[str, Path]:
    """Returns where the checkpoints are of every model below a folder, by the models' names.

    Args:
      folder: that of a run, of its checkpoints, of a model's checkpoints, or one checkpoint.
    """
    if (folder / checkpoint_files.MANIFEST).exists():
        return {folder.resolve().parent.name: folder}
    if list_checkpoints(folder):
        return {folder.resolve().name: folder}
    all_models = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    return {path.name: path for path in _subfolders(all_models) if list_checkpoints(path)}


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a model, the newest one last; no clock is asked."""
    found = []
    for path in _subfolders(folder):
        if match := _FOLDER.fullmatch(path.name):
            found.append((int(match[1]), int(match[2] or 0), path))
    return [path for _, _, path in sorted(found)]


def rank_checkpoints(folder: Path, *, best: bool) -> list[Path]:
    """Returns the checkpoints of a model: the newest first, or that with the least loss first."""
    newest_first = list_checkpoints(folder)[::-1]
    if not best:
        return newest_first
    losses = _read_losses(newest_first)
    return sorted(newest_first, key=lambda path: losses.get(path, math.inf))


def list_superseded(folder: Path) -> list[Path]:
    """Returns all checkpoints of a model but the newest ones and the best."""
    places = list_checkpoints(folder)
    losses = _read_losses(places)
    best = min(losses, key=lambda path: losses[path], default=None)
    kept = {*places[-_NEWEST_KEPT:], best}
    return [path for path in places if path not in kept]


def _read_losses(places: Sequence[Path]) -> dict[Path, float]:
    """Returns the training losses of those checkpoints that have one and are not damaged."""
    losses: dict[Path, float] = {}
    for path in places:
        with contextlib.suppress(DamagedError):
            loss = checkpoint_files.read_manifest(path)["loss"]
            if loss is not None:
                losses[path] = loss
    return losses


def _make_checkpoint_name(snapshot: jaxae.Snapshot) -> str:
    """Returns the name of a checkpoint's folder: its epochs, and its steps if it has any."""
    return f"{snapshot.epoch:06d}" + (f".{snapshot.step:06d}" if snapshot.step else "")


def _make_folder_name(name: str) -> str:
    """Returns a name that is one folder, whatever it is made from."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", name).strip("._")[:120] or "model"


def _subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, in the order of their names; none where it is missing."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _describe_difference(was: object, now: object, name: str = "") -> str:
    """Returns the first difference of two JSON values, in words."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return f"{name} was {json.dumps(was)} and is {json.dumps(now)}"
    key = next(key for key in sorted(was | now) if was.get(key) != now.get(key))
    return _describe_difference(was.get(key), now.get(key), f"{name}.{key}" if name else key)
