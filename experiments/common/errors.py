"""The one exception that means "the input is at fault": a line for the user, status 2."""


class InputError(Exception):
    """Bad input, said in one line that names what was wrong and what to do."""


def first_line(error: BaseException) -> str:
    """Returns what another library's exception says, cut to one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
