"""Training and the contractive penalty by PyTorch, where it is installed; it is no dependency.

JAX is not imported here.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from experiments.benchmarks.task import NOISE, PIXELS, RATE, Task

if TYPE_CHECKING:
    import torch

# What one process has compiled is not kept for the next one, as it is not for JAX. PyTorch reads
# this when it is imported.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"


@dataclass(frozen=True)
class Way:
    """A way of PyTorch to train."""

    is_compiled: bool = False
    mode: str | None = None
    """Of ``torch.compile``."""
    fused: bool = False
    """Whether Adam is one kernel."""


WAYS = {
    "torch eager": Way(),
    "torch eager, fused Adam": Way(fused=True),
    "torch compile": Way(is_compiled=True),
    "torch compile, fused Adam": Way(is_compiled=True, fused=True),
    "torch compile, CUDA graphs": Way(is_compiled=True, mode="reduce-overhead"),
    "torch compile, CUDA graphs, fused Adam": Way(True, "reduce-overhead", True),
}


def version() -> str | None:
    """Returns the version of PyTorch, or None where there is none."""
    if find_spec("torch") is None:
        return None
    import torch

    return torch.__version__


def ways(device: str) -> list[str]:
    """Returns the names of the ways to train on a device, none where there is no PyTorch."""
    if find_spec("torch") is None:
        return []
    return [name for name, way in WAYS.items() if way.mode is None or device == "cuda"]


def epochs(task: Task, name: str, device: str) -> Callable[[], float]:
    """Returns an epoch of PyTorch, as its tutorials write it."""
    import torch

    _use_jax_precision(device)
    way = WAYS[name]
    x = torch.tensor(task.x, device=device)
    encoder = torch.nn.Linear(PIXELS, task.case.code_dim)
    decoder = torch.nn.Linear(task.case.code_dim, PIXELS)
    with torch.no_grad():
        for layer, part in ((encoder, "encoder"), (decoder, "decoder")):
            layer.weight.copy_(torch.tensor(task.params[f"{part}_kernel_0"].T))
            layer.bias.copy_(torch.tensor(task.params[f"{part}_bias_0"]))
    encoder, decoder = encoder.to(device), decoder.to(device)
    params = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(params, RATE, fused=way.fused or None)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        noisy = (batch + NOISE * (2 * torch.rand_like(batch) - 1)).clamp(0, 1)
        return (torch.sigmoid(decoder(encoder(noisy))) - batch).square().sum(1).mean()

    if way.is_compiled:
        loss = torch.compile(loss, mode=way.mode)
    torch.manual_seed(0)

    def one_epoch() -> float:
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(x), device=device).split(task.case.batch):
            optimizer.zero_grad(set_to_none=True)
            value = loss(x[rows])
            value.backward()
            optimizer.step()
            total += value.detach() * len(rows)
        return float(total) / len(x)  # waits for the device

    return one_epoch


def _use_jax_precision(device: str) -> None:
    """Lets a GPU round the factors of products to TF32, as JAX does unless it is told otherwise."""
    import torch

    if device == "cuda":
        torch.set_float32_matmul_precision("high")


def penalties(
    weights: list[np.ndarray], x: np.ndarray, device: str = "cpu"
) -> dict[str, Callable[[], "tuple[torch.Tensor, list[torch.Tensor]]"]]:
    """Returns functions that compute the mean penalty and its gradient, by kind of Jacobian.

    Args:
      weights: kernels ``(inputs, outputs)`` of a sigmoid network.
      x: a batch ``(n, inputs)``.
      device: ``"cpu"`` or ``"cuda"``.
    """
    if find_spec("torch") is None:
        return {}
    import torch

    _use_jax_precision(device)
    params = [torch.tensor(w, device=device, requires_grad=True) for w in weights]
    batch = torch.tensor(x, device=device)

    def encode(x_i: torch.Tensor) -> torch.Tensor:
        for weight in params:
            x_i = torch.sigmoid(x_i @ weight)
        return x_i

    def value_and_gradient(
        jacobian: Callable[..., Callable[..., torch.Tensor]],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        jacobians = torch.func.vmap(jacobian(encode))(batch)
        value = jacobians.square().sum((1, 2)).mean()
        gradient = torch.autograd.grad(value, params)
        if device == "cuda":
            torch.cuda.synchronize()  # a call returns before the device is done
        return value.detach(), list(gradient)

    return {
        "torch jacfwd": partial(value_and_gradient, torch.func.jacfwd),
        "torch jacrev": partial(value_and_gradient, torch.func.jacrev),
    }
