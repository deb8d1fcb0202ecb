"""The lecture's denoising autoencoder: every code dimension, and rising noise.

Reproduces the MNIST figures of the lecture (LMU Munich, Deep Learning, chapter 9): the flow
chart; original over corrupted; original / corrupted / denoised for each code dimension; the
noise sweep at one dimension; and, with numbers the slides do not have, test error against
code dimension and noise, beside the corrupted input itself and the best linear map.

    python -m experiments.denoising --dataset digits               about 1 minute, 2 cores
    python -m experiments.denoising --dataset mnist --epochs 10    about 10 minutes, 2 cores

Expected test MSE per pixel at noise 0.55: digits 0.025 at dimension 16; MNIST 0.0090 at 64.

Model: linear code, sigmoid output, squared error, Adam 1e-3, batches of 64, noise
U(-0.55, 0.55) clipped to [0, 1] (denoising_autoencoder_mnist.R of slds-lmu/lecture_i2dl).
Deviation: the noise is drawn afresh at every step (the lecture draws it once, so part of it
is learned by heart); MNIST is used whole; the levels called "a lot" are ours, since the
slides do not record theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Annotated

import numpy as np
import tyro

from experiments.common.data import noises
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import LecturePart
from experiments.denoising import (
    algorithm,
    code_sizes,
    gaussian_view,
    networks,
    page_networks,
    rising_noise,
)

PARTS: tuple[LecturePart[networks.Trained], ...] = (
    algorithm,
    gaussian_view,
    code_sizes,
    rising_noise,
)
claims = partial(parts.claims, PARTS)  # what the lecture says, beside what was measured
# "Noise", "a lot of noise" and "a lot more": the levels unless told. Networks of all code sizes are
# trained on the first, those of one size on every level.
LEVELS: Mapping[noises.Name, tuple[float, ...]] = MappingProxyType(
    {
        "uniform": (0.55, 1.0, 2.0),
        "gaussian": (0.3, 0.6, 1.2),
        "masking": (0.25, 0.5, 0.75),
        "salt-and-pepper": (0.2, 0.4, 0.6),
    }
)
_SHOWN = " ".join(f"{level:g}" for level in LEVELS["uniform"])
LEVELS_HELP = (
    f"Noise levels, by default {_SHOWN} for uniform noise; "
    "the first trains every code dimension,\n"
    "all of them the one nearest to 64 (digits: 16)."
)


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the denoising experiment."""

    code_dims: command_line.Optional[tuple[int, ...]] = None
    """Code dimensions; default 1568 784 256 64 32 16 8, for digits 128 64 32 16 8 4 2."""
    noise_levels: Annotated[
        tuple[float, ...] | None, tyro.conf.arg(help=LEVELS_HELP, help_behavior_hint="")
    ] = None
    corruption: noises.Name = "uniform"
    """Kind of corruption."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        for option, values in (
            ("--code-dims", self.code_dims),
            ("--noise-levels", self.noise_levels),
        ):
            if values == ():
                raise InputError(f"{option} must name at least one value")
            if values is not None and len(set(values)) < len(values):
                raise InputError(f"{option} must be different values, but they are {list(values)}")
        for dim in self.code_dims or ():
            command_line.require_integer("--code-dims", dim, low=1, high=2**16)
        highest = noises.BY_NAME[self.corruption].highest
        for level in self.noise_levels or ():
            command_line.require_number("--noise-levels", level, low=0.0, high=highest)


def make_setup(config: Config) -> networks.Setup:
    """Returns the data and the options, with what was left open filled in."""
    dataset = experiment.load(config)
    d = dataset.num_features
    below = (256, 64, 32, 16, 8) if d > 256 else [d >> shift for shift in range(1, 6)]
    default = (2 * d, d, *(k for k in below if 2 <= k < d))
    dims = tuple(sorted(config.code_dims or default, reverse=True))
    wanted = 64 if d > 256 else max(d // 4, 1)  # the lecture's 64; for digits 16
    return networks.Setup(
        config,
        dataset,
        config.corruption,
        dims,
        config.noise_levels or LEVELS[config.corruption],
        swept_dim=min(dims, key=lambda dim: abs(np.log(dim / wanted))),
        **experiment.defaults(config, digits=200, others=50),
    )


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    setup = make_setup(config)
    total = setup.epochs * setup.num_seeds * (len(setup.dims) + len(setup.levels) - 1)
    nbytes = setup.network_bytes()
    with ExperimentRun("denoising", config, setup.dataset, total=total, networks=nbytes) as run:
        trained = networks.train(setup, run)
        known = {"corruption": config.corruption, "num_features": setup.dataset.num_features}
        found = parts.measure(PARTS, run, trained, known)
        parts.draw(PARTS, run, trained, found)
        page_networks.keep_networks(run, trained)
        resolved = {
            "code_dims": setup.dims,
            "noise_levels": setup.levels,
            "epochs": setup.epochs,
            "num_seeds": setup.num_seeds,
        }
        return run.finish(resolved, **found)
