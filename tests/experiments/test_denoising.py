"""The experiments end to end on real digits: files, numbers, reproducibility, bad options."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from idx_files import write_four
from jax_settings import as_on_the_command_line
from PIL import Image

import jaxae
from experiments import denoising
from experiments.common import plots
from experiments.common.data import datasets
from experiments.common.errors import InputError
from experiments.common.results import output_folder
from experiments.common.run import command_line, devices, parts
from experiments.common.training import fitting
from experiments.denoising import baselines, networks

ROOT = Path(__file__).parents[2]
TINY = {"epochs": 2, "num_seeds": 2, "code_dims": (16, 4), "noise_levels": (0.5, 1.0)}


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Experiments run with JAX's own settings, as on the command line."""
    with as_on_the_command_line():
        yield


@pytest.fixture(autouse=True)
def only_digits_run_draws_as_users_see_it(coarse_figures):
    pass


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """One small run on digits; yields (folder, what main returned)."""
    out = tmp_path_factory.mktemp("run") / "new" / "folder"
    with as_on_the_command_line():
        metrics = denoising.main(denoising.Config(dataset="digits", out=out, **TINY))
    return out, metrics


def test_a_run_leaves_every_file(digits_run):
    out, _ = digits_run
    figures = {"flow_chart", "corrupted", "code_dims", "noise_levels", "rows_dim_0016"}
    figures |= {"rows_dim_0004", "curves_code_dim", "curves_noise_level"}
    expected = {f"{name}.png" for name in figures} | {"metrics.json", "config.json", "log.jsonl"}
    expected |= {".files.json"}  # what the next run may remove
    expected |= {"networks.safetensors"}  # for the lecture's page
    assert {path.name for path in out.iterdir()} == expected


def test_figures_are_pictures_with_something_in_them(digits_run):
    out, _ = digits_run
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 150, path.name
        assert pixels.std() > 10, path.name


def test_a_single_value_is_seen_in_every_look(tmp_path):
    """A line of one point has no length: without a marker the legend would name nothing."""

    def picture(y, look):
        path = tmp_path / "one.png"
        lines = [plots.plain("first", [8], [2.0], plots.METHODS["AE"])]
        lines.append(plots.plain("second", [8], [y], look))
        plots.panels(path, [plots.Panel("x", "y", lines, ticks=[8])], title="one value")
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), int)

    def purple(y, style):
        red, green, _ = np.moveaxis(picture(y, plots.Look("#d000d0", style)), -1, 0)
        return (red - green > 30).sum()

    for style in ("o-", "--", "-", ":", "-."):
        assert purple(1.0, style) > purple(np.nan, style), style


def test_metrics_are_complete_and_consistent(digits_run):
    out, metrics = digits_run
    stored = json.loads((out / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(metrics))
    assert (stored["train_examples"], stored["test_examples"]) == (1438, 359)
    assert [row["code_dim"] for row in stored["by_code_dim"]] == [16, 4]
    assert [row["noise_level"] for row in stored["by_noise_level"]] == [0.5, 1.0]
    for row in stored["by_code_dim"] + stored["by_noise_level"]:
        for part in (row, row["linear"], row["corrupted"]):
            for name, unit in (("test_mse", "squared pixel"), ("test_psnr", "dB")):
                number = part[name]
                assert unit in number["unit"]
                assert len(number["values"]) == 2
                np.testing.assert_allclose(number["mean"], np.mean(number["values"]))
                np.testing.assert_allclose(number["std"], np.std(number["values"], ddof=1))


def test_baselines_are_what_they_say(digits_run):
    # uniform noise of half-width a, clipped: about a^2 / 3 inside, half of that at 0 and 1
    _, metrics = digits_run
    low, high = (row["corrupted"]["test_mse"]["mean"] for row in metrics["by_noise_level"])
    assert 0.5**2 / 6 < low < 0.5**2 / 3
    assert low < high < 1 / 3
    ranks = [row["linear"]["test_mse"]["mean"] for row in metrics["by_code_dim"]]
    assert ranks[0] < ranks[1] < low  # rank 16 beats rank 4 beats doing nothing


def test_gaussian_likelihood_and_squared_error_have_one_gradient(digits_run):
    _, metrics = digits_run
    values = metrics["stochastic_view"]["gradient_gap"]["values"]
    assert len(values) == 2
    assert all(0 <= value < 1e-5 for value in values)


def test_verdicts_follow_the_numbers(digits_run):
    metrics = json.loads(json.dumps(digits_run[1]))
    wide, narrow = metrics["by_code_dim"]
    for row, error in ((wide, 0.02), (narrow, 0.03), (metrics["by_noise_level"][1], 0.04)):
        row["test_mse"]["mean"] = error
        row["corrupted"]["test_mse"]["mean"] = 0.05 + error
        row["linear"]["test_mse"]["mean"] = 0.01 + error
    metrics["by_noise_level"][0] = wide
    verdicts = lambda: [claim.verdict for claim in denoising.claims(metrics)]
    assert verdicts() == ["reproduced"] * 5
    narrow["test_mse"]["mean"] = 0.01  # the smaller code is better
    metrics["stochastic_view"]["gradient_gap"]["values"][0] = 0.1
    metrics["by_noise_level"][1]["test_mse"]["mean"] = 0.2  # worse than doing nothing
    wide["linear"]["test_mse"]["mean"] = 0.001
    found = verdicts()
    assert [found[i] for i in (0, 1, 2, 4)] == ["not reproduced"] * 4


def test_log_has_one_line_per_epoch(digits_run):
    out, _ = digits_run
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    runs = {(line["code_dim"], line["noise_level"], line["seed"]) for line in lines}
    assert runs == {(d, n, s) for d, n in ((16, 0.5), (16, 1.0), (4, 0.5)) for s in (0, 1)}
    assert len(lines) == 2 * len(runs)
    assert all(np.isfinite(line["train_loss"]) for line in lines)
    first, last = (
        np.mean([line["train_loss"] for line in lines if line["epoch"] == epoch])
        for epoch in (1, 2)
    )
    assert last < first


def test_config_records_settings_versions_device_and_data(digits_run):
    out, _ = digits_run
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["code_dims"] == [16, 4]
    assert config["settings"]["epochs"] == 2
    assert config["environment"]["jax"] == jax.__version__
    assert config["environment"]["device"]["platform"] == jax.devices()[0].platform
    assert config["environment"]["numbers"] == {
        "random_generator": "threefry2x32",
        "threefry_partitionable": True,
        "float64": False,
    }
    assert config["data_sha256"] == datasets.load("digits").fingerprint()


def without_times(metrics):
    text = json.dumps(metrics)
    return re.sub(r'"seconds(_per_run)?": [0-9.]+', "", text)


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_numbers_from_tfds_and_from_idx(tmp_path, monkeypatch):
    # "Same" means: the same examples in one canonical order, hence bit-identical metrics.
    import tensorflow_datasets as tfds

    from experiments.common.data.sources import tfds_prepare

    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(parts, "draw", lambda *_: None)  # numbers are compared, no figures
    write_four(tmp_path / "idx", train=30, test=10)
    builder = tfds_prepare._idx_builder(tfds.builder_cls("mnist"))
    monkeypatch.setattr(
        builder,
        "_split_generators",
        lambda self, manager: {
            split: tfds_prepare._idx_examples(files)
            for split, files in tfds_prepare.idx.find(tmp_path / "idx", "mnist").items()
        },
    )
    builder(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    tiny = TINY | {"code_dims": (3,), "noise_levels": (0.5,), "num_seeds": 1}
    config = denoising.Config(dataset="mnist", seed=7, **tiny)

    def run(source, seed):
        changes = {"data_dir": tmp_path / source, "out": tmp_path / f"{source}-{seed}"}
        return without_times(denoising.main(dataclasses.replace(config, seed=seed, **changes)))

    assert run("tfds", 7) == run("idx", 7)


def test_another_seed_is_another_key():
    config = denoising.Config(dataset="digits", quick=True, seed=7)
    setups = [denoising.make_setup(dataclasses.replace(config, seed=seed)) for seed in (7, 7, 8)]
    keys = [str([jax.random.key_data(k) for k in networks.seed_keys(p, 0)]) for p in setups]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.thorough(by_default=["masking"])
@pytest.mark.parametrize("corruption", ["gaussian", "masking", "salt-and-pepper"])
def test_every_corruption_is_an_option_and_has_a_level_0(corruption, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "draw", lambda *_: None)
    args = ["--dataset", "digits", "--quick", "--code-dims", "4", "--corruption", corruption]
    args += ["--noise-levels", "0", "0.4", "--num-seeds", "2", "--out", str(tmp_path)]
    assert command_line.run(denoising.main, denoising.Config, args) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["corruption"] == corruption
    none, some = (row["corrupted"] for row in metrics["by_noise_level"])
    assert metrics["by_code_dim"][0]["corrupted"] == none
    assert none["test_mse"]["mean"] == 0 < 0.01 < some["test_mse"]["mean"]
    assert none["test_psnr"]["mean"] is None  # infinite, which JSON lacks


def test_default_dimensions_and_levels_are_the_lectures(tmp_path):
    setup = denoising.make_setup(denoising.Config(dataset="digits"))
    assert setup.dims == (128, 64, 32, 16, 8, 4, 2)
    assert (setup.swept_dim, setup.levels[0], setup.config.batch_size) == (16, 0.55, 64)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(size=(10, 28, 28)))
    setup = denoising.make_setup(denoising.Config(dataset=str(tmp_path / "x.npy")))
    assert setup.dims == (1568, 784, 256, 64, 32, 16, 8)
    assert (setup.swept_dim, setup.epochs, setup.config.learning_rate) == (64, 50, 1e-3)


# bad options: one line on standard error, status 2, nothing left behind

BAD_OPTIONS = {
    "no epochs": (["--epochs", "0"], "--epochs must be at least 1 and at most 1000000"),
    "negative batch": (["--batch-size", "-3"], "--batch-size must be at least 1 and at most"),
    "no seeds": (["--num-seeds", "0"], "--num-seeds must be at least 1"),
    "negative seed": (["--seed", "-1"], "--seed must be at least 0 and at most 4294967295"),
    "seed too large": (["--seed", "4294967296"], "--seed must be at least 0 and at most"),
    "zero rate": (["--learning-rate", "0"], "--learning-rate must be a finite number above 0"),
    "NaN rate": (["--learning-rate", "nan"], "--learning-rate must be .* but it is nan"),
    "infinite rate": (["--learning-rate", "inf"], "--learning-rate must be .* but it is inf"),
    "dim 0": (["--code-dims", "8", "0"], "--code-dims must be at least 1 .* but it is 0"),
    "dim too large": (["--code-dims", "99999999"], "--code-dims must be at least 1 and at most"),
    "dim twice": (["--code-dims", "8", "8"], r"--code-dims must be different values.*\[8, 8\]"),
    "negative noise": (["--noise-levels", "-0.5"], "--noise-levels must be a finite number at lea"),
    "NaN noise": (["--noise-levels", "nan"], "--noise-levels must be a finite number"),
    "noise beyond float32": (["--noise-levels", "1e39"], "--noise-levels must be .* at most 1000"),
    "no dims": (["--code-dims"], "--code-dims must name at least one value"),
    "noise twice": (["--noise-levels", "1", "1"], "--noise-levels must be different values"),
    "rate above 1": (["--corruption", "masking", "--noise-levels", "1.5"], "at most 1, but it is"),
    "salt above 1": (["--corruption", "salt-and-pepper", "--noise-levels", "2"], "at most 1"),
    "unknown data": (["--dataset", "mnits"], "--dataset mnits is unknown"),
    "missing file": (["--dataset", "nowhere/x.npy"], "x.npy does not exist"),
    "data dir of digits": (["--data-dir", "."], "--data-dir is for named data sets"),
    "missing data dir": (["--dataset", "mnist", "--data-dir", "nowhere"], "is not a folder"),
    "bfloat16 on a CPU": (["--products", "bfloat16"], "--products bfloat16 is for accelerators"),
    "cache in a file": (["--compilation-cache", __file__], "cannot be made a folder"),
    "shared cache": (["--compilation-cache", "/tmp"], "cache /tmp .*(others|another)"),
    "rate of divergence": (["--learning-rate", "1e30"],
                           r"above 0 and at most 10, but it is 1e\+30"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "match"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_are_one_line_and_status_2(args, match, tmp_path, capsys):
    if "bfloat16" in args and jax.default_backend() != "cpu":
        pytest.skip("an accelerator has these products")
    out = tmp_path / "results" / "here"
    data_set = [] if "--dataset" in args else ["--dataset", "digits"]
    given = [*data_set, "--out", str(out), *args]
    assert command_line.run(denoising.main, denoising.Config, given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if not line.startswith("\r")]
    assert len(lines) == 1
    assert re.search(match, lines[0])
    assert not any(tmp_path.iterdir()), "nothing is left behind"


def test_a_compilation_cache_is_filled_and_used(tmp_path):
    """Only what is compiled anew is written; the folder is the user's alone."""
    code = (
        "import sys, pathlib, jax, jax.numpy as jnp;"
        "from experiments.common.run import compilation;"
        "compilation.use_cache(pathlib.Path(sys.argv[1]));"
        "print(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 3))).sum())"
    )
    folder, printed = tmp_path / "programs", []
    for _ in range(2):
        found = subprocess.run(
            [sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, check=True
        )
        kept = {p.name for p in folder.iterdir() if p.name.endswith("-cache")}
        printed.append((found.stdout, kept))
    assert printed[0] == printed[1]
    assert printed[0][1]
    assert folder.stat().st_mode & 0o077 == 0


def test_no_command_names_a_folder_of_the_machine():
    config = denoising.Config(dataset="digits", compilation_cache=Path("programs"), epochs=3)
    command = command_line.as_typed("denoising", config)
    assert command == "python -m experiments.denoising --dataset digits --epochs 3"


@pytest.mark.parametrize(
    "args", [["--epoch-count", "3"], ["--epochs", "three"], ["--corruption", "fog"], ["extra"]]
)
def test_mistyped_options_show_the_parsers_usage_and_status_2(args, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.run(denoising.main, denoising.Config, args)
    assert caught.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_divergence_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def diverges(*_, **__):
        raise jaxae.NonFiniteLossError("the training loss is nan", 3)

    monkeypatch.setattr(fitting.AutoencoderTrainer, "fit_many", diverges)
    args = ["--dataset", "digits", "--out", str(tmp_path / "new")]
    assert command_line.run(denoising.main, denoising.Config, args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"loss is nan in epoch 3: lower.*--learning-rate is 0.001", line)
    assert not any(tmp_path.iterdir())


def test_an_output_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("keep me")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        args = ["--dataset", "digits", "--quick", "--out", str(out)]
        assert command_line.run(denoising.main, denoising.Config, args) == 2
        assert f"--out {out} cannot be written as a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    args = ["--dataset", "digits", "--quick", "--out", str(tmp_path / "new")]
    assert command_line.run(denoising.main, denoising.Config, args) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_failing_run_keeps_the_results_of_the_last_one(digits_run, monkeypatch):
    out, _ = digits_run
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_, **__):
        raise RuntimeError("in the middle of measuring")

    monkeypatch.setattr(baselines, "score", fail)
    tiny = {"code_dims": (2,), "noise_levels": (0.5,), "epochs": 1}
    config = denoising.Config(dataset="digits", out=out, quick=True, **tiny)
    with pytest.raises(RuntimeError, match="in the middle"):
        denoising.main(config)
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["checkpoints"]
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_second_run_leaves_nothing_stale_and_touches_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for dim in (4, 2):
        with output_folder.RunRecord(tmp_path) as record:
            record.path(f"rows_{dim}.png").write_bytes(b"picture")
            record.write_json("metrics.json", {"dim": dim})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "rows_2.png", "metrics.json", "log.jsonl", ".files.json"}


def test_a_folder_in_the_way_of_a_file_loses_nothing(tmp_path):
    (tmp_path / "b.json").mkdir()
    record = output_folder.RunRecord(tmp_path).__enter__()
    for name in ("a.json", "b.json", "c.json"):
        record.write_json(name, {"name": name})
    with pytest.raises(InputError, match=r"has a folder named b.json; .* this run are in"):
        record.__exit__(None, None, None)
    (kept,) = tmp_path.glob(".partial-*")
    assert {"a.json", "b.json", "c.json"} <= {path.name for path in kept.iterdir()}
    assert not (tmp_path / "a.json").exists()


def test_control_c_leaves_nothing_and_has_its_status(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.AutoencoderTrainer, "fit_many", interrupted)
    args = ["--dataset", "digits", "--quick", "--out", str(tmp_path / "new")]
    assert command_line.run(denoising.main, denoising.Config, args) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="SIGINT is ignored here"
)
def test_control_c_in_the_middle_of_training_is_heard_within_seconds(tmp_path):
    """Two dimensions train, a third one waits; none of them is trained to its end."""
    options = ["--epochs", "1000000", "--code-dims", "4", "3", "2", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "experiments.denoising", "--dataset", "digits", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **pipes)
    try:
        while not any(log.stat().st_size for log in tmp_path.glob(".partial-*/log.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error == "stopped by SIGINT; no result was written\n"
    assert "cannot be written" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    kept = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert 1 <= len([name for name in kept if name.startswith(("dim-4", "dim-3"))]) == len(kept)


def test_a_batch_that_all_processes_cannot_share_is_one_line(tmp_path, monkeypatch, capsys):
    mesh = types.SimpleNamespace(size=6)
    monkeypatch.setattr(devices, "mesh_of", lambda devices: mesh)
    args = ["--dataset", "digits", "--quick", "--out", str(tmp_path)]
    assert command_line.run(denoising.main, denoising.Config, args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --batch-size must be a multiple of the 6 devices")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


COMMAND = [sys.executable, "-m", "experiments.denoising", "--dataset", "digits"]


@pytest.mark.thorough
def test_command_line_as_a_user_types_it(tmp_path):
    """A real process: plain lines when the output is no terminal, status 0."""
    options = ["--quick", "--code-dims", "4", "--noise-levels", "0.5", "--out", str(tmp_path)]
    done = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert "test MSE" in done.stdout
    assert str(tmp_path) in done.stdout.splitlines()[-1]


def test_a_bad_option_on_a_real_command_line():
    bad = subprocess.run([*COMMAND, "--epochs", "0"], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr == "error: --epochs must be at least 1 and at most 1000000, but it is 0\n"


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.run(denoising.main, denoising.Config, ["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: python -m experiments.denoising" in shown
    for field in dataclasses.fields(denoising.Config):
        assert f"--{field.name.replace('_', '-')}" in shown
