"""What the experiments share: data, command line, results and plots; all of the I/O."""
