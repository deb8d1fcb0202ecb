"""Compares this device with the CPU: random bits must be equal, other numbers have an error.

    python -m experiments.benchmarks.agreement

The generator, the shuffle and the corruption masks must have the bits of the CPU; a run must come
to the same bits when it is repeated, and when it stops after two epochs and goes on. Losses,
penalties and their gradients are compared with float64 on the CPU: with the precision of products
that JAX takes on this device (on NVIDIA GPUs TF32, ten bits of mantissa), and with the highest.
About a minute. Expected: errors near 1e-6 with the highest precision, and near 1e-3 with TF32, in
``results/agreement-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.agreement"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from collections.abc import Callable, Collection
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import jaxae
from experiments.benchmarks import common
from experiments.common.run import command_line
from experiments.common.training.arrays import Params
from jaxae.corruption import Corruption

Config = common.Options

PRECISIONS = {"default": None, "highest": "highest"}
# Of the norm of the float64 result. With TF32 a product rounds each factor to 2**-11.
MOST_HIGHEST, MOST_DEFAULT = 1e-4, 2e-2
EXAMPLES, BATCH = 512, 64
Loss: TypeAlias = Callable[[Params, Array], Array]  # one value for each example


def on_the_cpu(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """Returns the arrays that a function comes to on the CPU, whatever device JAX prefers."""
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu):
        arguments = jax.tree.map(lambda leaf: jax.device_put(leaf, cpu), arguments)
        return jax.block_until_ready(jax.jit(function)(*arguments))


def random_bits() -> dict[str, Callable[[], Array]]:
    """Returns functions whose results have the same bits on every device."""

    def bits(make_key: Callable[[Array], Array]) -> Array:
        return jax.random.bits(make_key(jax.random.key(3)), (4096,))

    def order() -> Array:
        return jaxae.shuffled_order(jax.random.key(4), 60_000)

    def noise(corrupt: Corruption) -> Array:
        return corrupt(jaxae.hash_key(jax.random.key(3)), jnp.full((64, 28, 28), 0.5))

    noises: dict[str, Corruption] = {
        "masking noise": partial(jaxae.masking_noise, rate=0.3),
        "salt and pepper noise": partial(jaxae.salt_and_pepper_noise, rate=0.3),
        "uniform noise": partial(jaxae.uniform_noise, scale=0.5),
    }
    return {
        "bits of the generator": partial(bits, jaxae.hash_key),
        "bits of JAX's own generator": partial(bits, jnp.asarray),
        "order of an epoch": order,
        **{name: partial(noise, corrupt) for name, corrupt in noises.items()},
    }


def same_bits() -> dict[str, bool]:
    """Returns, for each function of random bits, whether this device and the CPU agree."""
    return {
        name: bool(np.array_equal(jax.jit(function)(), on_the_cpu(function)))
        for name, function in random_bits().items()
    }


def make_data() -> np.ndarray:
    """Returns images ``(n, 8, 8, 1)`` between 0 and 1, with something to learn."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(size=(8, 8, 8, 1))
    return patterns[rng.integers(0, 8, EXAMPLES)] * rng.uniform(0.7, 1, (EXAMPLES, 1, 1, 1))


MODELS: dict[str, jaxae.DenseAutoencoder | jaxae.ConvAutoencoder] = {
    "dense": jaxae.DenseAutoencoder((8, 8, 1), 32, (64,), code_activation=jax.nn.sigmoid),
    "convolutional": jaxae.ConvAutoencoder((8, 8, 1), code_dim=16),
}


def losses(kinds: Collection[str]) -> dict[str, tuple[Loss, Params, np.ndarray]]:
    """Returns losses of ``(params, x)``, one value an example, with parameters and data."""
    images = make_data()[:BATCH]
    found: dict[str, tuple[Loss, Params, np.ndarray]] = {}
    for kind in kinds:
        init, encode, decode = jaxae.as_functions(MODELS[kind])
        for name, loss in _kinds(encode, decode).items():
            found[f"{name}, {kind}"] = (loss, init(jax.random.key(1)), images)
    return found


def _kinds(
    encode: Callable[[Params, Array], Array], decode: Callable[[Params, Array], Array]
) -> dict[str, Loss]:
    def of_autoencoder(function: Callable[..., Array], params: Params, x: Array) -> Array:
        return function(partial(encode, params), partial(decode, params), x, example_ndim=3)

    def contractive_penalty(params: Params, x: Array) -> Array:
        return jaxae.contractive_penalty(partial(encode, params), x, example_ndim=3)

    sparse = partial(jaxae.sparse_loss, weight=0.1)
    whole = jaxae.reconstruction_contractive_penalty
    return {
        "reconstruction": partial(of_autoencoder, jaxae.reconstruction_loss),
        "sparse": partial(of_autoencoder, sparse),
        "contractive penalty": contractive_penalty,
        "penalty of the reconstruction": partial(of_autoencoder, whole),
    }


def errors(kinds: Collection[str]) -> dict[str, dict[str, float]]:
    """Returns the relative errors of each loss and of its gradient, by precision of products."""
    found = {}
    for name, (loss, params, x) in losses(kinds).items():
        wanted = _in_float64(loss, params, x)
        row = {}
        for precision, setting in PRECISIONS.items():
            with jax.default_matmul_precision(setting):
                got = jax.jit(_value_and_gradient(loss))(params, jnp.asarray(x, jnp.float32))
            for part, mine, true in zip(("value", "gradient"), got, wanted, strict=True):
                row[f"{part}, {precision}"] = relative_error(mine, true)
        found[name] = row
    return found


def _value_and_gradient(loss: Loss) -> Callable[[Params, Array], tuple[Array, Params]]:
    def both(params: Params, x: Array) -> tuple[Array, Params]:
        gradient = jax.grad(lambda params: jnp.mean(loss(params, x)))(params)
        return loss(params, x), gradient

    return both


def _in_float64(loss: Loss, params: Params, x: np.ndarray) -> tuple[np.ndarray, Params]:
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        return jax.tree.map(np.asarray, on_the_cpu(_value_and_gradient(loss), wide, x))


def relative_error(found: PyTree, wanted: PyTree) -> float:
    """Returns the norm of the difference of two pytrees over the norm of the second."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    wide = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    distance = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in wide))
    return float(distance / np.sqrt(sum(np.sum(b**2) for _, b in wide)))


def repeats() -> dict[str, bool]:
    """Returns whether a run comes to the same bits again, and after it stopped in the middle."""
    model = jaxae.DenseAutoencoder((8, 8, 1), 32, output_activation=jax.nn.sigmoid)
    init, encode, decode = jaxae.as_functions(model)
    corrupt = partial(jaxae.uniform_noise, scale=0.5, low=0.0, high=1.0)

    def loss(params: Params, key: Array, x: Array) -> Array:
        functions = partial(encode, params), partial(decode, params)
        return jaxae.denoising_loss(key, *functions, x, corrupt=corrupt, example_ndim=3)

    optimizer = optax.adam(1e-3)
    run = jaxae.make_run(loss, optimizer, batch_size=BATCH)
    start = jaxae.create_train_state(init(jax.random.key(0)), optimizer)
    key, x = jaxae.hash_key(jax.random.key(1)), jnp.asarray(make_data(), jnp.float32)
    train = partial(jaxae.fit, run, key=key, x=x)
    whole = train(start, epochs=3).params
    stopped = train(train(start, epochs=2), epochs=1, first_epoch=2).params
    return {
        "repeated": _are_equal(whole, train(start, epochs=3).params),
        "stopped after two of three epochs": _are_equal(whole, stopped),
    }


def _are_equal(a: PyTree, b: PyTree) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def require_agreement(found: common.Results) -> None:
    """Raises RuntimeError if bits differ, or an error is larger than its precision allows."""
    for name, is_same in {**found["same_bits"], **found["same_run"]}.items():
        if not is_same:
            raise RuntimeError(f"{name}: other bits")
    for name, row in found["relative_errors"].items():
        for part, error in row.items():
            most = MOST_HIGHEST if part.endswith("highest") else MOST_DEFAULT
            if not error <= most:
                raise RuntimeError(f"{name}: the {part} is wrong by {error:.2g}, over {most}")


def main(config: Config) -> common.Results:
    """Runs the comparison and returns what the result file holds."""
    with common.record("agreement", config.out) as record:
        found: common.Results = {
            "same_bits": same_bits(),
            "same_run": repeats(),
            "relative_errors": errors(["dense"] if config.quick else MODELS),
        }
        for row, values in found["relative_errors"].items():
            print(row, ", ".join(f"{part} {value:.1e}" for part, value in values.items()))
        results = common.write_results(record, "agreement", **found)
        record.publish()
        require_agreement(found)
    return results


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
