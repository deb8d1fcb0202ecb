"""Strict settings for every test: no silent promotion, no broadcasting of ranks, no warnings."""

import os

# Tests compile much and run little; so do the processes that they start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from jaxtyping import config as jaxtyping_config

from experiments.common import plots

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def coarse_figures(monkeypatch):
    """Drawing is most of what a tiny run does."""
    monkeypatch.setitem(plots.style.STYLE, "savefig.dpi", 30)


@pytest.fixture
def key():
    return jax.random.key(20)


@pytest.fixture
def float64():
    """Proofs run in float64; everything else in float32, as users do."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def no_type_hook():
    """Lets bad arguments reach the library's own checks instead of the annotation checker."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)
