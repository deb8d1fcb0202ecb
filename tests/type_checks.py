"""The checker of types in the tests: of functions that are made once.

A function inside another one is made, and would be compiled with its checks, in every call of the
outer one, which was a tenth of the time of the tests. mypy checks both.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that checks its arguments; one inside another function as it is."""
    return function if "<locals>" in function.__qualname__ else beartype(function)
