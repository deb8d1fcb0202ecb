"""``python -m experiments.convolutional`` starts here."""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print("error: run python -m experiments.convolutional in the repository root", file=sys.stderr)
    sys.exit(2)

from experiments.common.run import command_line
from experiments.convolutional import Config, main

sys.exit(command_line.run(main, Config))
