"""Sparse autoencoders as they are used to find dictionaries, and how they are trained.

One relu layer over the input minus a bias, and a linear decoder whose rows are the atoms. What a
step must remember (how often each unit fires, how many steps there were) is a parameter too:
:func:`carried` makes plain gradient descent set it to its next value, so it is in every checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.trained import Network, makes_network
from experiments.common.training.arrays import Params, unit_rows
from experiments.common.training.fitting import Trainer
from experiments.common.training.sweep import Tag
from experiments.dictionary.examples import Patches
from experiments.dictionary.synthetic_truth import Size

AUXILIARY_WEIGHT = 1 / 32  # of the error that dead units explain (Gao et al. 2024)
DEAD_BELOW = 1e-3  # share of examples; a running mean over about 100 batches
MEMORY = 0.01  # of the running mean: the weight of the newest batch
WARM_UP = 0.1  # of all steps, in which the L1 weight rises from 0


class Kind(NamedTuple):
    """One way to train a dictionary.

    Attributes:
      is_top_k: whether k units are kept, instead of an L1 norm.
      has_unit_norm: whether atoms are kept at norm 1; otherwise the L1 norm is weighted by theirs.
      has_auxiliary: whether dead units explain the error of the others.
      look: how it is drawn.
    """

    is_top_k: bool
    has_unit_norm: bool
    has_auxiliary: bool
    look: plots.Look


KINDS = {
    "L1, free atoms": Kind(False, False, False, plots.METHODS["sparse"]),
    "L1, unit atoms": Kind(False, True, False, plots.OTHERS[1]),
    "top-k": Kind(True, True, True, plots.METHODS["CAE"]),
    "top-k, nothing for dead units": Kind(True, True, False, plots.OTHERS[2]),
}


class Schedule(NamedTuple):
    """How every network is trained."""

    units: int
    learning_rate: float
    batch_size: int
    epochs: int
    devices: int


@dataclass(frozen=True)
class SumsSetup:
    """How networks are trained on sums of known atoms, which are made when they are needed."""

    key: Array
    schedule: Schedule
    count: int
    num_seeds: int


class TruthSetup(NamedTuple):
    """How the methods are trained on a synthetic truth, which is made when it is needed.

    Attributes:
      key: of the truth and of all trainings.
      size: of the truth and of the dictionaries.
      samples: examples that each dictionary sees.
      num_seeds: repetitions.
      devices: devices over which a batch is divided.
    """

    key: Array
    size: Size
    samples: int
    num_seeds: int
    devices: int


class Trained(NamedTuple):
    """The networks of the patches, and how those of the known atoms are trained.

    Attributes:
      sums: of the known atoms.
      patches: the examples.
      families: of the patches, by kind.
      settings: of each kind, by their labels.
      params: of each kind, by the label of the setting, one for each seed.
      truth: how the methods are trained on the synthetic truth.
    """

    sums: SumsSetup
    patches: Patches
    families: "dict[str, Family]"
    settings: dict[str, dict[float, float]]
    params: dict[str, dict[float, list[Params]]]
    truth: TruthSetup


def tag(name: str) -> Tag:
    """Returns what a network is called, in the log as among the checkpoints."""
    return Tag(name, name, {"network": name})


def initial(key: Array, inputs: int, units: int) -> dict[str, Array]:
    """Returns the parameters at the start: random atoms of norm 1, the encoder their transpose."""
    atoms = unit_rows(jax.random.normal(key, (units, inputs)))
    return {
        "atoms": atoms,
        "encoder": atoms.T,
        "encoder_bias": jnp.zeros(units),
        "decoder_bias": jnp.zeros(inputs),
        "firing": jnp.ones(units),
        "steps": jnp.zeros(()),
    }


def activations(params: dict[str, Array], x_i: Array) -> Array:
    """Returns all units ``(units,)`` for one example, before any choice among them."""
    return nn.relu((x_i - params["decoder_bias"]) @ params["encoder"] + params["encoder_bias"])


def carried(now: Array, following: Array) -> Array:
    """Returns 0, with a gradient whose step of size 1 turns ``now`` into ``following``."""
    half = 0.5 * jnp.sum((now - jax.lax.stop_gradient(following)) ** 2)
    return half - jax.lax.stop_gradient(half)


class Family(Trainer):
    """Networks of one kind that share one program.

    Args:
      kind: how they are trained.
      inputs: number of features of an example.
      top_k: numbers of units that some of them keep, for a kind that keeps some.
      schedule: sizes and rates.
      examples: how many there are to train on.
    """

    def __init__(
        self, kind: Kind, inputs: int, top_k: Sequence[int], schedule: Schedule, examples: int
    ) -> None:
        self.kind, self._inputs, self._schedule = kind, inputs, schedule
        self._top_k = top_k
        steps = schedule.epochs * -(-examples // schedule.batch_size)
        self._warm_up = max(1.0, WARM_UP * steps)
        self._keepers: list[Callable[[Array], Array]] = [
            partial(jaxae.keep_top_k, k=k) for k in top_k
        ]
        adam = optax.adam(optax.cosine_decay_schedule(schedule.learning_rate, steps))
        atoms = jaxae.unit_norm(adam) if kind.has_unit_norm else adam
        groups = {"atoms": atoms, "carried": optax.sgd(1.0), "free": adam}
        group_names = {"atoms": "atoms", "firing": "carried", "steps": "carried"}

        def label(params: dict[str, Array]) -> dict[str, str]:
            return {name: group_names.get(name, "free") for name in params}

        super().__init__(
            partial(initial, inputs=inputs, units=schedule.units),
            self._loss,
            optax.partition(groups, label),
            batch_size=schedule.batch_size,
            epochs=schedule.epochs,
            devices=schedule.devices,
        )

    def code(self, params: Params, setting: Array, x_i: Array) -> Array:
        """Returns the code of one example: all units, or as many as are kept."""
        return self._kept(activations(params, x_i), setting)

    def _kept(self, units: Array, setting: Array) -> Array:
        if not self.kind.is_top_k:
            return units
        chosen = setting.astype(jnp.int32)
        kept = jax.lax.switch(chosen, self._keepers, jax.lax.stop_gradient(units))
        return jnp.where(kept > 0, units, 0)  # no gradient through the choice

    def _loss(
        self, params: Params, key: Array, x: Array, setting: Array, *own_examples: Array
    ) -> Array:
        """Returns the loss ``(batch,)``.

        Args:
          params: of one network.
          key: not used.
          x: examples ``(batch, d)``, or the numbers of examples ``(batch, 1)``.
          setting: the weight of L1, or the position of k.
          own_examples: the examples of this network alone, where ``x`` has their numbers.
        """
        if own_examples:
            x = own_examples[0][x[:, 0].astype(jnp.int32)]
        units = jax.vmap(partial(activations, params))(x)
        code = jax.vmap(self._kept, (0, None))(units, setting)
        x_hat = code @ params["atoms"] + params["decoder_bias"][None]
        loss = jaxae.squared_error(x_hat, x)
        if not self.kind.is_top_k:
            weight = setting * jnp.minimum(1.0, params["steps"] / self._warm_up)
            loss = loss + weight * self._sparsity(code, params["atoms"])
        if self.kind.has_auxiliary:
            loss = loss + AUXILIARY_WEIGHT * jaxae.dead_unit_loss(
                units,
                lambda code_i: code_i @ params["atoms"],
                x - x_hat,
                is_dead=params["firing"] < DEAD_BELOW,
                k=max(1, self._inputs // 2),
            )
        share = jnp.mean((code > 0).astype(x.dtype), axis=0)
        firing = (1 - MEMORY) * params["firing"] + MEMORY * share
        return (
            loss + carried(params["firing"], firing) + carried(params["steps"], params["steps"] + 1)
        )

    def _sparsity(self, code: Array, atoms: Array) -> Array:
        if self.kind.has_unit_norm:
            return jaxae.l1_penalty(code)
        return jaxae.decoder_weighted_l1_penalty(code, atoms)

    def network(self, setting: float) -> Network:
        """Returns the description from which a network with a setting can be loaded."""
        arguments: dict[str, Any] = {"inputs": self._inputs, "units": self._schedule.units}
        arguments["top_k"] = self._top_k[int(setting)] if self.kind.is_top_k else None
        return Network(autoencoder, arguments, (self._inputs,), "examples as they were trained on")

    def measure(self, params: Params, setting: float, x: Array) -> dict[str, float]:
        """Returns what every network is measured by, on held-out examples."""
        with jax.default_matmul_precision("highest"):
            found = _measure(self, params, jnp.float32(setting), x)
        return {name: float(value) for name, value in found.items()}


@makes_network
def autoencoder(inputs: int, units: int, top_k: int | None) -> jaxae.AutoencoderFunctions:
    """Returns a dictionary as an autoencoder, as it is loaded from a checkpoint."""

    def encode(params: Params, x_i: Array) -> Array:
        code = activations(params, x_i)
        return code if top_k is None else jaxae.keep_top_k(code, k=top_k)

    def decode(params: Params, code: Array) -> Array:
        return code @ params["atoms"] + params["decoder_bias"]

    init = partial(initial, inputs=inputs, units=units)
    return jaxae.AutoencoderFunctions(init, encode, decode)


@partial(jax.jit, static_argnums=0)
def _measure(family: Family, params: Params, setting: Array, x: Array) -> dict[str, Array]:
    code = jax.vmap(family.code, (None, None, 0))(params, setting, x)
    x_hat = code @ params["atoms"] + params["decoder_bias"][None]
    return {
        "explained_variance": jaxae.explained_variance(x_hat, x),
        "active_units": jnp.mean(jaxae.active_units(code)),
        "dead_share": jnp.mean(jaxae.dead_units(code).astype(x.dtype)),
    }
