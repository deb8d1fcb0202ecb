"""The devices of a run: whether there are any, and over which of them a batch is divided."""

import os

import jax
from jax.sharding import Mesh

import jaxae
from experiments.common import processes
from experiments.common.errors import InputError, first_line

# Variables of the environment that ask JAX for devices.
_ASKING = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_DEFAULT_DEVICE", "JAX_NUM_CPU_DEVICES")


def require_devices() -> None:
    """Lets JAX find its devices now, and not when it first needs one.

    Raises:
      InputError: if it finds none, or not those that a variable of the environment asks for.
    """
    try:
        jax.device_put(0.0)
    except Exception as error:  # JAX, its plugins and XLA raise classes of their own
        said = f" ({first_line(error)})" if str(error) else ""
        given = [f"{name}={value}" for name in _ASKING if (value := os.environ.get(name))]
        remedy = f"; without {' and '.join(given)} it takes what this machine has" if given else ""
        raise InputError(f"JAX finds no device{said}{remedy}") from error


def mesh_of(devices: int) -> Mesh | None:
    """Returns the mesh over which batches are divided, or None for one device.

    Of several processes it has all devices.

    Raises:
      InputError: if there are not so many devices.
    """
    if processes.are_several():
        return jaxae.data_mesh()
    if devices > jax.device_count():
        raise InputError(
            f"--devices must be at most {jax.device_count()}, which is what there is, but it is "
            f"{devices}; on a CPU JAX_NUM_CPU_DEVICES={devices} makes some for a trial"
        )
    return None if devices == 1 else jaxae.data_mesh(devices=devices)
