"""An epoch of the lecture's denoising autoencoder, beside PyTorch and Keras, from start to finish.

    python -m experiments.benchmarks.training

One model (linear code, sigmoid output, squared error), the same initial weights, 60,000 images of
784 pixels, fresh uniform noise, Adam 1e-3: ``jaxae.make_run``, PyTorch eager and compiled (on a
GPU with CUDA graphs too), with its default and its fused Adam, and Keras 3 on its JAX backend. They
must come to the same losses first, those of the first and of the second epoch; then they take
turns, and beside them the bare matrix products of the step. About 15 minutes on two cores; for the
rivals, ``pip install torch keras``. Expected: the table of docs/speed.md, which is made from
``results/training-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.training"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

import importlib.util
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.benchmarks import common, contraction, in_jaxae, in_keras, in_torch
from experiments.benchmarks.side_by_side import Contender, race, require_different
from experiments.benchmarks.task import CASES, QUICK, Case, Task
from experiments.common.results import environment
from experiments.common.run import command_line

OURS = "jaxae"
OURS_SLOWER = "jaxae, default generator"


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""

    cases: tuple[str, ...] = ()
    """Names of the cases to run, by default all."""
    rivals: tuple[str, ...] = ()
    """Names of the contenders beside jaxae, by default all that can run here."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        common.require_known(self.cases, CASES)
        if self.rivals:
            common.require_known(self.rivals, contenders(), option="--rivals")


def contenders() -> dict[str, Callable[[Task], Callable[[], float]]]:
    """Returns how to make each contender that can run here, ours first."""
    found: dict[str, Callable[[Task], Callable[[], float]]] = {
        OURS: in_jaxae.Epochs,
        OURS_SLOWER: partial(in_jaxae.Epochs, make_key=in_jaxae.default_generator),
    }
    device = common.torch_device()
    for name in in_torch.ways(device):
        found[name] = partial(in_torch.epochs, name=name, device=device)
    if importlib.util.find_spec("keras"):
        found["keras"] = in_keras.epochs
    return found


def measure(case: Case, rounds: int, rivals: Collection[str] = ()) -> common.Results:
    """Returns losses, times and rates of the contenders of a case, all or ours and some rivals."""
    task = in_jaxae.make_task(case)
    racers, losses = {}, {}
    for name, make in contenders().items():
        if rivals and name not in {OURS, *rivals}:
            continue
        start = time.perf_counter()
        one_epoch = make(task)
        first = one_epoch()
        seconds = time.perf_counter() - start
        losses[name] = [first, one_epoch()]
        racers[name] = Contender(one_epoch, seconds, program=_program_of(one_epoch))
    for name, values in losses.items():
        if not np.allclose(values, losses[OURS], rtol=0.02):
            raise RuntimeError(f"{name} comes to {values}, jaxae to {losses[OURS]}")
    if OURS_SLOWER in racers:
        require_different(racers[OURS].program, racers[OURS_SLOWER].program, OURS_SLOWER)
    racers["bare products"] = Contender(in_jaxae.bare_products(task))
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


def _program_of(one_epoch: Callable[[], float]) -> str:
    if isinstance(one_epoch, in_jaxae.Epochs):
        return one_epoch.program.as_text() or ""
    return ""


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    chosen = {name: case for name, case in CASES.items() if name in (config.cases or CASES)}
    rounds = 3 if config.quick else config.rounds
    found = {}
    with common.record("training", config.out) as record:
        for name, case in ({"quick": QUICK} if config.quick else chosen).items():
            found[name] = measure(case, rounds, config.rivals)
            record.log(case=name)
            print(f"code of {name}: {contraction.summary(found[name])}", flush=True)
        return common.write_results(
            record,
            "training",
            rounds=rounds,
            torch=environment.version("torch"),
            keras=environment.version("keras"),
            cases=found,
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
