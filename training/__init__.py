"""Training and evaluation of a session."""
