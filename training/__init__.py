"""Training a session and measuring it."""
