"""What a classifier sees in pictures, and how near they are to those of the training set."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxae
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.classifiers import Classifier, Split, labelled
from experiments.common.training.sweep import Tag

UNITS = {
    "confidence": "percent, probability of the likeliest class, mean over pictures",
    "classes": "effective number of classes, exp of the entropy of the mean probabilities",
    "class_shares": "percent of the pictures, by their likeliest class",
    "nearest": "distance to the nearest training image, median, over that of test images",
    "left": "percent of the chains whose class is not that of their start",
    "completed": "percent of the test images that have their class after completion",
    "half": "percent of the test images that have their class with one half black",
}
CLASSIFIER_WIDTH, RATE = 1000, 3e-3


class ClassifierScores:
    """A classifier with one hidden layer, and the training images.

    Args:
      key: PRNG key of the classifier.
      split: the data; the classifier is at its best on the validation images.
      run: takes its log and its checkpoints.
      epochs: passes over the training images.
      batch_size: examples per step.
      devices: devices over which a batch is divided.
    """

    def __init__(
        self,
        key: Array,
        split: Split,
        run: ExperimentRun,
        *,
        epochs: int,
        batch_size: int,
        devices: int,
    ) -> None:
        classifier = Classifier(
            nn.sigmoid,
            labelled(split.train),
            split,
            is_frozen=False,
            learning_rate=RATE,
            batch_size=batch_size,
            epochs=epochs,
            devices=devices,
        )

        tag = Tag("classifier", "classifier", {"part": "classifier"})
        model = jaxae.DenseAutoencoder((split.train.x.shape[1],), CLASSIFIER_WIDTH, tied=True)
        init_key, train_key = jax.random.split(key)
        params = jaxae.as_functions(model).init(init_key)
        layers = ((params["encoder_kernel_0"], params["encoder_bias_0"]),)
        (best,) = classifier.best_of_many(
            [train_key],
            [layers],
            on_epoch=lambda _, epoch, loss: tag.log(run, epoch, loss),
            checkpoints=run.checkpoints([tag.checkpoint]),
        )
        self.test_error = classifier.outcome(best).test_error
        run.say(f"classifier: test error {self.test_error:.2f} %")

        @jax.jit
        def probabilities(x: Array) -> Array:
            return jax.nn.softmax(jax.vmap(partial(classifier.logits, best.params))(x))

        self._probabilities = probabilities
        from sklearn.neighbors import NearestNeighbors  # takes two seconds, and few come here

        self._near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(split.train.x)
        unit = float(np.median(self._distances(split.test.x[:1000])))
        self._unit = unit or np.nan  # test images that are copies of training images tell nothing

    def classes(self, x: Array) -> np.ndarray:
        """Returns the likeliest class of each picture ``(n,)``."""
        return np.asarray(jnp.argmax(self._probabilities(x), axis=1))

    def share(self, x: Array, labels: Array) -> float:
        """Returns the percentage of pictures ``(n, d)`` that have their class ``(n,)``."""
        return 100 * float(np.mean(self.classes(x) == np.asarray(labels)))

    def view(self, x: Array, start: Array | None = None) -> Metrics:
        """Returns the numbers of pictures ``(n, d)``, and of their chains if they have a start."""
        found = view_of(np.asarray(self._probabilities(x), np.float64))
        found["nearest"] = float(np.median(self._distances(x)) / self._unit)
        if start is not None:
            found["left"] = 100 * float(np.mean(self.classes(x) != self.classes(start)))
        return found

    def _distances(self, x: Array) -> np.ndarray:
        return self._near.kneighbors(np.asarray(x))[0][:, 0]


def view_of(probabilities: np.ndarray) -> Metrics:
    """Returns confidence and balance from the class probabilities ``(n, classes)`` of pictures."""
    mean = probabilities.mean(axis=0)
    entropy = -np.sum(mean * np.log(np.maximum(mean, np.finfo(float).tiny)))
    counts = np.bincount(probabilities.argmax(axis=1), minlength=len(mean))
    return {
        "confidence": 100 * float(probabilities.max(axis=1).mean()),
        "classes": float(np.exp(entropy)),
        "class_shares": (100 * counts / len(probabilities)).tolist(),
    }
