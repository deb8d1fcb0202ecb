"""The autoencoders of images that are sampled, how they are trained, and their chains.

One is told the noise level, and its annealed Langevin dynamics start from noise. A plain denoising
autoencoder runs its own chain, corrupt and reconstruct, trained by one step of it or by several
(walkback). A contractive one walks along its tangents.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

import jaxae
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training import fitting
from experiments.common.training.arrays import Function, Params
from experiments.common.training.losses import contractive
from experiments.common.training.sweep import Sweep, Tag
from experiments.sampling.conditional import PIXELS, Denoiser, Levels, OfPixels, anneal

LEVELS = Levels(low=0.3, high=3.0)
STEP_SIZE = 0.5  # of the annealed dynamics, relative to the squared noise level
RATE = 0.4  # of the salt-and-pepper noise of the chains
WALK = 3  # steps of a walkback
WEIGHT = 1.0  # lambda of the CAE
TANGENT = 0.4  # standard deviation of the noise of the CAE's walk
LENGTH = 100  # steps of the chains and of the walk
KINDS = 4  # of autoencoders


class Sizes(NamedTuple):
    """How much is trained and sampled."""

    epochs: int
    classifier_epochs: int  # of the classifier that looks at the samples
    batch_size: int
    learning_rate: float
    code_dim: int
    hidden: int
    pictures: int  # of every kind
    lengths: tuple[int, ...]  # of the annealed chains
    seeds: int
    devices: int


class Autoencoders(NamedTuple):
    """The trainers and, by seed, the parameters of the four autoencoders."""

    denoiser: Denoiser
    shallow: fitting.AutoencoderTrainer  # the functions of the three others
    params: dict[str, list[Params]]


def walkback_loss(key: Array, encode: Function, decode: Function, x: Array, *, steps: int) -> Array:
    """Returns the walkback loss of the chain; with one step it is the denoising loss."""
    return jaxae.walkback_loss(
        key,
        encode,
        decode,
        x,
        steps=steps,
        corrupt=corrupt,
        sample=jaxae.Bernoulli().sample,
        reconstruction=jaxae.bernoulli_nll,
    )


def corrupt(key: Array, x_i: Array) -> Array:
    """Returns one image with salt and pepper."""
    return jaxae.salt_and_pepper_noise(key, x_i, rate=RATE)


def cae_loss(key: Array, encode: Function, decode: Function, x: Array) -> Array:
    """Returns the loss of the CAE."""
    return contractive(key, encode, decode, x, jnp.asarray(WEIGHT, x.dtype))


def train(key: Array, x: Array, sizes: Sizes, run: ExperimentRun) -> Autoencoders:
    """Returns the four autoencoders, trained on images ``(n, d)`` once for each seed."""
    inputs = x.shape[1]
    denoiser = Denoiser(
        OfPixels((sizes.hidden, sizes.hidden), inputs, float(jnp.sqrt(jnp.mean(jnp.var(x, 0))))),
        PIXELS,
        LEVELS,
        learning_rate=sizes.learning_rate,
        steps=sizes.epochs * -(-len(x) // sizes.batch_size),
        batch_size=sizes.batch_size,
        epochs=sizes.epochs,
        devices=sizes.devices,
    )

    def shallow(loss: Callable[..., Array]) -> fitting.AutoencoderTrainer:
        return fitting.AutoencoderTrainer(
            jaxae.DenseAutoencoder(
                (inputs,), sizes.code_dim, code_activation=jax.nn.sigmoid, tied=True
            ),
            loss,
            learning_rate=sizes.learning_rate,
            batch_size=sizes.batch_size,
            epochs=sizes.epochs,
            devices=sizes.devices,
        )

    def tag(name: str, seed: int) -> Tag:
        return Tag(
            f"{name.replace(' ', '-')}_seed-{seed}",
            f"{name}, seed {seed}",
            {"part": "images", "model": name, "seed": seed},
        )

    sweep = Sweep(run, range(sizes.seeds), partial(jax.random.fold_in, key), tag)
    params = sweep.fit(denoiser, x, {"annealed": ()})
    losses: dict[str, Callable[..., Array]] = {
        "denoising chain": partial(walkback_loss, steps=1),
        "walkback": partial(walkback_loss, steps=WALK),
        "CAE": cae_loss,
    }
    for name, loss in losses.items():
        trainer = shallow(loss)
        params |= sweep.fit(trainer, x, {name: ()})
    return Autoencoders(denoiser, trainer, params)


class Programs:
    """The compiled chains, which the seeds share.

    Args:
      found: trained networks.
    """

    def __init__(self, found: Autoencoders) -> None:
        self._denoiser, self._shallow = found.denoiser, found.shallow
        self.annealed = jax.jit(self._annealed, static_argnames=("steps", "keep"))
        self.chain = jax.jit(self._chain, static_argnames=("is_walk", "keep"))
        self.denoised = jax.jit(self._denoised)

    def _annealed(
        self, params: Params, key: Array, x: Array, known: Array, *, steps: int, keep: int
    ) -> Array:
        return anneal(
            key,
            x,
            LEVELS.ladder(steps),
            score=partial(self._denoiser.score, params),
            reconstruct=partial(self._denoiser.reconstruct, params),
            step_size=STEP_SIZE,
            keep=keep,
            fixed=known,
        )

    def _denoised(self, params: Params, key: Array, x: Array) -> Array:
        noisy = jaxae.gaussian_noise(key, x, stddev=LEVELS.low)

        def reconstruct(x_i: Array) -> Array:
            return self._denoiser.reconstruct(params, x_i, jnp.asarray(LEVELS.low))

        return jax.vmap(reconstruct)(noisy)

    def _chain(self, params: Params, key: Array, x: Array, *, is_walk: bool, keep: int) -> Array:
        encode, logits = self._shallow.bound(params)

        def decode(code: Array) -> Array:
            return nn.sigmoid(logits(code))

        if is_walk:
            step = jaxae.tangent_transition(encode, decode, stddev=TANGENT)
        else:
            sample = jaxae.Bernoulli().sample
            step = jaxae.denoising_transition(encode, logits, corrupt=corrupt, sample=sample)
        key, last_key = jax.random.split(key)
        states = jaxae.markov_chain(key, step, x, steps=LENGTH, thin=LENGTH // keep)
        if is_walk:
            return states

        def mean(key: Array, v: Array) -> Array:
            return decode(encode(corrupt(key, v)))

        return jax.vmap(jax.vmap(mean))(jax.random.split(last_key, states.shape[:2]), states)


class Samplers(NamedTuple):
    """The chains of one seed.

    Attributes:
      programs: of all seeds.
      params: of the networks of this one, by their names.
    """

    programs: Programs
    params: dict[str, Params]

    def annealed(
        self, key: Array, x: Array, steps: int, *, keep: int = 1, known: Array | None = None
    ) -> Array:
        """Returns pictures ``(keep, n, d)`` along annealed chains from ``x``, with known pixels."""
        stays = jnp.zeros(x.shape[1:], bool) if known is None else known
        annealed = self.programs.annealed
        return annealed(self.params["annealed"], key, x, stays, steps=steps, keep=keep)

    def denoised(self, key: Array, x: Array) -> Array:
        """Returns reconstructions of pictures ``(n, d)`` with noise of the last annealed level."""
        return self.programs.denoised(self.params["annealed"], key, x)

    def chain(self, name: str, key: Array, x: Array, *, keep: int = 1) -> Array:
        """Returns pictures ``(keep, n, d)`` along the chain of a network from ``x``.

        Of the denoising chains, whose states are zeros and ones, they are the means of the next.
        """
        params, is_walk = self.params[name], name == "CAE"
        return self.programs.chain(params, key, x, is_walk=is_walk, keep=keep)


def samplers_of(found: Autoencoders) -> list[Samplers]:
    """Returns the chains of every seed."""
    programs, names = Programs(found), list(found.params)
    per_seed = zip(*found.params.values(), strict=True)
    return [Samplers(programs, dict(zip(names, own, strict=True))) for own in per_seed]


def upper_half(shape: tuple[int, ...]) -> Array:
    """Returns which pixels ``(d,)`` of pictures (height, width, channels) are the upper half."""
    rows = jnp.arange(shape[0])[:, None, None] < shape[0] // 2
    return jnp.broadcast_to(rows, shape).reshape(-1)
