"""Two real processes on the loopback address that train one run, and what happens to them.

Each process is started as a user starts it. The first test trains a library's run; the others the
denoising experiment.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jax_settings import as_on_the_command_line

from experiments import denoising
from experiments.common.results import checkpoint_files
from experiments.common.run import command_line, parts

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 120
METHODS = ("threads", "vmap")

PROGRAM = """
import functools, json, sys
import jax
count, index, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if count > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
import jax.numpy as jnp, numpy as np, optax
import jaxae

X = np.random.default_rng(0).uniform(size=(403, 20)).astype(np.float32)
init, encode, decode = jaxae.as_functions(jaxae.DenseAutoencoder((20,), 5))

def loss(params, key, x, level):
    corrupt = functools.partial(jaxae.uniform_noise, scale=level)
    bound = functools.partial(encode, params), functools.partial(decode, params)
    return jaxae.denoising_loss(key, *bound, x, corrupt=corrupt)

class Source:
    shape, dtype, asked = X.shape, X.dtype, 0
    def __len__(self): return len(X)
    def __getitem__(self, rows):
        self.asked += len(rows)
        return X[rows]

class Kept:
    every, saved, told = 2, None, False
    def restore(self, model, like): return self.saved
    def save(self, model, snapshot):
        if snapshot.epoch == 2: self.saved = snapshot
    def should_stop(self): return self.told

optimizer = optax.adam(1e-2)
run = jaxae.make_run(loss, optimizer, batch_size=32, mesh=jaxae.data_mesh())
key = jaxae.hash_key(jax.random.key(1))
state = jaxae.create_train_state(init(key), optimizer)
bits = lambda state: [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(state)]
source, kept, curve = Source(), Kept(), []
whole = jaxae.fit(run, state, key, jaxae.Streamed(source), 0.3, epochs=4, checkpoints=kept,
                  on_epoch=lambda epoch, loss: curve.append(loss))
found = {"curve": curve, "asked": source.asked, "kept": kept.saved is not None}
# the second process finds nothing, and goes on from what the first one finds
part = jaxae.fit(run, state, key, jnp.asarray(X), 0.3, epochs=4, checkpoints=kept)
found["resumed"] = bits(whole) == bits(part)
kept.saved, kept.told = None, index == count - 1  # told to the last process alone
try:
    jaxae.fit(run, state, key, X, 0.3, epochs=4, checkpoints=kept)
except jaxae.StoppedError as error:
    found["stopped"] = str(error)
# What the first process may not go on from is refused by both.
kept.saved, kept.told = whole and jaxae.Snapshot(
    state._replace(params={}), 1, 0, np.zeros(1), np.zeros(13)), False
try:
    jaxae.fit(run, state, key, X, 0.3, epochs=4, checkpoints=kept)
except (ValueError, jaxae.LostProcessError) as error:
    found["refused"] = type(error).__name__
kept.saved = None
keys = jax.vmap(jaxae.hash_key)(jax.random.split(jax.random.key(2), 2))
states = jax.vmap(lambda key: jaxae.create_train_state(init(key), optimizer))(keys)
levels = jnp.array([0.1, 0.3])
kept.told, stopped = index == count - 1, 0
for _ in range(3):  # after a stop no process may begin with the next model
    try:
        jaxae.fit_many(run, states, keys, X, levels, epochs=2, method="threads", checkpoints=kept)
    except jaxae.StoppedError:
        stopped += 1
found["stopped again"] = stopped
for method in sys.argv[4:]:
    many = jaxae.fit_many(run, states, keys, X, levels, epochs=2, method=method)
    found[method] = np.asarray(many.params["encoder_kernel_0"]).ravel().tolist()
print(json.dumps(found))
if count > 1:
    jax.distributed.shutdown()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, **environment):
    """Starts a process in a session of its own, so that its children can be found."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, start_new_session=True, **pipes
    )


def ends(processes):
    """Returns output, errors and status of each process; none is left behind."""
    found = []
    try:
        for process in processes:
            found.append((*process.communicate(timeout=MOST_SECONDS), process.returncode))
    finally:
        for process in processes:
            if process.poll() is None:
                kill(process)
    return found


def workers(process):
    """Returns the process that trains, which is a child of the one that was started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()]


def kill(process):
    """Kills a process and the one that trains."""
    for number in [*workers(process), process.pid]:
        os.kill(number, signal.SIGKILL)


def two_programs(count, **environment):
    port = free_port()
    processes = [
        start(["-c", PROGRAM, str(count), str(index), str(port), *METHODS], **environment)
        for index in range(count)
    ]
    found = ends(processes)
    assert [status for *_, status in found] == [0] * count, found
    return [json.loads(output.splitlines()[-1]) for output, *_ in found]


@pytest.mark.thorough
def test_two_processes_train_what_one_trains():
    (one,), two = two_programs(1), two_programs(2)
    assert len(one["curve"]) == 4
    assert one["curve"][-1] < 0.5 * one["curve"][0]
    assert two[0]["curve"] == two[1]["curve"]
    np.testing.assert_allclose(two[0]["curve"], one["curve"], rtol=1e-5)
    # 12 batches of 32 a epoch are shared; the last one of 19 cannot be. One row for the shape.
    assert one["asked"] == 1 + 4 * 403
    assert [found["asked"] for found in two] == [1 + 4 * (12 * 16 + 19)] * 2
    assert [found["kept"] for found in two] == [True, False]  # the first one keeps it for both
    assert all(found["resumed"] for found in (one, *two))
    assert two[0]["stopped"] == two[1]["stopped"]
    assert [found["stopped again"] for found in two] == [3, 3]
    assert [found["refused"] for found in two] == ["ValueError", "LostProcessError"]
    for method in METHODS:
        assert two[0][method] == two[1][method]
        np.testing.assert_allclose(two[0][method], one[method], atol=1e-5)


@pytest.mark.thorough
def test_two_processes_with_two_devices_each():
    (one,), two = two_programs(1), two_programs(2, JAX_NUM_CPU_DEVICES="2")
    np.testing.assert_allclose(two[0]["curve"], one["curve"], rtol=1e-5)
    assert all(found["resumed"] for found in two)


OPTIONS = ["--dataset", "digits", "--quick", "--code-dims", "5", "--noise-levels", "1"]
OPTIONS += ["--checkpoint-every", "4"]
MODEL = "dim-5_noise-1_seed-0"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder of compiled programs, which all processes share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def both(cache):
    """Starts two processes with the options of the first test, and more or others."""

    def start_both(out, *more, seeds=(0, 0), epochs=80):
        port = free_port()
        command = ["-m", "experiments.denoising", *OPTIONS, "--out", str(out), *more]
        command += ["--epochs", str(epochs)]
        command += ["--compilation-cache", str(cache)]
        of_each = lambda index: [
            *("--seed", str(seeds[index])),
            *("--distributed", f"127.0.0.1:{port},2,{index}"),
        ]
        return [start(command + of_each(index)) for index in (0, 1)]

    return start_both


def wait_for_a_checkpoint(out, processes):
    while not list((out / "checkpoints" / MODEL).glob("0*")):
        assert all(process.poll() is None for process in processes), ends(processes)
        time.sleep(0.01)


def losses(out):
    path = out / "checkpoints" / MODEL / "000080"
    return checkpoint_files.read_arrays(path, checkpoint_files.read_manifest(path))["losses"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses and the numbers of a run of one process."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch, as_on_the_command_line():
        patch.setattr(parts, "draw", lambda *_: None)
        args = [*OPTIONS, "--epochs", "80", "--out", str(out)]
        assert command_line.run(denoising.main, denoising.Config, args) == 0
    return losses(out), json.loads((out / "metrics.json").read_text())


def kill_one(victim, both, tmp_path):
    """Kills one of two processes; the other one has to end with an error that says so."""
    processes = both(tmp_path)
    wait_for_a_checkpoint(tmp_path, processes)
    began = time.monotonic()
    kill(processes[victim])
    _, errors, status = ends(processes)[1 - victim]
    assert time.monotonic() - began < 60
    assert status not in (0, None)
    last = errors.splitlines()[-1]
    assert last.startswith("error: another process of this run is gone")
    assert last.endswith("start all again, with --resume")
    assert "Traceback" not in errors
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.thorough
def test_one_that_is_killed_ends_the_other_with_a_clear_error(both, tmp_path):
    kill_one(1, both, tmp_path)  # that two go on from what the first one finds is tested above


@pytest.mark.thorough
@pytest.mark.parametrize("victim", [1, 0])
def test_after_one_was_killed_both_resume(victim, both, alone, tmp_path):
    kill_one(victim, both, tmp_path)
    found = ends(both(tmp_path, "--resume"))
    assert [status for *_, status in found] == [0, 0], found
    assert "nothing to resume" not in found[0][0]
    assert "results are in" in found[0][0]
    assert "dim" not in found[1][0]  # the second one says nothing
    np.testing.assert_allclose(losses(tmp_path), alone[0], rtol=1e-5)
    mse = lambda metrics: metrics["by_code_dim"][0]["test_mse"]["mean"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    np.testing.assert_allclose(mse(metrics), mse(alone[1]), rtol=1e-5)


@pytest.mark.thorough
def test_a_signal_to_one_stops_both_after_the_same_step(both, tmp_path):
    processes = both(tmp_path, epochs=100_000)
    wait_for_a_checkpoint(tmp_path, processes)
    processes[1].send_signal(signal.SIGTERM)
    (output, other, first), (_, told, second) = ends(processes)
    assert (first, second) == (143, 143)
    assert told.splitlines()[-1] == "stopped by SIGTERM; no result was written"
    assert other.splitlines()[-1] == "stopped, as another process was; no result was written"
    assert "the same command with --resume goes on" in output
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_processes_with_other_options_do_not_begin(both, tmp_path):
    processes = both(tmp_path, seeds=(0, 1))
    for _, errors, status in ends(processes):
        assert status == 2
        assert errors.splitlines()[-1] == (
            "error: process 1 has other options or data than process 0; all need the same"
        )
    assert not list(tmp_path.iterdir())


LEAVES = """
import sys, time
from experiments.common import processes
index, where = int(sys.argv[1]), sys.argv[2]
processes.join(f"{where},2,{index}")
processes.start_together({}, None)
time.sleep(2 * index)  # as if it were slow to say why it ends
print("error: this one", file=sys.stderr)
processes.leave(2)
"""


def test_the_first_process_does_not_leave_before_the_others():
    where = f"127.0.0.1:{free_port()}"
    processes = [start(["-c", LEAVES, str(index), where]) for index in range(2)]
    for _, errors, status in ends(processes):
        assert (errors.splitlines()[-1], status) == ("error: this one", 2)
