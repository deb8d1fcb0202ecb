"""The objectives: losses of one batch, built from a reconstruction, a corruption and a penalty."""
