"""One script per figure or table of the lecture; run them with ``python -m experiments.NAME``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (in words that every older Python can read)
    sys.stderr.write("error: Python 3.11 or newer is needed, and this is older\n")
    sys.exit(2)

from experiments.common import libraries

libraries.require()
