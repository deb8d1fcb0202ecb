"""Settings of JAX that would make errors of what the experiments do."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_PERMISSIVE = {
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
}


@contextmanager
def permissive() -> Iterator[None]:
    """Allows mixed dtypes, other ranks and implicit transfers, in all threads.

    A user may have forbidden them for programs of their own, by variables such as
    JAX_NUMPY_DTYPE_PROMOTION=strict or JAX_TRANSFER_GUARD=disallow. They change no number.
    """
    before = {name: jax.config.values[name] for name in _PERMISSIVE}
    try:
        for name, value in _PERMISSIVE.items():  # JAX's own contexts reach one thread only
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
