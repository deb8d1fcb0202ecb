"""What the objectives share: checked inputs, and the loss of a decoded code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxae import _checks
from jaxae._batching import one_example, over_batch
from jaxae._checks import AnyArray
from jaxae._checks.remedies import reshaping

Encode: TypeAlias = Callable[[Array], Array]
Decode: TypeAlias = Callable[[Array], Array]
Reconstruction: TypeAlias = Callable[[Array, Array], Array]


def inputs(
    encode: Encode,
    decode: Decode,
    reconstruction: Reconstruction,
    x: AnyArray,
    example_ndim: int,
    sample_code: Callable[[Array, Array], Array] | None = None,
) -> tuple[Array, int]:
    """Returns ``x`` and how many batch axes it has, after checking that the parts fit."""
    x = _checks.floating("x", x)
    batch = _checks.batch_shape("x", x, example_ndim)
    example = one_example(x, len(batch))
    if sample_code is None:
        code = _checks.code_shape(encode, example, x.shape)
    else:
        drawn_from = _checks.outputs("encode", encode, example, shape=x.shape)
        key = jax.eval_shape(lambda: jax.random.key(0))
        code = _checks.output_shape("sample_code", sample_code, key, drawn_from)
        if len(code.shape) != 1:
            raise ValueError(f"sample_code must draw one code (k,), but it gave {code.shape}")
    output = _checks.output_shape("decode", decode, code, shape=(*batch, *code.shape))
    try:
        loss = _checks.output_shape("reconstruction", reconstruction, output, example)
    except Exception as error:
        if output.shape == example.shape:
            raise
        raise ValueError(
            f"decode must return what reconstruction takes, here an example of shape "
            f"{example.shape}, but it gave {output.shape}{reshaping(output, example)}"
        ) from error
    if loss.size > max(output.size, example.size):  # (d, 1) and (d,) make (d, d)
        raise ValueError(
            f"reconstruction must compare entry with entry, but of {output.shape} and "
            f"{example.shape} it made {loss.shape}{reshaping(output, example)}"
        )
    if not isinstance(x, jax.core.Tracer) and x.size:
        _check_targets(reconstruction, output, x, example.shape)
    return x, len(batch)


def _check_targets(
    reconstruction: Reconstruction, output: PyTree, x: Array, example: tuple[int, ...]
) -> None:
    """Raises ValueError if ``reconstruction`` refuses the values of an example of ``x``.

    Under ``jax.vmap`` it could not see them. So it is traced, which computes nothing, with a
    target whose values it can see: all the smallest of ``x``, and all the largest.
    """

    def refusal(values: np.ndarray) -> ValueError | None:
        with jax.ensure_compile_time_eval():
            target = jnp.asarray(values)
        try:
            jax.eval_shape(lambda output: reconstruction(output, target), output)
        except ValueError as error:
            return error
        return None

    with jax.ensure_compile_time_eval():  # also where x is a constant of a traced function
        seen = _checks.visible(x)
        extremes = {float(seen.min()), float(seen.max())}
    if any(refusal(np.full(example, value, x.dtype)) for value in extremes):
        for i, x_i in enumerate(np.asarray(x).reshape(-1, *example)):
            if error := refusal(x_i):
                raise ValueError(f"{error} (in example {i})")


def reconstruct(
    encode: Callable[..., Array],
    decode: Decode,
    x_in: PyTree,
    x: Array,
    reconstruction: Reconstruction,
    batch_ndim: int,
) -> tuple[Array, Array]:
    """Returns the loss ``(*batch,)`` of decoding enc(x_in) against x, and the codes."""
    code = over_batch(encode, batch_ndim)(x_in)
    return decoded(decode, code, x, reconstruction, batch_ndim), code


def decoded(
    decode: Decode, code: Array, x: Array, reconstruction: Reconstruction, batch_ndim: int
) -> Array:
    """Returns the loss ``(*batch,)`` of codes decoded, against x."""

    def loss_of_code(code_i: Array, x_i: Array) -> Array:
        return jnp.sum(reconstruction(decode(code_i), x_i))

    return over_batch(loss_of_code, batch_ndim)(code, x)
