"""The README keeps its word: its example runs, its tables are the committed numbers."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_checkpoints import save

import jaxae
from experiments import export, readme_tables
from experiments.common.run import command_line

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def the_code(part):
    """Returns the block of Python that has some words in it."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (code,) = (block for block in blocks if part in block)
    ast.parse(code)
    return code


def test_a_trained_model_is_loaded_and_its_program_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = jaxae.DenseAutoencoder((64,), 16, output_activation=jax.nn.sigmoid)
    run = tmp_path / "results" / "denoising" / "digits"
    save(run / "checkpoints", "dim-16_noise-0.55_seed-0", model)
    words = re.search(r"-m experiments\.export (.*)", README)[1].split()
    assert command_line.run(export.main, export.Config, words) == 0
    x = jax.random.uniform(jax.random.key(0), (3, 64))
    names = {"x": x}
    for part in ("trained.load", "jax.export.deserialize"):
        exec(compile(the_code(part), "README.md", "exec"), names)
    codes = jax.vmap(names["autoencoder"].encode)(x)
    np.testing.assert_allclose(names["codes"], codes, rtol=1e-5, atol=1e-6)


def test_the_example_runs():
    names = {}
    exec(compile(the_code("def loss"), "README.md", "exec"), names)
    assert names["params"]["w"].shape == (32, 64)
    assert float(abs(names["gradient"]["w"]).max()) > 0


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="bytes depend on the device")
def test_the_explanation_is_what_is_printed():
    (block,) = re.findall(
        r"```\n>>> print\(jaxae.explain_contraction.*?\n(.*?)```", README, re.DOTALL
    )
    weights = [jnp.ones(shape) for shape in ((784, 512), (512, 256), (256, 64))]

    def encode(x_i):
        for w in weights:
            x_i = jax.nn.sigmoid(x_i @ w)
        return x_i

    printed = str(jaxae.explain_contraction(encode, jnp.ones((128, 784)))).split("\n")
    shown = [line for line in block.splitlines() if line != "..."]
    assert len(shown) == 6
    assert set(shown) <= set(printed)


@pytest.mark.parametrize("page", readme_tables.PAGES)
def test_tables_are_the_committed_numbers(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme_tables.updated(page, text) == text


@pytest.mark.parametrize("name", jaxae.__all__)
def test_every_public_name_is_mentioned(name):
    inner = {"AutoencoderFunctions", "LinearDenoiser", "Minimum"}
    inner |= {"NonFiniteLossError", "TrainState"}
    assert name in inner or f"`{name}" in README


def test_links_and_pictures_exist():
    for page in map(ROOT.joinpath, readme_tables.PAGES):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), target


def test_options_of_the_commands_exist():
    fields = {"dataset", "epochs", "out", "checkpoint-every", "resume", "distributed", "code-dims"}
    written = re.sub(r"<!-- table: .*?<!-- end of table -->", "", README, flags=re.DOTALL)
    commands = re.findall(r"python -m experiments\.([\w.]+)(.*)", written)
    benchmarks = {"benchmarks.contraction", "benchmarks.training"}
    assert {name for name, _ in commands} == {"lecture", "denoising", "export"} | benchmarks
    for _, options in commands:
        assert set(re.findall(r"--([\w-]+)", options)) <= fields | {"help", "quick"}
