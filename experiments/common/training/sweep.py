"""Networks that are trained together: every setting of a sweep, with every seed."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from jaxtyping import Array

import jaxae
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.common.training.classifiers import Classifier, Layers, Outcome
from experiments.common.training.fitting import Trainer

Setting = TypeVar("Setting", bound=Hashable)
Result = TypeVar("Result")


class Tag(NamedTuple):
    """What one network of a sweep is called."""

    checkpoint: str  # the name of its checkpoints
    doing: str  # what the progress bar says while it trains
    entry: Metrics  # what its lines in log.jsonl begin with

    def log(self, run: ExperimentRun, epoch: int, loss: float) -> None:
        """Logs one epoch of the network."""
        run.log(self.doing, **self.entry, epoch=epoch, train_loss=loss)


@dataclass(frozen=True)
class Sweep(Generic[Setting]):
    """Trains one network for every setting and every seed, all of them with one compiled program.

    How many train at a time, as a batch or in threads, ``jaxae.fit_many`` decides, in
    ``jaxae/training/many.py``.

    Attributes:
      run: takes the log and the checkpoints.
      seeds: numbers of the repetitions.
      key: ``key(seed)``, the PRNG key of a repetition. All settings share it: they start alike and
        see the same noise, so that nothing but the setting makes a difference.
      tag: ``tag(setting, seed)``, what a network is called.
    """

    run: ExperimentRun
    seeds: Sequence[int]
    key: Callable[[int], Array]
    tag: Callable[[Setting, int], Tag]

    def fit(
        self,
        trainer: Trainer,
        x: Array | jaxae.Streamed,
        settings: Mapping[Setting, Sequence[float]],
        *,
        models: Mapping[Setting, object] | None = None,
    ) -> dict[Setting, list[Params]]:
        """Returns the trained parameters of each setting, one for each seed.

        Args:
          trainer: of all networks.
          x: the training data.
          settings: the numbers with which the trainer's loss is called, for each setting.
          models: from what the networks of each setting can be loaded, see
            ``ExperimentRun.checkpoints``; by default all from ``trainer.model``.
        """
        described = dict.fromkeys(settings, trainer.model) if models is None else models
        pairs, tags = self._pairs(settings), self._tags(settings)
        values = zip(*[settings[setting] for setting, _ in pairs], strict=True)
        checkpoints = self.run.checkpoints(
            [tag.checkpoint for tag in tags],
            [described[setting] for setting, _ in pairs],
            epochs_if_extendable=trainer.epochs_if_extendable,
        )
        on_epoch = self._make_log(tags)
        keys = [self.key(seed) for _, seed in pairs]
        trained = trainer.fit_many(keys, x, *values, on_epoch=on_epoch, checkpoints=checkpoints)
        return self._by_setting(settings, trained)

    def fit_classifiers(
        self, classifier: Classifier, encoders: Mapping[Setting, Sequence[Layers]]
    ) -> dict[Setting, list[Outcome]]:
        """Returns what the classifier reached on the encoders of each setting, one for each seed.

        Args:
          classifier: trained on top of every encoder.
          encoders: of each setting, one for each seed.
        """
        tags = self._tags(encoders)
        found = classifier.best_of_many(
            [self.key(seed) for _, seed in self._pairs(encoders)],
            [layers for own in encoders.values() for layers in own],
            on_epoch=self._make_log(tags),
            checkpoints=self.run.checkpoints(tag.checkpoint for tag in tags),
        )
        return self._by_setting(encoders, map(classifier.outcome, found))

    def _pairs(self, settings: Iterable[Setting]) -> list[tuple[Setting, int]]:
        """Returns setting and seed of every network, in the order in which they are numbered."""
        return [(setting, seed) for setting in settings for seed in self.seeds]

    def _tags(self, settings: Iterable[Setting]) -> list[Tag]:
        return [self.tag(setting, seed) for setting, seed in self._pairs(settings)]

    def _make_log(self, tags: Sequence[Tag]) -> Callable[[int, int, float], None]:
        """Returns the function that logs an epoch of the network with a number."""

        def on_epoch(network: int, epoch: int, loss: float) -> None:
            tags[network].log(self.run, epoch, loss)

        return on_epoch

    def _by_setting(
        self, settings: Iterable[Setting], results: Iterable[Result]
    ) -> dict[Setting, list[Result]]:
        following = iter(results)
        return {setting: [next(following) for _ in self.seeds] for setting in settings}
