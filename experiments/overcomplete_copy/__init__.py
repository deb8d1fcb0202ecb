"""What an autoencoder with more code units than inputs learns: to copy, unless the loss forbids it.

Puts numbers to two statements of the lecture (LMU Munich, Deep Learning, chapter 9) that its
slides only make in words: with a code at least as large as the input even a linear autoencoder
can copy without learning anything useful; and a changed loss prevents that. A linear and a relu
autoencoder with twice as many code units as inputs are trained four times: plain, with an L1
penalty on the code, with Gaussian noise to be removed, and with a contractive penalty. A copy
shows in the error on inputs that are NOT like the training data, and in the noise that is left.
A last part trains the opposite, an undercomplete linear autoencoder, which is PCA.

    python -m experiments.overcomplete_copy --dataset digits     about 45 seconds of user time
    python -m experiments.overcomplete_copy --dataset mnist      about 2 minutes, 2 cores

Expected on digits: relative error on white noise below 1e-4 for the plain linear autoencoder and
0.30 for the linear denoising one; of the noise on test images they leave 100 % and 55 %.

Model: one layer of d inputs and 2 d units, tied weights, linear output, squared error; Adam with
cosine decay from 5e-3. Tied, because a free decoder would make up for a shrunken code, on which
both penalties vanish. Inputs are centred and divided by ONE number, the root mean variance of a
pixel, which is the unit of all noise here. Directions in which the training images do not vary
(variance below a thousandth of the mean one, such as border pixels) have no gradient: the other
inputs are projected on the rest, the span of the data; what happens beyond is a number of its own.
Deviation: images of more than 16 pixels a side are averaged over 2 x 2 blocks first, so that the
overcomplete networks converge in minutes; the penalty of the contractive autoencoder is estimated
with one random probe per example and step, unbiased (Hutchinson).
"""

from dataclasses import dataclass
from functools import partial

from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import LecturePart
from experiments.overcomplete_copy import (
    inputs,
    linear_copying,
    networks,
    nonlinear,
    page_networks,
    regularised,
    undercomplete,
)
from experiments.overcomplete_copy.networks import Strengths

PARTS: tuple[LecturePart[networks.Trained], ...] = (
    linear_copying,
    regularised,
    nonlinear,
    undercomplete,
)
claims = partial(parts.claims, PARTS)  # what the lecture says, beside what was measured


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the experiment on copying."""

    epochs: command_line.Optional[int] = None
    """Passes over the training data; by default 4, on digits 100."""
    batch_size: int = 64
    """Examples per step."""
    learning_rate: float = 5e-3
    """Step size of Adam at the start, at most 10; it falls to 0 along a cosine."""
    code_dim: command_line.Optional[int] = None
    """Units of the code, at least as many as inputs; by default twice as many."""
    sparsity_weight: float = 0.3
    """Weight of the L1 norm of the code."""
    noise_stddev: float = 0.5
    """Standard deviation of the noise to be removed; 1 is the root mean variance of a pixel."""
    contraction_weight: float = 0.25
    """Weight of the contractive penalty."""
    pool: command_line.Optional[int] = None
    """Side of the blocks that images are averaged over; by default 2 above 16 pixels, else 1."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--pool", self.pool, low=1)
        command_line.require_integer("--code-dim", self.code_dim, low=1, high=2**16)
        for name in ("sparsity_weight", "noise_stddev", "contraction_weight"):
            option = "--" + name.replace("_", "-")
            command_line.require_number(option, getattr(self, name), above=0.0, high=1e3)

    def strengths(self) -> dict[str, Strengths]:
        """Returns how much of each regulariser every method has."""
        return {
            "AE": Strengths(),
            "sparse": Strengths(sparsity=self.sparsity_weight),
            "DAE": Strengths(noise=self.noise_stddev),
            "CAE": Strengths(contraction=self.contraction_weight),
        }


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config).head(train=60_000, test=10_000)  # all of MNIST
    images = inputs.prepare(dataset, config.pool)
    d = len(images.mean)
    code_dim = config.code_dim or 2 * d
    if code_dim < d:
        raise InputError(f"--code-dim must be at least {d}, the number of inputs, not {code_dim}")
    sizes = experiment.defaults(config, digits=100, others=4) | {"code_dim": code_dim}
    strengths = config.strengths()
    total = sizes["epochs"] * sizes["num_seeds"] * len(networks.SLOPES) * len(strengths)
    with ExperimentRun("overcomplete_copy", config, dataset, total=total) as run:
        seeds = sizes["num_seeds"]
        trained = networks.train_all(images, config, sizes, strengths, seeds, run)
        known = {
            "num_features": d,
            "code_dim": code_dim,
            "directions_in_span": images.in_span,
            "variances": images.variances.tolist(),
        }
        found = parts.measure(PARTS, run, trained, known)
        parts.draw(PARTS, run, trained, found)
        page_networks.keep_networks(run, dataset, trained)
        return run.finish(sizes, **found)
