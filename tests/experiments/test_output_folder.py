"""A run replaces and removes only what it can prove to have written itself."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from experiments.common import interrupts
from experiments.common.errors import InputError
from experiments.common.files import locks
from experiments.common.results import output_folder
from experiments.common.results.output_folder import RunRecord

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def write(folder, **files):
    with RunRecord(folder) as record:
        for name, text in files.items():
            record.path(name.replace("_", ".")).write_text(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "log.jsonl"])
def test_a_file_that_no_run_has_written_is_refused_before_anything_is_trained(name, tmp_path):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match=f"has a file {name} that no run has written"):
        RunRecord(tmp_path).__enter__()
    assert contents(tmp_path) == {name: '{"mine": 1}'}


def test_the_page_of_the_lecture_is_such_a_file(tmp_path):
    (tmp_path / "index.html").write_text("my page")
    with pytest.raises(InputError, match=r"has a file index.html"):
        RunRecord(tmp_path, "index.html").__enter__()


def test_a_file_that_was_changed_after_a_run_is_refused_or_left(tmp_path):
    write(tmp_path, config_json="{}", curves_png="old", rows_png="old")
    (tmp_path / "rows.png").write_text("touched up by hand")
    write(tmp_path, config_json="{}", curves_png="new")  # rows.png is stale, and not ours any more
    assert contents(tmp_path)["rows.png"] == "touched up by hand"
    assert contents(tmp_path)["curves.png"] == "new"
    (tmp_path / "config.json").write_text('{"note": "mine"}')
    with pytest.raises(InputError, match=r"has a file config.json .* or that was changed since"):
        write(tmp_path, config_json="{}")
    assert contents(tmp_path)["config.json"] == '{"note": "mine"}'


def test_a_file_that_comes_in_the_way_of_a_figure_is_kept_and_so_are_the_results(tmp_path):
    record = RunRecord(tmp_path).__enter__()
    record.path("config.json").write_text("{}")
    record.path("rows.png").write_text("new")
    (tmp_path / "rows.png").write_text("mine")
    with pytest.raises(InputError, match=r"has a file rows.png .* results of this run are in"):
        record.__exit__(None, None, None)
    assert contents(tmp_path) == {"rows.png": "mine"}
    (kept,) = tmp_path.glob(".partial-*")
    (tmp_path / "rows.png").unlink()
    write(tmp_path, config_json="{}")  # a later run does not remove what was said to be there
    assert contents(kept)["rows.png"] == "new"


def test_a_listing_of_earlier_versions_is_believed(tmp_path):
    for name in ("config.json", "old.png", "mine.png"):
        (tmp_path / name).write_text("1")
    (tmp_path / ".files.json").write_text('["config.json", "old.png", "../x", 3]')
    write(tmp_path, config_json="2")
    found = contents(tmp_path)
    assert found.keys() == {"config.json", "log.jsonl", "mine.png", ".files.json"}
    assert found["config.json"] == "2"


@pytest.mark.parametrize("listing", ["[" * 10**5, "{", "3", '{"a": 1, "b": [2]}', ""])
def test_a_damaged_listing_proves_nothing(listing, tmp_path):
    (tmp_path / ".files.json").write_text(listing)
    for name in ("a", "b"):
        (tmp_path / name).write_text("mine")
    write(tmp_path, config_json="2")
    assert {"a", "b", "config.json"} <= contents(tmp_path).keys()


def test_a_run_that_was_killed_while_files_were_renamed_is_followed_by_another(
    tmp_path, monkeypatch
):
    write(tmp_path, config_json="1", a_png="1", b_png="1")
    replace, count = os.replace, []

    def killed_after_three(*paths):
        count.append(paths)
        if len(count) == 4:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(output_folder.os, "replace", killed_after_three)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, config_json="2", a_png="2", c_png="2")
    monkeypatch.undo()
    write(tmp_path, config_json="3")
    assert contents(tmp_path).keys() == {"config.json", "log.jsonl", ".files.json"}


def test_hidden_folders_of_killed_runs_are_removed_and_those_of_others_are_not(tmp_path):
    killed = tmp_path / ".partial-killed"
    with RunRecord(tmp_path) as record:
        shutil.copytree(record._staging, killed)
    other = tmp_path / ".partial-download"
    other.mkdir()
    (other / "data").write_text("mine")
    write(tmp_path, config_json="{}")
    assert not killed.exists()
    assert contents(other) == {"data": "mine"}


def test_where_the_system_has_no_temporary_folder_it_is_that_of_the_run(tmp_path, monkeypatch):
    """As in a container that can write to the results alone: matplotlib needs one."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    with RunRecord(tmp_path / "out") as record:
        assert Path(os.environ["MPLCONFIGDIR"]).is_relative_to(tmp_path / "out")
        assert Path(tempfile.mkdtemp()).is_relative_to(tmp_path / "out")
        record.write_json("config.json", {})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("config.json", "log.jsonl", ".files.json")
    }
    assert "MPLCONFIGDIR" not in os.environ
    with pytest.raises(FileNotFoundError, match="No usable temporary directory"):
        tempfile.gettempdir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_listing_that_is_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".files.json")
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(InputError, match="has a file metrics"), RunRecord(tmp_path):
        pytest.fail("the file of somebody would be replaced")


@pytest.mark.parametrize("made_by", [(tempfile, "mkdtemp"), (output_folder.locks, "_acquired")])
def test_a_signal_while_a_record_is_opened_leaves_nothing(made_by, tmp_path, monkeypatch):
    place, name = made_by
    make = getattr(place, name)

    def make_and_signal(*arguments, **options):
        made = make(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)
        return made

    monkeypatch.setattr(place, name, make_and_signal)
    with interrupts.listening(), pytest.raises(interrupts.Interrupted):  # noqa: SIM117
        with RunRecord(tmp_path / "new" / "out"):
            pytest.fail("the signal was not heard")
    assert not list(tmp_path.iterdir())


def no_flock(read_only_only):
    real = fcntl.flock

    def flock(file, operation):
        is_read_only = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if is_read_only or not read_only_only:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return real(file, operation)

    return flock


@pytest.mark.parametrize("read_only_only", [True, False], ids=["NFS", "no locks at all"])
def test_a_second_run_is_refused_where_locks_do_not_work(read_only_only, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock(read_only_only))
    with RunRecord(tmp_path) as record:
        record.path("config.json").write_text("{}")
        with pytest.raises(InputError, match="another run is writing to --out"):
            RunRecord(tmp_path).__enter__()
        assert record.path("config.json").exists()
    write(tmp_path, config_json="2")  # free again
    assert contents(tmp_path).keys() == {"config.json", "log.jsonl", ".files.json"}


def test_a_lock_file_of_a_process_that_is_gone_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock(False))
    code = "import filelock, os, sys\nlock = filelock.SoftFileLock(sys.argv[1])\n"
    code += "lock.acquire()\nos._exit(0)"
    subprocess.run([sys.executable, "-c", code, tmp_path / ".lock.owner"], check=True)
    assert [path.name for path in tmp_path.iterdir()] == [".lock.owner"]
    write(tmp_path, config_json="{}")


def test_a_lock_waits_as_long_as_it_is_told(tmp_path):
    with locks.held(tmp_path / "x", seconds=0):
        second = locks.held(tmp_path / "x", seconds=0.1)
        with pytest.raises(locks.HeldError, match="another process holds"):
            second.__enter__()
    assert not list(tmp_path.iterdir())


def test_committed_results_are_those_of_a_run(tmp_path):
    """So a copy of them is replaced by a run of one's own."""
    folders = [path.parent for path in RESULTS.glob("*/*/metrics.json")]
    assert len(folders) >= 10
    for folder in folders:
        listed = output_folder._read_listing(folder)
        names = {path.name for path in folder.iterdir()} - {".files.json", "log.jsonl"}
        assert listed.keys() == names, folder
        for name in names:
            assert output_folder._is_listed(folder / name, listed), folder / name
        assert json.loads((folder / "config.json").read_text())["settings"]
