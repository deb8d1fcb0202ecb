"""Samples of images: what a classifier sees in them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.common.results.numbers import rows_over_seeds
from experiments.common.run.experiment import Run
from experiments.common.training.classifiers import Split
from experiments.sampling import chains, classifier_scores, gallery
from experiments.sampling.chains import LEVELS, Samplers, Sizes


def epochs_of(sizes: Sizes) -> int:
    """Returns how many epochs are trained in all, for the progress bar."""
    return chains.KINDS * sizes.seeds * sizes.epochs + sizes.classifier_epochs


def measure(
    key: Array, split: Split, shape: tuple[int, ...], sizes: Sizes, run: Run
) -> dict[str, Any]:
    """Returns all numbers of the images of a shape; draws the pictures of the first seed."""
    classifier_key, train_key, chain_key = jax.random.split(jax.random.fold_in(key, 1000), 3)
    options: Any = {"batch_size": sizes.batch_size, "devices": sizes.devices}
    viewer = classifier_scores.ClassifierScores(
        classifier_key, split, run, epochs=sizes.classifier_epochs, **options
    )
    found = chains.train(train_key, split.train.x, sizes, run)
    rows = []
    for seed, samplers in enumerate(chains.samplers_of(found)):
        own = jax.random.fold_in(chain_key, seed)
        row, samples = measure_seed(own, samplers, viewer, split, shape, sizes)
        rows.append(row)
        if seed == 0:
            gallery.draw(run, jax.random.fold_in(own, 1), samplers, samples, split, shape)
        last = row[annealed_name(sizes.lengths[-1])]
        run.say(
            f"images, seed {seed}: annealed samples have {last['classes']:.1f} classes, "
            f"seen with {last['confidence']:.1f} % confidence"
        )
    units = classifier_scores.UNITS
    of_test = rows_over_seeds([viewer.view(split.test.x[: sizes.pictures])], units)
    numbers = {name: rows_over_seeds([row[name] for row in rows], units) for name in rows[0]}
    gallery.draw_shares(run, {"test images": of_test} | numbers)
    return {"classifier_test_error": viewer.test_error, "test images": of_test, **numbers}


def annealed_name(steps: int) -> str:
    """Returns what the row of annealed chains is called."""
    return f"annealed Langevin, {steps} steps"


def measure_seed(
    key: Array,
    samplers: Samplers,
    viewer: classifier_scores.ClassifierScores,
    split: Split,
    shape: tuple[int, ...],
    sizes: Sizes,
) -> tuple[dict[str, dict[str, Any]], dict[str, Array]]:
    """Returns what the classifier sees in every kind of samples of one seed, and the samples."""
    noise_key, uniform_key, chain_key, complete_key = jax.random.split(key, 4)
    test = split.test.x[: sizes.pictures]
    noise = LEVELS.high * jax.random.normal(noise_key, test.shape)
    uniform = jax.random.uniform(uniform_key, test.shape)
    samples = {"test images, denoised": samplers.denoised(noise_key, test)}
    samples |= {
        annealed_name(steps): samplers.annealed(chain_key, noise, steps)[-1]
        for steps in sizes.lengths
    }
    for name in ("denoising chain", "walkback"):
        samples[f"{name}, from noise"] = samplers.chain(name, chain_key, uniform)[-1]
        samples[f"{name}, from digits"] = samplers.chain(name, chain_key, test)[-1]
    samples["tangent walk, from digits"] = samplers.chain("CAE", chain_key, test)[-1]
    rows = {
        name: viewer.view(x, test if name.endswith("from digits") else None)
        for name, x in samples.items()
    }
    known, labels = chains.upper_half(shape), split.test.y[: sizes.pictures]
    half = jnp.where(known, test, noise)
    complete = samplers.annealed(complete_key, half, chains.LENGTH, known=known)[-1]
    rows["completion"] = {
        "completed": viewer.share(complete, labels),
        "half": viewer.share(jnp.where(known, test, 0.0), labels),
    }
    return rows, samples
