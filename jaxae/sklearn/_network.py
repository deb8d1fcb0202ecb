"""The compiled functions of a network, shared by all estimators whose networks are alike.

A cross-validation fits many estimators that differ in their weights, their noise level or their
seed alone. These are arguments of the compiled functions, so all of the fits share one program.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxae import _checks
from jaxae.models import Activation, DenseAutoencoder, as_functions
from jaxae.objectives.basic import reconstruction_loss
from jaxae.reconstruction import bernoulli_nll, squared_error
from jaxae.training.programs import Run
from jaxae.training.runs import make_run
from jaxae.training.steps import TrainState, create_train_state

Params: TypeAlias = dict[str, Array | np.ndarray]

ACTIVATIONS: dict[str, Activation] = {
    "identity": None,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
}
LOSSES = {"squared_error": squared_error, "cross_entropy": bernoulli_nll}
# Rows that a compiled function gets at a time. The last rows of a table are padded to as many, so
# one program serves tables of every length, and the code of a row does not depend on the others.
_CHUNK_ROWS = 256
# How many networks, and how many training programs, are kept in memory.
_KEPT_NETWORKS = 32


class Architecture(NamedTuple):
    """All that decides which functions a network has.

    Attributes:
      n_features: number of columns of the table.
      n_components: number of units of the code.
      hidden_layer_sizes: widths between input and code.
      activation: name of the nonlinearity of the hidden layers.
      code_activation: name of the nonlinearity of the code.
      tied_weights: whether the decoder has the kernels of the encoder, transposed.
      loss: name of the reconstruction loss.
      dtype: name of the floating dtype of the parameters and of all computations.
    """

    n_features: int
    n_components: int
    hidden_layer_sizes: tuple[int, ...]
    activation: str
    code_activation: str
    tied_weights: bool
    loss: str
    dtype: str


class Network(NamedTuple):
    """The functions of a network.

    Attributes:
      init: ``init(key) -> params``.
      encode: encoder of one example, ``encode(params, x_i) -> code``.
      decode: decoder of one code, ``decode(params, code)``, to logits or to the mean.
      filters: ``filters(params)``, the rows ``(k, outputs)`` of the first kernel of the decoder.
      reconstruction: reconstruction loss of one decoder output and one example.
      encode_rows: compiled ``encode_rows(params, x) -> codes`` for ``_CHUNK_ROWS`` rows.
      decode_rows: compiled ``decode_rows(params, codes) -> x_hat``, in the units of x.
      row_errors: compiled ``row_errors(params, x) -> errors``, the losses without noise or penalty.
    """

    init: Callable[[Array], Params]
    encode: Callable[[Params, Array], Array]
    decode: Callable[[Params, Array], Array]
    filters: Callable[[Params], Array]
    reconstruction: Callable[[Array, Array], Array]
    encode_rows: Callable[[Params, Array], Array]
    decode_rows: Callable[[Params, Array], Array]
    row_errors: Callable[[Params, Array], Array]


# A training loss: objective(network, params, key, x, *settings) -> (batch,).
Objective: TypeAlias = Callable[..., Array]


@lru_cache(maxsize=_KEPT_NETWORKS)
def make_network(architecture: Architecture) -> Network:
    """Returns the functions of the network of an architecture."""
    init, encode, decode = as_functions(
        DenseAutoencoder(
            (architecture.n_features,),
            architecture.n_components,
            hidden_dims=architecture.hidden_layer_sizes,
            activation=ACTIVATIONS[architecture.activation],
            code_activation=ACTIVATIONS[architecture.code_activation],
            tied=architecture.tied_weights,
            param_dtype=jnp.dtype(architecture.dtype),
        )
    )
    reconstruction = LOSSES[architecture.loss]

    def decode_to_data(params: Params, code: Array) -> Array:
        output = decode(params, code)
        return nn.sigmoid(output) if architecture.loss == "cross_entropy" else output

    def filters(params: Params) -> Array:
        if architecture.tied_weights:
            last = params[f"encoder_kernel_{len(architecture.hidden_layer_sizes)}"]
            return jnp.asarray(last.T)
        return jnp.asarray(params["decoder_kernel_0"])

    def row_errors(params: Params, x: Array) -> Array:
        return reconstruction_loss(
            partial(encode, params), partial(decode, params), x, reconstruction=reconstruction
        )

    return Network(
        init=init,
        encode=encode,
        decode=decode,
        filters=filters,
        reconstruction=reconstruction,
        encode_rows=jax.jit(jax.vmap(encode, in_axes=(None, 0))),
        decode_rows=jax.jit(jax.vmap(decode_to_data, in_axes=(None, 0))),
        row_errors=jax.jit(row_errors),
    )


class Training(NamedTuple):
    """How a network is trained.

    Attributes:
      create_state: compiled ``create_state(key)``, the state before the first step.
      run: the run, with the programs that it has compiled before.
    """

    create_state: Callable[[Array], TrainState]
    run: Run


@lru_cache(maxsize=_KEPT_NETWORKS)
def make_training(
    architecture: Architecture, objective: Objective, learning_rate: float, batch_size: int
) -> Training:
    """Returns how the network of an architecture is trained, by Adam."""
    network = make_network(architecture)
    optimizer = optax.adam(learning_rate)

    def loss(params: Params, key: Array, x: Array, *settings: Array) -> Array:
        return objective(network, params, key, x, *settings)

    def create_state(key: Array) -> TrainState:
        return create_train_state(network.init(key), optimizer)

    return Training(jax.jit(create_state), make_run(loss, optimizer, batch_size=batch_size))


def apply_to_rows(
    function: Callable[[Params, Any], Array], params: Params, rows: np.ndarray, dtype: str
) -> np.ndarray:
    """Returns the values of a compiled function for all rows of a table, computed in ``dtype``."""
    values = [np.asarray(function(params, chunk)) for chunk in _chunks(rows, dtype)]
    return np.concatenate(values)[: len(rows)]


def _chunks(rows: np.ndarray, dtype: str) -> Iterator[np.ndarray]:
    """Yields the rows, ``_CHUNK_ROWS`` at a time; zeros are appended to the last ones."""
    for first in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[first : first + _CHUNK_ROWS].astype(dtype)
        yield np.pad(chunk, ((0, _CHUNK_ROWS - len(chunk)), (0, 0)))


def check_activation(name: str, value: object) -> None:
    """Checks that ``value`` is the name of an activation."""
    _checks.choice(name, value, ACTIVATIONS)
