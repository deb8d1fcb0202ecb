"""Where the time of an epoch goes, and what other ways of doing the same cost.

    python -m experiments.benchmarks.epoch

A profile of one epoch by kind of work, from JAX's own profiler; then the epoch with other random
generators, with a sorting shuffle, with an unrolled loop and with the compiler's default options,
all in turn. About five minutes on two cores. Expected: the tables of docs/speed.md, which are made
from ``results/epoch-<device>.json``.
"""

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import jaxae
from experiments.benchmarks import common
from experiments.benchmarks.side_by_side import Contender, race
from experiments.benchmarks.training import CASES, QUICK, Case, make_task, ours, prepared
from experiments.common import command_line, records
from jaxae import _program, training

KINDS = {
    "products": "matrix products, two forward and three backward",
    "noise": "random numbers and corruption",
    "shuffle": "shuffle of the epoch",
    "gather": "fetching the rows of a batch",
    "optimizer": "Adam",
    "elementwise": "sigmoid, loss and their derivatives, biases",
    "copies": "copies and bookkeeping",
}

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
    program: Any = run.program(*arguments)
    kinds = kinds_of(program.as_text())
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


def generators() -> dict[str, Callable[[Any], Any]]:
    """Returns other ways to make the key of a run, as far as this JAX knows them."""
    found: dict[str, Callable[[Any], Any]] = {"Threefry (default)": lambda key: key}
    for name in ("philox2x32", "philox4x32", "unsafe_rbg"):
        try:
            jax.random.key(0, impl=name)
        except ValueError:
            continue
        found[name] = partial(_of_generator, name)
    return found


def _of_generator(name: str, _: Any) -> Any:
    return jax.random.key(1, impl=name)


def _scan(scan: Any, steps: int, *arguments: Any, unroll: int = 1) -> Any:
    return scan(*arguments, unroll=steps)


def variants(case: Case, most: int | None = None) -> dict[str, Contender]:
    """Returns the epoch as it is, and with one thing done otherwise; all of these, or a few."""
    task = make_task(case)
    found = {"as it is": ours(task)}
    for name, make_key in list(generators().items())[:most]:
        found[f"generator {name}"] = ours(task, make_key)
    others: dict[str, tuple[Any, str, Any]] = {
        "shuffle by sorting": (training, "shuffled_order", jax.random.permutation),
        "loop not unrolled": (jax.lax, "scan", partial(_scan, jax.lax.scan, 1)),
        "loop unrolled four times": (jax.lax, "scan", partial(_scan, jax.lax.scan, 4)),
        "compiler's default options": (_program, "_CPU_OPTIONS", {}),
    }
    for name, (where, attribute, value) in list(others.items())[:most]:
        with mock.patch.object(where, attribute, value):
            found[name] = ours(task)
    for one_epoch in found.values():
        one_epoch()
    return {name: Contender(one_epoch) for name, one_epoch in found.items()}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Returns the profile of an epoch, and the times of its variants."""
    found = race(variants(case, most=1 if case == QUICK else None), rounds)
    for row in found.values():
        del row["compile_seconds"], row["temporary_bytes"]
    return {
        "code_dim": case.code_dim,
        "batch": case.batch,
        "profile": profile(case),
        "variants": found,
    }


def main(config: Config) -> dict[str, Any]:
    """Runs the benchmark and returns what the result file holds."""
    chosen = {name: CASES[name] for name in ("64, batch 64", "64, batch 256", "1568, batch 64")}
    rounds = 3 if config.quick else config.rounds
    found = {}
    with common.record(config.out) as record:
        for name, case in ({"quick": QUICK} if config.quick else chosen).items():
            found[name] = measure(case, rounds)
            record.log(case=name)
            shares = ", ".join(f"{k} {v:.0%}" for k, v in found[name]["profile"].items())
            print(f"code of {name}: {shares}", flush=True)
        results = {
            "benchmark": "epoch",
            "rounds": rounds,
            "environment": records.environment() | {"cores": len(os.sched_getaffinity(0))},
            "kinds": KINDS,
            "cases": found,
        }
        record.write_json(f"epoch-{common.device_name()}.json", results)
    return results


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
