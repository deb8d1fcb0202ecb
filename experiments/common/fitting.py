"""Training and scoring one autoencoder again and again, compiled once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import jaxae

UNITS = {"mse": "squared pixel value, mean over pixels and examples", "psnr": "dB"}


class Trainer:
    """Trains a model with Adam; seeds and settings (a noise level) share one program.

    Args:
      model: any autoencoder of ``jaxae.models``.
      loss: ``loss(key, encode, decode, x, *settings) -> (batch,)``.
      learning_rate: step size of Adam, a number or a schedule of ``optax``.
      batch_size: examples per step.
      epochs: passes over the data.
    """

    def __init__(
        self,
        model: jaxae.DenseAutoencoder | jaxae.ConvAutoencoder,
        loss: Callable[..., Array],
        *,
        learning_rate: optax.ScalarOrSchedule,
        batch_size: int,
        epochs: int,
    ) -> None:
        self._functions = jaxae.as_functions(model)
        self._optimizer = optax.adam(learning_rate)
        self._epochs = epochs

        def of_params(params: Any, key: Array, x: Array, *settings: Any) -> Array:
            return loss(key, *self.bound(params), x, *settings)

        self.scores = make_scores(self.reconstruct)
        self._run_epoch = jaxae.make_epoch(of_params, self._optimizer, batch_size=batch_size)

    def fit(
        self, key: Array, x: Array, *settings: float, on_epoch: Callable[[int, float], None]
    ) -> Any:
        """Returns parameters trained from a fresh initialisation."""
        init_key, train_key = jax.random.split(key)
        state = jaxae.create_train_state(self._functions.init(init_key), self._optimizer)
        traced = [jnp.asarray(setting, x.dtype) for setting in settings]
        return jaxae.fit(
            self._run_epoch, state, train_key, x, *traced, epochs=self._epochs, on_epoch=on_epoch
        ).params

    def each_epoch(
        self, key: Array, x: Array, *settings: float, on_epoch: Callable[[int, float], None]
    ) -> Iterator[Any]:
        """Yields the parameters of ``fit`` before the first epoch and after every epoch."""
        init_key, train_key = jax.random.split(key)
        state = jaxae.create_train_state(self._functions.init(init_key), self._optimizer)
        traced = [jnp.asarray(setting, x.dtype) for setting in settings]
        yield state.params
        for epoch in range(self._epochs):
            position: dict[str, Any] = {"epochs": 1, "first_epoch": epoch, "on_epoch": on_epoch}
            state = jaxae.fit(self._run_epoch, state, train_key, x, *traced, **position)
            yield state.params

    def bound(self, params: Any) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Returns encoder and decoder with these parameters."""
        return partial(self._functions.encode, params), partial(self._functions.decode, params)

    def reconstruct(self, params: Any, x_i: Array) -> Array:
        """Returns decode(encode(x_i))."""
        encode, decode = self.bound(params)
        return decode(encode(x_i))


def make_scores(
    reconstruct: Callable[[Any, Array], Array],
) -> Callable[[Any, Array, Array], dict[str, Array]]:
    """Returns the compiled ``scores(params, x_noisy, x)`` of ``reconstruct(params, x_noisy_i)``.

    They are the MSE per pixel and the PSNR in dB, exact means over the examples; the PSNR is
    that of each example. Products are computed in full precision, on a GPU too.
    """

    @jax.jit
    def scores(params: Any, x_noisy: Array, x: Array) -> dict[str, Array]:
        def of_example(x_noisy_i: Array, x_i: Array) -> dict[str, Array]:
            x_hat_i = reconstruct(params, x_noisy_i)
            return {"mse": jaxae.mean_squared_error(x_hat_i, x_i), "psnr": jaxae.psnr(x_hat_i, x_i)}

        with jax.default_matmul_precision("highest"):
            return jaxae.evaluate(of_example, x_noisy, x, batch_size=1000)

    return scores
