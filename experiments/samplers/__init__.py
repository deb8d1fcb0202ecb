"""The parts of ``experiments.sampling``: autoencoders as generative models."""
