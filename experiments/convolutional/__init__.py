"""Convolutional autoencoders: denoising with half of the weights, and the contractive penalty.

The chapter after the one on regularised autoencoders denoises MNIST with convolutions. Measured
here: a convolutional beside a dense autoencoder with a code of the same size, on the lecture's
noise; what the contractive penalty costs for a convolutional encoder, counted in operations; and
what it gives, over lambda.

    python -m experiments.convolutional --dataset digits    about 1 minute, 2 cores
    python -m experiments.convolutional --dataset mnist     about 9 minutes, 2 cores

Model: stages of convolutions with stride 2 and ReLU, a linear code, transposed convolutions back,
sigmoid output, squared error, Adam, noise U(-0.55, 0.55) clipped to [0, 1]. On MNIST 23,793
parameters beside 50,992 of the dense network. Deviation: the contractive networks are trained on
the first 10,000 images only, for time, and with the penalty estimated from one random direction for
each image and step; all Jacobians that are shown are exact.
"""

from dataclasses import dataclass

from experiments.common.errors import InputError
from experiments.common.results.claims import Claim
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import LecturePart
from experiments.convolutional import contraction, cost, denoised, networks

PARTS: tuple[LecturePart[networks.Trained], ...] = (denoised, cost, contraction)


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the convolutional experiment."""

    learning_rate: float = 3e-3
    """Step size of Adam, at most 10."""
    code_dim: command_line.Optional[int] = None
    """Units of the code of both networks; by default 32, on digits 16."""
    channels: command_line.Optional[tuple[int, ...]] = None
    """Channels after each stage of the encoder; by default 8 16 16, on digits 4 8."""
    noise: float = 0.55
    """Half-width of the uniform noise, in pixel values."""
    weights: command_line.Optional[tuple[float, ...]] = None
    """Values of lambda, rising; by default 0.1 1."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=1, high=2**12)
        command_line.require_number("--noise", self.noise, above=0.0, high=1000.0)
        if self.channels is not None and not 1 <= len(self.channels) <= 8:
            raise InputError(f"--channels must be 1 to 8 values, but they are {len(self.channels)}")
        for channels in self.channels or ():
            command_line.require_integer("--channels", channels, low=1, high=2**10)
        for weight in self.weights or ():
            command_line.require_number("--weights", weight, above=0.0, high=1e6)
        if self.weights is not None and list(self.weights) != sorted(set(self.weights)):
            raise InputError(f"--weights must be values that rise, but they are {[*self.weights]}")
        if self.weights == ():
            raise InputError("--weights must be values that rise, but they are []")


def make_setup(config: Config) -> networks.Setup:
    """Returns the data and the options, with what was left open filled in."""
    dataset = experiment.load(config)
    is_digits = config.dataset == "digits"
    return networks.Setup(
        config,
        dataset,
        code_dim=config.code_dim or (16 if is_digits else 32),
        channels=config.channels or ((4, 8) if is_digits else (8, 16, 16)),
        noise=config.noise,
        weights=config.weights or (0.1, 1.0),
        **experiment.defaults(config, digits=100, others=10),
    )


def claims(metrics: Metrics) -> list[Claim]:
    """Returns the statements about convolutional autoencoders, with our numbers."""
    return parts.claims(PARTS, metrics)


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    setup = make_setup(config)
    total = setup.epochs * setup.num_seeds * (3 + 1 + len(setup.weights))
    with ExperimentRun("convolutional", config, setup.dataset, total=total) as run:
        trained = networks.train(setup, run)
        known = {"noise_level": setup.noise, "code_dim": setup.code_dim}
        found = parts.measure(PARTS, run, trained, known)
        parts.draw(PARTS, run, trained, found)
        resolved = {
            "code_dim": setup.code_dim,
            "channels": setup.channels,
            "weights": setup.weights,
            "epochs": setup.epochs,
            "num_seeds": setup.num_seeds,
        }
        return run.finish(resolved, **found)
