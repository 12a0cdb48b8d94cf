"""HTML pages: the player of generate.py and the report of preprocess.py."""
