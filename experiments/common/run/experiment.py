"""One run of an experiment: its data, its clock, its progress and the files it leaves."""

import contextlib
import dataclasses
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import jaxae
from experiments.common import interrupts, processes
from experiments.common.data import datasets
from experiments.common.errors import InputError
from experiments.common.files.atomic import JsonObject
from experiments.common.results import environment, networks_file, output_folder, trained
from experiments.common.results.checkpoint_store import CheckpointStore
from experiments.common.results.networks_file import KeptNetwork
from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, devices, memory
from experiments.common.run.command_line import CommonConfig
from experiments.common.run.progress import Progress
from jaxae._version import __version__

# What ExperimentRun.in_parallel does at a time: while one is compiled, another one trains.
ITEMS_IN_PARALLEL = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


def load(config: CommonConfig) -> datasets.Dataset:
    """Returns the data of a configuration: all of them, or a few for ``--quick``.

    Where they do not fit into memory, or several processes train, they are read in pieces.
    """

    def has_room(count: int) -> bool:
        return not processes.are_several() and memory.fits(count, config.memory)

    dataset = datasets.load(config.dataset, config.data_dir, has_room=has_room)
    return dataset.head(train=1000, test=200) if config.quick else dataset


def defaults(config: CommonConfig, *, digits: int, others: int) -> dict[str, int]:
    """Returns epochs and seeds of a run, with what the command line left open filled in."""
    epochs = digits if config.dataset == "digits" else others
    return {
        "epochs": config.epochs or (2 if config.quick else epochs),
        "num_seeds": config.num_seeds or (1 if config.quick else 3),
    }


def _devices(config: CommonConfig) -> int:
    """Returns over how many devices a batch is divided.

    Raises:
      InputError: if there are not so many, or they cannot share it.
    """
    mesh = devices.mesh_of(config.devices)
    size = 1 if mesh is None else mesh.size
    if config.batch_size % size:
        raise InputError(
            f"--batch-size must be a multiple of the {size} devices of all processes, but it is "
            f"{config.batch_size}"
        )
    return size


class ExperimentRun:
    """Context manager around an experiment; its files appear when it has finished, or never.

    Args:
      experiment: name of the script.
      config: its options, as they were given.
      dataset: its data, or None where they are synthetic.
      total: how many units of work there are, for the progress bar.
      networks: bytes of parameters and optimiser state of the networks that train at a time,
        where they are many.
    """

    def __init__(
        self,
        experiment: str,
        config: CommonConfig,
        dataset: datasets.Dataset | None,
        *,
        total: int,
        networks: int = 0,
    ) -> None:
        self._networks = networks
        self.experiment, self.config, self.dataset = experiment, config, dataset
        self.name = "synthetic" if dataset is None else dataset.name
        name = f"{self.name}-quick" if config.quick else self.name  # beside the real numbers
        self.folder = config.out or output_folder.default_folder(experiment, name)
        self._aside: tempfile.TemporaryDirectory[str] | None = None
        if not processes.is_first():  # what it writes is the same, and nobody's
            self._aside = tempfile.TemporaryDirectory()
            self.folder = Path(self._aside.name)
        self._started = time.perf_counter()
        self._record = output_folder.RunRecord(self.folder)
        self._checkpoints: CheckpointStore | None = None
        self._figures: list[Callable[[], object]] = []
        self._has_numbers = False
        self._progress = Progress(total, "epoch", is_shown=processes.is_first())
        self._turn = threading.Lock()  # networks train in several threads

    def __enter__(self) -> "ExperimentRun":
        if self.dataset is not None:
            counts = f"{len(self.dataset.train)} train and {len(self.dataset.test)} test images"
            how = {"threads": "in threads", "vmap": "together under vmap"}[jaxae.sweep_method()]
            self.say(f"{self.name}: {counts}; seeds and settings train {how}")
            nbytes, is_streamed = self.dataset.nbytes, self.dataset.is_streamed
            self.say(memory.statement(nbytes, is_streamed, self._networks, self.config.memory))
        settings = command_line.settings_of(self.config)
        del settings["epochs"]  # it may change when a run is resumed
        identity = {
            "experiment": self.experiment,
            "settings": settings,
            "data": None if self.dataset is None else self.dataset.fingerprint(),
            "jaxae": __version__,
            "numbers": environment.numbers(),
        }
        error = None
        opened = contextlib.ExitStack()  # what is closed if the run cannot start
        try:
            if self._aside is not None:
                opened.callback(self._aside.cleanup)
            try:
                with interrupts.deferred():
                    opened.enter_context(self._record)
                self._checkpoints = self._open_checkpoints(identity)
            except InputError as refused:
                error = refused
            processes.start_together(identity, error)
        except BaseException:
            opened.__exit__(*sys.exc_info())
            raise
        return self

    def _open_checkpoints(self, identity: JsonObject) -> CheckpointStore:
        config, folder = self.config, self.folder / "checkpoints"
        is_resumed = config.resume and processes.is_first()
        is_free = not os.path.lexists(folder)
        if not is_free and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(
                f"--out {self.folder} has checkpoints, which is no folder that can be written; "
                "move it away, or take another folder"
            )
        if is_resumed and is_free:
            self.say(f"there is nothing to resume in {self.folder}: from the beginning")
        return CheckpointStore(
            folder,
            identity=identity,
            environment=environment.describe() | {"devices": _devices(config)},
            epochs=config.epochs,
            every=config.checkpoint_every,
            is_resumed=is_resumed,
            say=self.say,
            staging_in=self._record.path("checkpoints"),
        )

    def checkpoints(
        self, names: Iterable[str], model: object = None, *, epochs_if_extendable: int | None = None
    ) -> jaxae.Checkpoints:
        """Returns the checkpoints of models that are trained by one call.

        Args:
          names: what they are called.
          model: one of ``jaxae.models`` or a ``trained.Network``, so that ``trained.load`` can load
            them; a list where each has its own; None for what is no autoencoder.
          epochs_if_extendable: how many epochs they are trained, where the steps do not depend
            on this number: the step size is constant, and nothing comes of another training.
            Then ``--resume`` with more ``--epochs`` goes on. None otherwise: it trains anew.
        """
        assert self._checkpoints is not None
        names = list(names)
        models = model if isinstance(model, list) else [model] * len(names)
        described = [trained.describe(one) for one in models]
        return self._checkpoints.register(
            names, described, epochs_if_extendable=epochs_if_extendable
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_over = error is None
        try:
            with interrupts.deferred():  # a signal is heard when all is in its place
                self._leave(error, trace)
        except interrupts.Interrupted:
            if not is_over:  # otherwise everything is written, and nothing left to stop
                raise

    def _leave(self, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._close(error)
        except BaseException as failed:
            error = failed
            raise
        finally:
            self._record.__exit__(type(error) if error else None, error, trace)
            self._progress.__exit__()
            if self._aside is not None:
                self._aside.cleanup()

    def _close(self, error: BaseException | None) -> None:
        """Puts the results in their place; whatever keeps them from it, the training is kept."""
        assert self._checkpoints is not None
        is_over = False
        try:
            if error is None:
                self._record.publish()
                is_over = True
            elif self._has_numbers and isinstance(error, Exception):  # a figure failed
                with contextlib.suppress(InputError, OSError):  # the first error counts
                    self._record.publish(*output_folder.NUMBERS)
                    self.say(f"the numbers are in {self.folder}, without the figures")
        finally:
            has_checkpoints = self._checkpoints.close(is_over=is_over)
            if is_over and self.config.discard_checkpoints:
                self._checkpoints.discard()
                has_checkpoints = False
            if has_checkpoints and not is_over:
                kept = f"training is kept in {self.folder}"
                self.say(f"{kept}: the same command with --resume goes on")
        if has_checkpoints and is_over:
            self.say(f"checkpoints are in {self.folder / 'checkpoints'}")
        if is_over:
            self.say(f"results are in {self.folder}")

    def draw(
        self, plot: Callable[..., object], name: str, *arguments: object, **options: object
    ) -> None:
        """Lets a figure be drawn when all numbers are written.

        Args:
          plot: a function of ``plots``, called with the path of the file and with the rest.
          name: what the file shall be called; a PNG file is also written in the formats of
            ``--figures``.
          *arguments: what is drawn.
          **options: passed on.
        """
        stem, ending = name.rsplit(".", 1)
        for kind in (ending, *(self.config.formats if ending == "png" else ())):
            path = self._record.path(f"{stem}.{kind}")
            self._figures.append(partial(plot, path, *arguments, **options))

    def keep_networks(
        self,
        networks: Sequence[KeptNetwork],
        about: JsonObject,
        arrays: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Lets networks be written for the lecture's page when all numbers are written.

        A test image of each class is written with them. A result folder without them is complete,
        so a disk without room for them costs the widget of the page, and not the run.

        Args:
          networks: those wanted most first, see ``networks_file.write``.
          about: what they have in common, values of JSON.
          arrays: what the page needs beside them, by name.
        """
        images: dict[str, Any] = {}
        described: JsonObject = {}
        if self.dataset is not None:
            images, described = networks_file.describe_examples(self.dataset)
        own = (networks, {**images, **arrays}, {**described, **about})
        self.draw(self._write_networks, networks_file.NAME, *own)

    def _write_networks(self, path: Path, *content: Any) -> None:
        try:
            networks_file.write(path, *content)
        except OSError as error:
            path.unlink(missing_ok=True)  # half of it may be there
            self.say(
                f"{path.name}, which only the lecture's page reads, cannot be written: {error}"
            )

    def log(self, doing: str, **entry: object) -> None:
        """Counts one unit of work and adds a line to ``log.jsonl``."""
        with self._turn:
            self._record.log(**entry)
            self._progress.advance(doing)

    def in_parallel(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> list[Result]:
        """Returns the results of a function that trains and logs, some items at a time.

        While one is compiled another one trains. After an error or an interrupt the others stop
        after their next steps.
        """
        assert self._checkpoints is not None
        if processes.are_several():  # all must train the same at the same time
            return [function(item) for item in items]
        with ThreadPoolExecutor(ITEMS_IN_PARALLEL) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self._checkpoints.stop()
                for future in futures:
                    future.cancel()
                raise

    def say(self, line: str) -> None:
        """Prints one line above the progress bar."""
        with self._turn:
            self._progress.say(line)

    def finish(self, resolved: JsonObject, **results: object) -> Metrics:
        """Writes ``metrics.json`` and ``config.json``, then the figures; returns the metrics.

        Args:
          resolved: options of the configuration that were left open, with what was used, and
            settings beside the options.
          **results: what the experiment measured.
        """
        metrics: Metrics = {"experiment": self.experiment, "dataset": self.name}
        if self.dataset is not None:
            metrics |= {
                "train_examples": len(self.dataset.train),
                "test_examples": len(self.dataset.test),
            }
        metrics |= {"seconds": round(time.perf_counter() - self._started, 1), **results}
        settings = dataclasses.asdict(self.config) | dict(resolved)
        configuration = {
            "command": command_line.as_typed(self.experiment, self.config),
            **output_folder.configuration(settings, self.dataset),
        }
        self._record.write_json("metrics.json", metrics)
        self._record.write_json("config.json", configuration)
        self._has_numbers = True
        for draw in self._figures:
            draw()
        return metrics
