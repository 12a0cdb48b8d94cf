"""Notes and MIDI files, their pictures and their audio."""
