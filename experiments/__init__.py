"""One script per figure or table of the lecture; run them with ``python -m experiments.NAME``."""

import sys

try:
    import jax as jax
except ValueError as error:  # a variable JAX_... of the environment has a value that it refuses
    print(f"error: JAX cannot start: {error}; change or unset that variable", file=sys.stderr)
    sys.exit(2)
