"""Where data come from: IDX files, TensorFlow Datasets, arrays in files, the cache."""
