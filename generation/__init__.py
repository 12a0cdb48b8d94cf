"""Generation of music with a session: controls, sampling, output files."""
