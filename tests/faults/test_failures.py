"""What can go wrong after the training: it is kept, one line says so, and --resume goes on.

Each failure is made in a run of the denoising experiment on digits, which is then resumed and
compared, to the bit, with a run that was left alone.
"""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from jax_settings import as_on_the_command_line
from matplotlib.figure import Figure

import jaxae
from experiments import denoising
from experiments.common import plots
from experiments.common.results import checkpoint_files, checkpoint_store, output_folder
from experiments.common.run import command_line, parts, standard_output
from experiments.common.run.experiment import ExperimentRun, load
from experiments.common.training import sweep
from experiments.denoising import baselines

ROOT = Path(__file__).parents[2]
OPTIONS = ["--dataset", "digits", "--quick", "--code-dims", "5", "--noise-levels", "0.4"]
MODEL = "dim-5_noise-0.4_seed-0"


def draw_two(figures, run, trained, found):
    """Two small figures instead of eight."""
    lines = [plots.plain("a line", [1, 2], [3, 4], plots.EXACT)]
    for name in ("flow_chart.png", "curves.png"):
        run.draw(plots.panels, name, [plots.Panel("x", "y", lines)], title=name)


@pytest.fixture(scope="module", autouse=True)
def two_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plots.style.STYLE, "savefig.dpi", 30)
        patch.setattr(parts, "draw", draw_two)
        yield


def run(out, *more, epochs=3):
    with as_on_the_command_line():
        args = [*OPTIONS, "--epochs", str(epochs), "--out", str(out), *more]
        return command_line.run(denoising.main, denoising.Config, args)


def final_arrays(out):
    path = out / "checkpoints" / MODEL / "000003"
    return checkpoint_files.read_arrays(path, checkpoint_files.read_manifest(path))


def numbers(out):
    return re.sub(r'"seconds(_per_run)?": [0-9.]+', "", (out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def untouched(two_figures, tmp_path_factory):
    """The folder of a run that nothing has disturbed, with its checkpoints."""
    out = tmp_path_factory.mktemp("untouched") / "out"
    assert run(out, "--checkpoint-every", "3") == 0
    return out


def resumes_to(untouched, out):
    """Checks that a run goes on without training, to the files and the bits of the other one."""
    before = final_arrays(out)
    assert before.keys() == final_arrays(untouched).keys()
    for name, array in final_arrays(untouched).items():
        assert array.tobytes() == before[name].tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            checkpoint_store.CheckpointStore, "save", lambda *_: pytest.fail("trained again")
        )
        assert run(out, "--resume") == 0
    assert numbers(out) == numbers(untouched)
    assert (out / "log.jsonl").read_text() == (untouched / "log.jsonl").read_text()
    files = lambda folder: {path.name for path in folder.iterdir()}
    assert files(out) == files(untouched)
    for name, array in final_arrays(untouched).items():  # a finished run keeps its checkpoints
        assert array.tobytes() == final_arrays(out)[name].tobytes()


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_when_a_figure_is_written(untouched, tmp_path, monkeypatch, capsys):
    save = Figure.savefig

    def fails_at_the_second(self, path, **options):
        save(self, path, **options)
        if path.name == "curves.png":  # half of it is there
            no_room()

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", fails_at_the_second)
        assert run(tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.err == f"error: [Errno 28] No space left on device: '{tmp_path}'\n"
    assert f"the numbers are in {tmp_path}, without the figures" in printed.out
    assert f"training is kept in {tmp_path}: the same command with --resume" in printed.out
    assert numbers(tmp_path) == numbers(untouched)
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json",
        "config.json",
        "log.jsonl",
        ".files.json",
        "checkpoints",
    }
    resumes_to(untouched, tmp_path)


@pytest.mark.thorough
def test_a_figure_that_cannot_be_drawn(untouched, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("latex was not able to process the following string")

    (tmp_path / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(plots, "panels", fail)
        with pytest.raises(RuntimeError, match="latex"):
            run(tmp_path)
    assert "training is kept" in capsys.readouterr().out
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "notes.txt").unlink()
    resumes_to(untouched, tmp_path)


@pytest.mark.thorough(by_default=["write_json"])
@pytest.mark.parametrize("what", ["write_json", "_write_listing"])
def test_a_disk_that_is_full_when_numbers_are_written(
    what, untouched, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(output_folder.RunRecord, what, no_room)
        assert run(tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.err == f"error: [Errno 28] No space left on device: '{tmp_path}'\n"
    assert "training is kept" in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    resumes_to(untouched, tmp_path)


class FullDisk:
    """A file that takes nothing between two of its writes, or for good."""

    def __init__(self, file, writes):
        self._file, self._writes, self._count = file, writes, 0

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, text):
        self._count += 1
        if self._count in self._writes:
            self._file.write(text[:5])
            no_room()
        return self._file.write(text)


@pytest.mark.thorough
@pytest.mark.parametrize("writes", [range(2, 3), range(2, 1000)], ids=["for a time", "for good"])
def test_a_disk_that_is_full_when_the_log_is_written(
    writes, untouched, tmp_path, monkeypatch, capsys
):
    enter = output_folder.RunRecord.__enter__

    def with_a_full_disk(self):
        enter(self)
        self._log = FullDisk(self._log, writes)
        return self

    with monkeypatch.context() as patch:
        patch.setattr(output_folder.RunRecord, "__enter__", with_a_full_disk)
        status = run(tmp_path)
    if len(writes) == 1:
        assert status == 0
        assert (tmp_path / "log.jsonl").read_text() == (untouched / "log.jsonl").read_text()
    else:
        assert status == 1
        said = f"error: [Errno 28] No space left on device: '{tmp_path}'\n"
        assert capsys.readouterr().err == said
        resumes_to(untouched, tmp_path)


@pytest.mark.thorough
def test_a_file_of_somebody_that_has_come_in_the_meantime(untouched, tmp_path, monkeypatch, capsys):
    score = baselines.score

    def meanwhile(*arguments):
        (tmp_path / "flow_chart.png").write_text("mine")
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(baselines, "score", meanwhile)
        assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has a file flow_chart.png that no run has written" in error
    assert (tmp_path / "flow_chart.png").read_text() == "mine"
    kept = Path(error.strip().rpartition(" ")[2])
    assert numbers(kept) == numbers(untouched)
    (tmp_path / "flow_chart.png").unlink()
    assert run(tmp_path, "--resume") == 0
    assert numbers(kept) == numbers(tmp_path)  # it was said to be there, and still is
    shutil.rmtree(kept)
    resumes_to(untouched, tmp_path)


def test_an_error_in_on_epoch_is_raised_after_a_save(untouched, tmp_path, monkeypatch):
    """And the models beside it are kept where they are, as far as they have come."""

    def fail(self, run, epoch, loss):
        if epoch == 3:
            raise RuntimeError("on_epoch")

    with monkeypatch.context() as patch:
        patch.setattr(sweep.Tag, "log", fail)
        with pytest.raises(RuntimeError, match="on_epoch"):
            run(tmp_path)
    resumes_to(untouched, tmp_path)


# What a stream cannot take


class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


STREAMS = {
    "nobody reads": Closed,
    "closed from the start": lambda: None,
    "closed later": lambda: (lambda stream: (stream.close(), stream)[1])(io.StringIO()),
    "ASCII": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
}


def say_much(config):
    """An experiment that trains nothing."""
    with ExperimentRun("trial", config, load(config), total=9) as run:
        for unit in range(9):
            run.log(f"unit {unit}", unit=unit)
            run.say(f"unit {unit}")
        print("and this", file=sys.stderr, flush=True)
        return run.finish({})


@pytest.mark.parametrize("stream", STREAMS)
def test_what_a_stream_cannot_take_stops_nothing(stream, tmp_path, monkeypatch):
    np.save(tmp_path / "zahlen-ä-数.npy", np.random.default_rng(0).uniform(size=(20, 4)))
    options = ["--dataset", str(tmp_path / "zahlen-ä-数.npy"), "--out", str(tmp_path / "out")]
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, STREAMS[stream]())
    given = sys.stdout
    with as_on_the_command_line():
        assert command_line.run(say_much, command_line.CommonConfig, options) == 0
    assert sys.stdout is given
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["train_examples"] == 16
    if stream == "ASCII":
        given.seek(0)
        assert "zahlen-\\xe4-\\u6570.npy: 16 train" in given.read()


@pytest.mark.skipif(
    signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, reason="SIGTERM is ignored here"
)
def test_a_signal_while_the_results_are_renamed_is_too_late(tmp_path, monkeypatch):
    publish = output_folder.RunRecord.publish

    def signalled(self, *names):
        os.kill(os.getpid(), signal.SIGTERM)
        publish(self, *names)

    monkeypatch.setattr(output_folder.RunRecord, "publish", signalled)
    options = ["--dataset", "digits", "--out", str(tmp_path)]
    with as_on_the_command_line():
        assert command_line.run(say_much, command_line.CommonConfig, options) == 0
    assert (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob(".partial-*"))


def test_a_signal_in_the_middle_of_a_line_is_heard(monkeypatch):
    class Reentered(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside")

    monkeypatch.setattr(sys, "stdout", Reentered())
    with standard_output.tolerated():
        print("stopping after this step")


@pytest.mark.thorough
def test_as_a_shell_does_it(untouched, tmp_path):
    """A reader that goes, a closed error stream, and a user's own settings of matplotlib."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 60\nbackend: nonsense\n")
    programs = jax.config.values["jax_compilation_cache_dir"]
    options = f'{" ".join(OPTIONS)} --epochs 3 --compilation-cache "{programs}" --out "$1"'
    command = f'"{sys.executable}" -m experiments.denoising {options}'
    script = f"{command} 2>&- | head -1; echo ${{PIPESTATUS[0]}}"
    environment = os.environ | {
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "MPLBACKEND": "module://matplotlib_inline.backend_of_nobody",
        "PYTHONIOENCODING": "ascii",
    }
    found = subprocess.run(
        ["bash", "-c", script, "bash", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    first, status = found.stdout.splitlines()
    assert "digits: 1000 train" in first
    assert status == "0"
    assert found.stderr == ""
    assert numbers(tmp_path / "out") == numbers(untouched)


def test_figures_do_not_follow_the_settings_of_a_user(tmp_path):
    def picture(name):
        path = tmp_path / name
        lines = [plots.plain("a line", [1, 2], [3, 4], plots.EXACT)]
        plots.panels(path, [plots.Panel("x", "y", lines)], title="a title")
        return path.read_bytes()

    expected = picture("default.png")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 60, "lines.linewidth": 9}):
        assert picture("users.png") == expected
        assert matplotlib.rcParams["font.size"] == 60


# More and fewer epochs


EVERY = ["--checkpoint-every", "1"]


def test_more_epochs_at_resume_are_those_of_a_longer_run(untouched, tmp_path, monkeypatch, capsys):
    assert run(tmp_path, *EVERY, epochs=1) == 0
    capsys.readouterr()
    saved = []
    save = checkpoint_store.CheckpointStore.save
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint_store.CheckpointStore,
            "save",
            lambda *a: (saved.append(a[2].epoch), save(*a))[1],
        )
        assert run(tmp_path, *EVERY, "--resume", epochs=3) == 0
    assert saved == [2, 3]
    said = capsys.readouterr().out
    assert f"--epochs was 1 and is 3: going on with {MODEL}, as if it had been so from" in said
    assert numbers(tmp_path) == numbers(untouched)
    for name, array in final_arrays(untouched).items():
        assert array.tobytes() == final_arrays(tmp_path)[name].tobytes()


@pytest.mark.thorough
def test_fewer_epochs_at_resume_are_those_of_a_shorter_run(untouched, tmp_path, capsys):
    assert run(tmp_path / "long", *EVERY, epochs=4) == 0
    assert run(tmp_path / "short", epochs=1) == 0
    # From the checkpoint after 3 epochs; then from the beginning, since none after 1 was kept.
    for epochs, other in ((3, untouched), (1, tmp_path / "short")):
        assert run(tmp_path / "long", *EVERY, "--resume", epochs=epochs) == 0
        assert numbers(tmp_path / "long") == numbers(other)
        places = (tmp_path / "long" / "checkpoints" / MODEL).iterdir()
        assert max(path.name for path in places) == f"00000{epochs}"
    assert f"going on with {MODEL} from before that, or anew" in capsys.readouterr().out
    moved = tmp_path / "long" / "checkpoints.earlier-1" / MODEL / "000004"
    assert checkpoint_files.read_manifest(moved)["epoch"] == 4


def test_where_the_steps_depend_on_the_number_of_epochs_models_are_trained_anew(tmp_path):
    said = []
    state = jaxae.TrainState({"w": np.ones(2)}, (), np.int32(5))
    snapshot = jaxae.Snapshot(state, 2, 0, np.zeros(2), np.zeros(9))
    options = {"identity": {}, "environment": {}, "every": 1, "say": said.append}
    store = checkpoint_store.CheckpointStore(tmp_path / "c", is_resumed=False, epochs=2, **options)
    store.register(["scheduled"]).save(0, snapshot)
    store.register(["constant"], epochs_if_extendable=2).save(0, snapshot)
    assert store.close(is_over=True)
    again = checkpoint_store.CheckpointStore(
        tmp_path / "c", is_resumed=True, epochs=None, **options
    )
    assert again.register(["scheduled"]).restore(0, state) is None
    assert again.register(["constant"], epochs_if_extendable=50).restore(0, state).epoch == 2
    assert "--epochs was 2 and is default: training scheduled anew, because" in said[0]
    assert (tmp_path / "c.earlier-1" / "scheduled" / "000002").is_dir()
