"""The tables of the README and of the pages beside it, from the committed result files."""
