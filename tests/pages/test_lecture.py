"""The whole lecture: what is run and what is reused, and the page in a real browser.

The pages of these tests are made of the committed results of the digits, so nothing is trained.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import finished_lecture
import html5lib
import numpy as np
import pytest
from finished_lecture import committed
from jax_settings import as_on_the_command_line

from experiments import lecture
from experiments.common.data import datasets
from experiments.common.results import claims
from experiments.common.run import command_line
from experiments.lecture import page

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Experiments run with JAX's own settings, as on the command line."""
    with as_on_the_command_line():
        yield


@pytest.fixture
def finished_parts(tmp_path):
    """A results folder in which every part of the lecture on digits is finished."""
    finished_lecture.write(tmp_path)
    return tmp_path


def run(out, *options):
    data_set = [] if "--dataset" in options else ["--dataset", "digits"]
    args = [*data_set, "--out", str(out), *options]
    return command_line.run(lecture.main, lecture.Config, args)


def text_of(out):
    return (out / "index.html").read_text(encoding="utf-8")


def parsed(html):
    """Returns the tree of a page; any violation of HTML's grammar is an error."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(html)


def edit(path, change):
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))


def test_finished_results_are_reused_and_every_claim_is_on_the_page(finished_parts, capsys):
    assert run(finished_parts) == 0
    shown = capsys.readouterr().out
    assert shown.count("finished before") == len(lecture.PARTS)
    tree = parsed(text_of(finished_parts))
    outcome = json.loads((finished_parts / "metrics.json").read_text())["parts"]
    assert all(part["error"] == "" for part in outcome.values())
    articles = tree.findall(".//article")
    assert len(articles) == sum(len(part["verdicts"]) for part in outcome.values()) >= 25
    for article in articles:
        images = article.findall(".//img")
        assert images
        for image in images:
            assert image.get("src").startswith("data:image/")
            assert len(image.get("alt")) > 30
        assert article.findall(".//tbody/tr"), "at least one number"
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    links = [a.get("href") for a in tree.iter("a")]
    assert {link[1:] for link in links} <= set(ids)


def test_nothing_comes_from_outside_the_page(finished_parts):
    assert run(finished_parts) == 0
    html = text_of(finished_parts)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert not re.findall(r"url\(|@import|<script|<link", html)


def test_a_changed_number_changes_the_page_and_the_verdict(finished_parts):
    assert run(finished_parts) == 0
    before = text_of(finished_parts)
    assert "0.876 ± 0.012" not in before
    result = finished_parts / "vector_field" / "metrics.json"
    number = {"mean": 0.876, "std": 0.012, "values": [0.87, 0.88, 0.878], "unit": "of a test"}

    def change(metrics):
        metrics["densities"]["spiral"]["error_near"] = number

    edit(result, change)
    assert run(finished_parts) == 0
    after = text_of(finished_parts)
    assert after.count("0.876 ± 0.012") >= 2  # in the table and in the finding
    assert "of a test" in after
    assert after.count("not reproduced</p>") == before.count("not reproduced</p>") + 1


@pytest.mark.parametrize("name", lecture.PARTS)
def test_every_figure_of_an_experiment_is_on_the_page(name):
    metrics = json.loads((committed(name) / "metrics.json").read_text())
    module = lecture.make_job(name, lecture.Config(dataset="digits"), Path()).module
    on_page = {file for c in module.claims(metrics) for file in (c.figure, *c.more)}
    drawn = {path.name for path in committed(name).iterdir() if path.suffix in (".png", ".gif")}
    assert on_page <= drawn
    # Left out: the single rows of a figure that is shown whole, and the end of an animation.
    assert not {f for f in drawn - on_page if not f.startswith(("rows_dim_", "path_"))}


@pytest.mark.parametrize("name", lecture.PARTS)
def test_claims_read_all_their_numbers_from_the_metrics(name):
    """Every mean in the metrics is doubled: each number of each claim must follow."""
    metrics = json.loads((committed(name) / "metrics.json").read_text())

    def doubled(value):
        if isinstance(value, dict):
            is_number = {"mean", "std", "values", "unit"} <= value.keys()
            result = {key: doubled(item) for key, item in value.items()}
            if is_number and value["mean"] is not None:
                result |= {"mean": 2 * value["mean"], "values": [2 * v for v in value["values"]]}
            return result
        return [doubled(item) for item in value] if isinstance(value, list) else value

    module = lecture.make_job(name, lecture.Config(dataset="digits"), Path()).module
    before, after = module.claims(metrics), module.claims(doubled(metrics))
    for old, new in zip(before, after, strict=True):
        assert old.numbers.keys() == new.numbers.keys()
        for label, number in old.numbers.items():
            if number["mean"]:
                assert new.numbers[label]["mean"] == pytest.approx(2 * number["mean"]), label


def test_other_commands_data_and_versions_are_not_reused(finished_parts):
    dataset = datasets.load("digits")
    job = lecture.make_job("sparse", lecture.Config(dataset="digits"), finished_parts)
    assert lecture.finished(job, dataset) == finished_parts / "sparse"
    path = finished_parts / "sparse" / "config.json"
    original = path.read_text()
    for change in (
        lambda c: c.update(command=c["command"] + " --seed 1"),
        lambda c: c.update(source_sha256="0" * 64),
        lambda c: c["environment"].update(jaxae="0.0.1"),
    ):
        edit(path, change)
        assert lecture.finished(job, dataset) is None
        path.write_text(original)
    path.write_text("{ not JSON")
    assert lecture.finished(job, dataset) is None
    other = lecture.make_job("sparse", lecture.Config(dataset="digits", seed=1), finished_parts)
    path.write_text(original)
    assert lecture.finished(other, dataset) is None


def test_options_that_are_given_are_passed_on_and_defaults_are_each_experiments_own():
    out = Path("results")
    config = lecture.Config(dataset="mnist", num_seeds=2)
    command = lambda name: lecture.make_job(name, config, out).command
    assert command("denoising") == "python -m experiments.denoising --epochs 10 --num-seeds 2"
    assert command("vector_field") == "python -m experiments.vector_field --num-seeds 2"
    config = lecture.Config(dataset="digits", quick=True, epochs=1)
    assert command("sparse") == "python -m experiments.sparse --dataset digits --epochs 1 --quick"
    config = lecture.Config(dataset="digits")
    assert command("denoising") == "python -m experiments.denoising --dataset digits"


def test_a_part_that_fails_is_said_to_have_failed_and_the_rest_is_there(
    finished_parts, monkeypatch, capfd
):
    # A real process that really fails: the folder for its results is a file.
    shutil.rmtree(finished_parts / "denoising")
    (finished_parts / "denoising").write_text("in <b>the</b> way")
    monkeypatch.chdir(ROOT)
    assert run(finished_parts) == 1
    said = capfd.readouterr()
    assert "denoising FAILED, exit status 2: error: --out" in said.out
    (line,) = said.err.strip().splitlines()
    assert line.startswith("error: denoising failed")
    tree = parsed(text_of(finished_parts))
    (failed,) = [e for e in tree.iter("div") if e.get("class") == "failed"]
    assert "cannot be written as a folder" in "".join(failed.itertext())
    assert len(tree.findall(".//article")) > 15
    outcome = json.loads((finished_parts / "metrics.json").read_text())["parts"]
    assert outcome["denoising"]["error"]
    assert not outcome["sparse"]["error"]


@pytest.mark.thorough
def test_a_part_is_really_run_on_a_file_of_ones_own(tmp_path, monkeypatch):
    images = np.random.default_rng(0).uniform(size=(40, 4, 4))
    np.save(tmp_path / "mine.npy", images.astype("float32"))
    options = {"code_dims": (3,), "noise_levels": (0.5,)}
    monkeypatch.setattr(lecture, "PARTS", {"denoising": lecture.Part("Denoising", options)})
    monkeypatch.chdir(ROOT)
    args = ["--dataset", str(tmp_path / "mine.npy"), "--out", str(tmp_path / "page")]
    args += ["--num-seeds", "2", "--epochs", "1"]
    assert command_line.run(lecture.main, lecture.Config, args) == 0
    metrics = json.loads((tmp_path / "page" / "denoising" / "metrics.json").read_text())
    assert len(metrics["by_code_dim"][0]["test_mse"]["values"]) == 2
    html = text_of(tmp_path / "page")
    assert "--code-dims 3 --noise-levels 0.5" in html
    assert claims.shown(metrics["by_code_dim"][0]["test_mse"]) in html


@pytest.mark.thorough
def test_results_that_cannot_be_read_are_a_failure_of_that_part_only(finished_parts):
    edit(finished_parts / "sparse" / "metrics.json", lambda metrics: metrics.clear())
    (finished_parts / "contractive" / "tangents.png").unlink(missing_ok=True)
    assert run(finished_parts) == 1
    outcome = json.loads((finished_parts / "metrics.json").read_text())["parts"]
    assert "cannot be read: KeyError" in outcome["sparse"]["error"]
    assert not outcome["denoising"]["error"]
    parsed(text_of(finished_parts))


def hostile_part(folder):
    """A part whose every text tries to break out of the page."""
    evil = "</title><script>alert(1)</script>\"'&<b>"
    source = committed("vector_field")
    for name in ("metrics.json", "config.json", "field_circle.png", "field_spiral.png"):
        shutil.copy(source / name, folder / name)
    number = {"mean": 1.0, "std": None, "values": [1.0], "unit": evil}
    claim = claims.Claim(
        evil,
        evil,
        "reproduced",
        {evil: number},
        "field_circle.png",
        evil,
        source=evil,
        more={"field_spiral.png": evil},
    )
    return page.Section("evil", evil, evil, folder, lambda metrics: [claim])


def test_options_of_the_machine_reach_every_part():
    given = {"memory": 1.5, "checkpoint_every": 7, "resume": True}
    config = lecture.Config(dataset="digits", **given)
    for name in lecture.PARTS:
        job = lecture.make_job(name, config, Path("out"))
        words = command_line.machine_options(job.config)
        assert words == ["--memory", "1.5", "--checkpoint-every", "7", "--resume"]
        assert "memory" not in job.command


def test_every_text_is_escaped(tmp_path):
    parts = page.describe([hostile_part(tmp_path)])
    html = page.render(parts, title="</title><script>", command="<b>", is_quick=True)
    tree = parsed(html)
    assert not list(tree.iter("script"))
    assert not list(tree.iter("b"))
    assert "trial run" in html


@pytest.mark.thorough
@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    reason="Ctrl-C is ignored here, as in a background job of a shell, and processes inherit that",
)
def test_control_c_stops_every_part_and_leaves_nothing_half_written(tmp_path):
    command = [sys.executable, "-m", "experiments.lecture", "--dataset", "digits", "--quick"]
    with subprocess.Popen(
        [*command, "--jobs", "2", "--out", str(tmp_path / "page")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if "train and" in line:  # a part has started
                break
        process.send_signal(signal.SIGINT)  # to the parent alone, as a batch system does
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.strip() == "stopped by SIGINT; no result was written"
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all("checkpoints" in path.parts for path in left)  # of what had been trained
    assert not [path for path in left if ".partial-" in str(path)]


def test_bad_options_are_one_line(tmp_path, capsys):
    for option, message in (
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--dataset", "nowhere/x.npy"], "x.npy does not exist"),
        (["--data-dir", "."], "--data-dir is for named data sets"),
    ):
        assert run(tmp_path / "new", *option) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert not any(tmp_path.iterdir())


# the page in a real browser


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_page_in_a_browser_on_a_desk_and_on_a_phone(finished_parts, browser):
    assert run(finished_parts) == 0
    requests, messages = [], []
    for width in (1200, 375):
        view = browser.new_page(viewport={"width": width, "height": 800})
        view.on("request", lambda request: requests.append(request.url))
        view.on("console", lambda message: messages.append(message.text))
        view.on("pageerror", lambda error: messages.append(str(error)))
        view.goto((finished_parts / "index.html").as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert view.evaluate(broken) == 0
        assert view.locator("article").count() >= 25
        size = "e => parseFloat(getComputedStyle(e).fontSize)"
        sizes = view.evaluate(f"[...document.querySelectorAll('p, td, th')].map({size})")
        assert min(sizes) >= 13
        first = view.locator("tbody a").first
        first.click()
        assert view.locator(first.get_attribute("href")).is_visible()
    assert not messages
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
