"""What the experiments share: data, command line, records and plots; all of the I/O."""
