"""The whole lecture: what is run and what is reused, and the page in a real browser.

The pages of these tests are made of the committed results of the digits, so nothing is trained.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import finished_lecture
import html5lib
import numpy as np
import pytest
from finished_lecture import committed
from jax_settings import as_on_the_command_line
from markupsafe import Markup

from experiments import denoising, lecture
from experiments.common import plots
from experiments.common.data import datasets
from experiments.common.results import claims
from experiments.common.run import command_line
from experiments.lecture import page, pictures, play

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


@pytest.fixture(scope="module")
def finished_page(tmp_path_factory):
    """The folder of a page that is finished, for tests that only read it."""
    folder = tmp_path_factory.mktemp("lecture")
    finished_lecture.write(folder)
    with as_on_the_command_line():
        assert run(folder) == 0
    return folder


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
    assert shown.count("finished before") == len(lecture.EXPERIMENTS)
    tree = parsed(text_of(finished_parts))
    outcome = json.loads((finished_parts / "metrics.json").read_text())["parts"]
    assert all(part["error"] == "" for part in outcome.values())
    articles = tree.findall(".//article")
    assert len(articles) == sum(len(part["verdicts"]) for part in outcome.values()) >= 25
    for article in articles:
        images = article.findall(".//img")
        assert images
        assert article.find("figure/figcaption").text.strip().endswith((".", "?"))
        for image in images:
            assert image.get("src").startswith("data:image/")
            assert len(image.get("alt")) > 30
        assert article.findall("details//tbody/tr"), "at least one number, folded"
        (plain,) = [e for e in article.findall("p") if e.get("class") == "plain"]
        assert plain.text.endswith(".")
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    links = [a.get("href") for a in tree.iter("a")]
    assert {link[1:] for link in links} <= set(ids)
    assert {"contractive-tangents", "contractive-5"} <= set(ids), "links of before still lead there"
    assert len((finished_parts / "index.html").read_bytes()) < 10e6


def test_the_first_screen_has_three_sentences_and_the_denoised_digits(finished_page):
    tree = parsed(text_of(finished_page))
    (first,) = [e for e in tree.iter("section") if e.get("class") == "first"]
    metrics = json.loads((finished_page / "denoising" / "metrics.json").read_text())
    claim = next(c for c in denoising.claims(metrics) if c.anchor == page.COVER)
    assert first.find(".//img").get("alt") == claim.alt
    sentences = ["".join(item.itertext()) for item in first.iter("li")]
    assert len(sentences) == 3
    assert sentences[2].startswith(str(claim.take_home).partition(" level ")[0])


def test_powers_of_ten_and_formulas_are_typeset(finished_page):
    html = text_of(finished_page)
    assert "x 10^" not in html
    assert "(2.31 ± 0.93) &times; 10<sup>&minus;6</sup>" in html
    math = [e for e in parsed(html).iter() if e.tag.endswith("}math")]
    assert len(math) >= 12
    assert "lambda *" not in html
    with pytest.raises(ValueError, match="and no &, in a formula"):
        page._typeset("a < b")


def test_nothing_comes_from_outside_the_page(finished_page):
    html = text_of(finished_page)
    assert not re.findall(r"""(?:src|srcset|href)=["'](?!data:|#)""", html)
    assert not re.findall(r"url\(|@import|<script [^>]*src|<link", html)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "http" not in policy


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


@pytest.mark.parametrize("name", lecture.EXPERIMENTS)
def test_every_figure_of_an_experiment_is_on_the_page(name):
    metrics = json.loads((committed(name) / "metrics.json").read_text())
    module = lecture.make_job(name, lecture.Config(dataset="digits"), Path()).module
    on_page = {file for c in module.claims(metrics) for file in (c.figure, *c.more)}
    drawn = {path.name for path in committed(name).iterdir() if path.suffix in (".png", ".gif")}
    assert on_page <= drawn
    # Left out: the single rows of a figure that is shown whole, and the end of an animation.
    assert not {f for f in drawn - on_page if not f.startswith(("rows_dim_", "path_"))}


@pytest.mark.parametrize("name", lecture.EXPERIMENTS)
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


def test_what_goes_beyond_the_chapter_is_not_run_on_digits_but_shown(finished_parts, capsys):
    """Its results are two minutes of training; the page of the digits takes six without them."""
    assert run(finished_parts) == 0
    articles = len(parsed(text_of(finished_parts)).findall(".//article"))
    shutil.rmtree(finished_parts / "convolutional")
    assert run(finished_parts) == 0
    wanted = "python -m experiments.convolutional --dataset digits --out "
    assert f"left out on the digits; {wanted}{finished_parts / 'convolutional'}" in (
        capsys.readouterr().out
    )
    assert len(parsed(text_of(finished_parts)).findall(".//article")) == articles - 3
    assert not lecture.is_left_out("convolutional", lecture.Config(dataset="mnist"))
    assert not lecture.is_left_out("sparse", lecture.Config(dataset="digits"))


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
    monkeypatch.setattr(
        lecture, "EXPERIMENTS", {"denoising": lecture.Experiment("Denoising", options)}
    )
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
        anchor="evil-claim",
        plain=claims.Sentence(evil),
        caption=evil,
        source=evil,
        take_home=claims.Sentence(evil),
        more={"field_spiral.png": evil},
    )
    return page.Section("evil", evil, evil, folder, lambda metrics: [claim])


def test_title_and_language_are_those_of_the_course(finished_parts):
    assert run(finished_parts, "--title", "Übung 9 <b>", "--language", "de") == 0
    html = text_of(finished_parts)
    tree = parsed(html)
    assert tree.get("lang") == "de"
    assert tree.find(".//h1").text == "Übung 9 <b>"
    assert "Auf der Folie steht" in html
    assert "The slide says" not in html
    plain = [e.text for e in tree.iter("p") if e.get("class") == "plain"]
    assert "Der schmalste Code, mit 2 Zahlen, lässt das 2,6-Fache" in " ".join(plain)
    for details in tree.iter("details"):
        finding = details.find("div/p")
        assert finding is None or details.find("div").get("lang") == "en"
    config = json.loads((finished_parts / "config.json").read_text())
    assert config["settings"]["title"] == "Übung 9 <b>"
    job = lecture.make_job("sparse", lecture.Config(title="A", language="de"), Path())
    assert job.command == "python -m experiments.sparse"


def test_what_measures_time_runs_with_nothing_beside_it():
    """The contractive experiment does so with ``--residual``, which the digits do not have."""
    alone = {
        dataset: {
            name
            for name in lecture.EXPERIMENTS
            if lecture.runs_alone(lecture.make_job(name, lecture.Config(dataset=dataset), Path()))
        }
        for dataset in ("digits", "mnist")
    }
    assert alone == {"digits": {"dae_vs_cae"}, "mnist": {"dae_vs_cae", "contractive"}}


def test_bytes_of_another_encoding_in_a_title_lose_no_page(finished_parts):
    """As a terminal in Latin-1 gives them to Python."""
    assert run(finished_parts, "--title", os.fsdecode(b"\xdcbung 9")) == 0
    assert parsed(text_of(finished_parts)).find(".//h1").text == "\\udcdcbung 9"


def test_results_without_a_format_that_is_asked_for_are_made_again(finished_parts):
    config = lecture.Config(dataset="digits", figures="pdf")
    dataset = datasets.load("digits")
    job = lecture.make_job("sparse", config, finished_parts)
    assert job.config.formats == ("pdf", "svg")
    assert lecture.finished(job, dataset) == finished_parts / "sparse"
    assert lecture.finished(job, dataset, config.formats) is None
    for picture in (finished_parts / "sparse").glob("*.png"):
        picture.with_suffix(".pdf").write_bytes(b"%PDF")
    assert lecture.finished(job, dataset, config.formats) == finished_parts / "sparse"


def test_lines_are_shown_as_svg_and_images_as_png(tmp_path):
    part = hostile_part(tmp_path)
    plots.panels(
        tmp_path / "field_circle.svg",
        [plots.Panel("x", "y", [plots.plain("line", [1, 2], [3, 4], plots.EXACT)])],
        title="Lines",
    )
    images = {"row": np.zeros((2, 4, 4, 1))}
    plots.image_rows(tmp_path / "field_spiral.svg", images, title="Images")
    (described,) = page.describe([part])
    (statement,) = described.statements
    assert statement.picture.image.startswith("data:image/svg+xml,%3C")
    assert statement.more[0].image.startswith("data:image/png;base64,")


def test_a_drawing_of_too_many_points_is_shown_as_png(tmp_path, monkeypatch):
    hostile_part(tmp_path)
    (tmp_path / "field_circle.svg").write_text("<svg/>")
    shown = lambda: pictures.embed(tmp_path / "field_circle.png", "").image
    assert shown().startswith("data:image/svg+xml,")
    monkeypatch.setattr(pictures, "_MOST_BYTES", 5)
    assert shown().startswith("data:image/png;")


def test_options_of_the_machine_reach_every_part():
    given = {"memory": 1.5, "checkpoint_every": 7, "resume": True, "figures": "pdf"}
    config = lecture.Config(dataset="digits", **given)
    for name in lecture.EXPERIMENTS:
        job = lecture.make_job(name, config, Path("out"))
        words = command_line.machine_options(job.config)
        wanted = ["--memory", "1.5", "--figures", "pdf,svg", "--checkpoint-every", "7", "--resume"]
        assert words == wanted, "with SVG in any case, for the lines on the page"
        assert "memory" not in job.command
        assert "figures" not in job.command


def test_every_text_is_escaped(tmp_path):
    parts = page.describe([hostile_part(tmp_path)])
    html = page.render(parts, title="</title><script>", command="<b>", is_quick=True)
    tree = parsed(html)
    (script,) = tree.iter("script")
    assert script.text == (ROOT / "experiments" / "lecture" / "page.js").read_text()
    assert not list(tree.iter("b"))
    assert "trial run" in html


def test_a_widget_and_its_script_stand_at_the_end_of_their_part(tmp_path):
    widget = SimpleNamespace(name="try-it", title="Try it", part="evil", html=Markup("<i>here</i>"))
    parts = page.describe([hostile_part(tmp_path)])
    options = {"title": "Title", "command": "", "is_quick": False}
    html = page.render(parts, **options, widgets=[widget])
    tree = parsed(html)
    (section,) = [e for e in tree.iter("section") if e.get("id") == "try-it"]
    assert section.find("i").text == "here"
    assert [a.text for a in tree.iter("a") if a.get("href") == "#try-it"] == ["Try it"] * 2
    assert list(tree.iter("script"))[1].text == play.script()
    assert html.count("sha256-") == 2


def test_each_statement_and_widget_is_a_small_page(finished_parts):
    assert run(finished_parts, "--embed") == 0
    tree = parsed(text_of(finished_parts))
    articles = [article.get("id") for article in tree.iter("article")]
    widgets = [e.get("id") for e in tree.iter("section") if e.get("class") == "widget"]
    names = {path.name for path in finished_parts.glob("embed-*.html")}
    assert names == {f"embed-{name}.html" for name in articles + widgets}
    small = parsed((finished_parts / "embed-denoising-more-noise.html").read_text(encoding="utf-8"))
    assert [article.get("id") for article in small.iter("article")] == ["denoising-more-noise"]
    assert not list(small.iter("script"))
    links = [a.get("href") for a in small.iter("a")]
    assert {link[1:] for link in links} <= {e.get("id") for e in small.iter() if e.get("id")}


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
        (["--figures", "pdf,gif"], "--figures must be pdf, svg or several"),
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


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@needs_chromium
def test_the_page_in_a_browser_on_a_desk_and_on_a_phone(finished_page, browser):
    look_at(finished_page / "index.html", browser)


@needs_chromium
@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_the_committed_pages_open_from_the_repository(name, browser):
    path = ROOT / "docs" / "_static" / f"lecture-{name}.html"
    assert path.stat().st_size < 10_000_000
    look_at(path, browser)
    assert path.read_text(encoding="utf-8").count('href="#denoise-it-yourself"') > 0, "widgets too"


def look_at(path, browser):
    """Looks at a page on a desk and on a phone, in the light and in the dark."""
    requests, messages = [], []
    for viewport, scheme in itertools.product((DESK, PHONE), ("light", "dark")):
        view = browser.new_page(viewport=viewport, color_scheme=scheme)
        view.on("request", lambda request: requests.append(request.url))
        view.on("console", lambda message: messages.append(message.text))
        view.on("pageerror", lambda error: messages.append(str(error)))
        view.goto(path.as_uri())
        view.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert view.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert view.evaluate(broken) == 0
        assert view.locator("article").count() >= 25
        assert view.locator("math").first.bounding_box()["width"] > 50
        size = "e => parseFloat(getComputedStyle(e).fontSize)"
        sizes = view.evaluate(f"[...document.querySelectorAll('p, td, th')].map({size})")
        assert min(sizes) >= 13
        first = view.locator("tbody a").first
        first.click()
        assert view.locator(first.get_attribute("href")).is_visible()
        paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert not messages
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}


@needs_chromium
def test_the_contents_stay_on_a_desk_and_open_by_a_button_on_a_phone(finished_page, browser):
    view = browser.new_page(viewport=DESK)
    view.goto((finished_page / "index.html").as_uri())
    contents = view.get_by_role("navigation", name="Contents")
    view.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    box = contents.bounding_box()
    assert abs(box["y"]) < 1
    assert box["height"] == DESK["height"]

    phone = browser.new_context(viewport=PHONE, has_touch=True)
    view = phone.new_page()
    view.goto((finished_page / "index.html").as_uri())
    contents = view.locator("#contents")
    view.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert not contents.is_visible()
    view.get_by_role("button", name="Contents").tap()
    contents.get_by_role("link", name="Sparse autoencoders").tap()
    assert not contents.is_visible()
    assert 0 < view.locator("h2#sparse").bounding_box()["y"] < 200, "below the bar"
    view.get_by_role("button", name="Contents").press("Enter")
    assert contents.is_visible()
    view.keyboard.press("Escape")
    assert not contents.is_visible()


@needs_chromium
def test_the_first_key_leads_past_the_contents(finished_page, browser):
    view = browser.new_page(viewport=DESK)
    view.goto((finished_page / "index.html").as_uri())
    view.keyboard.press("Tab")
    assert view.locator(":focus").text_content() == "Skip to the statements"
    view.keyboard.press("Enter")
    view.keyboard.press("Tab")
    assert view.locator("main :focus").count() == 1


@needs_chromium
def test_on_paper_there_are_statements_and_figures_only(finished_page, browser):
    view = browser.new_page(viewport=DESK, color_scheme="dark")
    view.goto((finished_page / "index.html").as_uri())
    view.emulate_media(media="print")
    assert not view.locator("#contents").is_visible()
    assert not view.locator("details").first.is_visible()
    assert view.locator("article .plain").first.is_visible()
    style = "getComputedStyle(document.querySelector('article figure')).breakInside"
    assert view.evaluate(style) == "avoid"
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    sheets = re.findall(rb"/Type\s*/Page\b", view.pdf(format="A4"))
    assert 15 < len(sheets) < 25, "about two statements on a sheet"
    moving = view.locator("#manifold-vector-field img").first
    assert moving.evaluate("image => image.currentSrc").startswith("data:image/png")


@needs_chromium
def test_the_page_forbids_the_network_and_scripts_that_are_not_its_own(finished_page, browser):
    view = browser.new_page()
    view.goto((finished_page / "index.html").as_uri())
    blocked = view.evaluate(
        """async () => {
          const blocked = [];
          addEventListener("securitypolicyviolation", (e) => blocked.push(e.effectiveDirective));
          await fetch("https://example.org/").catch(() => {});
          new Image().src = "https://example.org/picture.png";
          const script = document.createElement("script");
          script.textContent = "window.isRun = true";
          document.body.append(script);
          await new Promise((done) => setTimeout(done, 100));
          return [...blocked, String(window.isRun)];
        }"""
    )
    assert set(blocked) == {"script-src-elem", "connect-src", "img-src", "undefined"}


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core, from the registry of npm."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm, which axe-core is loaded with")
    command = [npm, "pack", "--silent", "axe-core@4"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"axe-core cannot be loaded: {error}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as files:
        return files.extractfile("package/axe.min.js").read().decode()


@needs_chromium
@pytest.mark.thorough
def test_axe_finds_no_barrier(finished_page, browser, axe):
    for viewport, scheme in itertools.product((DESK, PHONE), ("light", "dark")):
        view = browser.new_context(
            viewport=viewport, color_scheme=scheme, bypass_csp=True
        ).new_page()
        view.goto((finished_page / "index.html").as_uri())
        view.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        view.evaluate(axe)
        found = view.evaluate("axe.run().then((result) => result.violations)")
        said = [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]
        assert not said
