"""The whole lecture: every figure and every claim of the chapter, on one HTML page.

Runs all experiments behind LMU Munich's Deep Learning, chapter 9, one after the other, each in a
process of its own, and writes ``index.html``: what the slide says, our figure, our numbers with
their spread over the seeds, and a verdict. Results that are there already, of the same command,
data and version, are not made again; a part that fails is said to have failed on the page.

    python -m experiments.lecture --dataset digits    about 5 minutes, 2 cores
    python -m experiments.lecture --dataset mnist     about 35 minutes, 2 cores

Options of the common kind are passed on to every experiment when they are given. To see one part
alone, run the command that stands on the page.
"""

import importlib
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import tyro

from experiments.common import command_line, data, page, records
from experiments.common.errors import PartsFailedError
from experiments.common.progress import Progress
from jaxae._version import __version__


class Part(NamedTuple):
    """One experiment of the lecture, in the order of the slides.

    Attributes:
      title: headline of its section.
      options: what is not the experiment's default on data larger than the digits.
      is_synthetic: whether it brings its own data.
    """

    title: str
    options: Mapping[str, Any] = MappingProxyType({})
    is_synthetic: bool = False


PARTS = {
    "overcomplete_copy": Part("Overcomplete autoencoders and why they need a regulariser"),
    "sparse": Part("Sparse autoencoders"),
    "denoising": Part("Denoising autoencoders", {"epochs": 10}),
    "vector_field": Part("Denoising autoencoders and the data manifold", is_synthetic=True),
    "contractive": Part("Contractive autoencoders"),
    "dae_vs_cae": Part("Denoising against contractive autoencoders"),
}


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the whole lecture; epochs, sizes and rates are each experiment's own."""

    epochs: int | None = None
    """Passes over the training data in every experiment, instead of its own number."""
    again: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run everything anew, also what is finished."""


class Job(NamedTuple):
    """One experiment to run: its configuration, and the folder for its results."""

    name: str
    module: Any
    config: command_line.CommonConfig
    folder: Path

    @property
    def command(self) -> str:
        """How to run it alone."""
        return command_line.as_typed(self.name, self.config)


def make_job(name: str, config: Config, out: Path) -> Job:
    """Returns the job for one part: options that were given, and the rest by default."""
    part = PARTS[name]
    module = importlib.import_module(f"experiments.{name}")
    is_small = config.dataset == "digits" or config.quick
    options: dict[str, Any] = {} if is_small else dict(part.options)
    given = {
        field: value
        for field, value in vars(config).items()
        if field not in ("again", "out") and value != vars(Config())[field]
    }
    options = options | given
    if part.is_synthetic:
        options = {key: v for key, v in options.items() if key not in ("dataset", "data_dir")}
    return Job(name, module, module.Config(**options), out / name)


def finished(job: Job, dataset: data.Dataset) -> Path | None:
    """Returns a folder that holds the results of this very job, or None.

    Looked for beside the page, and where the experiment alone would have put them.
    """
    is_synthetic = PARTS[job.name].is_synthetic
    name, source = ("synthetic", None) if is_synthetic else (dataset.name, dataset.source)
    for folder in (job.folder, records.default_folder(job.name, name)):
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            is_same = (
                found["command"] == job.command
                and found["source_sha256"] == source
                and found["environment"]["jaxae"] == __version__
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_same:
            return folder
    return None


def execute(job: Job, progress: Progress) -> str:
    """Runs a job in a process of its own; returns "" or why it failed."""
    _, *words = shlex.split(job.command)
    command = [sys.executable, *words, "--out", str(job.folder)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                progress.say(f"{job.name}: {line.rstrip()}")
        except KeyboardInterrupt:
            process.wait()  # it got the signal too, and cleans up after itself
            raise
        status = process.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    return "" if status == 0 else f"exit status {status}: {lines[-1] if lines else 'no message'}"


def main(config: Config) -> dict[str, Any]:
    """Runs what is not finished, writes the page, and returns what ``metrics.json`` holds."""
    dataset = data.load(config.dataset, config.data_dir)
    name = f"{dataset.name}-quick" if config.quick else dataset.name
    out = config.out or records.default_folder("lecture", name)
    started = time.perf_counter()
    parts: list[page.Part] = []
    with records.RunRecord(out) as record, Progress(len(PARTS), "part") as progress:
        for number, part_name in enumerate(PARTS, start=1):
            job = make_job(part_name, config, out)
            folder = None if config.again else finished(job, dataset)
            state = "running" if folder is None else f"finished before, in {folder}"
            progress.say(f"part {number} of {len(PARTS)}, {part_name}: {state}")
            error = execute(job, progress) if folder is None else ""
            if error:
                progress.say(f"{part_name} FAILED: {error}")
            folder = None if error else folder or job.folder
            title = PARTS[part_name].title
            parts.append(page.Part(part_name, title, job.command, folder, job.module.claims, error))
            record.log(part=part_name, error=error, seconds=time.perf_counter() - started)
            progress.advance(part_name)
        shown = page.describe(parts)
        html = page.render(
            shown,
            title=f"Regularised autoencoders on {dataset.name}",
            command=command_line.as_typed("lecture", config),
            is_quick=config.quick,
        )
        record.path("index.html").write_text(html, encoding="utf-8")
        metrics = {
            "experiment": "lecture",
            "dataset": dataset.name,
            "seconds": round(time.perf_counter() - started, 1),
            "parts": {part["name"]: page.outcome(part) for part in shown},
        }
        record.write_json("metrics.json", metrics)
        settings = records.configuration(vars(config), dataset)
        record.write_json("config.json", settings)
    progress.say(f"the page is {out / 'index.html'}")
    if failed := [part["name"] for part in shown if part["error"]]:
        raise PartsFailedError(f"{', '.join(failed)} failed; the page says why and has the rest")
    return metrics


if __name__ == "__main__":
    sys.exit(command_line.run(main, Config))
