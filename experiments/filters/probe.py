"""What the features are good for: the error of a softmax on the frozen codes."""

import flax.linen as nn
import jax
from jaxtyping import Array

from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.common.training.classifiers import Classifier, Layers, labelled, split_of
from experiments.common.training.sweep import Sweep, Tag
from experiments.filters.networks import Setting, Setup, Trained

LEARNING_RATE, EPOCHS = 6e-3, 10


def epochs(setup: Setup) -> int:
    """Returns the passes over the training data of one softmax, 0 where there are no labels."""
    dataset = setup.dataset
    if dataset.train_labels is None or dataset.test_labels is None:
        return 0
    return 2 if setup.config.quick else EPOCHS


def errors(run: ExperimentRun, trained: Trained) -> dict[Setting, list[float]]:
    """Returns the error of a softmax on each network's codes; nothing without labels."""
    setup = trained.setup
    if epochs(setup) == 0:
        return {}
    split = split_of(setup.dataset)
    classifier = Classifier(
        nn.sigmoid,
        labelled(split.train),
        split,
        is_frozen=True,
        learning_rate=LEARNING_RATE,
        batch_size=setup.config.batch_size,
        epochs=epochs(setup),
        devices=setup.config.devices,
    )

    def tag(setting: Setting, seed: int) -> Tag:
        return Tag(
            f"probe_noise-{setting.level:g}_beta-{setting.beta:g}_seed-{seed}",
            "softmax on the codes",
            {"training": "probe", **setting._asdict(), "seed": seed},
        )

    def key(seed: int) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(setup.config.seed), seed), 1)

    def layers(params: Params) -> Layers:
        return ((params["encoder_kernel_0"], params["encoder_bias_0"]),)

    encoders = {
        setting: [layers(params) for params in own] for setting, own in trained.params.items()
    }
    seeds = range(setup.num_seeds)
    outcomes = Sweep(run, seeds, key, tag).fit_classifiers(classifier, encoders)
    return {setting: [outcome.test_error for outcome in own] for setting, own in outcomes.items()}
