"""Seconds of a training step of convolutional autoencoders, and of a whole published training.

    python -m experiments.benchmarks.convolutional

Two cases: the network of ``experiments.convolutional`` on images of MNIST's size, and the one of
the autoencoder tutorial (number 9) of the Amsterdam course on deep learning, with 64 latents on
images of CIFAR-10's size: its layers, its batches of 256, its loss and its optimiser. That training
has 87,500 steps: 500 epochs of 45,000 images, where the last batch, which is not full, is left out.
Its author prints 7 min 13 s for JAX 0.3.13 and 15 min 51 s for PyTorch 1.11, on an RTX 3090. Here
some steps are timed and the rest is multiplied.

Deviation: the images are random and lie on the device. The published times include reading the
images with PyTorch's loader, and a validation with pictures after every tenth epoch.

Reference: P. Lippe, UvA Deep Learning Tutorials, tutorial 9 (JAX), its table "Speed comparison" and
the cells of the network and the loss, read on 2026-11-28; epochs and optimiser are those of public
copies of its trainer. https://github.com/phlippe/uvadlc_notebooks,
docs/tutorial_notebooks/JAX/tutorial9/AE_CIFAR10.ipynb.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print(
        "error: run python -m experiments.benchmarks.convolutional in the repository root",
        file=sys.stderr,
    )
    sys.exit(2)

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike, PyTree

import jaxae
from experiments.benchmarks import common, side_by_side
from experiments.benchmarks.common import Results
from experiments.benchmarks.task import NOISE, RATE
from experiments.common.run import command_line
from experiments.common.training.arrays import Function, Params

IMAGE = 3  # axes of one example: height, width, channels
TUTORIAL_EPOCHS, TUTORIAL_STEPS = 500, 45_000 // 256
PUBLISHED_SECONDS = {"JAX": 433, "PyTorch": 951}  # on an RTX 3090, with 64 latents


class TutorialAutoencoder(nn.Module):
    """The network of the tutorial: images (32, 32, 3) with values from -1 to 1.

    Attributes:
      example_shape: height, width and channels; the sides are multiples of 8.
      code_dim: latents.
      width: channels of the first stage, twice as many in the other ones.
      param_dtype: dtype of the parameters.
    """

    example_shape: Sequence[int] = (32, 32, 3)
    code_dim: int = 64
    width: int = 32
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        narrow, wide = self.width, 2 * self.width
        height, breadth, depth = self.example_shape
        self.smallest = (height // 8, breadth // 8, wide)
        conv = partial(nn.Conv, kernel_size=(3, 3))
        up = partial(nn.ConvTranspose, kernel_size=(3, 3), strides=(2, 2))
        self.down = [
            conv(narrow, strides=(2, 2)),
            conv(narrow),
            conv(wide, strides=(2, 2)),
            conv(wide),
            conv(wide, strides=(2, 2)),
        ]
        self.to_code, self.from_code = nn.Dense(self.code_dim), nn.Dense(math.prod(self.smallest))
        self.up = [up(wide), conv(wide), up(narrow), conv(narrow)]
        self.to_image = up(depth)

    def encode(self, x_i: Array) -> Array:
        """Returns the code of one image."""
        h = x_i
        for layer in self.down:
            h = nn.gelu(layer(h))
        return self.to_code(h.reshape(-1))

    def decode(self, code: Array) -> Array:
        """Returns the image of one code."""
        h = nn.gelu(self.from_code(code)).reshape(self.smallest)
        for layer in self.up:
            h = nn.gelu(layer(h))
        return jnp.tanh(self.to_image(h))

    def __call__(self, x_i: Array) -> Array:
        """Returns decode(encode(x_i))."""
        return self.decode(self.encode(x_i))


def tutorial_optimizer() -> optax.GradientTransformation:
    """Returns Adam with the tutorial's warm-up, decay and clipping."""
    steps = TUTORIAL_EPOCHS * TUTORIAL_STEPS
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, steps, 1e-5)
    return optax.chain(optax.clip(1.0), optax.adam(rate))


def denoise(key: Array, encode: Function, decode: Function, x: Array) -> Array:
    """Returns the loss of the lecture's denoising autoencoder."""
    corrupt = partial(jaxae.uniform_noise, scale=NOISE, low=0.0, high=1.0)
    return jaxae.denoising_loss(key, encode, decode, x, corrupt=corrupt, example_ndim=IMAGE)


def reconstruct(key: Array, encode: Function, decode: Function, x: Array) -> Array:
    """Returns the squared error of the plain autoencoder."""
    return jaxae.reconstruction_loss(encode, decode, x, example_ndim=IMAGE)


@dataclass(frozen=True)
class Case:
    """A network and its training."""

    model: nn.Module
    """With methods ``encode`` and ``decode`` of one example."""
    shape: tuple[int, ...]
    """Of one image."""
    loss: Callable[[Array, Function, Function, Array], Array]
    optimizer: optax.GradientTransformation
    batch: int
    low: float
    """Smallest value of a pixel; the largest one is 1."""
    published_steps: int | None = None
    """Steps of the whole training that is published, if one is."""


def make_cases(*, quick: bool) -> Mapping[str, Case]:
    """Returns the cases by their names."""
    shape = (8, 8, 1) if quick else (28, 28, 1)
    channels = (4,) if quick else (8, 16, 16)
    own = jaxae.ConvAutoencoder(shape, 32, channels=channels, output_activation=nn.sigmoid)
    tutorial = TutorialAutoencoder((8, 8, 3), 4, 2) if quick else TutorialAutoencoder()
    return MappingProxyType(
        {
            "28 x 28, code 32, batch 64": Case(own, shape, denoise, optax.adam(RATE), 64, 0.0),
            "32 x 32 x 3, tutorial 9, 64 latents, batch 256": Case(
                tutorial,
                tuple(tutorial.example_shape),
                reconstruct,
                tutorial_optimizer(),
                batch=8 if quick else 256,
                low=-1.0,
                published_steps=TUTORIAL_EPOCHS * TUTORIAL_STEPS,
            ),
        }
    )


CASES = tuple(make_cases(quick=True))


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""

    cases: tuple[str, ...] = ()
    """Names of the cases to run, by default all."""
    steps: command_line.Optional[int] = None
    """Steps of a run that is timed; by default 100, on a CPU 4."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--steps", self.steps, low=1, high=10**5)
        common.require_known(self.cases, CASES)


class Steps:
    """Trains some more steps at each call, in one program, and returns their mean loss."""

    def __init__(self, case: Case, steps: int) -> None:
        model = case.model

        def loss(params: Params, key: Array, x: Array) -> Array:
            encode, decode = (
                cast(Function, partial(model.apply, {"params": params}, method=method))
                for method in ("encode", "decode")
            )
            return case.loss(key, encode, decode, x)

        self._run = jaxae.make_run(loss, case.optimizer, batch_size=case.batch)
        params = jax.jit(model.init)(jax.random.key(0), jnp.zeros(case.shape))["params"]
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self._state = jaxae.create_train_state(params, case.optimizer)
        shape = (case.batch * steps, *case.shape)
        self._x = jax.random.uniform(jax.random.key(1), shape, minval=case.low)
        self._key, self._epoch = jaxae.hash_key(jax.random.key(2)), 0
        self._program = self._run.program(*self._arguments())

    def _arguments(self) -> tuple[PyTree, ...]:
        return self._run.arguments(self._state, self._key, self._x, epoch=self._epoch)

    def __call__(self) -> float:
        self._state, _, losses = self._program(*self._arguments())
        self._epoch += 1
        return float(losses[0])


def measure(case: Case, steps: int, rounds: int) -> Results:
    """Returns seconds of a step, and of the published training."""
    train = Steps(case, steps)
    timed = side_by_side.race({"jaxae": side_by_side.Contender(train)}, rounds)["jaxae"]["seconds"]
    per_step = {name: seconds / steps for name, seconds in timed.items()}
    found: Results = {"parameters": train.parameters, "steps": steps, "seconds_per_step": per_step}
    if case.published_steps is not None:
        found["published_steps"] = case.published_steps
        found["published_seconds"] = PUBLISHED_SECONDS
        found["seconds_of_all_steps"] = {
            name: seconds * case.published_steps for name, seconds in per_step.items()
        }
    return found


def main(config: Config) -> Results:
    """Runs the benchmark and returns what the result file holds."""
    default = 4 if jax.default_backend() == "cpu" else 100
    steps, rounds = (2, 1) if config.quick else (config.steps or default, config.rounds)
    cases = make_cases(quick=config.quick)
    with common.record("convolutional", config.out) as record:
        found = {}
        for name in config.cases or CASES:
            found[name] = measure(cases[name], steps, rounds)
            seconds = found[name]["seconds_per_step"]["median"]
            print(f"{name}: {1000 * seconds:.3g} ms a step", flush=True)
        return common.write_results(record, "convolutional", rounds=rounds, cases=found)


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
