"""Libraries that a test needs and that may not be usable here."""

import jax
import pytest


def require_nnx():
    """Returns ``flax.nnx``, or skips the test: some pairs of flax and jax do not import."""
    try:
        from flax import nnx
    except Exception as error:  # it fails in several ways
        pytest.skip(f"flax.nnx does not import with jax {jax.__version__}: {error!r}")
    return nnx
