"""Training and scoring one network again and again, compiled once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import jaxae
from experiments.common import interrupts
from experiments.common.data.datasets import Images
from experiments.common.data.pixels import Pixels, rows_in
from experiments.common.run.devices import mesh_of
from experiments.common.training.arrays import Params

_PIECE_BYTES = 2**23  # of examples that are scored at a time
UNITS = {"mse": "squared pixel value, mean over pixels and examples", "psnr": "dB"}

# ``scores(params, x_noisy, x)``, by name.
Scores: TypeAlias = Callable[[Params, Array, Array], dict[str, Array]]


class Trainer:
    """Trains networks of one architecture; seeds and settings (a noise level) share one program.

    Args:
      init: ``init(key)``, the parameters at the start.
      loss: ``loss(params, key, x, *settings) -> (batch,)``.
      optimizer: makes the steps.
      batch_size: examples per step.
      epochs: passes over the data.
      devices: devices over which a batch is divided.
      hash_keys: whether the keys of training are of the cheap generator; others are slower.

    Attributes:
      model: from what the networks can be loaded, see ``ExperimentRun.checkpoints``.
      epochs_if_extendable: the number of epochs, where the steps do not depend on it; else None.
    """

    model: object = None
    epochs_if_extendable: int | None = None

    def __init__(
        self,
        init: Callable[[Array], Params],
        loss: Callable[..., Array],
        optimizer: optax.GradientTransformation,
        *,
        batch_size: int,
        epochs: int,
        devices: int = 1,
        hash_keys: bool = True,
    ) -> None:
        self._epochs = epochs
        self._run = jaxae.make_run(loss, optimizer, batch_size=batch_size, mesh=mesh_of(devices))
        self._start = jax.jit(partial(start, init, optimizer, hash_keys))

    def fit_many(
        self,
        keys: Sequence[Array],
        x: Array | jaxae.Streamed,
        *settings: Sequence[float] | Array,
        on_epoch: Callable[[int, int, float], None],
        checkpoints: jaxae.Checkpoints,
    ) -> list[Params]:
        """Returns the parameters of one model for each key, with its own value of each setting."""
        states, train_keys = jax.vmap(self._start)(jnp.stack(keys))
        traced = [jnp.asarray(setting, x.dtype) for setting in settings]
        train = partial(jaxae.fit_many, self._run, on_epoch=on_epoch, checkpoints=checkpoints)
        with interrupts.deferred():
            trained = train(states, train_keys, x, *traced, epochs=self._epochs)
        return unstacked(trained.params, len(keys))

    def at_epochs(
        self,
        epochs: Sequence[int],
        key: Array,
        x: Array,
        *settings: float,
        on_epoch: Callable[[int, float], None],
        checkpoints: Callable[[int], jaxae.Checkpoints],
    ) -> Iterator[tuple[int, Params]]:
        """Yields the parameters of one model after some rising numbers of epochs.

        ``checkpoints`` gives those of the training that ends there.
        """
        state, train_key = self._start(key)
        traced = [jnp.asarray(setting, x.dtype) for setting in settings]
        before = 0
        for epoch in epochs:
            if epoch > before:
                train = partial(jaxae.fit, self._run, on_epoch=on_epoch, first_epoch=before)
                kept = checkpoints(epoch)
                with interrupts.deferred():
                    state = train(
                        state, train_key, x, *traced, epochs=epoch - before, checkpoints=kept
                    )
            before = epoch
            yield epoch, jax.tree.map(to_first_device, state.params)


class AutoencoderTrainer(Trainer):
    """Trains a model of ``jaxae.models`` with Adam.

    Args:
      model: any autoencoder of ``jaxae.models``.
      loss: ``loss(key, encode, decode, x, *settings) -> (batch,)``.
      learning_rate: step size of Adam, a number or a schedule of ``optax``.
      batch_size: examples per step.
      epochs: passes over the data.
      devices: devices over which a batch is divided.
      start: parameters at the start, the same for every key; by default random ones.
    """

    model: jaxae.DenseAutoencoder | jaxae.ConvAutoencoder

    def __init__(
        self,
        model: jaxae.DenseAutoencoder | jaxae.ConvAutoencoder,
        loss: Callable[..., Array],
        *,
        learning_rate: optax.ScalarOrSchedule,
        batch_size: int,
        epochs: int,
        devices: int = 1,
        start: Params | None = None,
    ) -> None:
        self.model, self._functions = model, jaxae.as_functions(model)
        self.epochs_if_extendable = None if callable(learning_rate) else epochs
        self.scores = make_scores(self.reconstruct)

        def loss_of_params(params: Params, key: Array, x: Array, *settings: Array) -> Array:
            return loss(key, *self.bound(params), x, *settings)

        super().__init__(
            self._functions.init if start is None else lambda key: start,
            loss_of_params,
            optax.adam(learning_rate),
            batch_size=batch_size,
            epochs=epochs,
            devices=devices,
        )

    def bound(self, params: Params) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Returns encoder and decoder with these parameters."""
        return partial(self._functions.encode, params), partial(self._functions.decode, params)

    def reconstruct(self, params: Params, x_i: Array) -> Array:
        """Returns decode(encode(x_i))."""
        encode, decode = self.bound(params)
        return decode(encode(x_i))


def start(
    init: Callable[[Array], Params],
    optimizer: optax.GradientTransformation,
    hash_keys: bool,
    key: Array,
) -> tuple[jaxae.TrainState, Array]:
    """Returns the state before the first step, and the key of the training."""
    init_key, train_key = jax.random.split(key)
    state = jaxae.create_train_state(init(init_key), optimizer)
    return state, jaxae.hash_key(train_key) if hash_keys else train_key


def to_first_device(leaf: Array) -> Array:
    """Returns an array as it is on the first device, where all measuring is done."""
    return leaf if len(leaf.devices()) == 1 else jnp.asarray(np.asarray(leaf))


def unstacked(params: PyTree, models: int) -> list[PyTree]:
    """Returns the parameters of each of some models, whose leaves have a leading axis of them."""
    leaves, tree = jax.tree.flatten(jax.tree.map(to_first_device, params))
    return [jax.tree.unflatten(tree, [leaf[i] for leaf in leaves]) for i in range(models)]


Noise = Callable[[Array, Array], Array]  # corruption of one example


def in_memory_or_streamed(x: Images) -> Array | jaxae.Streamed:
    """Returns what a network trains on: an array on the device, or a stream of its rows."""
    return jaxae.Streamed(x) if isinstance(x, Pixels) else jnp.asarray(x)


def noisy_pieces(key: Array, corrupt: Noise, x: Images) -> Iterator[tuple[Array, Array]]:
    """Yields noisy and clean rows ``(m, d)``, all in turn, some thousands at a time.

    Each row has the noise that ``jaxae.corrupt_batch`` gives it in the whole, and the pieces are
    the same whether the data are in memory or not, and so are the numbers that come of them.
    """
    rows = rows_in(_PIECE_BYTES, x.shape[1:])
    for begin in range(0, len(x), rows):
        piece = jnp.asarray(x[begin : begin + rows])
        yield jax.vmap(corrupt)(_keys_of(key, begin + jnp.arange(len(piece))), piece), piece


def noisy_rows(key: Array, corrupt: Noise, x: Images, rows: np.ndarray) -> tuple[Array, Array]:
    """Returns some noisy and clean rows, with the noise that they have in the whole."""
    clean = jnp.asarray(x[rows])
    return jax.vmap(corrupt)(_keys_of(key, jnp.asarray(rows)), clean), clean


def _keys_of(key: Array, rows: Array) -> Array:
    """Returns the keys of some rows: those of ``jax.random.split``."""
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


def mean_scores(
    scores: Scores,
    params: Params,
    pieces: Iterable[tuple[Array, Array]],
) -> dict[str, float]:
    """Returns the means of ``scores(params, x_noisy, x)`` over all rows."""
    count, total = 0, dict[str, float]()
    for x_noisy, x in pieces:
        for name, value in scores(params, x_noisy, x).items():
            total[name] = total.get(name, 0.0) + len(x) * float(value)
        count += len(x)
    return {name: value / count for name, value in total.items()}


def make_scores(
    reconstruct: Callable[[Params, Array], Array],
) -> Scores:
    """Returns the compiled ``scores(params, x_noisy, x)`` of ``reconstruct(params, x_noisy_i)``.

    They are the MSE per pixel and the PSNR in dB, exact means over the examples; the PSNR is
    that of each example. Products are computed in full precision, on a GPU too.
    """

    @jax.jit
    def scores(params: Params, x_noisy: Array, x: Array) -> dict[str, Array]:
        def score_example(x_noisy_i: Array, x_i: Array) -> dict[str, Array]:
            x_hat_i = reconstruct(params, x_noisy_i)
            return {"mse": jaxae.mean_squared_error(x_hat_i, x_i), "psnr": jaxae.psnr(x_hat_i, x_i)}

        with jax.default_matmul_precision("highest"):
            return jaxae.evaluate(score_example, x_noisy, x, batch_size=1000)

    return scores
