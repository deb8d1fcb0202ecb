"""The networks: relu codes with an L1 norm or top-k, and the sigmoid code of the KL penalty."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common.files.atomic import JsonObject
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.results.trained import Network, makes_network
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Function, Params, unit_rows
from experiments.common.training.fitting import Trainer
from experiments.common.training.sweep import Sweep, Tag
from experiments.sparse import units

KL_CODE_DIM, KL_TARGET, KL_PENALTY = 64, 0.1, 0.001  # of the lecture's code
KL_FACTORS = (0.1, 1.0, 10.0)  # times the lecture's weight


class Setup(NamedTuple):
    """The data, and how networks are trained on them: the configuration, with all defaults."""

    shape: tuple[int, ...]  # of an image
    raw: tuple[Array, Array]  # train and test pixels in [0, 1]
    centred: tuple[Array, Array]  # minus the mean of the training pixels
    labels: np.ndarray | None  # of the test images
    code_dim: int
    weights: tuple[float, ...]  # lambda of the L1 norm, the first 0
    top_k: tuple[int, ...]
    learning_rate: float
    batch_size: int
    devices: int
    epochs: int
    seed: int
    num_seeds: int

    @property
    def chosen(self) -> int:
        """Position of the weight whose network is shown in pictures."""
        return min(3, len(self.weights) - 1)

    @property
    def free(self) -> list[float]:
        """Weights at which a network with free filters is trained too."""
        return [self.weights[i] for i in sorted({1, self.chosen, len(self.weights) - 1})]

    def key(self, seed: int) -> Array:
        """Returns the key of a seed."""
        return jax.random.fold_in(jax.random.key(self.seed), seed)


class Setting(NamedTuple):
    """What tells apart the networks of one program; all of it is traced, as numbers."""

    weight: Any  # of the penalty
    keep: Any = np.int32(0)  # 0 keeps all units, i the top_k[i - 1] largest
    is_free: Any = np.bool_(False)  # whether the filters may have any norm


class Member(NamedTuple):
    """One network of a family."""

    method: str
    label: float | None  # its weight, where it has one
    setting: Setting


class Measured(NamedTuple):
    """The numbers of one network, and what pictures and the lecture's page are made of."""

    row: Metrics  # over the seeds
    kept: dict[str, np.ndarray]  # the first seed's code and filters
    params: Params  # of the first seed


class Trained(NamedTuple):
    """The numbers of all networks, and what pictures are made of.

    Attributes:
      setup: how they were trained.
      rows: numbers of the networks of every method.
      kept: code and filters of each L1 network, with the first seed.
      params: parameters of each L1 network, with the first seed.
    """

    setup: Setup
    rows: dict[str, list[Metrics]]
    kept: list[dict[str, np.ndarray]]
    params: list[Params]


class Family(Trainer):
    """Networks that share one program for training and one for measuring.

    Args:
      model: gives the parameters.
      encode: ``encode(params, setting, x_i)``.
      decode: ``decode(params, setting, code)``.
      penalty: on the codes of a batch, as in ``jaxae.sparse_loss``.
      threshold: above which a unit counts as active.
      data: train and test images.
      setup: how they are trained.
      describe: the description from which the network with a setting can be loaded.
    """

    def __init__(
        self,
        model: jaxae.DenseAutoencoder,
        encode: Callable[[Params, Setting, Array], Array],
        decode: Callable[[Params, Setting, Array], Array],
        penalty: Callable[[Array], Array],
        threshold: float,
        data: tuple[Array, Array],
        setup: Setup,
        describe: Callable[[Setting], Network | jaxae.DenseAutoencoder],
    ) -> None:
        steps = setup.epochs * -(-len(data[0]) // setup.batch_size)
        self._data, self._setup, self._describe = data, setup, describe

        def bound(params: Params, setting: Setting) -> tuple[Function, Function]:
            return partial(encode, params, setting), partial(decode, params, setting)

        def loss(params: Params, key: Array, x: Array, *values: Array) -> Array:
            setting = Setting(*values)
            functions = bound(params, setting)
            return jaxae.sparse_loss(*functions, x, weight=setting.weight, penalty=penalty)

        def measure(params: Params, setting: Setting, x: Array) -> dict[str, Array]:
            kernel = params["decoder_kernel_0"]
            return units.measure_units(*bound(params, setting), kernel, x, threshold=threshold)

        self._measure = jax.jit(measure)
        super().__init__(
            jaxae.as_functions(model).init,
            loss,
            optax.adam(optax.cosine_decay_schedule(setup.learning_rate, steps)),
            batch_size=setup.batch_size,
            epochs=setup.epochs,
            devices=setup.devices,
            hash_keys=False,  # as when the committed results were made
        )

    def train(self, members: Sequence[Member], run: ExperimentRun) -> list[Measured]:
        """Returns the numbers of each network over the seeds; all are trained together."""

        sweep = Sweep(run, range(self._setup.num_seeds), self._setup.key, tag)
        settings = {member: member.setting for member in members}
        models = {member: self._describe(member.setting) for member in members}
        trained = sweep.fit(self, self._data[0], settings, models=models)
        return [self._row(member, trained[member], run) for member in members]

    def _row(self, member: Member, per_seed: list[Params], run: ExperimentRun) -> Measured:
        """Returns the numbers of one network, and the first seed's code and filters."""
        found, kept = [], []
        for params in per_seed:
            measured = self._measure(params, member.setting, self._data[1])
            measured = jax.tree.map(np.asarray, measured)
            kept.append({name: measured.pop(name) for name in ("code", "filters")})
            numbers = {key: float(value) for key, value in measured.items()}
            found.append(numbers | units.compare(**kept[-1], labels=self._setup.labels))
        row = {
            key: over_seeds([one[key] for one in found], units.UNITS[key])
            for key in units.UNITS
            if key in found[0]
        }
        mse, active = row["test_mse"]["mean"], row["active_units"]["mean"]
        at = " " * 8 if member.label is None else f"{member.label:8.3g}"
        run.say(f"{member.method:8s} {at}  test MSE {mse:.5f}, {active:6.2f} units active")
        return Measured({"weight": member.label, **row}, kept[0], per_seed[0])


def tag(member: Member, seed: int) -> Tag:
    """Returns what the network of a seed is called."""
    method, label = member.method, member.label
    setting = [] if label is None else [label]
    name = method if label is None else f"{method}_{label:g}"
    entry = {"method": method, "setting": setting, "seed": seed}
    return Tag(f"{name}_seed-{seed}", f"{method} {setting}, seed {seed}", entry)


def relu_family(setup: Setup) -> Family:
    """Returns the networks with one relu layer: L1, free filters and top-k, in one program."""
    model = jaxae.DenseAutoencoder(
        setup.centred[0].shape[1:], setup.code_dim, code_activation=nn.relu
    )
    functions = jaxae.as_functions(model)
    keepers: list[Callable[[Array], Array]] = [lambda code: code]
    keepers += [partial(jaxae.keep_top_k, k=top) for top in setup.top_k]

    def encode(params: Params, setting: Setting, x_i: Array) -> Array:
        code = functions.encode(params, x_i)
        keep = jnp.int32(setting.keep)
        kept = jax.lax.switch(keep, keepers, jax.lax.stop_gradient(code))
        return jnp.where(
            kept > 0, code, 0
        )  # no gradient through the choice, which need not be compiled

    inputs = setup.centred[0].shape[1]

    def describe(setting: Setting) -> Network:
        arguments: JsonObject = {"inputs": inputs, "code_dim": setup.code_dim}
        arguments["top_k"] = setup.top_k[setting.keep - 1] if setting.keep else None
        arguments["is_free"] = bool(setting.is_free)
        takes = "pixels minus their mean over the training images"
        return Network(autoencoder, arguments, (inputs,), takes)

    penalty = jaxae.l1_penalty
    return Family(model, encode, add_filters, penalty, 0.0, setup.centred, setup, describe)


@makes_network
def autoencoder(
    inputs: int, code_dim: int, top_k: int | None, is_free: bool
) -> jaxae.AutoencoderFunctions:
    """Returns a network with one relu layer, as it is loaded from a checkpoint."""
    model = jaxae.DenseAutoencoder((inputs,), code_dim, code_activation=nn.relu)
    init, encode, _ = jaxae.as_functions(model)

    def kept(params: Params, x_i: Array) -> Array:
        code = encode(params, x_i)
        return code if top_k is None else jaxae.keep_top_k(code, k=top_k)

    def decode(params: Params, code: Array) -> Array:
        return add_filters(params, Setting(0.0, is_free=is_free), code)

    return jaxae.AutoencoderFunctions(init, kept, decode)


def add_filters(params: Params, setting: Setting, code: Array) -> Array:
    """Returns the sum of the filters, of unit norm unless they are free, times the code."""
    kernel = params["decoder_kernel_0"]
    filters = jnp.where(setting.is_free > 0, kernel, unit_rows(kernel))
    return code @ filters + params["decoder_bias_0"]


def sigmoid_family(setup: Setup) -> Family:
    """Returns the lecture's network; a unit of it counts as active above one half."""
    model = jaxae.DenseAutoencoder(
        setup.raw[0].shape[1:],
        KL_CODE_DIM,
        code_activation=nn.sigmoid,
        output_activation=nn.sigmoid,
    )
    functions = jaxae.as_functions(model)

    def encode(params: Params, setting: Setting, x_i: Array) -> Array:
        return functions.encode(params, x_i)

    def decode(params: Params, setting: Setting, code: Array) -> Array:
        return functions.decode(params, code)

    penalty = partial(jaxae.kl_sparsity_penalty, target=KL_TARGET)
    return Family(model, encode, decode, penalty, 0.5, setup.raw, setup, lambda setting: model)


def count(setup: Setup) -> int:
    """Returns how many networks are trained."""
    settings = len(setup.weights) + len(setup.free) + len(KL_FACTORS) + len(setup.top_k)
    return setup.num_seeds * settings


def train(setup: Setup, run: ExperimentRun) -> Trained:
    """Returns the networks of all methods, trained and measured."""
    relu, sigmoid = relu_family(setup), sigmoid_family(setup)
    lecture = 2 * setup.raw[0].shape[1] * KL_PENALTY
    plain = [Member("L1", weight, Setting(np.float32(weight))) for weight in setup.weights]
    free = [
        Member("free", weight, Setting(np.float32(weight), is_free=np.bool_(True)))
        for weight in setup.free
    ]
    top = [
        Member(f"top {k}", None, Setting(np.float32(0), keep=np.int32(position)))
        for position, k in enumerate(setup.top_k, start=1)
    ]
    kl = [
        Member("KL", factor * lecture, Setting(np.float32(factor * lecture)))
        for factor in KL_FACTORS
    ]
    members = [*plain, *free, *top, *kl]
    measured = relu.train([*plain, *free, *top], run) + sigmoid.train(kl, run)
    rows: dict[str, list[Metrics]] = {"L1": [], "L1, free filters": [], "KL": []}
    for member, one in zip(members, measured, strict=True):
        method = "L1, free filters" if member.method == "free" else member.method
        rows.setdefault(method, []).append(one.row)
    shown = measured[: len(plain)]
    return Trained(setup, rows, [one.kept for one in shown], [one.params for one in shown])


def tops(methods: Mapping[str, Sequence[Metrics]]) -> Metrics:
    """Returns the row of each top-k network."""
    return {name: rows[0] for name, rows in methods.items() if name.startswith("top")}
