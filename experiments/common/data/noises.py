"""The corruptions by the names of the command line.

A new one also needs its levels, ``LEVELS`` of ``experiments.denoising``; its function in the table
of noises in ``lecture/play/play.js``; and its German name in ``lecture/german.json``.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from jaxtyping import Array

import jaxae
from jaxae.corruption import Corruption

Name = Literal["uniform", "gaussian", "masking", "salt-and-pepper"]


class Noise(NamedTuple):
    """One kind of corruption.

    Attributes:
      corruption: of ``jaxae``.
      parameter: the name of its argument that is the level.
      meaning: what a level is, for the axis of a plot.
      highest: the highest level that makes sense.
    """

    corruption: Callable[..., Array]
    parameter: str
    meaning: str
    highest: float

    def at_level(self, level: float | Array) -> Corruption:
        """Returns the corruption with a level, which may be traced."""
        return partial(self.corruption, **{self.parameter: level})


BY_NAME: dict[str, Noise] = {
    "uniform": Noise(
        partial(jaxae.uniform_noise, low=0.0, high=1.0),
        "scale",
        "half-width of the uniform noise (pixel values)",
        1000.0,
    ),
    "gaussian": Noise(
        jaxae.gaussian_noise,
        "stddev",
        "standard deviation of the noise (pixel values)",
        1000.0,
    ),
    "masking": Noise(
        jaxae.masking_noise,
        "rate",
        "probability of a pixel being set to 0",
        1.0,
    ),
    "salt-and-pepper": Noise(
        jaxae.salt_and_pepper_noise,
        "rate",
        "probability of a pixel being replaced",
        1.0,
    ),
}
