"""The dictionaries that the benchmark beside SAELens trains: sizes, methods and data, in NumPy.

Neither JAX nor PyTorch is imported here, since both sides use it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

STEP_SIZE = 1e-3
BANDWIDTH = 1.0  # of JumpReLU; the strengths of the atoms are near 5
FIRST_THRESHOLD = 0.1
THRESHOLD_MEMORY = 0.01  # weight of the newest batch in the threshold of BatchTopK
DEAD_AFTER = 100  # steps without a single example that activates a unit
GRADIENT_NORM = 1.0  # above which SAELens shortens every gradient
DECODER_NORM = 0.1  # of the filters at the start, the default of SAELens
ACTIVE = 4  # units of a code


class Size(NamedTuple):
    """How large the data and the dictionaries are.

    Attributes:
      atoms: of the truth.
      inputs: dimensions of an example.
      roots: trees of the forest that the atoms form.
      units: of a dictionary, divisible by 8.
      batch: examples of a step.
      steps: of a training; every step has new examples.
      held_out: examples that are measured.
    """

    atoms: int
    inputs: int
    roots: int
    units: int
    batch: int
    steps: int
    held_out: int

    @property
    def prefixes(self) -> list[int]:
        """Numbers of units of the nested dictionaries of Matryoshka."""
        return [self.units // 8, self.units // 4, self.units // 2, self.units]


FULL = Size(256, 64, 3, 256, 256, 1000, 16_384)
QUICK = Size(64, 16, 1, 32, 64, 40, 512)


class Method(NamedTuple):
    """A way to train a dictionary.

    Attributes:
      architecture: its name in SAELens.
      weight: of the penalty, the same for both sides; 0 if there is none.
    """

    architecture: str
    weight: float = 0.0

    @property
    def ranks_units(self) -> bool:
        """Whether the units with the largest pre-activations are kept, instead of a penalty."""
        return self.weight == 0

    @property
    def ranks_a_batch(self) -> bool:
        """Whether the units of all examples of a batch compete."""
        return "batchtopk" in self.architecture


# The weights were tried out on the first seed at the full size. L1 has 7.3 active units at weight
# 3, 5.0 at 6 and 4.0 at 7.5. JumpReLU has 14.8 at 3, and still 13.8 at 30: in 1000 steps of Adam a
# threshold rises by at most 1, and thresholds that start higher end in dictionaries that find fewer
# atoms. So compare JumpReLU with the other methods only beside its number of active units.
METHODS = {
    "L1": Method("standard", 7.5),
    "top-k": Method("topk"),
    "BatchTopK": Method("batchtopk"),
    "JumpReLU": Method("jumprelu", 3.0),
    "Matryoshka": Method("matryoshka_batchtopk"),
}


@dataclass(frozen=True)
class Task:
    """The data of a seed and the weights at the start, the same for both sides."""

    size: Size
    atoms: np.ndarray
    """The true dictionary ``(atoms, inputs)``."""
    x: np.ndarray
    """Examples of all steps, in their order ``(steps * batch, inputs)``."""
    x_test: np.ndarray
    """Examples that are measured ``(held_out, inputs)``."""
    strengths: np.ndarray
    """How strong each atom is in them ``(held_out, atoms)``."""
    weights: dict[str, np.ndarray]
    """At the start, by their names in SAELens."""


def initial_weights(size: Size, seed: int) -> dict[str, np.ndarray]:
    """Returns random filters of the norm that SAELens takes, the encoder their transpose."""
    filters = np.random.default_rng(seed).normal(size=(size.units, size.inputs))
    filters *= DECODER_NORM / np.linalg.norm(filters, axis=1, keepdims=True)
    return {
        "W_dec": filters.astype(np.float32),
        "W_enc": np.ascontiguousarray(filters.T, np.float32),
        "b_enc": np.zeros(size.units, np.float32),
        "b_dec": np.zeros(size.inputs, np.float32),
    }


def disturbed(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns weights at which no term of a loss is 0, to compare losses and gradients at."""
    generator = np.random.default_rng(0)
    return {
        name: (array + 0.05 * generator.normal(size=array.shape)).astype(np.float32)
        for name, array in weights.items()
    }
