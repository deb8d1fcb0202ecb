"""Races of full-batch optimisers: loss against gradient evaluations and against time."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.training.arrays import Params

_CHUNK = 10  # steps between two looks at the clock


class Trace(NamedTuple):
    """How one optimiser came down; one entry per step.

    Attributes:
      values: loss.
      evaluations: gradient evaluations it took to know that loss.
      seconds: time until then, without compilation.
    """

    values: np.ndarray
    evaluations: np.ndarray
    seconds: np.ndarray

    def when(self, value: float) -> tuple[float, float] | None:
        """Returns evaluations and seconds at which the loss first was ``value``, or None."""
        reached = np.flatnonzero(self.values <= value)
        if not len(reached):
            return None
        return float(self.evaluations[reached[0]]), float(self.seconds[reached[0]])

    def seconds_at(self, evaluations: float) -> float:
        """Returns the time at which some evaluations were spent."""
        return float(np.interp(evaluations, self.evaluations, self.seconds))

    def best_within(self, evaluations: float) -> float:
        """Returns the lowest loss seen within some evaluations."""
        return float(self.values[self.evaluations <= evaluations].min())


class Racer:
    """An optimiser of ``loss(params, *data)``, compiled once for all starts and data."""

    def __init__(self, loss: Callable[..., Array], optimizer: optax.GradientTransformation) -> None:
        self._optimizer = optimizer

        @jax.jit
        def some_steps(state: jaxae.TrainState, *data: Array) -> jaxae.Minimum:
            def objective(params: Params) -> Array:
                return loss(params, *data)

            return jaxae.minimize(objective, state.params, optimizer, steps=_CHUNK, state=state)

        self._some_steps = some_steps
        self._is_compiled = False

    def run(self, params: Params, *data: Array, budget: int) -> Trace:
        """Returns the trace of a descent until ``budget`` evaluations are spent."""
        state = jaxae.create_train_state(params, self._optimizer)
        if not self._is_compiled:
            jax.block_until_ready(self._some_steps(state, *data))
            self._is_compiled = True
        values: list[np.ndarray] = []
        evaluations, seconds = [np.zeros(1)], [np.zeros(1)]
        started = time.perf_counter()
        while evaluations[-1][-1] < budget:
            found = jax.block_until_ready(self._some_steps(state, *data))
            clock = time.perf_counter() - started
            count = np.asarray(found.evaluations, float)
            if count[-1] == 0:
                break  # converged: nothing is evaluated any more
            state = found.state
            values.append(np.asarray(found.values))
            last = seconds[-1][-1]  # within a chunk time runs with the evaluations
            seconds.append(last + (clock - last) * count / count[-1])
            evaluations.append(evaluations[-1][-1] + count)
        return Trace(*map(np.concatenate, (values, evaluations[1:], seconds[1:])))


def compare(
    loss: Callable[..., Array],
    starts: Sequence[tuple[Params, ...]],
    *,
    rates: Sequence[float],
    budget: int,
    on_run: Callable[[str, int], None],
) -> Metrics:
    """Returns how L-BFGS, conjugate gradient and Adam come down from the same starts.

    Args:
      loss: ``loss(params, *data)``, a deterministic scalar.
      starts: parameters and data of each race.
      rates: step sizes of Adam; the one that is best in the first race runs in all of them.
      budget: gradient evaluations of each optimiser.
      on_run: called after each run with the optimiser and the number of the race.
    """
    racers = {
        "L-BFGS": Racer(loss, jaxae.lbfgs()),
        "CG": Racer(loss, jaxae.conjugate_gradient()),
    }
    adams = {rate: Racer(loss, optax.adam(rate)) for rate in rates}
    trials = {rate: adam.run(*starts[0], budget=budget) for rate, adam in adams.items()}
    rate = min(rates, key=lambda rate: trials[rate].values.min())
    racers["Adam"] = adams[rate]
    traces: dict[str, list[Trace]] = {name: [] for name in racers}
    for number, start in enumerate(starts):
        for name, racer in racers.items():  # in turn, so that a slow moment hits all of them
            traces[name].append(racer.run(*start, budget=budget))
            on_run(name, number)
    return {"adam_rate": rate, "budget": budget} | summary(traces, budget)


def summary(traces: Mapping[str, Sequence[Trace]], budget: int) -> Metrics:
    """Returns curves over evaluations, and when Adam's best loss was reached."""
    grid = np.unique(np.geomspace(1, budget, 40).astype(int))
    adam = traces["Adam"]
    best = [trace.best_within(budget) for trace in adam]
    result: Metrics = {"evaluations": grid.tolist()}
    for name, found in traces.items():
        row: Metrics = {
            "loss": [
                over_seeds([t.best_within(e) for t in found], "lowest loss so far") for e in grid
            ],
            "seconds": [over_seeds([t.seconds_at(e) for t in found], "seconds") for e in grid],
        }
        reached = [trace.when(value) for trace, value in zip(found, best, strict=True)]
        inside = [when for when in reached if when is not None and when[0] <= budget]
        row["reached_by"] = len(inside)
        if len(inside) == len(found):
            unit = "gradient evaluations until Adam's best loss"
            row["evaluations_to_adam"] = over_seeds([when[0] for when in inside], unit)
            pairs = zip(adam, best, inside, strict=True)
            ratios = [(a.when(value) or (0, 0))[1] / when[1] for a, value, when in pairs]
            unit = "Adam's time to its best loss over the time to the same loss"
            row["speedup"] = over_seeds(ratios, unit)
        result[name] = row
    return result
