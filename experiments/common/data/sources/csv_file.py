"""Images in a CSV file as Kaggle gives them: a line per image, its label first.

The first line may name the columns: ``label,pixel0,...`` or ``label,1x1,...``. Then the labels are
in the column that is called label, class, y or target, in any case of the letters; without such a
column there are no labels. Where no line names the columns, or only numbers them as pandas does
(``0,1,2,...``), the first one is the labels if the others are a square number and all of them are
not; a file whose last column looks more like labels is refused. Any value may be in quotes, as some
programs write all of them, and a comma may stand behind the last one.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.data.sources import contents, decoded
from experiments.common.errors import InputError, visible

_MAX_LINE = 2**22  # bytes; a line of a million pixels has at most 4 million
_LABELS = {"label", "labels", "class", "y", "target"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _Columns(NamedTuple):
    """What the columns of a file are."""

    has_names: bool
    width: int
    label: int | None
    is_named: bool = True


def load(path: Path) -> decoded.Splits:
    """Returns images uint8 ``(n, d)`` and labels ``(n,)``, or None, of a file as its train split.

    Raises:
      InputError: if it cannot be read, or is not lines of whole numbers of one length.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"--dataset {path} cannot be read as .csv: it is no regular file")
        columns = _read_columns(path)
        count = _count_images(path, columns)
        if count == 0:
            raise InputError(f"--dataset {path} holds no images, but only the names of columns")

        def decode(split: str) -> decoded.Decoded:
            return decoded.Decoded(count, _rows(path, columns), columns.label is not None)

        return decoded.load({"train": [path]}, decode, reading=f"csv {columns}")
    except FileNotFoundError:
        raise InputError(f"--dataset {path} does not exist") from None
    except OSError as error:
        raise InputError(f"--dataset {path} cannot be read as .csv: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines with something in them, and their numbers from 1."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            if len(line) == _MAX_LINE:
                raise InputError(
                    f"--dataset {path} line {number} is too long for a line of a CSV file"
                )
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            line = line.replace(b'"', b"").strip()
            is_for_excel = number == 1 and line.startswith(b"sep=")
            if line and not is_for_excel:
                yield number, line


def _count_images(path: Path, columns: _Columns) -> int:
    """Returns how many images a file has.

    Raises:
      InputError: if no line names the columns, and the last one looks more like labels than the
        first: many data sets have their labels there, and what was read would be a pixel.
    """
    lines = _lines(path)
    if columns.has_names:
        next(lines)
    is_guessed = columns.label is not None and not columns.is_named
    first, last, count = set[bytes](), set[bytes](), 0
    for _, line in lines:
        count += 1
        if is_guessed:
            first.add(line.partition(b",")[0].strip())
            last.add(line.removesuffix(b",").rpartition(b",")[2].strip())
    if is_guessed and len(last) > 1 and (len(first) == 1 or len(last) < len(first)):
        raise InputError(
            f"--dataset {path} has {_values(first)} in its first column and {_values(last)} in the "
            "last, so the labels may be in either; name the columns in its first line: "
            "label,pixel0,pixel1,... or pixel0,pixel1,...,label"
        )
    return count


def _values(found: set[bytes]) -> str:
    return f"{len(found)} value{'s' if len(found) > 1 else ''}"


def _read_columns(path: Path) -> _Columns:
    """Returns what the columns are, from the first line."""
    number, line = next(_lines(path), (0, b""))
    if not line:
        raise InputError(f"--dataset {path} is empty")
    if kind := contents.describe(line):
        raise InputError(f"--dataset {path} must be a CSV file, but it is {kind}")
    if b"\0" in line:
        raise InputError(f"--dataset {path} is no text in UTF-8; save it as CSV UTF-8")
    if b"\r" in line:
        raise InputError(
            f"--dataset {path} ends its lines as old Macintoshes do; save it as CSV UTF-8"
        )
    words = line.removesuffix(b",").split(b",")
    # numpy.savetxt puts "# " before its header.
    names = [word.decode("utf-8", "replace").strip(" #'").lower() for word in words]
    if _are_counted(names) or not _are_names(names):
        has_names = _are_counted(names)
        label = _label_without_names(path, len(words))
        return _Columns(has_names, len(words), label, is_named=False)
    if len(names) < 2 and (b";" in line or b"\t" in line):
        raise InputError(f"--dataset {path} line {number} must be divided by commas, not ; or tabs")
    if "" in names or "unnamed: 0" in names:
        raise InputError(
            f"--dataset {path} has a column without a name, which is no pixel; "
            "with pandas, to_csv(path, index=False) leaves it out"
        )
    found = [column for column, name in enumerate(names) if name in _LABELS]
    _require_pixels(path, [name for name in names if name not in _LABELS])
    if len(found) > 1 or len(found) == len(names):
        raise InputError(
            f"--dataset {path} must have one column of labels at most, and pixels beside it"
        )
    return _Columns(True, len(names), found[0] if found else None)


def _are_names(words: list[str]) -> bool:
    """Returns whether the words of a line name columns: one is that of labels, or none a number."""
    return any(word in _LABELS for word in words) or not any(map(_is_number, words))


def _are_counted(words: list[str]) -> bool:
    """Returns whether the words of a line are 0, 1, 2, ..., which is how pandas names columns."""
    return len(words) > 3 and words == [str(number) for number in range(len(words))]


def _require_pixels(path: Path, names: list[str]) -> None:
    """Raises InputError if one column has no number in its name although others have one.

    That is an ``id``, or a label under another name. Its values could be read as a pixel, and
    nothing would tell.
    """
    others = [name for name in names if not any(map(str.isdigit, name))]
    if others and len(others) < len(names):
        raise InputError(
            f"--dataset {path} has a column {visible(others[0])!r}, which is no pixel; name it "
            "label if it is the class, otherwise leave it out"
        )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _label_without_names(path: Path, count: int) -> int | None:
    for pixels, label in ((count, None), (count - 1, 0)):
        if pixels > 0 and math.isqrt(pixels) ** 2 == pixels:
            return label
    raise InputError(
        f"--dataset {path} has {count} columns, which are no square image with a label or without; "
        "name the columns in its first line: label,pixel0,pixel1,..."
    )


def _rows(path: Path, columns: _Columns) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the pixels and the label of each line."""
    lines = _lines(path)
    if columns.has_names:
        next(lines)
    for number, line in lines:
        words = line.split(b",")
        if len(words) == columns.width + 1 and not words[-1]:  # a comma behind the last value
            words.pop()
        if len(words) != columns.width:
            raise InputError(
                f"--dataset {path} line {number} has {len(words)} values, but the first line "
                f"{columns.width}; is it damaged or truncated?"
            )
        label = 0 if columns.label is None else _label_of(path, number, words.pop(columns.label))
        try:
            if b"_" in line:
                raise ValueError("Python reads numbers with it, and nobody else does")
            pixels = bytes(map(int, words))  # refuses what is no byte
        except (ValueError, OverflowError):
            pixels = bytes(_pixel_of(path, number, word) for word in words)
        yield np.frombuffer(pixels, np.uint8), label


def _pixel_of(path: Path, number: int, word: bytes) -> int:
    if not _is_whole(word) or not 0 <= int(word) <= 255:
        raise InputError(
            f"--dataset {path} line {number} must be whole numbers from 0 to 255 between "
            f"commas, but one is {_shown(word)}{_hint(word)}"
        )
    return int(word)


def _label_of(path: Path, number: int, word: bytes) -> int:
    if not _is_whole(word) or not -(2**63) <= int(word) < 2**63:
        raise InputError(
            f"--dataset {path} line {number} must have a whole number as its label, "
            f"but it is {_shown(word)}{_hint(word)}"
        )
    return int(word)


def _is_whole(word: bytes) -> bool:
    try:
        int(word)
    except ValueError:
        return False
    return b"_" not in word  # which Python reads


def _hint(word: bytes) -> str:
    """Returns the advice for a fraction where a byte is wanted, after a semicolon."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(word)) < 1:
            return "; multiply pixels in [0, 1] by 255, or store them with numpy.save"
        if value.is_integer():
            return "; numpy.savetxt(path, x, fmt='%d', delimiter=',') writes whole numbers"
    return ""


def _shown(word: bytes) -> str:
    text = visible(word[:20].decode("utf-8", "replace"))
    return repr(text + "..." if len(word) > 20 else text)
