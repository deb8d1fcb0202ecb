"""Where the time of an epoch goes, and what other ways of doing the same cost.

    python -m experiments.benchmarks.epoch

A profile of one epoch by kind of work, from JAX's own profiler; then the epoch with other random
generators, with a sorting shuffle, with a shuffled copy of the data, with Adam block by block, with
one or four steps in each turn of its loop and, on a CPU, with the compiler's default options, all
in turn. Each variant must be another compiled program and come to the same loss. About ten minutes
on two cores. Expected: the tables of docs/speed.md, which are made from
``results/epoch-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.epoch"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

import contextlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree, ScalarLike

import jaxae
from experiments.benchmarks import common
from experiments.benchmarks.in_jaxae import Epochs, make_task, prepared
from experiments.benchmarks.side_by_side import Contender, race, require_different
from experiments.benchmarks.task import CASES, QUICK, Case
from experiments.common.run import command_line
from jaxae.training import epoch as training_epoch
from jaxae.training import programs

KINDS = {
    "products": "matrix products, two forward and three backward",
    "noise": "random numbers and corruption",
    "shuffle": "shuffle of the epoch",
    "gather": "fetching the rows of a batch",
    "optimizer": "Adam",
    "elementwise": "sigmoid, loss and their derivatives, biases",
    "copies": "copies and bookkeeping",
}

# Of a kernel with 1568 columns 64 rows are 0.4 MB, and with Adam's two moments 1.2 MB.
ROWS = 64

Config = common.Options


def kind_of(name: str, op_name: str, text: str) -> str:
    """Returns what an instruction of the compiled program is for.

    Args:
      name: of the instruction.
      op_name: the path of JAX names that it comes from.
      text: its line, and the computation that it calls.
    """
    if name.startswith(("copy", "while")) or not op_name:
        return "copies"
    if " dot(" in text or ("custom-call" in text and "dot" in op_name):
        return "products"
    for word, kind in (
        ("optimizer", "optimizer"),
        ("shuffle", "shuffle"),
        ("gather", "gather"),
        ("corruption", "noise"),
        ("random", "noise"),
        ("jvp", "elementwise"),
    ):
        if word in op_name:
            return kind
    return "copies"


def kinds_of(hlo: str) -> dict[str, str]:
    """Returns the kind of every instruction of a compiled program, by its name."""
    bodies: dict[str, str] = {}
    for match in re.finditer(r"^%?(\S+) \(.*?^}", hlo, flags=re.MULTILINE | re.DOTALL):
        bodies[match[1]] = match[0]
    kinds = {}
    for line in hlo.splitlines():
        if not (named := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)):
            continue
        op_name = re.search(r'op_name="([^"]*)"', line)
        called = re.search(r"calls=%?([\w.\-]+)", line)
        text = line + (bodies.get(called[1], "") if called else "")
        kinds[named[1]] = kind_of(named[1], op_name[1] if op_name else "", text)
    return kinds


def profile(case: Case) -> dict[str, float]:
    """Returns the share of each kind of work in the time of all kernels of an epoch."""
    task = make_task(case)
    run, state = prepared(task)
    key = jaxae.hash_key(jax.random.key(1))
    arguments = run.arguments(state, key, jnp.asarray(task.x))
    program = run.program(*arguments)
    kinds = kinds_of(program.as_text() or "")
    donated = jax.block_until_ready(program(*arguments))[:2]  # and given back
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*donated, *arguments[2:]))
        (path,) = Path(folder).glob("**/*.xplane.pb")
        found = jax.profiler.ProfileData.from_file(str(path))
        times: Counter[str] = Counter()
        for plane in found.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in kinds and not event.name.startswith("while"):
                        times[kinds[event.name]] += int(event.duration_ns)
    total = sum(times.values())
    return {kind: times[kind] / total for kind in KINDS}


@dataclass(frozen=True)
class Variant:
    """One thing done otherwise than the library does it."""

    make_key: Callable[[Array], Array] = jaxae.hash_key
    """Makes the key of the run from a default one."""
    steps_per_block: command_line.Optional[int] = None
    """Steps in one turn of the epoch's loop, None for what the library takes."""
    replaced: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    """A change of the library, made while the epoch is traced and compiled."""


def variants() -> dict[str, Variant]:
    """Returns the variants that there are on this device and in this JAX, by name."""
    sorting = partial(mock.patch.object, training_epoch, "shuffled_order", jax.random.permutation)
    found = {
        **{f"generator {name}": Variant(make_key) for name, make_key in generators().items()},
        "shuffle by sorting": Variant(replaced=sorting),
        "shuffled copy of the data": Variant(
            replaced=partial(mock.patch.object, training_epoch, "_make_batches", copied_batches)
        ),
        "Adam block by block": Variant(
            replaced=partial(mock.patch.object, optax, "adam", adam_by_blocks)
        ),
        "one step at a time": Variant(steps_per_block=1),
        "four steps at a time": Variant(steps_per_block=4),
    }
    if jax.default_backend() == "cpu":
        plain = partial(mock.patch.object, programs, "_CPU_OPTIONS", {})
        found["compiler's default options"] = Variant(replaced=plain)
    return found


def copied_batches(
    x: Array, shuffle_key: Array, layout: training_epoch.EpochLayout
) -> training_epoch._Batches:
    """Returns the batches of an epoch out of a shuffled copy of the data, made at its start.

    The barrier keeps the compiler from fetching the rows of each batch where it is used.
    """
    with jax.named_scope("shuffle"):
        order = training_epoch.shuffled_order(shuffle_key, len(x))
        copy = jax.lax.optimization_barrier(x[order])
    size = layout.batch_size

    def take_full(i: ScalarLike) -> Array:
        return jax.lax.dynamic_slice_in_dim(copy, i * size, size)

    return training_epoch._Batches(take_full, lambda: copy[layout.full_steps * size :])


def adam_by_blocks(rate: float) -> optax.GradientTransformation:
    """Returns Adam that works on blocks of the arrays, each small enough for a core's cache."""
    return optax.chain(_in_blocks(optax.scale_by_adam()), optax.scale_by_learning_rate(rate))


def _in_blocks(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimiser whose state and updates are those of another one, block by block."""

    def cut(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.split(leaf, list(range(ROWS, len(leaf), ROWS))), tree)

    def update(updates: PyTree, state: PyTree, _: PyTree = None) -> tuple[PyTree, PyTree]:
        blocks, state = optimizer.update(cut(updates), state)
        return jax.tree.map(lambda _, parts: jnp.concatenate(parts), updates, blocks), state

    return optax.GradientTransformation(lambda params: optimizer.init(cut(params)), update)


def generators() -> dict[str, Callable[[Array], Array]]:
    """Returns other ways to make the key of a run, as far as this JAX knows them."""
    found: dict[str, Callable[[Array], Array]] = {}
    names = {"Threefry (default)": "threefry2x32"}
    for name in (*names, "philox2x32", "philox4x32", "unsafe_rbg"):
        try:
            key = jax.random.key(1, impl=names.get(name, name))
        except ValueError:
            continue
        found[name] = partial(_replace_key, key)
    return found


def _replace_key(key: Array, _: Array) -> Array:
    return key


def make_contenders(case: Case, chosen: dict[str, Variant]) -> dict[str, Contender]:
    """Returns the epoch as the library does it, and some variants of it.

    Raises:
      RuntimeError: if a variant is the program of the library's own epoch, or trains otherwise.
    """
    task = make_task(case)
    found: dict[str, Contender] = {}
    losses: dict[str, float] = {}
    for name, variant in {"as it is": Variant(), **chosen}.items():
        with variant.replaced():
            one_epoch = Epochs(task, variant.make_key, variant.steps_per_block)
        losses[name] = one_epoch()
        found[name] = Contender(one_epoch, program=one_epoch.program.as_text() or "")
        if name != "as it is":
            require_different(found["as it is"].program, found[name].program, name)
        if not np.isclose(losses[name], losses["as it is"], rtol=0.02):
            raise RuntimeError(f"{name!r} comes to {losses[name]}, not {losses['as it is']}")
    return found


def measure(case: Case, rounds: int) -> common.Results:
    """Returns the profile of an epoch, and the times of its variants."""
    names = (  # of a trial
        "generator Threefry (default)",
        "shuffle by sorting",
        "shuffled copy of the data",
        "Adam block by block",
    )
    chosen = {name: v for name, v in variants().items() if case != QUICK or name in names}
    found = race(make_contenders(case, chosen), rounds)
    for row in found.values():
        del row["compile_seconds"], row["temporary_bytes"]
    return {
        "code_dim": case.code_dim,
        "batch": case.batch,
        "profile": profile(case),
        "variants": found,
    }


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    chosen = {name: CASES[name] for name in ("64, batch 64", "64, batch 256", "1568, batch 64")}
    rounds = 3 if config.quick else config.rounds
    found = {}
    with common.record("epoch", config.out) as record:
        for name, case in ({"quick": QUICK} if config.quick else chosen).items():
            found[name] = measure(case, rounds)
            record.log(case=name)
            shares = ", ".join(f"{k} {v:.0%}" for k, v in found[name]["profile"].items())
            print(f"code of {name}: {shares}", flush=True)
        return common.write_results(record, "epoch", rounds=rounds, kinds=KINDS, cases=found)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
