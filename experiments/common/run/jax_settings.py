"""Settings that would make errors of what the experiments do: of JAX, and of warnings."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_PERMISSIVE = {
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_debug_key_reuse": False,
    "jax_disable_jit": False,
}


@contextmanager
def permissive() -> Iterator[None]:
    """Allows what a user may have forbidden for programs of their own, in all threads.

    That is by variables such as JAX_NUMPY_DTYPE_PROMOTION=strict, JAX_TRANSFER_GUARD=disallow,
    JAX_DISABLE_JIT=1, JAX_DEBUG_KEY_REUSE=1 or PYTHONWARNINGS=error. None of them is there to
    change a number.
    """
    before = {name: jax.config.values[name] for name in _PERMISSIVE}
    with warnings.catch_warnings():
        if any(option.startswith("error") for option in sys.warnoptions):
            warnings.simplefilter("default")  # other libraries warn, such as of a cache
        try:
            for name, value in _PERMISSIVE.items():  # JAX's own contexts reach one thread only
                jax.config.update(name, value)
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
