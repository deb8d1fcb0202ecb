"""Names of data sets, and the commands that prepare them."""

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(
    r"(?P<name>\w[\w -]*)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII
)


class Name(NamedTuple):
    """The name of a data set of TensorFlow Datasets, or what a person typed for one."""

    name: str
    config: str | None
    version: str | None

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.name}{config}{f':{self.version}' if self.version else ''}"


def parse(text: str) -> Name | None:
    """Returns the parts of ``name/config:1.2.3`` as they are spelt, or None if it is no name."""
    parsed = _NAME.fullmatch(text)
    return Name(parsed["name"], parsed["config"], parsed["version"]) if parsed else None


def find_alike(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name with the same letters and digits, in any case, or None."""
    return next((other for other in known if _squeezed(other) == _squeezed(name)), None)


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def preparing_command(name: Name, folder: Path) -> str:
    """Returns what prepares a data set with TensorFlow, to be pasted into a shell."""
    options = f"data_dir={_quoted(folder)}, file_format={_quoted('array_record')}"
    code = f"tfds.builder({_quoted(name)}, {options}).download_and_prepare()"
    return shlex.join(["python", "-c", f"import tensorflow_datasets as tfds; {code}"])


def loading_command(name: Name, data_dir: Path | None) -> str:
    """Returns what downloads a data set without an experiment, to be pasted into a shell.

    The folder need not be there: it is for another machine.
    """
    start = "from experiments.common.data import datasets; "
    if data_dir is None:
        return shlex.join(["python", "-c", f"{start}datasets.load({_quoted(name)})"])
    call = f"datasets.load({_quoted(name)}, Path({_quoted(data_dir)}))"
    code = f"from pathlib import Path; {start}{call}"
    make = shlex.join(["mkdir", "-p", "--", str(data_dir)])
    return f"{make} && {shlex.join(['python', '-c', code])}"


def _quoted(value: object) -> str:
    """Returns a literal of Python in double quotes, which a shell leaves within single ones."""
    return json.dumps(str(value), ensure_ascii=False)
