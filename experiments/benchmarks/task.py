"""The training task of the benchmarks: sizes, images and initial weights; JAX is not imported.

A process that trains with PyTorch loads the task from a file and never imports JAX, so neither
its time nor its memory contains that of another library.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PIXELS, NOISE, RATE = 784, 0.55, 1e-3
EXAMPLES = 60_000


@dataclass(frozen=True)
class Case:
    """A size of the model and of a batch."""

    code_dim: int
    batch: int
    examples: int = EXAMPLES

    @property
    def flops(self) -> int:
        """Operations of the products of an epoch: two forward, three backward."""
        return 10 * self.examples * PIXELS * self.code_dim


CASES = {
    "64, batch 64": Case(64, 64),
    "64, batch 256": Case(64, 256),
    "1568, batch 64": Case(1568, 64),
    "1568, batch 256": Case(1568, 256),
    "1568, batch 4096": Case(1568, 4096),
}
QUICK = Case(8, 64, examples=512)


@dataclass
class Task:
    """The data, sizes and initial weights that all contenders get."""

    case: Case
    x: np.ndarray
    params: dict[str, np.ndarray]


def make_images(case: Case) -> np.ndarray:
    """Returns images ``(examples, PIXELS)``, values in [0, 1]."""
    rng = np.random.default_rng(0)
    # Sixteen patterns with a little variation: something to learn, of MNIST's shape.
    patterns = rng.uniform(size=(16, PIXELS)) ** 4
    chosen = rng.integers(0, 16, case.examples)
    x = np.empty((case.examples, PIXELS), np.float32)
    for first in range(0, case.examples, 1000):
        rows = slice(first, first + 1000)
        x[rows] = patterns[chosen[rows]] * rng.uniform(0.7, 1, (len(x[rows]), PIXELS))
    return x


def save(path: Path, task: Task) -> None:
    """Writes a task to a ``.npz`` file."""
    arrays: dict[str, Any] = {"batch": task.case.batch, "x": task.x, **task.params}
    np.savez(path, **arrays)


def load(path: Path) -> Task:
    """Returns the task that :func:`save` wrote."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    x, batch = arrays.pop("x"), int(arrays.pop("batch"))
    return Task(Case(arrays["encoder_bias_0"].shape[0], batch, len(x)), x, arrays)
