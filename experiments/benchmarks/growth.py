"""How time and memory grow, and what several models at once cost.

    python -m experiments.benchmarks.growth

An epoch of the denoising autoencoder against the number of examples, of inputs, of code units and
of models, each over a factor of 16, with the exponent of a power law fitted to it; and several
models in threads, under vmap, and one after another, all in turn. About five minutes on two cores.
Expected: the tables of docs/speed.md, which are made from ``results/growth-<device>.json``.

On paper an epoch over n examples of d inputs with k code units takes 10 n d k operations in its
products and O(n (d + k)) elsewhere, and 14 d k n / b memory operations in Adam, b the batch; it
holds n d numbers of data and 7 d k of weights, gradients and moments. Exponents are 1 where a term
dominates, and below 1 where another one stays.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.growth"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import jaxae
from experiments.benchmarks import common
from experiments.benchmarks.side_by_side import Contender, race
from experiments.benchmarks.task import NOISE, RATE
from experiments.common.run import command_line
from experiments.common.training import fitting
from experiments.common.training.arrays import Params


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""

    cases: tuple[str, ...] = ()
    """Names of the growing sizes and of the sweeps to run, by default all."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        common.require_known(self.cases, [*GROWTH, *SWEEPS])


@dataclass(frozen=True)
class Size:
    """Of the data, of the model, and how many models."""

    examples: int = 7680
    inputs: int = 784
    code_dim: int = 64
    models: int = 1
    batch: int = 64


FACTORS = (1, 2, 4, 8, 16)
GROWTH = {
    "examples": [Size(examples=3750 * f) for f in FACTORS],
    "inputs": [Size(inputs=196 * f) for f in FACTORS],
    "code_dim": [Size(code_dim=98 * f, examples=1920) for f in FACTORS],
    "models": [Size(models=f, examples=3840) for f in FACTORS],
}
# digits (8x8) and MNIST, as many models as the lecture trains at a time
SWEEPS = {
    "64-16, 9 models": Size(1438, 64, 16, 9),
    "64-128, 3 models": Size(1438, 64, 128, 3),
    "784-64, 9 models": Size(3840, 784, 64, 9),
    "784-256, 3 models": Size(3840, 784, 256, 3),
    "784-1568, 3 models": Size(640, 784, 1568, 3),
    "784-64, 30 models": Size(7680, 784, 64, 30),
}


Prepared = tuple[jaxae.Run, tuple[PyTree, ...]]  # a run, and the arguments of fit_many


def prepared(size: Size) -> Prepared:
    """Returns a run, and states, keys, data and noise levels of its models."""
    model = jaxae.DenseAutoencoder((size.inputs,), size.code_dim, output_activation=jax.nn.sigmoid)
    init, encode, decode = jaxae.as_functions(model)

    def loss(params: Params, key: Array, x: Array, level: Array) -> Array:
        corrupt = partial(jaxae.uniform_noise, scale=level, low=0.0, high=1.0)
        functions = partial(encode, params), partial(decode, params)
        return jaxae.denoising_loss(key, *functions, x, corrupt=corrupt)

    optimizer = optax.adam(RATE)
    run = jaxae.make_run(loss, optimizer, batch_size=size.batch)
    keys = jax.random.split(jaxae.hash_key(jax.random.key(0)), size.models)
    states = jax.vmap(lambda key: jaxae.create_train_state(init(key), optimizer))(keys)
    data = np.random.default_rng(0).uniform(size=(size.examples, size.inputs))
    levels = jnp.linspace(NOISE, 2 * NOISE, size.models)
    return run, (states, keys, jnp.asarray(data, jnp.float32), levels)


def ways(given: Prepared, models: int, epochs: int) -> dict[str, Callable[[], PyTree]]:
    """Returns the ways to train the models: in threads, together, one after another.

    The first two return stacked parameters; a loop has its models apart, before and after.
    """
    run, arguments = given
    stacked = (arguments[0], arguments[1], arguments[3])
    singles = fitting.unstacked(stacked, models)

    def many(method: str) -> Params:
        return jax.block_until_ready(
            jaxae.fit_many(run, *arguments, epochs=epochs, method=method).params
        )

    def in_turn() -> list[Params]:
        x = arguments[2]
        return [
            jax.block_until_ready(jaxae.fit(run, state, key, x, level, epochs=epochs).params)
            for state, key, level in singles
        ]

    return {
        "threads": partial(many, "threads"),
        "vmap": partial(many, "vmap"),
        "one after another": in_turn,
    }


def planned_bytes(given: Prepared, models: int) -> int:
    """Returns the device memory of a program of all models: arguments, results, temporary buffers.

    Several models are under vmap, also where they would train in threads.
    """
    run, (*stacked, x, levels) = given
    if models == 1:
        ((*stacked, levels),) = fitting.unstacked((*stacked, levels), 1)
    arguments = run.arguments(*stacked, x, levels)
    program = run.program(*arguments, is_batched=models > 1)
    memory = program.memory_analysis()
    assert memory is not None  # which the CPU and the GPU have
    sizes = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(sizes + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def growth(sizes: list[Size], rounds: int) -> common.Results:
    """Returns seconds of an epoch and bytes for some sizes, and the exponents."""
    given = [prepared(size) for size in sizes]
    models = [size.models for size in sizes]
    method = jaxae.sweep_method()
    calls = {
        str(i): ways(one, m, 1)[method]
        for i, (one, m) in enumerate(zip(given, models, strict=True))
    }
    for call in calls.values():
        call()
    found = race({name: Contender(call) for name, call in calls.items()}, rounds)
    seconds = [row["seconds"] for row in found.values()]
    bytes_ = [planned_bytes(one, m) for one, m in zip(given, models, strict=True)]
    return {
        "seconds": seconds,
        "bytes": bytes_,
        "exponent_of_seconds": exponent([row["median"] for row in seconds]),
        "exponent_of_bytes": exponent(bytes_),
    }


def exponent(values: Sequence[float]) -> float:
    """Returns the slope of log value against log size, by least squares."""
    sizes = np.log(FACTORS[: len(values)])
    return float(np.polyfit(sizes, np.log(np.asarray(values, np.float64)), 1)[0])


def sweep(size: Size, rounds: int, epochs: int) -> common.Results:
    """Returns the seconds of each way to train the models of a size."""
    calls = ways(prepared(size), size.models, epochs)
    require_same_models({name: call() for name, call in calls.items()}, size.models)
    found = race({name: Contender(call) for name, call in calls.items()}, rounds)
    for row in found.values():
        del row["compile_seconds"], row["temporary_bytes"]
    return found


def require_same_models(trained: dict[str, PyTree], models: int) -> None:
    """Raises RuntimeError if a way to train several models does not train what the others do."""
    alone = trained["one after another"]
    for name in ("threads", "vmap"):
        together = fitting.unstacked(trained[name], models)
        for mine, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            # In other orders of summation the rounding errors grow from step to step.
            if not np.linalg.norm(other - mine) <= 0.01 * np.linalg.norm(mine):
                raise RuntimeError(f"{name!r} trains other models than one after another")


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    small = {"code_dim": [Size(64, 16, 4 * f) for f in FACTORS[:2]]}
    rounds = 3 if config.quick else config.rounds
    if config.quick:
        chosen, sweeps = small, {"quick": Size(128, 16, 8, 2)}
    else:
        names = config.cases or [*GROWTH, *SWEEPS]
        chosen = {name: sizes for name, sizes in GROWTH.items() if name in names}
        sweeps = {name: size for name, size in SWEEPS.items() if name in names}
    with common.record("growth", config.out) as record:
        grown = {}
        for name, sizes in chosen.items():
            grown[name] = {"sizes": [getattr(s, name) for s in sizes], **growth(sizes, rounds)}
            record.log(growth=name)
            print(
                f"{name}: seconds grow with exponent {grown[name]['exponent_of_seconds']:.2f}, "
                f"bytes with {grown[name]['exponent_of_bytes']:.2f}",
                flush=True,
            )
        swept = {}
        for name, size in sweeps.items():
            swept[name] = sweep(size, rounds, epochs=100 if size.inputs < 100 else 4)
            record.log(sweep=name)
            print(
                f"{name}: "
                + ", ".join(f"{k} {v['seconds']['median']:.3g} s" for k, v in swept[name].items()),
                flush=True,
            )
        return common.write_results(record, "growth", rounds=rounds, growth=grown, sweeps=swept)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
