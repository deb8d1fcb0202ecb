"""Samples of images: what a classifier sees in them."""

import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.common.results.over_seeds import Metrics, rows_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.sampling import chains
from experiments.sampling.chains import Sizes
from experiments.sampling.classifier_scores import UNITS
from experiments.sampling.networks import ImageNetworks, Trained, annealed_name

LOOKS = (plots.METHODS["DAE"], plots.OTHERS[0], plots.OTHERS[2])


def epochs_of(sizes: Sizes) -> int:
    """Returns how many epochs are trained in all, for the progress bar."""
    return chains.KINDS * sizes.seeds * sizes.epochs + sizes.classifier_epochs


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns all numbers of the images."""
    if trained.images is None:
        return {}
    networks, rows = trained.images, []
    for seed in range(networks.sizes.seeds):
        row = measure_seed(networks, seed)
        rows.append(row)
        last = row[annealed_name(networks.sizes.lengths[-1])]
        run.say(
            f"images, seed {seed}: annealed samples have {last['classes']:.1f} classes, "
            f"seen with {last['confidence']:.1f} % confidence"
        )
    numbers = {name: rows_over_seeds([row[name] for row in rows], UNITS) for name in rows[0]}
    of_test = rows_over_seeds([networks.classifier.view(networks.test)], UNITS)
    error = networks.classifier.test_error
    return {"images": {"classifier_test_error": error, "test images": of_test, **numbers}}


def measure_seed(networks: ImageNetworks, seed: int) -> dict[str, Metrics]:
    """Returns what the classifier sees in every kind of samples of one seed."""
    classifier, test = networks.classifier, networks.test
    samples = networks.first_samples if seed == 0 else networks.make_samples(seed)
    rows = {
        name: classifier.view(x, test if name.endswith("from digits") else None)
        for name, x in samples.items()
    }
    known, labels = chains.upper_half(networks.shape), networks.split.test.y[: len(test)]
    half, key = jnp.where(known, test, networks.noise(seed)), networks.keys(seed).complete
    complete = networks.samplers[seed].annealed(key, half, chains.LENGTH, known=known)[-1]
    rows["completion"] = {
        "completed": classifier.share(complete, labels),
        "half": classifier.share(jnp.where(known, test, 0.0), labels),
    }
    return rows


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the share of every class in each kind of samples."""
    if trained.images is None:
        return
    rows = {name: row for name, row in found["images"].items() if isinstance(row, dict)}
    shares = {name: row["class_shares"] for name, row in rows.items() if "class_shares" in row}
    longest = [name for name in shares if "Langevin" in name][-1]
    names = [longest, *(name for name in shares if name.endswith("from noise"))]
    classes = np.arange(len(shares["test images"]))
    lines = [plots.line("test images", classes, shares["test images"], plots.EXACT)]
    for name, look in zip(names, LOOKS, strict=True):
        lines.append(plots.line(name, classes, shares[name], look))
    panel = plots.Panel("class", "share of the samples (percent)", lines, ticks=classes)
    title = "Classes of samples that start from noise, as a classifier sees them"
    run.draw(plots.panels, "classes.png", [panel], title=title)
