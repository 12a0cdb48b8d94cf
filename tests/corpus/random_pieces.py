"""Random pieces, and performances of them, for the tests of dedup and split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sequence import NoteSeq

Score = tuple[np.ndarray, np.ndarray]


def compose(seed: int, notes: int = 400) -> Score:
    """Return random onsets, in seconds, and pitches in the middle of the keyboard."""
    rng = np.random.default_rng(seed)
    onsets = np.cumsum(rng.choice([0.0, 0.125, 0.25], notes, p=[0.2, 0.5, 0.3]))
    return onsets, 60 + rng.integers(-14, 15, notes)


def join(first: Score, second: Score) -> Score:
    """Return the second score after the first."""
    return np.append(first[0], 99 + second[0]), np.append(first[1], second[1])


def perform(
    score: Score, seed: int = 0, tempo: float = 1.0, key: int = 0, wrong: float = 0.0
) -> NoteSeq:
    """Return a performance; a share `wrong` of the notes is left out, and as many are added.

    Onsets are uneven unless the seed is 0.
    """
    rng = np.random.default_rng(1000 + seed)
    onsets, pitches = score
    onsets = onsets / tempo + (rng.normal(0, 0.008, len(onsets)) if seed else 0.0)
    is_correct = rng.random(len(onsets)) >= wrong
    is_doubled = rng.random(len(onsets)) < wrong
    onsets = np.concatenate([onsets[is_correct], onsets[is_doubled] + 0.06])
    pitches = np.concatenate([pitches[is_correct], pitches[is_doubled] + 1]) + key
    onsets = np.maximum(onsets - onsets.min(), 0)
    return NoteSeq(onsets, onsets + 0.2, pitches, 40 + rng.integers(0, 40, len(onsets)))


def write_performance(path: Path, score: Score, seed: int = 0, wrong: float = 0.0) -> None:
    """Write a performance as a MIDI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    perform(score, seed, wrong=wrong).to_midi_file(path)
