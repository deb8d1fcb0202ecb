"""One script per figure or table of the lecture; run them with ``python -m experiments.NAME``."""
