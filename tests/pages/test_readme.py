"""The README keeps its word: its example runs and gives the penalty that it says."""

import re
from pathlib import Path

import numpy as np
import pytest
from jax_settings import as_on_the_command_line
from optional_libraries import require_nnx

import jaxae

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example():
    """Returns the names that the README's example defines."""
    require_nnx()
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    with as_on_the_command_line():
        exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_example_trains(example):
    fresh = example["Autoencoder"](64, 32, example["nnx"].Rngs(0))
    x = example["x"]
    with as_on_the_command_line():
        before = jaxae.contractive_loss(fresh.encode, fresh.decode, x, weight=0.1).mean()
    assert float(example["value"]) < 0.5 * float(before)


def test_the_loss_of_the_example_is_the_formula_of_one_sigmoid_layer(example):
    model, x = example["model"], np.asarray(example["x"])
    w, b, c = (np.asarray(value[...]) for value in (model.w, model.b, model.c))
    code = 1 / (1 + np.exp(-(x @ w + b)))
    penalty = np.square(code * (1 - code)) @ np.square(w).sum(axis=0)
    expected = np.square(code @ w.T + c - x).sum(axis=1) + 0.1 * penalty
    with as_on_the_command_line():
        found = jaxae.contractive_loss(model.encode, model.decode, example["x"], weight=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_it_fits_on_a_screen_or_two():
    assert len(README.splitlines()) <= 150
