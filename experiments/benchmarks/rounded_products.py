"""Runs an experiment with its products rounded as an accelerator rounds them, on a CPU.

    python -m experiments.benchmarks.rounded_products tf32 sparse --dataset digits

The first word says how the factors of every float32 product and convolution are rounded. ``tf32``
keeps ten bits of the mantissa, as a GPU does unless told otherwise; ``bfloat16`` keeps seven, as a
TPU does; ``float32`` rounds nothing. The sums are in float32. Products that ask for a higher
precision, as those of all reported numbers do, are left as they are. The rest is the command line
of the experiment.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.rounded_products"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

# JAX has no public way to a lowering rule that is registered already.
from jax._src.interpreters import mlir
from jax._src.lib.mlir.dialects import hlo

from experiments.common.run import command_line

MANTISSA_BITS = {"float32": 23, "tf32": 10, "bfloat16": 7}
EXPERIMENTS = (
    *("overcomplete_copy", "sparse", "denoising", "vector_field", "contractive", "dae_vs_cae"),
    "convolutional",
)
_EXPONENT_BITS = 8
_PRODUCTS = (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)
_DEFAULT = (None, jax.lax.Precision.DEFAULT)


@contextlib.contextmanager
def rounded_products(kind: str) -> Iterator[None]:
    """Rounds the factors of the products in all programs that are compiled in the block."""
    registered = mlir._platform_specific_lowerings["cpu"]
    kept = {product: registered[product] for product in _PRODUCTS}
    for product, entry in kept.items():
        rule = partial(_lower_rounded, entry.rule, MANTISSA_BITS[kind])
        mlir.register_lowering(product, rule, platform="cpu")
    try:
        yield
    finally:
        registered.update(kept)


def _lower_rounded(
    rule: Callable[..., Any], bits: int, context: Any, *factors: Any, **params: Any
) -> Any:
    """Lowers a product by its own rule, after the factors are rounded."""
    precision = params.get("precision")
    asked = precision if isinstance(precision, tuple) else (precision,)
    is_single = all(aval.dtype == np.float32 for aval in context.avals_in)
    if is_single and all(one in _DEFAULT for one in asked):
        factors = tuple(
            hlo.reduce_precision(factor, mlir.i32_attr(_EXPONENT_BITS), mlir.i32_attr(bits))
            for factor in factors
        )
    return rule(context, *factors, **params)


def main(words: Sequence[str]) -> int:
    """Returns the exit status of an experiment with rounded products."""
    if len(words) < 2 or words[0] not in MANTISSA_BITS or words[1] not in EXPERIMENTS:
        kinds, names = ", ".join(MANTISSA_BITS), ", ".join(EXPERIMENTS)
        print(f"error: give one of {kinds}, then one of {names}", file=sys.stderr)
        return 2
    kind, name, *options = words
    module = importlib.import_module(f"experiments.{name}")
    with rounded_products(kind):
        return command_line.run(module.main, module.Config, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
