"""The parts of ``experiments.feature_learning``: unsupervised layers, then a classifier on them."""
