"""Times functions in turn, so that what else happens on the machine meets all of them alike."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree

from experiments.benchmarks.common import Results

# Seconds below which a run is short, and after which threads that wait for work have gone to sleep.
_SHORT = 0.2
_PAUSE = 0.3


@dataclass(frozen=True)
class Contender:
    """Something to be timed."""

    call: Callable[[], PyTree]
    """Runs once, to the end."""
    compile_seconds: float | None = None
    """Tracing, lowering and compiling, the median if that was done several times."""
    temporary_bytes: int | None = None
    """Peak of the temporary memory, as XLA has planned it."""
    program: str = ""
    """Text of the compiled program, where there is one."""


def compiled(
    make: Callable[[], Callable[..., PyTree]], *arguments: PyTree, times: int = 3
) -> Contender:
    """Returns a JAX function, compiled so many times over for the time that takes."""
    seconds = []
    for _ in range(times):
        jax.clear_caches()
        start = time.perf_counter()
        program = jax.jit(make()).lower(*arguments).compile()
        seconds.append(time.perf_counter() - start)
    memory = program.memory_analysis()
    return Contender(
        lambda: jax.block_until_ready(program(*arguments)),
        float(np.median(seconds)),
        None if memory is None else memory.temp_size_in_bytes,
        program.as_text() or "",
    )


def require_different(base: str, variant: str, name: str) -> None:
    """Raises RuntimeError if a row would time the very program that it is compared with.

    A variant is made by an option or a replaced function, and either may have no effect any more;
    then its row would look like a measurement and be none.

    Args:
      base: text of the compiled program of the row that is compared with.
      variant: text of the compiled program of the row.
      name: name of the row.
    """
    if is_same_program(base, variant):
        raise RuntimeError(f"{name!r} is the same program as the row that it is compared with")


def is_same_program(base: str, variant: str) -> bool:
    """Returns whether two compiled programs have the same instructions, whatever their names."""
    return _instructions(base) == _instructions(variant)


def _instructions(program: str) -> str:
    """Returns the instructions of a compiled program, numbered in the order of their names.

    Names and lines of the source are left out: they may differ where nothing else does.
    """
    text = re.sub(r", metadata=\{[^}]*\}", "", program)
    text = "\n".join(line for line in text.splitlines() if re.match(r"\s*(ROOT |ENTRY )?%|}", line))
    numbers: dict[str, str] = {}
    return re.sub(r"%[\w.\-]+", lambda name: numbers.setdefault(name[0], f"%{len(numbers)}"), text)


def race(contenders: dict[str, Contender], rounds: int) -> dict[str, Results]:
    """Returns seconds, and times of the first contender, for each; medians over the rounds.

    In every round each has its turn, in the same order. The ratio is taken within a round. What
    is short runs once untimed, so that it does not pay for the caches and the waiting threads that
    the one before has left, and then seven times, of which the median counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    is_short = {name: _timed(contender) < _SHORT for name, contender in contenders.items()}
    for _ in range(rounds):
        for name, contender in contenders.items():
            time.sleep(_PAUSE)
            if is_short[name]:
                contender.call()
            runs = [_timed(contender) for _ in range(7 if is_short[name] else 1)]
            seconds[name].append(float(np.median(runs)))
    first = np.array(next(iter(seconds.values())))
    return {
        name: {
            "seconds": spread(np.array(taken)),
            "times_the_first": spread(np.array(taken) / first),
            "compile_seconds": contenders[name].compile_seconds,
            "temporary_bytes": contenders[name].temporary_bytes,
        }
        for name, taken in seconds.items()
    }


def _timed(contender: Contender) -> float:
    start = time.perf_counter()
    contender.call()
    return time.perf_counter() - start


def spread(values: np.ndarray) -> dict[str, float]:
    """Returns the median, the least and the greatest of some numbers."""
    return {
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }
