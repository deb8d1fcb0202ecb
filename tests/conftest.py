"""Strict settings for every test: no silent promotion, no broadcasting of ranks, no warnings."""

import mmap
import os
from pathlib import Path

# Tests compile much and run little; so do the processes that they start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import jaxlib
import pytest
from jaxtyping import config as jaxtyping_config

from experiments.common import plots

# XLA's older generator of CPU code compiles most programs in half the time. A flag that a release
# of XLA does not know ends the process, so it is looked up in its library first.
FLAG = "xla_cpu_use_fusion_emitters"
LIBRARY = Path(jaxlib.__file__).with_name("libjax_common.so")
if FLAG not in os.environ.get("XLA_FLAGS", "") and LIBRARY.exists():
    with LIBRARY.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        if code.find(FLAG.encode()) >= 0:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{FLAG}=false"

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
