"""The training task of the benchmarks by this library, and its matrix products alone."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import jaxae
from experiments.benchmarks.task import NOISE, PIXELS, RATE, Case, Task, make_images
from experiments.common.training.arrays import Params
from jaxae.training.epoch import EpochLayout, Window

_Products: TypeAlias = tuple[Array, ...]  # a batch, and the five products of a step


def make_task(case: Case) -> Task:
    """Returns images, and the initial weights of every contender."""
    params = jaxae.as_functions(_model(case)).init(jax.random.key(0))
    return Task(case, make_images(case), {name: np.array(value) for name, value in params.items()})


def _model(case: Case) -> jaxae.DenseAutoencoder:
    return jaxae.DenseAutoencoder((PIXELS,), case.code_dim, output_activation=jax.nn.sigmoid)


def prepared(task: Task) -> tuple[jaxae.Run, jaxae.TrainState]:
    """Returns our run of the task, and the state before its first epoch."""
    _, encode, decode = jaxae.as_functions(_model(task.case))
    corrupt = partial(jaxae.uniform_noise, scale=NOISE, low=0.0, high=1.0)

    def loss(params: Params, key: Array, x: Array) -> Array:
        functions = partial(encode, params), partial(decode, params)
        return jaxae.denoising_loss(key, *functions, x, corrupt=corrupt)

    optimizer = optax.adam(RATE)
    run = jaxae.make_run(loss, optimizer, batch_size=task.case.batch)
    return run, jaxae.create_train_state(jax.tree.map(jnp.asarray, task.params), optimizer)


def default_generator(key: Array) -> Array:
    """Returns a key as it is: of JAX's default generator, which is slower than ours."""
    return key


class Epochs:
    """Trains one more epoch at each call, and returns its mean loss.

    Args:
      task: what to train on.
      make_key: makes the key of the run, of whatever generator, from a default one.
      steps_per_block: steps in one turn of the epoch's loop; None for what the library takes.

    Attributes:
      program: the compiled program that every call runs.
    """

    def __init__(
        self,
        task: Task,
        make_key: Callable[[Array], Array] = jaxae.hash_key,
        steps_per_block: int | None = None,
    ) -> None:
        self._run, self._state = prepared(task)
        if steps_per_block is not None:
            # For good: the epoch is cut when it is compiled, and again in every call.
            layout = self._run.epoch.layout

            def cut(x: PyTree | Window) -> EpochLayout:
                return layout(x)._replace(steps_per_block=steps_per_block)

            self._run.epoch.layout = cut  # type: ignore[method-assign]
        self._key, self._x = make_key(jax.random.key(1)), jnp.asarray(task.x)
        self._epoch = 0
        self.program = self._run.program(*self._arguments())

    def _arguments(self) -> tuple[PyTree, ...]:
        return self._run.arguments(self._state, self._key, self._x, epoch=self._epoch)

    def __call__(self) -> float:
        self._state, _, losses = self.program(*self._arguments())
        self._epoch += 1
        return float(losses[0])


def make_products(case: Case) -> Callable[[Array, Array, Array], _Products]:
    """Returns a function of a batch and the two kernels: the products of an epoch's full steps.

    In each step five, as in training: two forward, three backward. The first code is one more.
    """

    def products(x: Array, encoder: Array, decoder: Array) -> _Products:
        def body(carry: _Products, _: None) -> tuple[_Products, None]:
            x, code, x_hat, back = carry[:4]
            found = (
                x,
                x @ encoder,
                code @ decoder,
                x_hat @ decoder.T,
                code.T @ x_hat,
                x.T @ back,
            )
            return jax.lax.optimization_barrier(found), None  # the compiler may leave none out

        code = x @ encoder
        start: _Products = (x, code, x, code, decoder, encoder)
        return jax.lax.scan(body, start, None, length=case.examples // case.batch)[0]

    return products


def bare_products(task: Task) -> Callable[[], float]:
    """Returns a call of the five matrix products of every full step of an epoch, nothing else."""
    x = jnp.asarray(task.x[: task.case.batch])
    kernels = [jnp.asarray(task.params[f"{part}_kernel_0"]) for part in ("encoder", "decoder")]
    products = jax.jit(make_products(task.case))

    def run() -> float:
        return float(jax.block_until_ready(products(x, *kernels))[1][0, 0])

    return run
