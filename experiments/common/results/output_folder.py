"""The result files of a run: config, metrics, log and figures.

Files are written into a hidden folder beside their place and renamed when the run is over. A
listing, ``.files.json``, names them with their digests: only what it proves to be written here is
replaced or removed. A run that fails leaves what was there before.
"""

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.common import interrupts
from experiments.common.data.datasets import Dataset
from experiments.common.errors import InputError
from experiments.common.files import atomic, locks
from experiments.common.files.atomic import JsonObject
from experiments.common.results import environment
from jaxae._version import __version__

_LISTING = ".files.json"
_OWNER = ".owner.json"  # in a hidden folder: the program that made it
NUMBERS = ("config.json", "log.jsonl", "metrics.json")


class RunRecord:
    """Collects the files of one run; use it as a context manager.

    Args:
      folder: where they shall be.
      *names: files that the run will write there, beside its numbers, as far as they are known.

    Raises:
      InputError: on entry, if the folder cannot be made or written, another run writes to it, or a
        file is in the way that no run has written.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self._names = (*NUMBERS, *names)
        self._is_published = False
        self._is_kept = False  # the hidden folder, when the run is over
        self._log_lines: list[str] = []  # that could not be written yet
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> "RunRecord":
        self._require_free([*self._names, _LISTING])
        try:
            with interrupts.deferred():  # so that it is known what has been made
                self._open()
        except BaseException:
            self._opened.close()
            raise
        return self

    def _open(self) -> None:
        try:
            ancestors = [self.folder, *self.folder.parents]
            missing = [path for path in ancestors if not path.exists()]
            self._opened.callback(atomic.remove_empty, *missing)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._opened.enter_context(locks.held(self.folder / ".lock", seconds=0))
            _remove_partial_folders(self.folder)
            self._staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
            self._opened.callback(self._remove_staging)
            self._opened.enter_context(_temporary_files_in(self._staging))
            owner = {"program": "jaxae", "version": __version__}
            self.path(_OWNER).write_text(json.dumps(owner), encoding="utf-8")
            log = self._staging / "log.jsonl"
            self._log = open(log, "wb", buffering=0)  # noqa: SIM115 (closed with the rest)
            self._opened.callback(self._log.close)
        except locks.HeldError as error:
            raise InputError(
                f"another run is writing to --out {self.folder}; wait for it, or take another "
                f"folder ({error})"
            ) from None
        except OSError as error:
            raise InputError(
                f"--out {self.folder} cannot be written as a folder: {error.strerror or error}"
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            atomic.name_place(error, self.folder)
        try:
            with self._opened:
                if kind is None and not self._is_published:
                    self.publish()
        except OSError as failed:
            atomic.name_place(failed, self.folder)
            raise

    def publish(self, *names: str) -> None:
        """Renames files into place, and removes what an earlier run left there.

        Args:
          *names: the files; by default all.

        Raises:
          InputError: if something is in the way; then nothing is renamed, and all files stay in
            the hidden folder, which no later run removes.
        """
        if not names:
            files = {path.name for path in self._staging.iterdir() if path.is_file()}
            names = tuple(sorted(files - {_OWNER}))
        self._write_log_lines()
        self._log.close()  # Windows renames no open file
        try:
            self._require_free([*names, _LISTING])
        except InputError as error:
            self.path(_OWNER).unlink()
            self._is_kept = True
            raise InputError(f"{error}; the results of this run are in {self._staging}") from None
        mine = {name: [atomic.file_digest(self._staging / name)] for name in names}
        earlier = _read_listing(self.folder)
        # Whenever the machine stops, the listing has every file that is there.
        both = {name: earlier.get(name, []) + mine.get(name, []) for name in {*mine, *earlier}}
        self._write_listing(both)
        for name in names:
            os.replace(self._staging / name, self.folder / name)
        for name in earlier.keys() - mine.keys():
            if _is_listed(self.folder / name, earlier):
                (self.folder / name).unlink()
        self._write_listing(mine)
        self._is_published = True

    def _write_listing(self, files: dict[str, list[str]]) -> None:
        text = json.dumps(files, indent=1, sort_keys=True) + "\n"
        atomic.write_text(self.folder / _LISTING, text, partial=self.path(_LISTING))

    def _require_free(self, names: Sequence[str]) -> None:
        """Raises InputError if one of the files would replace what no run has written."""
        listed = _read_listing(self.folder)
        for name in names:
            path = self.folder / name
            if os.path.isdir(path):
                raise InputError(f"--out {self.folder} has a folder named {name}; move it away")
            if name != _LISTING and os.path.lexists(path) and not _is_listed(path, listed):
                raise InputError(
                    f"--out {self.folder} has a file {name} that no run has written, or that was "
                    "changed since; move it away, or take another folder"
                )

    def path(self, name: str) -> Path:
        """Returns where to write the file that shall be called ``name``."""
        return self._staging / name

    def log(self, **entry: object) -> None:
        """Adds one line to ``log.jsonl``; what the disk does not take now is written later."""
        self._log_lines.append(json.dumps(_finite(entry)) + "\n")
        with contextlib.suppress(OSError):
            self._write_log_lines()

    def _write_log_lines(self) -> None:
        begin, text = self._log.tell(), "".join(self._log_lines).encode()
        try:
            while text:
                text = text[self._log.write(text) :]
        except OSError:  # no half of a line stays
            self._log.seek(begin)
            self._log.truncate()
            raise
        self._log_lines.clear()

    def write_json(self, name: str, value: object) -> None:
        """Writes a JSON file; numbers that are not finite become null."""
        text = json.dumps(_finite(value), indent=2) + "\n"
        self.path(name).write_text(text, encoding="utf-8")

    def _remove_staging(self) -> None:
        if not self._is_kept:
            shutil.rmtree(self._staging, ignore_errors=True)


def default_folder(experiment: str, dataset: str) -> Path:
    """Returns ``results/<experiment>/<dataset>``, with a data set's name made a folder's name."""
    folder = re.sub(r"[^\w.+-]", "_", dataset)[-60:].lstrip(".-").rstrip(".")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", folder):  # devices of Windows
        folder = f"_{folder}"
    return Path("results") / experiment / (folder or "data")


def configuration(settings: JsonObject, dataset: Dataset | None) -> JsonObject:
    """Returns what ``config.json`` holds: all settings, digests of the data, versions, device.

    The digests are of the examples that were used, and of the whole set they are from;
    ``dataset`` is None where the data are synthetic.
    """
    return {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in settings.items()
        },
        "data_sha256": None if dataset is None else dataset.fingerprint(),
        "source_sha256": None if dataset is None else dataset.source,
        "environment": environment.describe(),
    }


def _read_listing(folder: Path) -> dict[str, list[str]]:
    """Returns the digests that each file of earlier runs may have, by name.

    A listing that is missing or damaged has no names. Earlier versions listed names alone; their
    files have the digest "any".
    """
    try:
        if not (folder / _LISTING).is_file():  # to open a named pipe would wait forever
            return {}
        found = json.loads((folder / _LISTING).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if isinstance(found, list):
        found = {name: ["any"] for name in found if isinstance(name, str)}
    if not isinstance(found, dict):
        return {}
    return {
        name: [digest for digest in digests if isinstance(digest, str)]
        for name, digests in found.items()
        if name == Path(name).name not in ("", "..") and isinstance(digests, list)
    }


def _is_listed(path: Path, listed: dict[str, list[str]]) -> bool:
    """Returns whether a file is one that a run has written, and has not changed since."""
    digests = listed.get(path.name, [])
    try:
        return "any" in digests or (bool(digests) and atomic.file_digest(path) in digests)
    except OSError:
        return False


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Lets temporary files be in a folder, where the system has no place for them.

    In a container that can write to the results alone, matplotlib would not be imported.
    """
    before = tempfile.tempdir
    with contextlib.ExitStack() as opened:
        try:
            tempfile.gettempdir()
        except FileNotFoundError:
            tempfile.tempdir = str(folder)
            if not os.environ.get("MPLCONFIGDIR"):  # else it would warn, and miss it at the end
                os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
                opened.callback(os.environ.pop, "MPLCONFIGDIR", None)
        opened.callback(setattr, tempfile, "tempdir", before)
        yield


def _remove_partial_folders(folder: Path) -> None:
    """Removes the hidden folders of runs that were killed; to be called with the lock held."""
    for stale in folder.glob(".partial-*"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            owner = json.loads((stale / _OWNER).read_text(encoding="utf-8"))
            if owner.get("program") == "jaxae":
                shutil.rmtree(stale, ignore_errors=True)


def _finite(value: Any) -> Any:
    """Returns ``value`` with NaN and infinities, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
