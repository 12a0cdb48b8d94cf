"""Training data: .data files, batches, and what preprocess.py does with a folder."""
