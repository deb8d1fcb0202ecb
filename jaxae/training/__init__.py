"""Training: the compiled step and epoch, whole runs, data in pieces, several devices."""
