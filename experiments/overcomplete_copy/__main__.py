"""``python -m experiments.overcomplete_copy`` starts here."""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.overcomplete_copy"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from experiments.common.run import command_line
from experiments.overcomplete_copy import Config, main

sys.exit(command_line.run(main, Config))
