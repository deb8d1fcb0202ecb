"""SIGKILL at random moments, resumed each time: the bits of a run that was never touched.

The run is the denoising experiment as a user starts it, without its figures. Some moments are
random in time, others are in the middle of a save: as soon as a checkpoint that is not whole yet
appears on the disk. By default there is one, since every start of a process takes seconds; with
``--thorough`` there are twenty, over one and over four devices.
"""

import contextlib
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
import sys
from experiments import denoising
from experiments.common.run import command_line, parts
parts.draw = lambda *_: None
sys.exit(command_line.run(denoising.main, denoising.Config))
"""


def start(devices, epochs, out, *more, cache):
    command = [sys.executable, "-c", PROGRAM, *OPTIONS, "--epochs", str(epochs), "--out", str(out)]
    command += ["--devices", str(devices), "--compilation-cache", str(cache), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def finish(process):
    output, errors = process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == 0, errors
    return output


def saves(out):
    """Returns the checkpoints that are being written."""
    found = set()
    with contextlib.suppress(FileNotFoundError):  # it was whole in the meantime
        for path in out.glob(".partial-*/checkpoints/.partial-*/arrays*"):
            found.add(path.parent)
    return found


def kill_after(process, seconds):
    """Kills a process some seconds after its start."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=MOST_SECONDS)


def kill_in_a_save(process, out, which):
    """Kills a process in the middle of the save of that number."""
    seen = saves(out)  # what earlier kills left
    which += len(seen)
    while process.poll() is None:
        now = saves(out)
        seen |= now
        if now and len(seen) > which:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.0005)
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
        process = command(tmp_path, "--resume")
        if i % 2 == 0:
            # Saves that it misses count too: five at most leave room for all kills.
            kill_in_a_save(process, tmp_path, moments.randrange(5))
        else:  # Anywhere from its start to half of a kill's share of the training: what is left
            # must outlast all kills, also where the untouched run had a slower hour.
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
