"""The words of a command line: each option once, no empty value, ``~`` expanded in every path."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from experiments.common.data.sources import paths
from experiments.common.errors import InputError

Config = TypeVar("Config")


# Columns of a terminal; in much fewer tyro breaks the lines of its help for ever.
_NARROWEST = 40


@contextlib.contextmanager
def wide_enough() -> Iterator[None]:
    """Makes the terminal as wide as the parser needs, for what is printed in it."""
    before = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns >= _NARROWEST:
        yield
        return
    os.environ["COLUMNS"] = str(_NARROWEST)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def require_each_once(words: Sequence[str]) -> None:
    """Raises InputError if an option is given twice, or with an empty value.

    The parser would take the last one, and an empty path for the folder that one is in.
    """
    given: set[str] = set()
    option = ""
    for word in words:
        if word.startswith("--"):
            option, has_value, value = word.partition("=")
            name = option.replace("_", "-")
            if name in given:
                raise InputError(f"{option} is given twice; give it once, with all its values")
            given.add(name)
        if word == "" or (word.startswith("--") and has_value and not value):
            what = option or "an argument"
            raise InputError(f"{what} has an empty value; give one, or leave it out")


def require_working_folder() -> None:
    """Raises InputError if the folder in which the program was started has been removed."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            "the working folder is not there any more; change to one that is"
        ) from error


def expand_paths(config: Config) -> Config:
    """Returns options in which ``~`` is a home folder; no shell expands it in ``--out=~/runs``.

    Raises:
      InputError: if there is no such home folder.
    """
    if os.environ.get("HOME") == "":  # empty counts as not set
        del os.environ["HOME"]
    names = [field.name for field in dataclasses.fields(cast(Any, config))]
    options = {name: "--" + name.replace("_", "-") for name in names}
    expanded = {name: _expand(getattr(config, name), option) for name, option in options.items()}
    return dataclasses.replace(cast(Any, config), **expanded)


def _expand(value: object, option: str) -> object:
    """Returns a value with ``~`` expanded in every path in it; --dataset may be one as a string."""
    if isinstance(value, tuple):
        return tuple(_expand(one, option) for one in value)
    if isinstance(value, Path):
        return paths.expand(value, option)
    if isinstance(value, str) and value.startswith("~"):
        return str(paths.expand(value, option))
    return value
