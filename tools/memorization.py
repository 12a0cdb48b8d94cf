"""Memorization: the longest passages that samples share with a training corpus.

A sample is read as a row of whole numbers, one for the interval and rhythm of each step from a
note to the next. They do not change when the music is transposed or played at another speed.
The longest common passage is found by bisection over its length, with hashes of all windows of
one length (Karp and Rabin 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sequence import NoteSeq
from utils import Array

CHORD_GAP = 0.03  # seconds: notes closer to one another are one chord
MAX_OCTAVES = 3  # largest ratio of two gaps, as a power of two
IN_CHORD = MAX_OCTAVES + 1
RHYTHMS = 2 * MAX_OCTAVES + 2
BASE = 0x9E3779B97F4A7C15  # of the hashes; odd, so that it has an inverse modulo 2**64
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


@dataclass(frozen=True)
class Passage:
    """The longest passage that the corpus has too: its length, and in which row (-1: none)."""

    length: int
    row: int


class Windows:
    """Whole numbers, with a hash of each window of any length."""

    def __init__(self, values: Array) -> None:
        self.values = values.astype(np.int64)
        self._inverse_powers = _powers(pow(BASE, -1, 2**64), len(values))
        self._sums = np.zeros(len(values) + 1, np.uint64)
        np.cumsum(_mix(self.values) * _powers(BASE, len(values)), out=self._sums[1:])

    def hash(self, length: int) -> Array:
        """Return uint64 [values - length + 1]."""
        count = max(0, len(self.values) - length + 1)
        sums = self._sums[length : length + count] - self._sums[:count]
        return np.asarray(sums * self._inverse_powers[:count])


def _powers(base: int, size: int) -> Array:
    factors = np.full(size, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors)


def _mix(values: Array) -> Array:
    """Return 64 random-looking bits for each value (the finalizer of splitmix64)."""
    bits = values.astype(np.uint64) + np.uint64(BASE)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def find_longest_passages(queries: Sequence[Array], corpus: Sequence[Array]) -> list[Passage]:
    """Return the longest passage of each query that is in a row of the corpus.

    All queries are bisected together, so that the corpus is hashed once for each length.
    """
    starts = np.cumsum([0, *(len(row) + 1 for row in corpus)])
    rows = [np.append(row, SEPARATOR) for row in corpus]
    corpus_windows = Windows(np.concatenate([*rows, np.empty(0, np.int64)]))
    texts = [Windows(query) for query in queries]
    low, high = np.zeros(len(texts), np.int64), np.array([len(query) for query in queries])
    row_numbers = np.full(len(texts), -1)
    while (is_open := low < high).any():
        # most passages are short, so the first lengths to try are short, too
        middle = np.minimum((low + high + 1) // 2, np.maximum(8, 2 * low))
        for length in np.unique(middle[is_open]).tolist():
            hashes = corpus_windows.hash(length)
            order = np.argsort(hashes)
            for number in np.flatnonzero(is_open & (middle == length)):
                at = _find(texts[number], corpus_windows, length, hashes[order], order)
                if at is None:
                    high[number] = length - 1
                else:
                    low[number] = length
                    row_numbers[number] = np.searchsorted(starts, at, "right") - 1
    return [Passage(*pair) for pair in zip(low.tolist(), row_numbers.tolist(), strict=True)]


def _find(
    text: Windows, corpus_windows: Windows, length: int, hashes: Array, order: Array
) -> int | None:
    """Return where a window of `text` is in the corpus; `hashes` are sorted by `order`."""
    wanted = text.hash(length)
    places = np.searchsorted(hashes, wanted)
    hits = np.flatnonzero(np.append(hashes, 0)[places] == wanted)
    hits = hits[places[hits] < len(hashes)]
    if not len(hits):
        return None
    begin, at = int(hits[0]), int(order[places[hits[0]]])
    same = text.values[begin : begin + length] == corpus_windows.values[at : at + length]
    assert same.all(), "two windows have one hash"
    return at
