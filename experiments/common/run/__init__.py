"""One run of an experiment: its command line, signals, memory, processes, and what it prints."""
