"""Denoising with a convolutional and with a dense autoencoder, whose codes have the same size."""

from functools import partial

import jax
import numpy as np

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds, values_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.convolutional.networks import UNITS, Trained


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns parameters and scores of both networks, and the error of the noisy images."""
    setup = trained.setup
    rows = {
        name: {"parameters": count_parameters(own.params[0]), **own.scores}
        for name, own in trained.denoising.items()
    }
    scores = fitting.make_scores(lambda _, x_i: x_i)
    errors = [
        fitting.mean_scores(scores, None, setup.noisy(seed))["mse"]
        for seed in range(setup.num_seeds)
    ]
    return {"denoising": rows, "corrupted": over_seeds(errors, UNITS["noisy_mse"])}


def count_parameters(params: object) -> int:
    """Returns how many numbers a network has learned."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws test images, clean, noisy, and denoised by both networks of the first seed."""
    setup = trained.setup
    noisy, clean = fitting.noisy_rows(
        setup.keys(0)[1],
        setup.corrupt_at(setup.noise),
        setup.dataset.test,
        setup.dataset.one_of_each_class(),
    )
    rows = {"original": np.asarray(clean), "corrupted": np.asarray(noisy)}
    for name, own in trained.denoising.items():
        reconstruct = partial(trained.trainers[name].reconstruct, own.params[0])
        count = found["denoising"][name]["parameters"]
        rows[f"{name}, {count:,} weights"] = np.asarray(jax.vmap(reconstruct)(noisy))
    title = f"Denoised through {setup.code_dim} numbers, uniform noise {setup.noise:g}"
    run.draw(plots.image_rows, "denoised.png", rows, title=title, gaps=(2,))


def claims(found: Metrics) -> list[Claim]:
    """Holds if the convolutional network has fewer weights and a smaller error with every seed."""
    dense, conv = (found["denoising"][name] for name in ("dense", "convolutional"))
    own, other = values_over_seeds([conv, dense], "noisy_mse")
    holds = bool((own < other).all() and conv["parameters"] < dense["parameters"])
    return [
        Claim(
            "On images, a convolutional autoencoder denoises better than a dense one that has more "
            "weights.",
            f"Through a code of {found['code_dim']} numbers, with uniform noise of level "
            f"{found['noise_level']:g}, the convolutional autoencoder has "
            f"{conv['parameters']:,} weights and leaves a squared error of "
            f"{shown(conv['noisy_mse'])} per pixel; the dense one has {dense['parameters']:,} "
            f"weights and leaves {shown(dense['noisy_mse'])}. The noise made "
            f"{shown(found['corrupted'])}. Both train for the same steps, on the same noise.",
            verdict(holds),
            {
                "denoised, convolutional": conv["noisy_mse"],
                "denoised, dense": dense["noisy_mse"],
                "corrupted input": found["corrupted"],
                "PSNR, convolutional": conv["noisy_psnr"],
                "PSNR, dense": dense["noisy_psnr"],
            },
            "denoised.png",
            "Four rows of test images: clean, under noise, denoised by the dense autoencoder, and "
            "denoised by the convolutional autoencoder.",
            anchor="convolutional-denoising",
            plain=sentence(
                "The convolutional autoencoder has {weights} of the dense one's weights, and "
                "leaves {error} of its squared error.",
                weights=percent(conv["parameters"] / dense["parameters"]),
                error=percent(ratio(conv["noisy_mse"], dense["noisy_mse"])),
            ),
            caption="Top: test images, and the same images under noise. Below: what the two "
            "autoencoders make of the noisy images. Which strokes are more exact?",
            source="Shown in the lecture's next chapter",
        )
    ]
