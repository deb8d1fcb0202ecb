"""Loads trained autoencoders from a checkpoint or an export, and exports them.

    from experiments.common.results import trained
    autoencoder = trained.load("results/denoising/mnist/checkpoints/dim-64_noise-0.55_seed-0")
    code = autoencoder.encode(x_i)  # one example; jax.vmap for more

An exported folder holds the weights as ``model.safetensors``, whose names are those of the
parameters of ``jaxae.DenseAutoencoder`` or ``ConvAutoencoder``; ``encoder.jax`` and
``decoder.jax``, programs with the weights inside that ``jax.export.deserialize`` runs without this
library, on batches of any size, on CPU, GPU and TPU; and ``model.json``, which says what it is.
JAX reads such programs for half a year at least; the weights stay readable.
"""

import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, PyTree

import jaxae
from experiments.common.errors import InputError, first_line
from experiments.common.files import atomic
from experiments.common.files.atomic import JsonObject
from experiments.common.results import checkpoint_files, checkpoint_store
from jaxae._version import __version__

Activation: TypeAlias = Callable[[Array], Array]

_MODELS: dict[str, type[jaxae.DenseAutoencoder] | type[jaxae.ConvAutoencoder]] = {
    "DenseAutoencoder": jaxae.DenseAutoencoder,
    "ConvAutoencoder": jaxae.ConvAutoencoder,
}
_ACTIVATIONS: dict[str, Activation] = {
    name: getattr(nn, name)
    for name in ("relu", "sigmoid", "tanh", "softplus", "gelu", "elu", "selu", "silu", "leaky_relu")
} | {"jnp.tanh": jnp.tanh}
_TOP_K = "keep_top_k "  # followed by k
_PLATFORMS = ("cpu", "cuda", "tpu")
_WEIGHTS = "model.safetensors"
SAYS = "model.json"  # what an exported model says of itself

_MAKERS: dict[str, Callable[..., jaxae.AutoencoderFunctions]] = {}  # by module and name


def makes_network(
    function: Callable[..., jaxae.AutoencoderFunctions],
) -> Callable[..., jaxae.AutoencoderFunctions]:
    """Registers a function of a module of ``experiments`` whose networks can be loaded.

    A checkpoint names the function; no other one is ever called for what a file says.
    """
    _MAKERS[f"{function.__module__}:{function.__name__}"] = function
    return function


class Network(NamedTuple):
    """An autoencoder that an experiment puts together itself.

    Attributes:
      make: function that :func:`makes_network` registered; it returns ``init``, ``encode`` and
        ``decode``.
      arguments: of ``make``, values of JSON.
      example_shape: shape of one example.
      takes: what an example is, where it is not the data as they are.
      param_dtype: dtype of the parameters.
    """

    make: Callable[..., jaxae.AutoencoderFunctions]
    arguments: JsonObject
    example_shape: tuple[int, ...]
    takes: str = "the data as they are"
    param_dtype: DTypeLike = jnp.float32


Model: TypeAlias = jaxae.DenseAutoencoder | jaxae.ConvAutoencoder | Network


class TrainedAutoencoder(NamedTuple):
    """An autoencoder with its weights.

    Attributes:
      encode: one example to one code ``(k,)``; of a network that is told how strong the noise is
        ``encode(x_i, stddev)``.
      decode: one code to one decoder output, or ``decode(code, stddev)``.
      params: the parameters, a pytree.
      model: the module that they belong to, or a :class:`Network`.
      about: how it was trained: epochs, loss, settings and versions.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    params: PyTree[Array]
    model: Model
    about: JsonObject


def describe(model: object) -> JsonObject | None:
    """Returns what a model can be built from again, or None for one that is no such model.

    How its weights were drawn is left out.
    """
    kind = type(model).__name__
    if isinstance(model, Network):
        maker = f"{model.make.__module__}:{model.make.__name__}"
        fields: JsonObject = {"make": maker, "example_shape": list(model.example_shape)}
        fields["param_dtype"] = np.dtype(model.param_dtype).name
        return {"class": kind, **model._asdict(), **fields}
    if _MODELS.get(kind) is not type(model):
        return None
    found: JsonObject = {"class": kind}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name in ("name", "parent", "kernel_init", "bias_init"):
            continue
        if field.name == "param_dtype":
            value = np.dtype(value).name
        elif value is not None and field.name.endswith("activation"):
            value = _name_activation(value)
            if value is None:
                return None
        found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def _name_activation(activation: Activation) -> str | None:
    """Returns the name under which an activation is stored, or None for an unknown one."""
    if isinstance(activation, partial) and activation.func is jaxae.keep_top_k:
        return f"{_TOP_K}{activation.keywords['k']}"
    return next((name for name, known in _ACTIVATIONS.items() if known is activation), None)


def _find_activation(name: str) -> Activation:
    """Returns the activation that is stored under a name."""
    if name.startswith(_TOP_K):
        return partial(jaxae.keep_top_k, k=int(name.removeprefix(_TOP_K)))
    return _ACTIVATIONS[name]


def _build_network(fields: JsonObject) -> Network:
    """Returns the network of a description, whose experiment is imported if need be."""
    module = fields["make"].partition(":")[0]
    if fields["make"] not in _MAKERS and module.startswith("experiments."):
        importlib.import_module(module)
    make, shape = _MAKERS[fields.pop("make")], tuple(fields.pop("example_shape"))
    return Network(make=make, example_shape=shape, **fields)


def functions_of(model: Model) -> jaxae.AutoencoderFunctions:
    """Returns ``init``, ``encode`` and ``decode`` of a model."""
    if isinstance(model, Network):
        return model.make(**model.arguments)
    return jaxae.as_functions(model)


def build(description: JsonObject) -> Model:
    """Returns the model of a description.

    Raises:
      ValueError: if it is none.
    """
    try:
        fields = dict(description)
        kind = fields.pop("class")
        if kind == Network.__name__:
            fields["param_dtype"] = jnp.dtype(fields["param_dtype"])
            return _build_network(fields)
        make = _MODELS[kind]
        for name, value in fields.items():
            if value is not None and name.endswith("activation"):
                fields[name] = _find_activation(value)
            elif isinstance(value, list):
                fields[name] = tuple(value)
        fields["param_dtype"] = jnp.dtype(fields["param_dtype"])
        return make(**fields)
    except (KeyError, TypeError, AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"no model of this library: {description}") from error


def load(path: str | Path, *, best: bool = False) -> TrainedAutoencoder:
    """Returns a trained autoencoder.

    Args:
      path: an exported folder, one checkpoint, or the folder of a model's checkpoints, of which
        the newest that is not damaged is taken.
      best: of several checkpoints the one with the least training loss instead.

    Raises:
      InputError: if there is none, it is damaged, or of a classifier.
    """
    path = Path(path)
    if (path / SAYS).is_file():
        return _from_export(path)
    if (path / checkpoint_files.MANIFEST).exists():
        return _from_checkpoint(path)
    errors = []
    for place in checkpoint_store.rank_checkpoints(path, best=best):
        try:
            return _from_checkpoint(place)
        except InputError as error:
            errors.append(str(error))
    raise InputError(errors[0] if errors else f"{path} holds no checkpoint and no exported model")


def export(autoencoder: TrainedAutoencoder, folder: Path) -> None:
    """Writes an exported folder, whole or not at all.

    An older export is replaced; any other folder that is there gets another name.

    Raises:
      OSError: if it cannot be written.
      InputError: if the network takes more than an example.
    """
    if len(inspect.signature(autoencoder.encode).parameters) > 1:
        raise InputError(
            f"{folder} is not written: a network that is told how strong the noise is has no "
            "program of one input; use it by trained.load"
        )
    atomic.write_folder(folder, partial(_write, autoencoder), is_ours=is_export)


def is_export(folder: Path) -> bool:
    """Returns whether a folder holds the files of an exported model, and nothing else."""
    try:
        files = json.loads((folder / SAYS).read_text(encoding="utf-8"))["files"].keys()
        return {path.name for path in folder.iterdir()} <= {*files, SAYS}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _write(autoencoder: TrainedAutoencoder, folder: Path) -> None:
    import safetensors.numpy

    description = describe(autoencoder.model)
    about = {"jaxae": __version__, "model": description, **autoencoder.about}
    weights = safetensors.numpy.save(
        _name_arrays(autoencoder.params), {"model": json.dumps(description)}
    )
    (folder / _WEIGHTS).write_bytes(weights)
    dtype = jnp.dtype(autoencoder.model.param_dtype)
    example = jax.ShapeDtypeStruct(tuple(autoencoder.model.example_shape), dtype)
    code = jax.eval_shape(autoencoder.encode, example)
    for name, function, one in (
        ("encoder", autoencoder.encode, example),
        ("decoder", autoencoder.decode, code),
    ):
        (folder / f"{name}.jax").write_bytes(_program(function, one))
    digests = {path.name: atomic.file_digest(path) for path in sorted(folder.iterdir())}
    (folder / SAYS).write_text(json.dumps(about | {"files": digests}, indent=2) + "\n")


def _program(function: Callable[[Array], Array], one: jax.ShapeDtypeStruct) -> bytes:
    """Returns the program of a function over a batch of any size, for every platform."""
    (batch,) = jax.export.symbolic_shape("batch")
    examples = jax.ShapeDtypeStruct((batch, *one.shape), one.dtype)
    exported = jax.export.export(jax.jit(jax.vmap(function)), platforms=_PLATFORMS)(examples)
    return bytes(exported.serialize())


def _from_export(folder: Path) -> TrainedAutoencoder:
    import safetensors.numpy

    try:
        about = json.loads((folder / SAYS).read_text(encoding="utf-8"))
        digests, model = about.pop("files"), build(about.pop("model"))
        if atomic.file_digest(folder / _WEIGHTS) != digests[_WEIGHTS]:
            raise ValueError(f"{_WEIGHTS} is not what was written")
        flat = safetensors.numpy.load_file(folder / _WEIGHTS)
        return _bind_params(model, _nest_arrays(flat), about)
    except Exception as error:  # damaged bytes raise whatever their readers raise
        raise InputError(f"{folder} is no exported model: {first_line(error)}") from error


def _from_checkpoint(path: Path) -> TrainedAutoencoder:
    try:
        manifest = checkpoint_files.read_manifest(path)
        arrays = checkpoint_files.read_arrays(path, manifest)
    except checkpoint_files.DamagedError as error:
        raise InputError(f"checkpoint {path} is damaged ({error})") from error
    description = manifest.get("model")
    if description is None:
        experiment = manifest["identity"].get("experiment")
        raise InputError(
            f"checkpoint {path} of experiments.{experiment} says not how its network is built: it "
            "is a classifier, or older than that; what is loaded are autoencoders"
        )
    try:
        model = build(description)
        like = jax.eval_shape(functions_of(model).init, jax.random.key(0))
        names = [f".params{jax.tree_util.keystr(path)}" for path, _ in _leaves_with_paths(like)]
        numbers = [manifest["leaves"].index(name) for name in names]
        leaves = [jnp.asarray(arrays[f"state_{number:04d}"]) for number in numbers]
        params = jax.tree.unflatten(jax.tree.structure(like), leaves)
        about = {
            "epoch": manifest["epoch"],
            "step": manifest["step"],
            "loss": manifest["loss"],
            "identity": manifest["identity"],
            "environment": manifest["environment"],
        }
        return _bind_params(model, params, about)
    except (ValueError, KeyError) as error:
        raise InputError(f"checkpoint {path} is of another model: {first_line(error)}") from error


def _bind_params(model: Model, params: PyTree[Array], about: JsonObject) -> TrainedAutoencoder:
    """Returns an autoencoder with these weights. Raises ValueError if they are not the model's."""
    functions = functions_of(model)
    like = jax.eval_shape(functions.init, jax.random.key(0))
    if _list_shapes(params) != _list_shapes(like):
        raise ValueError("the weights are not those of the model")
    encode, decode = partial(functions.encode, params), partial(functions.decode, params)
    return TrainedAutoencoder(encode, decode, params, model, about)


def _list_shapes(tree: PyTree) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the path and the shape of every array of a tree."""
    return [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in _leaves_with_paths(tree)]


def _name_arrays(params: PyTree[Array]) -> dict[str, np.ndarray]:
    """Returns arrays by name, nested names joined with a slash, each in C order."""
    return {
        "/".join(str(key.key) for key in path): np.ascontiguousarray(leaf)
        for path, leaf in _leaves_with_paths(params)
    }


def _nest_arrays(flat: dict[str, np.ndarray]) -> JsonObject:
    """Returns the nested dictionary from which :func:`_name_arrays` made the names."""
    params: JsonObject = {}
    for name, array in flat.items():
        *groups, last = name.split("/")
        place = params
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = jnp.asarray(array)
    return params


def _leaves_with_paths(tree: PyTree) -> list[tuple[Any, Any]]:
    """Returns the leaves of a tree, each behind its path, a tuple of keys."""
    return jax.tree_util.tree_flatten_with_path(tree)[0]
