"""The benchmarks run, compare equals with equals, and write a whole file; nothing here is timed."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from jax_settings import as_on_the_command_line

import jaxae
from experiments.benchmarks import (
    contraction,
    epoch,
    growth,
    large,
    random_bits,
    side_by_side,
    start,
    streaming,
    training,
)
from experiments.common import command_line

run = partial(command_line.run, contraction.main, contraction.Config)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Nothing here is timed: no pauses, and nothing runs seven times because it is short."""
    monkeypatch.setattr(side_by_side, "_SHORT", 0)
    monkeypatch.setattr(side_by_side, "_PAUSE", 0)


def test_contenders_take_turns():
    calls = []
    contenders = {name: side_by_side.Contender(partial(calls.append, name)) for name in "ab"}
    found = side_by_side.race(contenders, rounds=3)
    assert "".join(calls) == "ab" * 4  # once to warm up
    assert set(found) == {"a", "b"}
    assert found["a"]["times_the_first"] == {"median": 1, "min": 1, "max": 1}
    spread = found["b"]["seconds"]
    assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def test_what_is_short_runs_once_untimed_and_seven_times(monkeypatch):
    monkeypatch.setattr(side_by_side, "_SHORT", 60)
    calls = []
    contenders = {name: side_by_side.Contender(partial(calls.append, name)) for name in "ab"}
    side_by_side.race(contenders, rounds=2)
    assert "".join(calls) == "ab" + 2 * (8 * "a" + 8 * "b")


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


@pytest.fixture
def as_users_run_it():
    with as_on_the_command_line():
        yield


def test_training_and_its_variants_write_whole_files(tmp_path, capsys, as_users_run_it):
    for module in (training, epoch):
        options = ["--quick", "--out", str(tmp_path / module.__name__)]
        assert command_line.run(module.main, module.Config, options) == 0
    (path,) = tmp_path.glob("*/training-*.json")
    case = json.loads(path.read_text())["cases"]["quick"]
    names = list(case["contenders"])
    assert names[:2] == ["jaxae", "jaxae, default generator"]
    assert names[-1] == "bare products"
    for name, (first, second) in case["losses_of_two_epochs"].items():
        assert second < first, name
    for row in case["contenders"].values():
        flops = 10 * case["examples"] * 784 * case["code_dim"]
        assert row["gflops_per_second"] * row["seconds"]["median"] * 1e9 == pytest.approx(flops)
    (path,) = tmp_path.glob("*/epoch-*.json")
    case = json.loads(path.read_text())["cases"]["quick"]
    assert sum(case["profile"].values()) == pytest.approx(1)
    assert set(case["profile"]) == set(epoch.KINDS)
    if jax.default_backend() == "cpu":
        assert all(case["profile"][kind] > 0 for kind in ("products", "noise", "optimizer"))
    assert {"as it is", "generator Threefry (default)", "shuffle by sorting"} <= set(
        case["variants"]
    )
    assert "code of quick: jaxae" in capsys.readouterr().out


def test_a_contender_with_another_loss_stops_the_benchmark(monkeypatch, as_users_run_it):
    wrong = lambda task: partial(next, iter([1.0, 0.5, 0.25]))
    both = {"jaxae": training.ours, "wrong": wrong}
    monkeypatch.setattr(training, "contenders", lambda: both)
    with pytest.raises(RuntimeError, match=r"wrong comes to \[1.0, 0.5\], jaxae to \["):
        training.measure(training.QUICK, 1)


def test_one_contender_alone_trains_one_epoch(monkeypatch, capsys, as_users_run_it):
    monkeypatch.setitem(training.CASES, start.CASE, training.QUICK)
    assert np.isfinite(start.main(start.Config(alone="jaxae"))["loss"])
    assert command_line.run(start.main, start.Config, ["--alone", "nobody"]) == 2
    assert "--alone must be among jaxae, jaxae, default" in capsys.readouterr().err


def test_a_process_of_its_own_is_measured():
    found = start.in_own_process(["platform"])
    assert found["last_line"]
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 2**20
    with pytest.raises(RuntimeError, match="no_such_module ended with status 1"):
        start.in_own_process(["no_such_module"])


def test_every_instruction_is_of_a_kind():
    kind = epoch.kind_of
    assert kind("copy.3", "jit(f)/optimizer/add", "f32[2] copy(x)") == "copies"
    assert kind("dot.1", "jit(f)/jvp(g)/dot_general", "= f32[2] dot(a, b)") == "products"
    assert kind("add_fusion", "jit(f)/while/body/optimizer/add", "fusion(a)") == "optimizer"
    assert kind("clamp", "jit(f)/corruption/jit(clip)/max", "fusion(a)") == "noise"
    assert kind("gather", "jit(f)/while/body/gather/gather", "gather(a)") == "gather"
    assert kind("div", "jit(f)/transpose(jvp(g))/mul", "fusion(a)") == "elementwise"


def test_growth_writes_a_whole_file(tmp_path, as_users_run_it):
    options = ["--quick", "--out", str(tmp_path)]
    assert command_line.run(growth.main, growth.Config, options) == 0
    (path,) = tmp_path.glob("growth-*.json")
    results = json.loads(path.read_text())
    grown = results["growth"]["code_dim"]
    assert grown["sizes"] == [4, 8]
    assert 0 < grown["exponent_of_bytes"] < 1  # the data do not grow
    assert list(results["sweeps"]["quick"]) == ["threads", "vmap", "one after another"]


def test_streaming_compares_the_same_bits_and_writes_a_whole_file(tmp_path, as_users_run_it):
    options = ["--quick", "--out", str(tmp_path)]
    assert command_line.run(streaming.main, streaming.Config, options) == 0
    (path,) = tmp_path.glob("streaming-*.json")
    (case,) = json.loads(path.read_text())["cases"].values()
    assert list(case) == ["memory", "file, row by row", "memory-mapped", "Grain, one by one"]
    assert case["memory"]["times_the_first"] == {"median": 1, "min": 1, "max": 1}


def test_a_process_gets_no_more_memory_than_it_may_have():
    command = ["timeit", "-n", "1", "-r", "1", "bytearray(10**9)"]
    assert start.in_own_process(command)["peak_bytes"] > 10**9
    with pytest.raises(RuntimeError, match="ended with status 1"):
        start.in_own_process(command, most_data=2**28)


def test_the_images_of_a_large_file(tmp_path):
    size = large.write_images(tmp_path / "x.npy", 40e6)
    images = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert 40e6 <= size == images.nbytes < 80e6
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1


def test_an_exponent_is_the_slope_of_a_power_law():
    assert growth.exponent([3 * f**1.5 for f in growth.FACTORS]) == pytest.approx(1.5)


def test_the_stream_of_random_words_is_that_of_the_steps_of_a_run():
    key = jaxae.hash_key(jax.random.key(7))
    per_step = 64 * 784
    words = np.asarray(random_bits.words(key, np.uint32(5), per_step))
    assert len(words) == 64 * per_step
    second = jax.random.bits(jax.random.fold_in(key, 6), (per_step,))
    np.testing.assert_array_equal(words[per_step : 2 * per_step], second)
