"""The exceptions that are one line for the user: bad input, and a failed part of a whole."""

import unicodedata


class InputError(Exception):
    """Bad input, said in one line that names what was wrong and what to do; status 2."""


class PartsFailedError(Exception):
    """Some parts of a run failed and the rest is there; status 1."""


def first_line(error: BaseException) -> str:
    """Returns what another library's exception says, cut to one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def visible(text: str) -> str:
    """Returns text without what moves the cursor, hides or reorders: escapes stand for it.

    That is line breaks, control characters, direction marks, and bytes that are no UTF-8.
    """

    def is_hidden(c: str) -> bool:
        return unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"

    return "".join(ascii(c)[1:-1] if is_hidden(c) else c for c in text)
