"""The widgets of the lecture's page: what their script computes is what JAX computes.

The networks are those of short runs of the experiments on the digits. The widgets run in a real
browser, and are worked by mouse, keys and touch.
"""

import json
import re
import shutil
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import html5lib
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_settings import as_on_the_command_line

import jaxae
from experiments import contractive, denoising, overcomplete_copy, sparse, vector_field
from experiments.common.data import densities, noises
from experiments.common.errors import InputError
from experiments.common.results import networks_file
from experiments.common.run import command_line, experiment, parts
from experiments.contractive import probes
from experiments.lecture import languages, page, play
from experiments.sparse.networks import autoencoder as sparse_autoencoder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
PARTS = {
    "overcomplete_copy": overcomplete_copy,
    "sparse": sparse,
    "denoising": denoising,
    "vector_field": vector_field,
    "contractive": contractive,
}
TOLERANCE = 1e-3  # of the script with weights in half precision, against JAX in single precision


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Experiments run with JAX's own settings, as on the command line."""
    with as_on_the_command_line():
        yield


class Run(NamedTuple):
    """A short run: its folder, and the networks that it has kept, before they were rounded."""

    folder: Path
    networks: dict


def run_shortly(part, out):
    """Runs an experiment on few epochs, without its figures."""
    kept = {}
    draw = experiment.ExperimentRun.draw

    def draw_nothing_else(self, plot, name, *arguments, **options):
        if name == networks_file.NAME:
            kept.update({network.name: network.params for network in arguments[0]})
            draw(self, plot, name, *arguments)

    args = ["--num-seeds", "1", "--out", str(out)]
    args += [] if part == "vector_field" else ["--dataset", "digits"]
    args += ["--epochs", "1" if part == "overcomplete_copy" else "3"]
    args += ["--code-dims", "8", "16"] if part == "denoising" else []
    args += ["--weights", "0.1", "1", "--weight", "1"] if part == "contractive" else []
    args += ["--code-dim", "32"] if part in ("contractive", "sparse") else []
    curve_and_spots = {name: densities.ALL[name] for name in ("circle", "mixture")}
    with pytest.MonkeyPatch.context() as patch, as_on_the_command_line():
        patch.setattr(experiment.ExperimentRun, "draw", draw_nothing_else)
        patch.setattr(parts, "measure", lambda parts, run, trained, known: known)
        patch.setattr(parts, "draw", lambda parts, run, trained, found: None)
        patch.setattr(densities, "ALL", curve_and_spots)
        assert command_line.run(PARTS[part].main, PARTS[part].Config, args) == 0
    return Run(out, kept)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Gives a short run of an experiment; each is made once."""
    return cache(lambda part: run_shortly(part, tmp_path_factory.mktemp(part)))


@pytest.fixture(scope="module")
def sparse_run(run_of):
    return run_of("sparse")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def page_of(folder, part, language=languages.ENGLISH):
    """Returns the small page of a widget."""
    (widget,) = play.sections({part: folder}, language)
    return page.render_widget(widget, language=language)


class View:
    """A page with one widget, in the browser; nothing may be requested or said to the console."""

    def __init__(self, browser, path, html, **options):
        path.write_text(html, encoding="utf-8")
        self._messages = []
        self.page = browser.new_page(has_touch=True, **options)
        self.page.on("request", lambda request: self._messages.append(request.url))
        self.page.on("console", lambda message: self._messages.append(message.text))
        self.page.on("pageerror", lambda error: self._messages.append(str(error)))
        self.page.goto(path.as_uri())
        assert self._messages.pop(0) == path.as_uri()

    def close(self):
        self.page.close()
        assert not self._messages

    def part(self, name):
        return self.page.locator(f'[data-part="{name}"]')

    def shown(self):
        """Returns the numbers on the screen."""
        plain = """() => {
          const plain = (value) => ArrayBuffer.isView(value) || Array.isArray(value)
            ? Array.from(value, plain)
            : value && typeof value === "object"
              ? Object.fromEntries(Object.entries(value).map(([name, own]) => [name, plain(own)]))
              : value;
          return plain(document.querySelector("[data-play]").shown);
        }"""
        found = self.page.evaluate(plain)
        as_array = lambda value: (
            np.array(value, np.float64)
            if isinstance(value, list)
            else {name: as_array(own) for name, own in value.items()}
            if isinstance(value, dict)
            else value
        )
        return as_array(found)

    def words(self):
        """Returns the sentences of the page and of its labels, also the hidden, without numbers."""
        self.page.locator("[role=status]", has_text=re.compile(r"\w")).wait_for()
        texts = """() => {
          const skipped = (node) => node.parentElement.closest("script, style, title");
          const walk = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
          const texts = [];
          while (walk.nextNode()) if (!skipped(walk.currentNode)) texts.push(walk.currentNode.data);
          for (const name of ["aria-label", "aria-valuetext"]) {
            for (const element of document.querySelectorAll(`[${name}]`)) {
              texts.push(element.getAttribute(name));
            }
          }
          return texts;
        }"""
        return {
            without_numbers(sentence)
            for text in self.page.evaluate(texts)
            for sentence in re.split(r"(?<=[.?:])\s", text)
        } - {""}

    def set(self, name, value):
        """Sets a slider, a choice or a box, as its reader does."""
        if isinstance(value, bool):
            self.part(name).set_checked(value)
            return
        change = "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }"
        self.part(name).evaluate(change, str(value))

    def draw_with_mouse(self, name):
        """Draws a stroke from the left to the right."""
        places = self._stroke(name)
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place)
        self.page.mouse.up()

    def draw_with_finger(self, name):
        """Draws the same stroke on a touch screen."""
        touch = self.page.context.new_cdp_session(self.page)

        def send(kind, *places):
            points = [{"x": x, "y": y} for x, y in places]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        places = self._stroke(name)
        send("touchStart", places[0])
        for place in places[1:]:
            send("touchMove", place)
        send("touchEnd")

    def draw_with_keys(self, name):
        """Draws, or starts a walk, at another place."""
        self.part(name).focus()
        for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", " ", "ArrowRight", "ArrowDown", " "):
            self.page.keyboard.press(key)

    def _stroke(self, name):
        self.part(name).scroll_into_view_if_needed()
        box = self.part(name).bounding_box()
        shares = [(0.2, 0.3), (0.4, 0.45), (0.7, 0.6)]
        return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in shares]


def without_numbers(text):
    """Returns the letters of a text: what is left of it in any language."""
    return " ".join(re.findall(r"[^\W\d_]+", text))


@pytest.fixture
def open_view(browser, tmp_path):
    """Opens pages, and closes them."""
    views = []

    def open_page(html, **options):
        views.append(View(browser, tmp_path / f"page-{len(views)}.html", html, **options))
        return views[-1]

    yield open_page
    for view in views:
        view.close()


# What JAX computes


def uniform_numbers(seed):
    """Yields the numbers of the generator mulberry32, written down a second time."""
    state = seed
    mask = 2**32 - 1
    while True:
        state = (state + 0x6D2B79F5) & mask
        t = ((state ^ state >> 15) * (1 | state)) & mask
        t = ((t + (((t ^ t >> 7) * (61 | t)) & mask)) ^ t) & mask
        yield (t ^ t >> 14) / 2**32


def normal_numbers(seed):
    """Yields normal numbers, two draws for each, by Box and Muller."""
    draws = uniform_numbers(seed)
    for u, v in zip(draws, draws, strict=False):
        yield np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v)


def take(numbers, count):
    return np.array([next(numbers) for _ in range(count)])


def corrupted(kind, level, x, seed):
    """Returns an image with noise, by the definitions of ``jaxae.corruption``."""
    if kind == "gaussian":
        return x + level * take(normal_numbers(seed), len(x))
    u = take(uniform_numbers(seed), len(x))
    return {
        "uniform": np.clip(x + level * (2 * u - 1), 0, 1),
        "masking": np.where(u < level, 0, x),
        "salt-and-pepper": np.where(u < level, np.where(u > level / 2, 1, 0), x),
    }[kind]


def as_float32(x):
    return jnp.asarray(x, jnp.float32)


def bound(params, **options):
    """Returns encoder and decoder of a dense autoencoder."""
    inputs, code_dim = params["encoder_kernel_0"].shape
    if "encoder_kernel_1" in params:
        code_dim = params["encoder_kernel_1"].shape[1]
    model = jaxae.DenseAutoencoder((inputs,), code_dim, **options)
    functions = jaxae.as_functions(model)
    params = {name: as_float32(array) for name, array in params.items()}
    return partial(functions.encode, params), partial(functions.decode, params)


def check_denoise(shown, networks, kind, level):
    x, noisy = shown["clean"], shown["corrupted"]
    np.testing.assert_allclose(noisy, corrupted(kind, level, x, int(shown["seed"])), atol=1e-6)
    params = networks[shown["network"]]
    encode, decode = bound(params, output_activation=nn.sigmoid)
    np.testing.assert_allclose(shown["denoised"], decode(encode(as_float32(noisy))), atol=TOLERANCE)
    level = shown["network"].partition("_")[2]
    encode, decode = bound(networks[f"linear_{level}"])
    code = encode(as_float32(noisy)).at[int(shown["rank"]) :].set(0)
    np.testing.assert_allclose(shown["linear"], decode(code), atol=TOLERANCE)


def check_field(shown, networks, stddev):
    name = shown["network"].partition("_")[0]
    density = densities.ALL[name]()
    activations = {"activation": jnp.tanh, "code_activation": jnp.tanh}
    learned = bound(networks[shown["network"]], hidden_dims=(128,), **activations)
    at = as_float32(shown["at"])
    field = partial(jaxae.reconstruction_field, *learned)
    np.testing.assert_allclose(shown["learned"], field(at), atol=TOLERANCE)
    exact = lambda y: density.posterior_mean(y, stddev) - y
    np.testing.assert_allclose(shown["exact"], exact(at), atol=TOLERANCE)
    ring = as_float32(shown["ring"])
    np.testing.assert_allclose(np.linalg.norm(ring - at[None], axis=1), 2 * stddev, atol=1e-5)
    np.testing.assert_allclose(shown["moved"], ring + jax.vmap(field)(ring), atol=TOLERANCE)
    np.testing.assert_allclose(shown["learnedPath"][0], shown["start"])
    for path, own in ((shown["learnedPath"], field), (shown["exactPath"], exact)):
        before, after = as_float32(path[:-1]), path[1:]
        np.testing.assert_allclose(after, before + jax.vmap(own)(before), atol=TOLERANCE)


def check_contract(shown, networks, length):
    x = as_float32(shown["clean"])
    options = {"code_activation": nn.sigmoid, "tied": True}
    encode, decode = bound(networks[shown["network"]], **options)
    code = encode(x)
    np.testing.assert_allclose(shown["code"], code, atol=TOLERANCE)
    np.testing.assert_allclose(shown["reconstruction"], nn.sigmoid(decode(code)), atol=TOLERANCE)
    values = np.linalg.svd(jax.jacfwd(encode)(x), compute_uv=False)
    np.testing.assert_allclose(shown["values"], values, atol=TOLERANCE)
    (tangents,) = probes.image_tangents(np.asarray(x).reshape(1, 8, 8, 1))
    names = ("shift down", "shift right", "rotation")
    directions = dict(zip(names, tangents, strict=True))
    directions["noise"] = take(normal_numbers(1), len(x))
    for name, direction in directions.items():
        step = as_float32(length * np.linalg.norm(x) * direction / np.linalg.norm(direction))
        np.testing.assert_allclose(shown["pushes"][name], x + step, atol=TOLERANCE)
        move = np.linalg.norm(encode(x + step) - code) / np.linalg.norm(step)
        np.testing.assert_allclose(shown["moves"][name], move, atol=TOLERANCE)


def check_sparse(shown, networks, mean):
    params = networks[shown["network"]]
    inputs, code_dim = params["encoder_kernel_0"].shape
    functions = sparse_autoencoder(inputs, code_dim, None, False)
    x = as_float32(shown["clean"])
    code = functions.encode(params, x - mean)
    np.testing.assert_allclose(shown["code"], code, atol=TOLERANCE)
    on = np.zeros(code_dim)
    on[shown["on"].astype(int)] = 1
    x_hat = functions.decode(params, code * as_float32(on)) + mean
    np.testing.assert_allclose(shown["reconstruction"], x_hat, atol=TOLERANCE)


def check_copy(shown, networks, arrays, scale):
    row = (shown["pixels"] - arrays["mean"]) / scale @ arrays["span"] @ arrays["span"].T
    np.testing.assert_allclose(shown["row"], row, atol=1e-5)
    activation = {"relu": nn.relu, "linear": None}[shown["kind"]]
    assert shown["outputs"].keys() == {"AE", "sparse", "DAE", "CAE"}
    for method, output in shown["outputs"].items():
        params = networks[f"{shown['kind']}_{method}"]
        encode, decode = bound(params, tied=True, code_activation=activation)
        wanted = scale * decode(encode(as_float32(row)))  # in pixels
        np.testing.assert_allclose(scale * output, wanted, atol=TOLERANCE)


def settings_of(part, about, arrays):
    """Returns the settings of a widget's controls to try, each with the check of what is seen."""
    networks = [network["name"] for network in about["networks"] if "rank" not in network]
    if part == "denoising":
        return [
            ({"kind": kind, "level": level, "network": i % len(networks)}, (kind, level))
            for i, (kind, level) in enumerate(
                zip(noises.BY_NAME, (0.55, 0.4, 0.3, 0.2), strict=True)
            )
        ]
    if part == "vector_field":
        return [
            ({"density": name, "level": i}, (stddev * (2 if name == "mixture" else 1),))
            for name in ("circle", "mixture")
            for i, stddev in enumerate((0.05, 0.1, 0.2))
        ]
    if part == "contractive":
        return [({"network": i, "length": 0.1 * (i + 1)}, (0.1 * (i + 1),)) for i in range(3)]
    if part == "sparse":
        return [
            ({"network": name, "kept": kept}, (jnp.asarray(arrays["mean"]),))
            for name in networks
            for kept in (32, 3)
        ]
    return [
        ({"kind": kind, "shuffled": is_shuffled}, (arrays, about["scale"]))
        for kind in ("relu", "linear")
        for is_shuffled in (False, True)
    ]


CHECKS = {
    "overcomplete_copy": check_copy,
    "sparse": check_sparse,
    "denoising": check_denoise,
    "vector_field": check_field,
    "contractive": check_contract,
}


@pytest.fixture(params=PARTS)
def part(request):
    return request.param


@needs_chromium
@pytest.mark.thorough(by_default=["denoising", "contractive", "sparse"])
def test_the_script_computes_what_jax_computes(part, run_of, open_view, capsys):
    """On a test image, and on a drawing; for every network."""
    run = run_of(part)
    about, arrays = networks_file.read(run.folder)
    view = open_view(page_of(run.folder, part))
    seen, times = set(), []
    for is_drawn in (False, True):
        if is_drawn:
            view.draw_with_mouse("plane" if part == "vector_field" else "pad")
        for controls, arguments in settings_of(part, about, arrays):
            for name, value in controls.items():
                view.set(name, value)
            shown = view.shown()
            CHECKS[part](shown, run.networks, *arguments)
            seen.add(shown.get("network", shown.get("kind")))
            times.append(shown["milliseconds"])
    assert len(seen) >= 2
    with capsys.disabled():
        print(f"\n{part}: {np.median(times):.1f} ms from drag to picture, at most {max(times):.1f}")


@needs_chromium
@pytest.mark.thorough(by_default=["denoising-finger", "contractive-keys"])
@pytest.mark.parametrize("by", ["mouse", "finger", "keys"])
def test_every_widget_is_worked_by_mouse_by_finger_and_by_keys(part, by, run_of, open_view):
    view = open_view(page_of(run_of(part).folder, part))
    surface = "plane" if part == "vector_field" else "pad"
    before = view.shown()
    getattr(view, f"draw_with_{by}")(surface)
    after = view.shown()
    changed = "start" if part == "vector_field" else "pixels" if "pixels" in after else "clean"
    assert np.abs(after[changed] - before[changed]).max() > 0.1
    view.page.wait_for_timeout(400)
    said = view.page.locator("[role=status]").inner_text()
    assert re.search(r"\d", said)
    # Every control is reached by the tabulator, and a slider moves by its arrow keys.
    slider = view.page.locator("input[type=range]").first
    if slider.count():
        slider.focus()
        value = slider.input_value()
        for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):
            view.page.keyboard.press(key)
        assert slider.input_value() != value


@needs_chromium
@pytest.mark.thorough(by_default=["contractive"])
def test_every_word_of_a_widget_is_in_the_language_of_the_page(part, run_of, open_view):
    """Also what the script says, and what only a screen reader reads."""
    german = languages.LANGUAGES["de"]
    seen = {}
    for language in (languages.ENGLISH, german):
        view = open_view(page_of(run_of(part).folder, part, language))
        assert view.page.locator("html").get_attribute("lang") == language.code
        seen[language.code] = view.words()
    assert len(seen["en"]) > 15
    catalogue = {without_numbers(a): without_numbers(b) for a, b in german.catalogue.items()}
    same = {english for english in seen["en"] & seen["de"] if catalogue.get(english) != english}
    assert not same


@needs_chromium
def test_a_drawing_is_where_the_pointer_was(sparse_run, open_view):
    view = open_view(page_of(sparse_run.folder, "sparse"))
    view.part("clear").click()
    assert not view.shown()["clean"].any()
    view.draw_with_mouse("pad")
    image = view.shown()["clean"].reshape(8, 8)
    assert image[2, 1] > 0.5  # at (0.2, 0.3) of the pad
    assert image[4, 5] > 0.5  # at (0.7, 0.6)
    assert not image[:, 7].any()
    view.part("pad").press("Delete")
    assert not view.shown()["clean"].any()
    view.part("examples").locator("button").nth(3).click()
    _, arrays = networks_file.read(sparse_run.folder)
    np.testing.assert_array_equal(view.shown()["clean"], arrays["examples"][3])


@needs_chromium
def test_units_are_switched_off_one_by_one(sparse_run, open_view):
    view = open_view(page_of(sparse_run.folder, "sparse"))
    before = view.shown()
    unit = view.part("units").locator("button").first
    unit.focus()
    view.page.keyboard.press("Enter")
    after = view.shown()
    assert list(after["on"]) == list(before["on"])[1:]
    assert unit.get_attribute("aria-pressed") == "false"
    unit.click()
    assert set(view.shown()["on"]) == set(before["on"])


@needs_chromium
@pytest.mark.thorough
def test_shuffled_pixels_are_those_of_the_image(run_of, open_view):
    run = run_of("overcomplete_copy")
    about, arrays = networks_file.read(run.folder)
    view = open_view(page_of(run.folder, "overcomplete_copy"))
    before = view.shown()["pixels"]
    view.part("shuffled").check()
    shown = view.shown()
    assert (shown["pixels"] != before).any()
    np.testing.assert_array_equal(np.sort(shown["pixels"]), np.sort(before))
    check_copy(shown, run.networks, arrays, about["scale"])


@needs_chromium
@pytest.mark.thorough(by_default=["denoising"])
def test_a_changed_weight_changes_the_page(part, run_of, open_view, tmp_path):
    about, arrays = networks_file.read(run_of(part).folder)
    before = open_view(page_of(run_of(part).folder, part)).shown()
    changed = {name: array.copy() for name, array in arrays.items()}
    for name in changed:
        if name.endswith("decoder_bias_0") and part != "vector_field":
            changed[name][0] += 0.5
        if name.endswith("decoder_bias_1"):
            changed[name][0] += 0.5
    write_again(tmp_path / networks_file.NAME, changed, about)
    after = open_view(page_of(tmp_path, part)).shown()
    name = {"denoising": "denoised", "vector_field": "learned", "overcomplete_copy": "outputs"}
    one = lambda shown: shown[name.get(part, "reconstruction")]
    first = lambda value: value["AE"] if isinstance(value, dict) else value
    assert abs(first(one(after)) - first(one(before)))[0] > 0.01


def write_again(path, arrays, about):
    """Writes a file of networks with other arrays, or with another description."""
    import safetensors.numpy

    path.write_bytes(safetensors.numpy.save(arrays, {"about": json.dumps(about)}))


@needs_chromium
@pytest.mark.thorough(by_default=["contractive"])
def test_nothing_is_wider_than_the_screen(part, run_of, open_view):
    view = open_view(page_of(run_of(part).folder, part))
    for width in (1280, 390):
        view.page.set_viewport_size({"width": width, "height": 800})
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width
        size = "e => parseFloat(getComputedStyle(e).fontSize)"
        sizes = view.page.evaluate(f"[...document.querySelectorAll('p, td, span')].map({size})")
        assert min(sizes) >= 13


@needs_chromium
@pytest.mark.thorough
def test_a_plot_is_drawn_again_when_the_page_turns_dark(run_of, open_view):
    view = open_view(page_of(run_of("vector_field").folder, "vector_field"), color_scheme="light")
    drawn = lambda: view.part("plane").evaluate("canvas => canvas.toDataURL()")
    before = drawn()

    def comes(is_as_before):
        """Waits, because the browser tells the page of the change a little later."""
        for _ in range(100):
            if (drawn() == before) == is_as_before:
                return True
            view.page.wait_for_timeout(20)
        return False

    view.page.emulate_media(color_scheme="dark")
    assert comes(False)
    view.page.emulate_media(color_scheme="light")
    assert comes(True)


@needs_chromium
@pytest.mark.thorough(by_default=["denoising"])
def test_without_a_script_the_page_points_to_the_figures(part, run_of, open_view):
    view = open_view(page_of(run_of(part).folder, part), java_script_enabled=False)
    assert "JavaScript, which is off" in view.page.locator("noscript").inner_text()
    assert not view.page.locator(".play-stage").is_visible()


# The file and the page


@pytest.mark.thorough(by_default=["contractive"])
def test_a_page_is_valid_html_and_its_script_is_the_one_of_the_policy(part, run_of):
    html = page_of(run_of(part).folder, part)
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)
    scripts = [script for script in tree.iter("script") if not script.get("type")]
    assert [script.text for script in scripts] == [play.script()]
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    policies = [one.get("content") for one in tree.iter("meta") if one.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; script-src 'sha256-")


def test_the_script_is_short_and_writes_no_markup():
    text = play.script()
    assert len(text.splitlines()) < 600
    assert max(map(len, text.splitlines())) <= 110
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "</script"):
        assert word not in text
    assert not re.search(r"https?:|fetch\(|XMLHttp|import\(", text)


@pytest.mark.thorough(by_default=["sparse"])
def test_networks_are_read_as_they_were_written(part, run_of):
    run = run_of(part)
    about, arrays = networks_file.read(run.folder)
    assert [network["name"] for network in about["networks"]] == [*run.networks]
    for name, params in run.networks.items():
        for parameter, array in params.items():
            stored = arrays[f"{name}/{parameter}"]
            assert stored.dtype == (np.float32 if stored.size <= 1024 else np.float16)
            np.testing.assert_array_equal(stored, np.asarray(array, stored.dtype))


def test_networks_that_are_too_large_are_left_out(tmp_path, monkeypatch):
    large, small = np.ones((200, 10)), np.ones((10, 10))
    kept = [
        networks_file.KeptNetwork("small", {"kernel": small}, {"weight": 1}),
        networks_file.KeptNetwork("large", {"kernel": large}, {"weight": 2}),
        networks_file.KeptNetwork("other", {"kernel": small}, {"weight": 3}),
    ]
    monkeypatch.setattr(networks_file, "MOST_BYTES", 800)
    networks_file.write(tmp_path / networks_file.NAME, kept, {"mean": np.zeros(3)}, {"tied": True})
    about, arrays = networks_file.read(tmp_path)
    assert about == {
        "tied": True,
        "networks": [{"name": "small", "weight": 1}, {"name": "other", "weight": 3}],
    }
    assert arrays.keys() == {"mean", "small/kernel", "other/kernel"}
    networks_file.write(tmp_path / networks_file.NAME, kept[1:2], {"mean": np.zeros(3)}, {})
    (widget,) = play.sections({"sparse": tmp_path})
    assert "too large for a page" in widget.html


def test_results_without_networks_have_no_widget_and_it_is_said(tmp_path):
    said = []
    assert play.sections({"sparse": tmp_path}, say=said.append) == []
    with pytest.raises(InputError, match=r"has no networks\.safetensors"):
        networks_file.read(tmp_path)
    (tmp_path / networks_file.NAME).write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged"):
        networks_file.read(tmp_path)
    assert play.sections({"sparse": tmp_path}, say=said.append) == []
    assert ["has no networks" in line for line in said] == [True, False]
    assert "is damaged" in said[1]


def test_widgets_are_in_the_order_of_the_slides(sparse_run):
    widgets = play.sections(dict.fromkeys(reversed(PARTS), sparse_run.folder))
    assert [widget.part for widget in widgets] == [*PARTS]
    assert len({widget.name for widget in widgets}) == len(PARTS)


def test_words_of_a_file_are_escaped(tmp_path, sparse_run):
    about, arrays = networks_file.read(sparse_run.folder)
    evil = "</script><b>&"
    labels = [evil] * len(arrays["examples"])
    write_again(tmp_path / networks_file.NAME, arrays, {**about, "labels": labels})
    html = page_of(tmp_path, "sparse")
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)
    assert not list(tree.iter("b"))
    (block,) = [script for script in tree.iter("script") if script.get("type")]
    assert json.loads(block.text)["about"]["labels"] == labels
