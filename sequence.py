"""Performances as notes, as events and as controls, and the way between them.

NoteSeq     notes: onset, end, pitch, velocity (from notes.py)
EventSeq    indices below 240: note on, note off, velocity, time shift
ControlSeq  for every event, what the next two seconds hold: density and pitch classes

The clocks of version 2 are whole milliseconds, so sums of time shifts are exact and can not
drift; the original's version 1 is kept for its files and sessions (see encoding.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from midi.control_schedule import (
    DENSITIES,
    WINDOW,
    Control,
    encode_controls,
    find_density_level,
    normalize_histogram,
)
from midi.notes import NoteSeq, find_next_onsets, read_only
from midi.quantize import SHIFT_MS, SHORTEST_MS, choose_time_shifts, floor_time_shifts, quantize
from utils import Array

__all__ = ["CURRENT", "ENCODINGS", "LEGACY"]
__all__ += ["Control", "ControlSeq", "Encoding", "EventSeq", "NoteSeq"]

PITCHES = range(21, 109)
KEYS = len(PITCHES)
DEFAULT_VELOCITY = 64  # of notes before the first velocity event
DAY = 24 * 3600  # seconds; no performance is longer


def _layout(
    rows: tuple[tuple[str, int], ...],
) -> tuple[OrderedDict[str, int], OrderedDict[str, range]]:
    """Turn (kind, width) rows into widths and index ranges by kind."""
    ends = np.cumsum([width for _, width in rows]).tolist()
    ranges = (
        (kind, range(end - width, end)) for (kind, width), end in zip(rows, ends, strict=True)
    )
    return OrderedDict(rows), OrderedDict(ranges)


# -------------------------------------------------------------------------------- encodings


@dataclass(frozen=True, eq=False)
class Encoding:
    """One version of the encoding.

    time_shifts: length of each time shift [32], in units of a clock that has `ticks_per_second` of
    them in a second; edges: the highest MIDI velocity of each velocity event but the last
    [31]; velocities: what each is decoded to [32]; is_legacy: notes are taken as the keys were
    released, without pedal, each gap is rounded down, each note on has its velocity event,
    and the last control windows end with the piece.
    """

    version: int
    time_shifts: Array
    ticks_per_second: int
    edges: Array
    velocities: Array
    is_legacy: bool

    def __reduce__(self) -> tuple[Callable[[int], Encoding], tuple[int]]:
        """Each version is one object, in other processes too."""
        return _of_version, (self.version,)


def _of_version(version: int) -> Encoding:
    return ENCODINGS[version]


def _steps(low: float, step: float) -> Array:
    return low + step * np.arange(31)


CURRENT = Encoding(
    version=2,
    time_shifts=SHIFT_MS,
    ticks_per_second=1000,
    edges=_steps(4, 4),
    velocities=4 * np.arange(32) + 3,  # the middle of 1-4 (rounded up), 5-8, ..., 125-127
    is_legacy=False,
)
LEGACY = Encoding(
    version=1,
    time_shifts=1.15 ** np.arange(32) / 65,
    ticks_per_second=1,
    edges=_steps(21, 88 / 31),
    velocities=np.append(np.rint(_steps(21, 88 / 31)), 108).astype(np.int64),
    is_legacy=True,
)
ENCODINGS = {encoding.version: encoding for encoding in (LEGACY, CURRENT)}


# ----------------------------------------------------------------------------------- events


class EventSeq:
    """A performance as event indices: the read-only uint8 array `to_array` gives.

    Time stands still but for the time shifts. Index order: note on (pitch 21-108), note off,
    velocity (32 bins), time shift (15 ms to 1.171 s). `encoding` says what they stand for.
    """

    _ROWS = (("note_on", KEYS), ("note_off", KEYS), ("velocity", 32), ("time_shift", 32))
    _DIMS, _RANGES = _layout(_ROWS)

    def __init__(self, array: npt.ArrayLike = (), encoding: Encoding = CURRENT) -> None:
        """Raises TypeError for indices that are not integers, ValueError for one out of range."""
        values = np.asarray(array) if np.size(array) else np.empty(0, np.uint8)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise TypeError(f"events must be a row of integers, not {values.dtype} {values.shape}")
        wrong = (values < 0) | (values >= self.dim())
        if wrong.any():
            raise ValueError(f"event {values[wrong][0]} is not in 0-{self.dim() - 1}")
        self._array = read_only(values, np.uint8)
        self.encoding = encoding

    def __len__(self) -> int:
        return len(self._array)

    @staticmethod
    def dim() -> int:
        """Number of events: 240."""
        return sum(EventSeq._DIMS.values())

    @staticmethod
    def feat_dims() -> OrderedDict[str, int]:
        """Number of events of each kind, in index order."""
        return EventSeq._DIMS.copy()

    @staticmethod
    def feat_ranges() -> OrderedDict[str, range]:
        """Indices of each kind, in index order."""
        return EventSeq._RANGES.copy()

    @staticmethod
    def from_array(event_indices: npt.ArrayLike, encoding: Encoding = CURRENT) -> EventSeq:
        """Events from indices; raises as the constructor does."""
        return EventSeq(event_indices, encoding)

    def to_array(self) -> Array:
        """Indices, uint8 [events], read-only."""
        return self._array

    @staticmethod
    def from_note_seq(note_seq: NoteSeq, encoding: Encoding = CURRENT) -> EventSeq:
        """Encode notes; pitches outside 21-108 are left out. The rules of version 2:

        Every onset and end lands within 7.5 ms of where it was played, with the fewest time
        shifts that keep this bound (see `quantise` for the exceptions). A note shorter than
        15 ms gets that length; strikes of one key, each less than 15 ms after the one before,
        are one strike: the first onset, the last end, the loudest velocity. At one time, offs
        come first, then ons by pitch; a velocity is written when its bin changes.
        Raises ValueError for a performance longer than a day.
        """
        if note_seq.seconds > DAY:
            raise ValueError(f"the performance is {note_seq.seconds:.7g} s long, over {DAY} s")
        return EventSeq(
            (_floored if encoding.is_legacy else _searched)(note_seq, encoding), encoding
        )

    def to_note_seq(self) -> NoteSeq:
        """Decode events, whatever their order; never fails.

        A note ends at the next off or on of its key, or with the last time shift. An off
        without an on says nothing. A note of no length gets 15 ms, but of two strikes of a
        key at one time only the last is a note.
        """
        ranges = self._RANGES
        press = self._array < ranges["note_off"].start
        key_events = np.flatnonzero(self._array < ranges["note_off"].stop)
        keys = self._array[key_events] % KEYS
        key_events = key_events[np.argsort(keys, kind="stable")]  # by (key, position)
        keys = self._array[key_events] % KEYS
        times = self.times[key_events]

        same = np.append(np.diff(keys) == 0, False)
        ends = np.where(same, np.append(times[1:], 0), self._shifts.sum())
        on = press[key_events]
        strikes, onsets, pitches = key_events[on], times[on], keys[on].astype(np.int64)
        last = np.append((np.diff(pitches) != 0) | (np.diff(onsets) != 0), True)[: len(onsets)]
        ends = np.maximum(ends[on], onsets + self.encoding.time_shifts[0])
        return NoteSeq(
            onsets[last] / self.encoding.ticks_per_second,
            ends[last] / self.encoding.ticks_per_second,
            pitches[last] + PITCHES.start,
            self._velocities()[strikes][last],
        )

    @cached_property
    def _shifts(self) -> Array:
        shifts = self.encoding.time_shifts
        lengths = np.zeros(self.dim(), shifts.dtype)
        lengths[self._RANGES["time_shift"]] = shifts
        return lengths[self._array]

    @cached_property
    def times(self) -> Array:
        """When each event happens [events], in the encoding's units; a time shift starts then.

        That is int64 milliseconds in version 2, float64 seconds in version 1.
        """
        return read_only(np.cumsum(self._shifts) - self._shifts, self._shifts.dtype)

    @property
    def total_ms(self) -> int:
        """The sum of all time shifts in milliseconds."""
        return round(1000 / self.encoding.ticks_per_second * self._shifts.sum())

    @property
    def note_ons(self) -> int:
        """Number of note ons."""
        return int((self._array < self._RANGES["note_on"].stop).sum())

    def _velocities(self) -> Array:
        """The velocity in force at each event [events]."""
        set_to = np.zeros(self.dim(), np.int64)
        set_to[self._RANGES["velocity"]] = self.encoding.velocities
        given = set_to[self._array]
        latest = np.maximum.accumulate(np.where(given > 0, np.arange(len(self)), 0))
        return np.where(given[latest] > 0, given[latest], DEFAULT_VELOCITY)

    @staticmethod
    def groups() -> Array:
        """The kind of each event [240], as its place in `feat_ranges`."""
        return np.repeat(np.arange(len(EventSeq._ROWS)), list(EventSeq._DIMS.values()))

    @staticmethod
    def lengths(encoding: Encoding) -> Array:
        """How long each event lasts [240], in whole milliseconds; 0 but for time shifts."""
        lengths = np.zeros(EventSeq.dim(), np.int64)
        milliseconds = 1000 / encoding.ticks_per_second * encoding.time_shifts
        lengths[EventSeq._RANGES["time_shift"]] = np.rint(milliseconds)
        return lengths

    @staticmethod
    def playable_events() -> tuple[Array, Array, Array, Array]:
        """What can be played, for a sampler that knows no music.

        Returns start [240], opens and closes [240, 240], and struck [240], all bool: the
        events that are possible at first (no off for a silent key), for each event the
        events that become possible and impossible after it, and which are note ons. A
        sounding key may be struck again: a network that forgot it shall have it back.
        """
        on, off = (np.array(EventSeq._RANGES[kind]) for kind in ("note_on", "note_off"))
        start = np.ones(EventSeq.dim(), bool)
        start[off] = False
        opens = np.zeros((EventSeq.dim(), EventSeq.dim()), bool)
        closes = opens.copy()
        opens[on, off] = closes[off, off] = True
        return start, opens, closes, np.isin(np.arange(EventSeq.dim()), on)


def transposition_range(events: Array) -> tuple[Array, Array]:
    """The lowest and highest offset that keep every note of a column on the piano.

    events: [steps, batch]. Returns two int64 [batch], lowest <= 0 <= highest.
    """
    key = events.astype(np.int64) % KEYS
    played = events < EventSeq.feat_ranges()["note_off"].stop
    return -np.where(played, key, KEYS).min(axis=0), KEYS - 1 - np.where(played, key, -1).max(
        axis=0
    )


def transpose(events: Array, controls: Array, offsets: Array) -> tuple[Array, Array]:
    """Move the notes of each column, and the histograms of its controls with them.

    events: [steps, batch]; compressed controls: [steps, batch, 13]; offsets: semitones
    [batch], within `transposition_range`.
    """
    played = events < EventSeq.feat_ranges()["note_off"].stop
    moved = np.where(played, events + offsets, events).astype(events.dtype)
    source = (np.arange(12) - offsets[:, None]) % 12  # [batch, 12]
    rolled = np.take_along_axis(controls[..., 1:], source[None], axis=2)
    return moved, np.concatenate([controls[..., :1], rolled], axis=2)


@dataclass(frozen=True)
class _Strikes:
    """Notes on the piano's keys in whole milliseconds, by (pitch, onset), none overlapping."""

    starts: Array
    ends: Array
    pitches: Array
    velocities: Array
    played: Array  # the onset before rounding, in seconds

    @staticmethod
    def of(notes: NoteSeq) -> _Strikes:
        order = np.lexsort((notes.starts, notes.pitches))
        order = order[np.isin(notes.pitches[order], PITCHES)]
        starts, ends = (
            np.rint(1000 * c[order]).astype(np.int64) for c in (notes.starts, notes.ends)
        )
        pitches = notes.pitches[order]
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(pitches) != 0) | (np.diff(starts) >= SHORTEST_MS)
        first = np.flatnonzero(new)
        if not len(first):
            return _Strikes(starts, ends, pitches, notes.velocities[order], notes.starts[order])
        ends = np.maximum.reduceat(ends, first)
        ends = np.minimum(ends, find_next_onsets(pitches[first], starts[first]))
        return _Strikes(
            starts[first],
            np.maximum(ends, starts[first] + SHORTEST_MS).astype(np.int64),
            pitches[first],
            np.maximum.reduceat(notes.velocities[order], first),
            notes.starts[order][first],
        )


def _searched(note_seq: NoteSeq, encoding: Encoding) -> Array:
    """Event indices at searched clocks; a velocity only where its bin changes."""
    strikes = _Strikes.of(note_seq)
    if not len(strikes.starts):
        return np.empty(0, np.uint8)
    times = np.concatenate([strikes.starts, strikes.ends])
    points, where = np.unique(times, return_inverse=True)
    clocks = quantize(points)
    on_clocks, off_clocks = np.split(clocks[where], 2)
    keys = strikes.pitches - PITCHES.start
    order = np.lexsort((keys, on_clocks))
    bins = np.searchsorted(encoding.edges, strikes.velocities[order])
    changed = np.append(True, np.diff(bins) != 0)
    at, nth, shifts = choose_time_shifts(np.unique(clocks))
    return _in_order(
        ("time_shift", shifts, at, nth),
        ("note_off", keys, off_clocks, keys),
        ("velocity", bins[changed], on_clocks[order][changed], KEYS + 2 * keys[order][changed]),
        ("note_on", keys, on_clocks, KEYS + 2 * keys + 1),
    )


def _floored(note_seq: NoteSeq, encoding: Encoding) -> Array:
    """Event indices as the original has them: at one time, note by note, by (onset, end)."""
    order = np.lexsort((note_seq.ends, note_seq.starts))
    order = order[np.isin(note_seq.pitches[order], PITCHES)]
    starts, ends, pitches, velocities = (column[order] for column in note_seq.columns)
    times, where = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    on_times, off_times = np.split(where, 2)
    keys, number = pitches - PITCHES.start, 3 * np.arange(len(order))
    at, nth, shifts = floor_time_shifts(times, encoding.time_shifts)
    return _in_order(
        ("time_shift", shifts, at, nth),
        ("velocity", np.searchsorted(encoding.edges, velocities), on_times, number),
        ("note_on", keys, on_times, number + 1),
        ("note_off", keys, off_times, number + 2),
    )


def _in_order(*parts: tuple[str, Array, Array, Array]) -> Array:
    """Event indices of (kind, place in the kind, time, order at that time), sorted by these."""
    ranges = EventSeq.feat_ranges()
    events = np.concatenate([place + ranges[kind].start for kind, place, _, _ in parts])
    ranks = np.concatenate([(time.astype(np.int64) << 32) + nth for _, _, time, nth in parts])
    return np.asarray(events[np.argsort(ranks)])


def measure_onset_errors(note_seq: NoteSeq, event_seq: EventSeq) -> Array:
    """Seconds between each onset as played and as decoded from `event_seq`, its encoding."""
    strikes, decoded = _Strikes.of(note_seq), event_seq.to_note_seq()
    if len(strikes.played) != len(decoded):
        raise ValueError(f"{len(strikes.played)} notes were played, {len(decoded)} decoded")
    order = np.lexsort((decoded.starts, decoded.pitches))
    return np.asarray(np.abs(decoded.starts[order] - strikes.played))


# --------------------------------------------------------------------------------- controls


class ControlSeq:
    """One control for each event: `note_density` [events] and `pitch_histogram` [events, 12]."""

    DENSITIES = DENSITIES  # note ons in a window, from which an index holds
    WINDOW = WINDOW  # seconds
    _ROWS = (("note_density", len(DENSITIES)), ("pitch_histogram", 12))
    _DIMS, _RANGES = _layout(_ROWS)

    def __init__(self, note_density: npt.ArrayLike, pitch_histogram: npt.ArrayLike) -> None:
        self.note_density = read_only(note_density, np.uint8)
        self.pitch_histogram = read_only(pitch_histogram, np.float64)

    def __len__(self) -> int:
        return len(self.note_density)

    @staticmethod
    def dim() -> int:
        """Width of a control: 24."""
        return sum(ControlSeq._DIMS.values())

    @staticmethod
    def feat_dims() -> OrderedDict[str, int]:
        """Width of each part, in order."""
        return ControlSeq._DIMS.copy()

    @staticmethod
    def feat_ranges() -> OrderedDict[str, range]:
        """Columns of each part, in order."""
        return ControlSeq._RANGES.copy()

    @staticmethod
    def from_event_seq(event_seq: EventSeq) -> ControlSeq:
        """The control of each event: its window holds it and all that follows within 2 s.

        In the last two seconds of a piece, where that would run over the end, the window is
        the piece's last two seconds (in version 1 it ends with the piece). Without note ons
        the histogram is uniform, density 0.
        """
        events, times = event_seq.to_array(), event_seq.times
        if not len(events):
            return ControlSeq([], np.empty((0, 12)))
        on = EventSeq.feat_ranges()["note_on"]
        struck = events < on.stop  # note ons come first in the index order
        before = np.append(0, np.cumsum(struck))  # note ons before each event
        classes = (events[struck] + PITCHES.start) % 12
        heard = np.zeros((len(classes) + 1, 12), np.int32)  # of each class, before each note on
        np.cumsum(classes[:, None] == np.arange(12), axis=0, out=heard[1:])
        window, start = ControlSeq.WINDOW * event_seq.encoding.ticks_per_second, np.arange(len(events))
        if not event_seq.encoding.is_legacy:
            last_full = event_seq.total_ms - window
            start = np.where(times <= last_full, start, np.searchsorted(times, last_full))
        end = np.searchsorted(times, times[start] + window, "right")
        first, last = before[start], before[end]  # note ons of the window
        fresh = np.append(True, (np.diff(first) != 0) | (np.diff(last) != 0))
        row = np.cumsum(fresh) - 1  # most events have the control of the one before
        counts = heard[last[fresh]] - heard[first[fresh]]
        density = find_density_level(last - first)
        return ControlSeq(density, normalize_histogram(counts)[row])

    def to_array(self) -> Array:
        """float32 [events, 24]: density one-hot, then histogram."""
        return encode_controls(self.note_density, self.pitch_histogram)

    def to_compressed_array(self) -> Array:
        """uint8 [events, 13]: density index, then 255 times the histogram, rounded down."""
        scaled = (self.pitch_histogram * 255).astype(np.uint8)
        return np.concatenate([self.note_density[:, None], scaled], axis=1)

    @staticmethod
    def recover_compressed_array(array: npt.ArrayLike, encoding: Encoding = CURRENT) -> Array:
        """float32 [..., 24] from compressed controls [..., 13]; each histogram sums to 1 again.

        Not so in version 1, whose networks know histograms that sum to a little less.
        Raises ValueError for another width or a density index over 11.
        """
        rows = np.asarray(array)
        if rows.ndim < 1 or rows.shape[-1] != 13:
            raise ValueError(f"compressed controls have 13 columns, not {rows.shape}")
        wrong = (rows[..., 0] < 0) | (rows[..., 0] >= len(ControlSeq.DENSITIES))
        if wrong.any():
            raise ValueError(f"note density {rows[..., 0][wrong][0]} is not in 0-11")
        flat = rows.reshape(-1, 13)
        return (
            ControlSeq(
                flat[:, 0],
                flat[:, 1:] / 255 if encoding.is_legacy else normalize_histogram(flat[:, 1:]),
            )
            .to_array()
            .reshape(*rows.shape[:-1], ControlSeq.dim())
        )
