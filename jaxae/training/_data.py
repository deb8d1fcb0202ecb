"""A data set: an array ``(n, *example)``, or a pytree of arrays that have one leading axis of n.

``(x, mask)`` and ``{"image": x, "weight": w}`` are data sets too. All arrays of one are shuffled,
cut and read alike, and a loss gets its batch as the same pytree. A single array must be floating;
the arrays of a pytree may have any dtype that a device takes, and only the floating ones must be
finite.
"""

from __future__ import annotations

import numbers
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jaxae import _checks
from jaxae._batching import is_divided
from jaxae._checks import advice

Data: TypeAlias = PyTree  # an array, a pytree of arrays, or a Stream
# Containers of other libraries (sparse matrices, data frames, tensors): NumPy would misread some
# of them without a word, and each has a method that returns an array.
_CONVERSIONS = ("toarray", "todense", "to_numpy", "numpy")


class Stream:
    """Base of the data that are read in pieces.

    Attributes:
      like: shapes ``(n, *example)`` and dtypes of the data, a pytree of ``jax.ShapeDtypeStruct``.
    """

    like: PyTree

    @property
    def shape(self) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.shape, self.like)

    @property
    def dtype(self) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.dtype, self.like)


def is_leaf(node: PyTree) -> bool:
    """Returns whether a node of a pytree stands for one array.

    A list is a sequence of rows, a tuple of numbers is a row, and neither is a pytree of arrays.
    """
    # A source of rows is often a list, and jax.tree would take each of its numbers for an array.
    if isinstance(node, tuple):
        return all(isinstance(part, numbers.Number) for part in node)
    return isinstance(node, list) or node is None or find_conversion(node) is not None


def name_leaves(name: str, tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a pytree by what Python calls them, such as ``x['mask']``."""
    pairs = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in pairs}


def count_examples(name: str, data: PyTree) -> int:
    """Returns the number n of examples of some arrays, after checking that all have as many.

    Raises:
      TypeError: if one of them is no array.
      ValueError: if they have not, or hold none.
    """
    leaves = name_leaves(name, data)
    for leaf, array in leaves.items():
        if not hasattr(array, "shape"):
            raise _not_an_array(leaf, array)
    lengths = {array.shape[:1] for array in leaves.values()}
    if len(lengths) != 1:
        shapes = ", ".join(f"{leaf} {array.shape}" for leaf, array in leaves.items())
        raise ValueError(
            f"{name} must be arrays with one leading axis of n >= 1 examples, but their shapes are "
            f"{shapes or 'missing'}"
        )
    if lengths <= {(), (0,)}:
        leaf, array = next(iter(leaves.items()))
        raise ValueError(f"{leaf} must hold at least one example, but its shape is {array.shape}")
    return int(lengths.pop()[0])


def put_on_device(name: str, data: PyTree) -> PyTree:
    """Returns checked data on the device: an array, or a pytree of arrays of as many examples.

    Raises:
      TypeError: if a leaf is no array, or a single array is not floating.
      ValueError: if a floating array is not finite, or the numbers of examples differ.
    """
    leaves = name_leaves(name, data)
    # A single array is what a model gets, so integers are a mistake (pixels that were not scaled);
    # in a pytree they may be labels.
    if list(leaves) == [name]:
        arrays = [_checks.floating(name, to_native(name, data))]
    else:
        arrays = [_put_leaf_on_device(*item) for item in leaves.items()]
    tree = jax.tree.unflatten(jax.tree.structure(data, is_leaf=is_leaf), arrays)
    count_examples(name, tree)
    check_not_divided(name, tree)
    return tree


def to_native_arrays(name: str, data: PyTree) -> PyTree:
    """Returns data whose NumPy arrays are such as JAX takes; what is no array stays as it is.

    Raises:
      TypeError: if a leaf is a container of another library, or has no numbers, or masked ones.
    """
    leaves = name_leaves(name, data)
    arrays = [to_native(*item) for item in leaves.items()]
    for leaf, array in zip(leaves, arrays, strict=True):
        if isinstance(array, list):  # of rows, and no pytree of numbers
            raise _not_an_array(leaf, array)
        if isinstance(array, np.ndarray):
            device_dtype(leaf, array.dtype)
    return jax.tree.unflatten(jax.tree.structure(data, is_leaf=is_leaf), arrays)


def _not_an_array(name: str, value: object) -> TypeError:
    return TypeError(
        f"{name} must be an array, but it is {advice.shown(value)}; "
        f"{advice.conversion(name, value)}"
    )


def check_not_divided(name: str, data: PyTree) -> None:
    """Raises ValueError for an array that is divided over a mesh of explicit axes."""
    for leaf, array in name_leaves(name, data).items():
        if is_divided(array, array.ndim):
            raise ValueError(
                f"{leaf} must not be divided over a mesh of explicit axes; gather it with "
                f"jax.device_put({leaf}, jax.devices()[0]): make_run(mesh=jaxae.data_mesh()) "
                "divides the batches"
            )


def _put_leaf_on_device(name: str, leaf: PyTree) -> jax.Array:
    """Returns one of several arrays on the device, in the dtype that it has there."""
    leaf = to_native(name, leaf)
    if jnp.issubdtype(getattr(leaf, "dtype", float), jnp.floating):
        return _checks.floating(name, leaf)
    if isinstance(leaf, jax.Array):
        return leaf
    leaf = cast(name, leaf, device_dtype(name, leaf.dtype))
    check_finite(name, leaf)
    return jnp.asarray(leaf)


def find_conversion(value: object) -> str | None:
    """Returns the method that makes an array of data of another library, or None for an array."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return None
    return next((method for method in _CONVERSIONS if hasattr(value, method)), None)


def to_native(name: str, value: PyTree) -> PyTree:
    """Returns an array in the byte order and the width of this machine; other values as they are.

    Raises:
      TypeError: if it is a container of another library, or entries of it are masked: what is
        stored beneath a mask is not data.
    """
    _checks.unmasked(name, value)
    if find_conversion(value) is not None:
        streamed = " (or jaxae.Streamed, which reads it row by row)"
        error = _not_an_array(name, value)
        raise TypeError(f"{error}{streamed if hasattr(value, 'toarray') else ''}")
    if not isinstance(value, np.ndarray):
        return value
    # Files of other machines have other byte orders, which JAX does not take.
    return np.asarray(value).astype(_checks.native_dtype(value.dtype), copy=False)


def device_dtype(name: str, dtype: DTypeLike) -> np.dtype:
    """Returns the dtype that arrays of a dtype have on a device."""
    if not (jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)):
        raise TypeError(
            f"{name} must be numbers or booleans, but its dtype is {dtype}; "
            f"{advice.floating_conversion(name, dtype)}"
        )
    # Where x64 is off, JAX holds 64-bit numbers in 32 bits; a stream has to say so beforehand.
    return np.dtype(jax.dtypes.canonicalize_dtype(_checks.native_dtype(dtype)))


def cast(name: str, value: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns an array in another dtype. Integers that do not fit into it raise ValueError."""
    # NumPy would wrap large integers around without a word, so 64-bit labels would be others.
    if jnp.issubdtype(dtype, jnp.integer) and value.dtype != dtype and value.size:
        limits = np.iinfo(dtype)
        low, high = int(value.min()), int(value.max())
        if low < limits.min or high > limits.max:
            raise ValueError(
                f"{name} must fit into {dtype}, but has values from {low} to {high}; number them "
                "anew, or set jax_enable_x64"
            )
    return value.astype(dtype, copy=False)


def check_finite(name: str, value: np.ndarray) -> None:
    """Raises ValueError if an array has NaN or infinite values."""
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return
    # float16 sums overflow at 65504.
    wide = np.complex64 if jnp.issubdtype(value.dtype, jnp.complexfloating) else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(value, dtype=wide)  # cheap, and not finite if one of them is not
    if not np.isfinite(total) and not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite, but there are NaN or infinite values")


def drop_leading_axis(stacked: PyTree) -> PyTree:
    """Returns shapes and dtypes of one of several models, whose arrays have a leading axis."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
