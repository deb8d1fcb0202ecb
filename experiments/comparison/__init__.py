"""The rows of the comparison of denoising and contractive autoencoders, a file for each."""
