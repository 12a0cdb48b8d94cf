"""Recall: the notes that followed when a performance had the same passage before.

After each note, two earlier places are searched. One has the same last notes, in any order except
for the newest. The other has the same last notes in another key. For each place the network
learns how many notes are the same, and which four notes followed there. A GRU alone cannot keep
the notes of several minutes in its state; docs/experiments.md says what recall gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sequence import KEYS
from utils import Array

SAME_LENGTHS = (20, 12, 8, 6, 5, 4, 3)  # notes that must be the same; the longest counts
MOVED_LENGTHS = (12, 8, 6, 4)  # the same in another key
KEPT = 4  # notes for which a place is kept although they differ
KEPT_LENGTHS = 4  # only if so many of SAME_LENGTHS, the longest, were found
LONG_PASSAGE = 8  # notes
NEXT_NOTES = 4  # that followed
MAX_NOTES = 20_000  # of a NoteMemory; then it forgets the older half
# bytes of a row for each place: how it was found (0: not found), then the next notes: 0 or key + 1
PLACE_WIDTH = 1 + NEXT_NOTES
RECALL_WIDTH = 2 * PLACE_WIDTH
_KINDS = (1 + len(SAME_LENGTHS) + KEPT, 1 + len(MOVED_LENGTHS))  # values of the first byte
_NOTES = KEYS + 1  # values of the other bytes
# first row of each place in the network's table: first all pairs of the first two bytes
_STARTS = (0, (_KINDS[0] + NEXT_NOTES - 1) * _NOTES)
RECALL_ROWS = _STARTS[1] + (_KINDS[1] + NEXT_NOTES - 1) * _NOTES  # of the table

# Random numbers, by which sets of notes and of intervals are compared: their sums
_random = np.random.default_rng(1)
NOTE_NUMBERS = _random.integers(1, 2**40, KEYS)
INTERVAL_NUMBERS = _random.integers(1, 2**40, 2 * KEYS - 1)  # from -(KEYS - 1) on


def find_recall(keys: Array) -> Array:
    """Return what is recalled before the first note and after each note, uint8 [1 + notes, 10].

    keys: of the notes of a performance, integers 0 to 87 [notes]. The bytes of a row are, for the
    same notes and then for those in another key: how the earlier place was found, and the four
    notes that followed there, moved by the difference of the keys (key + 1, or 0 if there is none
    on the piano).
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
        return np.asarray(self.rows[np.minimum(notes, len(self.note_ons))])


def follows_long_passage(rows: Array) -> Array:
    """Return for each row [n, 10] whether the place has the same last 8 notes or more, bool [n].

    They may be in another key.
    """
    same, moved = rows[:, 0], rows[:, PLACE_WIDTH]
    is_same = (same >= 1) & (same <= SAME_LENGTHS.index(LONG_PASSAGE) + 1)
    return np.asarray(is_same | (moved >= 1) & (moved <= MOVED_LENGTHS.index(LONG_PASSAGE) + 1))


def recall_events(events: Array) -> Array:
    """Return what is recalled before each event of a whole performance, uint8 [events, 10]."""
    return PerformanceRecall.from_events(events).read(0, events)


def _find_same(keys: Array) -> tuple[Array, Array]:
    """Return the latest earlier place with the same last notes, and how it was found.

    Places are the numbers of the note that is the same as the newest one, -1 if there is none.
    """
    sums = np.append(0, np.cumsum(NOTE_NUMBERS[keys]))
    places, kinds = np.full(len(keys), -1), np.zeros(len(keys), np.int64)
    for kind, length in enumerate(SAME_LENGTHS, 1):
        sets = (sums[length:] - sums[:-length]) * 128 + keys[length - 1 :]
        _add_places(places, kinds, kind, length, sets)
    found, found_kinds = places.copy(), kinds.copy()
    is_kept = np.zeros(len(keys), bool)
    is_long = (kinds >= 1) & (kinds <= KEPT_LENGTHS)
    for later in range(1, 1 + KEPT):
        earlier, earlier_kinds = found[:-later] + later, found_kinds[:-later]
        keep = (earlier_kinds >= 1) & (earlier_kinds <= KEPT_LENGTHS)
        keep &= ~(is_long | is_kept)[later:] & (earlier < np.arange(later, len(keys)))
        places[later:][keep] = earlier[keep]
        kinds[later:][keep] = len(SAME_LENGTHS) + later
        is_kept[later:] |= keep
    return places, kinds


def _find_moved(keys: Array) -> tuple[Array, Array]:
    """Return the same as `_find_same` for the same last notes in any key."""
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
    """Add the latest earlier place with an equal number in `sets`, where there is none yet.

    sets: of the last `length` notes, from the first note on that has so many.
    """
    order = np.argsort(sets, kind="stable")
    is_equal = sets[order[1:]] == sets[order[:-1]]
    notes, earlier = order[1:][is_equal] + length - 1, order[:-1][is_equal] + length - 1
    is_new = places[notes] < 0
    places[notes[is_new]], kinds[notes[is_new]] = earlier[is_new], kind


class NoteMemory:
    """The notes of one performance so far, for recall note by note."""

    def __init__(self, keys: Sequence[int] = ()) -> None:
        """Remember the keys 0 to 87 of the notes so far."""
        self._keys: list[int] = []
        self._sums = [0]
        self._same: list[dict[int, int]] = [{} for _ in SAME_LENGTHS]
        self._moved: list[dict[int, int]] = [{} for _ in MOVED_LENGTHS]
        self._last: list[tuple[int, int]] = []  # place and kind after the last notes
        self.row = [0] * RECALL_WIDTH
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> NoteMemory:
        """Return a copy that changes independently."""
        new = NoteMemory()
        new._keys, new._sums = self._keys.copy(), self._sums.copy()
        new._same = [places.copy() for places in self._same]
        new._moved = [places.copy() for places in self._moved]
        new._last, new.row = self._last.copy(), self.row.copy()
        return new

    def add(self, key: int) -> list[int]:
        """Add a note; return what is recalled after it, a row as in `find_recall`.

        Of music that is longer than MAX_NOTES, the oldest notes are forgotten.
        """
        if len(self._keys) >= MAX_NOTES:
            vars(self).update(vars(NoteMemory(self._keys[MAX_NOTES // 2 :])))
        self._keys.append(key)
        self._sums.append(self._sums[-1] + _NOTE_NUMBERS[key])
        same = self._keep(self._find_same(key))
        self.row = [*self._describe(*same, 0), *self._describe_moved(key)]
        return self.row

    def _find_same(self, key: int) -> tuple[int, int]:
        number, sums, best = len(self._keys) - 1, self._sums, (-1, 0)
        for kind, (length, places) in enumerate(zip(SAME_LENGTHS, self._same, strict=True), 1):
            if length <= number + 1:
                notes = (sums[-1] - sums[-1 - length]) * 128 + key
                if best[0] < 0 and notes in places:
                    best = (places[notes], kind)
                places[notes] = number
        return best

    def _keep(self, found: tuple[int, int]) -> tuple[int, int]:
        """Return the place to use: the one found now, or that of a note before."""
        number, chosen = len(self._keys) - 1, found
        if not 1 <= found[1] <= KEPT_LENGTHS:
            for later, (place, kind) in enumerate(reversed(self._last), 1):
                if 1 <= kind <= KEPT_LENGTHS and place + later < number:
                    chosen = (place + later, len(SAME_LENGTHS) + later)
                    break
        self._last = [*self._last[1 - KEPT :], found]
        return chosen

    def _describe_moved(self, key: int) -> list[int]:
        keys, number, best = self._keys, len(self._keys) - 1, (-1, 0)
        sets, total = [], 0
        for back in range(1, min(MOVED_LENGTHS[0], number + 1)):
            total += _INTERVAL_NUMBERS[keys[number - back] - key + KEYS - 1]
            sets.append(total)
        for kind, (length, places) in enumerate(zip(MOVED_LENGTHS, self._moved, strict=True), 1):
            if length <= number + 1:
                notes = sets[length - 2]
                if best[0] < 0 and notes in places:
                    best = (places[notes], kind)
                places[notes] = number
        moved = key - keys[best[0]] if best[0] >= 0 else 0
        return self._describe(*best, moved)

    def _describe(self, place: int, kind: int, moved: int) -> list[int]:
        if place < 0:
            return [0] * PLACE_WIDTH
        following = [key + moved for key in self._keys[place + 1 : place + 1 + NEXT_NOTES]]
        notes = [key + 1 if 0 <= key < KEYS else 0 for key in following]
        return [kind, *notes, *[0] * (NEXT_NOTES - len(notes))]


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
        "kept": KEPT,
        "kept_lengths": KEPT_LENGTHS,
        "next": NEXT_NOTES,
        "note_numbers": _NOTE_NUMBERS,
        "interval_numbers": _INTERVAL_NUMBERS,
        "kinds": _KINDS,
        "starts": _STARTS,
    }


def index_row(row: Sequence[int]) -> list[int]:
    """Return the rows of the network's table for one row [10]; see `index_recall`."""
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
