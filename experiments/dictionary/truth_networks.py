"""The methods by which dictionaries are trained today, on the synthetic truth alone.

The networks for patches and for sums of atoms are in ``networks``.

All methods share the parameters, the steps and the number of active units. Where a method has no
number of its own (L1, gated, JumpReLU), ``jaxae.target_l0`` finds the weight of its penalty. What a
step must remember is a parameter too, see :func:`experiments.dictionary.networks.carried`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.trained import Network, makes_network
from experiments.common.training.arrays import Params, unit_rows
from experiments.common.training.fitting import Trainer
from experiments.dictionary import synthetic_truth
from experiments.dictionary.networks import AUXILIARY_WEIGHT, DEAD_BELOW, MEMORY, carried

BANDWIDTH = 1.0  # of the window around a threshold; strengths are near 5
FIRST_THRESHOLD, FIRST_WEIGHT = 0.1, 0.01
CONTROL = 15  # times the weight may grow by a factor e in one training
PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the units
EPOCHS = 10  # lines of the log; examples are new in every step

LOOKS = {
    "L1": plots.METHODS["sparse"],
    "top-k": plots.METHODS["CAE"],
    "BatchTopK": plots.OTHERS[0],
    "JumpReLU": plots.OTHERS[1],
    "gated": plots.OTHERS[2],
    "Matryoshka": plots.METHODS["DAE"],
}
HAS_WEIGHT = ("L1", "JumpReLU", "gated")
OF_THE_BATCH = ("BatchTopK", "Matryoshka")


def initial(key: Array, size: synthetic_truth.Size) -> dict[str, Array]:
    """Returns the parameters at the start: random atoms of norm 1, the encoder their transpose."""
    atoms = unit_rows(jax.random.normal(key, (size.units, size.inputs)))
    zeros = jnp.zeros(size.units)
    return {
        "atoms": atoms,
        "encoder": atoms.T,
        "encoder_bias": zeros,
        "decoder_bias": jnp.zeros(size.inputs),
        "threshold": jnp.full(size.units, FIRST_THRESHOLD),
        "log_scale": zeros,
        "gate_bias": zeros,
        "weight": jnp.float32(FIRST_WEIGHT),
        "firing": jnp.ones(size.units),
        "batch_threshold": jnp.float32(0),
    }


def pre_activations(params: Params, x: Array) -> tuple[Array, Array]:
    """Returns those of the code, and those of the gates, ``(*batch, units)``."""
    products = (x - params["decoder_bias"]) @ params["encoder"]
    of_gates = products + params["gate_bias"]
    return products * jnp.exp(params["log_scale"]) + params["encoder_bias"], of_gates


@makes_network
def autoencoder(inputs: int, units: int, method: str, k: int) -> jaxae.AutoencoderFunctions:
    """Returns a dictionary as functions of one example, as it is used after training."""

    def encode(params: Params, x_i: Array) -> Array:
        pre, gate = pre_activations(params, x_i)
        if method == "JumpReLU":
            return jaxae.jump_relu(pre, params["threshold"], bandwidth=BANDWIDTH)
        if method == "gated":
            return jaxae.gated_relu(gate, pre)
        if method == "top-k":
            return jaxae.keep_top_k(jax.nn.relu(pre), k=k)
        if method in OF_THE_BATCH:
            return jnp.where(pre > params["batch_threshold"], pre, 0)
        return jax.nn.relu(pre)

    def decode(params: Params, code: Array) -> Array:
        return code @ params["atoms"] + params["decoder_bias"]

    size = synthetic_truth.SMALL._replace(inputs=inputs, units=units)
    return jaxae.AutoencoderFunctions(partial(initial, size=size), encode, decode)


class MethodTrainer(Trainer):
    """Trains dictionaries of one method on new examples of a truth in every step.

    A setting is the position of the number of active units among ``size.targets``.

    Args:
      method: one of ``LOOKS``.
      truth: draws the examples.
      size: of the truth, and of the dictionaries.
      steps: of a training.
      devices: devices over which a batch is divided.
    """

    def __init__(
        self,
        method: str,
        truth: synthetic_truth.Truth,
        size: synthetic_truth.Size,
        steps: int,
        devices: int,
    ) -> None:
        self.method, self._truth, self._size = method, truth, size
        adam = optax.adam(optax.cosine_decay_schedule(size.learning_rate, steps))
        groups = {
            "atoms": jaxae.unit_norm(adam),
            # The loss divides L0 by its target.
            "weight": jaxae.target_l0(target=1.0, rate=CONTROL / steps),
            "carried": optax.sgd(1.0),
            "free": adam,
        }
        names = {"atoms": "atoms", "weight": "weight"}
        names |= {"firing": "carried", "batch_threshold": "carried"}

        def label(params: dict[str, Array]) -> dict[str, str]:
            return {name: names.get(name, "free") for name in params}

        super().__init__(
            partial(initial, size=size),
            self._loss,
            optax.partition(groups, label),
            batch_size=size.batch_size,
            epochs=EPOCHS,
            devices=devices,
        )

    def network(self, target: int) -> Network:
        """Returns the description from which a network with a number of units can be loaded."""
        arguments = {
            "inputs": self._size.inputs,
            "units": self._size.units,
            "method": self.method,
            "k": target,
        }
        takes = "sums of the atoms of a synthetic truth"
        return Network(autoencoder, arguments, (self._size.inputs,), takes)

    def _loss(self, params: Params, key: Array, slots: Array, setting: Array) -> Array:
        """Returns the loss ``(batch,)`` of new examples; ``slots`` says how many."""
        x, _ = synthetic_truth.draw_examples(self._truth, key, len(slots))
        pre, gate = pre_activations(params, x)
        code = self._code(params, pre, gate, setting)
        decode = lambda code_i: code_i @ params["atoms"] + params["decoder_bias"]
        x_hat = decode(code)
        if self.method == "Matryoshka":
            sizes = [round(share * self._size.units) for share in PREFIXES]
            target = x - params["decoder_bias"]
            loss = jaxae.matryoshka_loss(code, params["atoms"], target, prefixes=sizes)
        else:
            loss = jaxae.squared_error(x_hat, x)
        if self.method == "gated":
            loss = loss + jaxae.gated_auxiliary_loss(gate, decode, x)
        if self.method in HAS_WEIGHT:
            loss = loss + self._weighted(params, pre, gate, code, setting)
        else:
            loss = loss + AUXILIARY_WEIGHT * jaxae.dead_unit_loss(
                pre,
                lambda code_i: code_i @ params["atoms"],
                x - x_hat,
                is_dead=params["firing"] < DEAD_BELOW,
                k=self._size.inputs // 2,
            )
        share = jnp.mean((code > 0).astype(x.dtype), axis=0)
        loss = loss + carried(params["firing"], _running_mean(params["firing"], share))
        newest = jaxae.batch_top_k_threshold(code)
        following = _running_mean(params["batch_threshold"], newest)
        return loss + carried(params["batch_threshold"], following)

    def _code(self, params: Params, pre: Array, gate: Array, setting: Array) -> Array:
        """Returns the code of a batch."""
        if self.method == "JumpReLU":
            return jaxae.jump_relu(pre, params["threshold"], bandwidth=BANDWIDTH)
        if self.method == "gated":
            return jaxae.gated_relu(gate, pre)
        if self.method == "L1":
            return jax.nn.relu(pre)
        keep = jaxae.batch_top_k if self.method in OF_THE_BATCH else jaxae.keep_top_k
        keepers = [partial(keep, k=k) for k in self._size.targets]
        kept = jax.lax.switch(setting.astype(jnp.int32), keepers, jax.lax.stop_gradient(pre))
        return jnp.where(kept > 0, pre, 0)  # no gradient through the choice

    def _weighted(
        self, params: Params, pre: Array, gate: Array, code: Array, setting: Array
    ) -> Array:
        """Returns the penalty times its weight, with L0 over its target as gradient for that."""
        penalties: dict[str, Callable[[], Array]] = {
            "L1": lambda: jaxae.l1_penalty(code),
            "gated": lambda: jaxae.l1_penalty(jax.nn.relu(gate)),
            "JumpReLU": lambda: jaxae.step_l0_penalty(
                pre, params["threshold"], bandwidth=BANDWIDTH
            ),
        }
        target = jnp.asarray(self._size.targets, pre.dtype)[setting.astype(jnp.int32)]
        weight, fixed = params["weight"], jax.lax.stop_gradient(params["weight"])
        l0 = jax.lax.stop_gradient(jaxae.active_units(code))
        return fixed * penalties[self.method]() + (weight - fixed) * l0 / target


def _running_mean(before: Array, newest: Array) -> Array:
    """Returns the mean over about 1 / MEMORY batches."""
    return (1 - MEMORY) * before + MEMORY * newest
