"""Image data sets of TensorFlow Datasets, read and (for MNIST's relatives) prepared
without TensorFlow.

Prepared folders in the array_record format are read through ``tfds.data_source``; tfrecord
folders, which most users of TensorFlow have, record by record. Decoding 60,000 PNGs takes
seconds, so the pixels are kept as plain arrays in a cache named after the content of the
files, and memory-mapped from then on.
"""

import difflib
import hashlib
import http.client
import io
import json
import logging
import os
import re
import shutil
import struct
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import idx
from experiments.common.errors import InputError, first_line

_PROBE_SECONDS = 5.0
_CACHE_VERSION = "2"
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
Splits = dict[str, tuple[np.ndarray, np.ndarray | None]]


def load(name: str, data_dir: Path | None) -> Splits:
    """Returns ``{split: (images uint8 (n, h, w, c), labels (n,) or None)}`` of a data set.

    Args:
      name: name of an image data set in TensorFlow Datasets, with its config and version where
        wanted: ``"mnist"``, ``"emnist/letters"``, ``"mnist:3.0.1"``.
      data_dir: folder that holds ``<name>/<version>``, or one such version folder itself;
        None for the default of TensorFlow Datasets.

    Raises:
      InputError: if the name is unknown, the data are neither there nor to be had, are
        damaged, or are not images of one size.
    """
    builder = _open(name, data_dir)
    if "train" not in builder.info.splits:
        found = ", ".join(builder.info.splits) or "none"
        raise InputError(f"--dataset {name} has no split named train, but {found}")
    files = {
        split: [Path(path) for path in info.filepaths]
        for split, info in sorted(builder.info.splits.items())
        if split in ("train", "test", "validation")
    }
    features = builder.info.features
    image, label = _feature_names(name, features)
    for path in (path for paths in files.values() for path in paths):
        if not path.is_file():
            raise InputError(f"{path} is missing; prepare the data set {name} again")

    def decode() -> Splits:
        return {
            split: _decode_split(builder, split, paths, image, label)
            for split, paths in files.items()
        }

    return _cached(files, decode)


def _open(name: str, data_dir: Path | None) -> Any:
    """Returns a builder of prepared data, preparing them first where that is possible."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)  # no advice about OpenCV
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir} is not a folder")
    parsed = _NAME.fullmatch(name)
    try:
        base = tfds.builder_cls(parsed["name"] if parsed else name)
    except Exception:  # tfds raises several classes here, some only for odd names
        base = None
    if parsed is None or base is None:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(
            f"--dataset {name} is unknown: allowed are digits, the name of an image data set of "
            f"TensorFlow Datasets, or the path of a .npy or .npz file{hint}"
        )
    configs = [config.name for config in base.builder_configs.values()]
    if parsed["config"] and parsed["config"] not in configs:
        raise InputError(
            f"--dataset {name}: {base.name} has "
            f"{'the configs ' + ', '.join(configs) if configs else 'no configs'}"
        )
    config = parsed["config"] or (configs[0] if configs else None)
    root = data_dir or Path(tfds.core.constants.DATA_DIR)
    if folder := _prepared_folder(root, base.name, config, parsed["version"]):
        try:
            builder = tfds.builder_from_directory(folder)
        except Exception as error:  # JSON, protobuf and tfds each raise their own classes
            raise InputError(
                f"{folder} cannot be read as a prepared data set: {first_line(error)}"
            ) from error
        if builder.name != base.name:
            raise InputError(f"{folder} holds {builder.name}, but --dataset is {name}")
        return builder
    return prepare(base, data_dir, config)


def _prepared_folder(root: Path, name: str, config: str | None, version: str | None) -> Path | None:
    """Returns the folder of the wanted or newest version, as TFDS lays them out."""
    places = [root / name / config] if config else []
    found = [root] if (root / "dataset_info.json").is_file() else []
    for parent in (*places, root / name, root):
        found += [info.parent for info in parent.glob("*/dataset_info.json")]
    finished = [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    wanted = [path for path in finished if version in (None, path.name)]
    return max(wanted, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def prepare(base: Any, data_dir: Path | None, config: str | None = None) -> Any:
    """Returns a builder whose data were downloaded and prepared as array_record just now.

    The relatives of MNIST (IDX files) need no TensorFlow: the files come through TFDS's
    download manager with its checksums, NumPy reads them and pillow encodes the PNGs.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification import mnist

    name, folder = base.name, data_dir or Path(tfds.core.constants.DATA_DIR)
    arguments: dict[str, Any] = {"file_format": "array_record"}
    arguments |= {"data_dir": data_dir} if data_dir else {}
    arguments |= {"config": config} if config else {}
    is_idx = issubclass(base, mnist.MNIST) and name in idx.RELATIVES
    if not is_idx and not _has_tensorflow():
        raise InputError(
            f"{name} is not prepared in {folder}, and preparing it needs TensorFlow once: "
            'pip install tensorflow && python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\"; "
            "--dataset digits needs none of this"
        )
    url = getattr(base, "URL", "https://storage.googleapis.com/")
    if not _reachable(url):
        raise InputError(
            f"{name} is not prepared in {folder} and {url} cannot be reached: where there is a "
            f"network, run python -m experiments.denoising --dataset {name} --quick and copy "
            f"{folder}, or download the four IDX files and pass their folder as --data-dir; "
            "--dataset digits needs no download"
        )
    try:
        builder = (_idx_builder(base) if is_idx else base)(**arguments)
        builder.download_and_prepare()
    except InputError:
        raise
    except Exception as error:  # the download manager raises whatever its parts raise
        raise InputError(
            f"{name} could not be downloaded from {url}: {first_line(error)}"
        ) from error
    return builder


def _idx_examples(files: idx.IdxFiles) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields what TFDS stores of one split: a key, and the features with the pixels as PNG."""
    from PIL import Image

    for row, (pixels, label) in enumerate(zip(*idx.read_split(files), strict=True)):
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="png")
        png.seek(0)
        yield row, {"image": png, "label": int(label)}


def _idx_builder(base: Any) -> Any:
    """Returns a builder class like ``base`` that prepares IDX files without TensorFlow."""
    import tensorflow_datasets as tfds

    def split_generators(self: Any, manager: Any) -> dict[str, Any]:
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


def _feature_names(name: str, features: Any) -> tuple[str, str | None]:
    import tensorflow_datasets as tfds

    items = dict(features.items()) if hasattr(features, "items") else {}
    images = [key for key, feature in items.items() if isinstance(feature, tfds.features.Image)]
    labels = [
        key for key, feature in items.items() if isinstance(feature, tfds.features.ClassLabel)
    ]
    if not images:
        raise InputError(f"--dataset {name} holds no images, but {', '.join(items) or 'nothing'}")
    if None in items[images[0]].shape:
        raise InputError(f"--dataset {name} holds images of different sizes; one size is needed")
    return images[0], labels[0] if labels else None


def _decode_split(
    builder: Any, split: str, paths: list[Path], image: str, label: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    features = builder.info.features
    try:
        if any(".tfrecord" in path.name for path in paths):
            rows: Any = (
                features.deserialize_example_np(record)
                for path in paths
                for record in read_tfrecord(path)
            )
        else:
            source = builder.as_data_source(split)
            rows = (source[i] for i in range(len(source)))
        pairs = [(row[image], row[label] if label else 0) for row in rows]
        images = np.stack([pixels for pixels, _ in pairs])
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever damaged bytes make them raise
        raise InputError(
            f"{paths[0]} cannot be decoded: {first_line(error)}; is it damaged?"
        ) from error
    expected = builder.info.splits[split].num_examples
    if len(pairs) != expected:
        raise InputError(f"{paths[0]} holds {len(pairs)} examples of {expected}; is it truncated?")
    return images, np.asarray([number for _, number in pairs]) if label else None


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file: length, its checksum, bytes, their checksum.

    The lengths must add up to the file; the checksums are not verified.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while header := file.read(12):
            if len(header) < 12:
                raise InputError(f"{path} ends within a record header; is it truncated?")
            (length,) = struct.unpack("<Q", header[:8])
            if length + 4 > size - file.tell():
                raise InputError(f"{path} ends within a record; is it damaged or truncated?")
            yield file.read(length + 4)[:length]


def _cached(files: dict[str, list[Path]], decode: Callable[[], Splits]) -> Splits:
    """Returns ``decode()``, or what it returned earlier for files with the same content."""
    digest = hashlib.sha256(_CACHE_VERSION.encode())
    for path in (path for paths in files.values() for path in paths):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    entry = cache_folder() / digest.hexdigest()[:32]
    try:
        return _read_entry(entry, sorted(files))
    except Exception:  # not there, or damaged in whatever way: decode again
        pass
    splits = decode()
    try:
        _write_entry(entry, splits)
    except OSError as error:
        logging.getLogger(__name__).warning("decoded images are not kept: %s", error)
    return splits


def cache_folder() -> Path:
    """Returns the per-user folder of decoded data: $JAXAE_CACHE_DIR, or the XDG default."""
    if own := os.environ.get("JAXAE_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxae"


def _read_entry(entry: Path, wanted: list[str]) -> Splits:
    index = json.loads((entry / "index.json").read_text())
    if sorted(index) != wanted:
        raise ValueError(f"index.json has not the splits {wanted}")
    splits: Splits = {}
    for split, digests in index.items():
        arrays = {}
        for part, digest in digests.items():
            array = np.load(entry / f"{split}_{part}.npy", mmap_mode="r", allow_pickle=False)
            if hashlib.sha256(array.data).hexdigest() != digest:
                raise ValueError(f"{split}_{part}.npy is damaged")
            arrays[part] = array
        splits[split] = arrays["images"], arrays.get("labels")
    return splits


def _write_entry(entry: Path, splits: Splits) -> None:
    """Writes a cache entry beside its place and renames it, so that it is whole or absent."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=entry.parent))
    try:
        index = {}
        for split, (images, labels) in splits.items():
            parts = {"images": images} | ({} if labels is None else {"labels": labels})
            for part, array in parts.items():
                np.save(staging / f"{split}_{part}.npy", array, allow_pickle=False)
            index[split] = {
                part: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
                for part, array in parts.items()
            }
        (staging / "index.json").write_text(json.dumps(index))
        if entry.exists():
            shutil.rmtree(entry)
        staging.rename(entry)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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


def _has_tensorflow() -> bool:
    import importlib.util

    return importlib.util.find_spec("tensorflow") is not None
