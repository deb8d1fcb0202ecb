"""Where data come from: arrays, CSV files, images, IDX files, TensorFlow Datasets, the cache."""
