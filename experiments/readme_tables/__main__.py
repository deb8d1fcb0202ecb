"""``python -m experiments.readme_tables`` starts here."""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    print("error: run python -m experiments.readme_tables in the repository root", file=sys.stderr)
    sys.exit(2)

from experiments.readme_tables import main

main()
