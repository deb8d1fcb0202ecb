"""What the experiments and benchmarks do on an accelerator, forced on this CPU."""

import importlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters import mlir
from jax_settings import as_on_the_command_line

from experiments.benchmarks import common, epoch
from experiments.common.errors import InputError
from experiments.common.run import command_line, compilation, memory
from experiments.common.run.experiment import ExperimentRun

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


@pytest.fixture
def lowered_programs(monkeypatch):
    """Fills a list with the text of every program that JAX compiles, lowered for accelerators."""
    texts = []
    lower = mlir.lower_jaxpr_to_module

    def lower_for_all(*arguments, **options):
        elsewhere = lower(*arguments, **options | {"platforms": PLATFORMS})
        texts.append(mlir.module_to_string(elsewhere.module))
        return lower(*arguments, **options)

    monkeypatch.setattr(mlir, "lower_jaxpr_to_module", lower_for_all)
    return texts


# Options that make a run short.
EXPERIMENTS = {
    "denoising": ["--code-dims", "5", "3", "--noise-levels", "0.2", "0.4"],
    "contractive": ["--code-dim", "9", "--weights", "0.1", "1", "--weight", "1"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_program_of_an_experiment_is_lowered_for_accelerators(
    name, lowered_programs, tmp_path, monkeypatch
):
    """The run is a real one, with the sweeps of an accelerator; only its figures are left out."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(ExperimentRun, "draw", lambda self, *arguments, **options: None)
    images = np.random.default_rng(0).uniform(size=(30, 4, 5)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    module = importlib.import_module(f"experiments.{name}")
    arguments = ["--dataset", str(tmp_path / "images.npy"), "--out", str(tmp_path / "out")]
    arguments += ["--epochs", "1", "--num-seeds", "2", *EXPERIMENTS[name]]
    with as_on_the_command_line():
        assert command_line.run(module.main, module.Config, arguments) == 0
    assert len(lowered_programs) > 20
    for text in lowered_programs:
        assert not re.search(r"xf64\b|callback|infeed|outfeed", text)
    donated = [text for text in lowered_programs if "tf.aliasing_output" in text]
    assert donated, "the training gives up its buffers"
