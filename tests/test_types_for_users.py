"""What a user's type checker says of the README's example, and of NumPy arrays as arguments."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITH_NUMPY = """
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

import jaxae

x: npt.NDArray[np.float32] = np.ones((8, 4), np.float32)
w = jnp.ones((4, 3))


def encode(x_i: Array) -> Array:
    return jax.nn.sigmoid(x_i @ w)


def decode(code: Array) -> Array:
    return code @ w.T


penalty: Array = jaxae.contractive_penalty(encode, x)
corrupt = partial(jaxae.gaussian_noise, stddev=0.1)
loss: Array = jaxae.denoising_loss(jax.random.key(0), encode, decode, x, corrupt=corrupt)
l1: Array = jaxae.l1_penalty(np.ones((8, 3), np.float32)).mean()
noisy: Array = jaxae.masking_noise(jax.random.key(1), x, rate=0.5)
wrong: str = jaxae.squared_error(x, x)
"""


@pytest.mark.thorough
def test_mypy_accepts_the_readme_and_numpy_and_finds_what_is_wrong(tmp_path, monkeypatch):
    api = pytest.importorskip("mypy.api")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "of_the_readme.py").write_text(example, encoding="utf-8")
    (tmp_path / "with_numpy.py").write_text(WITH_NUMPY, encoding="utf-8")
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    said, _, _ = api.run(["of_the_readme.py", "with_numpy.py", "--check-untyped-defs"])
    of_the_user = [line for line in said.splitlines() if re.match(r"of_the|with_numpy", line)]
    errors = [line for line in of_the_user if ": error:" in line and "import-untyped" not in line]
    wrong = 1 + WITH_NUMPY.splitlines().index("wrong: str = jaxae.squared_error(x, x)")
    assert len(errors) == 1
    assert errors[0].startswith(f"with_numpy.py:{wrong}: error: Incompatible types in assignment")
