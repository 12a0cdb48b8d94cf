"""Training data: `.data` files, batches of them, and what preprocess.py does with MIDI files."""
