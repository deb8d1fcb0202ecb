"""Data sets of TensorFlow Datasets that are not on the disk: downloaded, or how to get them.

MNIST's relatives are prepared here, without TensorFlow. For any other data set, and where there is
no network, the error says what is missing and prints the commands that prepare it elsewhere.
"""

import http.client
import importlib.util
import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from experiments.common.data.sources import folders, idx, names
from experiments.common.data.sources.names import Name
from experiments.common.data.sources.paths import tfds_folder
from experiments.common.errors import InputError, first_line

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

_Stored: TypeAlias = tuple[int, dict[str, object]]  # of TFDS: the key of an example, its features

_PROBE_SECONDS = 5.0


def prepare(base: "type[DatasetBuilder]", name: Name, data_dir: Path | None) -> "DatasetBuilder":
    """Returns a builder whose data were downloaded and prepared as array_record just now.

    The relatives of MNIST (IDX files) need no TensorFlow: the files come through TFDS's
    download manager with its checksums, NumPy reads them and pillow encodes the PNGs.

    Raises:
      InputError: if it cannot be prepared here, with what is missing and the commands for it.
    """
    from tensorflow_datasets.image_classification import mnist

    folder = data_dir or tfds_folder()
    missing = f"{name} is not prepared in {folder}{folders.describe(folder, *name[:2])}"
    if name.version and name.version not in (versions := _versions_of(base, name.config)):
        raise InputError(f"{missing}; it has the version {' or '.join(versions)}")
    is_idx = issubclass(base, mnist.MNIST) and name.name in idx.RELATIVES
    if not is_idx and importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"{missing}; preparing it needs TensorFlow once: pip install tensorflow && "
            f"{names.preparing_command(name, folder)}; --dataset digits needs none of this"
        )
    require_array_record(f"{name} is not prepared in {folder}, and would be")
    url = getattr(base, "URL", "https://storage.googleapis.com/")
    if not _reachable(url):
        files = ", or download the four IDX files and pass their folder as --data-dir"
        raise InputError(
            f"{missing}; {url} cannot be reached: where there is a network, run "
            f"{names.loading_command(name, data_dir)} and copy {folder} from there"
            f"{files if is_idx else ''}; --dataset digits needs no download"
        )
    options = {"config": name.config} if name.config else {}
    options |= {"version": name.version} if name.version else {}
    try:
        builder = (_idx_builder(base) if is_idx else base)(
            file_format="array_record", data_dir=folder, **options
        )
        builder.download_and_prepare()
    except InputError:
        raise
    except Exception as error:  # the download manager raises whatever its parts raise
        raise InputError(
            f"{name} could not be downloaded from {url}: {first_line(error)}"
        ) from error
    return builder


def _versions_of(base: "type[DatasetBuilder]", config: str | None) -> list[str]:
    """Returns the versions that this release of TensorFlow Datasets can prepare."""
    found = [base.VERSION, *base.SUPPORTED_VERSIONS]
    if config and (own := base.builder_configs[config]).version:
        found = [own.version, *own.supported_versions]
    return [str(version) for version in found if version]


def _idx_examples(files: idx.IdxFiles) -> Iterator[_Stored]:
    """Yields what TFDS stores of one split: a key, and the features with the pixels as PNG."""
    from PIL import Image

    for row, (pixels, label) in enumerate(zip(*idx.read_split(files), strict=True)):
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="png")
        png.seek(0)
        yield row, {"image": png, "label": int(label)}


def _idx_builder(base: "type[DatasetBuilder]") -> "type[DatasetBuilder]":
    """Returns a builder class like ``base`` that prepares IDX files without TensorFlow."""
    import tensorflow_datasets as tfds

    def split_generators(
        self: "DatasetBuilder", manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[_Stored]]:
        splits = {}
        for split, stem in (("train", "train"), ("test", "t10k")):
            urls = {
                "images": f"{self.URL}{stem}-images-idx3-ubyte.gz",
                "labels": f"{self.URL}{stem}-labels-idx1-ubyte.gz",
            }
            paths = {kind: Path(path) for kind, path in manager.download(urls).items()}
            splits[split] = _idx_examples(idx.IdxFiles(**paths))
        return splits

    with tfds.core.registered.skip_registration():
        members = {
            "__module__": base.__module__,
            "name": base.name,
            "url_infos": base.url_infos,
            "_split_generators": split_generators,
        }
        return type(base.__name__, (base,), members)


def _reachable(url: str) -> bool:
    """Returns whether anything answers at ``url`` within seconds (TFDS would retry minutes)."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def require_array_record(what_is: str) -> None:
    """Raises InputError where array_record is not installed, of which there is none for Windows."""
    if importlib.util.find_spec("array_record") is None:
        raise InputError(
            f"{what_is} in the array_record format, but the package array_record is not installed "
            "(there is none for Windows); pass --data-dir a folder of the four IDX files, or one "
            "that was prepared with file_format='tfrecord'"
        )
