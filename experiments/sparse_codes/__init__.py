"""What is measured of sparse codes, a file for each statement."""
