"""Results of a run: its record, checkpoints, trained networks, numbers and claims."""
