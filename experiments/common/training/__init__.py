"""Training in experiments: trainers, sweeps over settings and seeds, losses, classifiers."""
