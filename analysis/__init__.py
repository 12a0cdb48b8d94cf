"""What a session says about music: how surprising notes are, what is copied, what is best."""
