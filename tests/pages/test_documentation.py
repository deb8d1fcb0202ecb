"""README and docs/: code runs, links lead somewhere, commands and tables are those of the code."""

import dataclasses
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_settings import as_on_the_command_line
from optional_libraries import require_nnx
from saved_checkpoints import save

import jaxae
import jaxae.dictionary_files
import jaxae.sklearn
from experiments import export, readme_tables
from experiments.common.run import command_line

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in path.parts
}
NOT_RUN = r"<!-- not run here: [^\n]* -->\n"
# These run as they stand; the blocks of other pages have tests of their own.
RUN_FROM_TOP_TO_BOTTOM = [page for page in PAGES if page.startswith("docs/guides/")]
RUN_FROM_TOP_TO_BOTTOM += ["docs/data.md"]
TRAIN_LONGER = {f"docs/guides/{name}.md" for name in ("sklearn", "strength", "table_to_codes")}


@pytest.mark.thorough(by_default=set(RUN_FROM_TOP_TO_BOTTOM) - TRAIN_LONGER)
@pytest.mark.usefixtures("no_type_hook")  # as users run it; NumPy arrays are welcome
@pytest.mark.parametrize("page", RUN_FROM_TOP_TO_BOTTOM)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    for library in re.findall(r"^import (equinox|haiku)", PAGES[page], re.M):
        pytest.importorskip(library)
    if "from flax import nnx" in PAGES[page]:
        require_nnx()
    names = {"__name__": page}
    with as_on_the_command_line():
        for mark, code in re.findall(rf"({NOT_RUN})?```python\n(.*?)```", PAGES[page], re.DOTALL):
            if not mark:
                exec(compile(code, page, "exec"), names)


def anchors(text):
    """Returns the anchors of the headings of a page, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    words = [
        re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^#+ (.*)", text, re.M)
    ]
    return {title.strip().replace(" ", "-") for title in words}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```(?!\{).*?```", "", PAGES[page], flags=re.DOTALL)
    for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        if target.startswith("http"):
            continue
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        if heading:
            assert heading in anchors(path.read_text(encoding="utf-8")), f"{target}#{heading}"


def test_every_page_is_reached_from_the_start_page():
    """Following links alone, as a reader on GitHub does."""
    reached, new = set(), {"docs/index.md"}
    while new:
        page = new.pop()
        reached.add(page)
        targets = re.findall(r"\]\(([^)#\s]+\.md)", PAGES[page])
        targets += re.findall(r"\{include\} (\S+)", PAGES[page])
        paths = [((ROOT / page).parent / target).resolve() for target in targets]
        inside = {path.relative_to(ROOT).as_posix() for path in paths}
        new |= (inside & PAGES.keys()) - reached
    unreached = {page for page in PAGES if page.startswith("docs/guides/")} - reached
    assert not unreached, "each guide has a link in docs/index.md, below All guides"


@pytest.mark.parametrize("page", readme_tables.PAGES)
def test_tables_are_the_committed_numbers(page):
    assert readme_tables.updated(page, PAGES[page]) == PAGES[page]


def options_of(experiment):
    """Returns the options of a command, as they are typed."""
    config = importlib.import_module(f"experiments.{experiment}").Config
    return {field.name.replace("_", "-") for field in dataclasses.fields(config)} | {"help"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page):
    written = re.sub(r"<!-- table: .*?<!-- end of table -->", "", PAGES[page], flags=re.DOTALL)
    for name, options in re.findall(r"python -m experiments\.([\w.]+)([^`\n]*)", written):
        if name == "NAME":
            continue
        assert importlib.util.find_spec(f"experiments.{name}"), name
        if "." not in name and name != "readme_tables":
            assert set(re.findall(r"--([\w-]+)", options)) <= options_of(name), name


@pytest.mark.parametrize("name", jaxae.__all__)
def test_every_public_name_has_one_place_in_the_reference(name):
    """A new public name needs a line in the overview and an entry on the page of its topic."""
    directive = rf"^\.\. auto(?:function|class|exception):: {name}$"
    topics = [text for page, text in PAGES.items() if page.startswith("docs/api/")]
    assert sum(len(re.findall(directive, text, re.M)) for text in topics) == 1
    assert f"`{name}" in PAGES["docs/api/index.md"]


def test_the_reference_has_no_other_name():
    names = re.findall(r"^\.\. auto\w+:: (\w+)$", "\n".join(PAGES.values()), re.M)
    others = (jaxae.sklearn, jaxae.dictionary_files)
    assert set(names) == {*jaxae.__all__, *(name for other in others for name in other.__all__)}


def test_a_trained_model_is_loaded_and_its_program_runs(tmp_path, monkeypatch):
    guide = PAGES["docs/guides/export.md"]
    monkeypatch.chdir(tmp_path)
    model = jaxae.DenseAutoencoder((64,), 16, output_activation=jax.nn.sigmoid)
    run = tmp_path / "results" / "denoising" / "digits"
    save(run / "checkpoints", "dim-16_noise-0.55_seed-0", model)
    words = re.search(r"-m experiments\.export (.*)", guide)[1].split()
    assert command_line.run(export.main, export.Config, words) == 0
    x = jax.random.uniform(jax.random.key(0), (3, 64))
    names = {"x": x}
    blocks = re.findall(rf"{NOT_RUN}```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/guides/export.md", "exec"), names)
    codes = jax.vmap(names["autoencoder"].encode)(x)
    np.testing.assert_allclose(names["codes"], codes, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="bytes depend on the device")
def test_the_explanation_of_the_penalty_is_what_is_printed():
    pattern = r"```text\n>>> print\(jaxae.explain_contraction.*?\n(.*?)```"
    (block,) = re.findall(pattern, PAGES["docs/speed.md"], re.DOTALL)
    weights = [jnp.ones(shape) for shape in ((784, 512), (512, 256), (256, 64))]

    def encode(x_i):
        for w in weights:
            x_i = jax.nn.sigmoid(x_i @ w)
        return x_i

    printed = str(jaxae.explain_contraction(encode, jnp.ones((128, 784)))).split("\n")
    shown = [line for line in block.splitlines() if line != "..."]
    assert len(shown) == 7
    assert set(shown) <= set(printed)
