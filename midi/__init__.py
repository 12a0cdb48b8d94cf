"""Notes and MIDI files, control schedules, piano rolls and audio. Nothing here needs torch."""
