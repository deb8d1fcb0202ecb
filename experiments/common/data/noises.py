"""The corruptions by the names of the command line, with their levels."""

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
      levels: "noise", "a lot of noise" and "a lot more": the default levels, which the help texts
        name; the first one is for training.
      meaning: what a level is, for the axis of a plot.
      highest: the highest level that makes sense.
    """

    corruption: Callable[..., Array]
    parameter: str
    levels: tuple[float, ...]
    meaning: str
    highest: float

    def at_level(self, level: float | Array) -> Corruption:
        """Returns the corruption with a level, which may be traced."""
        return partial(self.corruption, **{self.parameter: level})


BY_NAME: dict[str, Noise] = {
    "uniform": Noise(
        partial(jaxae.uniform_noise, low=0.0, high=1.0),
        "scale",
        (0.55, 1.0, 2.0),
        "half-width of the uniform noise (pixel values)",
        1000.0,
    ),
    "gaussian": Noise(
        jaxae.gaussian_noise,
        "stddev",
        (0.3, 0.6, 1.2),
        "standard deviation of the noise (pixel values)",
        1000.0,
    ),
    "masking": Noise(
        jaxae.masking_noise,
        "rate",
        (0.25, 0.5, 0.75),
        "probability of a pixel being set to 0",
        1.0,
    ),
    "salt-and-pepper": Noise(
        jaxae.salt_and_pepper_noise,
        "rate",
        (0.2, 0.4, 0.6),
        "probability of a pixel being replaced",
        1.0,
    ),
}


def shown_levels(name: Name) -> str:
    """Returns the default levels of a kind of noise, as a help text names them."""
    return " ".join(f"{level:g}" for level in BY_NAME[name].levels)
