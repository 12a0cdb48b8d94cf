"""Generating events with a session, and writing them."""
