"""The filters of a denoising autoencoder at rising corruption.

Vincent et al. 2010 ("Stacked Denoising Autoencoders", JMLR 11) show on MNIST that an autoencoder
trained without noise has filters without structure, and that with more masked pixels the same
units, from the same start, come to answer to strokes and then to larger parts of a digit. Here that
is a picture and two numbers: the roughness of a filter (squared differences of neighbouring pixels,
1 for white noise) and its extent (the effective number of its pixels). Beside it stands emphasised
denoising (sec. 4.2), in which corrupted pixels count 1 and the others beta; and a softmax on the
frozen codes, which says what the features are good for.

    python -m experiments.filters --dataset mnist      about 13 minutes, 2 cores

Expected on MNIST: roughness 0.46 without noise, 0.30 with half of the pixels masked; 191, 65 and,
with three quarters masked, 164 effective pixels (median over units): noise all over; then strokes
in part of the units; then larger parts of a digit in a few units, and no structure in most. Test
error of the softmax 5.6 % without noise, 4.0 % at one half, and 4.0 % at one quarter with beta 0.

Model: one layer of 500 sigmoid units, tied weights, cross-entropy, Adam at 1e-3, batches of 100,
15 epochs. Deviation: the paper's number of units and step size for this figure are not known here;
it trains by plain gradient descent.
"""

from dataclasses import dataclass

from experiments.common.data import noises
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import Part
from experiments.filters import networks, pictures, probe, structure
from experiments.filters.networks import Setting

PARTS: tuple[Part[networks.Trained], ...] = (structure, pictures)


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the filter experiment."""

    epochs: command_line.Optional[int] = None
    """Passes over the training data; by default 15, on digits 100."""
    batch_size: int = 100
    """Examples per step."""
    code_dim: int = 500
    """Units of the code."""
    corruption: noises.Name = "masking"
    """Kind of the corruption."""
    noise_levels: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75)
    """Rising strengths of the corruption."""
    emphasis_level: float = 0.25
    """Strength of the corruption with which emphasis is tried."""
    emphases: tuple[float, ...] = (1.0, 0.5, 0.0)
    """Values of beta, the weight of pixels that were not corrupted; alpha is 1."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**14)
        highest = noises.BY_NAME[self.corruption].highest
        for level in self.noise_levels:
            command_line.require_number("--noise-levels", level, low=0.0, high=highest)
        command_line.require_rising("--noise-levels", self.noise_levels)
        command_line.require_number(
            "--emphasis-level", self.emphasis_level, above=0.0, high=highest
        )
        for beta in self.emphases:
            command_line.require_number("--emphases", beta, low=0.0, high=1e3)
        if len(set(self.emphases)) < len(self.emphases):
            raise InputError("--emphases must name no value twice")

    def settings(self) -> list[Setting]:
        """Returns the noise levels without emphasis, then the emphases that are not among them."""
        levels = [Setting(level, 1.0) for level in self.noise_levels]
        emphases = [Setting(self.emphasis_level, beta) for beta in self.emphases]
        return levels + [setting for setting in emphases if setting not in levels]


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config).head(train=60_000, test=10_000)
    if min(dataset.example_shape[:2]) < 2:
        raise InputError("images must have 2 x 2 pixels at least, for neighbours to be compared")
    sizes = experiment.defaults(config, digits=100, others=15)
    setup = networks.Setup(
        config,
        dataset,
        config.corruption,
        config.noise_levels,
        config.settings(),
        config.code_dim,
        **sizes,
    )
    total = len(setup.settings) * setup.num_seeds * (setup.epochs + probe.epochs(setup))
    with ExperimentRun("filters", config, dataset, total=total) as run:
        trained = networks.train(setup, run)
        found = parts.measure(PARTS, run, trained, {"corruption": config.corruption})
        parts.draw(PARTS, run, trained, found)
        return run.finish(sizes, **found)
