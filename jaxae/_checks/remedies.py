"""What to do about a function that ONE example does not fit: the remedies are tried.

The commonest mistake is an example of another shape than ``encode`` wants. The function is traced
(not run) on the example that each remedy would give it, and the first one that works is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import jax
from flax.errors import ScopeParamShapeError
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

# One example or one code, or only its shape and dtype.
Example: TypeAlias = Array | jax.ShapeDtypeStruct

_ABOUT_SHAPES = re.compile(
    r"shape|ndim|dimension|\b(rank|axis|axes)\b|broadcast|unpack|subscript|indices|out of range"
)
_MOST_AXES = 4  # of one example that are tried
_UNBATCHED = "it takes a batch: take the jax.vmap away, or pass lambda v: {}(v[None])[0]"
_FLATTEN = "flatten the examples, with x.reshape("
_IMAGES = "example_ndim=3"


def is_about_shapes(error: Exception) -> bool:
    """Returns whether an error that was raised in a user's function is about shapes."""
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError):
        return False  # about tracing: their texts name shapes too
    kinds = TypeError | ValueError | IndexError | ScopeParamShapeError
    return isinstance(error, kinds) and bool(_ABOUT_SHAPES.search(str(error)))


class _Remedy(NamedTuple):
    """One way to call a function otherwise: what to tell the user, and what it would then get."""

    text: str
    shape: tuple[int, ...]
    takes_batch: bool


def for_example(
    function: Callable[..., PyTree], example: Example, shape: tuple[int, ...] | None
) -> str | None:
    """Returns the remedy under which ``encode`` maps one example to one code, or None.

    Args:
      function: the encoder, that fails on ``example`` or returns something else than one code.
      example: shape and dtype of the example.
      shape: of the whole of ``x``, where it is known.
    """
    for remedy in _remedies(tuple(example.shape), shape):
        code = _output_shape(function, remedy.shape, example.dtype)
        if code is not None and code[:-1] == ((1,) if remedy.takes_batch else ()) and code:
            return remedy.text.format("encode")
    return None


def _output_shape(
    function: Callable[..., PyTree], shape: tuple[int, ...], dtype: DTypeLike
) -> tuple[int, ...] | None:
    """Returns the shape of what a function returns for that input, or None if it fails."""
    try:
        out = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, dtype))
    except Exception:  # whatever a user's function raises
        return None
    return getattr(out, "shape", None)


def _remedies(example: tuple[int, ...], shape: tuple[int, ...] | None) -> Iterator[_Remedy]:
    """Yields what may be meant, the smallest change first."""
    yield _Remedy(_UNBATCHED, (1, *example), True)
    whole = example if shape is None else shape
    sizes = range(1, min(len(whole), _MOST_AXES) + 1)
    others = {ndim: whole[-ndim:] for ndim in sizes}
    for ndim, other in others.items():
        if ndim != len(example):
            yield _Remedy(f"pass example_ndim={ndim}", other, False)
    flattened = {ndim: (*whole[:-ndim], math.prod(other)) for ndim, other in others.items()}
    also = " and example_ndim=1" if len(example) > 1 else ""
    for flat in flattened.values():
        yield _Remedy(f"{_FLATTEN}{flat}){also}", flat[-1:], False)
    yield from _with_channels(others)
    for ndim, other in others.items():
        if ndim != len(example):
            yield _Remedy(f"pass example_ndim={ndim}; {_UNBATCHED}", (1, *other), True)
    for flat in flattened.values():
        yield _Remedy(f"{_FLATTEN}{flat}){also}; {_UNBATCHED}", (1, *flat[-1:]), True)


def _with_channels(others: dict[int, tuple[int, ...]]) -> Iterator[_Remedy]:
    """Yields what images lack: an axis of channels, or that axis in its other place."""
    if 3 in others:
        a, b, c = others[3]
        yield _Remedy(f"pass jnp.moveaxis(x, -3, -1) with {_IMAGES}", (b, c, a), False)
        yield _Remedy(f"pass jnp.moveaxis(x, -1, -3) with {_IMAGES}", (c, a, b), False)
    if 2 in others:
        height, width = others[2]
        yield _Remedy(f"pass x[..., None] with {_IMAGES}", (height, width, 1), False)
        yield _Remedy(f"pass x[..., None, :, :] with {_IMAGES}", (1, height, width), False)


def of_failure(
    name: str, function: Callable[..., PyTree], example: Example, shape: tuple[int, ...] | None
) -> str:
    """Returns what to do about a function that one example does not fit."""
    if name == "encode":
        whole = "" if shape is None else f" (x has the shape {shape})"
        general = f"pass examples of the shape that it wants, or another example_ndim{whole}"
        return for_example(function, example, shape) or general
    if name == "decode":
        output = _output_shape(function, (1, *example.shape), example.dtype)
        if output is not None and output[:1] == (1,):
            return _UNBATCHED.format("decode")
        return "it must take what encode returns for one example"
    return "it is called for one example by itself: take a jax.vmap away, or set example_ndim"


def of_code(
    encode: Callable[[Array], Array], code: Example, example: Example, shape: tuple[int, ...] | None
) -> str:
    """Returns what to do about an encoder whose code has not one axis."""
    if code.shape == ():
        return "give a single number an axis, with lambda v: encode(v)[None]"
    if len(code.shape) == 2 and code.shape[0] == 1:
        return "take the axis of the batch off, with lambda v: encode(v)[0]"
    flat = "flatten it, with lambda v: encode(v).reshape(-1)"
    found = for_example(encode, example, shape)
    return f"{flat}, or {found}" if found else f"{flat}, or set example_ndim"


def reshaping(output: Example, example: Example) -> str:
    """Returns what to do about a decoder whose output is an example in another shape."""
    if math.prod(output.shape) != math.prod(example.shape) or output.shape == example.shape:
        return ""
    return f"; reshape it, with lambda code: decode(code).reshape({example.shape})"
