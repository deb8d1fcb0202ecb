"""Trained autoencoders for use elsewhere: weights as safetensors, and programs that need JAX alone.

    python -m experiments.denoising --dataset digits --checkpoint-every 50
    python -m experiments.export results/denoising/digits --out exported

``exported/<model>/`` then holds ``model.safetensors``, ``encoder.jax``, ``decoder.jax`` and
``model.json``. To run one without this library, on a batch of any size:

    import jax
    with open("exported/<model>/encoder.jax", "rb") as file:
        encoder = jax.export.deserialize(bytearray(file.read()))
    codes = encoder.call(x)  # (batch, d) -> (batch, k)

Its folder is loaded as an autoencoder of this library by
``experiments.common.results.trained.load``.
"""

import os
import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print("error: run python -m experiments.export in the repository root", file=sys.stderr)
    sys.exit(2)

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.common.errors import InputError
from experiments.common.results import checkpoint_store, trained
from experiments.common.run import command_line, devices


@dataclass(frozen=True)
class Config:
    """Options of the export."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of a run with checkpoints, of one model's checkpoints, or of one checkpoint."""
    out: Path = Path("exported")
    """Folder in which each model gets a folder of its own."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the checkpoint with the least training loss instead of the newest."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        if not os.path.isdir(self.path):  # a name that is too long is an error elsewhere
            raise InputError(f"{self.path} is no folder; name that of a run with checkpoints")


def main(config: Config) -> list[Path]:
    """Exports every model that is found and returns their folders."""
    devices.require_devices()
    try:
        return _export_all(config)
    except OSError as error:  # of a folder without permission, or a name that is too long
        raise InputError(f"{config.path} cannot be exported to {config.out}: {error}") from error


def _export_all(config: Config) -> list[Path]:
    found = checkpoint_store.find_models(config.path)
    if not found:
        raise InputError(
            f"{config.path} holds no checkpoints; --checkpoint-every of a run leaves some"
        )
    for folder in (config.out / name for name in found):
        if folder.exists() and not trained.is_export(folder):
            raise InputError(
                f"--out {config.out}: {folder} is there and no exported model, or holds other "
                "files too; move it away, or take another folder"
            )
    # All are read before anything is written.
    loaded = {name: trained.load(path, best=config.best) for name, path in found.items()}
    folders = []
    for name, autoencoder in loaded.items():
        folder = config.out / name
        try:
            trained.export(autoencoder, folder)
        except OSError as error:
            raise InputError(f"--out {folder} cannot be written: {error.strerror}") from error
        print(f"{folder}: after {autoencoder.about['epoch']} epochs")
        folders.append(folder)
    return folders


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
