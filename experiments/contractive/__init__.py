"""The contractive autoencoder: what the penalty on the encoder's Jacobian does, and where.

The lecture (LMU Munich, Deep Learning, chapter 9) adds lambda times the squared Frobenius norm of
d enc(x) / d x to the loss, so that similar inputs get similar codes. Measured here, with what
Rifai et al. 2011 and the Deep Learning book (sec. 14.7) say of it: the trade of reconstruction
against contraction over lambda; saturation; the singular values of the Jacobian; contraction
against distance; the tangent directions; and why the weights are tied.

    python -m experiments.contractive --dataset digits    about 1 minute, 2 cores
    python -m experiments.contractive --dataset mnist     about 9 minutes, one core

With ``--residual`` deep encoders with skip connections are trained too, and their exact penalty is
compared with estimates in time and error: about 4 more minutes on digits (an estimate). The lecture
does so on data larger than the digits. It measures times, so nothing else should run.

Expected on digits, AE and CAE at lambda 0.3: squared Jacobian norm per test example 46 and 6.5,
saturated units 3 % and 60 %, singular values above 1: 21 and 1.8 of 64.

Model: one sigmoid layer, tied weights, cross-entropy, Adam (Rifai et al. 2011); the DAE beside it
has the same network and Gaussian noise. Deviation: 128 units, not 1000; no fine-tuning; MNIST is
cut to its first 10,000 training and 2,000 test images, which the exact Jacobian makes affordable.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import tyro

from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import LecturePart
from experiments.contractive import (
    curves,
    jacobians,
    networks,
    page_networks,
    probes,
    residual,
    residual_networks,
    scale_collapse,
    spectrum,
    tangents,
    trade_off,
)

PARTS: tuple[LecturePart[networks.Trained], ...] = (
    trade_off,
    curves,
    spectrum,
    tangents,
    scale_collapse,
    residual,
)
claims = partial(parts.claims, PARTS)  # what the lecture says, beside what was measured


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the contractive experiment."""

    epochs: command_line.Optional[int] = None
    """Passes over the training data; by default 2, on digits 30."""
    batch_size: int = 32
    """Examples per step."""
    learning_rate: float = 5e-3
    """Step size of Adam, at most 10."""
    code_dim: int = 128
    """Units of the code."""
    weights: command_line.Optional[tuple[float, ...]] = None
    """Values of lambda; by default 0.3 1 3, on digits 0.01 0.1 0.3 1 3."""
    weight: command_line.Optional[float] = None
    """The lambda, one of --weights, of the CAE beside AE and DAE; by default 3, on digits 0.3."""
    noise: float = 0.5
    """Standard deviation of the DAE's Gaussian noise, in pixel values."""
    residual: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also train CAEs with a deep residual encoder, and time their exact and estimated penalty."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**12)
        command_line.require_number("--noise", self.noise, above=0.0, high=1000.0)
        weights = self.swept()
        for weight in weights:
            command_line.require_number("--weights", weight, above=0.0, high=1e6)
        if not weights or list(weights) != sorted(set(weights)):
            raise InputError(f"--weights must be values that rise, but they are {list(weights)}")
        if self.chosen() not in weights:
            raise InputError(
                f"--weight must be one of {list(weights)}, but it is {self.chosen():g}"
            )

    def swept(self) -> tuple[float, ...]:
        """Returns the values of lambda."""
        defaults = (0.01, 0.1, 0.3, 1.0, 3.0) if self.dataset == "digits" else (0.3, 1.0, 3.0)
        return defaults if self.weights is None else self.weights

    def chosen(self) -> float:
        """Returns the lambda of the CAE that is set beside the other autoencoders."""
        if self.weight is not None:
            return self.weight
        return 0.3 if self.dataset == "digits" else 3.0


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config)
    if min(dataset.example_shape[:2]) < 2:
        height, width = dataset.example_shape[:2]
        raise InputError(f"images to be moved and turned need 2 x 2 pixels, not {height} x {width}")
    dataset = dataset.head(train=10_000, test=2_000)  # bounds the time of the Jacobians
    sizes = experiment.defaults(config, digits=30, others=2)
    weights, weight = config.swept(), config.chosen()
    settings = networks.Settings(config.code_dim, config.noise, weights, weight, config.residual)
    trained_settings = 2 * len(weights) + 2
    if config.residual:
        trained_settings += len(residual_networks.swept_weights(weights, weight))
    total = sizes["epochs"] * sizes["num_seeds"] * trained_settings
    with ExperimentRun("contractive", config, dataset, total=total) as run:
        trained = networks.train(config, settings, sizes, dataset, run)
        known = {
            "code_dim": config.code_dim,
            "inputs": dataset.num_features,
            "weight": weight,
            "weights": list(weights),
            "noise_stddev": config.noise,
            "radii": list(probes.RADII),
            "leading": jacobians.LEADING,
        }
        with jax.default_matmul_precision("highest"):
            found = parts.measure(PARTS, run, trained, known)
        parts.draw(PARTS, run, trained, found)
        page_networks.keep_networks(run, trained)
        return run.finish({**sizes, "weights": weights, "weight": weight}, **found)
