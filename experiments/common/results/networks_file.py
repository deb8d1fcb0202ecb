"""The few networks that a run keeps for the widgets of the lecture's page, in one file.

``networks.safetensors`` lies in the result folder, beside ``metrics.json``. The kernels of networks
are stored in half precision, as they are embedded in the page; what is small keeps single
precision, and other arrays keep their dtype. The header of the file says what the networks are. A
result folder without the file is complete: then the page has no widget for it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from experiments.common.data.datasets import Dataset
from experiments.common.errors import InputError, first_line
from experiments.common.files.atomic import JsonObject

NAME = "networks.safetensors"
# Of the networks in one file. The page embeds five files as base64 and shall have less than 10 MB,
# figures included; on MNIST this is one sparse autoencoder with 256 units.
MOST_BYTES = 820_000
# Numbers in an array of a network that is not rounded to half precision: biases, and kernels from
# and to the plane. That halves the error of a vector field, and costs next to nothing.
_SMALL = 1024
_ABOUT = "about"  # the entry of the header


class KeptNetwork(NamedTuple):
    """A network that is kept.

    Attributes:
      name: its arrays are stored as ``name/parameter``.
      params: its parameters by name.
      about: values of JSON that say what it is.
    """

    name: str
    params: Mapping[str, Array | np.ndarray]
    about: JsonObject


class NetworksFile(NamedTuple):
    """The content of a file of networks.

    Attributes:
      about: what the run says of them; ``networks`` is a list with the name of each.
      arrays: all arrays by name.
    """

    about: JsonObject
    arrays: dict[str, np.ndarray]


def describe_examples(dataset: Dataset) -> tuple[dict[str, np.ndarray], JsonObject]:
    """Returns a test image of each class as rows, and the shape and the classes of these images."""
    rows, labels = dataset.one_of_each_class(), dataset.test_labels
    classes = None if labels is None else labels[rows].tolist()
    images = np.asarray(dataset.test[rows], np.float16).reshape(len(rows), -1)
    return {"examples": images}, {"shape": dataset.example_shape, "labels": classes}


def write(
    path: Path,
    networks: Sequence[KeptNetwork],
    arrays: Mapping[str, Array | np.ndarray],
    about: JsonObject,
) -> None:
    """Writes a file of networks.

    Args:
      path: the file.
      networks: those wanted most first; what exceeds ``MOST_BYTES`` is left out.
      arrays: what the widget needs beside the networks, by name; left out if no network is kept.
      about: values of JSON that say what the networks have in common.

    Raises:
      OSError: if it cannot be written.
    """
    import safetensors.numpy

    stored: dict[str, np.ndarray] = {}
    kept, free = [], MOST_BYTES
    for network in networks:
        own = {f"{network.name}/{name}": _round(array) for name, array in network.params.items()}
        size = sum(array.nbytes for array in own.values())
        if size <= free:
            free -= size
            stored |= own
            kept.append({"name": network.name, **network.about})
    if kept:
        stored |= {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = {_ABOUT: json.dumps({**about, "networks": kept})}
    path.write_bytes(safetensors.numpy.save(stored, header))


def _round(array: Array | np.ndarray) -> np.ndarray:
    """Returns an array in half precision, or in single precision if it is small."""
    return np.ascontiguousarray(array, np.float32 if array.size <= _SMALL else np.float16)


def read(folder: Path) -> NetworksFile:
    """Returns the networks that a run has left in its result folder.

    Raises:
      InputError: if there are none, or the file cannot be read.
    """
    import safetensors

    path = folder / NAME
    if not path.is_file():
        raise InputError(f"{folder} has no {NAME}: its results are older than that file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            about = json.loads(file.metadata()[_ABOUT])
            about["networks"] = list(about["networks"])
            return NetworksFile(about, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except Exception as error:  # damaged bytes raise whatever their reader raises
        raise InputError(f"{path} is damaged: {first_line(error)}") from error
