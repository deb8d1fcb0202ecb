"""The exceptions that are one line for the user: bad input, and a failed part of a whole."""


class InputError(Exception):
    """Bad input, said in one line that names what was wrong and what to do; status 2."""


class PartsFailedError(Exception):
    """Some parts of a run failed and the rest is there; status 1."""


def first_line(error: BaseException) -> str:
    """Returns what another library's exception says, cut to one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
