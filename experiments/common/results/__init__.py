"""What a run leaves behind: its record, checkpoints, trained networks and claims."""
