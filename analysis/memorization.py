"""Memorization: the longest passages that music shares with a training corpus.

A performance is read as a row of whole numbers, one for the interval and rhythm of each step from
a note to the next. They do not change when the music is transposed or played at another speed.

`find_longest_passages` compares with the whole corpus. A session keeps a `TrainIndex` instead: the
hashes of some words of the training data, where a word is WORD steps in a row. Of each `window`
words in a row the one with the lowest hash is kept (winnowing: Schleimer, Wilkerson and Aiken
2003), so a passage of WORD + window notes or more is always found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sequence import NoteSeq
from utils import Array

CHORD_GAP = 0.03  # seconds: notes closer to one another are one chord
MAX_OCTAVES = 3  # largest ratio of two gaps, as a power of two
IN_CHORD = MAX_OCTAVES + 1
RHYTHMS = 2 * MAX_OCTAVES + 2
SEPARATOR = 2**20  # between the rows of a corpus; no step has this number

WORD = 8  # steps of a word of the index
MIN_DISTINCT = 4  # distinct steps in a word; scales, trills and repeated notes have fewer
INDEX_BYTES = 1_150_000  # largest size of an index
ENTRY_BYTES = 4  # 3 for the hash, 1 for the position (rarely more)
NO_WORD = 2**24 - 1  # instead of the hash of a word with too few distinct steps
MAX_MATCHES = 64  # of a word; more occurrences are not looked at
MAX_NOTES = 2**24  # of the training data
RARE = 8  # one of 3,000 distances between words chosen at random is over 8 mean distances
SPREAD = 0x9E3779  # an odd number, to choose hashes evenly
TIME_STEP = 128  # notes from one known time to the next


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


def drop_repeated_figures(notes: NoteSeq) -> NoteSeq:
    """Return the notes without trills, tremolos and other repeated figures.

    Of a figure of up to four notes that is repeated at once, in any order of its notes, the first
    two times stay.
    """
    order = np.lexsort((notes.pitches, number_chords(notes)))
    numbers = np.random.default_rng(0).integers(1, 2**40, 128)[notes.pitches[order]]
    sums = np.append(0, np.cumsum(numbers))
    is_repeated = np.zeros(len(notes), bool)
    for length in (3, 4):  # and 1 and 2, of which these are multiples
        figures = sums[length:] - sums[:-length]  # of the notes up to each note
        first, second, third = (
            figures[: -2 * length],
            figures[length:-length],
            figures[2 * length :],
        )
        is_third = (first == second) & (second == third)
        for back in range(length):  # all notes of the third time
            is_repeated[3 * length - 1 - back : len(notes) - back] |= is_third
    is_kept = np.ones(len(notes), bool)
    is_kept[order] = ~is_repeated
    return notes.select(is_kept)


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


# ------------------------------------------------------------------------------- the index


@dataclass(frozen=True)
class Passage:
    """A passage that music shares with a performance of the training data.

    notes: its length; start: the second in the music where it begins; name: of the performance,
    and there: the second in it.
    """

    notes: int
    start: float
    name: str
    there: float


@dataclass(frozen=True, eq=False)
class TrainIndex:
    """Some words of the training data, sorted by hash, and where they occur.

    hashes: 24 bits each [entries]; positions: number of the word's first note, counted through all
    performances [entries]; window: see above; names: of the performances;
    starts: number of the first note of each performance, and the number of all notes
    [performances + 1];
    times: onset in seconds of every TIME_STEP-th note and of the last one of each performance,
    float32; see `_count_times`.
    """

    hashes: Array
    positions: Array
    window: int
    names: tuple[str, ...]
    starts: Array
    times: Array

    @property
    def resolution(self) -> int:
        """The length in notes from which on every passage is found, but for scales and trills."""
        return WORD + self.window

    @staticmethod
    def build(
        performances: Iterable[tuple[str, NoteSeq]], max_bytes: int = INDEX_BYTES
    ) -> TrainIndex:
        """Return the index of named performances, as dense as `max_bytes` allows.

        Performances after the first MAX_NOTES notes are left out.
        """
        names, words, starts, times = [], [], [0], []
        for name, notes in performances:
            if starts[-1] + len(notes) > MAX_NOTES:
                break
            if len(notes):
                grid = np.append(np.arange(0, len(notes), TIME_STEP), len(notes) - 1)
                names.append(name.replace("\n", " "))  # a session has a name on each line
                words.append(hash_words(notes))
                times.append(notes.starts[grid].astype(np.float32))
                starts.append(starts[-1] + len(notes))
        size = sum(4 * len(row) for row in times) + sum(len(name) + 5 for name in names)
        max_entries = max(1, (max_bytes - size) // ENTRY_BYTES)
        window = max(1, 2 * sum(map(len, words)) // max_entries)
        while True:
            chosen = [_choose_words(row, window) for row in words]
            if sum(map(len, chosen)) <= max_entries:
                break
            window += 1 + window // 16
        hashes = [row[index] for row, index in zip(words, chosen, strict=True)]
        positions = [index + start for index, start in zip(chosen, starts[:-1], strict=True)]
        return TrainIndex(
            *_sort_entries(np.concatenate([*hashes, NONE]), np.concatenate([*positions, NONE])),
            window,
            tuple(names),
            np.array(starts),
            np.concatenate([*times, NONE]).astype(np.float32),
        )

    def add(self, other: TrainIndex, max_bytes: int = INDEX_BYTES) -> TrainIndex:
        """Return the index of both training data.

        If it is too large, only words whose hash, multiplied by an odd number, is low are kept:
        the same words of all performances. The window then grows to RARE mean distances.
        """
        if self.starts[-1] + other.starts[-1] > MAX_NOTES:
            return self
        names, times = self.names + other.names, np.concatenate([self.times, other.times])
        hashes = np.concatenate([self.hashes, other.hashes])
        positions = np.concatenate([self.positions, other.positions + self.starts[-1]])
        size = 4 * len(times) + sum(len(name) + 5 for name in names)
        share = max(1, (max_bytes - size) // ENTRY_BYTES) / max(1, len(hashes))
        if share < 1:
            is_kept = hashes * SPREAD % NO_WORD < share * NO_WORD
            hashes, positions = hashes[is_kept], positions[is_kept]
        return TrainIndex(
            *_sort_entries(hashes, positions),
            math.ceil(max(self.window, other.window) * (RARE / share if share < 1 else 1)),
            names,
            np.concatenate([self.starts, other.starts[1:] + self.starts[-1]]),
            times,
        )

    def find_longest(self, notes: NoteSeq) -> Passage | None:
        """Return the longest passage that the notes share with the training data, if any.

        Its length is that between the first and the last word in the index, so the passage may
        be up to twice the window longer.
        """
        words = hash_words(notes)
        first, end = (np.searchsorted(self.hashes, words, side) for side in ("left", "right"))
        counts = np.where(words < NO_WORD, np.minimum(end - first, MAX_MATCHES), 0)
        if not counts.any():
            return None
        at = np.repeat(np.arange(len(words)), counts)  # the word of each match
        entry = (
            np.repeat(first, counts)
            + np.arange(len(at))
            - np.repeat(counts.cumsum() - counts, counts)
        )
        there = self.positions[entry]
        performance = np.searchsorted(self.starts, there, "right") - 1
        order = np.lexsort((at, there - at, performance))
        at, there, performance = at[order], there[order], performance[order]
        is_new = np.append(True, (np.diff(there - at) != 0) | (np.diff(performance) != 0))
        is_new |= np.append(True, np.diff(at) > WORD + self.window)
        starts = np.flatnonzero(is_new)
        ends = np.append(starts[1:], len(at)) - 1
        best = int((at[ends] - at[starts]).argmax())
        begin, last = starts[best], ends[best]
        return Passage(
            int(at[last] - at[begin]) + WORD + 1,
            float(notes.starts[at[begin]]),
            self.names[performance[begin]],
            self._find_time(int(performance[begin]), int(there[begin])),
        )

    def to_arrays(self) -> dict[str, Any]:
        """Return the index in a compact form, for a session file; `from_arrays` is the inverse.

        Entries are sorted by position. A hash has 3 bytes, and `_to_gaps` encodes the positions.
        """
        order = np.argsort(self.positions)
        return {
            "names": "\n".join(self.names),
            "window": self.window,
            "hashes": _to_bytes(self.hashes[order]),
            "gaps": _to_gaps(self.positions[order]),
            "starts": self.starts.astype(np.int32),
            "times": self.times,
        }

    @staticmethod
    def from_arrays(record: Any) -> TrainIndex:
        """Return the index that `to_arrays` gave; raise ValueError for anything else.

        Earlier versions wrote 3 bytes for each position instead of the gaps.
        """
        try:
            names, window = record["names"].split("\n"), record["window"]
            places = "gaps" if "gaps" in record else "positions"
            arrays = [np.asarray(record[n]) for n in ("hashes", places, "starts", "times")]
            kinds = [(array.dtype, array.ndim) for array in arrays]
            if kinds != [(kind, 1) for kind in (np.uint8, np.uint8, np.int32, np.float32)]:
                raise ValueError("arrays of other types")
            hashes = _from_bytes(arrays[0])
            positions = (_from_gaps if places == "gaps" else _from_bytes)(arrays[1])
            starts, times = arrays[2:]
            counts = np.diff(starts)
            if not (
                type(window) is int
                and len(hashes) == len(positions)
                and 1 <= window <= MAX_NOTES
                and len(names) == len(counts)
                and starts[0] == 0
                and (counts > 0).all()
                and len(times) == _count_times(counts).sum()
                and np.isfinite(times).all()
                and hashes.max(initial=0) < NO_WORD
                and positions.max(initial=0) < starts[-1]
            ):
                raise ValueError("values out of range")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"invalid index of the training data ({error})") from error
        starts = starts.astype(np.int64)
        entries = _sort_entries(hashes, positions)
        return TrainIndex(*entries, window, tuple(names), starts, times)

    def _find_time(self, performance: int, position: int) -> float:
        """Return the second of a note, interpolated between the notes whose times are known."""
        number = position - self.starts[performance]
        index = _count_times(np.diff(self.starts[: performance + 1])).sum() + number // TIME_STEP
        share = number % TIME_STEP / TIME_STEP
        return float(np.interp(share, (0, 1), self.times[index : index + 2]))


NONE = np.empty(0, np.int64)


def _count_times(notes: Array) -> Array:
    """Return how many times the index keeps for performances of so many notes."""
    return -(-notes // TIME_STEP) + 1


def _sort_entries(hashes: Array, positions: Array) -> tuple[Array, Array]:
    order = np.lexsort((positions, hashes))
    return hashes[order].astype(np.int64), positions[order].astype(np.int64)


def _to_bytes(values: Array) -> Array:
    """Return whole numbers below 2**24 as uint8 [3 * values], the lowest byte first."""
    return np.asarray(values.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].ravel())


def _from_bytes(content: Array) -> Array:
    """Return the numbers that `_to_bytes` gave."""
    return np.asarray(content.reshape(-1, 3).astype(np.int64) @ (1, 2**8, 2**16))


def _to_gaps(positions: Array) -> Array:
    """Return rising whole numbers as uint8: the distance of each from the one before.

    A distance of 255 or more has a byte of 255 for each 255 in it, and then the remainder.
    """
    full, rest = np.divmod(np.diff(positions, prepend=0), 255)
    content = np.full(full.sum() + len(rest), 255, np.uint8)
    content[np.cumsum(full + 1) - 1] = rest
    return content


def _from_gaps(content: Array) -> Array:
    """Return the numbers that `_to_gaps` gave."""
    return np.asarray(np.cumsum(content, dtype=np.int64)[content != 255])


def hash_words(notes: NoteSeq) -> Array:
    """Return a hash of 24 bits of the word at each note; NO_WORD for too few distinct steps."""
    steps = intervals_and_rhythm(notes)
    if len(steps) < WORD:
        return np.empty(0, np.int64)
    hashes = np.minimum(hash_windows(steps, WORD) >> np.uint64(40), NO_WORD - 1).astype(np.int64)
    ordered = np.sort(np.lib.stride_tricks.sliding_window_view(steps, WORD), axis=1)
    distinct = 1 + np.count_nonzero(np.diff(ordered, axis=1), axis=1)
    return np.where(distinct < MIN_DISTINCT, NO_WORD, hashes)


def _choose_words(words: Array, window: int) -> Array:
    """Return the indices of the words with the lowest hash of each `window` words in a row."""
    if len(words) <= window:
        rows = words[None, : len(words)]
    else:
        rows = np.lib.stride_tricks.sliding_window_view(words, window)
    if not rows.size:
        return np.empty(0, np.int64)
    chosen = np.unique(rows.argmin(axis=1) + np.arange(len(rows)))
    return np.asarray(chosen[words[chosen] < NO_WORD])
