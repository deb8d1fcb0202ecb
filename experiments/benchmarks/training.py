"""An epoch of the lecture's denoising autoencoder, beside PyTorch and Keras, from start to finish.

    python -m experiments.benchmarks.training

One model (linear code, sigmoid output, squared error), the same initial weights, 60,000 images of
784 pixels, fresh uniform noise, Adam 1e-3: ``jaxae.make_run``, PyTorch eager and compiled (on a
GPU with CUDA graphs too), with its default and its fused Adam, and Keras 3 on its JAX backend. They
must come to the same loss first; then they take turns, and beside them the bare matrix products of
the step. About 15 minutes on two cores; for the rivals, ``pip install torch keras``. Expected: the
table of the README, which is made from ``results/training-<device>.json``.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxae
from experiments.benchmarks import common
from experiments.benchmarks.side_by_side import Contender, race
from experiments.common import command_line, noises, records

PIXELS, NOISE, RATE = 784, 0.55, 1e-3
EXAMPLES = 60_000


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""

    cases: tuple[str, ...] = ()
    """Names of the cases to run, by default all."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        common.require_known(self.cases, CASES)


@dataclass(frozen=True)
class Case:
    """A size of the model and of a batch."""

    code_dim: int
    batch: int
    examples: int = EXAMPLES

    @property
    def steps(self) -> int:
        """Number of steps of an epoch."""
        return -(-self.examples // self.batch)

    @property
    def flops(self) -> int:
        """Operations of the products of an epoch: two forward, three backward."""
        return 10 * self.examples * PIXELS * self.code_dim


CASES = {
    "64, batch 64": Case(64, 64),
    "64, batch 256": Case(64, 256),
    "1568, batch 64": Case(1568, 64),
    "1568, batch 256": Case(1568, 256),
}
QUICK = Case(8, 64, examples=512)


@dataclass
class Task:
    """What all contenders are given."""

    case: Case
    x: np.ndarray
    params: dict[str, np.ndarray]


def make_task(case: Case) -> Task:
    """Returns images, and the initial weights of every contender."""
    rng = np.random.default_rng(0)
    # Sixteen patterns with a little variation: something to learn, of MNIST's shape.
    patterns = rng.uniform(size=(16, PIXELS)) ** 4
    chosen = rng.integers(0, 16, case.examples)
    x = np.empty((case.examples, PIXELS), np.float32)
    for first in range(0, case.examples, 1000):
        rows = slice(first, first + 1000)
        x[rows] = patterns[chosen[rows]] * rng.uniform(0.7, 1, (len(x[rows]), PIXELS))
    params = jaxae.as_functions(_model(case)).init(jax.random.key(0))
    return Task(case, x, {name: np.array(value) for name, value in params.items()})


def _model(case: Case) -> jaxae.DenseAutoencoder:
    return jaxae.DenseAutoencoder((PIXELS,), case.code_dim, output_activation=jax.nn.sigmoid)


def prepared(task: Task) -> tuple[jaxae.Run, jaxae.TrainState]:
    """Returns our run of the task, and the state before its first epoch."""
    _, encode, decode = jaxae.as_functions(_model(task.case))
    corrupt = noises.BY_NAME["uniform"].at_level(NOISE)

    def loss(params: Any, key: Any, x: Any) -> Any:
        functions = partial(encode, params), partial(decode, params)
        return jaxae.denoising_loss(key, *functions, x, corrupt=corrupt)

    optimizer = optax.adam(RATE)
    run = jaxae.make_run(loss, optimizer, batch_size=task.case.batch)
    return run, jaxae.create_train_state(jax.tree.map(jnp.asarray, task.params), optimizer)


def ours(task: Task, make_key: Callable[[Any], Any] = jaxae.hash_key) -> Callable[[], float]:
    """Returns a function that trains one more epoch and returns its mean loss."""
    run, state = prepared(task)
    key, x = make_key(jax.random.key(1)), jnp.asarray(task.x)
    program = run.program(*run.arguments(state, key, x))
    epoch = 0

    def one_epoch() -> float:
        nonlocal state, epoch
        state, _, losses = program(*run.arguments(state, key, x, epoch=epoch))
        epoch += 1
        return float(losses[0])

    return one_epoch


def bare_products(task: Task) -> Callable[[], float]:
    """Returns the five matrix products of every step of an epoch, and nothing else."""
    case = task.case
    steps = case.examples // case.batch
    x = jnp.asarray(task.x[: case.batch])
    kernels = (
        jnp.asarray(task.params["encoder_kernel_0"]),
        jnp.asarray(task.params["decoder_kernel_0"]),
    )

    @jax.jit
    def products(x: Any, encoder: Any, decoder: Any) -> Any:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            x, code, x_hat, back, *_ = carry
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
        start = (x, code, x, code, decoder, encoder)
        return jax.lax.scan(body, start, None, length=steps)[0]

    def run() -> float:
        return float(jax.block_until_ready(products(x, *kernels))[1][0, 0])

    return run


def in_torch(task: Task, *, is_compiled: bool, mode: str | None, fused: bool) -> Any:
    """Returns an epoch of PyTorch, as its tutorials write it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.tensor(task.x, device=device)
    encoder = torch.nn.Linear(PIXELS, task.case.code_dim)
    decoder = torch.nn.Linear(task.case.code_dim, PIXELS)
    with torch.no_grad():
        for layer, name in ((encoder, "encoder"), (decoder, "decoder")):
            layer.weight.copy_(torch.tensor(task.params[f"{name}_kernel_0"].T))
            layer.bias.copy_(torch.tensor(task.params[f"{name}_bias_0"]))
    encoder, decoder = encoder.to(device), decoder.to(device)
    params = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(params, RATE, fused=fused or None)

    def loss(batch: Any) -> Any:
        noisy = (batch + NOISE * (2 * torch.rand_like(batch) - 1)).clamp(0, 1)
        return (torch.sigmoid(decoder(encoder(noisy))) - batch).square().sum(1).mean()

    if is_compiled:
        loss = torch.compile(loss, mode=mode)
    torch.manual_seed(0)

    def one_epoch() -> float:
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(x), device=device).split(task.case.batch):
            optimizer.zero_grad(set_to_none=True)
            value = loss(x[rows])
            value.backward()
            optimizer.step()
            total += value.detach() * len(rows)
        return float(total) / len(x)

    return one_epoch


def in_keras(task: Task) -> Callable[[], float]:
    """Returns an epoch of Keras 3 on its JAX backend, ``model.fit`` with a noise layer."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    class Noise(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, x: Any) -> Any:
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
    squared = lambda x, x_hat: keras.ops.sum(keras.ops.square(x - x_hat), axis=-1)
    model.compile(keras.optimizers.Adam(RATE), squared)

    def one_epoch() -> float:
        fitted = model.fit(task.x, task.x, batch_size=task.case.batch, epochs=1, verbose=0)
        return float(fitted.history["loss"][0])

    return one_epoch


def contenders() -> dict[str, Callable[[Task], Callable[[], float]]]:
    """Returns how to make each contender that can run here, ours first."""
    found: dict[str, Any] = {
        "jaxae": ours,
        "jaxae, default generator": partial(ours, make_key=lambda key: key),
    }
    if importlib.util.find_spec("torch"):
        modes: dict[str, str | None] = {"eager": None, "compile": None}
        if jax.default_backend() == "gpu":
            modes["compile, CUDA graphs"] = "reduce-overhead"
        for how, mode in modes.items():
            for fused in (False, True):
                name = f"torch {how}" + (", fused Adam" if fused else "")
                options: dict[str, Any] = {
                    "is_compiled": how != "eager",
                    "mode": mode,
                    "fused": fused,
                }
                found[name] = partial(in_torch, **options)
    if importlib.util.find_spec("keras"):
        found["keras"] = in_keras
    return found


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Returns losses, times and rates of all contenders of a case."""
    task = make_task(case)
    makers = contenders()
    racers, losses = {}, {}
    for name, make in makers.items():
        start = time.perf_counter()
        one_epoch = make(task)
        first = one_epoch()
        seconds = time.perf_counter() - start
        losses[name] = [first, one_epoch()]
        racers[name] = Contender(one_epoch, compile_seconds=seconds)
    for name, values in losses.items():
        if not np.allclose(values, losses["jaxae"], rtol=0.02):
            raise RuntimeError(f"{name} comes to {values}, jaxae to {losses['jaxae']}")
    racers["bare products"] = Contender(bare_products(task))
    racers["bare products"].call()
    found = race(racers, rounds)
    for row in found.values():
        row["gflops_per_second"] = case.flops / row["seconds"]["median"] / 1e9
        row["first_epoch_seconds"] = row.pop("compile_seconds")
        del row["temporary_bytes"]
    return {
        "code_dim": case.code_dim,
        "batch": case.batch,
        "examples": case.examples,
        "losses_of_two_epochs": losses,
        "contenders": found,
    }


def main(config: Config) -> dict[str, Any]:
    """Runs the benchmark and returns what the result file holds."""
    chosen = {name: case for name, case in CASES.items() if name in (config.cases or CASES)}
    rounds = 3 if config.quick else config.rounds
    found = {}
    with common.record(config.out) as record:
        for name, case in ({"quick": QUICK} if config.quick else chosen).items():
            found[name] = measure(case, rounds)
            record.log(case=name)
            print(f"code of {name}: {summary(found[name])}", flush=True)
        results = {
            "benchmark": "training",
            "rounds": rounds,
            "environment": records.environment() | {"cores": len(os.sched_getaffinity(0))},
            "torch": records.version("torch"),
            "keras": records.version("keras"),
            "cases": found,
        }
        record.write_json(f"training-{common.device_name()}.json", results)
    return results


def summary(measured: dict[str, Any]) -> str:
    """Returns one line: the median time of every contender, in seconds."""
    return ", ".join(
        f"{name} {contender['seconds']['median']:.3g} s"
        for name, contender in measured["contenders"].items()
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
