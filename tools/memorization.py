"""What music has learned by heart: the longest runs that pieces share with a training corpus.

A piece is read as rows of whole numbers, one for each step from a note to the next, in two
ways: `intervals` (pitch alone) and `intervals_and_onsets` (pitch and rhythm). Both stay the
same when the piece is transposed or played at another speed. What a row has in common with
the corpus is its longest common substring with any row there; it is found by halving over its
length, with hashes of all windows of one length (Karp and Rabin 1987), and the place that is
found is compared number by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sequence import NoteSeq
from utils import Array

TOGETHER = 0.03  # seconds: notes that follow one another faster are one chord
WIDEST = 3  # octaves of the ratio of two gaps that are told apart
IN_A_CHORD = WIDEST + 1
RHYTHMS = 2 * WIDEST + 2
BASE = 0x9E3779B97F4A7C15  # of the hashes; odd, so that it has an inverse modulo 2**64
BETWEEN_ROWS, BETWEEN_QUERIES = 2**20, 2**21  # no steps, and not alike: they stop every run


def chords(notes: NoteSeq) -> Array:
    """The number of the chord of each note: a gap of more than 30 ms begins a new one."""
    return np.cumsum(np.append(0, np.diff(notes.starts) > TOGETHER))[: len(notes)]


def _steps(notes: NoteSeq) -> tuple[Array, Array, Array]:
    """Semitones to the next note [notes - 1], and the chord of each note; and chords' onsets."""
    chord = chords(notes)
    order = np.lexsort((notes.pitches, chord))
    onsets = notes.starts[np.flatnonzero(np.diff(chord, prepend=-1))]
    return np.diff(notes.pitches[order]), chord, onsets


def intervals(notes: NoteSeq) -> Array:
    """Semitones from each note to the next, by chord and in a chord by pitch: [notes - 1]."""
    return _steps(notes)[0]


def intervals_and_onsets(notes: NoteSeq) -> Array:
    """The same with the rhythm of each step, as one number [notes - 1].

    The rhythm is "in a chord", or the ratio of the gap from the chord to the next to the gap
    before it, in powers of two: its binary logarithm round_weights, at most 3 either way; 0 for the
    first gap.
    """
    semitones, chord, onsets = _steps(notes)
    gaps = np.diff(onsets)
    ratios = np.append(0.0, np.log2(gaps[1:] / gaps[:-1]))
    powers = np.append(np.clip(np.rint(ratios), -WIDEST, WIDEST), 0).astype(np.int64)
    rhythm = np.where(np.diff(chord) == 0, IN_A_CHORD, powers[chord[:-1]])
    return semitones * RHYTHMS + rhythm + WIDEST


READINGS = {"intervals": intervals, "intervals and onsets": intervals_and_onsets}


@dataclass(frozen=True)
class Shared:
    """The longest run of a piece that the corpus has too: its length, and in which row."""

    length: int
    row: int


class _Row:
    """Numbers in a row, and the hash of each window of any length."""

    def __init__(self, rows: Sequence[Array], between: int) -> None:
        """Rows one after the other, each followed by the number `between`."""
        ends = np.cumsum([len(row) + 1 for row in rows])
        self.starts = np.append(0, ends[:-1]).astype(np.int64)
        self.lengths = np.array([len(row) for row in rows], np.int64)
        self.values = np.concatenate([np.append(row, between) for row in rows]).astype(np.int64)
        size = len(self.values)
        self._powers_down = _powers(pow(BASE, -1, 2**64), size)
        self._sums = np.zeros(size + 1, np.uint64)
        np.cumsum(_mixed(self.values) * _powers(BASE, size), out=self._sums[1:])

    def windows(self, length: int) -> Array:
        """Hashes uint64 [numbers - length + 1] of all windows of a length."""
        count = len(self.values) - length + 1
        hashes = (self._sums[length:] - self._sums[:-length]) * self._powers_down[:count]
        return np.asarray(hashes)


def _powers(base: int, size: int) -> Array:
    factors = np.full(size, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors)


def _mixed(values: Array) -> Array:
    """A number of 64 bits for each that looks like chance (the finalizer of splitmix64)."""
    bits = values.astype(np.uint64) + np.uint64(BASE)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def longest_shared(queries: Sequence[Array], corpus: Sequence[Array]) -> list[Shared]:
    """The longest run of each query that is in one of the rows of the corpus; rows of integers.

    A query that shares nothing has the length 0 and the row -1.
    """
    if not len(queries) or not len(corpus):
        return [Shared(0, -1) for _ in queries]
    asked, known = _Row(queries, BETWEEN_QUERIES), _Row(corpus, BETWEEN_ROWS)
    found: dict[int, tuple[Array, Array]] = {}

    def places(length: int) -> tuple[Array, Array]:
        if length not in found:
            found[length] = _places(asked, known, length)
        return found[length]

    result = []
    for number, size in enumerate(asked.lengths.tolist()):
        low, high, row = 0, size, -1
        while low < high:
            middle = min((low + high + 1) // 2, max(8, 2 * low))  # most runs are short
            ours, theirs = (int(column[number]) for column in places(middle))
            if theirs >= 0:
                low, row = middle, int(np.searchsorted(known.starts, theirs, "right")) - 1
                both = asked.values[ours : ours + low], known.values[theirs : theirs + low]
                assert np.array_equal(*both), "two windows have one hash"
            else:
                high = middle - 1
        result.append(Shared(low, row))
    return result


def _places(asked: _Row, known: _Row, length: int) -> tuple[Array, Array]:
    """Where each query has a window that is known, and where it is known; -1 if it has none."""
    nowhere = np.full(len(asked.starts), -1), np.full(len(asked.starts), -1)
    if length > min(len(asked.values), len(known.values)):
        return nowhere
    hashes, known_hashes = asked.windows(length), known.windows(length)
    some = np.zeros(2**20, bool)  # by the first 20 bits of a hash: most windows are not asked for
    some[hashes >> np.uint64(44)] = True
    candidates = np.flatnonzero(some[known_hashes >> np.uint64(44)])
    distinct, which = np.unique(hashes, return_inverse=True)
    at = np.searchsorted(distinct, known_hashes[candidates])
    at[at == len(distinct)] = 0
    same = distinct[at] == known_hashes[candidates]
    known_at = np.full(len(distinct), -1)
    known_at[at[same]] = candidates[same]
    ours = np.flatnonzero(known_at[which] >= 0)[::-1]
    query = np.searchsorted(asked.starts, ours, "right") - 1
    where, theirs = nowhere
    where[query] = ours
    theirs[query] = known_at[which[ours]]
    return where, theirs
