"""What the experiments and benchmarks do on an accelerator, forced on this CPU."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import common, epoch
from experiments.common.errors import InputError
from experiments.common.run import compilation, memory

PLATFORMS = ("cuda", "rocm", "tpu")


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """Takes every branch that an accelerator takes."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = SimpleNamespace(
        platform="gpu",
        device_kind="NVIDIA H100 80GB HBM3",
        memory_stats=lambda: {"bytes_limit": 2 * memory.GIB},
    )
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(jax, "local_devices", lambda: [device])


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_bfloat16_products_reach_the_program():
    """Both factors are rounded to bfloat16, and the sums are those of float32."""
    before = jax.config.jax_default_matmul_precision
    x = jnp.ones((4, 4))
    try:
        compilation.use_products("bfloat16")
        traced = jax.jit(lambda x: x @ x).trace(x)
        texts = [traced.lower(lowering_platforms=(one,)).as_text() for one in PLATFORMS]
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    for text in texts:
        (product,) = [line for line in text.splitlines() if "dot_general" in line]
        assert product.count("precision_type = bf16") == 2
        assert "accumulation_type = f32" in product


def test_bfloat16_products_are_refused_on_a_cpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(InputError, match="is for accelerators"):
        compilation.use_products("bfloat16")


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_the_memory_of_an_accelerator_bounds_the_data():
    """At most a half of it is for the data: the rest is for what is computed."""
    assert memory.on_the_device() == 2 * memory.GIB
    assert memory.fits(memory.GIB, given=1000)
    assert not memory.fits(memory.GIB + 1, given=1000)


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_benchmarks_name_an_accelerator(monkeypatch):
    assert common.device_name() == "nvidia-h100"
    assert "compiler's default options" not in epoch.variants()
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None)
    assert common.torch_device() == "cpu", "without PyTorch nothing is compared"
