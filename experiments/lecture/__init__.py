"""The whole lecture: every figure and every claim of the chapter, on one HTML page.

Runs all experiments behind LMU Munich's Deep Learning, chapter 9, each in a process of its own, and
writes ``index.html``: what the slide says, a verdict, what we measured in one plain sentence, our
figure, and below it all numbers with their spread over the seeds. Results that are there already,
of the same command, data and version, are not made again; a part that fails is said to have failed
on the page. A last section, on convolutional autoencoders, goes beyond the chapter: on the digits
it is not run, but shown if its results are there.

    python -m experiments.lecture --dataset digits    about 6 minutes, 2 cores
    python -m experiments.lecture --dataset mnist     at most 27 minutes, 2 cores

Options of the common kind are passed on to every experiment when they are given. To see one part
alone, run the command that stands on the page. After an interrupt, the same command with --resume
goes on in the middle of what was being trained.
"""

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Annotated, NamedTuple

import tyro

from experiments.common.data import datasets
from experiments.common.errors import InputError, PartsFailedError
from experiments.common.results import output_folder
from experiments.common.results.claims import Sentence
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, memory
from experiments.common.run.progress import Progress
from experiments.lecture import languages, page, play
from jaxae._version import __version__

TITLE = "Regularised autoencoders on {dataset}"
WRITTEN = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}  # as their authors do


class Experiment(NamedTuple):
    """One experiment of the lecture, in the order of the slides.

    Attributes:
      title: headline of its section.
      options: what is not the experiment's default on data larger than the digits.
      is_synthetic: whether it brings its own data.
      alone: whether it measures time and must not share the machine.
      is_beyond: whether it goes beyond the chapter. On the digits, where the page shall be there
        after a few minutes, it is not run, and shown only if its results are there already.
    """

    title: str
    options: Mapping[str, object] = MappingProxyType({})
    is_synthetic: bool = False
    alone: bool = False
    is_beyond: bool = False


EXPERIMENTS = {
    "overcomplete_copy": Experiment("Overcomplete autoencoders and why they need a regulariser"),
    "sparse": Experiment("Sparse autoencoders"),
    "denoising": Experiment("Denoising autoencoders", {"epochs": 10}),
    "vector_field": Experiment("Denoising autoencoders and the data manifold", is_synthetic=True),
    "contractive": Experiment("Contractive autoencoders", {"residual": True}),
    "dae_vs_cae": Experiment("Denoising against contractive autoencoders", alone=True),
    "convolutional": Experiment("Beyond the chapter: convolutional autoencoders", is_beyond=True),
}


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the whole lecture; epochs, sizes and rates are each experiment's own."""

    epochs: command_line.Optional[int] = None
    """Passes over the training data in every experiment, instead of its own number."""
    jobs: command_line.Optional[int] = None
    """Experiments at a time; by default one per core, at most 4, and 1 with an accelerator."""
    embed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write each statement and widget as a page of its own, for a learning platform."""
    again: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run everything anew, also what is finished."""
    title: command_line.Optional[str] = None
    """Headline of the page, such as the name of your course."""
    language: languages.Code = "en"
    """Language of the page; its details and the words inside of the figures stay English."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        super().check()
        command_line.require_integer("--jobs", self.jobs, low=1, high=64)
        if self.distributed is not None:
            raise InputError("--distributed is for one experiment at a time, not for the lecture")


class Job(NamedTuple):
    """One experiment to run: its configuration, and the folder for its results."""

    name: str
    module: ModuleType
    config: command_line.CommonConfig
    folder: Path

    @property
    def command(self) -> str:
        """How to run it alone."""
        return command_line.as_typed(self.name, self.config)


# The versions whose numbers are those of this one, to the last bit.
_SAME_NUMBERS = ("0.2.0", __version__)
_OF_THE_PAGE = ("again", "jobs", "out", "title", "language", "embed")  # no option of an experiment


def make_job(name: str, config: Config, out: Path) -> Job:
    """Returns the job for one experiment: options that were given, and the rest by default."""
    experiment = EXPERIMENTS[name]
    module = importlib.import_module(f"experiments.{name}")
    is_small = config.dataset == "digits" or config.quick
    options: dict[str, object] = {} if is_small else dict(experiment.options)
    given = {
        field: value
        for field, value in vars(config).items()
        if field not in _OF_THE_PAGE and value != getattr(Config, field)
    }
    svg_too = ",".join(dict.fromkeys((*config.formats, "svg")))  # for the lines on the page
    options = options | given | {"figures": svg_too}
    if experiment.is_synthetic:
        options = {key: v for key, v in options.items() if key not in ("dataset", "data_dir")}
    return Job(name, module, module.Config(**options), out / name)


def finished(job: Job, dataset: datasets.Dataset, formats: Sequence[str] = ()) -> Path | None:
    """Returns a folder that holds the results of this very job, or None.

    Looked for beside the page, and where the experiment alone would have put them. All figures
    must be there, and in the ``formats`` that were asked for.
    """
    is_synthetic = EXPERIMENTS[job.name].is_synthetic
    name, source = ("synthetic", None) if is_synthetic else (dataset.name, dataset.source)
    for folder in (job.folder, output_folder.default_folder(job.name, name)):
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            is_same = (
                found["command"] == job.command
                and found["source_sha256"] == source
                and found["environment"]["jaxae"] in _SAME_NUMBERS
                and all((folder / name).is_file() for name in figures(job, metrics, formats))
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if is_same:
            return folder
    return None


def figures(job: Job, metrics: Metrics, formats: Sequence[str]) -> list[str]:
    """Returns the figures of an experiment; none if its numbers make no claims."""
    try:
        names = [
            name for claim in job.module.claims(metrics) for name in (claim.figure, *claim.more)
        ]
    except Exception:  # of whatever is missing or wrong in the numbers
        return []
    pictures = [Path(name) for name in names if name.endswith(".png")]
    return names + [str(one.with_suffix(f".{kind}")) for one in pictures for kind in formats]


# A worker is in a group of its own: a terminal's Ctrl-C reaches it once, through us.
if sys.platform == "win32":  # where such a group hears nothing but this
    _INTERRUPT = signal.CTRL_BREAK_EVENT
    _NEW_GROUP = subprocess.CREATE_NEW_PROCESS_GROUP
else:
    _INTERRUPT = signal.SIGINT
    _NEW_GROUP = 0  # a new session is a new group


class Workers:
    """Runs jobs in processes of their own, some at a time, and stops them all on Ctrl-C."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._running: set[subprocess.Popen[str]] = set()
        self._is_stopping = False

    def run(self, jobs: Sequence[Job], at_once: int) -> dict[str, str]:
        """Returns for each job "" or why it failed."""
        with ThreadPoolExecutor(at_once) as pool:
            futures = {job.name: pool.submit(self._run_one, job) for job in jobs}
            try:
                return {name: future.result() for name, future in futures.items()}
            except BaseException:
                self._is_stopping = True  # from here on, what is started is stopped at once
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _stop(self) -> None:
        """Interrupts what is running; each cleans up after itself."""
        for _ in range(3):  # an interrupt in the middle of an import may be lost
            running = [process for process in tuple(self._running) if process.poll() is None]
            for process in running:
                process.send_signal(_INTERRUPT)
            end = time.monotonic() + 20
            while any(process.poll() is None for process in running) and time.monotonic() < end:
                time.sleep(0.1)
        for process in tuple(self._running):
            process.kill()

    def _run_one(self, job: Job) -> str:
        _, *words = shlex.split(job.command)
        command = [sys.executable, "-X", "utf8", *words, "--out", str(job.folder)]
        command += command_line.machine_options(job.config)
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=os.environ | {"PYTHONIOENCODING": "utf-8"},
                creationflags=_NEW_GROUP,
                start_new_session=not _NEW_GROUP,
            ) as process,
        ):
            self._running.add(process)
            if self._is_stopping:
                process.send_signal(_INTERRUPT)
            for line in process.stdout or ():
                self._progress.say(f"{job.name}: {line.split('] ', 1)[-1].rstrip()}")
            status = process.wait()
            self._running.discard(process)
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["no message"]
        error = "" if status == 0 else f"exit status {status}: {last[0]}"
        self._progress.say(f"{job.name} " + (f"FAILED, {error}" if error else "is done"))
        self._progress.advance(job.name)
        return error


def default_jobs() -> int:
    """Returns how many experiments to run at a time: one where they would share an accelerator."""
    has_accelerator = any(entry_points(group="jax_plugins")) or find_spec("libtpu") is not None
    return 1 if has_accelerator or find_spec("jax_plugins") else min(os.cpu_count() or 1, 4)


def runs_alone(job: Job) -> bool:
    """Returns whether a job measures time, so that nothing may run beside it."""
    # The contractive experiment does so with this option alone.
    return EXPERIMENTS[job.name].alone or bool(vars(job.config).get("residual"))


def is_left_out(name: str, config: Config) -> bool:
    """Returns whether a part is not run on these data; finished results of it are shown."""
    return EXPERIMENTS[name].is_beyond and config.dataset == "digits"


def run_parts(
    config: Config, dataset: datasets.Dataset, out: Path, progress: Progress
) -> list[page.Section]:
    """Returns all sections of the page, after running those that are not finished."""
    jobs = {name: make_job(name, config, out) for name in EXPERIMENTS}
    folders = {name: finished(job, dataset, config.formats) for name, job in jobs.items()}
    for name in [name for name in jobs if is_left_out(name, config) and folders[name] is None]:
        job = jobs.pop(name)
        folders.pop(name)
        progress.say(f"{name}: left out on the digits; {job.command} --out {job.folder} adds it")
        progress.advance(name)
    if config.again:
        folders = dict.fromkeys(jobs)
    for name, folder in folders.items():
        if folder is not None:
            progress.say(f"{name}: finished before, in {folder}")
            progress.advance(name)
    workers = Workers(progress)
    errors: dict[str, str] = {}
    for alone in (False, True):  # first those that may share the machine
        # The last ones first: they take long, and one that starts late runs beside nothing.
        group = [
            job
            for name, job in reversed(jobs.items())
            if folders[name] is None and runs_alone(job) == alone
        ]
        errors |= workers.run(group, 1 if alone else config.jobs or default_jobs())
    return [
        page.Section(
            name,
            EXPERIMENTS[name].title,
            job.command,
            None if errors.get(name) else folders[name] or job.folder,
            job.module.claims,
            errors.get(name, ""),
        )
        for name, job in jobs.items()
    ]


def small_pages(
    parts: Sequence[page.DescribedSection],
    widgets: Sequence[play.Widget],
    is_quick: bool,
    language: languages.Language,
) -> dict[str, str]:
    """Returns a small page of every statement and of every widget, by its anchor."""
    statements = {
        one.claim.anchor: page.render_statement(one, part, is_quick=is_quick, language=language)
        for part in parts
        for one in part.statements
    }
    return statements | {
        one.name: page.render_widget(one, is_quick=is_quick, language=language) for one in widgets
    }


def _write_page(path: Path, html: str) -> None:
    """Writes a page; bytes of a path or a title that are no UTF-8 are escapes in it."""
    path.write_text(html, encoding="utf-8", errors="backslashreplace")


def main(config: Config) -> Metrics:
    """Runs what is not finished, writes the page, and returns what ``metrics.json`` holds."""
    has_room = partial(memory.fits, given=config.memory)
    dataset = datasets.load(config.dataset, config.data_dir, has_room=has_room)
    name = f"{dataset.name}-quick" if config.quick else dataset.name
    out = config.out or output_folder.default_folder("lecture", name)
    language = languages.LANGUAGES[config.language]
    started = time.perf_counter()
    with (
        output_folder.RunRecord(out, "index.html") as record,
        Progress(len(EXPERIMENTS), "part") as progress,
    ):
        sections = run_parts(config, dataset, out, progress)
        parts = page.describe(sections)
        folders = {one.name: one.folder for one in sections if one.folder}
        widgets = play.sections(folders, language, say=progress.say)
        html = page.render(
            parts,
            title=config.title
            or language.say(Sentence(TITLE, {"dataset": WRITTEN.get(dataset.name, dataset.name)})),
            command=command_line.as_typed("lecture", config),
            is_quick=config.quick,
            language=language,
            widgets=widgets,
        )
        _write_page(record.path("index.html"), html)
        if config.embed:
            for name, html in small_pages(parts, widgets, config.quick, language).items():
                _write_page(record.path(f"embed-{name}.html"), html)
        metrics = {
            "experiment": "lecture",
            "dataset": dataset.name,
            "seconds": round(time.perf_counter() - started, 1),
            "parts": {part.name: page.outcome(part) for part in parts},
        }
        record.write_json("metrics.json", metrics)
        record.write_json("config.json", output_folder.configuration(vars(config), dataset))
        progress.say(f"the page is {out / 'index.html'}")
    if failed := [part.name for part in parts if part.error]:
        raise PartsFailedError(f"{', '.join(failed)} failed; the page says why and has the rest")
    return metrics
