"""The training task of the benchmarks by Keras, where it is installed; it is no dependency."""

import os
from collections.abc import Callable

from experiments.benchmarks.task import NOISE, PIXELS, RATE, Task


def epochs(task: Task) -> Callable[[], float]:
    """Returns an epoch of Keras 3 on its JAX backend, ``model.fit`` with a noise layer."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"Keras runs on {keras.backend.backend()}, but the row says JAX")

    class Noise(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
            noise = keras.random.uniform(keras.ops.shape(x), -NOISE, NOISE, seed=self.seeds)
            return keras.ops.clip(x + noise, 0, 1)

    dense = keras.layers.Dense
    model = keras.Sequential(
        [
            keras.Input((PIXELS,)),
            Noise(),
            dense(task.case.code_dim),
            dense(PIXELS, activation="sigmoid"),
        ]
    )
    names = [f"{part}_{kind}_0" for part in ("encoder", "decoder") for kind in ("kernel", "bias")]
    for variable, name in zip(model.trainable_variables, names, strict=True):
        variable.assign(task.params[name])

    def squared_error(x: keras.KerasTensor, x_hat: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.sum(keras.ops.square(x - x_hat), axis=-1)

    model.compile(keras.optimizers.Adam(RATE), squared_error)

    def one_epoch() -> float:
        fitted = model.fit(task.x, task.x, batch_size=task.case.batch, epochs=1, verbose=0)
        return float(fitted.history["loss"][0])

    return one_epoch
