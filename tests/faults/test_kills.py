"""SIGKILL at random moments, resumed each time: the bits of a run that was never touched.

The run is the denoising experiment as a user starts it, without its figures. Some moments are
random in time. Others are in the middle of a save, where the process kills itself, since it would
be chance to meet that from outside: half of a file of a checkpoint is on the disk then. They are
thorough tests: every start of a process takes seconds, and there are twenty, over one and over four
devices.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments.common.results import checkpoint_files

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--dataset",
    "digits",
    "--quick",
    "--code-dims",
    "12",
    "--noise-levels",
    "1",
    "--num-seeds",
    "2",
]
OPTIONS += ["--checkpoint-every", "6"]
MOST_SECONDS = 120
# Figures would take most of the time, and come after all that is killed here.
PROGRAM = """
import os, signal, sys
from experiments import denoising
from experiments.common.results import checkpoint_files
from experiments.common.run import command_line, parts

parts.draw = lambda *_: None
write, files_left = checkpoint_files._write_to_disk, int(os.environ.get("KILL_IN_FILE", -1))

def write_or_die(path, content):
    global files_left
    if files_left == 0:
        write(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    files_left -= 1
    write(path, content)

checkpoint_files._write_to_disk = write_or_die
sys.exit(command_line.run(denoising.main, denoising.Config))
"""


def start(devices, epochs, out, *more, cache, kill_in_file=-1):
    """Starts a run, which kills itself in the file of a checkpoint of that number, from 0."""
    command = [sys.executable, "-c", PROGRAM, *OPTIONS, "--epochs", str(epochs), "--out", str(out)]
    command += ["--devices", str(devices), "--compilation-cache", str(cache), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    environment["KILL_IN_FILE"] = str(kill_in_file)
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def finish(process):
    output, errors = process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == 0, errors
    return output


def kill_after(process, seconds):
    """Kills a process some seconds after its start."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=MOST_SECONDS)


def numbers(out):
    text = (out / "metrics.json").read_text()
    return json.loads(re.sub(r'"seconds(_per_run)?": [0-9.]+,?', "", text))


def final_arrays(out, epochs):
    """Returns parameters, optimiser state and losses of every model after its last epoch."""
    found = {}
    for model in sorted((out / "checkpoints").iterdir()):
        path = model / f"{epochs:06d}"
        found[model.name] = checkpoint_files.read_arrays(path, checkpoint_files.read_manifest(path))
    return found


def log_lines(out):
    return sorted((out / "log.jsonl").read_text().splitlines())


def run_untouched(devices, epochs, folder):
    """Returns the command of a run that is left alone, its folder, when it trained and ended."""
    command = partial(start, devices, epochs, cache=folder / "cache")
    began = time.monotonic()
    process = command(folder / "out")
    while not any(log.stat().st_size for log in (folder / "out").glob(".partial-*/log.jsonl")):
        time.sleep(0.001)
    trains = time.monotonic() - began
    finish(process)
    return command, folder / "out", (trains, time.monotonic() - began)


@pytest.mark.thorough
@pytest.mark.parametrize(("devices", "kills"), [(1, 20), (4, 20)])
def test_a_run_that_was_killed_again_and_again_ends_in_the_same_bits(
    devices, kills, tmp_path, tmp_path_factory
):
    epochs = 60 * kills  # ten saves for each kill
    folder = tmp_path_factory.mktemp("untouched")
    command, expected, (begin, end) = run_untouched(devices, epochs, folder)
    moments = random.Random(0)
    killed, resumed = 0, 0
    for i in range(kills):
        if i % 2 == 0:  # in one of its first five saves, each of two files
            process = command(tmp_path, "--resume", kill_in_file=moments.randrange(10))
            process.communicate(timeout=MOST_SECONDS)
        else:  # Anywhere from its start to half of a kill's share of the training: what is left
            # must outlast all kills, also where the untouched run had a slower hour.
            process = command(tmp_path, "--resume")
            kill_after(process, moments.uniform(0, begin + (end - begin) / (2 * kills)))
        if process.returncode == 0:  # it was faster than the untouched one: nothing is left
            break
        killed += process.returncode == -signal.SIGKILL
        resumed += (tmp_path / "checkpoints").is_dir()
    output = finish(command(tmp_path, "--resume"))
    assert killed >= max(1, kills // 2)
    assert resumed
    assert "nothing to resume" not in output
    assert numbers(tmp_path) == numbers(expected)
    assert log_lines(tmp_path) == log_lines(expected)
    mine, theirs = final_arrays(tmp_path, epochs), final_arrays(expected, epochs)
    assert mine.keys() == theirs.keys()
    assert len(mine) == 2
    for model, arrays in theirs.items():
        for name, array in arrays.items():
            assert array.dtype == mine[model][name].dtype
            assert array.tobytes() == mine[model][name].tobytes(), (model, name)
    assert np.isfinite(mine["dim-12_noise-1_seed-1"]["losses"]).all()
    assert not list(tmp_path.rglob(".partial-*"))
