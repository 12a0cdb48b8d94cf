"""Memorization: the longest passages that samples share with a training corpus.

A sample is read as a row of whole numbers, one for the interval and rhythm of each step from a
note to the next. They do not change when the music is transposed or played at another speed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sequence import NoteSeq
from utils import Array

CHORD_GAP = 0.03  # seconds: notes closer to one another are one chord
MAX_OCTAVES = 3  # largest ratio of two gaps, as a power of two
IN_CHORD = MAX_OCTAVES + 1
RHYTHMS = 2 * MAX_OCTAVES + 2
SEPARATOR = 2**20  # between the rows of a corpus; no step has this number


def number_chords(notes: NoteSeq) -> Array:
    """Return the number of each note's chord; a gap of more than 30 ms begins a new one."""
    return np.cumsum(np.append(0, np.diff(notes.starts) > CHORD_GAP))[: len(notes)]


def intervals_and_rhythm(notes: NoteSeq) -> Array:
    """Return the step from each note to the next, sorted by chord and pitch, as a number.

    It combines the interval in semitones and the rhythm: IN_CHORD, or the ratio of the gap after
    the chord to the gap before it as a rounded power of two within MAX_OCTAVES (0 for the first
    gap). int64 [notes - 1].
    """
    chords = number_chords(notes)
    intervals = np.diff(notes.pitches[np.lexsort((notes.pitches, chords))])
    gaps = np.diff(notes.starts[np.flatnonzero(np.diff(chords, prepend=-1))])
    ratios = np.append(0.0, np.log2(gaps[1:] / gaps[:-1]))
    powers = np.append(np.clip(np.rint(ratios), -MAX_OCTAVES, MAX_OCTAVES), 0).astype(np.int64)
    rhythm = np.where(np.diff(chords) == 0, IN_CHORD, powers[chords[:-1]])
    return intervals * RHYTHMS + rhythm + MAX_OCTAVES


def hash_windows(values: Array, length: int) -> Array:
    """Return a hash of each window of `length` values: uint64 [values - length + 1].

    It is made of the hashes of two halves, which share a value if the length is odd, and mixed
    as in splitmix64. Two different windows have the same hash with a probability of 2**-64.
    """
    half = (length + 1) // 2
    if length == 1:
        bits = values.astype(np.uint64)
    else:
        halves = hash_windows(values, half)
        count = max(0, len(values) - length + 1)
        bits = halves[:count] * np.uint64(0x9E3779B97F4A7C15) + halves[length - half :][:count]
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def find_longest_passages(
    queries: Sequence[Array], corpus: Sequence[Array]
) -> list[tuple[int, int]]:
    """Return the longest passage of each query that the corpus has: its length, and in which row.

    The row of a passage of length 0 is -1. All queries are bisected together over the length, so
    that the corpus is hashed once for each length.
    """
    text = np.concatenate([np.append(row, SEPARATOR) for row in corpus]) if corpus else np.empty(0)
    ends = np.cumsum([len(row) + 1 for row in corpus])
    low, high = np.zeros(len(queries), np.int64), np.array([len(query) for query in queries])
    rows = np.full(len(queries), -1)
    while (is_open := low < high).any():
        # most passages are short, so the first lengths to try are short, too
        middle = np.minimum((low + high + 1) // 2, np.maximum(8, 2 * low))
        for length in np.unique(middle[is_open]).tolist():
            hashes = hash_windows(text, length)
            ordered = np.sort(hashes)
            for number in np.flatnonzero(is_open & (middle == length)).tolist():
                windows = hash_windows(queries[number], length)
                first, end = (np.searchsorted(ordered, windows, side) for side in ("left", "right"))
                if (is_hit := first < end).any():
                    low[number] = length
                    at = np.flatnonzero(hashes == windows[is_hit][0])[0]
                    rows[number] = np.searchsorted(ends, at, "right")
                else:
                    high[number] = length - 1
    return list(zip(low.tolist(), rows.tolist(), strict=True))
