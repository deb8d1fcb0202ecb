"""From the command line to ``main(config)``: options, their checks, and exit statuses.

0 is success; 2 is bad input, with one line on standard error; 128 and the number of the signal
where one stopped it, 130 for Ctrl-C and 143 for SIGTERM; anything else that goes wrong is an
internal error, a traceback and status 1.
"""

import dataclasses
import errno
import math
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import jax
import tyro

from experiments.common import interrupts, processes
from experiments.common.errors import InputError, PartsFailedError, first_line, visible
from experiments.common.files.atomic import JsonObject
from experiments.common.run import (
    argv,
    compilation,
    devices,
    jax_settings,
    memory,
    standard_output,
)
from jaxae import LostProcessError, NonFiniteLossError, StoppedError

_T = TypeVar("_T")
# Where an option has no fixed default, its text says what is taken, and not "(default: None)".
Optional = Annotated[_T | None, tyro.conf.arg(help_behavior_hint="")]


FORMATS = ("pdf", "svg")


@dataclass(frozen=True)
class CommonConfig:
    """Options that every experiment has."""

    dataset: str = "mnist"
    """digits, the name of an image data set of TensorFlow Datasets, a .npy, .npz or .csv file, or a
    folder of PNG or JPEG images."""
    data_dir: Optional[Path] = None
    """For a name: folder prepared by TensorFlow Datasets, or folder of the four IDX files; by
    default $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    epochs: Optional[int] = None
    """Passes over the training data; by default 50 as in the lecture, on digits 200."""
    batch_size: int = 64
    """Examples per step."""
    learning_rate: float = 1e-3
    """Step size of Adam, at most 10."""
    seed: int = 0
    """Seed from which all randomness is derived."""
    num_seeds: Optional[int] = None
    """Repetitions, for the error bars; by default 3."""
    out: Optional[Path] = None
    """Folder for the results, by default results/<experiment>/<dataset>; replaces older ones."""
    checkpoint_every: Optional[int] = None
    """Epochs between two checkpoints; by default a run that ends before its time leaves some."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the checkpoints in the folder for the results, where there are any; --epochs may
    be another number then."""
    discard_checkpoints: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Remove the checkpoints of the run when it is over; by default they stay."""
    memory: Optional[float] = None
    """GiB that the run may use, at least 1; data that do not fit are read in pieces. By default
    what is free and what the limits of the process leave."""
    devices: int = 1
    """Devices over which every batch is divided; changes the last digits at most."""
    distributed: Optional[str] = None
    """Train together with other processes, each with this command: auto on a cluster that JAX knows
    (Slurm, Open MPI, Kubernetes, TPU), or ADDRESS:PORT,PROCESSES,INDEX with that of the first."""
    products: compilation.Products = "float32"
    """How training multiplies; bfloat16 (accelerators) rounds the factors and sums in float32."""
    figures: Optional[str] = None
    """Further formats of the figures, for slides: pdf, svg or pdf,svg; PNG files are always
    written."""
    compilation_cache: Optional[Path] = None
    """Folder of your own in which compiled programs are kept for the next run; by default none."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A short trial: few examples, 2 epochs and 1 seed unless told; no good numbers."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of the figures besides PNG."""
        return () if self.figures is None else tuple(self.figures.split(","))

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""
        require_integer("--epochs", self.epochs, low=1, high=10**6)
        require_integer("--batch-size", self.batch_size, low=1, high=10**6)
        require_integer("--num-seeds", self.num_seeds, low=1, high=1000)
        require_integer("--devices", self.devices, low=1, high=10**6)
        if self.batch_size % self.devices:
            raise InputError(
                f"--batch-size must be a multiple of --devices, but it is {self.batch_size} "
                f"for {self.devices}"
            )
        if self.memory is not None:
            require_number("--memory", self.memory, low=1.0)
        for kind in self.formats:
            if kind not in FORMATS:
                raise InputError(
                    f"--figures must be {', '.join(FORMATS)} or several with commas between them, "
                    f"but one is {kind!r}"
                )
        processes.check(self.distributed)
        if self.distributed is not None and self.devices != 1:
            raise InputError("--devices is for one process; --distributed takes all there are")
        require_integer("--checkpoint-every", self.checkpoint_every, low=1, high=10**6)
        require_integer("--seed", self.seed, low=0, high=2**32 - 1)
        # Beyond 10 Adam saturates the network at once, with a loss that stays finite.
        require_number("--learning-rate", self.learning_rate, above=0.0, high=10.0)


# They change no number.
_OF_THE_MACHINE = (
    "out",
    "memory",
    "figures",
    "compilation_cache",
    "checkpoint_every",
    "resume",
    "discard_checkpoints",
    "distributed",
)


def require_integer(option: str, value: int | None, *, low: int, high: int | None = None) -> None:
    """Raises InputError if a given integer is outside [low, high]."""
    if value is not None and (value < low or (high is not None and value > high)):
        upper = "" if high is None else f" and at most {high}"
        raise InputError(f"{option} must be at least {low}{upper}, but it is {value}")


def require_number(
    option: str,
    value: float,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> None:
    """Raises InputError if a number is not finite or leaves its range."""
    bounds = {"at least": low, "above": above, "at most": high}
    allowed = " and ".join(
        f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None
    )
    is_inside = (
        math.isfinite(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )
    if not is_inside:
        raise InputError(f"{option} must be a finite number {allowed}, but it is {value:g}")


def require_rising(option: str, values: Sequence[float]) -> None:
    """Raises InputError if there is no value, or one is not above that before it."""
    if not values or list(values) != sorted(set(values)):
        raise InputError(f"{option} must be values that rise, but they are {list(values)}")


def as_typed(experiment: str, config: CommonConfig) -> str:
    """Returns the command that gives this configuration, without folders of the machine."""
    names = [field.name for field in dataclasses.fields(config)]
    words = options_of(config, [name for name in names if name not in _OF_THE_MACHINE])
    return shlex.join(["python", "-m", f"experiments.{experiment}", *words])


def machine_options(config: CommonConfig) -> list[str]:
    """Returns the given options that change no number, but that of the folder for the results."""
    return options_of(config, [name for name in _OF_THE_MACHINE if name != "out"])


def options_of(config: CommonConfig, names: Sequence[str]) -> list[str]:
    """Returns those options of some names that are not the default, as they are typed."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    words: list[str] = []
    for name in names:
        value = getattr(config, name)
        if value == defaults[name]:
            continue
        option = "--" + name.replace("_", "-")
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        given = [_number(v) if isinstance(v, float) else str(v) for v in values]
        if given and given[0].startswith("-"):  # only this way it is no option itself
            words.append(f"{option}={given[0]}")
        else:
            words += [option, *given]
    return words


def settings_of(config: CommonConfig) -> JsonObject:
    """Returns the options that change numbers, as plain values; the data are told apart by them."""
    settings = dataclasses.asdict(config)
    left_out = (*_OF_THE_MACHINE, "dataset", "data_dir", "devices")
    return {name: value for name, value in settings.items() if name not in left_out}


def _number(value: float) -> str:
    """Returns the shortest text that is read as this very number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


class Options(Protocol):
    """Options of a script, a dataclass."""

    def check(self) -> None:
        """Raises InputError if an option has a value that cannot work."""


Config = TypeVar("Config", bound=Options)

# No room, a quota, a limit on the size of a file, a broken or read-only disk: no fault of ours.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def run(
    main: Callable[[Config], object], config_class: type[Config], args: Sequence[str] | None = None
) -> int:
    """Returns the exit status of ``main`` on the options of the command line."""
    with standard_output.tolerated():
        return _run(main, config_class, sys.argv[1:] if args is None else args)


def _run(main: Callable[[Config], object], config_class: type[Config], args: Sequence[str]) -> int:
    try:
        config = _parse(main, config_class, args)
    except InputError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    status = 1
    try:
        status = _status_of(main, config)
    except Exception:
        if not processes.are_several():
            raise
        traceback.print_exc()
    processes.leave(status)
    return status


def _parse(
    main: Callable[[Config], object], config_class: type[Config], words: Sequence[str]
) -> Config:
    """Returns the options of a command line, with ``~`` expanded in paths and variables."""
    script = sys.modules[main.__module__]
    argv.require_each_once(words)
    argv.require_working_folder()
    with argv.wide_enough():
        config = tyro.cli(
            config_class,
            args=words,
            prog=f"python -m {script.__spec__.name if script.__spec__ else script.__name__}",
            description=script.__doc__,
        )
    config = argv.expand_paths(config)
    compilation.expand_jax_cache()
    return config


def _status_of(main: Callable[[Config], object], config: Config) -> int:
    try:
        config.check()
        if isinstance(config, CommonConfig):
            processes.join(config.distributed)
            devices.require_devices()
            compilation.use_products(config.products)
            if config.compilation_cache is not None:
                compilation.use_cache(config.compilation_cache)
        with interrupts.listening(), jax_settings.permissive():
            main(config)
    except InputError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        rate = getattr(config, "learning_rate", math.nan)
        print(f"error: {error} (--learning-rate is {rate:g})", file=sys.stderr)
        return 2
    except PartsFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except LostProcessError as error:
        print(f"error: {error}; start all again, with --resume", file=sys.stderr)
        return 1
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not memory.is_exhausted(error):
            raise
        print(
            f"error: out of memory ({first_line(error)}); with --memory data are read in pieces, "
            "and a smaller --batch-size or code takes less",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"{str(stop) or 'interrupted'}; no result was written", file=sys.stderr)
        return stop.status if isinstance(stop, interrupts.Interrupted) else 130
    except StoppedError:
        print("stopped, as another process was; no result was written", file=sys.stderr)
        return interrupts.status_of(signal.SIGTERM)
    return 0
