"""Features learned without labels, measured by what a classifier makes of them.

Reproduces table 1 of Rifai et al. 2011 ("Contractive Auto-Encoders", ICML) on MNIST: one layer of
1000 sigmoid units with tied weights and cross-entropy, trained without labels as CAE, as DAE with
Gaussian (DAE-g) and with masking noise (DAE-b), with weight decay, and plainly; then fine-tuned
with labels. The squared Jacobian of the code, its saturated units, a softmax and nearest neighbours
on the frozen code stand beside; so do a k-sparse code, a network without pretraining, and a second
layer, trained greedily on the clean codes of the first one.

    python -m experiments.feature_learning --dataset mnist      about 2 hours, 2 cores

Expected test errors, in percent: CAE 1.36, DAE-g 1.39, DAE-b 1.41, AE + weight decay 1.58, AE 1.54,
without pretraining 1.71; squared entries of the Jacobian in the order of the paper.

Training: Adam, cosine decay from 3e-3, batches of 100, 30 epochs, on the first 50,000 training
images (in the order of this project); fine-tuning with Adam, cosine decay, 20 epochs, of which the
one with the least error on the last 10,000 training images counts. On these
the strength of each regulariser, from three values, and the step size of the fine-tuning, from two,
are chosen by the mean over the seeds.
Deviations: the paper fine-tunes with plain gradient descent; its lambda, noise levels and step
sizes are not printed; here all rows have the same budget. The second layer has the strength of the
first one, and the softmax the larger step size.
"""

from dataclasses import dataclass

from experiments.common.data import datasets
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, experiment, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import Part
from experiments.common.training.classifiers import split_of
from experiments.feature_learning import methods, search, table
from experiments.feature_learning.methods import METHODS

PARTS: tuple[Part[search.Trained], ...] = (table,)


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the feature-learning experiment."""

    epochs: command_line.Optional[int] = None
    """Passes over the training data for every layer; by default 30."""
    fine_tuning_epochs: command_line.Optional[int] = None
    """Passes over the training data with labels; by default 20."""
    batch_size: int = 100
    """Examples per step."""
    learning_rate: float = 3e-3
    """Step size of Adam for the layers at the start, at most 10; it falls to 0 along a cosine."""
    strengths: command_line.Optional[int] = None
    """How many strengths of a regulariser are tried, over a wider range; by default a grid of 3."""
    fine_tuning_rates: tuple[float, ...] = search.FINE_TUNING_RATES
    """Step sizes of Adam for the fine-tuning that are tried."""
    code_dim: int = 1000
    """Units of every layer."""
    top_k: command_line.Optional[int] = None
    """Units that the k-sparse code keeps; by default 25, or all where there are fewer."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Rows of the table."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer(
            "--fine-tuning-epochs", self.fine_tuning_epochs, low=1, high=10**6
        )
        command_line.require_integer("--code-dim", self.code_dim, low=2, high=2**14)
        command_line.require_integer("--top-k", self.top_k, low=1, high=self.code_dim)
        command_line.require_integer("--strengths", self.strengths, low=2, high=100)
        command_line.require_rising("--fine-tuning-rates", self.fine_tuning_rates)
        for rate in self.fine_tuning_rates:
            command_line.require_number("--fine-tuning-rates", rate, above=0.0, high=10.0)
        for name in self.methods:
            if name not in METHODS:
                raise InputError(f"--methods must be of {', '.join(METHODS)}, but has {name!r}")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError("--methods must name at least one method, and none twice")


def make_setup(config: Config, dataset: datasets.Dataset) -> search.Setup:
    """Returns the data and the options, with what was left open filled in."""
    return search.Setup(
        split=split_of(dataset),
        code_dim=config.code_dim,
        k=config.top_k or min(25, config.code_dim),
        learning_rate=config.learning_rate,
        strengths=config.strengths,
        fine_tuning_rates=config.fine_tuning_rates,
        batch_size=config.batch_size,
        fine_tuning_epochs=config.fine_tuning_epochs or (2 if config.quick else 20),
        seed=config.seed,
        devices=config.devices,
        **experiment.defaults(config, digits=30, others=30),
    )


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    dataset = experiment.load(config).head(train=60_000, test=10_000)
    setup = make_setup(config, dataset)
    split = setup.split
    total = sum(search.epochs_of(name, setup) for name in config.methods)
    with ExperimentRun("feature_learning", config, dataset, total=total) as run:
        papers = methods.papers(dataset.name, len(split.train.x), setup.code_dim)
        trained = search.train(config.methods, setup, papers, run)
        images = {
            "pretraining and fine-tuning": len(split.train.x),
            "validation": len(split.validation.x),
            "test": len(split.test.x),
        }
        known = {"units": setup.code_dim, "images": images}
        found = parts.measure(PARTS, run, trained, known)
        parts.draw(PARTS, run, trained, found)
        resolved = {
            "epochs": setup.epochs,
            "num_seeds": setup.num_seeds,
            "fine_tuning_epochs": setup.fine_tuning_epochs,
            "top_k": setup.k,
        }
        return run.finish(resolved, **found)
