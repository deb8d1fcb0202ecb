"""Argument checks with one wording: which argument, which value, what is allowed.

Shapes, dtypes and Python numbers are checked at trace time, so under ``jax.jit`` a
check costs nothing at run time. Values of arrays (finite, inside a range) can be
seen only when the array is concrete. A traced value outside its range becomes NaN, by a
``where`` that XLA fuses with what reads the value, so that a loss of it is NaN too.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, PyTree

from jaxae._checks import advice, batch_layers, remedies

# What a public function takes for an array.
AnyArray: TypeAlias = Array | np.ndarray


def is_traced(value: object) -> bool:
    """Returns whether a value is one of a trace, whose numbers are not known."""
    return isinstance(value, jax.core.Tracer)


def _holds(condition: Callable[[Any], Any], x: Array) -> int:
    """Returns how many entries of a concrete array meet ``condition``."""
    with jax.ensure_compile_time_eval():
        return int(condition(visible(x)).sum())


def visible(x: Array) -> Array | np.ndarray:
    """Returns a concrete array as one that can be looked at: NumPy's, where all of it is here.

    NumPy compiles nothing, and on a CPU nothing is copied.
    """
    return np.asarray(x) if x.is_fully_addressable else x


def floating(
    name: str,
    x: object,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Array:
    """Returns ``x`` as an array that is floating, finite, in [low, high] and > above."""
    given = _check_array(name, x)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, but its dtype is {given.dtype}; "
            f"{advice.floating_conversion(name, given.dtype)}"
        )
    x = _on_device(given)
    if is_traced(x):
        return _nan_outside(x, low, high, above)
    if bad := _holds(lambda v: ~(abs(v) < np.inf), x):
        raise ValueError(
            f"{name} must be finite, but {bad} of its {x.size} values are NaN or infinite"
        )
    if low is not None and (bad := _holds(lambda v: v < low, x)):
        raise ValueError(f"{name} must be at least {low:g}, but {bad} of its values are below")
    if high is not None and (bad := _holds(lambda v: v > high, x)):
        raise ValueError(f"{name} must be at most {high:g}, but {bad} of its values are above")
    if above is not None and (bad := _holds(lambda v: v <= above, x)):
        raise ValueError(f"{name} must be above {above:g}, but {bad} of its values are not")
    return x


def array(name: str, x: object) -> Array:
    """Returns an array of NumPy or JAX as one of JAX, whatever its order of bytes."""
    given = _check_array(name, x)
    if given.dtype == object:
        raise TypeError(
            f"{name} must be an array of numbers, but its dtype is object; "
            f"{advice.floating_conversion(name, given.dtype)}"
        )
    return _on_device(given)


def _check_array(name: str, x: object) -> AnyArray | np.generic:
    """Returns ``x``, if it is an array of JAX or NumPy without a mask."""
    unmasked(name, x)
    if not isinstance(x, jax.Array | np.ndarray | np.generic):
        raise TypeError(
            f"{name} must be an array, but it is {advice.shown(x)}; {advice.conversion(name, x)}"
        )
    return x


def _on_device(x: AnyArray | np.generic) -> Array:
    """Returns an array of NumPy as one of JAX, which knows one order of bytes and 64 bits."""
    if isinstance(x, np.ndarray | np.generic):
        x = np.asarray(x)  # without the mask of a subclass, where nothing is masked
        x = x.astype(native_dtype(x.dtype), copy=False)
    with jax.ensure_compile_time_eval():  # a NumPy array is no tracer inside jax.jit either
        return jnp.asarray(x)


def native_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns a dtype in the byte order of this machine, long doubles as doubles."""
    if jnp.issubdtype(dtype, np.number) and dtype in (np.longdouble, np.clongdouble):
        return np.dtype(np.float64 if dtype == np.longdouble else np.complex128)
    return np.dtype(dtype).newbyteorder("=")


def unmasked(name: str, value: object) -> None:
    """Checks that no entries are masked, as NumPy's masked arrays can have: they are no data."""
    if np.ma.is_masked(value):
        raise TypeError(
            f"{name} must be an array without masked entries, because a mask is lost; fill them "
            "with .filled(0.0), and pass the mask to the loss as a second array, (x, mask)"
        )


def number(
    name: str,
    value: object,
    dtype: DTypeLike = jnp.float32,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    strict: bool = False,
) -> Array:
    """Returns ``value``, a real scalar, in ``dtype``.

    It must lie in [low, high], or in (low, high) if ``strict``, also after rounding.
    """
    floor, ceiling = ("above", "below") if strict else ("of at least", "at most")
    limits = [f"{floor} {low:g}"] if low != -np.inf else []
    limits += [f"{ceiling} {high:g}"] if high != np.inf else []
    allowed = " ".join(["a finite number", " and ".join(limits)]).rstrip()
    unmasked(name, value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        is_real = jnp.issubdtype(value.dtype, jnp.floating) | jnp.issubdtype(
            value.dtype, jnp.integer
        )
        if value.shape != () or not is_real:
            raise TypeError(
                f"{name} must be {allowed}, but it is an array of shape {value.shape} "
                f"and dtype {value.dtype}"
            )
        if is_traced(value):
            value = jnp.asarray(value, dtype)
            bounds = [None if np.isinf(bound) else bound for bound in (low, high)]
            return _nan_outside(value, *([None, None] if strict else []), *bounds)
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, but it is {advice.shown(value)}")
    with np.errstate(over="ignore"):
        rounded = float(np.asarray(value, np.float64).astype(dtype))
    inside = low < rounded < high if strict else low <= rounded <= high
    if not (inside and np.isfinite(rounded)):
        raise ValueError(f"{name} must be {allowed}, but it is {value}")
    return jnp.asarray(value, dtype)


def _nan_outside(
    x: Array,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Array:
    """Returns a traced ``x`` with NaN for the entries outside [low, high] or (above, below)."""
    # Added, not selected: the gradient of an entry is that of x, at no cost in the backward pass.
    return x + nan_flags(x, low, high, above, below) if {low, high, above, below} != {None} else x


def nan_flags(
    x: Array,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Array:
    """Returns NaN for the entries outside [low, high] or (above, below), and 0 for the others."""
    checks = (low, jnp.greater_equal), (high, jnp.less_equal), (above, jnp.greater)
    inside = [check(x, bound) for bound, check in (*checks, (below, jnp.less)) if bound is not None]
    is_inside = functools.reduce(jnp.logical_and, inside)
    return jax.lax.stop_gradient(jnp.where(is_inside, jnp.zeros_like(x), jnp.nan))


def ordered(low: Any, high: Any) -> None:
    """Checks that ``low`` is at most ``high``, where both are given and known."""
    is_known = not any(value is None or is_traced(value) for value in (low, high))
    if is_known and float(low) > float(high):
        raise ValueError(f"low must be at most high, but low={low} and high={high}")


def wide(*dtypes: DTypeLike) -> DTypeLike:
    """Returns the widest of ``dtypes``, or float32 if all are narrower: for draws and sums."""
    return max((*dtypes, jnp.float32), key=lambda dtype: jnp.finfo(dtype).bits)


def widen(x: Array) -> Array:
    """Returns ``x`` in float32 if its dtype is narrower: squares of half precision overflow."""
    return x.astype(wide(x.dtype))


def integer(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """Returns ``value``, a static integer in [low, high], as ``int``."""
    allowed = f"an integer of at least {low}" + ("" if high is None else f" and at most {high}")
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)  # type: ignore[arg-type]
    except (TypeError, jax.errors.TracerIntegerConversionError):
        raise TypeError(f"{name} must be {allowed}, but it is {advice.shown(value)}") from None
    if result < low or (high is not None and result > high):
        raise ValueError(f"{name} must be {allowed}, but it is {result}")
    return result


def choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Checks that ``value`` is one of the ``allowed`` words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(allowed)}, but it is {advice.shown(value)}"
        )


def callable_(name: str, value: object) -> None:
    """Checks that ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, but it is {advice.shown(value)}")


def prng_key(name: str, key: object) -> None:
    """Checks that ``key`` is ONE random key: typed, or two or four raw uint32 words."""
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return
        if key.dtype == jnp.uint32 and key.shape in ((2,), (4,)):
            return
        raise TypeError(
            f"{name} must be one PRNG key such as jax.random.key(0), "
            f"but it is an array of shape {key.shape} and dtype {key.dtype}"
        )
    raise TypeError(
        f"{name} must be one PRNG key such as jax.random.key(0), but it is {advice.shown(key)}"
    )


def same_shape(name: str, a: Array, other: str, b: Array) -> None:
    """Checks that two arrays have one shape; nothing is broadcast silently."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name} and {other} must have the same shape, "
            f"but {name} has {a.shape} and {other} has {b.shape}"
        )


def batch_shape(name: str, x: Array, example_ndim: int) -> tuple[int, ...]:
    """Returns the leading shape of ``x`` that is left of one example's axes."""
    integer("example_ndim", example_ndim, low=1)
    if x.ndim < example_ndim:
        raise ValueError(
            f"{name} must have at least example_ndim={example_ndim} axes, "
            f"but its shape is {x.shape}"
        )
    return x.shape[: x.ndim - example_ndim]


def pair(
    name: str,
    output: object,
    x: object,
    example_ndim: int,
    *,
    low: float | None = None,
    high: float | None = None,
) -> tuple[Array, Array, tuple[int, ...]]:
    """Returns two arrays of one shape, and the axes of ``x`` that are features."""
    output = floating(name, output)
    x = floating("x", x, low=low, high=high)
    same_shape(name, output, "x", x)
    batch = batch_shape("x", x, example_ndim)
    return output, x, tuple(range(len(batch), x.ndim))


def codes(
    code: object, *, name: str = "code", low: float | None = None, high: float | None = None
) -> Array:
    """Returns codes, or what else has an axis of units, ``(*batch, k)``."""
    code = floating(name, code, low=low, high=high)
    if code.ndim == 0:
        raise ValueError(f"{name} must have a last axis of units, but it is a scalar")
    return code


def one_per_unit(name: str, values: AnyArray, code: Array) -> None:
    """Checks that there is one value for each unit of a code."""
    if values.shape != code.shape[-1:]:
        raise ValueError(
            f"{name} must have one entry for each of {code.shape[-1]} units, "
            f"but its shape is {values.shape}"
        )


def same_batch(name: str, x: Array, other: str, code: Array) -> None:
    """Checks that ``x`` has the batch axes of a code ``(*batch, k)``, called ``other``."""
    if x.ndim < code.ndim - 1 or x.shape[: code.ndim - 1] != code.shape[:-1]:
        raise ValueError(
            f"{name} must have the batch axes {code.shape[:-1]} of {other}, "
            f"but its shape is {x.shape}"
        )


def decoded_example(
    decode: Callable[[Array], Array],
    code: Array,
    one_code: remedies.Example,
    example: remedies.Example,
) -> None:
    """Checks that ``decode`` makes an example of this shape from one code."""
    output = output_shape("decode", decode, one_code, shape=code.shape)
    if output.shape != example.shape:
        raise ValueError(
            f"decode must return an example of shape {example.shape}, but it gave {output.shape}"
        )


def loss_values(values: ArrayLike, x: PyTree) -> ArrayLike:
    """Returns the losses of a batch if there is one for each example, or one for all.

    An array of more axes would be hidden by its mean.
    """
    examples = jax.tree.leaves(x)[0].shape[:1]
    if jnp.shape(values) not in ((), examples):
        raise ValueError(
            f"loss must return one value per example {examples} or a scalar, but it gave "
            f"{jnp.shape(values)}; if an example has several axes (an image), pass example_ndim"
        )
    return values


def outputs(
    name: str,
    function: Callable[..., PyTree],
    *examples: PyTree,
    shape: tuple[int, ...] | None = None,
    is_differentiated: bool = False,
) -> PyTree:
    """Returns the shapes of what ``function`` returns for ONE example, without running it.

    An error about shapes becomes one that says what to do; ``shape``, that of the whole of ``x``,
    helps to find that out. Any other error that the function raises keeps its class and traceback
    and gets a note that says how it was called.
    """
    callable_(name, function)
    try:
        with batch_layers.recorded_normalisations() as normalisations:
            jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*examples)
    except Exception as error:
        text, says = _leaves(examples), advice.first_line(error).rstrip(".")
        if isinstance(error, NameError) and "axis name" in str(error):
            remedy = batch_layers.PER_EXAMPLE
        elif remedies.is_about_shapes(error):
            remedy = remedies.of_failure(name, function, examples[-1], shape)
        else:
            error.add_note(
                f"jaxae called {name} with one example, {text}, under jax.vmap. Batch axes are "
                "taken off before; if an example has several axes (an image), pass example_ndim. "
                "A module with state (BatchNorm, Dropout) must be passed in evaluation mode, as a "
                "pure function of the example (docs/recipes.md)."
            )
            raise
        one = {"encode": "ONE example, ", "decode": "ONE code, "}.get(name, "")
        raise ValueError(f"{name} gets {one}{text}, and fails: {says}; {remedy}") from error
    if name in ("encode", "decode"):
        batch = () if shape is None else shape[: len(shape) - len(examples[0].shape)]
        found = (name, normalisations, jaxpr, math.prod(batch))
        batch_layers.check(*found, is_differentiated=is_differentiated)
    return out


def output_shape(
    name: str,
    function: Callable[..., PyTree],
    *examples: PyTree,
    shape: tuple[int, ...] | None = None,
    is_differentiated: bool = False,
) -> jax.ShapeDtypeStruct:
    """Returns the shape of the one floating array that ``function`` returns, as :func:`outputs`."""
    out = outputs(name, function, *examples, shape=shape, is_differentiated=is_differentiated)
    if not isinstance(out, jax.ShapeDtypeStruct) or not jnp.issubdtype(out.dtype, jnp.floating):
        found = _leaves(out) if hasattr(out, "dtype") else advice.shown(out)
        text = _leaves(examples)
        raise TypeError(f"{name} must return one floating array, but for {text} it gave {found}")
    return out


def _leaves(examples: PyTree) -> str:
    """Returns dtypes and shapes, such as ``float32[3]``."""
    return ", ".join(f"{e.dtype}{list(e.shape)}" for e in jax.tree.leaves(examples))


def code_shape(
    encode: Callable[[Array], Array],
    example: remedies.Example,
    shape: tuple[int, ...] | None = None,
    *,
    is_differentiated: bool = False,
) -> jax.ShapeDtypeStruct:
    """Returns the shape ``(k,)`` of the code of one example of ``x``, which has a ``shape``."""
    code = output_shape("encode", encode, example, shape=shape, is_differentiated=is_differentiated)
    if len(code.shape) != 1:
        remedy = remedies.of_code(encode, code, example, shape)
        raise ValueError(
            f"encode must map one example to one code of shape (k,), but for one example of shape "
            f"{example.shape} it gave {code.shape}; {remedy}"
        )
    return code


def autoencoder(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    example: remedies.Example,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Checks on one example that ``decode`` undoes the change of shape of ``encode``."""
    x_hat = output_shape("decode", decode, code_shape(encode, example, shape))
    if x_hat.shape != example.shape:
        raise ValueError(
            f"decode must return an example of shape {example.shape}, but it gave {x_hat.shape}"
            f"{remedies.reshaping(x_hat, example)}"
        )
