"""Image data sets of TensorFlow Datasets, read without TensorFlow.

Prepared folders in the array_record format are read through ``tfds.data_source``; tfrecord
folders, which most users of TensorFlow have, record by record. What is not there yet is
downloaded by ``tfds_prepare``. Decoding 60,000 PNGs takes seconds, so the pixels are kept in the
cache.
"""

import difflib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.common.data.sources import decoded, folders, idx, names, tfds_prepare
from experiments.common.data.sources.names import Name, find_alike
from experiments.common.data.sources.paths import tfds_folder
from experiments.common.data.sources.tfrecord import read_tfrecord
from experiments.common.errors import InputError, first_line

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.features import FeatureConnector

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
    if any(separator in text for separator in "/\\") or Path(text).suffix:
        hint += "; there is no file or folder of this name"
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
        return tfds_prepare.prepare(tfds.builder_cls(name.name), wanted, data_dir)
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
    tfds_prepare.require_array_record(f"{paths[0]} is")
    # Many at a time: a quarter faster than one by one, and faster than in threads.
    source = builder.as_data_source(split)
    rows = range(len(source))
    pieces = (rows[begin : begin + _AT_ONCE] for begin in range(0, len(rows), _AT_ONCE))
    return (row for piece in pieces for row in source.__getitems__(list(piece)))
