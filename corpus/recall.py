"""Recall: the notes that followed when a performance had the same passage before.

After each note, two earlier places are searched. One has the same last notes, in any order except
for the newest. The other has the same last notes transposed by any distance. For each place the
network gets how many notes are the same, and which four notes followed there. A GRU alone cannot
keep the notes of several minutes in its state; docs/experiments.md says what recall gains.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sequence import KEYS
from utils import Array

SAME_LENGTHS = (20, 12, 8, 6, 5, 4, 3)  # notes that must be the same; the longest counts
MOVED_LENGTHS = (12, 8, 6, 4)  # notes that must have the same intervals
CONTINUED_NOTES = 4  # most notes for which a place goes on although the music differs
LENGTHS_TO_CONTINUE = 4  # a place goes on only if it was found with one of the first 4 SAME_LENGTHS
LONG_PASSAGE = 8  # notes
NEXT_NOTES = 4  # that followed
MAX_NOTES = 20_000  # of a NoteMemory; then it forgets the older half
RECENT_PLACES = 352  # in its newest layer, at most; 11 for each note
MERGED_PLACES = 5632  # a larger layer is not merged with newer ones
# bytes of a row for each place: how it was found (0: not found), then the next notes: 0 or key + 1
PLACE_WIDTH = 1 + NEXT_NOTES
RECALL_WIDTH = 2 * PLACE_WIDTH
_KINDS = (
    1 + len(SAME_LENGTHS) + CONTINUED_NOTES,
    1 + len(MOVED_LENGTHS),
)  # values of the first byte
_NOTES = KEYS + 1  # values of the other bytes
# first row of each place in the network's table: first all pairs of the first two bytes
_STARTS = (0, (_KINDS[0] + NEXT_NOTES - 1) * _NOTES)
RECALL_ROWS = _STARTS[1] + (_KINDS[1] + NEXT_NOTES - 1) * _NOTES  # of the table

# Random numbers of notes and intervals; sets with equal sums are taken as equal
_random = np.random.default_rng(1)
NOTE_NUMBERS = _random.integers(1, 2**40, KEYS)
INTERVAL_NUMBERS = _random.integers(1, 2**40, 2 * KEYS - 1)  # from -(KEYS - 1) on


def find_recall(keys: Array) -> Array:
    """Return what is recalled before the first note and after each note, uint8 [1 + notes, 10].

    It forgets nothing, unlike `NoteMemory` after MAX_NOTES notes.

    keys: the piano keys of the notes of a performance, integers 0 to 87 [notes]. A row has five
    bytes for the place with the same notes, and five for the place with the same intervals. The
    first byte says how the place was found (0: none). The others are the four notes that followed
    there, as piano key + 1, or 0 for none. For the second place they are transposed so that its
    last note becomes the newest note; a note that is then beyond the keyboard is 0.
    """
    keys = np.asarray(keys, np.int64)
    rows = np.zeros((1 + len(keys), RECALL_WIDTH), np.uint8)
    for number, (places, kinds) in enumerate((_find_same(keys), _find_moved(keys))):
        is_found, start = places >= 0, number * PLACE_WIDTH
        moved = np.where(is_found & (number == 1), keys - keys[places], 0)
        rows[1:, start] = kinds
        for ahead in range(1, 1 + NEXT_NOTES):
            following = places + ahead
            exists = is_found & (following < np.arange(len(keys)) + 1)
            following_keys = keys[np.where(exists, following, 0)] + moved
            exists &= (following_keys >= 0) & (following_keys < KEYS)
            rows[1:, start + ahead] = np.where(exists, following_keys + 1, 0)
    return rows


@dataclass(frozen=True, eq=False)
class PerformanceRecall:
    """What is recalled in a performance.

    note_ons: the positions of its note ons among its events, int32 [notes]; rows: what is recalled
    before the first note and after each note, see `find_recall`.
    """

    note_ons: Array
    rows: Array

    @staticmethod
    def from_events(events: Array) -> PerformanceRecall:
        """Search the events of a whole performance, indices [events]."""
        note_ons = np.flatnonzero(events < KEYS)
        return PerformanceRecall(note_ons.astype(np.int32), find_recall(events[note_ons]))

    @property
    def size(self) -> int:
        """The number of bytes."""
        return int(self.note_ons.nbytes + self.rows.nbytes)

    def read(self, start: int, events: Array) -> Array:
        """Return what is recalled before each event [n] from `start` on, uint8 [n, 10].

        events: these events, or the same music played faster or slower: only the number of notes
        since `start` counts.
        """
        is_note = events < KEYS
        notes = np.searchsorted(self.note_ons, start) + np.cumsum(is_note) - is_note
        return np.asarray(self.rows[notes])


def follows_long_passage(rows: Array) -> Array:
    """Return for each row [n, 10] whether a place was found with 8 notes or more, bool [n]."""
    same, moved = rows[:, 0], rows[:, PLACE_WIDTH]
    is_same = (same >= 1) & (same <= SAME_LENGTHS.index(LONG_PASSAGE) + 1)
    return np.asarray(is_same | (moved >= 1) & (moved <= MOVED_LENGTHS.index(LONG_PASSAGE) + 1))


def recall_events(events: Array) -> Array:
    """Return what is recalled before each event of a whole performance, uint8 [events, 10]."""
    return PerformanceRecall.from_events(events).read(0, events)


def recall_columns(events: Array) -> Tensor:
    """Return the same for whole performances side by side, events [steps, batch].

    Returns uint8 [steps, batch, 10].
    """
    return torch.from_numpy(np.stack([recall_events(column) for column in events.T], axis=1))


def _find_same(keys: Array) -> tuple[Array, Array]:
    """Return the latest earlier place with the same last notes, and how it was found.

    A place is the index of the earlier note that corresponds to the newest one, or -1.
    """
    sums = np.append(0, np.cumsum(NOTE_NUMBERS[keys]))
    places, kinds = np.full(len(keys), -1), np.zeros(len(keys), np.int64)
    for kind, length in enumerate(SAME_LENGTHS, 1):
        sets = (sums[length:] - sums[:-length]) * 128 + keys[length - 1 :]
        _add_places(places, kinds, kind, length, sets)
    found, found_kinds = places.copy(), kinds.copy()
    is_continued = np.zeros(len(keys), bool)
    is_long = (kinds >= 1) & (kinds <= LENGTHS_TO_CONTINUE)
    for later in range(1, 1 + CONTINUED_NOTES):
        earlier, earlier_kinds = found[:-later] + later, found_kinds[:-later]
        does_continue = (earlier_kinds >= 1) & (earlier_kinds <= LENGTHS_TO_CONTINUE)
        does_continue &= ~(is_long | is_continued)[later:] & (earlier < np.arange(later, len(keys)))
        places[later:][does_continue] = earlier[does_continue]
        kinds[later:][does_continue] = len(SAME_LENGTHS) + later
        is_continued[later:] |= does_continue
    return places, kinds


def _find_moved(keys: Array) -> tuple[Array, Array]:
    """Return the same as `_find_same`, for the same intervals instead of the same notes."""
    places, kinds = np.full(len(keys), -1), np.zeros(len(keys), np.int64)
    for kind, length in enumerate(MOVED_LENGTHS, 1):
        if length > len(keys):
            continue
        sets = np.zeros(len(keys) - length + 1, np.int64)
        for back in range(1, length):
            intervals = keys[length - 1 - back : len(keys) - back] - keys[length - 1 :]
            sets += INTERVAL_NUMBERS[intervals + KEYS - 1]
        _add_places(places, kinds, kind, length, sets)
    return places, kinds


def _add_places(places: Array, kinds: Array, kind: int, length: int, sets: Array) -> None:
    """Add the latest earlier place with the same sum to each note without a place.

    sets: the sums of the last `length` notes, one for each note from index `length` - 1 on.
    """
    order = np.argsort(sets, kind="stable")
    is_equal = sets[order[1:]] == sets[order[:-1]]
    notes, earlier = order[1:][is_equal] + length - 1, order[:-1][is_equal] + length - 1
    is_new = places[notes] < 0
    places[notes[is_new]], kinds[notes[is_new]] = earlier[is_new], kind


class NoteMemory:
    """The notes of one performance so far, for recall note by note.

    The places of the notes are in layers of dictionaries, of which only the newest changes. Copies
    share the others, so a copy takes little time and memory.
    """

    def __init__(self, keys: Sequence[int] = ()) -> None:
        """Remember the piano keys, 0 to 87, of the notes so far."""
        self._clear()
        for key in keys:
            self.add(key)

    def _clear(self) -> None:
        self._keys = bytearray()
        self._layers: tuple[dict[int, int], ...] = ()  # never changed
        self._recent: dict[int, int] = {}  # the latest place of each passage in the last notes
        self._last: list[tuple[int, int]] = []  # place and kind after each of the last notes
        self.row = [0] * RECALL_WIDTH

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> NoteMemory:
        """Return a copy that changes independently."""
        new = NoteMemory()
        new._keys, new._layers, new._recent = self._keys[:], self._layers, self._recent.copy()
        new._last, new.row = self._last, self.row
        return new

    def add(self, key: int) -> list[int]:
        """Add a note; return what is recalled after it, a row as in `find_recall`.

        Of music that is longer than MAX_NOTES, the oldest notes are forgotten.
        """
        if len(self._keys) >= MAX_NOTES:
            newer = self._keys[MAX_NOTES // 2 :]
            self._clear()
            for newer_key in newer:
                self.add(newer_key)
        self._keys.append(key)
        newest = self._keys[: -SAME_LENGTHS[0] - 1 : -1]  # the newest is the first
        note_sums = list(itertools.accumulate(_NOTE_NUMBERS[k] for k in newest))
        same = self._find(SAME_LENGTHS, [128 * value + key for value in note_sums], 0)
        before = newest[1 : MOVED_LENGTHS[0]]
        intervals = (_INTERVAL_NUMBERS[k - key + KEYS - 1] for k in before)
        interval_sums = list(itertools.accumulate(intervals, initial=0))
        moved = self._find(MOVED_LENGTHS, interval_sums, len(SAME_LENGTHS))
        if len(self._recent) >= RECENT_PLACES:
            self._layers = _merge_layers((*self._layers, self._recent))
            self._recent = {}
        distance = key - self._keys[moved[0]] if moved[1] else 0
        self.row = [*self._describe(*self._continue(same), 0), *self._describe(*moved, distance)]
        return self.row

    def _find(self, lengths: Sequence[int], sums: Sequence[int], number: int) -> tuple[int, int]:
        """Return the latest earlier place with the longest passage, and its kind.

        sums: of the last 1, 2, 3, ... notes; number: of the first length among all of both places.
        The place of the newest note replaces the earlier ones.
        """
        place, kind, newest = -1, 0, len(self._keys) - 1
        for index, length in enumerate(lengths):
            if length > len(sums):
                continue
            passage = 16 * sums[length - 1] + number + index
            if place < 0:
                place, kind = self._look_up(passage), index + 1
            self._recent[passage] = newest
        return (place, kind) if place >= 0 else (-1, 0)

    def _look_up(self, passage: int) -> int:
        """Return the latest place of a passage, or -1."""
        place = self._recent.get(passage, -1)
        if place < 0:
            for layer in reversed(self._layers):
                if passage in layer:
                    return layer[passage]
        return place

    def _continue(self, found: tuple[int, int]) -> tuple[int, int]:
        """Return the place found now, or one that goes on from a note before."""
        number, chosen = len(self._keys) - 1, found
        if not 1 <= found[1] <= LENGTHS_TO_CONTINUE:
            for later, (place, kind) in enumerate(reversed(self._last), 1):
                if 1 <= kind <= LENGTHS_TO_CONTINUE and place + later < number:
                    chosen = (place + later, len(SAME_LENGTHS) + later)
                    break
        self._last = [*self._last[1 - CONTINUED_NOTES :], found]
        return chosen

    def _describe(self, place: int, kind: int, distance: int) -> list[int]:
        """Return the bytes for a place, whose next notes are transposed by some semitones."""
        if place < 0:
            return [0] * PLACE_WIDTH
        following = [key + distance for key in self._keys[place + 1 : place + 1 + NEXT_NOTES]]
        notes = [key + 1 if 0 <= key < KEYS else 0 for key in following]
        return [kind, *notes, *[0] * (NEXT_NOTES - len(notes))]


def _merge_layers(layers: tuple[dict[int, int], ...]) -> tuple[dict[int, int], ...]:
    """Merge the newest layers while they have about the same size, and are not too large."""
    while len(layers) > 1 and len(layers[-2]) < 2 * len(layers[-1]) < MERGED_PLACES:
        layers = (*layers[:-2], layers[-2] | layers[-1])
    return layers


_NOTE_NUMBERS, _INTERVAL_NUMBERS = NOTE_NUMBERS.tolist(), INTERVAL_NUMBERS.tolist()


def transpose_recall(rows: Array, offsets: Array) -> Array:
    """Return rows [steps, batch, 10] with each column transposed by some semitones [batch]."""
    moved = rows.astype(np.int16) + np.asarray(offsets, np.int16)[:, None]
    is_note = (rows > 0) & (np.arange(RECALL_WIDTH) % PLACE_WIDTH > 0)
    moved = np.where((moved >= 1) & (moved <= KEYS), moved, 0)
    return np.where(is_note, moved, rows).astype(np.uint8)


def describe_recall() -> dict[str, Any]:
    """Return the numbers that web/js/recall.js and web/js/network.js need."""
    return {
        "same": SAME_LENGTHS,
        "moved": MOVED_LENGTHS,
        "continued": CONTINUED_NOTES,
        "lengths_to_continue": LENGTHS_TO_CONTINUE,
        "next": NEXT_NOTES,
        "max_notes": MAX_NOTES,
        "note_numbers": _NOTE_NUMBERS,
        "interval_numbers": _INTERVAL_NUMBERS,
        "kinds": _KINDS,
        "starts": _STARTS,
    }


def index_row(row: Sequence[int]) -> list[int]:
    """Return the eight indices of the table for the bytes of a row; see `index_recall`."""
    indices = []
    for number, kinds in enumerate(_KINDS):
        kind, first, *later = row[number * PLACE_WIDTH : (number + 1) * PLACE_WIDTH]
        start = _STARTS[number]
        indices.append(start + kind * _NOTES + first)
        indices += [start + (kinds + ahead) * _NOTES + note for ahead, note in enumerate(later)]
    return indices


def index_recall(rows: Tensor) -> Tensor:
    """Return the rows of the network's table, int64 [..., 8], for what is recalled [..., 10]."""
    parts = []
    for number, kinds in enumerate(_KINDS):
        place = rows[..., number * PLACE_WIDTH : (number + 1) * PLACE_WIDTH].long()
        parts.append(place[..., :1] * _NOTES + place[..., 1:2] + _STARTS[number])
        start = _STARTS[number] + kinds * _NOTES
        ahead = torch.arange(NEXT_NOTES - 1, device=rows.device) * _NOTES
        parts.append(place[..., 2:] + ahead + start)
    return torch.cat(parts, dim=-1)
