"""Notes, events and controls of a performance, and the conversions between them.

NoteSeq     notes: start, end, pitch, velocity (defined in midi.notes)
EventSeq    indices below 240: note on, note off, velocity, time shift
Control     pitch classes and note density of the next two seconds (in midi.control_schedule)
ControlSeq  one control for each event

There are two encodings. CURRENT counts time in whole milliseconds, so sums of time shifts are
exact and cannot drift. LEGACY is the encoding of the original project's data and sessions.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from midi.control_schedule import (
    COMPRESSED_DIM,
    CONTROL_DIM,
    CONTROL_ROWS,
    DENSITIES,
    DENSITY_LEVELS,
    PITCH_CLASSES,
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
__all__ += ["measure_onset_errors", "transpose", "transposition_range"]

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
        keys = _KEY_OF_EVENT[self._array]
        index = np.flatnonzero(keys >= 0)  # of the note ons and note offs
        index = index[np.argsort(keys[index], kind="stable")]  # by (key, position)
        keys, times = keys[index], self.times[index]
        same_key_next = np.append(np.diff(keys) == 0, False)
        ends = np.where(same_key_next, np.append(times[1:], 0), self._durations.sum())

        is_on = _IS_NOTE_ON[self._array[index]]
        index, keys, starts = index[is_on], keys[is_on], times[is_on]
        ends = np.maximum(ends[is_on], starts + self.encoding.time_shifts[0])
        is_last = np.append((np.diff(keys) != 0) | (np.diff(starts) != 0), True)[: len(keys)]
        return NoteSeq(
            starts[is_last] / self.encoding.ticks_per_second,
            ends[is_last] / self.encoding.ticks_per_second,
            keys[is_last] + PITCHES.start,
            self._velocities()[index][is_last],
        )

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

    events: [steps, batch]; compressed controls: [steps, batch, 13]; offsets: semitones
    [batch], within `transposition_range`.
    """
    moved = np.where(_KEY_OF_EVENT[events] >= 0, events + offsets, events).astype(events.dtype)
    source = (np.arange(PITCH_CLASSES) - offsets[:, None]) % PITCH_CLASSES  # [batch, 12]
    histogram = np.take_along_axis(controls[..., 1:], source[None], axis=2)
    return moved, np.concatenate([controls[..., :1], histogram], axis=2)


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


# --------------------------------------------------------------------------------- controls


class ControlSeq:
    """One control for each event: `note_density` [events] and `pitch_histogram` [events, 12]."""

    DENSITIES = DENSITIES  # the fewest note ons in a window at each density level
    WINDOW = WINDOW  # seconds

    def __init__(self, note_density: npt.ArrayLike, pitch_histogram: npt.ArrayLike) -> None:
        self.note_density = read_only(note_density, np.uint8)
        self.pitch_histogram = read_only(pitch_histogram, np.float64)

    def __len__(self) -> int:
        return len(self.note_density)

    @staticmethod
    def dim() -> int:
        """Return the width of a control vector: 24."""
        return CONTROL_DIM

    @staticmethod
    def feat_dims() -> OrderedDict[str, int]:
        """Return the width of each part of a control vector, in order."""
        return OrderedDict(CONTROL_ROWS)

    @staticmethod
    def feat_ranges() -> OrderedDict[str, range]:
        """Return the columns of each part of a control vector, in order."""
        return _index_ranges(CONTROL_ROWS)

    @staticmethod
    def from_event_seq(event_seq: EventSeq) -> ControlSeq:
        """Return the control of each event, measured over the event and the 2 s after it.

        In the last two seconds of a piece the window is the last two seconds of the piece (in
        the legacy encoding, the rest of the piece). Without note ons the density level is 0 and
        the histogram is uniform.
        """
        events, times = event_seq.to_array(), event_seq.times
        if not len(events):
            return ControlSeq([], np.empty((0, PITCH_CLASSES)))
        start = np.arange(len(events))
        window = WINDOW * event_seq.encoding.ticks_per_second
        if not event_seq.encoding.is_legacy:
            last_full = event_seq.total_ms - window
            start = np.where(times <= last_full, start, np.searchsorted(times, last_full))
        end = np.searchsorted(times, times[start] + window, "right")

        is_on = _IS_NOTE_ON[events]
        ons_before = np.append(0, np.cumsum(is_on))  # note ons before each event [events + 1]
        classes = (_KEY_OF_EVENT[events[is_on]] + PITCHES.start) % PITCH_CLASSES
        class_counts = np.zeros((len(classes) + 1, PITCH_CLASSES), np.int32)  # before each note on
        np.cumsum(classes[:, None] == np.arange(PITCH_CLASSES), axis=0, out=class_counts[1:])

        first, last = ons_before[start], ons_before[end]  # note ons of the window of each event
        is_new = np.append(True, (np.diff(first) != 0) | (np.diff(last) != 0))
        counts = class_counts[last[is_new]] - class_counts[first[is_new]]
        row = np.cumsum(is_new) - 1  # most events have the same window as the one before
        return ControlSeq(find_density_level(last - first), normalize_histogram(counts)[row])

    def to_array(self) -> Array:
        """Return control vectors, float32 [events, 24]: density one-hot, then histogram."""
        return encode_controls(self.note_density, self.pitch_histogram)

    def to_compressed_array(self) -> Array:
        """Return uint8 [events, 13]: density level, then 255 times the histogram, rounded down."""
        histogram = (self.pitch_histogram * 255).astype(np.uint8)
        return np.concatenate([self.note_density[:, None], histogram], axis=1)

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
        return vectors.reshape(*rows.shape[:-1], CONTROL_DIM)
