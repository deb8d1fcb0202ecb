"""The words of errors about values: what was passed, in one line, and how to convert it.

The cost does not depend on the size of the data, whose ``repr`` is never made.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike


def shown(value: object) -> str:
    """Returns a value in a few words of one line; the ``repr`` of data is never made."""
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {tuple(value.shape)} ({kind})"
    if isinstance(value, str | bytes):
        text = repr(value[:60])
        return f"{text if len(text) < 60 else text[:57] + '...'} ({kind})"
    if value is None or isinstance(value, numbers.Number):
        return f"{value!r} ({kind})"
    if isinstance(value, list | tuple):
        is_short = len(value) <= 4 and all(isinstance(v, numbers.Number) for v in value)
        return f"{list(value)} ({kind})" if is_short else f"a {kind} of {len(value)}"
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def conversion(name: str, value: object) -> str:
    """Returns how to make an array of something that is none, judged by what it can do."""
    kind = type(value)
    if hasattr(kind, "toarray"):  # a sparse matrix
        return f"convert it first, with {name}.toarray()"
    if hasattr(kind, "todense"):  # a sparse matrix of JAX
        return f"convert it first, with {name}.todense()"
    if hasattr(kind, "to_numpy"):  # a data frame
        return f"convert it first, with {name}.to_numpy('float32')"
    if hasattr(kind, "numpy"):  # a tensor of another library
        steps = ".detach().cpu()" if hasattr(kind, "detach") else ""
        return f"convert it first, with {name}{steps}.numpy()"
    if isinstance(value, Sequence) or hasattr(kind, "__array__"):
        return f"convert it first, with np.asarray({name}, np.float32)"
    return "pass an array of NumPy or JAX"


def floating_conversion(name: str, dtype: DTypeLike) -> str:
    """Returns how to make floating numbers of an array of another type."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):  # which is no dtype of NumPy
        return "a PRNG key is no data: mind the order of the arguments"
    if jnp.issubdtype(dtype, np.complexfloating):
        parts = f"[{name}.real, {name}.imag]"
        return f"keep both parts of the numbers, for example with jnp.stack({parts}, axis=-1)"
    if dtype == np.uint8:
        return f"convert it first, for pixels with {name}.astype('float32') / 255"
    return f"convert it first, for example with {name}.astype('float32')"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, shortened."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = text or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
