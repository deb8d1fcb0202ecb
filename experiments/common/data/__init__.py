"""What the experiments train on: data sets, kinds of noise, and densities that are known."""
