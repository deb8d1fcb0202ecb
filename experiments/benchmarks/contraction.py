"""The contractive penalty, value and gradient, beside what a user would take instead.

    python -m experiments.benchmarks.contraction

For each encoder: ``jaxae.contractive_penalty``, the full Jacobian by ``jax.vmap`` of
``jax.jacfwd`` and ``jax.jacrev``, by ``torch.func`` where PyTorch is installed, and the closed
form written by hand where there is one; and a whole training step with and without the penalty.
All must give the same value and gradient first, then run in turn. About 10 minutes on two cores.
Expected: the table of docs/speed.md, which is made from ``results/contraction-<device>.json``.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.contraction"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.benchmarks import common, in_torch
from experiments.benchmarks.side_by_side import Contender, compiled, race, require_different
from experiments.common.run import command_line
from experiments.common.training.arrays import Params

if TYPE_CHECKING:
    import torch

    ArrayOrTensor: TypeAlias = Array | np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Config(common.Options):
    """Options of the benchmark."""

    rounds: int = 5
    """How often everything runs in turn; the table has medians."""
    cases: tuple[str, ...] = ()
    """Names of the cases to run, by default all."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        common.require_known(self.cases, CASES)


@dataclass(frozen=True)
class Case:
    """An encoder and a batch."""

    widths: tuple[int, ...]
    """Of a dense sigmoid network, input first; one width is that of a square image."""
    batch: int
    rivals: tuple[str, ...] = ("jax jacfwd", "jax jacrev", "torch jacfwd", "torch jacrev")
    is_step: bool = False
    """Whether whole training steps are compared."""

    @property
    def name(self) -> str:
        """How the table calls it."""
        if len(self.widths) == 1:
            return f"convolutional, {self.widths[0]}x{self.widths[0]}, batch {self.batch}"
        kind = "training step, " if self.is_step else ""
        return f"{kind}{'-'.join(map(str, self.widths))}, batch {self.batch}"


IN_JAX = ("jax jacfwd", "jax jacrev")
CASES = {
    "lecture": Case((784, 64), 128),
    "wide": Case((784, 1000), 128),
    "overcomplete": Case((784, 1568), 32),
    "deep": Case((784, 512, 256, 64), 128),
    "overcomplete-deep": Case((784, 1000, 1568), 16, IN_JAX),
    "convolutional": Case((28,), 32, IN_JAX),
    "large-batch": Case((784, 512, 256, 64), 4096, ()),
    "step": Case((784, 1000), 128, (), is_step=True),
}
QUICK = Case((20, 8), 4, IN_JAX)
WEIGHT = 0.1


def measure(case: Case, rounds: int) -> common.Results:
    """Returns times and memory of all contenders of a case, and what they agreed on."""
    if case.is_step:
        contenders = training_steps(case)
        require_same_step(contenders)
        return {"name": case.name, "contenders": race(contenders, rounds)}
    contenders = penalties(case)
    found = {name: contender.call() for name, contender in contenders.items()}
    values = {name: float(value) for name, (value, _) in found.items()}
    for name, (value, gradient) in found.items():
        require_same(f"{case.name}: the value of {name}", value, found["jaxae"][0])
        for mine, other in zip(
            jax.tree.leaves(found["jaxae"][1]), jax.tree.leaves(gradient), strict=True
        ):
            require_same(f"{case.name}: the gradient of {name}", other, mine)
    if set(IN_JAX) <= set(contenders):
        forward, reverse = (contenders[name].program for name in IN_JAX)
        require_different(forward, reverse, "jax jacrev")
    return {"name": case.name, "values": values, "contenders": race(contenders, rounds)}


def require_same(what: str, found: "ArrayOrTensor", expected: "ArrayOrTensor") -> None:
    """Raises RuntimeError if two arrays differ by more than a thousandth of the second's norm."""
    on_the_host = [np.asarray(a.cpu() if hasattr(a, "cpu") else a) for a in (found, expected)]
    distance = np.linalg.norm(np.subtract(*on_the_host))
    if not distance <= 1e-3 * np.linalg.norm(on_the_host[1]):
        raise RuntimeError(f"{what} is not that of jaxae: {on_the_host[0]}, {on_the_host[1]}")


def require_same_step(contenders: dict[str, Contender]) -> None:
    """Raises RuntimeError if the two steps with a penalty differ, or one has no penalty."""
    found = {name: contender.call() for name, contender in contenders.items()}
    for mine, other in zip(
        jax.tree.leaves(found["CAE"]), jax.tree.leaves(found["CAE, by hand"]), strict=True
    ):
        require_same("the step of CAE, by hand", other, mine)
    for name in ("CAE", "CAE, by hand"):
        require_different(contenders["AE"].program, contenders[name].program, name)


def penalties(case: Case) -> dict[str, Contender]:
    """Returns the penalty of a case, value and gradient, computed in every way."""
    encode, params, x = make_encoder(case)

    def ours(params: Params, x: Array) -> Array:
        return jaxae.contractive_penalty(partial(encode, params), x, example_ndim=x.ndim - 1)

    functions: dict[str, Callable[..., Array]] = {"jaxae": ours}
    if len(case.widths) == 2:
        functions["by hand"] = by_hand
    for rival in case.rivals:
        if rival in IN_JAX:
            functions[rival] = partial(full_jacobian, encode, getattr(jax, rival.split()[1]))
    contenders = {
        name: compiled(partial(mean_and_gradient, f), params, x) for name, f in functions.items()
    }
    if len(case.widths) > 1 and any(rival.startswith("torch") for rival in case.rivals):
        weights, device = [np.asarray(w) for w in params], common.torch_device()
        found = in_torch.penalties(weights, np.asarray(x), device)
        contenders |= {name: Contender(call) for name, call in found.items()}
    return contenders


def make_encoder(case: Case) -> tuple[Callable[[Params, Array], Array], Params, Array]:
    """Returns an encoder, its parameters and a batch."""
    rng = np.random.default_rng(0)
    if len(case.widths) == 1:
        shape = (*case.widths * 2, 1)
        init, conv_encode, _ = jaxae.as_functions(jaxae.ConvAutoencoder(shape, code_dim=32))
        x = jnp.asarray(rng.uniform(size=(case.batch, *shape)), jnp.float32)
        return conv_encode, init(jax.random.key(0)), x

    def encode(params: list[Array], x_i: Array) -> Array:
        for weights in params:
            x_i = jax.nn.sigmoid(x_i @ weights)
        return x_i

    pairs = zip(case.widths, case.widths[1:], strict=False)
    params = [jnp.asarray(rng.normal(size=p) / np.sqrt(p[0]), jnp.float32) for p in pairs]
    x = jnp.asarray(rng.uniform(size=(case.batch, case.widths[0])), jnp.float32)
    return encode, params, x


def mean_and_gradient(
    penalty: Callable[[Params, Array], Array],
) -> Callable[[Params, Array], tuple[Array, Params]]:
    """Returns the mean penalty of a batch and its gradient in the parameters."""
    return jax.value_and_grad(lambda params, x: jnp.mean(penalty(params, x)))


def full_jacobian(
    encode: Callable[[Params, Array], Array],
    jacobian: Callable[..., Callable[[Array], Array]],
    params: Params,
    x: Array,
) -> Array:
    """Returns the squared Frobenius norms of the Jacobians, written out by JAX."""
    squares = jnp.square(jax.vmap(jacobian(partial(encode, params)))(x))
    return jnp.sum(squares.reshape(len(x), -1), axis=1)


def by_hand(params: list[Array], x: Array) -> Array:
    """Returns the closed form of one sigmoid layer: sum_j (h_j (1 - h_j))^2 ||W_j||^2."""
    (weights,) = params
    code = jax.nn.sigmoid(x @ weights)
    return jnp.square(code * (1 - code)) @ jnp.sum(jnp.square(weights), axis=0)


def training_steps(case: Case) -> dict[str, Contender]:
    """Returns a step of Adam on an autoencoder without a penalty, with it, and with it by hand."""
    inputs, units = case.widths
    model = jaxae.DenseAutoencoder((inputs,), units, code_activation=jax.nn.sigmoid)
    init, encode, decode = jaxae.as_functions(model)
    params, optimizer = init(jax.random.key(0)), optax.adam(1e-3)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(case.batch, inputs)), jnp.float32)

    def functions(params: Params) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        return partial(encode, params), partial(decode, params)

    def plain(params: Params, key: Array, x: Array) -> Array:
        return jaxae.reconstruction_loss(*functions(params), x)

    def contractive(params: Params, key: Array, x: Array) -> Array:
        return jaxae.contractive_loss(*functions(params), x, weight=WEIGHT)

    def written(params: Params, key: Array, x: Array) -> Array:
        kernel = params["encoder_kernel_0"]
        code = jax.nn.sigmoid(x @ kernel + params["encoder_bias_0"][None])
        x_hat = code @ params["decoder_kernel_0"] + params["decoder_bias_0"][None]
        norms = jnp.sum(jnp.square(kernel), axis=0)
        penalty = jnp.square(code * (1 - code)) @ norms
        return jaxae.squared_error(x_hat, x) + WEIGHT * penalty

    losses = {"AE": plain, "CAE": contractive, "CAE, by hand": written}
    state, key = jaxae.create_train_state(params, optimizer), jax.random.key(1)
    return {
        name: compiled(partial(jaxae.make_train_step, loss, optimizer), state, key, x)
        for name, loss in losses.items()
    }


def main(config: Config) -> common.Results:
    """Runs the benchmark and returns what the result file holds."""
    chosen = {name: case for name, case in CASES.items() if name in (config.cases or CASES)}
    if config.quick:
        chosen = {"quick": QUICK}
    found = {}
    with common.record("contraction", config.out) as record:
        for name, case in chosen.items():
            found[name] = measure(case, 3 if config.quick else config.rounds)
            record.log(case=name)
            print(f"{case.name}: {summary(found[name])}", flush=True)
        return common.write_results(
            record, "contraction", rounds=config.rounds, torch=in_torch.version(), cases=found
        )


def summary(measured: common.Results) -> str:
    """Returns one line: the median time of every contender, in milliseconds."""
    return ", ".join(
        f"{name} {contender['seconds']['median'] * 1e3:.3g} ms"
        for name, contender in measured["contenders"].items()
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
