"""The stochastic view: Gaussian likelihood and squared error have the same gradient."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.denoising.networks import Trained, seed_keys


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns how far the Gaussian likelihood of the decoder is from the squared error.

    With unit variance the negative log-likelihood is half the squared error plus d/2 log(2 pi), so
    their gradients are the same; both are compared on one noisy batch at fresh parameters.
    """
    setup, x = trained.setup, jnp.asarray(trained.train[:256])
    init, encode, decode = jaxae.as_functions(
        jaxae.DenseAutoencoder(x.shape[1:], setup.swept_dim, output_activation=nn.sigmoid)
    )

    @jax.jit
    def gap(params: Params, key: Array) -> Array:
        def gradient(reconstruction: Callable[[Array, Array], Array]) -> Array:
            def mean_loss(params: Params) -> Array:
                return jaxae.denoising_loss(
                    key,
                    partial(encode, params),
                    partial(decode, params),
                    x,
                    corrupt=setup.corrupt_at(setup.levels[0]),
                    reconstruction=reconstruction,
                ).mean()

            return ravel_pytree(jax.grad(mean_loss)(params))[0]

        nll = gradient(jaxae.gaussian_nll)
        error = gradient(lambda x_hat_i, x_i: jaxae.squared_error(x_hat_i, x_i) / 2)
        return jnp.linalg.norm(nll - error) / jnp.linalg.norm(error)

    values = []
    for seed in range(setup.num_seeds):
        init_key, noise_key = jax.random.split(seed_keys(setup, seed)[0])
        values.append(float(gap(init(init_key), noise_key)))
    gap_over_seeds = over_seeds(values, "relative distance of the two gradients")
    return {"stochastic_view": {"gradient_gap": gap_over_seeds}}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws pairs of images of which both losses are computed."""
    pictures = trained.by_code_dim[0].pictures
    rows = {"original": pictures["clean"], "corrupted": pictures["noisy"]}
    title = f"Test examples, {trained.setup.first_noise}"
    run.draw(plots.image_rows, "corrupted.png", rows, title=title)


def claims(found: Metrics) -> list[Claim]:
    """Holds if the two gradients agree to the rounding of float32."""
    gap = found["stochastic_view"]["gradient_gap"]
    return [
        Claim(
            "Stochastic view: a linear output is the mean of a Gaussian, whose negative "
            "log-likelihood equals the squared error up to constants.",
            "The gradients of the two losses agree to the rounding of float32 (distance over size: "
            f"{shown(gap)}).",
            verdict(max(gap["values"]) < 1e-4),
            {"distance of the gradients": gap},
            "corrupted.png",
            "Two rows of pictures: ten test images, and the same images under noise, the pairs of "
            "which both losses are computed.",
            anchor="denoising-gaussian-view",
            plain=sentence(
                "The gradients of the two losses differ by {gap} of their length.",
                gap=percent(gap["mean"]),
            ),
            caption="Top: test images. Bottom: the same images under noise. Both losses are "
            "computed from such pairs.",
            formula=r"-\log p(x \mid z) = \frac{1}{2 \sigma^2} \|x - \text{dec}(z)\|^2 "
            r"+ \text{const}",
        ),
    ]
