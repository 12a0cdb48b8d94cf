"""Which performances are of one piece, found by what is played, whatever the files are called.

A performance is sketched by words: eight intervals in a row, from note to note. Neither another
tempo nor another key changes a word, and a wrong note costs only the words it is in. Two
performances are of one piece if they share more words than two pieces do by chance; a part
shares most of its words with the whole, and so does one that leaves repeats out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from corpus.performance import Performance
from sequence import EventSeq, NoteSeq
from utils import Array

CHORD = 0.035  # seconds from one onset to the next, below which they are one chord
WORD = 8  # intervals in a word
LEAST = 4  # different intervals in a word that says something: no scale, no trill
RATE = 4  # one word of so many is kept, the same ones in all performances
# Of 991 performances none shared half as many words as are asked for here with one of another
# piece, and each shared 1.8 times as many with another of its piece.
SHARED = 0.05  # of the shorter sketch is shared by performances of one piece
FEWEST = 4  # words that may be shared by chance, on top of that
NEARLY = 0.9  # of the shorter sketch is shared by what may be one performance, altered
REACH = 8  # of the performances with a word each is compared with so many that follow it


@dataclass(frozen=True)
class Heard:
    """What tells of which piece a performance is, and how long it is.

    words: as `sketch` gives them; fingerprint: of its events.
    """

    fingerprint: bytes
    words: Array
    milliseconds: int

    @staticmethod
    def of(performance: Performance) -> Heard:
        """Listen to the events, so that a `.data` file tells the same as its MIDI file."""
        notes = EventSeq.from_array(performance.events, performance.encoding).to_note_seq()
        return Heard(fingerprint(performance), sketch(notes), performance.milliseconds)


def fingerprint(performance: Performance) -> bytes:
    """A hash of the events, the same for performances that are the same."""
    return hashlib.blake2b(performance.events.tobytes(), digest_size=16).digest()


def sketch(notes: NoteSeq) -> Array:
    """The words of a performance that are kept, as uint64 hashes [words], sorted, each once."""
    chord = np.cumsum(np.diff(notes.starts, prepend=0.0) > CHORD)
    intervals = np.diff(notes.pitches[np.lexsort((notes.pitches, chord))])
    if len(intervals) < WORD:
        return np.empty(0, np.uint64)
    letters = np.sort(np.lib.stride_tricks.sliding_window_view(intervals, WORD), axis=1)
    telling = 1 + np.count_nonzero(np.diff(letters, axis=1), axis=1) >= LEAST
    words = _words(intervals)
    return np.unique(words[telling & (words < np.uint64(2**64 // RATE))])


def _words(intervals: Array) -> Array:
    """A hash uint64 of each WORD intervals in a row."""
    codes, count = intervals.astype(np.uint64), len(intervals) - WORD + 1
    words = np.zeros(count, np.uint64)
    for place in range(WORD):
        words = _mixed(words + codes[place : place + count])
    return words


def _mixed(values: Array) -> Array:
    """Each uint64 made another one, evenly: multiplications by odd numbers, and shifts."""
    for factor in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93):
        values = (values + np.uint64(0x632BE59BD9B4E019)) * np.uint64(factor)
        values = values ^ (values >> np.uint64(32))
    return values


@dataclass(frozen=True)
class Link:
    """Two performances, by number, that are of one piece; `share` of the shorter one's words."""

    first: int
    second: int
    share: float


@dataclass(frozen=True)
class Piece:
    """Performances, by number, of one piece, and what the piece is known by.

    The identity comes from the lowest of all their words, so that it says nothing of names or
    of order, and seldom changes with one performance more: of the pieces that several pianists
    played, 17 in 100 had another one when one of the pianists was left out.
    """

    members: tuple[int, ...]
    identity: bytes


def find_pieces(heard: Sequence[Heard]) -> tuple[list[Piece], list[Link]]:
    """The pieces, in order of their first members, and the links that hold them together.

    What is the same is together even if it is too short for words. The links are the
    strongest that suffice.
    """
    sketches = [performance.words for performance in heard]
    leaders = list(range(len(heard)))
    strong = [
        Link(first, second, _exactly(sketches[first], sketches[second]))
        for first, second in _candidates(sketches)
        if _united(leaders, first, second)
    ]
    for same in _grouped([performance.fingerprint for performance in heard]):
        for other in same[1:]:
            _united(leaders, same[0], other)
    groups = _grouped([_leader(leaders, number) for number in range(len(leaders))])
    return [Piece(tuple(g), _identity([heard[n] for n in g])) for g in groups], strong


def _candidates(sketches: Sequence[Array]) -> list[tuple[int, int]]:
    """Pairs that share enough words, the pair that shares the greatest part first."""
    sizes = np.array([len(words) for words in sketches], np.int64)
    first, second, shared = _shared(sketches)
    smaller = np.minimum(sizes[first], sizes[second])
    enough = shared >= FEWEST + SHARED * smaller
    first, second, part = first[enough], second[enough], (shared / np.maximum(1, smaller))[enough]
    order = np.lexsort((second, first, -part))
    return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def _shared(sketches: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Pairs of performances, and how many words they share: three int64 [pairs].

    Of many performances with one word each is compared with the next REACH: of a piece played
    a thousand times some pairs go uncounted, but it holds together by the others. Pairs that
    share one word alone are left out.
    """
    words = np.concatenate([np.empty(0, np.uint64), *sketches])
    owners = np.repeat(np.arange(len(sketches)), [len(part) for part in sketches])
    order = np.argsort(words, kind="stable")
    words, owners = words[order], owners[order]
    pairs, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for step in range(1, REACH + 1):
        same = words[step:] == words[:-step]
        met = owners[:-step][same] * len(sketches) + owners[step:][same]
        found, number = np.unique(met, return_counts=True)
        pairs.append(found[number > 1])
        counts.append(number[number > 1])
    keys, where = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.bincount(where, np.concatenate(counts), len(keys)).astype(np.int64)
    return keys // max(1, len(sketches)), keys % max(1, len(sketches)), total


def _exactly(one: Array, other: Array) -> float:
    both = np.intersect1d(one, other, assume_unique=True)
    return len(both) / max(1, min(len(one), len(other)))


def _leader(leaders: list[int], number: int) -> int:
    while leaders[number] != number:
        leaders[number] = number = leaders[leaders[number]]
    return number


def _united(leaders: list[int], first: int, second: int) -> bool:
    """Bring two groups together under the lower number; whether they were two."""
    one, other = sorted((_leader(leaders, first), _leader(leaders, second)))
    leaders[other] = one
    return one != other


def _grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """Numbers with the same key, in order of their first."""
    groups: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _identity(performances: Sequence[Heard]) -> bytes:
    first = min((p.words[0] for p in performances if len(p.words)), default=None)
    if first is None:
        return min(performance.fingerprint for performance in performances)
    return hashlib.blake2b(first.tobytes(), digest_size=16).digest()
