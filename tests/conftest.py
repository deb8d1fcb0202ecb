"""Strict settings for every test: no silent promotion, no broadcasting of ranks, no warnings."""

import os
import subprocess
import sys

# Tests compile much and run little; so do the processes that they start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import config as jaxtyping_config

from experiments.common import compilation, plots

_CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def _is_accepted(xla_flag: str) -> bool:
    """Returns whether this XLA knows a flag; one that it does not know ends the process."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flag}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


# XLA's older generator of CPU code compiles most programs in half the time; releases since
# jaxlib 0.12 no longer have it. Workers of pytest-xdist inherit the flags of their parent.
_OLDER_GENERATOR = "--xla_cpu_use_fusion_emitters=false"
if "PYTEST_XDIST_WORKER" not in os.environ and _is_accepted(_OLDER_GENERATOR):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_OLDER_GENERATOR}"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def kept_programs(tmp_path_factory):
    """Runs of one module take compiled programs from each other, which halves their time."""
    before = {name: jax.config.values[name] for name in _CACHE_OPTIONS}
    compilation.use_cache(tmp_path_factory.mktemp("programs"))
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


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
