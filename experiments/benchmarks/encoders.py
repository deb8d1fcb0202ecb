"""The contractive penalty of encoders of many kinds, value and gradient, beside full Jacobians.

    python -m experiments.benchmarks.encoders

For each encoder: ``jaxae.contractive_penalty``, and the full Jacobian of the whole batch by
``jax.vmap`` of ``jax.jacfwd`` and of ``jax.jacrev``, as far as it fits into memory. All must give
the same value and gradient first, then run in turn; a rival that takes several times as long as
the fastest runs once. Then the error of estimates is compared with matfree's, at equal time, if
matfree is installed. Each encoder is written to a file of its own as soon as it is done, and one
that is there is not measured again: a run that was stopped goes on. The result file is
``encoders-<device>.json``. Expected: nowhere below 0.9 times as fast as the better rival. What is
slowest, and what takes the most memory relative to the rival, is named below the table that is made
of the file.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print(
        "error: run python -m experiments.benchmarks.encoders in the repository root",
        file=sys.stderr,
    )
    sys.exit(2)

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import jaxae
from experiments.benchmarks import common, contraction, estimates
from experiments.benchmarks.side_by_side import (
    Contender,
    compiled,
    is_same_program,
    race,
    spread,
)
from experiments.common.run import command_line
from experiments.common.training.arrays import Params

# A full Jacobian that needs more temporary memory than this does not run.
MAX_BYTES = 6 * 2**30
# A rival whose first run takes so many times as long as the fastest has no turn in the rounds.
_MUCH_SLOWER = 3


class Convolutional(nn.Module):
    """Convolutions, each followed by a pooling or with strides, and a dense code unless it is 0."""

    code: int
    channels: tuple[int, ...] = (16, 32)
    pooling: str = "average"
    is_depthwise: bool = False

    @nn.compact
    def __call__(self, image: Array) -> Array:
        h, strides = image, (2, 2) if self.pooling == "strides" else (1, 1)
        for layer, channels in enumerate(self.channels):
            groups = h.shape[-1] if self.is_depthwise and layer > 0 else 1
            h = nn.relu(nn.Conv(channels, (3, 3), strides, feature_group_count=groups)(h))
            if self.pooling != "strides":
                pool = nn.avg_pool if self.pooling == "average" else nn.max_pool
                h = pool(h, (2, 2), (2, 2))
        h = h.reshape(-1)
        return nn.sigmoid(nn.Dense(self.code)(h)) if self.code else h


class Dense(nn.Module):
    """Dense layers with sigmoids; the last width is that of the code."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.widths:
            x = nn.sigmoid(nn.Dense(width)(x))
        return x


class Residual(nn.Module):
    """A dense layer, pre-norm residual blocks, and a dense code."""

    width: int
    blocks: int
    code: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.Dense(self.width)(x)
        for _ in range(self.blocks):
            branch = nn.gelu(nn.Dense(self.width)(nn.LayerNorm()(h)))
            h = h + nn.Dense(self.width)(branch)
        return nn.Dense(self.code)(h)


class Normalised(nn.Module):
    """Dense layers, each followed by a layer normalisation."""

    widths: tuple[int, ...]
    code: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.widths:
            x = nn.relu(nn.LayerNorm()(nn.Dense(width)(x)))
        return nn.Dense(self.code)(x)


class Gated(nn.Module):
    """Two gated linear units and a dense code."""

    width: int
    code: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(2):
            x = nn.glu(nn.Dense(2 * self.width)(x))
        return nn.Dense(self.code)(x)


class ResidualConvolutional(nn.Module):
    """A convolution, pre-norm residual blocks of two convolutions each, and a dense code."""

    channels: int
    blocks: int
    code: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        h = nn.Conv(self.channels, (3, 3))(image)
        for _ in range(self.blocks):
            branch = nn.Conv(self.channels, (3, 3))(nn.relu(nn.LayerNorm()(h)))
            h = h + nn.Conv(self.channels, (3, 3))(nn.relu(branch))
        return nn.Dense(self.code)(h.reshape(-1))


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels, transformer blocks, and a dense code."""

    width: int
    blocks: int
    code: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        tokens = nn.Conv(self.width, (4, 4), (4, 4))(image).reshape(-1, self.width)
        for _ in range(self.blocks):
            tokens = tokens + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(tokens))
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(tokens)))
            tokens = tokens + nn.Dense(self.width)(hidden)
        return nn.Dense(self.code)(tokens.reshape(-1))


class StridedAutoencoder(nn.Module):
    """The encoder of ``jaxae.ConvAutoencoder``."""

    shape: tuple[int, ...]
    code: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        return jaxae.ConvAutoencoder(self.shape, self.code).encode(image)


@dataclass(frozen=True)
class Case:
    """An encoder and a batch."""

    encoder: nn.Module
    shape: tuple[int, ...]
    """Of one example."""
    batch: int
    chunk_size: int | None = None


IMAGE, COLOUR, FEATURES = (28, 28, 1), (32, 32, 3), (28, 28, 16)
CASES = {
    # Convolutions and pooling.
    "average pooling, code 64": Case(Convolutional(64), IMAGE, 64),
    "average pooling, code 32, in chunks of 25": Case(Convolutional(32), IMAGE, 64, 25),
    "average pooling, code 32": Case(Convolutional(32), IMAGE, 8),
    "average pooling, code 64, one image": Case(Convolutional(64), IMAGE, 1),
    "max pooling, code 64": Case(Convolutional(64, pooling="max"), IMAGE, 64),
    "max pooling, code 256": Case(Convolutional(256, pooling="max"), IMAGE, 64),
    "max pooling, code 16": Case(Convolutional(16, (8, 16), "max"), IMAGE, 256),
    "max pooling, code 64, one image": Case(Convolutional(64, pooling="max"), IMAGE, 1),
    "max pooling 8x8, code 100": Case(Convolutional(100, (4, 8), "max"), (8, 8, 1), 128),
    # Strides, depthwise convolutions, many layers or many channels.
    "strides, code 128": Case(Convolutional(128, pooling="strides"), COLOUR, 32),
    "strides 8x8, code 16": Case(Convolutional(16, (4, 8), "strides"), (8, 8, 1), 512),
    "three strides, code 32": Case(Convolutional(32, (8, 16, 16), "strides"), IMAGE, 64),
    "four strides, code 64": Case(Convolutional(64, (8, 16, 32, 64), "strides"), COLOUR, 32),
    "wide strides, code 32": Case(Convolutional(32, (64, 128), "strides"), IMAGE, 8),
    "ConvAutoencoder, code 128": Case(StridedAutoencoder(COLOUR, 128), COLOUR, 128),
    "depthwise, code 64": Case(Convolutional(64, (16, 16), is_depthwise=True), IMAGE, 32),
    "depthwise strides, code 32": Case(Convolutional(32, (16, 32), "strides", True), IMAGE, 128),
    "convolutions alone": Case(Convolutional(0, (4, 4), "strides"), IMAGE, 16),
    # Skip connections, normalisation, attention and gates.
    "residual convolutions 14x14": Case(ResidualConvolutional(16, 3, 64), (14, 14, 1), 8),
    "residual convolutions 28x28x16": Case(ResidualConvolutional(16, 3, 64), FEATURES, 4),
    "784-256, 4 residual blocks, code 784": Case(Residual(256, 4, 784), (784,), 64),
    "784-256, 4 residual blocks, one example": Case(Residual(256, 4, 784), (784,), 1),
    "3072-512, 2 residual blocks, code 128": Case(Residual(512, 2, 128), (3072,), 64),
    "784-256, 4 residual blocks, code 32": Case(Residual(256, 4, 32), (784,), 64),
    "64-64, 2 residual blocks, code 256": Case(Residual(64, 2, 256), (64,), 128),
    "64-64, 2 residual blocks, code 32": Case(Residual(64, 2, 32), (64,), 512),
    "784-512-256, normalised, code 64": Case(Normalised((512, 256), 64), (784,), 128),
    "256-256-256, normalised, code 512": Case(Normalised((256, 256), 512), (256,), 64),
    "784-256-256, gated, code 64": Case(Gated(256, 64), (784,), 128),
    "256-256-256, gated, code 784": Case(Gated(256, 784), (256,), 64),
    "transformer, 49 tokens, code 64": Case(Transformer(64, 2, 64), IMAGE, 8),
    "transformer, 49 tokens, one image": Case(Transformer(64, 2, 64), IMAGE, 1),
    # Dense layers.
    "784-64": Case(Dense((64,)), (784,), 512),
    "784-512-256-64": Case(Dense((512, 256, 64)), (784,), 128),
    "784-512-256-64, one example": Case(Dense((512, 256, 64)), (784,), 1),
    "deep, 256 x 8, code 64": Case(Dense((256,) * 8 + (64,)), (256,), 128),
    "wide, 784-2000-32": Case(Dense((2000, 32)), (784,), 64),
    "narrow, 784-32-16-32-784": Case(Dense((32, 16, 32, 784)), (784,), 512),
}
QUICK = Case(Convolutional(5, (2, 3)), (8, 8, 1), 4, 2)


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""

    cases: tuple[str, ...] = ()
    """Names of the cases to run, by default all."""
    parts: command_line.Optional[Path] = None
    """Folder that keeps what is measured, so that a stopped run goes on; by default none."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        common.require_known(self.cases, CASES)


def make_encoder(case: Case) -> tuple[Callable[[Params, Array], Array], Params, Array]:
    """Returns the encoder of a case, its parameters and a batch."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(case.batch, *case.shape)), jnp.float32)
    params = case.encoder.init(jax.random.key(0), x[0])

    def encode(params: Params, x_i: Array) -> Array:
        return jnp.asarray(case.encoder.apply(params, x_i))

    return encode, params, x


def contenders_of(case: Case) -> dict[str, Contender]:
    """Returns the penalty, value and gradient, in every way that fits into memory."""
    encode, params, x = make_encoder(case)

    def ours(params: Params, x: Array) -> Array:
        return jaxae.contractive_penalty(
            partial(encode, params), x, chunk_size=case.chunk_size, example_ndim=x.ndim - 1
        )

    functions: dict[str, Callable[..., Array]] = {"jaxae": ours}
    for name in contraction.IN_JAX:
        jacobian = getattr(jax, name.split()[1])
        functions[name] = partial(contraction.full_jacobian, encode, jacobian)
    contenders = {
        name: compiled(partial(contraction.mean_and_gradient, f), params, x, times=1)
        for name, f in functions.items()
    }
    return {
        name: contender
        for name, contender in contenders.items()
        if name == "jaxae" or (contender.temporary_bytes or 0) <= MAX_BYTES
    }


def measure(name: str, case: Case, rounds: int) -> common.Results:
    """Returns times and memory of all contenders of a case, which must agree."""
    contenders = contenders_of(case)
    found, first_seconds = {}, {}
    for rival, contender in contenders.items():
        start = time.perf_counter()
        found[rival] = contender.call()
        first_seconds[rival] = time.perf_counter() - start
    for rival, (value, gradient) in found.items():
        contraction.require_same(f"{name}: the value of {rival}", value, found["jaxae"][0])
        # Together, because the gradient in the key bias of an attention is 0 but for rounding.
        mine, other = (ravel_pytree(tree)[0] for tree in (found["jaxae"][1], gradient))
        contraction.require_same(f"{name}: the gradient of {rival}", other, mine)
    raced = race_fast_ones(contenders, first_seconds, rounds)
    rivals = [rival for rival in contenders if rival != "jaxae"]
    better = min(rivals, key=lambda rival: raced[rival]["seconds"]["median"], default=None)
    encode, params, x = make_encoder(case)
    plan = jaxae.explain_contraction(
        partial(encode, params), x, chunk_size=case.chunk_size, example_ndim=x.ndim - 1
    )
    program = contenders["jaxae"].program
    return {
        "batch": case.batch,
        "formula": plan.formula,
        "contenders": raced,
        "better": better,
        "is_same_program": better is not None
        and is_same_program(contenders[better].program, program),
        "times_as_fast_as_the_better": better and 1 / _over(raced, better, "seconds"),
        "memory_over_that_of_the_better": better and _over(raced, better, "temporary_bytes"),
        "estimates": estimates.compare_estimates(encode, params, x, rounds),
    }


def _over(raced: common.Results, rival: str, what: str) -> float:
    """Returns the seconds or the memory of ``jaxae`` over those of a rival."""
    found = [raced[name][what] for name in ("jaxae", rival)]
    ours, other = (one["median"] if what == "seconds" else one for one in found)
    return float(ours / other)


def race_fast_ones(
    contenders: dict[str, Contender], first_seconds: dict[str, float], rounds: int
) -> common.Results:
    """Returns a race of all contenders but those of which the first run was much slower."""
    limit = _MUCH_SLOWER * min(first_seconds.values())
    is_raced = {name: name == "jaxae" or first_seconds[name] <= limit for name in contenders}
    raced = race({n: c for n, c in contenders.items() if is_raced[n]}, rounds)
    ours = raced["jaxae"]["seconds"]["median"]
    for name, contender in contenders.items():
        if not is_raced[name]:
            seconds = np.array([first_seconds[name]])
            raced[name] = {
                "seconds": spread(seconds),
                "times_the_first": spread(seconds / ours),
                "compile_seconds": contender.compile_seconds,
                "temporary_bytes": contender.temporary_bytes,
            }
    return raced


def measured_or_kept(name: str, case: Case, rounds: int, parts: Path | None) -> common.Results:
    """Returns the results of a case: those that are kept in a folder, or new ones to keep there."""
    if parts is None:
        return measure(name, case, rounds)
    path = parts / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    found = measure(name, case, rounds)
    parts.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    chosen = {name: case for name, case in CASES.items() if name in (config.cases or CASES)}
    if config.quick:
        chosen = {"quick": QUICK}
    found = {}
    with common.record("encoders", config.out) as record:
        for name, case in chosen.items():
            found[name] = measured_or_kept(name, case, config.rounds, config.parts)
            record.log(case=name)
            print(f"{name}: {contraction.summary(found[name])}; {summary(found[name])}")
            print(f"  {estimates.summary(found[name]['estimates'])}", flush=True)
        return common.write_results(record, "encoders", rounds=config.rounds, cases=found)


def summary(measured: common.Results) -> str:
    """Returns how a case compares with the better full Jacobian."""
    if measured["better"] is None:
        return "no full Jacobian fits into memory"
    if measured["is_same_program"]:
        return f"the same program as {measured['better']}"
    speed, memory = (
        measured[key] for key in ("times_as_fast_as_the_better", "memory_over_that_of_the_better")
    )
    return f"{speed:.2f} times as fast as {measured['better']}, {memory:.2f} of its memory"


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
