"""What the experiments train with: autoencoders over seeds and settings, and classifiers."""
