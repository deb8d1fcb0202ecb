"""Dictionaries in the files of other projects: SAELens folders and Gemma Scope archives.

``import jaxae`` does not import this module, since safetensors is an extra: ``pip install
"jaxae[files]"``. Nothing is pickled, so reading a file runs no code.

The names of the arrays are those of the files, with ``d`` features and ``k`` units: ``W_enc`` is
``(d, k)``, ``W_dec`` ``(k, d)``, ``b_dec`` ``(d,)`` and all others ``(k,)``.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from jaxae._checks import AnyArray, native_dtype
from jaxae.dictionary.gated import gated_relu
from jaxae.sparsity import keep_top_k

__all__ = ["Dictionary", "read_gemma_scope", "read_saelens", "write_gemma_scope", "write_saelens"]

WEIGHTS, SETTINGS = "sae_weights.safetensors", "cfg.json"
# The arrays of each architecture, beside W_enc, W_dec and b_dec, which all have.
UNIT_ARRAYS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
# Settings of SAELens that change what an encoder computes: the only value that is read here.
PLAIN = {"normalize_activations": "none", "reshape_activations": "none"}


@dataclass(frozen=True)
class Dictionary:
    """A trained sparse autoencoder: functions of one activation, and its arrays.

    It is a pytree, so it may be an argument of a compiled function.

    Attributes:
      architecture: ``"standard"``, ``"topk"``, ``"jumprelu"`` or ``"gated"``.
      params: the arrays by their names in the files.
      k: number of units that are kept, for ``"topk"`` alone.
      subtracts_bias: whether ``b_dec`` is taken from an activation before it is encoded.
    """

    architecture: str
    params: dict[str, AnyArray] = field(repr=False)
    k: int | None = None
    subtracts_bias: bool = True

    def encode(self, x_i: Float[Array, " d"]) -> Float[Array, " k"]:
        """Returns the code of ONE activation; use ``jax.vmap`` for a batch."""
        w = self.params
        centred = x_i - w["b_dec"] if self.subtracts_bias else x_i
        pre = centred @ w["W_enc"]
        if self.architecture == "gated":
            return gated_relu(pre + w["b_gate"], pre * jnp.exp(w["r_mag"]) + w["b_mag"])
        pre = pre + w["b_enc"]
        if self.architecture == "jumprelu":
            return jnp.where(pre > w["threshold"], jax.nn.relu(pre), 0)
        code = jax.nn.relu(pre)
        return code if self.k is None else keep_top_k(code, k=self.k)

    def decode(self, code: Float[Array, " k"]) -> Float[Array, " d"]:
        """Returns the reconstruction from ONE code."""
        return code @ self.params["W_dec"] + self.params["b_dec"]


jax.tree_util.register_dataclass(
    Dictionary, data_fields=["params"], meta_fields=["architecture", "k", "subtracts_bias"]
)


def read_saelens(folder: str | os.PathLike[str]) -> Dictionary:
    """Returns the dictionary that SAELens has saved in a folder.

    Dictionaries whose decoder norms rescale the code are read with the norms in their weights, so
    they compute the same reconstructions.

    Args:
      folder: with ``cfg.json`` and ``sae_weights.safetensors``.

    Returns:
      A :class:`Dictionary`, its arrays in the dtype of the file.

    Raises:
      ValueError: if a file is missing or damaged, the architecture or a setting is not known here,
        or an array is missing or has another shape.
    """
    folder = Path(folder).expanduser()
    settings = _read_settings(folder / SETTINGS)
    architecture, k = _architecture(settings, folder)
    for name, value in PLAIN.items():
        if settings.get(name, value) not in (value, None, False):
            raise ValueError(
                f"{folder / SETTINGS} has {name} {settings[name]!r}, which is not supported; "
                f"fold it into the weights with SAELens first, so that it is {value!r}"
            )
    params = _read_weights(folder / WEIGHTS)
    if settings.get("finetuning_scaling_factor") or "finetuning_scaling_factor" in params:
        raise ValueError(f"{folder} has a finetuning scaling factor, which is not supported")
    _check_arrays(architecture, params, folder / WEIGHTS)
    if settings.get("rescale_acts_by_decoder_norm"):
        norms = jnp.linalg.norm(params["W_dec"], axis=1)
        params["W_enc"], params["W_dec"] = (
            params["W_enc"] * norms[None],
            params["W_dec"] / norms[:, None],
        )
        params["b_enc"] = params["b_enc"] * norms
    subtracts_bias = bool(settings.get("apply_b_dec_to_input", True))
    return Dictionary(architecture, params, k, subtracts_bias)


def write_saelens(folder: str | os.PathLike[str], dictionary: Dictionary) -> None:
    """Writes a dictionary as a folder that SAELens reads with ``SAE.load_from_disk``.

    Args:
      folder: made if it is not there; files of these names in it are replaced.
      dictionary: what is written.

    Raises:
      ValueError: if the architecture is not known, or an array is missing or has another shape.
    """
    folder = Path(folder).expanduser()
    _check_arrays(dictionary.architecture, dictionary.params, "dictionary")
    features, units = dictionary.params["W_enc"].shape
    settings: dict[str, Any] = {
        "architecture": dictionary.architecture,
        "d_in": features,
        "d_sae": units,
        "dtype": str(dictionary.params["W_enc"].dtype),
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.subtracts_bias,
        **PLAIN,
        "metadata": {"sae_lens_version": "6.0.0"},  # the version of this format
    }
    if dictionary.architecture == "topk":
        if dictionary.k is None:
            raise ValueError("dictionary must have k, the number of units that are kept")
        settings["k"] = dictionary.k
    # Not save_file: newer versions of it make a file that others may not read.
    weights = save({name: _on_device(array) for name, array in dictionary.params.items()})
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(folder / WEIGHTS, lambda path: path.write_bytes(weights))
    text = json.dumps(settings, indent=1)
    _write_whole(folder / SETTINGS, lambda path: path.write_text(text, encoding="utf-8"))


def read_gemma_scope(path: str | os.PathLike[str]) -> Dictionary:
    """Returns the dictionary of a Gemma Scope archive, of the JumpReLU architecture.

    Args:
      path: of ``params.npz``, with W_enc, W_dec, b_enc, b_dec and threshold.

    Returns:
      A :class:`Dictionary` that does not subtract its bias from an activation.

    Raises:
      ValueError: if the file is missing or damaged, or an array is missing or has another shape.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:  # NumPy would call any other file pickled
            if not file.read(6).startswith((b"PK", np.lib.format.MAGIC_PREFIX)):
                raise ValueError("it is no file of NumPy")
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is one array")
        with archive:
            stored = {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an archive such as params.npz ({_line(error)})") from None
    # Some archives have small letters.
    named: dict[str, AnyArray] = {
        name.replace("w_", "W_", 1): array for name, array in stored.items()
    }
    _check_arrays("jumprelu", named, path)
    params: dict[str, AnyArray] = {name: _on_device(array) for name, array in named.items()}
    return Dictionary("jumprelu", params, subtracts_bias=False)


def write_gemma_scope(path: str | os.PathLike[str], dictionary: Dictionary) -> None:
    """Writes a JumpReLU dictionary as a Gemma Scope archive.

    A dictionary that subtracts its bias is written with that in the bias of its encoder.

    Args:
      path: of the file, such as ``params.npz``.
      dictionary: what is written.

    Raises:
      ValueError: if the architecture is not ``"jumprelu"``, or an array has another shape.
    """
    if dictionary.architecture != "jumprelu":
        raise ValueError(
            f"dictionary must be of the architecture jumprelu, but it is {dictionary.architecture}"
        )
    _check_arrays("jumprelu", dictionary.params, "dictionary")
    arrays: dict[str, Any] = {k: np.asarray(array) for k, array in dictionary.params.items()}
    if dictionary.subtracts_bias:
        arrays["b_enc"] = arrays["b_enc"] - arrays["b_dec"] @ arrays["W_enc"]

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # savez would add .npz to a name
            np.savez(file, **arrays)  # numbers: nothing is pickled

    _write_whole(Path(path).expanduser(), write)


def _read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings of a folder of SAELens."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be the settings of a dictionary ({_line(error)})") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must be the settings of a dictionary, a JSON object")
    return settings


def _architecture(settings: dict[str, Any], folder: Path) -> tuple[str, int | None]:
    """Returns the architecture, and the number of units kept if it is top-k."""
    architecture = settings.get("architecture", "standard")
    k = settings.get("k")
    # Before SAELens 6 top-k was an activation function of the standard architecture.
    if settings.get("activation_fn_str", settings.get("activation_fn")) == "topk":
        options = settings.get("activation_fn_kwargs")
        architecture, k = "topk", options.get("k", k) if isinstance(options, dict) else k
    if architecture not in tuple(UNIT_ARRAYS):  # a list, which is no key of a dictionary, too
        raise ValueError(
            f"{folder / SETTINGS} must have one of the architectures {', '.join(UNIT_ARRAYS)}, "
            f"but it has {architecture!r}"
        )
    if architecture != "topk":
        return architecture, None
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"{folder / SETTINGS} must have k, an integer of at least 1, not {k!r}")
    return architecture, k


def _on_device(array: AnyArray) -> jax.Array:
    """Returns an array that JAX takes: files of other machines have other byte orders."""
    if isinstance(array, np.ndarray):
        array = array.astype(native_dtype(array.dtype), copy=False)
    return jnp.asarray(array)


def _read_weights(path: Path) -> dict[str, AnyArray]:
    """Returns the arrays of a file in the format of safetensors."""
    try:
        with safe_open(path, framework="flax") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} must be a file of safetensors ({_line(error)})") from None


def _check_arrays(architecture: str, params: dict[str, AnyArray], where: str | Path) -> None:
    """Checks that there are the arrays of an architecture, in the shapes that fit."""
    if architecture not in UNIT_ARRAYS:
        raise ValueError(
            f"{where} must have one of the architectures {', '.join(UNIT_ARRAYS)}, "
            f"but it has {architecture!r}"
        )
    names = {"W_enc", "W_dec", "b_dec", *UNIT_ARRAYS[architecture]}
    if params.keys() != names:
        missing, other = sorted(names - params.keys()), sorted(params.keys() - names)
        raise ValueError(
            f"{where} must hold the arrays {', '.join(sorted(names))} of {architecture}, "
            f"but {missing} are missing and {other} are too many"
        )
    shape = params["W_enc"].shape
    if len(shape) != 2:
        raise ValueError(f"{where} must have W_enc of shape (d, k), but it is {shape}")
    features, units = shape
    expected: dict[str, tuple[int, ...]] = {"W_dec": (units, features), "b_dec": (features,)}
    expected |= dict.fromkeys(UNIT_ARRAYS[architecture], (units,))
    for name, wanted in expected.items():
        if params[name].shape != wanted:
            raise ValueError(
                f"{where} must have {name} of shape {wanted} beside W_enc of {shape}, "
                f"but it is {params[name].shape}"
            )
    dtypes = {name: array.dtype for name, array in params.items()}
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes.values()):
        raise ValueError(f"{where} must hold floating arrays, but their dtypes are {dtypes}")


def _write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Writes a file that appears whole or not at all."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        write(partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _line(error: Exception) -> str:
    """Returns the first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]
