"""How XLA compiles: kept programs, and the precision of products."""

import os
import stat
from pathlib import Path
from typing import Literal

import jax

from experiments.common.errors import InputError

Products = Literal["float32", "bfloat16"]


def use_cache(folder: Path) -> None:
    """Keeps compiled programs in a folder, and takes them from it.

    They are machine code, so the folder must be the user's own: what somebody else put there
    would be run.

    Raises:
      InputError: if the folder cannot be made, is another user's, or is writable by others.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise InputError(
            f"--compilation-cache {folder} cannot be made a folder: {error.strerror or error}"
        ) from error
    # Elsewhere the bits mean nothing; a new folder has the rights of the one that it is in.
    if hasattr(os, "getuid"):
        if found.st_uid != os.getuid():
            raise InputError(f"--compilation-cache {folder} belongs to another user; take your own")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InputError(
                f"--compilation-cache {folder} can be written by others, who could make you run "
                "their programs; chmod go-w, or take another folder"
            )
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def expand_jax_cache() -> None:
    """Expands ``~`` in $JAX_COMPILATION_CACHE_DIR, which JAX would take for a folder's name.

    Raises:
      InputError: if there is no such home folder.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder and folder.startswith("~"):  # others may be addresses, such as gs://..., for JAX
        try:
            jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
        except RuntimeError as error:
            raise InputError(
                f"JAX_COMPILATION_CACHE_DIR={folder}: there is no such home folder; write the path "
                "without ~"
            ) from error


def use_products(products: Products) -> None:
    """Sets how training multiplies float32 numbers; reported numbers are not concerned.

    ``"bfloat16"`` rounds both factors to 8 bits and sums in float32, which an accelerator does
    several times faster.

    Raises:
      InputError: if the device cannot gain by it.
    """
    if products == "float32":
        return
    if jax.default_backend() == "cpu":
        raise InputError("--products bfloat16 is for accelerators; a CPU has float32 products")
    jax.config.update("jax_default_matmul_precision", "BF16_BF16_F32")
