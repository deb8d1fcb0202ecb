"""Layers trained without labels, classifiers on top of them, and the search over both."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jaxtyping import Array

import jaxae
from experiments.common.results.numbers import over_seeds
from experiments.common.run.experiment import Run
from experiments.common.training import classifiers, fitting
from experiments.common.training.classifiers import Classifier, Layers, Outcome, Split
from experiments.common.training.sweep import Sweep, Tag
from experiments.feature_learning import methods
from experiments.feature_learning.methods import METHODS, activation

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


class Plan(NamedTuple):
    """What is trained: the configuration with all defaults filled in."""

    split: Split
    code_dim: int
    k: int  # units that the k-sparse code keeps
    learning_rate: float  # of the layers, at the start
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


class Choice(NamedTuple):
    """What was searched, and what the validation error chose."""

    strength: float
    rate: float
    tried: list[dict[str, Any]]


class Pool:
    """Classifiers by what they are compiled for.

    Args:
      plan: how they are trained.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = classifiers.labelled(plan.split.train)
        self._known: dict[Any, Classifier] = {}

    def get(self, name: str, rate: float, is_frozen: bool) -> Classifier:
        """Returns the classifier on the codes of a method."""
        plan, apply = self._plan, activation(name, self._plan.k)
        kind = "sigmoid" if apply is nn.sigmoid else name
        if (kind, rate, is_frozen) not in self._known:
            self._known[kind, rate, is_frozen] = Classifier(
                apply,
                self._rows,
                plan.split,
                is_frozen=is_frozen,
                learning_rate=rate,
                batch_size=plan.batch_size,
                epochs=plan.fine_tuning_epochs,
                devices=plan.devices,
            )
        return self._known[kind, rate, is_frozen]


class MethodTrainer:
    """Trains what one row of the table needs; programs are compiled once.

    Args:
      name: of the method.
      plan: how it is trained.
      run: takes the log and the checkpoints.
      pool: classifiers, which rows share.
    """

    def __init__(self, name: str, plan: Plan, run: Run, pool: Pool) -> None:
        self.name, self.method = name, METHODS[name]
        self._plan, self._run, self._seeds = plan, run, range(plan.num_seeds)
        self._activation = activation(name, plan.k)
        self._pool = pool
        self._trainers: dict[int, fitting.AutoencoderTrainer] = {}

    def row(self) -> dict[str, Any]:
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
        self._say(choice, numbers)
        return {
            "strength": choice.strength,
            "meaning_of_strength": self.method.strength,
            "fine_tuning_rate": choice.rate,
            "searched": choice.tried,
            **numbers,
        }

    def _say(self, choice: Choice, numbers: dict[str, Any]) -> None:
        percent, at = numbers["test_error"]["mean"], f"{choice.strength:g}, rate {choice.rate:g}"
        self._run.say(f"{self.name:14s} at {at}: test error {percent:.2f} %")

    def search(self) -> tuple[Choice, list[Layers], list[Outcome]]:
        """Returns the choice, and with it the encoder and the outcome of every seed.

        The least mean validation error over the seeds chooses: between two step sizes that of one
        seed changes by more than their difference.
        """
        encoders = self.pretrain()
        tried: list[dict[str, Any]] = []
        found = []
        for rate in self._plan.fine_tuning_rates:
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
        return self._train_layers(self.method.strengths, self._seeds, self._plan.split.train.x, 1)

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

        return Sweep(self._run, seeds, functools.partial(self._plan.key, use=use), tag)

    def _trainer(self, inputs: int) -> fitting.AutoencoderTrainer:
        if inputs not in self._trainers:
            self._trainers[inputs] = self._made_trainer(inputs)
        return self._trainers[inputs]

    def _made_trainer(self, inputs: int) -> fitting.AutoencoderTrainer:
        plan = self._plan
        steps = plan.epochs * -(-len(plan.split.train.x) // plan.batch_size)
        model = jaxae.DenseAutoencoder(
            (inputs,), plan.code_dim, code_activation=self._activation, tied=True
        )
        return fitting.AutoencoderTrainer(
            model,
            self.method.loss or methods.plain,
            learning_rate=optax.cosine_decay_schedule(plan.learning_rate, steps),
            batch_size=plan.batch_size,
            epochs=plan.epochs,
            devices=plan.devices,
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
        rate = max(self._plan.fine_tuning_rates)
        outcomes = self.fine_tune({strength: encoders}, rate, is_frozen=True)[strength]
        split = self._plan.split
        near = [classifiers.neighbours_error(one, self._activation, split) for one in encoders]
        return {"probe_error": [o.test_error for o in outcomes], "neighbours_error": near}

    def measure_codes(self, encoders: Sequence[Layers]) -> dict[str, list[float]]:
        """Returns Jacobian norms and saturation of the pretrained codes on the test images."""
        test = self._plan.split.test.x
        found = [_code_means(layers, self._activation, test) for layers in encoders]
        entries = test.shape[1] * self._plan.code_dim
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
            x = classifiers.codes(layers, self._activation, self._plan.split.train.x)
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


def epochs_of(name: str, plan: Plan) -> int:
    """Returns how many epochs a row takes, for the progress bar."""
    method, searched = METHODS[name], plan.num_seeds * len(METHODS[name].strengths)
    layers = 0 if method.loss is None else searched
    tuned = searched * len(plan.fine_tuning_rates)
    tuned += 0 if method.loss is None else plan.num_seeds
    if method.is_stacked:
        layers, tuned = layers + plan.num_seeds, tuned + plan.num_seeds
    return layers * plan.epochs + tuned * plan.fine_tuning_epochs
