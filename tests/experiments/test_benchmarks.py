"""The benchmarks run, compare equals with equals, and write a whole file; nothing here is timed."""

import json
import math
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from jax.extend import core as jex
from jax_settings import as_on_the_command_line, without_kept_programs

import jaxae
from experiments import feature_learning
from experiments.benchmarks import (
    accelerator,
    agreement,
    alone,
    common,
    contraction,
    cost_model,
    dictionary,
    encoders,
    epoch,
    estimates,
    growth,
    in_jaxae,
    in_keras,
    in_torch,
    large,
    random_bits,
    rounded_products,
    side_by_side,
    start,
    streaming,
    task,
    training,
)
from experiments.common.errors import InputError
from experiments.common.run import command_line
from experiments.feature_learning import search
from jaxae.training import _windows, programs

run = partial(command_line.run, contraction.main, contraction.Config)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Nothing here is timed: no pauses, and nothing runs seven times because it is short.

    Programs are not kept as far as a benchmark can see, which would refuse to measure.
    """
    monkeypatch.setattr(side_by_side, "_SHORT", 0)
    monkeypatch.setattr(side_by_side, "_PAUSE", 0)
    with without_kept_programs():
        yield


def test_a_row_that_is_the_program_of_another_one_is_refused():
    def text(function):
        return jax.jit(function).lower(jnp.ones(3)).compile().as_text()

    def triple(x):
        return 3 * jnp.sin(x)

    base = text(triple)
    side_by_side.require_different(base, text(lambda x: 4 * jnp.sin(x)), "another number")
    side_by_side.require_different(base, text(lambda x: 3 * jnp.cos(x)), "another function")
    with pytest.raises(RuntimeError, match="'by a lambda' is the same program"):
        side_by_side.require_different(base, text(lambda x: 3 * jnp.sin(x)), "by a lambda")


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
    by_hand = contraction.by_hand
    without_gradient = lambda params, x: jax.lax.stop_gradient(by_hand(params, x))
    monkeypatch.setattr(contraction, "by_hand", without_gradient)
    with pytest.raises(RuntimeError, match="the gradient of by hand is not that of jaxae"):
        contraction.main(contraction.Config(quick=True, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    call = lambda value: side_by_side.Contender(lambda: (value, [np.ones(2)]))
    monkeypatch.setattr(contraction, "penalties", lambda _: {"jaxae": call(1.0), "b": call(1.01)})
    with pytest.raises(RuntimeError, match="the value of b is not that of jaxae"):
        contraction.measure(contraction.QUICK, 1)


def test_the_training_steps_with_a_penalty_are_the_same():
    case = contraction.Case((12, 5), 4, (), is_step=True)
    with jax.numpy_dtype_promotion("standard"):  # Adam needs it
        found = contraction.training_steps(case)
    assert list(found) == ["AE", "CAE", "CAE, by hand"]
    losses = {name: float(contender.call()[1]) for name, contender in found.items()}
    assert losses["CAE"] > losses["AE"]
    assert losses["CAE"] == pytest.approx(losses["CAE, by hand"], rel=1e-5)
    contraction.require_same_step(found)
    with pytest.raises(RuntimeError, match="the step of CAE, by hand is not that"):
        contraction.require_same_step(found | {"CAE, by hand": found["AE"]})
    with pytest.raises(RuntimeError, match="'CAE' is the same program"):
        contraction.require_same_step(dict.fromkeys(found, found["AE"]))


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


@pytest.mark.thorough
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
    assert set(case["variants"]) == {
        "as it is",
        "generator Threefry (default)",
        "shuffle by sorting",
        "shuffled copy of the data",
        "Adam block by block",
    }
    assert "code of quick: jaxae" in capsys.readouterr().out


def test_a_contender_with_another_loss_stops_the_benchmark(monkeypatch, as_users_run_it):
    of_losses = lambda *losses: lambda _: partial(next, iter(losses))
    both = {"jaxae": of_losses(1.0, 0.9), "wrong": of_losses(1.0, 0.5)}
    monkeypatch.setattr(training, "contenders", lambda: both)
    with pytest.raises(RuntimeError, match=r"wrong comes to \[1.0, 0.5\], jaxae to \[1.0, 0.9\]"):
        training.measure(task.QUICK, 1)
    both = {training.OURS: both["jaxae"], training.OURS_SLOWER: of_losses(1.0, 0.9)}
    with pytest.raises(RuntimeError, match="default generator' is the same program"):
        training.measure(task.QUICK, 1)


def test_one_contender_alone_trains_the_task_of_the_others(tmp_path, monkeypatch):
    given = in_jaxae.make_task(task.QUICK)
    task.save(tmp_path / "task.npz", given)
    loaded = task.load(tmp_path / "task.npz")
    assert loaded.case == task.QUICK
    np.testing.assert_array_equal(loaded.x, given.x)
    assert loaded.params.keys() == given.params.keys()
    made = []

    def make(kind):
        return lambda given, *names, **keys: made.append((kind, *names, *keys)) or (lambda: 0.5)

    for kind in (in_jaxae, in_torch, in_keras):
        monkeypatch.setattr(kind, "Epochs" if kind is in_jaxae else "epochs", make(kind))
    names = ("jaxae", "jaxae, default generator", "torch eager", "keras")
    for name in names:
        assert alone.one_epoch(name, tmp_path / "task.npz", "cpu") == 0.5
    ours = [(in_jaxae,), (in_jaxae, "make_key")]
    assert made == [*ours, (in_torch, "torch eager", "cpu"), (in_keras,)]


def test_what_trains_with_another_library_does_not_import_jax():
    modules = ("alone", "task", "in_torch", "in_keras")
    code = ", ".join(f"experiments.benchmarks.{name}" for name in modules)
    code = f"import sys, {code}; print({{'jax', 'jaxae', 'torch', 'keras'}} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "set()\n"


def test_a_cache_that_is_not_used_is_no_warm_cache(monkeypatch):
    def until_first_epoch(folder, options):
        (folder / "cache").mkdir(exist_ok=True)
        (folder / "cache" / str(next(names))).touch()
        return 1.0

    monkeypatch.setattr(start, "_until_first_epoch", until_first_epoch)
    imported = mock.Mock(stdout=b"0.5")
    monkeypatch.setattr(start.subprocess, "run", lambda *_, **__: imported)
    names = iter("aaa")
    assert start.of_a_script(1)["first epoch, warm cache"] == 1.0
    names = iter("abc")
    with pytest.raises(RuntimeError, match="did not take their programs from it"):
        start.of_a_script(1)


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


@pytest.mark.thorough
def test_growth_writes_a_whole_file(tmp_path, as_users_run_it):
    options = ["--quick", "--out", str(tmp_path)]
    assert command_line.run(growth.main, growth.Config, options) == 0
    (path,) = tmp_path.glob("growth-*.json")
    results = json.loads(path.read_text())
    grown = results["growth"]["code_dim"]
    assert grown["sizes"] == [4, 8]
    assert 0 < grown["exponent_of_bytes"] < 1  # the data do not grow
    assert list(results["sweeps"]["quick"]) == ["threads", "vmap", "one after another"]


@pytest.mark.thorough
def test_the_agreement_of_this_device(tmp_path, as_users_run_it):
    options = ["--quick", "--out", str(tmp_path)]
    assert command_line.run(agreement.main, agreement.Config, options) == 0
    (path,) = tmp_path.glob("agreement-*.json")
    found = json.loads(path.read_text())
    assert all(found["same_bits"].values())
    assert all(found["same_run"].values())
    assert "contractive penalty, dense" in found["relative_errors"]
    found["relative_errors"]["sparse, dense"]["gradient, highest"] = 1e-3
    with pytest.raises(RuntimeError, match="sparse, dense: the gradient, highest is wrong by"):
        agreement.require_agreement(found)
    found["same_bits"]["order of an epoch"] = False
    with pytest.raises(RuntimeError, match="order of an epoch: other bits"):
        agreement.require_agreement(found)


def test_an_error_is_relative_to_the_norm_of_all_leaves():
    assert agreement.relative_error([3.0, np.zeros(2)], [0.0, np.array([0.0, 4.0])]) == 1.25


@pytest.fixture
def stages(monkeypatch):
    """Three stages of the accelerator's benchmark: one works, one fails, one takes too long."""
    write = "import json, pathlib, sys; folder = pathlib.Path(sys.argv[2]); folder.mkdir(); "
    write += "(folder / 'training-here.json').write_text(json.dumps({'cases': {folder.name: 1}}))"
    fail, sleep = "raise SystemExit('it broke')", "import time; time.sleep(60)"
    known = {
        "first": accelerator.Stage(("-c", write), 60),
        "second": accelerator.Stage(("-c", fail), 60, writes=False),
        "third": accelerator.Stage(("-c", sleep), 0.5, writes=False),
        "fourth": accelerator.Stage(("-c", write), 60),
    }
    monkeypatch.setattr(accelerator, "make_stages", lambda config: known)
    monkeypatch.setattr(accelerator, "device_name", lambda: "here")
    return known


def test_a_stage_that_fails_or_takes_too_long_costs_no_other_one(stages, tmp_path, capsys):
    run = partial(command_line.run, accelerator.main, accelerator.Config)
    assert run(["--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "accelerator-here.json").read_text())
    ended = {name: entry["ended"] for name, entry in found["stages"].items()}
    assert ended == {
        "first": "done",
        "second": "exit status 1",
        "third": "cut off",
        "fourth": "done",
    }
    assert "it broke" in capsys.readouterr().out
    gathered = json.loads((tmp_path / "training-here.json").read_text())
    assert gathered["cases"] == {"first": 1, "fourth": 1}
    stages["second"] = accelerator.Stage(("-c", "print('mended')"), 60, writes=False)
    assert run(["--out", str(tmp_path), "--stages", "first", "second"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("first: done before\nsecond: done after")
    assert run(["--out", str(tmp_path), "--seconds", "0.001"]) == 0
    assert "third: no time left" in capsys.readouterr().out


@pytest.mark.parametrize(("device", "seconds"), [("nvidia-h200", 60), ("cpu-2-cores", 240)])
def test_a_cpu_is_given_more_time(device, seconds, stages, tmp_path, monkeypatch):
    given = []

    def run_stage(name, stage, out, limit):
        given.append(limit)
        return {"command": "", "ended": "done", "seconds": 0.0}

    monkeypatch.setattr(accelerator, "device_name", lambda: device)
    monkeypatch.setattr(accelerator, "run_stage", run_stage)
    accelerator.main(accelerator.Config(out=tmp_path, stages=("first",)))
    assert given == [seconds]


def test_what_takes_too_long_on_a_cpu_is_not_run_there(stages, tmp_path, monkeypatch, capsys):
    stages.clear()
    stages["long"] = accelerator.Stage(("-c", ""), 60, writes=False, runs_on_cpu=False)
    run = partial(command_line.run, accelerator.main, accelerator.Config)
    monkeypatch.setattr(accelerator, "device_name", lambda: "cpu-2-cores")
    assert run(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "long: takes too long on a CPU\n"
    monkeypatch.setattr(accelerator, "device_name", lambda: "nvidia-h200")
    assert run(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("long: done after")


def test_the_wide_search_has_at_least_forty_settings_a_row():
    stage = accelerator.make_stages(accelerator.Config())["feature_learning"]
    assert not stage.runs_on_cpu
    _, _, *arguments = stage.arguments
    config = tyro.cli(feature_learning.Config, args=arguments)
    for name in config.methods:
        strengths = search.strengths_of(name, config.strengths)
        assert len(set(strengths)) * len(config.fine_tuning_rates) >= 40


def test_the_stages_of_an_accelerator():
    known = accelerator.make_stages(accelerator.Config())
    assert next(iter(known)) == "agreement"
    assert list(known)[-1] == "feature_learning"
    assert {f"training-{name}" for name in ("64-64", "1568-4096")} <= set(known)
    assert {"convolutional", "dictionary"} <= set(known)
    for stage in known.values():
        for path in (word for word in stage.arguments if word.startswith("tests/")):
            assert os.path.exists(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "nothing"], "--stages must be among first, second, third, fourth, but has"),
        (["--seconds", "0"], "--seconds must be a finite number above 0"),
        (["--data-dir", "nowhere"], "--data-dir nowhere is no folder"),
    ],
)
def test_bad_options_of_the_accelerator(arguments, message, stages, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*arguments, "--out", str(out)]
    assert command_line.run(accelerator.main, accelerator.Config, arguments) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "accelerator-here.json").write_text("[]")
    assert command_line.run(accelerator.main, accelerator.Config, ["--out", str(out)]) == 2
    assert "was not written by this command; move it away" in capsys.readouterr().err


@pytest.mark.thorough
def test_streaming_compares_the_same_bits_and_writes_a_whole_file(
    tmp_path, as_users_run_it, monkeypatch
):
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", 4 * task.PIXELS * 256)
    monkeypatch.setattr(task, "QUICK", task.Case(8, 64, examples=513))
    options = ["--quick", "--out", str(tmp_path)]
    assert command_line.run(streaming.main, streaming.Config, options) == 0
    (path,) = tmp_path.glob("streaming-*.json")
    (case,) = json.loads(path.read_text())["cases"].values()
    assert list(case) == ["memory", "file, row by row", "memory-mapped", "Grain, one by one"]
    assert case["memory"]["times_the_first"] == {"median": 1, "min": 1, "max": 1}


def test_what_is_read_at_once_is_not_read_in_pieces():
    case = task.Case(8, 64, examples=100)
    streaming.require_pieces("memory", [], case)
    streaming.require_pieces("file", [60, 40] * streaming.EPOCHS, case)
    for name, reads in (("memory", [60, 40]), ("file", []), ("file", [100] * streaming.EPOCHS)):
        with pytest.raises(RuntimeError, match=f"'{name}' read "):
            streaming.require_pieces(name, reads, case)
    streaming.require_pieces("file", [512] * streaming.EPOCHS, task.QUICK)  # a trial


def test_the_sources_are_read_as_their_names_say(tmp_path, monkeypatch):
    shapes = []
    as_pixels = streaming.as_pixels

    def recorded(rows):
        shapes.append(rows.shape)
        return as_pixels(rows)

    monkeypatch.setattr(streaming, "as_pixels", recorded)
    np.save(tmp_path / "x.npy", np.arange(60, dtype=np.uint8).reshape(20, 3))
    with mock.patch.object(streaming.np, "load", wraps=np.load) as load:
        sources = streaming.sources(tmp_path / "x.npy")
    assert [call.kwargs for call in load.call_args_list] == [{}, {"mmap_mode": "r"}]
    assert isinstance(sources.pop("memory"), jax.Array)
    of_source = {}
    for name, source in sources.items():
        shapes.clear()
        source.rows(np.arange(5))
        of_source[name] = list(shapes)
    together = {name: [(5, 3)] for name in ("file, row by row", "memory-mapped")}
    assert of_source == together | {"Grain, one by one": [(3,)] * 5}


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
    draw = jax.jit(lambda key: jax.random.bits(jax.random.fold_in(key, 6), (per_step,)))
    np.testing.assert_array_equal(words[per_step : 2 * per_step], draw(key))


MANY_STEPS = task.Case(8, 2, examples=512)  # the library takes two of its steps in a turn


def lowered(variant, given):
    """Returns the text of an epoch's program, what the compiler is told, and the turns of its loop.

    The program is not compiled.
    """
    seen = []

    def compile_nothing(program, compiler_options=None):
        seen.append((program.as_text(), compiler_options))
        return mock.Mock(spec=jax.stages.Compiled)

    with variant.replaced(), mock.patch.object(jax.stages.Lowered, "compile", compile_nothing):
        made = in_jaxae.Epochs(given, variant.make_key, variant.steps_per_block)
    ((text, options),) = seen
    return text, options, made._run.epoch.layout(given.x).blocks


@pytest.mark.thorough
def test_each_variant_of_the_epoch_differs_as_its_name_says(as_users_run_it):
    given = in_jaxae.make_task(MANY_STEPS)
    words = ("threefry", "philox2x32", "philox4x32", "rng_bit_generator", "stablehlo.sort")
    text, options, turns = lowered(epoch.Variant(), given)
    assert not [word for word in words if word in text]
    assert turns == 128
    shown_as = {"Threefry (default)": "threefry", "unsafe_rbg": "rng_bit_generator"}
    names = {f"generator {name}": shown_as.get(name, name) for name in epoch.generators()}
    names["shuffle by sorting"] = "stablehlo.sort"
    found = {name: lowered(variant, given) for name, variant in epoch.variants().items()}
    for name, word in names.items():
        assert [other for other in words if other in found[name][0]] == [word], name
        assert found[name][1:] == (options, 128)
    for name, steps in (("one step at a time", 1), ("four steps at a time", 4)):
        assert found.pop(name)[1:] == (options, 512 // 2 // steps)
    copied = found.pop("shuffled copy of the data")[0]
    assert text.count("optimization_barrier") < copied.count("optimization_barrier")
    by_blocks = found.pop("Adam block by block")[0]
    assert text.count("stablehlo.sqrt") < by_blocks.count("stablehlo.sqrt")
    if jax.default_backend() == "cpu":
        assert options == programs._CPU_OPTIONS != {}
        assert found.pop("compiler's default options") == (text, {}, turns)
    assert found.keys() == names.keys()


def test_two_steps_at_a_time_train_the_same_epoch(as_users_run_it):
    given = in_jaxae.make_task(task.QUICK)
    assert in_jaxae.Epochs(given, steps_per_block=2)() == pytest.approx(
        in_jaxae.Epochs(given)(), rel=1e-5
    )


def test_a_variant_without_effect_or_with_another_loss_is_refused(monkeypatch):
    class Fake:
        def __init__(self, given, make_key, steps):
            self.program = jax.jit(lambda x: x * (steps or 2)).lower(1.0).compile()
            self.loss = 2.0 if steps == 7 else 1.0

        def __call__(self):
            return self.loss

    monkeypatch.setattr(epoch, "Epochs", Fake)
    variants = {"other": epoch.Variant(steps_per_block=3)}
    assert list(epoch.make_contenders(task.QUICK, variants)) == ["as it is", "other"]
    scan = partial(mock.patch.object, jax.lax, "scan", None)  # which no program here uses
    with pytest.raises(RuntimeError, match="'scan' is the same program"):
        epoch.make_contenders(task.QUICK, {"scan": epoch.Variant(replaced=scan)})
    with pytest.raises(RuntimeError, match=r"'half' comes to 2\.0, not 1\.0"):
        epoch.make_contenders(task.QUICK, {"half": epoch.Variant(steps_per_block=7)})


def products_of(jaxpr):
    """Returns the operations of every product that a jaxpr runs; a loop of unknown length once."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            sizes = [v.aval.size for v in (*eqn.invars, *eqn.outvars)]
            found.append(2 * math.isqrt(math.prod(sizes)))  # of shapes (m, k), (k, n) and (m, n)
        length = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in jex.jaxprs_in_params(eqn.params):
            found += length * products_of(inner)
    return found


def test_the_bare_products_are_those_of_training(as_users_run_it):
    given, steps = in_jaxae.make_task(task.QUICK), 512 // 64
    of_step = [2 * 64 * task.PIXELS * 8] * 5
    assert task.QUICK.flops == steps * sum(of_step)
    run, state = in_jaxae.prepared(given)
    arguments = run.arguments(state, jax.random.key(1), jnp.asarray(given.x))
    assert products_of(jax.make_jaxpr(run.train_blocks)(*arguments).jaxpr) == of_step
    kernels = [given.params[f"{part}_kernel_0"] for part in ("encoder", "decoder")]
    bare = jax.make_jaxpr(in_jaxae.make_products(task.QUICK))(given.x[:64], *kernels)
    assert products_of(bare.jaxpr) == [*of_step[:1], *steps * of_step]
    program = jax.jit(in_jaxae.make_products(task.QUICK)).lower(given.x[:64], *kernels).compile()
    # The compiler has left none out, that before the loop included.
    assert len(re.findall(r"= \S+ (?:dot|custom-call)\(", program.as_text())) >= 6


def test_products_are_rounded_to_bfloat16_and_summed_in_float32():
    rng = np.random.default_rng(3)
    shapes = ((64, 50), (50, 20), (64, 20))
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    @jax.jit
    def value_and_gradients(x, w, g):
        value, pull = jax.vjp(jax.vmap(jnp.dot, in_axes=(0, None)), x, w)
        return value, *pull(g)

    with rounded_products.rounded_products("bfloat16"):
        found = jax.device_get(value_and_gradients(*arrays))
    x, w, g = (array.astype(jnp.bfloat16).astype(np.float64) for array in arrays)
    for value, expected in zip(found, (x @ w, g @ w.T, x.T @ g), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-4)
    x, w, g = (array.astype(np.float64) for array in arrays)
    for value, other in zip(found, (x @ w, g @ w.T, x.T @ g), strict=True):
        assert np.abs(value - other).max() > 1e-2


def test_the_ways_to_train_several_models(monkeypatch):
    calls = []
    monkeypatch.setattr(jaxae, "fit_many", lambda *_, **o: calls.append(o["method"]) or mock.Mock())
    monkeypatch.setattr(jaxae, "fit", lambda *_, **o: calls.append("fit") or mock.Mock())
    monkeypatch.setattr(jax, "block_until_ready", lambda params: params)
    for way in growth.ways(growth.prepared(growth.Size(8, 4, 2, 3)), 3, 1).values():
        way()
    assert calls == ["threads", "vmap", "fit", "fit", "fit"]
    alone = [{"w": np.full(2, float(i))} for i in (1, 2)]
    together = {"w": jnp.array([[1.0, 1.0], [2.0, 2.0]])}
    trained = {"one after another": alone, "threads": together, "vmap": together}
    growth.require_same_models(trained, 2)
    with pytest.raises(RuntimeError, match="'vmap' trains other models"):
        growth.require_same_models(trained | {"vmap": {"w": together["w"][::-1]}}, 2)


def test_the_limited_run_has_less_memory_than_data(monkeypatch, capsys, tmp_path):
    run_large = partial(command_line.run, large.main, large.Config)
    assert run_large(["--times", "1", "--out", str(tmp_path / "out")]) == 2
    assert "--times must be a finite number above 1" in capsys.readouterr().err
    peaks = lambda *values: dict(
        zip(("limited", "not limited"), ({"peak_bytes": value} for value in values), strict=True)
    )
    large.require_different_memory(peaks(1, 10), size=5)
    for both in (peaks(6, 10), peaks(1, 4)):
        with pytest.raises(RuntimeError, match="data of 5 bytes, but the peaks"):
            large.require_different_memory(both, size=5)
    large.require_room(1.0)
    with pytest.raises(InputError, match="take a smaller --times"):
        large.require_room(1e15)
    monkeypatch.setattr(start, "in_own_process", lambda *_, **__: {})
    with pytest.raises(InputError, match="holds no process to a limit"):
        large.require_limits()


class StandInForMatfree:
    """The three functions of matfree.stochtrace that are called, as its documentation says."""

    def monte_carlo_frobeniusnorm_squared(self):
        return lambda matvec, v: jnp.sum(jnp.square(matvec(v)))

    def sampler_signs(self, like, *, num):
        return lambda key: jax.random.rademacher(key, (num, *like.shape), like.dtype)

    def estimator_monte_carlo(self, integrand, sampler):
        return lambda matvec, key: jnp.mean(jax.vmap(partial(integrand, matvec))(sampler(key)))


def test_estimates_are_compared_at_equal_time(monkeypatch):
    """With one unit our estimate is exact, and the variance of one probe of x is almost 2."""
    times = {"hutchinson": 0.02, "hutch++": 0.08, "matfree": 0.01, "jaxae": 0.02}
    monkeypatch.setattr(estimates, "find_matfree", StandInForMatfree)
    monkeypatch.setattr(
        estimates, "median_seconds", lambda both, rounds: {name: times[name] for name in both}
    )
    encode = lambda params, x_i: (params @ x_i)[None]
    found = estimates.compare_estimates(encode, jnp.ones(50), jnp.ones((20, 50)), 1)
    for method, probes in (("hutchinson", 32), ("hutch++", 128)):
        assert found[method]["jaxae"]["relative_error"] < 1e-5
        assert found[method]["matfree"]["probes"] == probes
        error = found[method]["matfree"]["relative_error"]
        # 200 draws: five standard errors of a mean of squares are a factor of 1.5
        assert error * np.sqrt(probes) == pytest.approx(np.sqrt(2 * 0.98), rel=0.25)
    assert "matfree is not installed" in estimates.summary(None)
    assert "hutchinson: error" in estimates.summary(found)


@pytest.mark.thorough
def test_encoders_of_many_kinds_are_compared_with_full_jacobians(tmp_path, monkeypatch):
    config = encoders.Config(quick=True, rounds=1, out=tmp_path / "out", parts=tmp_path / "parts")
    with jax.numpy_dtype_promotion("standard"):  # the poolings of Flax need it
        case = encoders.main(config)["cases"]["quick"]
    assert set(case["contenders"]) == {"jaxae", "jax jacfwd", "jax jacrev"}
    assert not case["is_same_program"]
    seconds = {name: found["seconds"]["median"] for name, found in case["contenders"].items()}
    better = min(seconds["jax jacfwd"], seconds["jax jacrev"])
    assert case["times_as_fast_as_the_better"] == pytest.approx(better / seconds["jaxae"])
    assert (case["estimates"] is None) == (estimates.find_matfree() is None)
    # What is kept is not measured again.
    monkeypatch.setattr(encoders, "measure", None)
    assert encoders.main(config)["cases"]["quick"] == case
    # What is too large is not run.
    monkeypatch.setattr(encoders, "MAX_BYTES", 0)
    with jax.numpy_dtype_promotion("standard"):
        assert list(encoders.contenders_of(encoders.QUICK)) == ["jaxae"]


def test_encoders_of_every_kind_are_in_the_list():
    """Convolutions with both poolings, strides, depthwise, deep, wide; batches from 1 to 512."""
    names, batches = " ".join(encoders.CASES), {c.batch for c in encoders.CASES.values()}
    assert len(encoders.CASES) >= 30
    assert {1, 512} <= batches
    for kind in ("average pooling", "max pooling", "strides", "depthwise", "deep", "wide"):
        assert kind in names


def test_a_rival_that_is_much_slower_runs_once(monkeypatch):
    runs = {"jaxae": 0, "near": 0, "far": 0}

    def contender(name):
        def call():
            runs[name] += 1

        return side_by_side.Contender(call, temporary_bytes=1)

    seconds = {"jaxae": 1.0, "near": 2.0, "far": 9.0}
    by_call = {name: contender(name) for name in runs}
    names = {id(c): name for name, c in by_call.items()}

    def timed(c):
        c.call()
        return seconds[names[id(c)]]

    monkeypatch.setattr(side_by_side, "_timed", timed)
    monkeypatch.setattr(side_by_side, "_PAUSE", 0)
    raced = encoders.race_fast_ones(by_call, seconds, rounds=3)
    assert runs["far"] == 0 < runs["near"]
    assert raced["far"]["times_the_first"]["median"] == 9.0


def test_the_cost_model_is_measured(tmp_path):
    found = cost_model.main(cost_model.Config(quick=True, rounds=1, out=tmp_path / "out"))
    (path,) = (tmp_path / "out").glob("cost-model-*.json")
    assert json.loads(path.read_text())["operations"] == found["operations"]
    assert all(value > 0 for value in found["operations"].values())
    assert list(found["blocks_over_whole_by_columns"]) == [8]
    assert all(ratio > 0 for ratio in found["closed_form_over_jaxae_by_blocks"][1].values())


def test_decoding_is_measured_beside_the_whole_code(tmp_path):
    found = dictionary.main(dictionary.Config(quick=True, rounds=1, out=tmp_path / "out"))
    (path,) = (tmp_path / "out").glob("dictionary-*.json")
    (row,) = json.loads(path.read_text())["widths"]
    assert row == found["widths"][0]
    for part in ("decode", "decode_and_gradients"):
        assert list(row[part]) == ["whole code", "active units"]
        assert all(way["seconds"]["median"] > 0 for way in row[part].values())
    arrays = dictionary.make_inputs(64)
    results = {name: decode(*arrays)[None] for name, decode in dictionary.WAYS.items()}
    dictionary.require_equal(results)
    with pytest.raises(RuntimeError, match="differ by"):
        dictionary.require_equal(results | {"active units": 1.01 * results["active units"]})


BENCHMARKS = (
    *(agreement, contraction, cost_model, dictionary, encoders, epoch, growth, large, start),
    *(streaming, training),
)


@pytest.mark.parametrize("module", BENCHMARKS, ids=lambda module: module.__name__.split(".")[-1])
def test_each_benchmark_has_a_folder_of_its_own(module, monkeypatch):
    opened = []

    @contextmanager
    def record(benchmark, out, **_):
        opened.append((benchmark, out))
        raise InputError("that is enough")
        yield

    monkeypatch.setattr(common, "record", record)
    monkeypatch.setattr(large, "require_limits", lambda: None)
    monkeypatch.setattr(large, "require_room", lambda size: None)
    with pytest.raises(InputError):
        module.main(module.Config())
    assert opened == [(module.__name__.split(".")[-1], None)]


def test_a_benchmark_leaves_the_results_of_another_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for benchmark in ("training", "contraction"):
        with common.record(benchmark, None) as record:
            record.write_json(f"{benchmark}-here.json", {})
    for benchmark in ("training", "contraction"):
        assert (tmp_path / "results/benchmarks" / benchmark / f"{benchmark}-here.json").exists()


def test_kept_programs_are_not_timed(tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", "/kept")
    try:
        with pytest.raises(InputError, match=r"kept in /kept, .* unset JAX_COMPILATION_CACHE_DIR"):
            common.record("training", tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_other_systems_have_neither_affinity_nor_usage_of_a_child(monkeypatch, capsys, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert common.core_count() == 6
    if jax.default_backend() == "cpu":
        assert common.device_name() == "cpu-6-cores"
    monkeypatch.delattr(os, "wait4", raising=False)
    for module in (start, large):
        options = ["--out", str(tmp_path / "out")]
        assert command_line.run(module.main, module.Config, options) == 2
        error = capsys.readouterr().err
        assert "needs os.wait4; run it on Linux or macOS" in error
        assert error.count("\n") == 1


def test_the_stream_of_random_words_ends_with_the_keys(monkeypatch, capsysbinary):
    monkeypatch.setattr(random_bits, "_PER_STEP", 4)
    monkeypatch.setattr(random_bits, "_AT_A_TIME", 1)
    monkeypatch.setattr(random_bits, "_KEYS", 10)
    fake = lambda key, first, per_key: first + np.arange(4, dtype=np.uint32)
    monkeypatch.setattr(random_bits, "words", fake)
    random_bits.main(random_bits.Config(order="keys"))
    written = np.frombuffer(capsysbinary.readouterr().out, np.uint32)
    assert written.tolist() == list(range(8))
