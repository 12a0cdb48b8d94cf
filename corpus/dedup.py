"""Duplicates, and performances of one piece, found by their notes and not by their file names.

Performances are compared by their sketches, as web pages are by w-shingling (Broder 1997): a word
is a sequence of eight pitch intervals, and the sketch has the words whose hash is in the lowest
quarter of all hashes. Neither tempo nor key changes a word, and a wrong note changes only the words
around it. Two performances are of one piece if they share more words than different pieces do.
An excerpt shares most of its words with the whole, and so does a performance without repeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from corpus.performance import Performance
from sequence import EventSeq, NoteSeq
from utils import Array

CHORD_SECONDS = 0.035  # notes of a chord start within this time of the note before
WORD_LENGTH = 8  # intervals
MIN_DISTINCT = 4  # distinct intervals in a word; scales and trills have fewer
SAMPLING_RATE = 4  # a sketch has one of this many words
# Chosen so that different pieces share less than half as many words as these constants require, and
# each performance more with another one of its piece (docs/results.md, "Recognizing pieces").
MIN_SHARED_PART = 0.05  # of the shorter sketch
MIN_SHARED_WORDS = 4  # added to that part: different pieces may share a few words
NEAR_DUPLICATE_PART = 0.9  # of the shorter sketch
MAX_DISTANCE = 8  # a performance is compared with this many later ones that have the same word


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The hash of a performance's events, and its sketch (see `sketch_notes`)."""

    digest: bytes
    words: Array

    @staticmethod
    def compute(performance: Performance) -> Fingerprint:
        """Return the fingerprint of a performance; it depends only on the events."""
        notes = EventSeq.from_array(performance.events, performance.encoding).to_note_seq()
        return Fingerprint(hash_events(performance), sketch_notes(notes))


def hash_events(performance: Performance) -> bytes:
    """Return a hash of the events; duplicates have the same hash."""
    return hashlib.blake2b(performance.events.tobytes(), digest_size=16).digest()


def find_copies(performances: Sequence[Performance], others: Sequence[Performance]) -> list[bool]:
    """Return which performances have the same events as one of `others`.

    Events are read only where the numbers of notes, events and milliseconds are the same.
    """

    def measure(performance: Performance) -> tuple[int, int, int]:
        return performance.notes, len(performance), performance.milliseconds

    sizes = set(map(measure, performances)) & set(map(measure, others))
    hashes = {hash_events(other) for other in others if measure(other) in sizes}
    return [measure(p) in sizes and hash_events(p) in hashes for p in performances]


def sketch_notes(notes: NoteSeq) -> Array:
    """Return the sketch of notes: the sorted hashes of its distinct words, uint64 [words]."""
    chord = np.cumsum(np.diff(notes.starts, prepend=0.0) > CHORD_SECONDS)
    intervals = np.diff(notes.pitches[np.lexsort((notes.pitches, chord))])
    if len(intervals) < WORD_LENGTH:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(intervals, WORD_LENGTH)  # [words, length]
    distinct = 1 + np.count_nonzero(np.diff(np.sort(windows, axis=1), axis=1), axis=1)
    words = np.zeros(len(windows), np.uint64)
    for column in windows.T.astype(np.uint64):
        words = _mix(words + column)
    is_low = words < np.uint64(2**64 // SAMPLING_RATE)
    return np.unique(words[(distinct >= MIN_DISTINCT) & is_low])


def _mix(values: Array) -> Array:
    """Return a one-to-one hash of each uint64, by multiplications and shifts as in MurmurHash."""
    for factor in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93):
        values = (values + np.uint64(0x632BE59BD9B4E019)) * np.uint64(factor)
        values = values ^ (values >> np.uint64(32))
    return values


class Link(NamedTuple):
    """Two performances of one piece, by number, and the part of the shorter sketch they share."""

    first: int
    second: int
    part: float


@dataclass(frozen=True)
class Piece:
    """The performances of one piece, by number, and a hash that identifies the piece.

    The hash depends only on the lowest word of all performances, not on names or order, and
    seldom changes when a performance is added: it would be different for 17% of the pieces with
    several performances if one of these were missing.
    """

    members: tuple[int, ...]
    identity: bytes


def find_pieces(fingerprints: Sequence[Fingerprint]) -> tuple[list[Piece], list[Link]]:
    """Return the pieces, in order of their first performance, and the links between performances.

    Duplicates belong to one piece even if they are too short for words. The links are a maximum
    spanning forest: the strongest ones that connect the performances of each piece.
    """
    sketches = [fingerprint.words for fingerprint in fingerprints]
    parents = list(range(len(fingerprints)))
    links = [
        Link(first, second, _measure_overlap(sketches[first], sketches[second]))
        for first, second in _find_candidates(sketches)
        if _merge_groups(parents, first, second)
    ]
    firsts: dict[bytes, int] = {}  # the first performance of each digest
    groups: dict[int, list[int]] = {}
    for number, fingerprint in enumerate(fingerprints):
        _merge_groups(parents, firsts.setdefault(fingerprint.digest, number), number)
    for number in range(len(fingerprints)):
        groups.setdefault(_find_root(parents, number), []).append(number)
    pieces = [Piece(tuple(g), _identify([fingerprints[n] for n in g])) for g in groups.values()]
    return pieces, links


def _find_candidates(sketches: Sequence[Array]) -> list[tuple[int, int]]:
    """Return the pairs that share enough words, the largest shared part first."""
    sizes = np.array([len(words) for words in sketches], np.int64)
    first, second, shared = _count_shared_words(sketches)
    shorter = np.minimum(sizes[first], sizes[second])
    is_enough = shared >= MIN_SHARED_WORDS + MIN_SHARED_PART * shorter
    part = (shared / np.maximum(1, shorter))[is_enough]
    first, second = first[is_enough], second[is_enough]
    order = np.lexsort((second, first, -part))
    return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def _count_shared_words(sketches: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Return pairs of performances and the number of words they share: three int64 [pairs].

    A performance is compared only with the next MAX_DISTANCE ones that have the same word. Some
    pairs of a piece with a thousand performances are missing, but the other pairs connect them.
    Pairs that share a single word are left out.
    """
    words = np.concatenate([np.empty(0, np.uint64), *sketches])
    owners = np.repeat(np.arange(len(sketches)), [len(sketch) for sketch in sketches])
    order = np.argsort(words, kind="stable")
    words, owners = words[order], owners[order]
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for distance in range(1, MAX_DISTANCE + 1):
        is_same = words[distance:] == words[:-distance]
        pairs = owners[:-distance][is_same] * len(sketches) + owners[distance:][is_same]
        key, count = np.unique(pairs, return_counts=True)
        keys.append(key[count > 1])
        counts.append(count[count > 1])
    key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(inverse, np.concatenate(counts), len(key)).astype(np.int64)
    return key // max(1, len(sketches)), key % max(1, len(sketches)), total


def _measure_overlap(first: Array, second: Array) -> float:
    """Return the part of the shorter sketch that both share."""
    shared = np.intersect1d(first, second, assume_unique=True)
    return len(shared) / max(1, min(len(first), len(second)))


def _find_root(parents: list[int], number: int) -> int:
    """Return the root of a disjoint-set tree, halving the path to it."""
    while parents[number] != number:
        parents[number] = number = parents[parents[number]]
    return number


def _merge_groups(parents: list[int], first: int, second: int) -> bool:
    """Merge two groups under the lower root; return whether they were separate."""
    low, high = sorted((_find_root(parents, first), _find_root(parents, second)))
    parents[high] = low
    return low != high


def _identify(fingerprints: Sequence[Fingerprint]) -> bytes:
    """Return the hash that identifies the piece of these performances; see `Piece`."""
    lowest = min((f.words[0] for f in fingerprints if len(f.words)), default=None)
    if lowest is None:
        return min(fingerprint.digest for fingerprint in fingerprints)
    return hashlib.blake2b(lowest.tobytes(), digest_size=16).digest()
