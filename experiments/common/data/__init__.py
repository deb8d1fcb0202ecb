"""Training data: data sets, kinds of noise, and densities with a closed form."""
