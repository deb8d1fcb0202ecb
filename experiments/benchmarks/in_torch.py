"""The contractive penalty by ``torch.func``, where PyTorch is installed; it is no dependency."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np


def version() -> str | None:
    """Returns the version of PyTorch, or None where there is none."""
    if find_spec("torch") is None:
        return None
    import torch

    return torch.__version__


def penalties(weights: list[np.ndarray], x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Returns functions that compute the mean penalty and its gradient, by kind of Jacobian.

    Args:
      weights: kernels ``(inputs, outputs)`` of a sigmoid network.
      x: a batch ``(n, inputs)``.
    """
    if find_spec("torch") is None:
        return {}
    import torch

    params = [torch.tensor(w, requires_grad=True) for w in weights]
    batch = torch.tensor(x)

    def encode(x_i: Any) -> Any:
        for weight in params:
            x_i = torch.sigmoid(x_i @ weight)
        return x_i

    def value_and_gradient(jacobian: Any) -> Any:
        jacobians = torch.func.vmap(jacobian(encode))(batch)
        value = jacobians.square().sum((1, 2)).mean()
        torch.autograd.grad(value, params)
        return value.detach()

    return {
        "torch jacfwd": lambda: value_and_gradient(torch.func.jacfwd),
        "torch jacrev": lambda: value_and_gradient(torch.func.jacrev),
    }
