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
    # JAX writes a program in place: another process may find half of it, warns, and compiles.
    os.environ["PYTHONWARNINGS"] = "ignore:Error reading persistent compilation cache:UserWarning"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


import examples  # noqa: F401  (registers the profiles of Hypothesis)
import jax
import pytest
from hypothesis import settings
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


THOROUGH = "thorough(by_default): further instances; by_default names those that always run"
_num_left_out = pytest.StashKey[int]()


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="run the tests marked thorough too")


def pytest_configure(config):
    is_thorough = config.getoption("thorough")
    settings.load_profile("thorough" if is_thorough else "by default")  # of examples.py
    config.addinivalue_line("markers", THOROUGH)
    config.stash[_num_left_out] = 0


def _instance(item):
    """Returns the name of an item among those of its test, or None if it is the only one."""
    return item.callspec.id if hasattr(item, "callspec") else None


def _is_thorough(item):
    """Returns whether an item has the marker, and is not an instance that always runs."""
    marker = item.get_closest_marker("thorough")
    return marker is not None and _instance(item) not in marker.kwargs.get("by_default", ())


def _require_known_instances(items):
    """Raises UsageError if ``by_default`` names an instance that its test does not have."""
    missing = {}
    for item in items:
        if marker := item.get_closest_marker("thorough"):
            test = item.nodeid.partition("[")[0]
            named = missing.setdefault(test, set(marker.kwargs.get("by_default", ())))
            named.discard(_instance(item))
    for test, names in missing.items():
        if names:
            raise pytest.UsageError(
                f"by_default of {test} names {sorted(names)}, which is no instance"
            )


@pytest.hookimpl(tryfirst=True)  # before -k and the like leave out items
def pytest_collection_modifyitems(config, items):
    if not any("::" in argument for argument in config.args) and not config.getoption(
        "lf", default=False
    ):
        _require_known_instances(items)
    if config.getoption("thorough"):
        return
    left_out = [item for item in items if _is_thorough(item)]
    items[:] = [item for item in items if not _is_thorough(item)]
    config.hook.pytest_deselected(items=left_out)
    config.stash[_num_left_out] = len(left_out)


# With pytest-xdist the workers collect the tests, all of them the same ones, and the process that
# prints the summary collects none: each worker tells it the number.
def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[_num_left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if found := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[_num_left_out] = found


def pytest_terminal_summary(terminalreporter, config):
    if found := config.stash[_num_left_out]:
        terminalreporter.write_line(f"{found} thorough tests were left out; --thorough runs them")


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
