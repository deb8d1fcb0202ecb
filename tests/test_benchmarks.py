"""The benchmarks run, compare equals with equals, and write a whole file; nothing here is timed."""

import json
from functools import partial

import jax
import pytest

from experiments.benchmarks import contraction, side_by_side
from experiments.common import command_line

run = partial(command_line.run, contraction.main, contraction.Config)


def test_contenders_take_turns(monkeypatch):
    monkeypatch.setattr(side_by_side, "_SHORT", 0)
    monkeypatch.setattr(side_by_side, "_PAUSE", 0)
    calls = []
    contenders = {name: side_by_side.Contender(partial(calls.append, name)) for name in "ab"}
    found = side_by_side.race(contenders, rounds=3)
    assert "".join(calls) == "ab" * 4  # once to warm up
    assert set(found) == {"a", "b"}
    assert found["a"]["times_the_first"] == {"median": 1, "min": 1, "max": 1}
    spread = found["b"]["seconds"]
    assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def test_a_quick_run_writes_a_whole_file(tmp_path, capsys):
    assert run(["--quick", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("contraction-*.json")
    results = json.loads(path.read_text())
    case = results["cases"]["quick"]
    assert list(case["contenders"]) == ["jaxae", "by hand", "jax jacfwd", "jax jacrev"]
    assert list(case["contenders"]) == list(case["values"])
    for value in case["values"].values():
        assert value == pytest.approx(case["values"]["jaxae"], rel=1e-5)
    for measured in case["contenders"].values():
        assert measured["compile_seconds"] > 0
        assert measured["temporary_bytes"] >= 0
    assert "20-8, batch 4: jaxae" in capsys.readouterr().out


def test_a_rival_with_another_value_stops_the_benchmark(monkeypatch, tmp_path):
    monkeypatch.setattr(contraction, "by_hand", lambda params, x: 2 * x.sum(-1))
    with pytest.raises(RuntimeError, match=r"by hand gives .*, jaxae gives"):
        contraction.main(contraction.Config(quick=True, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_training_steps_with_a_penalty_are_the_same():
    case = contraction.Case((12, 5), 4, (), is_step=True)
    with jax.numpy_dtype_promotion("standard"):  # Adam needs it
        found = contraction.training_steps(case)
    assert list(found) == ["AE", "CAE", "CAE, by hand"]
    losses = {name: float(contender.call()[1]) for name, contender in found.items()}
    assert losses["CAE"] > losses["AE"]
    assert losses["CAE"] == pytest.approx(losses["CAE, by hand"], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nothing"], "--cases must be among lecture, wide"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_bad_options(arguments, message, tmp_path, capsys):
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
