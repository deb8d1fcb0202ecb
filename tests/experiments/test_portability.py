"""Paths that people type, devices that are not there, and systems that are not Linux."""

import os
import runpy
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import denoising, export, lecture
from experiments.benchmarks import common as benchmarks
from experiments.common import libraries, processes
from experiments.common.data.sources import cache
from experiments.common.data.sources.rows_file import RowsFile
from experiments.common.errors import InputError
from experiments.common.files import locks
from experiments.common.run import argv, command_line, compilation, devices, memory

ROOT = Path(__file__).parents[2]
CACHES = ("JAXAE_CACHE_DIR", "XDG_CACHE_HOME")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder that is empty, and a working folder beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A user of whom neither a variable nor the system knows a home folder."""
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)

    def unknown(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def parsed(config_class, *args):
    """Returns the options that a script is given for some words of a command line."""
    found = []

    def main(config):
        found.append(config)

    main.__module__ = config_class.__module__
    patch = pytest.MonkeyPatch()
    patch.setattr(config_class, "check", lambda _: None)
    try:
        assert command_line.run(main, config_class, args) == 0
    finally:
        patch.undo()
    return found[0]


def refused(capsys, *args):
    """Returns the one line with which the denoising experiment refuses its options."""
    assert command_line.run(denoising.main, denoising.Config, args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_settings_of_jax_that_forbid_something_stop_no_experiment(home):
    """As JAX_NUMPY_DTYPE_PROMOTION=strict, ... in the environment of a user who debugs."""
    forbidding = {
        "jax_numpy_dtype_promotion": "strict",
        "jax_numpy_rank_promotion": "raise",
        "jax_transfer_guard": "disallow",
        "jax_debug_key_reuse": True,
        "jax_disable_jit": True,
    }
    found = []

    def main(config):
        x = jnp.ones((2, 3), jnp.float32) + np.ones(3, np.int32)
        key = jax.random.key(0)
        assert jax.jit(jax.random.normal)(key) == jax.jit(jax.random.normal)(key)
        jax.jit(lambda traced: found.append(traced))(x)
        assert isinstance(found.pop(), jax.core.Tracer)
        found.append(float(x.sum()))

    before = {name: jax.config.values[name] for name in forbidding}
    try:
        for name, value in forbidding.items():
            jax.config.update(name, value)
        assert command_line.run(main, command_line.CommonConfig, []) == 0
        assert {name: jax.config.values[name] for name in forbidding} == forbidding
        with pytest.raises(Exception, match="transfer"):
            main(None)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert found == [12.0]


def test_warnings_of_other_libraries_stop_no_experiment(monkeypatch):
    """As PYTHONWARNINGS=error in the environment of a user who debugs."""
    monkeypatch.setattr(sys, "warnoptions", ["error"])

    def main(config):
        warnings.warn("a cache cannot be read", stacklevel=1)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("error")
        assert command_line.run(main, command_line.CommonConfig, []) == 0
        with pytest.raises(UserWarning, match="a cache"):
            main(None)
    assert [str(one.message) for one in heard] == ["a cache cannot be read"]


# libraries


def test_a_variable_that_jax_does_not_know_is_one_line():
    command = [sys.executable, "-m", "experiments.denoising", "--help"]
    for name, value in (("JAX_ENABLE_X64", "maybe"), ("TQDM_MININTERVAL", "soon")):
        ended = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {name: value}
        )
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"error: {name.split('_')[0].lower()} cannot be imported: ")
        assert line.endswith(f"{name}={value}")


def test_a_library_that_is_not_installed_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(libraries, "_NEEDED", ("jax", "no_such_library"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.sparse", "--quick"])
    with pytest.raises(SystemExit) as ended:
        libraries.require()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: no_such_library must be installed for {sys.executable}: ")
    for words in (["-m", "experiments"], ["-m", "experiments.benchmarks.epoch"], ["-c", "..."]):
        monkeypatch.setattr(sys, "orig_argv", ["python", *words])
        libraries.require()


def test_an_older_python_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "experiments" / "__init__.py"))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: Python 3.11 or newer is needed, and this is older\n"


# paths


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no folder that is in use")
def test_a_working_folder_that_is_gone_is_one_line(home, tmp_path, capsys):
    (tmp_path / "work").rmdir()
    try:
        assert refused(capsys).startswith("error: the working folder is not there any more")
    finally:
        os.chdir(tmp_path)


def test_a_home_folder_is_expanded_in_every_path(home, monkeypatch):
    options = ("--out=~/r", "--data-dir=~/d/e", "--dataset=~/x.npy")
    config = parsed(denoising.Config, *options)
    found = [config.out, config.data_dir, config.dataset]
    assert found == [home / "r", home / "d" / "e", str(home / "x.npy")]
    config = parsed(lecture.Config, "--out", "~", "--dataset", "digits")
    assert (config.out, config.dataset, config.data_dir) == (home, "digits", None)
    config = parsed(export.Config, "~/run", "--out=~/exported")
    assert (config.path, config.out) == (home / "run", home / "exported")
    assert parsed(benchmarks.Options, "--out=~/b").out == home / "b"
    assert parsed(denoising.Config, "--out=a~b").out == Path("a~b")


def test_tuples_of_paths_are_expanded(home):
    found = argv._expand((Path("~/a"), Path("b"), 3), "--paths")
    assert found == (home / "a", Path("b"), 3)


def test_the_compilation_cache_is_expanded(home):
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        for given, meant in (("~/c", str(home / "c")), ("gs://bucket/c", "gs://bucket/c")):
            jax.config.update("jax_compilation_cache_dir", given)  # JAX_COMPILATION_CACHE_DIR
            parsed(denoising.Config)
            assert jax.config.values["jax_compilation_cache_dir"] == meant
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_home_folder_that_is_unknown_is_one_line(capsys, no_home):
    assert "--out ~/r: there is no such home folder" in refused(capsys, "--out=~/r")


def test_an_empty_home_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("HOME", "")
    parsed(denoising.Config)
    assert "HOME" not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is for Linux")
def test_the_cache_is_where_the_environment_says(home, monkeypatch):
    usual = home / ".cache" / "jaxae"
    assert cache.folder() == usual
    for ignored in ("", "relative", "~/tilde"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.folder() == usual
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache.folder() == home / "xdg" / "jaxae"
    monkeypatch.setenv("JAXAE_CACHE_DIR", "")
    assert cache.folder() == home / "xdg" / "jaxae"
    monkeypatch.setenv("JAXAE_CACHE_DIR", "~/own")
    assert cache.folder() == home / "own"


def test_the_cache_is_where_other_systems_have_theirs(home, monkeypatch):
    monkeypatch.setattr(cache.sys, "platform", "darwin")
    assert cache.folder() == home / "Library" / "Caches" / "jaxae"
    monkeypatch.setattr(cache.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "")
    assert cache.folder() == home / "AppData" / "Local" / "jaxae"
    monkeypatch.setenv("LOCALAPPDATA", str(home / "local"))
    assert cache.folder() == home / "local" / "jaxae"


def test_without_a_home_the_cache_is_among_the_temporary_files(no_home, tmp_path, monkeypatch):
    with cache.turn() as folder:
        assert folder == tmp_path / f"jaxae-{os.getuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "entry").mkdir()
    assert cache.folder() == folder
    folder.chmod(0o777)
    with pytest.raises(OSError, match="not this user's alone; JAXAE_CACHE_DIR names another"):
        cache.folder()
    (folder / "entry").rmdir()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(OSError, match="not this user's alone"):
        cache.folder()


def test_a_home_that_is_not_there_is_as_none(home, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cache.folder().parent == tmp_path
    (home / ".cache" / "jaxae").mkdir(parents=True)
    assert cache.folder() == home / ".cache" / "jaxae"  # to be read from


def test_the_cache_is_for_one_at_a_time(home):
    seen = []

    def work():
        with cache.turn() as folder:
            seen.append("in")
            threading.Event().wait(0.01)
            seen.append("out")
            (folder / "entry").touch()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["in", "out", "in", "out"]
    assert [path.name for path in cache.folder().iterdir()] == ["entry"]


def test_a_cache_in_which_nothing_was_written_is_removed(home):
    with cache.turn() as folder:
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not any(home.iterdir())


def test_a_cache_that_cannot_be_locked_is_used(home, monkeypatch):
    monkeypatch.setattr(locks.FileLock, "acquire", lambda *_, **__: os.stat(home / "nowhere"))
    with cache.turn() as folder:
        (folder / "entry").touch()
    assert [path.name for path in folder.iterdir()] == ["entry"]


# options


@pytest.mark.parametrize(
    ("option", "args"),
    [
        ("--epochs", ["--epochs", "1", "--epochs", "2"]),
        ("--epochs", ["--epochs=1", "--epochs", "1"]),
        ("--code-dims", ["--code-dims", "8", "--seed", "1", "--code-dims", "16"]),
        ("--code_dims", ["--code-dims=16", "--code_dims", "8"]),
        ("--quick", ["--quick", "--quick"]),
    ],
)
def test_an_option_given_twice_is_refused(option, args, capsys):
    line = refused(capsys, *args)
    assert line == f"error: {option} is given twice; give it once, with all its values"


def test_an_empty_value_is_refused(capsys):
    assert "--out has an empty value; give one, or leave it out" in refused(capsys, "--out=")
    assert "--data-dir has an empty value" in refused(capsys, "--data-dir", "")
    assert command_line.run(export.main, export.Config, [""]) == 2
    assert "an argument has an empty value" in capsys.readouterr().err


# devices


@pytest.mark.parametrize("text", ["", "Unknown backend gpux.\nmore"])
def test_devices_that_are_not_there_are_one_line(text, monkeypatch, capsys):
    def fails(_):
        raise AssertionError(text)

    monkeypatch.setattr(jax, "device_put", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    line = refused(capsys, "--dataset", "nowhere.npy")  # before any data are read
    said = " (Unknown backend gpux.)" if text else ""
    remedy = "without JAX_PLATFORMS=cuda it takes what this machine has"
    assert line == f"error: JAX finds no device{said}; {remedy}"
    assert command_line.run(export.main, export.Config, ["."]) == 2
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(InputError, match=r"JAX finds no device( \(Unk.*\))?$"):
        devices.require_devices()


SCRIPTS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"): path
    for path in sorted(ROOT.glob("experiments/**/*.py"))
    if path.name == "__main__.py" or "__main__" in path.read_text("utf-8")
}


def test_there_are_scripts():
    assert len(SCRIPTS) >= 20


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_that_is_started_as_a_file_says_how_to_start_it(name):
    command = [sys.executable, "-I", "-S", SCRIPTS[name]]  # a Python that has no package at all
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line == f"error: run python -m {name} in the repository root"


# systems


def test_rows_are_read_by_threads_where_a_file_has_one_position(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    x = np.arange(4000 * 7, dtype=np.int32).reshape(4000, 7)
    np.save(tmp_path / "x.npy", x)
    rows = RowsFile(tmp_path / "x.npy")
    wrong = []

    def read(seed):
        wanted = np.random.default_rng(seed).integers(0, 4000, 400)
        wrong.append(not np.array_equal(rows[wanted], x[wanted]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 4
    os.truncate(tmp_path / "x.npy", 1000)
    with pytest.raises(OSError, match="has become shorter"):
        rows[3000]


def test_no_permission_bits_are_judged_where_they_mean_nothing(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match="can be written by others"):
        compilation.use_cache(tmp_path)
    monkeypatch.delattr(os, "getuid")
    changed = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    compilation.use_cache(tmp_path)
    assert changed["jax_compilation_cache_dir"] == str(tmp_path.resolve())


def test_a_run_of_several_says_that_nothing_watches_over_it(monkeypatch, capsys):
    monkeypatch.delattr(os, "fork")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: joined.append(options))
    processes.join("localhost:1234,2,0")
    assert joined[0]["num_processes"] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--distributed: this system cannot watch over a process")


def test_limits_of_groups_around_the_own_one_count(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "self")
    inner = tmp_path / "user.slice" / "run.scope"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "user.slice" / "memory.max").write_text("3000\n")
    (tmp_path / "memory" / "job").mkdir(parents=True)
    (tmp_path / "memory" / "job" / "memory.limit_in_bytes").write_text("4000\n")
    assert memory._cgroup_limits() == []
    (tmp_path / "self").write_text("5:cpu,memory:/job\n3:cpu:/x\n0::/user.slice/run.scope\n")
    assert sorted(memory._cgroup_limits()) == [3000, 4000]


def test_memory_is_known_where_there_are_no_limits(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    free = SimpleNamespace(available=5 * memory.GIB)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    assert memory._process_limits() == []
    assert 5 * memory.GIB < memory.free_on_machine() < 50 * memory.GIB


@pytest.mark.thorough
def test_an_experiment_and_the_lecture_run_without_posix(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "tests/without_posix.py", tmp_path / "out", tmp_path / "results"]
    found = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "results" / "index.html").is_file()
    assert "cannot watch over a process" in found.stderr
