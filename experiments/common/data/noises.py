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
      at_level: makes the corruption from a level, which may be traced.
      levels: "noise", "a lot of noise" and "a lot more": the default levels, which the help texts
        name; the first one is for training.
      meaning: what a level is, for the axis of a plot.
      highest: the highest level that makes sense.
    """

    at_level: Callable[[float | Array], Corruption]
    levels: tuple[float, ...]
    meaning: str
    highest: float


def uniform(level: float | Array) -> Corruption:
    """Returns uniform noise of a half-width; pixels stay in [0, 1]."""
    return partial(jaxae.uniform_noise, scale=level, low=0.0, high=1.0)


def gaussian(level: float | Array) -> Corruption:
    """Returns Gaussian noise of a standard deviation."""
    return partial(jaxae.gaussian_noise, stddev=level)


def masking(level: float | Array) -> Corruption:
    """Returns noise that sets pixels to 0 with a probability."""
    return partial(jaxae.masking_noise, rate=level)


def salt_and_pepper(level: float | Array) -> Corruption:
    """Returns noise that sets pixels to 0 or 1 with a probability."""
    return partial(jaxae.salt_and_pepper_noise, rate=level)


BY_NAME: dict[str, Noise] = {
    "uniform": Noise(
        uniform,
        (0.55, 1.0, 2.0),
        "half-width of the uniform noise (pixel values)",
        1000.0,
    ),
    "gaussian": Noise(
        gaussian,
        (0.3, 0.6, 1.2),
        "standard deviation of the noise (pixel values)",
        1000.0,
    ),
    "masking": Noise(
        masking,
        (0.25, 0.5, 0.75),
        "probability of a pixel being set to 0",
        1.0,
    ),
    "salt-and-pepper": Noise(
        salt_and_pepper,
        (0.2, 0.4, 0.6),
        "probability of a pixel being replaced",
        1.0,
    ),
}


def shown_levels(name: Name) -> str:
    """Returns the default levels of a kind of noise, as a help text names them."""
    return " ".join(f"{level:g}" for level in BY_NAME[name].levels)
