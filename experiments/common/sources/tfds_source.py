"""Image data sets of TensorFlow Datasets, read and (for MNIST's relatives) prepared
without TensorFlow.

Prepared folders in the array_record format are read through ``tfds.data_source``; tfrecord
folders, which most users of TensorFlow have, record by record. Decoding 60,000 PNGs takes
seconds, so the pixels are kept as plain arrays in a cache named after the content of the
files, and read from there from then on.
"""

import difflib
import hashlib
import http.client
import importlib.util
import io
import json
import logging
import os
import re
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import whole
from experiments.common.errors import InputError, first_line
from experiments.common.sources import cache, idx
from experiments.common.sources.rows_file import RowsFile

_PROBE_SECONDS = 5.0
_AT_ONCE = 512  # records that are decoded at a time
_CACHE_VERSION = "3"
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
# Images are an array, or what is indexed like one.
Splits = dict[str, tuple[Any, np.ndarray | None]]


class Decoded(NamedTuple):
    """A split that is being decoded.

    Attributes:
      examples: how many it has.
      rows: yields their images and labels, one by one.
      has_labels: whether the labels mean anything.
    """

    examples: int
    rows: Iterator[tuple[np.ndarray, int]]
    has_labels: bool


Decode = Callable[[str], Decoded]


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

    def decode(split: str) -> Decoded:
        return _decode_split(builder, split, files[split], image, label)

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
    _require_array_record(f"{name} is not prepared in {folder}, and would be")
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
) -> Decoded:
    expected = builder.info.splits[split].num_examples

    def rows() -> Iterator[tuple[np.ndarray, int]]:
        count = 0
        try:
            for row in _rows(builder, split, paths):
                count += 1
                yield row[image], int(row[label]) if label else 0
        except InputError:
            raise
        except Exception as error:  # decoders raise whatever damaged bytes make them raise
            raise InputError(
                f"{paths[0]} cannot be decoded: {first_line(error)}; is it damaged?"
            ) from error
        if count != expected:
            raise InputError(f"{paths[0]} holds {count} examples of {expected}; is it truncated?")

    return Decoded(expected, rows(), label is not None)


def _rows(builder: Any, split: str, paths: list[Path]) -> Iterable[Any]:
    """Returns what gives the decoded examples of a split one by one, in the order of the files."""
    if any(".tfrecord" in path.name for path in paths):
        decode = builder.info.features.deserialize_example_np
        return (decode(record) for path in paths for record in read_tfrecord(path))
    _require_array_record(f"{paths[0]} is")
    # Many at a time: a quarter faster than one by one, and faster than in threads.
    source = builder.as_data_source(split)
    rows = range(len(source))
    pieces = (rows[begin : begin + _AT_ONCE] for begin in range(0, len(rows), _AT_ONCE))
    return (row for piece in pieces for row in source.__getitems__(list(piece)))


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


def _cached(files: dict[str, list[Path]], decode: Decode) -> Splits:
    """Returns decoded splits, from the cache if files with the same content were decoded before."""
    digest = hashlib.sha256(_CACHE_VERSION.encode())
    for path in (path for paths in files.values() for path in paths):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    try:
        with cache.turn() as folder:
            entry = folder / digest.hexdigest()[:32]
            try:
                return _read_entry(entry, sorted(files))
            except Exception:  # not there, or damaged in whatever way: decode again
                pass
            whole.write_folder(entry, lambda staging: _write_entry(staging, sorted(files), decode))
            return _read_entry(entry, sorted(files))
    except OSError as error:
        logging.getLogger(__name__).warning("decoded images are not kept: %s", error)
    return {split: _in_memory(decode(split)) for split in sorted(files)}


def _in_memory(decoded: Decoded) -> tuple[np.ndarray, np.ndarray | None]:
    pairs = list(decoded.rows)
    labels = np.asarray([label for _, label in pairs]) if decoded.has_labels else None
    return np.stack([image for image, _ in pairs]), labels


def _read_entry(entry: Path, wanted: list[str]) -> Splits:
    index = json.loads((entry / "index.json").read_text())
    if sorted(index) != wanted:
        raise ValueError(f"index.json has not the splits {wanted}")
    splits: Splits = {}
    for split, digests in index.items():
        arrays: dict[str, Any] = {}
        for part, digest in digests.items():
            path = entry / f"{split}_{part}.npy"
            if _sha256(path) != digest:
                raise ValueError(f"{path} is damaged")
            arrays[part] = RowsFile(path) if part == "images" else np.load(path)
        splits[split] = arrays["images"], arrays.get("labels")
    return splits


def _write_entry(staging: Path, splits: Sequence[str], decode: Decode) -> None:
    """Writes the arrays of all splits; images go to the disk as they are decoded."""
    index: dict[str, dict[str, str]] = {}
    for split in splits:
        decoded = decode(split)
        path = staging / f"{split}_images.npy"
        labels = _write_images(path, decoded)
        index[split] = {"images": _sha256(path)}
        if decoded.has_labels:
            path = staging / f"{split}_labels.npy"
            np.save(path, labels, allow_pickle=False)
            index[split]["labels"] = _sha256(path)
    (staging / "index.json").write_text(json.dumps(index))


def _write_images(path: Path, decoded: Decoded) -> np.ndarray:
    """Writes images as one array, and returns their labels."""
    labels = np.zeros(decoded.examples, np.int64)
    with open(path, "wb") as file:
        for row, (image, label) in enumerate(decoded.rows):
            if row == 0:
                header = {"descr": image.dtype.str, "fortran_order": False}
                header["shape"] = (decoded.examples, *image.shape)
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(image).data)
            if row < decoded.examples:  # more are an error at the end
                labels[row] = label
    return labels


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    return importlib.util.find_spec("tensorflow") is not None


def _require_array_record(what_is: str) -> None:
    """Raises InputError where array_record is not installed, of which there is none for Windows."""
    if importlib.util.find_spec("array_record") is None:
        raise InputError(
            f"{what_is} in the array_record format, but the package array_record is not installed "
            "(there is none for Windows); pass --data-dir a folder of the four IDX files, or one "
            "that was prepared with file_format='tfrecord'"
        )
