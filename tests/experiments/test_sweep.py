"""A sweep: which network has which key, numbers, names and log."""

import jax
import jax.numpy as jnp
import pytest

from experiments.common.training.sweep import Sweep, Tag


class FakeRun:
    """Keeps what it is told."""

    def __init__(self):
        self.logged, self.kept = [], []

    def log(self, doing, **entry):
        self.logged.append((doing, list(entry.items())))

    def checkpoints(self, names, model=None, *, epochs_if_extendable=None):
        self.kept.append((list(names), model, epochs_if_extendable))
        return "checkpoints"


class FakeTrainer:
    """Returns as the parameters of a network what it was trained with."""

    model, epochs_if_extendable = "model", 7

    def fit_many(self, keys, x, *settings, on_epoch, checkpoints):
        assert checkpoints == "checkpoints"
        for network in reversed(range(len(keys))):  # threads finish in any order
            on_epoch(network, 1, float(network))
        seeds = [int(jax.random.key_data(key)[-1]) for key in keys]
        return [
            (seed, x, *row) for seed, row in zip(seeds, self.rows(settings, seeds), strict=True)
        ]

    def rows(self, settings, seeds):
        return zip(*settings, strict=True) if settings else [()] * len(seeds)


class FakeClassifier:
    """Returns as the outcome the encoder."""

    def best_of_many(self, keys, encoders, *, on_epoch, checkpoints):
        on_epoch(1, 3, 0.5)
        return encoders

    def outcome(self, best):
        return best


def tag(setting, seed):
    return Tag(f"{setting}_{seed}", f"{setting}, seed {seed}", {"setting": setting, "seed": seed})


@pytest.fixture
def run():
    return FakeRun()


@pytest.fixture
def sweep(run):
    return Sweep(run, (4, 5), jax.random.key, tag)


def test_networks_are_those_of_their_setting_and_seed(run, sweep):
    found = sweep.fit(FakeTrainer(), "x", {"a": (0.5, 1.0), "b": (0.25, 2.0)})
    assert found == {
        "a": [(4, "x", 0.5, 1.0), (5, "x", 0.5, 1.0)],
        "b": [(4, "x", 0.25, 2.0), (5, "x", 0.25, 2.0)],
    }
    assert run.kept == [(["a_4", "a_5", "b_4", "b_5"], ["model"] * 4, 7)]
    entry = [("setting", "b"), ("seed", 5), ("epoch", 1), ("train_loss", 3.0)]
    assert run.logged[0] == ("b, seed 5", entry)
    assert [doing for doing, _ in run.logged[1:]] == ["b, seed 4", "a, seed 5", "a, seed 4"]


def test_seeds_without_numbers_and_models_of_their_own(run, sweep):
    assert sweep.fit(FakeTrainer(), "x", {"a": ()}) == {"a": [(4, "x"), (5, "x")]}
    sweep.fit(FakeTrainer(), "x", {"a": (1.0,), "b": (2.0,)}, models={"b": "B", "a": "A"})
    assert run.kept[1][1] == ["A", "A", "B", "B"]


def test_classifiers_are_those_of_their_encoders(run, sweep):
    encoders = {name: [((jnp.ones(1), name),), ((jnp.ones(2), name),)] for name in "ab"}
    found = sweep.fit_classifiers(FakeClassifier(), encoders)
    assert found == encoders
    assert run.kept == [(["a_4", "a_5", "b_4", "b_5"], None, None)]
    assert run.logged[0][0] == "a, seed 5"
