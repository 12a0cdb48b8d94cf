"""Training data: `.data` files, batches, and the steps of preprocess.py."""
