"""Sparse autoencoders as they are trained today: dictionaries of a network's activations."""
