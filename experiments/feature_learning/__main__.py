"""``python -m experiments.feature_learning`` starts here."""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.feature_learning"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from experiments.common.run import command_line
from experiments.feature_learning import Config, main

sys.exit(command_line.run(main, Config))
