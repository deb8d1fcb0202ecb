"""What a run leaves behind: config, metrics, log and figures, all of them whole or none.

Files are written into a hidden folder beside their place and renamed when the run is over;
a run that fails leaves what was there before.
"""

import contextlib
import fcntl
import json
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from experiments.common.data import Dataset
from experiments.common.errors import InputError
from jaxae import sweep_method
from jaxae._version import __version__

_LISTING = ".files.json"  # what the last run wrote, so that the next one leaves nothing stale
_ALWAYS = ("config.json", "log.jsonl", "metrics.json", _LISTING)


class RunRecord:
    """Collects the files of one run; use it as a context manager.

    Raises:
      InputError: on entry, if the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[Path] = []

    def __enter__(self) -> "RunRecord":
        self._require_room_for(_ALWAYS)
        try:
            ancestors = [self.folder, *self.folder.parents]
            self._made = [path for path in ancestors if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder)
            for stale in self.folder.glob(".partial-*"):  # of a run that was killed
                shutil.rmtree(stale, ignore_errors=True)
            self._staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        except OSError as error:
            self._remove_made()
            raise InputError(
                f"--out {self.folder} cannot be written as a folder: {error.strerror or error}"
            ) from error
        self._log = open(self._staging / "log.jsonl", "w", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.close()
        if kind is None:
            self._publish()
        shutil.rmtree(self._staging, ignore_errors=True)
        if kind is not None:
            self._remove_made()
        os.close(self._lock)

    def _publish(self) -> None:
        """Renames all files into place, and removes what an earlier run left there."""
        names = sorted(path.name for path in self._staging.iterdir())
        self._require_room_for(names, f"; the results of this run are in {self._staging}")
        listing = self.folder / _LISTING
        earlier = _listed(listing)
        for name in names:
            os.replace(self._staging / name, self.folder / name)
        for name in earlier - set(names):
            with contextlib.suppress(OSError, ValueError):  # a folder, or no name at all
                (self.folder / name).unlink()
        self.path(_LISTING).write_text(json.dumps(names), encoding="utf-8")
        os.replace(self.path(_LISTING), listing)

    def _require_room_for(self, names: Sequence[str], hint: str = "") -> None:
        """Raises InputError if a folder has the name of a file."""
        for name in names:
            if os.path.isdir(self.folder / name):
                raise InputError(
                    f"--out {self.folder} has a folder named {name}; move it away{hint}"
                )

    def path(self, name: str) -> Path:
        """Returns where to write the file that shall be called ``name``."""
        return self._staging / name

    def log(self, **entry: Any) -> None:
        """Adds one line to ``log.jsonl``."""
        self._log.write(json.dumps(_finite(entry)) + "\n")
        self._log.flush()

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file; numbers that are not finite become null."""
        text = json.dumps(_finite(value), indent=2) + "\n"
        self.path(name).write_text(text, encoding="utf-8")

    def _remove_made(self) -> None:
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                return  # not empty, or never made


def _locked(folder: Path) -> int:
    """Returns the handle of a folder that no other run uses until it is closed, however.

    Raises:
      InputError: if another run uses it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"another run is writing to --out {folder}; wait for it, or take another folder"
        ) from None
    except OSError:  # a file system without locks
        pass
    return handle


def default_folder(experiment: str, dataset: str) -> Path:
    """Returns ``results/<experiment>/<dataset>``, with a data set's name made a folder's name."""
    folder = re.sub(r"[^\w.+-]", "_", dataset)[-60:].lstrip(".-")
    return Path("results") / experiment / (folder or "data")


def configuration(settings: dict[str, Any], dataset: Dataset | None) -> dict[str, Any]:
    """Returns what ``config.json`` holds: all settings, digests of the data, versions, device.

    The digests are of the examples that were used, and of the whole set they are from;
    ``dataset`` is None where the data are synthetic.
    """
    plain = lambda value: str(value) if isinstance(value, Path) else value
    return {
        "settings": {name: plain(value) for name, value in settings.items()},
        "data_sha256": None if dataset is None else dataset.fingerprint(),
        "source_sha256": None if dataset is None else dataset.source,
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """Returns the versions and the device that the numbers were made with."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "jaxae": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "cores": os.cpu_count(),
        },
        "several_models": sweep_method(),
        "matmul_precision": {
            "training": jax.config.values["jax_default_matmul_precision"] or "default",
            "reported numbers": "highest",
        },
    }


def over_seeds(values: Sequence[float], unit: str) -> dict[str, Any]:
    """Returns mean and sample standard deviation of one number over the seeds."""
    array = np.asarray(values, np.float64)
    return {
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if len(array) > 1 and np.isfinite(array).all() else None,
        "values": array.tolist(),
        "unit": unit,
    }


def _listed(listing: Path) -> set[str]:
    """Returns the names in a listing that are plain file names, and none if it is damaged."""
    try:
        names = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    names = names if isinstance(names, list) else []
    return {n for n in names if isinstance(n, str) and n == Path(n).name and n not in ("", "..")}


def version(package: str) -> str | None:
    """Returns the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _finite(value: Any) -> Any:
    """Returns ``value`` with NaN and infinities, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
