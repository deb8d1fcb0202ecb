"""What the experiments and benchmarks do on an accelerator, forced on this CPU."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.interpreters import mlir
from jax_settings import as_on_the_command_line, without_kept_programs

import jaxae
from experiments import lecture
from experiments.benchmarks import (
    accelerator,
    common,
    convolutional,
    epoch,
    rounded_lecture,
    rounded_products,
    side_by_side,
)
from experiments.common.errors import InputError
from experiments.common.results.over_seeds import over_seeds
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


def test_the_network_of_the_tutorial_has_its_parameters():
    """Each kernel has 9 numbers for every pair of channels; 4 x 4 x 64 numbers and 64 latents."""
    init = convolutional.TutorialAutoencoder().init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.ones((32, 32, 3)))
    pairs = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    pairs += [(64, 64), (64, 64), (64, 32), (32, 32), (32, 3)]
    dense = (1024 * 64 + 64) + (64 * 1024 + 1024)
    expected = dense + sum(9 * inputs * outputs + outputs for inputs, outputs in pairs)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_a_published_training_takes_its_steps(monkeypatch):
    """Any network does, and a dense one compiles fast; 4 images of 2 x 3 pixels a step."""
    monkeypatch.setattr(side_by_side, "_SHORT", 0)
    monkeypatch.setattr(side_by_side, "_PAUSE", 0)
    model = jaxae.DenseAutoencoder((2, 3, 1), 2)
    case = convolutional.Case(
        model,
        (2, 3, 1),
        convolutional.denoise,
        optax.adam(0.1),
        batch=4,
        low=0.0,
        published_steps=1000,
    )
    with as_on_the_command_line():
        found = convolutional.measure(case, 5, 1)
        train = convolutional.Steps(case, 5)
        first = train()
        assert [train() for _ in range(30)][-1] < 0.9 * first, "it learns"
    assert found["parameters"] == 2 * 6 * 2 + 2 + 6
    for name, seconds in found["seconds_per_step"].items():
        assert found["seconds_of_all_steps"][name] == 1000 * seconds > 0


@pytest.mark.thorough
def test_the_stage_of_the_convolutional_autoencoders_runs(tmp_path):
    stage = accelerator.make_stages(accelerator.Config(quick=True))["convolutional"]
    module, *options = stage.arguments[1:]
    assert (module, options) == (convolutional.__spec__.name, ["--quick"])
    with as_on_the_command_line(), without_kept_programs():
        options += ["--out", str(tmp_path)]
        assert command_line.run(convolutional.main, convolutional.Config, options) == 0
    (path,) = tmp_path.glob("convolutional-*.json")
    assert json.loads(path.read_text())["cases"].keys() == set(convolutional.CASES)


@pytest.mark.parametrize("kind", rounded_products.MANTISSA_BITS)
def test_products_and_their_derivatives_are_rounded_as_the_kind_says(kind):
    """1 + 2^-9 has nine bits after the point: TF32 keeps them, bfloat16 does not."""
    a, one = jnp.float32([1 + 2.0**-9, 1 + 2.0**-12]), jnp.ones((2, 2))
    image = a.reshape(1, 1, 1, 2)

    def products(a):
        kernel = jnp.eye(2).reshape(1, 1, 2, 2)
        order = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", None, None, order)
        along = jax.grad(lambda b: (a @ b).sum())(one)[:, 0]  # its derivative is a again
        exact = jnp.dot(a, jnp.eye(2), precision="highest")
        return a @ jnp.eye(2), convolved.reshape(-1), along, exact

    with rounded_products.rounded_products(kind):
        *found, exact = jax.jit(products)(a)
    kept = {"float32": (2.0**-9, 2.0**-12), "tf32": (2.0**-9, 0), "bfloat16": (0, 0)}[kind]
    np.testing.assert_array_equal(exact, a)
    for product in found:
        np.testing.assert_array_equal(product, 1 + np.float32(kept))
    np.testing.assert_array_equal(jax.jit(lambda a: a @ jnp.eye(2))(a), a, "outside of the block")


def numbers_with(error, *, seconds):
    """Returns metrics with an error of two seeds, a number without a spread, and a time."""
    return {
        "methods": [{"error": over_seeds([error, error + 2], "nats")}],
        "count": over_seeds([1000 + error], "operations"),
        "time": over_seeds([seconds, seconds], "seconds"),
    }


def test_a_change_is_inside_if_the_spread_is_larger(tmp_path, monkeypatch):
    """Errors 4 and 6 have a spread of 1.414: 6 is inside, 7 is not; 1004 is 1007 but not 1010."""
    found = {"float32": 4.0, "tf32": 5.0, "bfloat16": 6.0}
    metrics = {kind: numbers_with(error, seconds=error) for kind, error in found.items()}
    error, count = rounded_lecture.compare(metrics)
    assert (error.name, count.name) == ("methods / 1 / error", "count")
    assert (error.means["float32"], error.spread) == (5.0, pytest.approx(2**0.5))
    assert (error.is_inside("tf32"), error.is_inside("bfloat16")) == (True, False)
    assert (count.is_inside("tf32"), count.is_inside("bfloat16")) == (True, False)
    # The command writes every number of a real experiment, and which statements turn.
    monkeypatch.setattr(rounded_lecture, "run", lambda name, kind, options, out: metrics[kind])
    turned = {"a": {"float32": "reproduced", "tf32": "reproduced", "bfloat16": "corrected"}}
    monkeypatch.setattr(rounded_lecture, "changed_verdicts", lambda name, found: turned)
    config = rounded_lecture.Config(out=tmp_path, experiments=("sparse",))
    written = rounded_lecture.main(config)["experiments"]["sparse"]
    assert written["inside"] == {"tf32": 2, "bfloat16": 0}
    text = (tmp_path / "rounded-lecture-digits.md").read_text()
    assert "| sparse | methods / 1 / error | 5 | 6 | 7 | 1.414 | yes | no |\n" in text
    stored = json.loads((tmp_path / "rounded-lecture-digits.json").read_text())
    assert stored["experiments"]["sparse"] == written


@pytest.mark.thorough
def test_an_experiment_runs_with_rounded_products_once(tmp_path, capsys):
    """Sums of squares of real networks change, by little; what is finished does not run again."""
    images = np.random.default_rng(0).uniform(size=(30, 4, 5)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    config = rounded_lecture.Config(
        dataset=str(tmp_path / "images.npy"),
        experiments=("overcomplete_copy",),
        epochs=1,
        num_seeds=2,
        out=tmp_path / "out",
    )
    first = rounded_lecture.main(config)
    numbers = first["experiments"]["overcomplete_copy"]["numbers"]
    moved = [abs(n["means"]["bfloat16"] - n["means"]["float32"]) for n in numbers]
    assert 0 < np.median(moved) < 0.1
    (tmp_path / "images.npy").unlink()
    assert rounded_lecture.main(config) == first


@pytest.fixture
def lowered_programs(monkeypatch):
    """Fills a list with the text of every program that JAX compiles, lowered for accelerators.

    Programs that other tests have compiled are forgotten, so that they are lowered again.
    """
    jax.clear_caches()
    texts = []
    lower = mlir.lower_jaxpr_to_module

    def lower_for_all(*arguments, **options):
        here = elsewhere = lower(*arguments, **options)
        if "callback" not in mlir.module_to_string(here.module):  # JAX lowers it for here only
            elsewhere = lower(*arguments, **options | {"platforms": PLATFORMS})
        texts.append(mlir.module_to_string(elsewhere.module))
        return here

    monkeypatch.setattr(mlir, "lower_jaxpr_to_module", lower_for_all)
    return texts


# Every experiment, with the parts that it has on MNIST; short runs.
IMAGES = ["--dataset", "images.npz"]  # written by the test
EXPERIMENTS = {
    "overcomplete_copy": [*IMAGES, "--code-dim", "24", "--pool", "1"],
    "sparse": [*IMAGES, "--code-dim", "24", "--top-k", "2", "4", "--sparsity-weights", "0", "0.1"],
    "denoising": [*IMAGES, "--code-dims", "5", "3", "--noise-levels", "0.2", "0.4"],
    "vector_field": [],
    "contractive": [*IMAGES, "--residual", "--code-dim=9", "--weights", "0.1", "1", "--weight=1"],
    "dae_vs_cae": [*IMAGES, "--race-seeds", "1"],
    "convolutional": [*IMAGES, "--code-dim", "4", "--channels", "2", "3", "--weights", "0.1"],
    "filters": [*IMAGES, "--code-dim", "9", "--noise-levels", "0", "0.3", "--emphases", "1"],
    "feature_learning": [*IMAGES, "--code-dim", "8", "--top-k", "3", "--fine-tuning-epochs", "1"],
    "sampling": [
        *(*IMAGES, "--quick", "--samples", "50", "--steps", "2", "5", "--code-dim", "8"),
        *("--hidden", "8", "--pictures", "4", "--picture-steps", "2"),
    ],
    "dictionary": [*IMAGES, "--quick", "--patch-size", "3", "--patches", "100", "--units", "8"],
}
# Programs in double precision, on purpose: the remainder of an expansion needs its digits. The
# other one brings arrays there.
DOUBLE = {"dae_vs_cae": {"jit_expanded", "jit_convert_element_type"}}
# Programs that call the host, on purpose, after the training: SciPy matches filters with atoms.
CALLBACKS = {"dictionary": {"jit_pure_callback"}}


def test_every_experiment_is_lowered_for_accelerators():
    folder = Path(lecture.__file__).parents[1]
    commands = {path.parent.name for path in folder.glob("*/__main__.py")}
    assert commands - {"lecture", "readme_tables"} == EXPERIMENTS.keys()


@pytest.mark.thorough
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_program_of_an_experiment_is_lowered_for_accelerators(
    name, lowered_programs, tmp_path, monkeypatch
):
    """The run is a real one, with the sweeps of an accelerator; only its figures are left out."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(ExperimentRun, "draw", lambda self, *arguments, **options: None)
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).uniform(size=(30, 4, 5)).astype("float32")
    labels = np.arange(30) % 3
    np.savez(
        "images.npz",
        x_train=images[:24],
        x_test=images[24:],
        y_train=labels[:24],
        y_test=labels[24:],
    )
    module = importlib.import_module(f"experiments.{name}")
    arguments = ["--out", "out", "--epochs", "1", "--num-seeds", "2", *EXPERIMENTS[name]]
    with as_on_the_command_line():
        assert command_line.run(module.main, module.Config, arguments) == 0
    assert len(lowered_programs) > 20

    def named(pattern):
        """Returns the names of the programs whose text has a pattern."""
        texts = [text for text in lowered_programs if re.search(pattern, text)]
        return {re.search(r"module @(\w+)", text)[1] for text in texts}

    assert named(r"xf64\b") == DOUBLE.get(name, set())
    assert named(r"callback|infeed|outfeed") == CALLBACKS.get(name, set())
    donated = [text for text in lowered_programs if "tf.aliasing_output" in text]
    assert donated, "the training gives up its buffers"
