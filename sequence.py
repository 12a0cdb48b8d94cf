"""Notes, events and controls of a performance, and the conversions between them.

NoteSeq     notes: start, end, pitch, velocity (defined in midi.notes)
EventSeq    indices below 240: note on, note off, velocity, time shift
Control     pitch classes and note density of the next two seconds (in midi.control_schedule)
ControlSeq  the controls of each event
CONTROLS    the table of all controls: to add one, add a row

There are two encodings. CURRENT counts time in whole milliseconds, so sums of time shifts are
exact and cannot drift. LEGACY is the encoding of the original project's data and sessions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from midi.control_schedule import (
    COMPRESSED_DIM,
    DEFAULT_DENSITY,
    DENSITIES,
    DENSITY_LEVELS,
    PITCH_CLASSES,
    WINDOW,
    Control,
    ControlSchedule,
    encode_controls,
    find_density_level,
    normalize_histogram,
)
from midi.harmony import NATURALS
from midi.notes import NoteSeq, find_next_onsets, read_only
from midi.quantize import SHIFT_MS, SHORTEST_MS, choose_time_shifts, floor_time_shifts, quantize
from utils import Array

__all__ = ["CONTROLS", "CURRENT", "ENCODINGS", "LEGACY", "PLAIN_CONTROLS", "PLAIN_LAYOUT"]
__all__ += ["Control", "ControlKind", "ControlLayout", "ControlSeq", "NoteWindows"]
__all__ += ["Encoding", "EventSeq", "NoteSeq"]
__all__ += [
    "check_controls",
    "complete_schedule",
    "encode_schedule",
    "measure_onset_errors",
    "transpose",
    "transposition_range",
]

PITCHES = range(21, 109)  # of a piano
KEYS = len(PITCHES)
BINS = 32  # number of velocity events, and of time shift events
DEFAULT_VELOCITY = 64  # of notes before the first velocity event
MAX_SECONDS = 24 * 3600  # of a performance


# -------------------------------------------------------------------------------- encodings


@dataclass(frozen=True, eq=False)
class Encoding:
    """One version of the encoding: the meaning of the time shift and velocity events.

    time_shifts: duration of each time shift [32], in ticks; ticks_per_second: of the clock;
    velocity_edges: the highest MIDI velocity of each velocity bin except the last [31];
    velocity_values: the MIDI velocity that each bin is decoded to [32].
    is_legacy: encode as the original does: notes end when their keys are released, without
    pedal; each gap between events is rounded down separately; each note on has a velocity event;
    control windows are cut off at the end of the piece; and histograms are not normalized again.
    """

    version: int
    time_shifts: Array
    ticks_per_second: int
    velocity_edges: Array
    velocity_values: Array
    is_legacy: bool

    def __reduce__(self) -> str:
        """Pickle only the name, so that worker processes get this object and `is` works."""
        return "LEGACY" if self.is_legacy else "CURRENT"


CURRENT = Encoding(
    version=2,
    time_shifts=SHIFT_MS,
    ticks_per_second=1000,
    velocity_edges=4.0 + 4 * np.arange(BINS - 1),
    velocity_values=4 * np.arange(BINS) + 3,  # the middle, rounded up, of 1-4, 5-8, ..., 125-128
    is_legacy=False,
)
_LEGACY_EDGES = 21 + 88 / 31 * np.arange(BINS - 1)
LEGACY = Encoding(
    version=1,
    time_shifts=1.15 ** np.arange(BINS) / 65,
    ticks_per_second=1,
    velocity_edges=_LEGACY_EDGES,
    velocity_values=np.append(np.rint(_LEGACY_EDGES), 108).astype(np.int64),
    is_legacy=True,
)
ENCODINGS = {encoding.version: encoding for encoding in (LEGACY, CURRENT)}


# ------------------------------------------------------------------------- index tables


def _index_ranges(rows: tuple[tuple[str, int], ...]) -> OrderedDict[str, range]:
    """Return the index range of each (name, width) row."""
    ends = np.cumsum([width for _, width in rows]).tolist()
    return OrderedDict(
        (name, range(end - width, end)) for (name, width), end in zip(rows, ends, strict=True)
    )


# Kinds of events, and number of events of each kind, in index order. The tables below follow it.
EVENT_ROWS = (("note_on", KEYS), ("note_off", KEYS), ("velocity", BINS), ("time_shift", BINS))
EVENT_DIM = sum(width for _, width in EVENT_ROWS)
_RANGES = _index_ranges(EVENT_ROWS)
_NOTE_ON, _NOTE_OFF = np.array(_RANGES["note_on"]), np.array(_RANGES["note_off"])
_IS_NOTE_ON = np.isin(np.arange(EVENT_DIM), _NOTE_ON)
_KEY_OF_EVENT = np.full(EVENT_DIM, -1, np.int16)  # of note ons and note offs; else -1
_KEY_OF_EVENT[_NOTE_ON] = _KEY_OF_EVENT[_NOTE_OFF] = np.arange(KEYS)


def _spread(kind: str, values: Array) -> Array:
    """Return a table [240] with the values of the events of one kind, and 0 for all others."""
    table = np.zeros(EVENT_DIM, values.dtype)
    table[_RANGES[kind]] = values
    return table


# ----------------------------------------------------------------------------------- events


class EventSeq:
    """A performance as event indices, uint8 [events], read-only.

    Only time shifts take time. Index order: note on (pitch 21-108), note off (same), velocity
    (32 bins), time shift (15 ms to 1.171 s). `encoding` defines the durations and velocities.
    """

    def __repr__(self) -> str:
        """Return a short description: events, notes, length."""
        seconds = self.total_ms / 1000
        return f"<EventSeq: {len(self.to_array())} events, {self.note_ons} notes, {seconds:.1f} s>"

    def __init__(self, array: npt.ArrayLike = (), encoding: Encoding = CURRENT) -> None:
        """Raise TypeError for indices that are not integers, ValueError for one out of range."""
        values = np.asarray(array) if np.size(array) else np.empty(0, np.uint8)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise TypeError(f"events must be integers [events], not {values.dtype} {values.shape}")
        invalid = (values < 0) | (values >= EVENT_DIM)
        if invalid.any():
            raise ValueError(f"event {values[invalid][0]} is not in 0-{EVENT_DIM - 1}")
        self._array = read_only(values, np.uint8)
        self.encoding = encoding

    def __len__(self) -> int:
        return len(self._array)

    @staticmethod
    def dim() -> int:
        """Return the number of different events: 240."""
        return EVENT_DIM

    @staticmethod
    def feat_dims() -> OrderedDict[str, int]:
        """Return the number of events of each kind, in index order."""
        return OrderedDict(EVENT_ROWS)

    @staticmethod
    def feat_ranges() -> OrderedDict[str, range]:
        """Return the indices of each kind, in index order."""
        return _RANGES.copy()

    @staticmethod
    def from_array(event_indices: npt.ArrayLike, encoding: Encoding = CURRENT) -> EventSeq:
        """Return the events with these indices; raise as the constructor does."""
        return EventSeq(event_indices, encoding)

    def to_array(self) -> Array:
        """Return the indices, uint8 [events], read-only."""
        return self._array

    @staticmethod
    def from_note_seq(note_seq: NoteSeq, encoding: Encoding = CURRENT) -> EventSeq:
        """Encode notes; pitches outside 21-108 are left out.

        In the current encoding every onset and end is within 7.5 ms of its time, with the fewest
        time shifts that keep this bound (exceptions: see `midi.quantize.quantize`). A note
        shorter than 15 ms becomes 15 ms long. Notes of one key, each less than 15 ms after the
        one before, become one note: the first onset, the last end, the highest velocity. At one
        time, note offs come first, then note ons by pitch; a velocity event is written only
        when the bin changes.
        Raises ValueError for a performance longer than a day.
        """
        if note_seq.seconds > MAX_SECONDS:
            raise ValueError(
                f"the performance is {note_seq.seconds:.7g} s long, over {MAX_SECONDS} s"
            )
        encode = _encode_legacy if encoding.is_legacy else _encode
        return EventSeq(encode(note_seq, encoding), encoding)

    def to_note_seq(self) -> NoteSeq:
        """Decode events in any order; never fails.

        A note ends at the next note off or note on of its key, or at the end. A note off of a
        silent key is ignored. A note of no length becomes as long as the shortest time shift,
        but of several note ons of a key at one time only the last is kept.
        """
        index, keys, starts, ends = self._match_notes()
        is_last = np.append((np.diff(keys) != 0) | (np.diff(starts) != 0), True)[: len(keys)]
        return NoteSeq(
            starts[is_last] / self.encoding.ticks_per_second,
            ends[is_last] / self.encoding.ticks_per_second,
            keys[is_last] + PITCHES.start,
            self._velocities()[index][is_last],
        )

    def _match_notes(self) -> tuple[Array, Array, Array, Array]:
        """Return position, key, start and end (ticks) of each note on, by (key, position)."""
        keys = _KEY_OF_EVENT[self._array]
        index = np.flatnonzero(keys >= 0)  # of the note ons and note offs
        index = index[np.argsort(keys[index], kind="stable")]  # by (key, position)
        keys, times = keys[index], self.times[index]
        same_key_next = np.append(np.diff(keys) == 0, False)
        ends = np.where(same_key_next, np.append(times[1:], 0), self._durations.sum())
        is_on = _IS_NOTE_ON[self._array[index]]
        starts = times[is_on]
        ends = np.maximum(ends[is_on], starts + self.encoding.time_shifts[0])
        return index[is_on], keys[is_on], starts, ends

    @property
    def note_lengths(self) -> Array:
        """The length of the note of each note on [note ons], in ticks; see `to_note_seq`."""
        index, _, starts, ends = self._match_notes()
        return np.asarray((ends - starts)[np.argsort(index)])

    @property
    def note_velocities(self) -> Array:
        """The MIDI velocity of each note on [note ons]."""
        return np.asarray(self._velocities()[_IS_NOTE_ON[self._array]])

    @cached_property
    def _durations(self) -> Array:
        """The duration of each event [events], in ticks; 0 except for time shifts."""
        return _spread("time_shift", self.encoding.time_shifts)[self._array]

    @cached_property
    def times(self) -> Array:
        """The time of each event [events], in ticks; for a time shift, when it starts.

        int64 milliseconds in the current encoding, float64 seconds in the legacy encoding.
        """
        return read_only(np.cumsum(self._durations) - self._durations, self._durations.dtype)

    @property
    def total_ms(self) -> int:
        """The sum of all time shifts, in milliseconds."""
        return round(1000 / self.encoding.ticks_per_second * self._durations.sum())

    @property
    def note_ons(self) -> int:
        """The number of note ons."""
        return int(_IS_NOTE_ON[self._array].sum())

    def _velocities(self) -> Array:
        """Return the MIDI velocity in force at each event [events]."""
        values = _spread("velocity", self.encoding.velocity_values)[self._array]
        latest = np.maximum.accumulate(np.where(values > 0, np.arange(len(self)), 0))
        return np.where(values[latest] > 0, values[latest], DEFAULT_VELOCITY)

    @staticmethod
    def event_kinds() -> Array:
        """Return the kind of each of the 240 events, as an index into `feat_ranges`."""
        return np.repeat(np.arange(len(EVENT_ROWS)), [width for _, width in EVENT_ROWS])

    @staticmethod
    def event_durations(encoding: Encoding) -> Array:
        """Return the duration of each of the 240 events, in whole milliseconds."""
        milliseconds = 1000 / encoding.ticks_per_second * encoding.time_shifts
        return _spread("time_shift", np.rint(milliseconds).astype(np.int64))

    @staticmethod
    def playable_events() -> tuple[Array, Array, Array, Array]:
        """Return which events are possible after which, for sampling.

        Four bool arrays: the events that are possible at the start [240]: all but note offs;
        the events that each event (row) makes possible, and impossible, both [240, 240]; and
        which events are note ons [240]. A sounding key may be struck again, so that a network
        that forgets a note off can still use the key.
        """
        start = np.ones(EVENT_DIM, bool)
        start[_NOTE_OFF] = False
        enables = np.zeros((EVENT_DIM, EVENT_DIM), bool)
        disables = enables.copy()
        enables[_NOTE_ON, _NOTE_OFF] = disables[_NOTE_OFF, _NOTE_OFF] = True
        return start, enables, disables, _IS_NOTE_ON.copy()


def transposition_range(events: Array) -> tuple[Array, Array]:
    """Return the lowest and the highest transposition that keep each column on the piano.

    events: [steps, batch]. Returns semitones, two int64 [batch], lowest <= 0 <= highest.
    """
    keys = _KEY_OF_EVENT[events]
    lowest = -np.where(keys < 0, KEYS, keys).min(axis=0)
    highest = KEYS - 1 - keys.max(axis=0)
    return lowest.astype(np.int64), highest.astype(np.int64)


def transpose(events: Array, controls: Array, offsets: Array) -> tuple[Array, Array]:
    """Return events and controls with each column transposed.

    events: [steps, batch]; packed controls: [steps, batch, columns]; offsets: semitones
    [batch], within `transposition_range`.
    """
    moved = np.where(_KEY_OF_EVENT[events] >= 0, events + offsets, events).astype(events.dtype)
    packed = split_packed(controls)
    parts = [get_control_kind(name).transpose(part, offsets) for name, part in packed.items()]
    return moved, np.concatenate(parts, axis=2)


def _select_piano_notes(note_seq: NoteSeq, order: Array) -> list[Array]:
    """Return the columns of the notes on the piano, sorted by `order`, the indices of all notes."""
    order = order[np.isin(note_seq.pitches[order], PITCHES)]
    return [column[order] for column in note_seq.columns]


def _round_notes(note_seq: NoteSeq) -> tuple[Array, Array, Array, Array, Array]:
    """Round notes to milliseconds, and merge notes of one key that start within 15 ms.

    Returns starts, ends, keys and velocities, sorted by (key, start), and the starts in seconds
    before rounding, each [notes]. Notes of one key do not overlap.
    """
    order = np.lexsort((note_seq.starts, note_seq.pitches))
    exact_starts, exact_ends, pitches, velocities = _select_piano_notes(note_seq, order)
    starts, ends = (np.rint(1000 * c).astype(np.int64) for c in (exact_starts, exact_ends))
    is_first = np.ones(len(starts), bool)
    is_first[1:] = (np.diff(pitches) != 0) | (np.diff(starts) >= SHORTEST_MS)
    first = np.flatnonzero(is_first)
    ends, velocities = (np.maximum.reduceat(column, first) for column in (ends, velocities))
    starts, keys = starts[first], pitches[first] - PITCHES.start
    ends = np.minimum(ends, find_next_onsets(keys, starts))
    ends = np.maximum(ends, starts + SHORTEST_MS).astype(np.int64)
    return starts, ends, keys, velocities, exact_starts[first]


def _encode(note_seq: NoteSeq, encoding: Encoding) -> Array:
    """Return event indices in the current encoding; see `EventSeq.from_note_seq`."""
    starts, ends, keys, velocities, _ = _round_notes(note_seq)
    if not len(starts):
        return np.empty(0, np.uint8)
    points, where = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    clocks = quantize(points)
    on_clocks, off_clocks = np.split(clocks[where], 2)
    order = np.lexsort((keys, on_clocks))
    bins = np.searchsorted(encoding.velocity_edges, velocities[order])
    changes = np.append(True, np.diff(bins) != 0)
    changed = order[changes]  # notes with a velocity event
    shift_clocks, shift_ranks, shifts = choose_time_shifts(np.unique(clocks))
    return _sort_events(
        ("time_shift", shifts, shift_clocks, shift_ranks),  # these ranks are negative
        ("note_off", keys, off_clocks, keys),
        ("velocity", bins[changes], on_clocks[changed], KEYS + 2 * keys[changed]),
        ("note_on", keys, on_clocks, KEYS + 2 * keys + 1),
    )


def _encode_legacy(note_seq: NoteSeq, encoding: Encoding) -> Array:
    """Return event indices as the original does: at one time, notes in order of (start, end)."""
    order = np.lexsort((note_seq.ends, note_seq.starts))
    starts, ends, pitches, velocities = _select_piano_notes(note_seq, order)
    times, where = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    on_times, off_times = np.split(where, 2)  # as indices of times
    keys, rank = pitches - PITCHES.start, 3 * np.arange(len(pitches))
    bins = np.searchsorted(encoding.velocity_edges, velocities)
    shift_times, shift_ranks, shifts = floor_time_shifts(times, encoding.time_shifts)
    return _sort_events(
        ("time_shift", shifts, shift_times, shift_ranks),  # these ranks are negative
        ("velocity", bins, on_times, rank),
        ("note_on", keys, on_times, rank + 1),
        ("note_off", keys, off_times, rank + 2),
    )


def _sort_events(*groups: tuple[str, Array, Array, Array]) -> Array:
    """Return the event indices of all groups, sorted by (time, rank).

    groups: the kind of the events, and for each event its number within the kind, its time as an
    integer, and its rank among the events at that time.
    """
    events = np.concatenate([numbers + _RANGES[kind].start for kind, numbers, _, _ in groups])
    places = np.concatenate([(time.astype(np.int64) << 32) + rank for *_, time, rank in groups])
    return np.asarray(events[np.argsort(places)])


def measure_onset_errors(note_seq: NoteSeq, event_seq: EventSeq) -> Array:
    """Return the distance in seconds of each onset from its time as decoded from `event_seq`.

    event_seq: the encoding of `note_seq`. Raises ValueError if it has another number of notes.
    """
    *_, starts = _round_notes(note_seq)
    decoded = event_seq.to_note_seq()
    if len(starts) != len(decoded):
        raise ValueError(f"{len(starts)} notes were encoded, {len(decoded)} decoded")
    order = np.lexsort((decoded.starts, decoded.pitches))
    return np.asarray(np.abs(decoded.starts[order] - starts))


# ---------------------------------------------------------------------------- table of controls

CENTERS = 12  # columns of a control vector for a control that is one number
UNKNOWN = 255  # packed value of a control without value


@dataclass(frozen=True, eq=False)
class NoteWindows:
    """The note ons of the next two seconds, for each different window of a performance.

    first, last: index of the first note on of each window, and of the first one after it
    [windows]; times, pitches, velocities, lengths: of each note on [note ons], in order of time:
    onset in seconds, MIDI pitch, MIDI velocity, sounding length in seconds.
    """

    first: Array
    last: Array
    times: Array
    pitches: Array
    velocities: Array
    lengths: Array

    def sum(self, values: Array) -> Array:
        """Return the sum of values [note ons, ...] in each window [windows, ...]."""
        before = np.zeros((len(values) + 1, *values.shape[1:]), np.result_type(values, np.int32))
        np.cumsum(values, axis=0, out=before[1:])
        return np.asarray(before[self.last] - before[self.first])

    def mean(self, values: Array) -> Array:
        """Return the mean of values [note ons] in each window [windows]; nan without note ons."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.sum(values) / (self.last - self.first))


def _measure_density(windows: NoteWindows) -> Array:
    return find_density_level(windows.last - windows.first)


def _measure_histogram(windows: NoteWindows) -> Array:
    """Return the share of each pitch class; without note ons all shares are equal."""
    classes = windows.pitches % PITCH_CLASSES
    return normalize_histogram(windows.sum(classes[:, None] == np.arange(PITCH_CLASSES)))


def _measure_spread(windows: NoteWindows) -> Array:
    """Return the standard deviation of the pitches; in whole numbers, so without cancellation."""
    pitches, count = windows.pitches.astype(np.int64), windows.last - windows.first
    with np.errstate(invalid="ignore"):
        variance = (count * windows.sum(pitches**2) - windows.sum(pitches) ** 2) / count**2
    return np.asarray(np.sqrt(variance))


@dataclass(frozen=True, eq=False)
class ControlKind:
    """A control: how it is measured, packed into bytes, encoded in a control vector, and written.

    Its value is one number; nan means that it is open, or unknown. The control vector has 12
    columns for it, one for each of 12 centers from `low` to `high`. A value between two centers
    gives weights to both, which sum to 1 (linear interpolation); a value outside counts as the
    nearest center; an open control has zeros.

    measure: returns the value in each window; allowed: the values that a user may request, in
    `unit`; is_log: the centers are evenly spaced on a logarithmic scale; per_semitone: the change
    of the value when the music is transposed by a semitone; meaning: for help texts; words: words
    that users may write for values; default: the value of an open control for a network without
    flags; value_shape: (12,) for the histogram.
    """

    name: str
    measure: Callable[[NoteWindows], Array]
    low: float
    high: float
    unit: str
    allowed: tuple[float, float]
    meaning: str
    is_log: bool = False
    per_semitone: int = 0
    words: Mapping[str, float] = field(default_factory=dict)
    default: float = math.nan
    value_shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """The number of columns in a control vector."""
        return CENTERS

    @property
    def packed_width(self) -> int:
        """The number of bytes in a packed control."""
        return math.prod(self.value_shape)

    def find_positions(self, values: npt.ArrayLike) -> Array:
        """Return values on the scale of the centers, from 0 at `low` to 11 at `high`."""
        scale = np.log if self.is_log else np.asarray
        array = np.asarray(values, np.float64).clip(self.low, self.high)
        low, high = scale(self.low), scale(self.high)
        return np.asarray((CENTERS - 1) * (scale(array) - low) / (high - low))

    def find_values(self, positions: npt.ArrayLike) -> Array:
        """Return the values at these positions; the inverse of `find_positions`."""
        share = np.asarray(positions, np.float64) / (CENTERS - 1)
        if self.is_log:
            return np.asarray(self.low * (self.high / self.low) ** share)
        return np.asarray(self.low + share * (self.high - self.low))

    def pack(self, values: npt.ArrayLike) -> Array:
        """Return values [...] as bytes, uint8 [..., 1]: 0 at `low`, 254 at `high`, 255 for nan."""
        positions = (UNKNOWN - 1) / (CENTERS - 1) * self.find_positions(values)
        packed = np.where(np.isnan(positions), UNKNOWN, np.rint(positions))
        return packed.astype(np.uint8)[..., None]

    def unpack(self, packed: Array, encoding: Encoding = CURRENT) -> Array:
        """Return the values of bytes, float64 [...] from [..., 1]; the inverse of `pack`."""
        column = packed[..., 0]
        values = self.find_values((CENTERS - 1) / (UNKNOWN - 1) * column)
        return np.where(column == UNKNOWN, np.nan, values)

    def encode(self, values: npt.ArrayLike) -> Array:
        """Return the columns of control vectors, float32 [..., 12], for values [...]."""
        positions = self.find_positions(values)[..., None]
        weights = np.maximum(0, 1 - np.abs(positions - np.arange(CENTERS)))
        return np.nan_to_num(weights).astype(np.float32)

    def transpose(self, packed: Array, offsets: Array) -> Array:
        """Return packed values [steps, batch, 1] of music transposed by semitones [batch]."""
        if not self.per_semitone:
            return packed
        change = (UNKNOWN - 1) / (self.high - self.low) * self.per_semitone * offsets[:, None]
        moved = np.rint(packed + change).clip(0, UNKNOWN - 1)
        return np.where(packed == UNKNOWN, UNKNOWN, moved).astype(np.uint8)


class _DensityKind(ControlKind):
    """The density level: a byte with the level, and one-hot columns."""

    def pack(self, values: npt.ArrayLike) -> Array:
        array = np.asarray(values, np.float64)
        return np.where(np.isnan(array), UNKNOWN, np.rint(array)).astype(np.uint8)[..., None]

    def unpack(self, packed: Array, encoding: Encoding = CURRENT) -> Array:
        column = packed[..., 0].astype(np.float64)
        return np.where(column == UNKNOWN, np.nan, column)


class _HistogramKind(ControlKind):
    """The pitch-class histogram: a value is a row of 12 shares; a byte is 255 times a share."""

    def pack(self, values: npt.ArrayLike) -> Array:
        return np.asarray(255 * np.asarray(values)).astype(np.uint8)

    def unpack(self, packed: Array, encoding: Encoding = CURRENT) -> Array:
        """Return shares that sum to 1; for legacy sessions, as rounded in the file."""
        if encoding.is_legacy:
            return np.asarray(packed / 255)
        weights = packed.reshape(-1, PITCH_CLASSES)
        return normalize_histogram(weights).reshape(packed.shape)

    def encode(self, values: npt.ArrayLike) -> Array:
        return np.nan_to_num(np.asarray(values, np.float32))

    def transpose(self, packed: Array, offsets: Array) -> Array:
        source = (np.arange(PITCH_CLASSES) - offsets[:, None]) % PITCH_CLASSES  # [batch, 12]
        return np.take_along_axis(packed, source[None], axis=2)


# MIDI pitch of the white and black keys: C4 is 60
NOTE_NAMES = {
    f"{letter}{accidental}{octave}": pitch
    for accidental, semitone in (("", 0), ("#", 1), ("b", -1))
    for letter, pitch_class in NATURALS.items()
    for octave in range(9)
    if (pitch := 12 * (octave + 1) + pitch_class + semitone) in PITCHES
}

# All controls. A new one goes to the end: older .data files have the columns of the first ones.
# The first two are those of the original.
CONTROLS = (
    _DensityKind(
        "density",
        _measure_density,
        low=0,
        high=DENSITY_LEVELS - 1,
        unit="level",
        allowed=(0, DENSITY_LEVELS - 1),
        meaning="number of note ons",
        default=DEFAULT_DENSITY,
    ),
    _HistogramKind(
        "histogram",
        _measure_histogram,
        low=0,
        high=1,
        unit="share",
        allowed=(0, 1),
        meaning="share of each pitch class",
        default=1 / PITCH_CLASSES,
        value_shape=(PITCH_CLASSES,),
    ),
    ControlKind(
        "loudness",
        lambda windows: windows.mean(windows.velocities),
        low=24,
        high=101,
        unit="MIDI velocity",
        allowed=(1, 127),
        meaning="mean velocity of the notes",
        words={"pp": 36, "p": 46, "mp": 56, "mf": 66, "f": 76, "ff": 86},
    ),
    ControlKind(
        "register",
        lambda windows: windows.mean(windows.pitches),
        low=33,
        high=96.5,  # 4 packed values per semitone
        unit="MIDI pitch",
        allowed=(PITCHES.start, PITCHES.stop - 1),
        meaning="mean pitch of the notes",
        words=NOTE_NAMES,
        per_semitone=1,
    ),
    ControlKind(
        "spread",
        _measure_spread,
        low=0,
        high=22,
        unit="semitones",
        allowed=(0, 44),
        meaning="standard deviation of the pitches",
    ),
    ControlKind(
        "touch",
        lambda windows: windows.mean(windows.lengths),
        low=0.05,
        high=5,
        unit="s",
        allowed=(0.01, 60),
        meaning="mean sounding length of the notes: staccato to legato and pedal",
        words={"staccato": 0.1, "legato": 0.5, "pedal": 1.5},
        is_log=True,
    ),
)
PLAIN_CONTROLS = ("density", "histogram")  # of the original's networks


def get_control_kind(name: str) -> ControlKind:
    """Return the row of the table of controls; raise ValueError for an unknown name."""
    for kind in CONTROLS:
        if kind.name == name:
            return kind
    names = ", ".join(kind.name for kind in CONTROLS)
    raise ValueError(f"unknown control {name!r}, the controls are {names}")


def packed_dims() -> list[int]:
    """Return the number of columns of packed controls: of the first two, first three, ... all."""
    ends = np.cumsum([kind.packed_width for kind in CONTROLS]).tolist()
    return [int(end) for end in ends[len(PLAIN_CONTROLS) - 1 :]]


def split_packed(controls: Any) -> dict[str, Any]:
    """Return the columns of each control [..., width], by name, in packed controls [..., columns].

    Older files and legacy files have only the first controls.
    """
    parts, start = {}, 0
    for kind in CONTROLS:
        stop = start + kind.packed_width
        if stop <= controls.shape[-1]:
            parts[kind.name] = controls[..., start:stop]
        start = stop
    return parts


class ControlLayout:
    """The control vector of a network, which has some of the controls.

    names: the controls, in the order of the table; ranges: the columns of each control; flags:
    the column of each control's flag "open", which is 1 if the control is open; dim: the number
    of columns. A network with only density and histogram has no flags, as in the original.
    packed_dim: the number of columns of packed controls up to the last one that is used.
    """

    def __init__(self, names: Iterable[str] = PLAIN_CONTROLS) -> None:
        """Raise ValueError for an unknown name, or for none."""
        chosen = set(names)
        for name in chosen:
            get_control_kind(name)
        if not chosen:
            raise ValueError("a network needs at least one control")
        self.kinds = tuple(kind for kind in CONTROLS if kind.name in chosen)
        self.names = tuple(kind.name for kind in self.kinds)
        self.is_plain = self.names == PLAIN_CONTROLS
        self.ranges = _index_ranges(tuple((kind.name, kind.width) for kind in self.kinds))
        width = sum(kind.width for kind in self.kinds)
        self.flags = range(width, width if self.is_plain else width + len(self.kinds))
        self.dim = self.flags.stop
        used = CONTROLS[: CONTROLS.index(self.kinds[-1]) + 1]
        self.packed_dim = sum(kind.packed_width for kind in used)

    def encode(self, values: Mapping[str, Any], rows: int) -> Array:
        """Return control vectors, float32 [rows, dim].

        values: those of each control, [rows], or [rows, 12] for the histogram; nan where it is
        open. A control without values is open. Without flags, an open density becomes
        DEFAULT_DENSITY, and an open histogram uniform.
        """
        vectors = np.zeros((rows, self.dim), np.float32)
        for number, kind in enumerate(self.kinds):
            column = np.full((rows, *kind.value_shape), np.nan)
            column[:] = values.get(kind.name, np.nan)
            is_open = np.isnan(column)
            if self.is_plain:
                column[is_open] = kind.default
            else:
                vectors[:, self.flags[number]] = is_open.reshape(rows, -1).any(axis=1)
            vectors[:, self.ranges[kind.name]] = kind.encode(column)
        return vectors

    def hide(self, vectors: Array, visible: Iterable[str]) -> Array:
        """Return control vectors [rows, dim] in which only these controls are not open.

        Without flags nothing can be open, and the vectors are returned as they are.
        """
        hidden = np.array(vectors)
        for name, flag in zip(self.names, self.flags, strict=False):
            if name not in visible:
                hidden[:, self.ranges[name]], hidden[:, flag] = 0, 1
        return hidden


PLAIN_LAYOUT = ControlLayout(PLAIN_CONTROLS)


def parse_controls(text: str) -> tuple[str, ...]:
    """Return the controls named in `density,histogram`, in the order of the table.

    Raises ValueError for an unknown name, or for none.
    """
    return ControlLayout(name for name in map(str.strip, text.split(",")) if name).names


def check_controls(schedule: ControlSchedule, layout: ControlLayout) -> None:
    """Raise ValueError if a schedule requests a control that a network lacks."""
    lacking = [name for name in schedule.requested_controls if name not in layout.names]
    if lacking:
        raise ValueError(
            f"this session has no control {' and no '.join(lacking)}, only "
            f"{', '.join(layout.names)}"
        )


def complete_schedule(schedule: ControlSchedule, layout: ControlLayout) -> ControlSchedule:
    """Return a schedule as a network follows it.

    A network without flags gets the default of a control that is open.
    Raises ValueError if the schedule requests a control that the network lacks.
    """
    check_controls(schedule, layout)
    if not layout.is_plain:
        return schedule
    density, histogram = (
        np.where(np.isnan(schedule.values[kind.name]), kind.default, schedule.values[kind.name])
        for kind in layout.kinds
    )
    return replace(schedule, density=density, histogram=histogram, scalars={})


def encode_schedule(schedule: ControlSchedule, layout: ControlLayout) -> Array:
    """Return the control vectors of a schedule, float32 [rows, dim].

    Raises ValueError if the schedule requests a control that the layout lacks.
    """
    check_controls(schedule, layout)
    return layout.encode(schedule.values, len(schedule))


# --------------------------------------------------------------------------------- controls


class ControlSeq:
    """The controls of each event.

    note_density: [events]; pitch_histogram: [events, 12]; scalars: the values of the other
    controls of the table, by name, [events] each. A legacy performance has only the first two.
    """

    def __repr__(self) -> str:
        """Return a short description: events and names of the controls."""
        names = ", ".join(("density", "histogram", *self.scalars))
        return f"<ControlSeq: {len(self.note_density)} events, {names}>"

    DENSITIES = DENSITIES  # the fewest note ons in a window at each density level
    WINDOW = WINDOW  # seconds

    def __init__(
        self,
        note_density: npt.ArrayLike,
        pitch_histogram: npt.ArrayLike,
        scalars: Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        self.note_density = read_only(note_density, np.uint8)
        self.pitch_histogram = read_only(pitch_histogram, np.float64)
        columns = (scalars or {}).items()
        self.scalars = {name: read_only(column, np.float64) for name, column in columns}

    def __len__(self) -> int:
        return len(self.note_density)

    @property
    def values(self) -> dict[str, Array]:
        """The values of all controls, by name."""
        return {
            "density": self.note_density,
            "histogram": self.pitch_histogram,
            **self.scalars,
        }

    @staticmethod
    def dim() -> int:
        """Return the width of a control vector with density and histogram: 24."""
        return PLAIN_LAYOUT.dim

    @staticmethod
    def feat_dims() -> OrderedDict[str, int]:
        """Return the width of each part of this control vector, in order."""
        return OrderedDict((name, len(part)) for name, part in ControlSeq.feat_ranges().items())

    @staticmethod
    def feat_ranges() -> OrderedDict[str, range]:
        """Return the columns of each part of this control vector, in order."""
        names = ("note_density", "pitch_histogram")
        return OrderedDict(zip(names, PLAIN_LAYOUT.ranges.values(), strict=True))

    @staticmethod
    def from_event_seq(
        event_seq: EventSeq, velocities: Array | None = None, lengths: Array | None = None
    ) -> ControlSeq:
        """Return the controls of each event, measured over the event and the 2 s after it.

        velocities, lengths: those of each note on, for an excerpt in which they are not complete;
        see `EventSeq.note_velocities`, `EventSeq.note_lengths`.
        In the last two seconds of a piece the window is the last two seconds of the piece (in
        the legacy encoding, the rest of the piece). Without note ons the density level is 0, the
        histogram is uniform, and the others are nan.
        """
        events, times, encoding = event_seq.to_array(), event_seq.times, event_seq.encoding
        start = np.arange(len(events))
        window = WINDOW * encoding.ticks_per_second
        if len(events) and not encoding.is_legacy:
            last_full = event_seq.total_ms - window
            start = np.where(times <= last_full, start, np.searchsorted(times, last_full))
        end = np.searchsorted(times, times[start] + window, "right")

        is_on = _IS_NOTE_ON[events]
        ons_before = np.append(0, np.cumsum(is_on))  # note ons before each event [events + 1]
        first, last = ons_before[start], ons_before[end]  # note ons of the window of each event
        is_new = (np.diff(first, prepend=-1) != 0) | (np.diff(last, prepend=-1) != 0)
        windows = NoteWindows(
            first[is_new],
            last[is_new],
            times[is_on] / encoding.ticks_per_second,
            _KEY_OF_EVENT[events[is_on]] + PITCHES.start,
            event_seq.note_velocities if velocities is None else velocities,
            (event_seq.note_lengths if lengths is None else lengths) / encoding.ticks_per_second,
        )
        row = np.cumsum(is_new) - 1  # most events have the same window as the one before
        kinds = CONTROLS[: len(PLAIN_CONTROLS)] if encoding.is_legacy else CONTROLS
        density, histogram, *scalars = (kind.measure(windows)[row] for kind in kinds)
        names = (kind.name for kind in kinds[len(PLAIN_CONTROLS) :])
        return ControlSeq(density, histogram, dict(zip(names, scalars, strict=True)))

    def to_array(self) -> Array:
        """Return control vectors, float32 [events, 24]: density one-hot, then histogram."""
        return encode_controls(self.note_density, self.pitch_histogram)

    def encode(self, layout: ControlLayout) -> Array:
        """Return the control vectors of a network, float32 [events, dim]."""
        return layout.encode(self.values, len(self))

    def to_compressed_array(self) -> Array:
        """Return uint8 [events, 13]: density level, then 255 times the histogram, rounded down."""
        return self.pack()[:, :COMPRESSED_DIM]

    def pack(self) -> Array:
        """Return packed controls, uint8 [events, columns]: those of `to_compressed_array`, then
        one byte for each other control.
        """
        values = self.values
        parts = [kind.pack(values[kind.name]) for kind in CONTROLS if kind.name in values]
        return np.concatenate(parts, axis=1)

    @staticmethod
    def recover_compressed_array(array: npt.ArrayLike, encoding: Encoding = CURRENT) -> Array:
        """Return control vectors, float32 [..., 24], from compressed controls [..., 13].

        Each histogram is normalized to sum 1 again, except in the legacy encoding, whose
        sessions are trained on the rounded values.
        Raises ValueError for another width or a density level over 11.
        """
        rows = np.asarray(array)
        if rows.shape[-1:] != (COMPRESSED_DIM,):
            raise ValueError(f"compressed controls need {COMPRESSED_DIM} columns, not {rows.shape}")
        density, weights = rows[..., 0].ravel(), rows[..., 1:].reshape(-1, PITCH_CLASSES)
        invalid = (density < 0) | (density >= DENSITY_LEVELS)
        if invalid.any():
            raise ValueError(f"note density {density[invalid][0]} is not in 0-{DENSITY_LEVELS - 1}")
        histogram = weights / 255 if encoding.is_legacy else normalize_histogram(weights)
        vectors = encode_controls(density, histogram)
        return vectors.reshape(*rows.shape[:-1], PLAIN_LAYOUT.dim)
