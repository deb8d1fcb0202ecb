"""Contexts of JAX such as ``jax.enable_x64``, handed on to the threads that work for a caller."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def bind_jax_settings(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Returns a function that runs, in any thread, with the JAX settings of the calling thread.

    They are those that change what is computed: widths of numbers, random bits and device.
    """
    # A context of JAX belongs to the thread that entered it. A thread of a pool would see the
    # global defaults, and silently compute in float32 under a caller's ``enable_x64``.
    config: Any = jax.config
    x64, partitionable = config.jax_enable_x64, config.jax_threefry_partitionable
    device = config.jax_default_device

    def call_with_settings(*arguments: Given.args, **named: Given.kwargs) -> Returned:
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.enable_x64(x64))
            stack.enter_context(jax.threefry_partitionable(partitionable))
            stack.enter_context(jax.default_device(device))
            return function(*arguments, **named)

    return call_with_settings
