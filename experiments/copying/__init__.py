"""What overcomplete autoencoders copy: a file for each statement, and what they share."""
