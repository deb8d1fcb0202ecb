"""What Windows and macOS lack is taken away, and an experiment runs: test_portability.py.

Taken away from our own code are the modules of POSIX, and from everybody functions, signals and
``/proc``. psutil, which reads ``/proc`` here and asks the system elsewhere, answers with fixed
numbers. filelock and the standard library keep their modules: they have others on Windows.
"""

import asyncio  # noqa: F401  (the library of this system asks for what it has)
import builtins
import io
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil

MODULES = {"fcntl", "resource", "pwd", "grp", "termios"}
FUNCTIONS = ("fork", "setpgid", "killpg", "getuid", "geteuid", "pread", "preadv")
FUNCTIONS += ("sched_getaffinity", "sysconf", "getpgid", "setsid", "wait4", "mkfifo")
SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGKILL", "SIGQUIT")


def hide_modules():
    original = builtins.__import__

    def without(name, globals=None, *rest, **options):
        ours = (globals or {}).get("__name__", "").split(".")[0] in ("experiments", "jaxae")
        if ours and name.split(".")[0] in MODULES:
            raise ImportError(f"no module named {name} here")
        return original(name, globals, *rest, **options)

    builtins.__import__ = without


def hide_proc():
    def without(original):
        def opened(path, *rest, **options):
            is_path = isinstance(path, str | os.PathLike)
            # threadpoolctl, below scikit-learn, reads its own libraries there, on Linux alone.
            if is_path and os.fspath(path).startswith("/proc") and path != "/proc/self/maps":
                raise FileNotFoundError(2, "no such file here", os.fspath(path))
            return original(path, *rest, **options)

        return opened

    io.open = builtins.open = without(open)
    os.open = without(os.open)


def main(out, results):
    free = SimpleNamespace(available=8 * 2**30)
    psutil.virtual_memory = lambda: free
    psutil.Process = lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=2**28))
    hide_modules()
    hide_proc()
    for name in FUNCTIONS:
        delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)
    os.process_cpu_count = os.cpu_count  # from Python 3.13 on it is made of sched_getaffinity

    import finished_lecture

    from experiments import denoising, lecture
    from experiments.common import processes
    from experiments.common.run import command_line, parts
    from experiments.common.training import sweep
    from experiments.denoising import gaussian_view

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
    # They take most of the time, and no system has any other.
    parts.draw = lambda *_: None
    gaussian_view.measure = lambda *_: {}
    options = ["--dataset", "digits", "--quick", "--code-dims", "8", "--noise-levels", "1"]
    options += ["--epochs", "3", "--out", str(out)]
    log_epoch = sweep.Tag.log
    sweep.Tag.log = lambda *_: signal.raise_signal(signal.SIGINT)
    assert command_line.run(denoising.main, denoising.Config, options) == 130
    assert list(out.glob("checkpoints/*/*"))
    sweep.Tag.log = log_epoch
    assert command_line.run(denoising.main, denoising.Config, [*options, "--resume"]) == 0
    assert (out / "metrics.json").is_file()

    finished_lecture.write(results)
    options = ["--dataset", "digits", "--out", str(results)]
    assert command_line.run(lecture.main, lecture.Config, options) == 0
    processes._fork_and_watch()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
