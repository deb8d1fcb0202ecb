"""Contexts of JAX, which a thread has for itself, for the threads that work for it."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax


def in_these_contexts(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that runs, in any thread, with the settings of the thread that is here.

    They are those that change what is computed: widths of numbers, random bits and device.
    """
    now: Any = jax.config
    x64, partitionable = now.jax_enable_x64, now.jax_threefry_partitionable
    device = now.jax_default_device

    def call(*arguments: Any) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.enable_x64(x64))
            stack.enter_context(jax.threefry_partitionable(partitionable))
            stack.enter_context(jax.default_device(device))
            return function(*arguments)

    return call
