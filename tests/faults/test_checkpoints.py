"""Checkpoints that are damaged, of something else, or cannot be written.

Every fault is made by hand in the files of a real run of the denoising experiment on digits.
"""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax_settings import as_on_the_command_line

import jaxae
from experiments import denoising
from experiments.common import interrupts
from experiments.common.errors import InputError
from experiments.common.files import atomic
from experiments.common.results import checkpoint_files, checkpoint_store, output_folder, trained
from experiments.common.run import command_line, parts
from experiments.denoising import networks

ROOT = Path(__file__).parents[2]
OPTIONS = ["--dataset", "digits", "--quick", "--code-dims", "5", "--noise-levels", "0.4"]
EVERY = ["--epochs", "4", "--checkpoint-every", "1"]
MODEL = "dim-5_noise-0.4_seed-0"


def run(out, *more, options=(*OPTIONS, *EVERY)):
    args = [*options, "--out", str(out), *more]
    with as_on_the_command_line():
        return command_line.run(denoising.main, denoising.Config, args)


@pytest.fixture(autouse=True)
def no_signal_is_ignored():
    """Also where the tests are run under ``nohup``."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in interrupts.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """What is drawn after the training is not the matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def finished(no_figures, tmp_path_factory):
    """The folder of a finished run, with its checkpoints."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(out) == 0
    return out


@pytest.fixture
def out(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(finished, tmp_path / "out")


def places(out):
    return sorted(path.name for path in (out / "checkpoints" / MODEL).iterdir())


def newest(out):
    return out / "checkpoints" / MODEL / "000004"


def arrays(out):
    path = newest(out)
    return checkpoint_files.read_arrays(path, checkpoint_files.read_manifest(path))


def same(a, b):
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_the_newest_ones_and_the_best_are_kept(finished):
    manifests = [
        checkpoint_files.read_manifest(newest(finished).with_name(place))
        for place in places(finished)
    ]
    assert [manifest["epoch"] for manifest in manifests] == [3, 4]
    assert manifests[1]["loss"] < manifests[0]["loss"]
    assert not list((finished / "checkpoints").rglob(".partial-*"))


def test_the_best_is_kept_when_it_is_older(tmp_path):
    for epoch, loss in enumerate((3.0, 1.0, 2.0, 2.5, 4.0), start=1):
        header = {"identity": {}, "environment": {}, "leaves": [], "epoch": epoch, "step": 0}
        path = tmp_path / f"{epoch:06d}"
        checkpoint_files.write(path, {"a": np.zeros(2)}, header | {"loss": loss, "epochs": None})
        for old in checkpoint_store.list_superseded(tmp_path):
            shutil.rmtree(old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000004", "000005"]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


FAULTS = {
    "truncated": truncate,
    "bit-flipped": flip_a_bit,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.rename(path.with_name("x")), path.symlink_to("y")),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["arrays.safetensors", "manifest.json"])
def test_a_damaged_newest_checkpoint_is_skipped_and_said(fault, name, out, finished):
    FAULTS[fault](newest(out) / name)
    said = []
    header = checkpoint_files.read_manifest(newest(finished))
    known = {name: header[name] for name in ("identity", "environment")}
    options = {"every": 1, "is_resumed": True, "say": said.append}
    store = checkpoint_store.CheckpointStore(out / "checkpoints", **known, **options)
    found = store.restore(MODEL, start())
    assert found.epoch == 3
    assert len(said) == 1
    assert f"{newest(out)} is damaged" in said[0]


def start():
    """Returns the state that the run begins with, for its structure."""
    model = jaxae.DenseAutoencoder((64,), 5, output_activation=jax.nn.sigmoid)
    params = jaxae.as_functions(model).init(jax.random.key(0))
    return jaxae.create_train_state(params, optax.adam(1e-3))


@pytest.mark.thorough
def test_a_run_goes_on_from_before_the_damage(out, finished, capsys):
    truncate(newest(out) / "arrays.safetensors")
    (out / "metrics.json").unlink()
    assert run(out, "--resume") == 0
    printed = capsys.readouterr()
    assert f"{newest(out)} is damaged" in printed.out
    assert printed.err == ""
    same(arrays(out), arrays(finished))


@pytest.mark.thorough
def test_all_checkpoints_damaged_means_from_the_beginning(out, finished, capsys):
    for place in places(out):
        truncate(newest(out).with_name(place) / "manifest.json")
    assert run(out, "--resume") == 0
    assert capsys.readouterr().out.count("is damaged") == 2
    same(arrays(out), arrays(finished))


def test_a_snapshot_before_the_first_epoch_is_over_can_be_kept(tmp_path):
    state = jaxae.TrainState({"w": np.ones(2), "none": np.zeros((0, 3))}, (), np.int32(5))
    snapshot = jaxae.Snapshot(state, 0, 5, np.zeros(0), np.arange(9.0))
    options = {"identity": {}, "environment": {}, "every": 1, "say": pytest.fail}
    store = checkpoint_store.CheckpointStore(tmp_path, is_resumed=False, **options)
    store.register(["m"]).save(0, snapshot)
    assert store.close(is_over=True)
    found = checkpoint_store.CheckpointStore(tmp_path, is_resumed=True, **options).restore(
        "m", state
    )
    assert found[1:3] == (0, 5)
    assert found.losses.shape == (0,)
    assert found.state.params["none"].shape == (0, 3)
    np.testing.assert_array_equal(found.step_losses, np.arange(9.0))


def test_arrays_of_every_dtype_that_is_trained_keep_their_bits(tmp_path):
    """PRNG keys are uint32; safetensors has no name for complex numbers of 16 bytes."""
    dtypes = (
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "int8",
        "int32",
        "int64",
        "uint32",
        "bool",
    )
    arrays = {name: np.arange(6).reshape(2, 3).astype(jnp.dtype(name)) for name in dtypes}
    arrays |= {"a number": np.array(0.1), "nothing": np.zeros((0, 3), np.float32)}
    header = {"identity": {}, "environment": {}, "leaves": [], "epoch": 1, "step": 0}
    checkpoint_files.write(tmp_path / "c", arrays, header | {"loss": 1.0, "epochs": None})
    found = arrays_of(tmp_path / "c")
    same(found, arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def test_a_checkpoint_is_as_open_to_others_as_any_new_file(finished):
    mask = os.umask(0)
    os.umask(mask)
    for path in (newest(finished), *newest(finished).iterdir()):
        assert path.stat().st_mode & 0o444 == 0o444 & ~mask


def test_what_is_loaded_from_a_checkpoint_gives_the_numbers_of_the_run(finished):
    autoencoder = trained.load(finished / "checkpoints" / MODEL)
    config = denoising.Config(dataset="digits", quick=True, noise_levels=(0.4,))
    with as_on_the_command_line():
        setup = denoising.make_setup(config)
        _, test_key, _ = networks.seed_keys(setup, 0)
        x = jnp.asarray(setup.dataset.flat()[1])
        x_noisy = jaxae.corrupt_batch(test_key, setup.corrupt_at(0.4), x)
        x_hat = jax.vmap(lambda x_i: autoencoder.decode(autoencoder.encode(x_i)))(x_noisy)
        mse = float(jaxae.mean_squared_error(x_hat, x).mean())
    metrics = json.loads((finished / "metrics.json").read_text())
    np.testing.assert_allclose(mse, metrics["by_code_dim"][0]["test_mse"]["mean"], rtol=1e-5)


def test_a_file_too_many_is_damage(out):
    (newest(out) / "extra").write_bytes(b"x")
    with pytest.raises(checkpoint_files.DamagedError, match="too many"):
        arrays(out)


def test_a_manifest_that_names_files_elsewhere_is_damage(out):
    path = newest(out) / "manifest.json"
    body = json.loads(path.read_text())
    body["files"]["../../../../../etc/passwd"] = "0"
    body.pop("sha256")
    path.write_text(json.dumps(body | {"sha256": atomic.json_digest(body)}))
    with pytest.raises(checkpoint_files.DamagedError):
        arrays(out)


CHANGES = {
    "rate": (["--learning-rate", "0.002"], "settings.learning_rate was 0.001 and is 0.002"),
    "seed": (["--seed", "3"], "settings.seed was 0 and is 3"),
    "corruption": (["--corruption", "gaussian"], 'corruption was "uniform" and is "gaussian"'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_another_configuration_is_refused_in_one_line(change, out, capsys):
    before = sorted(out.rglob("*"))
    more, message = CHANGES[change]
    assert run(out, "--resume", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "is of another configuration" in error
    assert error.count("\n") == 1
    assert sorted(out.rglob("*")) == before


def test_a_checkpoint_of_another_random_generator_is_refused(out, capsys):
    """What JAX_DEFAULT_PRNG_IMPL sets: half of the steps would have noise of another kind."""
    with jax.default_prng_impl("rbg"):
        assert run(out, "--resume") == 2
    message = 'numbers.random_generator was "threefry2x32" and is "rbg"'
    assert message in capsys.readouterr().err


@pytest.mark.thorough(by_default=["2"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_of_an_earlier_format_is_gone_on_from(number, out, finished, capsys):
    """There Orbax wrote the arrays; in the first one --epochs was one of the settings."""
    shutil.rmtree(newest(out))
    path = newest(out).with_name("000003")
    body = json.loads((path / "manifest.json").read_text())
    del body["sha256"]
    body["format"] = number
    if number == 1:
        body["identity"]["settings"]["epochs"] = body.pop("epochs")
    ocp.PyTreeCheckpointer().save(path / "arrays", arrays_of(path))
    (path / "arrays.safetensors").unlink()
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "manifest.json"]
    body["files"] = {file.relative_to(path).as_posix(): atomic.file_digest(file) for file in files}
    whole = json.dumps(body | {"sha256": atomic.json_digest(body)})
    (path / "manifest.json").write_text(whole)
    assert run(out, "--resume") == 0
    assert "is damaged" not in capsys.readouterr().out
    same(arrays(out), arrays(finished))


def test_a_checkpoint_of_other_data_is_refused(out, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(size=(30, 8, 8)))
    options = ["--dataset", str(tmp_path / "x.npy"), *OPTIONS[2:], *EVERY]
    assert run(out, "--resume", options=options) == 2
    assert "is of another configuration: data was" in capsys.readouterr().err


def test_another_version_of_jax_is_said_and_gone_on_from(out, capsys):
    for place in places(out):
        path = newest(out).with_name(place) / "manifest.json"
        body = json.loads(path.read_text())
        body["environment"]["jax"] = "0.0.1"
        body.pop("sha256")
        path.write_text(json.dumps(body | {"sha256": atomic.json_digest(body)}))
    assert run(out, "--resume") == 0
    assert 'digits may change from here on: jax was "0.0.1"' in capsys.readouterr().out


@pytest.mark.thorough
def test_without_resume_older_checkpoints_make_way_for_the_first_new_one_and_are_kept(out, capsys):
    before = arrays(out)
    assert run(out, options=[*OPTIONS, "--epochs", "1", "--checkpoint-every", "1"]) == 0
    assert places(out) == ["000001"]
    assert f"are now in {out / 'checkpoints.earlier-1'}" in capsys.readouterr().out
    moved = out / "checkpoints.earlier-1" / MODEL / "000004"
    same(arrays_of(moved), before)
    assert trained.load(moved.parent).about["epoch"] == 4


@pytest.mark.thorough
def test_a_later_run_without_checkpoints_leaves_those_that_are_there(out, finished):
    assert run(out, options=[*OPTIONS, "--epochs", "1"]) == 0
    assert (out / "metrics.json").exists()
    assert places(out) == ["000003", "000004"]
    same(arrays(out), arrays(finished))


def test_files_of_somebody_among_the_checkpoints_stay_where_they_are(out):
    folder = out / "checkpoints" / MODEL
    mine = [out / "checkpoints" / "best.pt", folder / "x", folder / "000003" / "notes.txt"]
    mine.append(folder / "000001" / "data.bin")  # its folder looks like a checkpoint
    mine[-1].parent.mkdir()
    for path in mine:
        path.write_text("mine")
    longer = ["--epochs", "6", "--checkpoint-every", "1"]
    assert run(out, "--resume", options=[*OPTIONS, *longer]) == 0  # 3 and 4 are superseded
    assert [path.name for path in mine if path.read_text() != "mine"] == []
    assert places(out) == ["000001", "000003", "000005", "000006", "x"]


def test_a_folder_of_somebody_in_the_place_of_a_checkpoint_gets_another_name(tmp_path):
    state = jaxae.TrainState({"w": np.ones(2)}, (), np.int32(5))
    options = {"identity": {}, "environment": {}, "every": 1, "say": pytest.fail}
    (tmp_path / "m" / "000002").mkdir(parents=True)
    (tmp_path / "m" / "000002" / "best.pt").write_text("mine")
    store = checkpoint_store.CheckpointStore(tmp_path, is_resumed=True, **options)
    store.register(["m"]).save(0, jaxae.Snapshot(state, 2, 0, np.ones(2), np.ones(3)))
    assert store.close(is_over=True)
    assert (tmp_path / "m" / "000002.kept-1" / "best.pt").read_text() == "mine"
    assert checkpoint_files.read_manifest(tmp_path / "m" / "000002")["epoch"] == 2


def test_a_folder_of_checkpoints_that_is_a_link_to_another_disk(tmp_path, monkeypatch):
    disk, rename = tmp_path / "disk", os.rename

    def rename_on_one_disk(source, target):
        if (disk in Path(source).resolve().parents) != (disk in Path(target).resolve().parents):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    (tmp_path / "out").mkdir()
    disk.mkdir()
    (tmp_path / "out" / "checkpoints").symlink_to(disk)
    monkeypatch.setattr(os, "rename", rename_on_one_disk)
    state = jaxae.TrainState({"w": np.ones(2)}, (), np.int32(5))
    options = {"identity": {}, "environment": {}, "every": 1, "is_resumed": False}
    for epoch in (2, 3):
        said = []
        store = checkpoint_store.CheckpointStore(
            tmp_path / "out" / "checkpoints",
            staging_in=tmp_path / "out" / ".partial-x",
            say=said.append,
            **options,
        )
        store.register(["m"]).save(0, jaxae.Snapshot(state, epoch, 0, np.ones(1), np.ones(3)))
        assert store.close(is_over=True), said
        assert checkpoint_files.read_manifest(disk / "m" / f"{epoch:06d}")["epoch"] == epoch
    earlier = tmp_path / "out" / "checkpoints.earlier-1" / "m" / "000002"  # on the other disk
    assert checkpoint_files.read_manifest(earlier)["epoch"] == 2
    assert not (disk / "m" / "000002").exists()


def test_checkpoints_of_a_finished_run_are_removed_on_demand_and_nothing_else(out):
    (out / "checkpoints" / MODEL / "notes.txt").write_text("mine")
    assert run(out, "--resume", "--discard-checkpoints") == 0
    left = [path for path in (out / "checkpoints").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["notes.txt"]


@pytest.mark.thorough
def test_checkpoints_of_the_run_before_are_removed_on_demand_once_it_goes_on(out):
    assert run(out, "--resume", "--discard-checkpoints") == 0
    assert not (out / "checkpoints").exists()
    assert run(out) == 0
    assert run(out, "--discard-checkpoints", options=[*OPTIONS, "--epochs", "1"]) == 0
    assert places(out) == ["000003", "000004"]  # of the run before
    assert run(out, "--resume", "--discard-checkpoints") == 0
    assert not (out / "checkpoints").exists()


@pytest.mark.thorough
def test_an_interrupted_run_that_goes_on_without_the_option_keeps_its_checkpoints(
    tmp_path, finished, monkeypatch, capsys
):
    """Also those after its last epoch, so that what is loaded is the trained model."""
    saved = []
    save = checkpoint_store.CheckpointStore.save

    def stop_after_two(self, name, snapshot):
        save(self, name, snapshot)
        saved.append(snapshot.epoch)
        if snapshot.epoch == 2:
            raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_store.CheckpointStore, "save", stop_after_two)
        with pytest.raises(RuntimeError, match="stop"):
            run(tmp_path)
    assert run(tmp_path, "--resume", options=[*OPTIONS, "--epochs", "4"]) == 0
    assert f"checkpoints are in {tmp_path / 'checkpoints'}" in capsys.readouterr().out
    same(arrays(tmp_path), arrays(finished))


@pytest.mark.thorough
def test_the_clock_is_not_asked_which_checkpoint_is_the_newest(out, finished, monkeypatch):
    clock = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    for age, place in enumerate(places(out)):
        os.utime(newest(out).with_name(place), (10**9 - age, 10**9 - age))
    shutil.rmtree(newest(out))
    assert run(out, "--resume") == 0
    same(arrays(out), arrays(finished))


@pytest.mark.thorough
def test_a_quota_that_is_used_up_costs_the_checkpoint_and_not_the_run(tmp_path):
    # No file may grow beyond 300 KiB: the figures fit; one array of a wide network does not,
    # neither in a checkpoint nor, in half precision, among the networks for the page.
    options = ["--dataset", "digits", "--quick", "--code-dims", "2000", "--noise-levels", "0.4"]
    words = [sys.executable, "-m", "experiments.denoising", *options, *EVERY]
    command = f"ulimit -f 300; exec {shlex.join([*words, '--out', str(tmp_path)])}"
    found = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert (
        "a checkpoint after 1 epochs of dim-2000_noise-0.4_seed-0 cannot be written" in found.stdout
    )
    assert "networks.safetensors, which only the lecture's page reads, cannot be" in found.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert {"metrics.json", "noise_levels.png"} <= names
    assert "networks.safetensors" not in names
    assert not list(tmp_path.rglob(".partial-*"))
    assert not list((tmp_path / "checkpoints").glob("*/0*"))


def test_a_disk_that_becomes_full_keeps_the_checkpoint_before(out, monkeypatch, capsys):
    shutil.rmtree(newest(out))
    before = arrays_of(newest(out).with_name("000003"))
    usage = shutil.disk_usage(out)._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert run(out, "--resume") == 0
    assert "cannot be written: [Errno 28] No space left on device" in capsys.readouterr().out
    assert places(out) == ["000003"]
    same(arrays_of(newest(out).with_name("000003")), before)


def arrays_of(path):
    return checkpoint_files.read_arrays(path, checkpoint_files.read_manifest(path))


def test_a_second_run_on_one_folder_is_refused(tmp_path, capsys):
    with output_folder.RunRecord(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        assert run(tmp_path) == 2
        assert sorted(tmp_path.rglob("*")) == before
    error = capsys.readouterr().err
    assert f"another run is writing to --out {tmp_path}" in error
    assert error.count("\n") == 1
    with output_folder.RunRecord(tmp_path):  # free again
        pass


@pytest.fixture
def heard_signals():
    """Ctrl-C as in the foreground of a shell; its background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.thorough(by_default=["SIGTERM"])
@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", interrupts.SIGNALS[:4], ids=lambda number: number.name)
def test_a_signal_saves_and_says_how_to_go_on(number, tmp_path, finished, capsys, monkeypatch):
    heard = threading.Event()
    log = output_folder.RunRecord.log

    def log_and_send(self, **entry):
        log(self, **entry)
        if entry["epoch"] == 2 and not heard.is_set():
            heard.set()
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(output_folder.RunRecord, "log", log_and_send)
        assert run(tmp_path, options=[*OPTIONS, "--epochs", "4"]) == 128 + number
    printed = capsys.readouterr()
    assert f"training is kept in {tmp_path}: the same command with --resume goes on" in printed.out
    assert printed.err.splitlines()[-1] == f"stopped by {number.name}; no result was written"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert signal.getsignal(number) not in (interrupts._hear, None)
    # What was stopped without --checkpoint-every goes on with it, to the bits of the other run.
    assert run(tmp_path, "--resume") == 0
    same(arrays(tmp_path), arrays(finished))


@pytest.mark.thorough
def test_a_run_that_reads_in_pieces_is_that_from_memory_also_in_its_checkpoints(tmp_path, capsys):
    # Below the least that a run needs, whatever its data; all of the digits, since a few are kept.
    options = [option for option in OPTIONS if option != "--quick"]
    options += ["--num-seeds", "1", "--epochs", "4", "--checkpoint-every", "2"]
    assert run(tmp_path / "memory", options=options) == 0
    assert "read in pieces" not in capsys.readouterr().out
    assert run(tmp_path / "stream", "--memory", "1", options=options) == 0
    assert "read in pieces" in capsys.readouterr().out
    found = {}
    for name in ("memory", "stream"):
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        del metrics["seconds"], metrics["by_code_dim"][0]["seconds_per_run"]
        del metrics["by_noise_level"][0]["seconds_per_run"]
        found[name] = metrics, (tmp_path / name / "log.jsonl").read_text()
        shutil.rmtree(newest(tmp_path / name))
    assert found["memory"] == found["stream"]
    # What was begun in memory goes on in pieces.
    assert run(tmp_path / "memory", "--resume", "--memory", "1", options=options) == 0
    assert run(tmp_path / "stream", "--resume", options=options) == 0
    same(arrays(tmp_path / "memory"), arrays(tmp_path / "stream"))


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", interrupts.SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_heard_unless_it_is_ignored(number):
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_IGN)
        with interrupts.listening():
            os.kill(os.getpid(), number)
            assert not interrupts.is_requested()
    finally:
        signal.signal(number, before)
    with interrupts.listening(), pytest.raises(interrupts.Interrupted) as stop:
        os.kill(os.getpid(), number)
    assert stop.value.status == 128 + number


@pytest.mark.usefixtures("heard_signals")
def test_a_closed_terminal_or_a_scheduler_may_send_two_signals():
    reached = []
    with interrupts.listening():
        try:
            with interrupts.deferred():
                for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
                    os.kill(os.getpid(), number)
                reached.append("to the end of the block")
        except interrupts.Interrupted as stop:
            reached.append(stop.status)
    assert reached == ["to the end of the block", 128 + signal.SIGHUP]


@pytest.mark.usefixtures("heard_signals")
def test_a_second_signal_stops_at_once():
    reached = []
    with interrupts.listening():
        try:
            with interrupts.deferred():
                os.kill(os.getpid(), signal.SIGINT)  # only remembered
                reached.append(interrupts.is_requested())
                os.kill(os.getpid(), signal.SIGINT)
                reached.append("further")
        except interrupts.Interrupted as stop:
            reached.append(stop.status)
    assert reached == [True, 130]


def test_a_loss_that_turns_nan_is_one_line_and_the_checkpoint_before_it_stays(tmp_path, capsys):
    more = ["--epochs", "30", "--checkpoint-every", "1"]
    real = jaxae.squared_error

    def turns_nan(key, encode, decode, x, *, corrupt):
        x_hat = jax.vmap(lambda x_i: decode(encode(x_i)))(x)
        error = real(x_hat, x)
        return jnp.where(error.mean() < 7.0, jnp.nan, error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxae, "denoising_loss", turns_nan)
        assert run(tmp_path, options=[*OPTIONS, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the training loss is nan in epoch ")
    assert error.count("\n") == 1
    kept = checkpoint_store.list_checkpoints(tmp_path / "checkpoints" / MODEL)
    assert kept
    assert all(np.isfinite(array).all() for array in arrays_of(kept[-1]).values())
    assert not (tmp_path / "metrics.json").exists()


def test_an_error_in_a_loss_of_ones_own_names_its_line(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import jax, jax.numpy as jnp, optax, jaxae\n"
        "def my_loss(params, key, x):\n"
        "    return x @ params  # the line that is wrong\n"
        "optimizer = optax.sgd(0.1)\n"
        "run = jaxae.make_run(my_loss, optimizer, batch_size=2)\n"
        "state = jaxae.create_train_state(jnp.ones(5), optimizer)\n"
        "states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), state)\n"
        "keys = jax.random.split(jax.random.key(0))\n"
        "jaxae.fit_many(run, states, keys, jnp.ones((4, 3)), epochs=1)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert found.returncode == 1
    assert f'File "{script}", line 3, in my_loss' in found.stderr
    assert "the line that is wrong" in found.stderr


def test_names_of_models_are_folders_and_nothing_else(tmp_path):
    options = {"identity": {}, "environment": {}, "every": None, "is_resumed": False, "say": print}
    store = checkpoint_store.CheckpointStore(tmp_path, **options)
    assert checkpoint_store._make_folder_name("../../etc/<b>x y") == "etc_b_x_y"
    assert checkpoint_store._make_folder_name("...") == "model"
    store.register(["a/b"])
    with pytest.raises(ValueError, match="called alike"):
        store.register(["a b"])


def test_a_read_only_output_is_one_line(tmp_path, capsys):
    if os.geteuid() == 0:
        out = Path("/proc/none/out")
    else:
        out = tmp_path / "sealed" / "out"
        out.parent.mkdir(mode=0o500)
    assert run(out) == 2
    error = capsys.readouterr().err
    assert f"--out {out} cannot be written as a folder" in error
    assert error.count("\n") == 1


def test_typed_keys_in_an_optimisers_state_are_kept(tmp_path):
    like = jaxae.TrainState({"w": np.zeros(2)}, jaxae.hash_key(jax.random.key(1)), np.int32(0))
    state = jaxae.TrainState({"w": np.ones(2)}, jaxae.hash_key(jax.random.key(2)), np.int32(7))
    snapshot = jaxae.Snapshot(state, 1, 0, np.ones(1), np.ones(3))
    options = {"identity": {}, "environment": {}, "every": 1, "say": pytest.fail}
    store = checkpoint_store.CheckpointStore(tmp_path, is_resumed=False, **options)
    store.register(["m"]).save(0, snapshot)
    assert store.close(is_over=True)
    again = checkpoint_store.CheckpointStore(tmp_path, is_resumed=True, **options)
    found = again.register(["m"]).restore(0, like)
    assert found.state.opt_state.dtype == state.opt_state.dtype
    draw = lambda key: np.asarray(jax.random.uniform(key, (5,)))
    np.testing.assert_array_equal(draw(found.state.opt_state), draw(state.opt_state))
    other = like._replace(params={"v": np.zeros(2)})
    with pytest.raises(InputError, match="of another model or optimiser"):
        again.restore("m", other)
