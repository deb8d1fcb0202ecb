"""The parts of ``experiments.dictionary``: networks whose filters are a dictionary."""
