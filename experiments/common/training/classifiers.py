"""Supervised training on top of a pretrained encoder, stopped early on validation data."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common import interrupts
from experiments.common.data.datasets import Dataset
from experiments.common.errors import InputError
from experiments.common.run.devices import mesh_of
from experiments.common.training import fitting
from experiments.common.training.arrays import Params

Layers = tuple[tuple[Array, Array], ...]  # kernel (inputs, units) and bias of each, from below
NEIGHBOURS = 5


class Examples(NamedTuple):
    """Images ``(n, d)`` and their classes ``(n,)``."""

    x: Array
    y: Array


class Split(NamedTuple):
    """The data of one run."""

    train: Examples
    validation: Examples
    test: Examples
    num_classes: int


def split_of(dataset: Dataset) -> Split:
    """Returns the last sixth of the training images for validation, and the others to train on.

    Raises:
      InputError: if there are no labels, or too few images.
    """
    if dataset.train_labels is None or dataset.test_labels is None:
        raise InputError("--dataset must have labels, which the classifiers are trained on")
    classes = np.unique(np.concatenate([dataset.train_labels, dataset.test_labels]))
    train = np.searchsorted(classes, dataset.train_labels)
    test = np.searchsorted(classes, dataset.test_labels)
    x_train, x_test = map(jnp.asarray, dataset.flat())
    held_out = len(x_train) // 6
    if held_out < 1 or len(classes) < 2:
        raise InputError("--dataset must have 6 training images at least, and of two classes")
    cut = len(x_train) - held_out
    return Split(
        Examples(x_train[:cut], jnp.asarray(train[:cut])),
        Examples(x_train[cut:], jnp.asarray(train[cut:])),
        Examples(x_test, jnp.asarray(test)),
        len(classes),
    )


def labelled(examples: Examples) -> Array:
    """Returns the images ``(n, d + 1)`` with their classes as one more feature, to be shuffled."""
    x, y = examples
    return jnp.concatenate([x, y[:, None].astype(x.dtype)], axis=1)


class Outcome(NamedTuple):
    """One trained classifier; errors are in percent."""

    validation_error: float
    test_error: float
    epochs: float  # that led to the least validation error


def encode(layers: Layers, activation: Callable[[Array], Array], x_i: Array) -> Array:
    """Returns the code of one example on top of all layers."""
    for kernel, bias in layers:
        x_i = activation(x_i @ kernel + bias)
    return x_i


@partial(jax.jit, static_argnums=1)
def codes(layers: Layers, activation: Callable[[Array], Array], x: Array) -> Array:
    """Returns the codes ``(n, units)`` of some examples; encoders of one shape share a program."""
    return jax.vmap(lambda x_i: encode(layers, activation, x_i))(x)


class Classifier:
    """A softmax on the code, trained with Adam along a cosine; layers below too, unless frozen.

    The parameters after the epoch with the least validation error are the ones that count;
    nothing is chosen by the test data.

    Args:
      activation: of every layer.
      rows: training images with their classes, from :func:`labelled`; classifiers share them.
      split: the data of which these are.
      is_frozen: whether the layers below stay as they are: a linear probe.
      learning_rate: step size of Adam at the start.
      batch_size: examples per step.
      epochs: passes over the training data.
      devices: devices over which a batch is divided.

    Attributes:
      logits: ``logits(params, x_i)`` of the classes, of one example.
    """

    def __init__(
        self,
        activation: Callable[[Array], Array],
        rows: Array,
        split: Split,
        *,
        is_frozen: bool,
        learning_rate: float,
        batch_size: int,
        epochs: int,
        devices: int,
    ) -> None:
        self._split, self._epochs = split, epochs
        self._train = rows
        self._steps = -(-len(rows) // batch_size)

        def logits(params: Params, x_i: Array) -> Array:
            layers = jax.lax.stop_gradient(params["layers"]) if is_frozen else params["layers"]
            return encode(layers, activation, x_i) @ params["kernel"] + params["bias"]

        self.logits = logits

        def loss(params: Params, key: Array, x: Array) -> Array:
            labels = x[:, -1].astype(jnp.int32)
            outputs = jax.vmap(logits, (None, 0))(params, x[:, :-1])
            return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, labels)

        def error(params: Params, examples: Examples) -> Array:
            found = jnp.argmax(jax.vmap(logits, (None, 0))(params, examples.x), axis=1)
            return 100 * jnp.mean((found != examples.y).astype(jnp.float32))

        self._error = jax.jit(error)
        schedule = optax.cosine_decay_schedule(learning_rate, epochs * self._steps)
        self._optimizer = jaxae.keep_best(
            optax.adam(schedule), lambda params: error(params, split.validation), every=self._steps
        )
        mesh = mesh_of(devices)
        self._run = jaxae.make_run(loss, self._optimizer, batch_size=batch_size, mesh=mesh)

    def best_of_many(
        self,
        keys: Sequence[Array],
        encoders: Sequence[Layers],
        *,
        on_epoch: Callable[[int, int, float], None],
        checkpoints: jaxae.Checkpoints,
    ) -> list[jaxae.BestState]:
        """Returns a classifier on each encoder, at its best."""
        width, classes = encoders[0][-1][1].shape[0], self._split.num_classes
        head = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
        params = [{"layers": layers, **head} for layers in encoders]

        def start(params: Params) -> jaxae.TrainState:
            return jaxae.create_train_state(params, self._optimizer)

        states = jax.jit(jax.vmap(start))(jax.tree.map(lambda *a: jnp.stack(a), *params))
        cheap = jnp.stack([jaxae.hash_key(key) for key in keys])
        train = partial(jaxae.fit_many, self._run, on_epoch=on_epoch, checkpoints=checkpoints)
        with interrupts.deferred():
            trained = train(states, cheap, self._train, epochs=self._epochs)
        return fitting.unstacked(trained.opt_state, len(keys))

    def outcome(self, best: jaxae.BestState) -> Outcome:
        """Returns the errors of a classifier."""
        with jax.default_matmul_precision("highest"):
            validation = self._error(best.params, self._split.validation)
            test = self._error(best.params, self._split.test)
        return Outcome(float(validation), float(test), int(best.step) / self._steps)


def neighbours_error(layers: Layers, activation: Callable[[Array], Array], split: Split) -> float:
    """Returns the test error, in percent, of the nearest neighbours among the codes."""
    from sklearn.neighbors import KNeighborsClassifier  # takes two seconds, and few come here

    vote = KNeighborsClassifier(min(NEIGHBOURS, len(split.train.x)))
    vote.fit(np.asarray(codes(layers, activation, split.train.x)), np.asarray(split.train.y))
    found = vote.predict(np.asarray(codes(layers, activation, split.test.x)))
    return 100 * float(np.mean(found != np.asarray(split.test.y)))
