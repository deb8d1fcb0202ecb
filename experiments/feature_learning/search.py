"""Layers trained without labels, classifiers on top of them, and the search over both."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import classifiers, fitting
from experiments.common.training.classifiers import Classifier, Layers, Outcome, Split
from experiments.common.training.sweep import Sweep, Tag
from experiments.feature_learning import methods
from experiments.feature_learning.methods import METHODS, Papers, activation

# The search grid: the strengths of each method, whose meaning is in ``methods``, and the step sizes
# of the fine-tuning. The validation error after fine-tuning chooses.
STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "CAE": (0.3, 0.6, 1.2),
    "DAE-g": (0.55, 0.8, 1.2),
    "DAE-b": (0.25, 0.4, 0.55),
    "AE + wd": (3e-4, 1e-3, 3e-3),
    "AE": (0.0,),
    "k-sparse": (0.0,),
    "no pretraining": (0.0,),
}
FINE_TUNING_RATES = (3e-3, 6e-3)


def strengths_of(name: str, number: int | None) -> tuple[float, ...]:
    """Returns the strengths of a method that are tried.

    Those of the grid, or ``number`` of them, a constant factor apart, from half the least of the
    grid to one and a half times the largest. A method without a regulariser has one.
    """
    grid = STRENGTHS[name]
    if number is None or len(grid) == 1:
        return grid
    spread = np.geomspace(grid[0] / 2, 1.5 * grid[-1], number)
    # Three digits, because they stand in the names of checkpoints and in the table.
    return tuple(float(f"{strength:.3g}") for strength in spread)


UNITS = {
    "validation_error": "percent of the validation images",
    "test_error": "percent of the test images",
    "epochs": "epochs of fine-tuning with the least validation error",
    "jacobian_norm": "squared Frobenius norm of d code / d pixel, mean over test images",
    "jacobian_per_entry": "1e-4, squared entry of the Jacobian, mean over entries and test images",
    "saturated": "percent of units below 0.05 or above 0.95, mean over test images",
    "probe_error": "percent of the test images, softmax on the frozen code",
    "neighbours_error": f"percent of the test images, {classifiers.NEIGHBOURS} nearest neighbours",
    "stacked_test_error": "percent of the test images, two layers, fine-tuned",
    "stacked_validation_error": "percent of the validation images, two layers, fine-tuned",
}


class Setup(NamedTuple):
    """The data, and how networks are trained on them: the configuration, with all defaults."""

    split: Split
    code_dim: int
    k: int  # units that the k-sparse code keeps
    learning_rate: float  # of the layers, at the start
    strengths: int | None  # how many are tried of a regulariser; none: those of the grid
    fine_tuning_rates: tuple[float, ...]  # of the classifiers; validation chooses
    batch_size: int
    epochs: int
    fine_tuning_epochs: int
    seed: int
    num_seeds: int
    devices: int

    def key(self, seed: int, use: int) -> Array:
        """Returns the key of one of the uses of a seed."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), seed), use)


class Trained(NamedTuple):
    """What was measured of every method, beside what the papers print."""

    rows: dict[str, Metrics]
    papers: Papers


class Choice(NamedTuple):
    """What was searched, and what the validation error chose."""

    strength: float
    rate: float
    tried: list[Metrics]


class Pool:
    """Classifiers by what they are compiled for.

    Args:
      setup: how they are trained.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._rows = classifiers.labelled(setup.split.train)
        self._known: dict[tuple[str, float, bool], Classifier] = {}

    def get(self, name: str, rate: float, is_frozen: bool) -> Classifier:
        """Returns the classifier on the codes of a method."""
        setup, apply = self._setup, activation(name, self._setup.k)
        kind = "sigmoid" if apply is nn.sigmoid else name
        if (kind, rate, is_frozen) not in self._known:
            self._known[kind, rate, is_frozen] = Classifier(
                apply,
                self._rows,
                setup.split,
                is_frozen=is_frozen,
                learning_rate=rate,
                batch_size=setup.batch_size,
                epochs=setup.fine_tuning_epochs,
                devices=setup.devices,
            )
        return self._known[kind, rate, is_frozen]


class MethodTrainer:
    """Trains what one row of the table needs; programs are compiled once.

    Args:
      name: of the method.
      setup: how it is trained.
      run: takes the log and the checkpoints.
      pool: classifiers, which rows share.
    """

    def __init__(self, name: str, setup: Setup, run: ExperimentRun, pool: Pool) -> None:
        self.name, self.method = name, METHODS[name]
        self._setup, self._run, self._seeds = setup, run, range(setup.num_seeds)
        self._activation = activation(name, setup.k)
        self._pool = pool
        self._trainer = functools.cache(self._make_trainer)  # by the number of inputs

    def row(self) -> Metrics:
        """Returns everything that the table says of the method."""
        choice, encoders, outcomes = self.search()
        found: dict[str, list[float]] = {
            name: [getattr(outcome, name) for outcome in outcomes] for name in Outcome._fields
        }
        if self.method.loss is not None:
            found |= self.probes(choice.strength, encoders)
        if self.method.loss is not None and self.name != "k-sparse":
            found |= self.measure_codes(encoders)
        if self.method.is_stacked:
            found |= self.stacked(choice.strength, encoders, choice.rate)
        numbers = {name: over_seeds(v, UNITS[name]) for name, v in found.items()}
        percent, at = numbers["test_error"]["mean"], f"{choice.strength:g}, rate {choice.rate:g}"
        self._run.say(f"{self.name:14s} at {at}: test error {percent:.2f} %")
        return {
            "strength": choice.strength,
            "meaning_of_strength": self.method.strength,
            "fine_tuning_rate": choice.rate,
            "searched": choice.tried,
            **numbers,
        }

    def search(self) -> tuple[Choice, list[Layers], list[Outcome]]:
        """Returns the choice, and with it the encoder and the outcome of every seed.

        The least mean validation error over the seeds chooses: between two step sizes that of one
        seed changes by more than their difference.
        """
        encoders = self.pretrain()
        tried: list[Metrics] = []
        found = []
        for rate in self._setup.fine_tuning_rates:
            for strength, outcomes in self.fine_tune(encoders, rate).items():
                errors = [outcome.validation_error for outcome in outcomes]
                error = over_seeds(errors, UNITS["validation_error"])
                tried.append({"strength": strength, "rate": rate, "validation_error": error})
                found.append((encoders[strength], outcomes))
        best = min(range(len(tried)), key=lambda i: tried[i]["validation_error"]["mean"])
        choice = Choice(tried[best]["strength"], tried[best]["rate"], tried)
        return choice, *found[best]

    def pretrain(self) -> dict[float, list[Layers]]:
        """Returns one layer on the images for each strength and seed."""
        strengths = strengths_of(self.name, self._setup.strengths)
        return self._train_layers(strengths, self._seeds, self._setup.split.train.x, 1)

    def _train_layers(
        self, strengths: Sequence[float], seeds: Sequence[int], x: Array, depth: int
    ) -> dict[float, list[Layers]]:
        trainer = self._trainer(x.shape[1])
        sweep = self._sweep(f"layer {depth}", f"layer-{depth}", seeds, depth)
        if self.method.loss is None:
            init = jaxae.as_functions(trainer.model).init
            trained = {
                strength: [init(sweep.key(seed)) for seed in seeds] for strength in strengths
            }
        else:
            trained = sweep.fit(trainer, x, {strength: (strength,) for strength in strengths})
        return {
            strength: [((params["encoder_kernel_0"], params["encoder_bias_0"]),) for params in own]
            for strength, own in trained.items()
        }

    def _sweep(self, training: str, named: str, seeds: Sequence[int], use: int) -> Sweep[float]:
        """Returns the sweep over strengths for one use of the keys of some seeds."""

        def tag(strength: float, seed: int) -> Tag:
            entry = {"method": self.name, "strength": strength, "seed": seed, "training": training}
            checkpoint = f"{self.name}-{strength:g}_{named}_seed-{seed}"
            return Tag(checkpoint, f"{self.name}, {training}", entry)

        return Sweep(self._run, seeds, functools.partial(self._setup.key, use=use), tag)

    def _make_trainer(self, inputs: int) -> fitting.AutoencoderTrainer:
        setup = self._setup
        steps = setup.epochs * -(-len(setup.split.train.x) // setup.batch_size)
        model = jaxae.DenseAutoencoder(
            (inputs,), setup.code_dim, code_activation=self._activation, tied=True
        )
        return fitting.AutoencoderTrainer(
            model,
            self.method.loss or methods.plain,
            learning_rate=optax.cosine_decay_schedule(setup.learning_rate, steps),
            batch_size=setup.batch_size,
            epochs=setup.epochs,
            devices=setup.devices,
        )

    def fine_tune(
        self, encoders: Mapping[float, Sequence[Layers]], rate: float, *, is_frozen: bool = False
    ) -> dict[float, list[Outcome]]:
        """Returns what a classifier reached on each encoder, which is trained too unless frozen."""
        depth = len(next(iter(encoders.values()))[0])
        training = f"{'probe' if is_frozen else 'fine-tuning'} {depth}"
        named = f"{training.replace(' ', '-')}-{rate:g}"
        sweep = self._sweep(training, named, self._seeds, 10 * depth + is_frozen)
        return sweep.fit_classifiers(self._pool.get(self.name, rate, is_frozen), encoders)

    def probes(self, strength: float, encoders: Sequence[Layers]) -> dict[str, list[float]]:
        """Returns the errors of a softmax and of nearest neighbours on the frozen codes."""
        rate = max(self._setup.fine_tuning_rates)
        outcomes = self.fine_tune({strength: encoders}, rate, is_frozen=True)[strength]
        split = self._setup.split
        near = [classifiers.neighbours_error(one, self._activation, split) for one in encoders]
        return {"probe_error": [o.test_error for o in outcomes], "neighbours_error": near}

    def measure_codes(self, encoders: Sequence[Layers]) -> dict[str, list[float]]:
        """Returns Jacobian norms and saturation of the pretrained codes on the test images."""
        test = self._setup.split.test.x
        found = [_code_means(layers, self._activation, test) for layers in encoders]
        entries = test.shape[1] * self._setup.code_dim
        norms = [float(one["jacobian_norm"]) for one in found]
        return {
            "jacobian_norm": norms,
            "jacobian_per_entry": [1e4 * norm / entries for norm in norms],
            "saturated": [float(one["saturated"]) for one in found],
        }

    def stacked(
        self, strength: float, encoders: Sequence[Layers], rate: float
    ) -> dict[str, list[float]]:
        """Returns the errors with a second layer, trained greedily on the clean codes."""
        deep = []
        for seed, layers in zip(self._seeds, encoders, strict=True):
            x = classifiers.codes(layers, self._activation, self._setup.split.train.x)
            (second,) = self._train_layers([strength], [seed], x, 2)[strength]
            deep.append((*layers, *second))
        outcomes = self.fine_tune({strength: deep}, rate)[strength]
        return {
            "stacked_test_error": [outcome.test_error for outcome in outcomes],
            "stacked_validation_error": [outcome.validation_error for outcome in outcomes],
        }


@functools.partial(jax.jit, static_argnums=1)
def _code_means(layers: Layers, activation: Callable[[Array], Array], x: Array) -> dict[str, Array]:
    """Returns the means over examples of what every sigmoid code is measured by."""
    code = functools.partial(classifiers.encode, layers, activation)

    def measure_example(x_i: Array) -> dict[str, Array]:
        return {
            "jacobian_norm": jaxae.contractive_penalty(code, x_i),
            "saturated": 100 * jaxae.saturated_share(code(x_i)),
        }

    with jax.default_matmul_precision("highest"):
        return jaxae.evaluate(measure_example, x, batch_size=500)


def train(names: Sequence[str], setup: Setup, papers: Papers, run: ExperimentRun) -> Trained:
    """Returns the rows of some methods, searched, trained and measured."""
    pool = Pool(setup)
    rows = {name: MethodTrainer(name, setup, run, pool).row() for name in names}
    return Trained(rows, papers)


def epochs_of(name: str, setup: Setup) -> int:
    """Returns how many epochs a row takes, for the progress bar."""
    method = METHODS[name]
    searched = setup.num_seeds * len(strengths_of(name, setup.strengths))
    layers = 0 if method.loss is None else searched
    tuned = searched * len(setup.fine_tuning_rates)
    tuned += 0 if method.loss is None else setup.num_seeds
    if method.is_stacked:
        layers, tuned = layers + setup.num_seeds, tuned + setup.num_seeds
    return layers * setup.epochs + tuned * setup.fine_tuning_epochs
