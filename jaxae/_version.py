"""The version, in the one place that setup.cfg and the experiments read it from."""

__version__ = "0.3.0"
