"""The corruptions by the names of the command line, with their levels."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jaxae
from jaxae.corruption import Corruption

Name = Literal["uniform", "gaussian", "masking", "salt-and-pepper"]


class Noise(NamedTuple):
    """One kind of corruption.

    Attributes:
      at_level: makes the corruption from a level, which may be traced.
      levels: moderate, a lot, **a lot**: the default levels, the first one for training.
      meaning: what a level is, for the axis of a plot.
      highest: the highest level that makes sense.
    """

    at_level: Callable[[Any], Corruption]
    levels: tuple[float, ...]
    meaning: str
    highest: float


BY_NAME: dict[str, Noise] = {
    "uniform": Noise(
        lambda level: partial(jaxae.uniform_noise, scale=level, low=0.0, high=1.0),
        (0.55, 1.0, 2.0),
        "half-width of the uniform noise (pixel values)",
        1000.0,
    ),
    "gaussian": Noise(
        lambda level: partial(jaxae.gaussian_noise, stddev=level),
        (0.3, 0.6, 1.2),
        "standard deviation of the noise (pixel values)",
        1000.0,
    ),
    "masking": Noise(
        lambda level: partial(jaxae.masking_noise, rate=level),
        (0.25, 0.5, 0.75),
        "probability of a pixel being set to 0",
        1.0,
    ),
    "salt-and-pepper": Noise(
        lambda level: partial(jaxae.salt_and_pepper_noise, rate=level),
        (0.2, 0.4, 0.6),
        "probability of a pixel being replaced",
        1.0,
    ),
}
