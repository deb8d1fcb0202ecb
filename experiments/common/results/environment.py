"""The versions, the device and the settings of JAX with which the numbers of a run are made."""

import os
import platform
from importlib import metadata
from typing import Any

import jax

from experiments.common.files.atomic import JsonObject
from jaxae import sweep_method
from jaxae._version import __version__


def describe() -> JsonObject:
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
        "numbers": numbers(),
        "several_models": sweep_method(),
        "matmul_precision": {
            "training": jax.config.values["jax_default_matmul_precision"] or "default",
            "reported numbers": "highest",
        },
    }


def numbers() -> JsonObject:
    """Returns the settings of JAX that decide which numbers a seed gives."""
    config: Any = jax.config
    return {
        "random_generator": str(config.jax_default_prng_impl),
        "threefry_partitionable": bool(config.jax_threefry_partitionable),
        "float64": bool(config.jax_enable_x64),
    }


def version(package: str) -> str | None:
    """Returns the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
