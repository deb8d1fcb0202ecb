"""What the penalty of the contractive autoencoder does, a file for each thing that is measured."""
