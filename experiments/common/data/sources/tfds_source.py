"""Image data sets of TensorFlow Datasets, read and (for MNIST's relatives) prepared
without TensorFlow.

Prepared folders in the array_record format are read through ``tfds.data_source``; tfrecord
folders, which most users of TensorFlow have, record by record. Decoding 60,000 PNGs takes
seconds, so the pixels are kept in the cache.
"""

import difflib
import http.client
import importlib.util
import io
import logging
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from experiments.common.data.sources import decoded, folders, idx, names
from experiments.common.data.sources.names import Name, find_alike
from experiments.common.data.sources.paths import tfds_folder
from experiments.common.data.sources.tfrecord import read_tfrecord
from experiments.common.errors import InputError, first_line

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.features import FeatureConnector

_Stored: TypeAlias = tuple[int, dict[str, object]]  # of TFDS: the key of an example, its features

_PROBE_SECONDS = 5.0
_AT_ONCE = 512  # records that are decoded at a time


def find_name(text: str) -> Name | None:
    """Returns the name of the data set that ``text`` means, or None if it is of none.

    Letters and digits decide: ``FashionMNIST`` and ``fashion-mnist`` are ``fashion_mnist``.
    """
    if not (parsed := names.parse(text)):
        return None
    # The list of all names takes an import of TensorFlow Datasets, a second or two.
    name = find_alike(parsed.name, idx.RELATIVES) or find_alike(parsed.name, _all_names())
    if not name:
        return None
    config = find_alike(parsed.config, _configs_of(name)) if parsed.config else None
    return Name(name, config or parsed.config, parsed.version)


def unknown(text: str) -> InputError:
    """Returns the error about a name that is of no data set."""
    near = difflib.get_close_matches(text.lower(), ["digits", *_all_names()])
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return InputError(
        f"--dataset {text} is unknown: allowed are digits, the name of an image data set of "
        "TensorFlow Datasets, the path of a .npy, .npz or .csv file, or a folder of PNG or JPEG "
        f"images{hint}"
    )


def _configs_of(name: str) -> list[str]:
    import tensorflow_datasets as tfds

    return [config.name for config in tfds.builder_cls(name).builder_configs.values()]


def _all_names() -> list[str]:
    import tensorflow_datasets as tfds

    return list(tfds.list_builders(with_community_datasets=False))


def load(name: Name, data_dir: Path | None) -> decoded.Splits:
    """Returns ``{split: (images uint8 (n, h, w, c), labels (n,) or None)}`` of a data set.

    Args:
      name: name of an image data set in TensorFlow Datasets, with its config and version where
        wanted: ``mnist``, ``emnist/letters``, ``mnist:3.0.1``.
      data_dir: folder that holds ``<name>/<version>``, or one such version folder itself;
        None for the default of TensorFlow Datasets.

    Raises:
      InputError: if the data are neither there nor to be had, are damaged, or are not images of
        one size.
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

    def decode(split: str) -> decoded.Decoded:
        return _decode_split(builder, split, files[split], image, label)

    return decoded.load(files, decode)


def _open(name: Name, data_dir: Path | None) -> "DatasetBuilder":
    """Returns a builder of prepared data, preparing them first where that is possible."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)  # no advice about OpenCV
    if data_dir is not None and not data_dir.is_dir():
        hint = "; name the folder in which it lies, and unpack it if it is an archive"
        raise InputError(
            f"--data-dir {data_dir} is not a folder{hint if data_dir.is_file() else ''}"
        )
    wanted = _with_config(name)
    root = data_dir or tfds_folder()
    if not (folder := folders.find_prepared(root, *wanted)):
        return prepare(tfds.builder_cls(name.name), wanted, data_dir)
    folders.require_features(folder)
    try:
        builder = tfds.builder_from_directory(folder)
        held = _name_of(builder)
    except Exception as error:  # JSON, protobuf and tfds each raise their own classes
        raise InputError(
            f"{folder} cannot be read as a prepared data set: {first_line(error)}"
        ) from error
    is_wanted = held.name == wanted.name and held.config in (wanted.config, None)
    if not is_wanted or wanted.version not in (held.version, None):
        held = held if wanted.version else held._replace(version=None)
        raise InputError(f"{folder} holds {held}, but --dataset is {wanted}")
    return builder


def _with_config(name: Name) -> Name:
    """Returns a name with its config, which is the first one where none is given."""
    configs = _configs_of(name.name)
    if name.config and name.config not in configs:
        raise InputError(
            f"--dataset {name}: {name.name} has "
            f"{'the configs ' + ', '.join(configs) if configs else 'no configs'}"
        )
    return name if name.config else name._replace(config=next(iter(configs), None))


def _name_of(builder: "DatasetBuilder") -> Name:
    config = builder.builder_config.name if builder.builder_config else None
    return Name(builder.name, config or None, str(builder.version))


def _versions_of(base: "type[DatasetBuilder]", config: str | None) -> list[str]:
    """Returns the versions that this release of TensorFlow Datasets can prepare."""
    found = [base.VERSION, *base.SUPPORTED_VERSIONS]
    if config and (own := base.builder_configs[config]).version:
        found = [own.version, *own.supported_versions]
    return [str(version) for version in found if version]


def prepare(base: "type[DatasetBuilder]", name: Name, data_dir: Path | None) -> "DatasetBuilder":
    """Returns a builder whose data were downloaded and prepared as array_record just now.

    The relatives of MNIST (IDX files) need no TensorFlow: the files come through TFDS's
    download manager with its checksums, NumPy reads them and pillow encodes the PNGs.
    """
    from tensorflow_datasets.image_classification import mnist

    folder = data_dir or tfds_folder()
    missing = f"{name} is not prepared in {folder}{folders.describe(folder, *name[:2])}"
    if name.version and name.version not in (versions := _versions_of(base, name.config)):
        raise InputError(f"{missing}; it has the version {' or '.join(versions)}")
    is_idx = issubclass(base, mnist.MNIST) and name.name in idx.RELATIVES
    if not is_idx and not _has_tensorflow():
        raise InputError(
            f"{missing}; preparing it needs TensorFlow once: pip install tensorflow && "
            f"{names.preparing_command(name, folder)}; --dataset digits needs none of this"
        )
    _require_array_record(f"{name} is not prepared in {folder}, and would be")
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


def _feature_names(name: Name, features: "FeatureConnector") -> tuple[str, str | None]:
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
    builder: "DatasetBuilder", split: str, paths: list[Path], image: str, label: str | None
) -> decoded.Decoded:
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

    return decoded.Decoded(expected, rows(), label is not None)


def _rows(
    builder: "DatasetBuilder", split: str, paths: list[Path]
) -> Iterable[dict[str, np.ndarray]]:
    """Returns an iterable of the decoded examples of a split, in the order of the files."""
    if any(".tfrecord" in path.name for path in paths):
        decode = builder.info.features.deserialize_example_np
        return (decode(record) for path in paths for record in read_tfrecord(path))
    _require_array_record(f"{paths[0]} is")
    # Many at a time: a quarter faster than one by one, and faster than in threads.
    source = builder.as_data_source(split)
    rows = range(len(source))
    pieces = (rows[begin : begin + _AT_ONCE] for begin in range(0, len(rows), _AT_ONCE))
    return (row for piece in pieces for row in source.__getitems__(list(piece)))


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
