"""Strict settings for every test: no silent promotion, no broadcasting of ranks, no warnings."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile

# Tests compile much and run little; so do the processes that they start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# All processes of a test run take compiled programs from each other, and from no earlier run.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _PROGRAMS = tempfile.mkdtemp(prefix="jaxae-programs-")
    atexit.register(shutil.rmtree, _PROGRAMS, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


import jax
import pytest
from jaxtyping import config as jaxtyping_config

from experiments.common import plots


def _is_accepted(xla_flag: str) -> bool:
    """Returns whether this XLA knows a flag; one that it does not know ends the process."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flag}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


# XLA's older generator of CPU code, which releases since jaxlib 0.12 no longer have, compiles most
# programs in half the time; and programs as small as these are slower to compile in pieces.
_COMPILE_FAST = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the flags of their parent
    for flag in filter(_is_accepted, _COMPILE_FAST):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"

# Traces are many small objects, which Python's collector would walk through again and again.
gc.set_threshold(300_000, 20, 50)

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
