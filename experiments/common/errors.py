"""The one exception that means "the input is at fault": a line for the user, status 2."""


class InputError(Exception):
    """Bad input, said in one line that names what was wrong and what to do."""
