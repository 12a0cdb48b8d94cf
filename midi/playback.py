"""The notes of a MIDI file as a synthesizer plays them.

Events of all tracks apply in the order of time, and in file order within a tick. Keys, pedals and
the program belong to the channel. What a file leaves open is repaired, and each repair counted.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from midi.reader import CONTROL, NOTE_ON, PROGRAM, MidiEvents
from utils import Array, format_count

PIANO_PROGRAMS = range(8)
SUSTAIN, SOSTENUTO, RESET = 64, 66, 121  # controller numbers
ALL_SOUND_OFF, ALL_NOTES_OFF = 120, 123  # 124-127 end notes, too
PEDAL_DOWN = 64  # lowest controller value at which a pedal is down
MAX_HOLD = 20.0  # seconds that a pedal holds a note after its key was released
STUCK_PEDAL = 30.0  # seconds that the pedal is down while notes are played
MIN_TICKS_PER_TWELFTH = 6  # of a quarter note; with coarser ticks, any notes are near the beat

TRACKS_HELP = (  # of an option
    "tracks to read: auto, the piano if there is one, else all; all; piano; or names of tracks"
)
# kinds of repair, in the plural
NO_NOTE_OFF = "notes without a note off"
ENDED_BY_CONTROL = "notes ended by all notes off"
NO_NOTE_ON = "note offs without a note"
NO_LENGTH = "notes of no length"
LONG_HOLD = f"notes that the pedal holds over {MAX_HOLD:.0f} s"

# how the tracks were selected
ONLY_PIANO = "only piano"
NO_PIANO = "all pitched tracks"
PIANO_OF_SEVERAL = "piano taken out of several instruments"
MISSING_PIANO = "no piano"
ALL_TRACKS = "all tracks, as requested"
NAMED_TRACKS = "tracks with the requested names"

PIANO_NAME = re.compile(
    r"piano|\bpno\b|klavier|fl[uü]gel|\bgrand\b|steinway|\bhands?\b|\b[rl]\.?h\b|^(right|left)$"
    r"|\bpedale?\b(?! steel)",
    re.IGNORECASE,
)
OTHER_NAME = re.compile(
    r"violin|viola|cello|contrabass|flute|oboe|clarinet|bassoon|\bhorn|trumpet|trombone|tuba|sax"
    r"|guitar|\bharp\b|string|choir|vocal|voice|organ|synth|drum|percussion|timpani|bell|marimba"
    r"|vibraphone|xylophone|celesta|geige|bratsche|fl[öo]te|trompete|posaune|orgel|gitarre",
    re.IGNORECASE,
)


def format_repair(kind: str, count: int) -> str:
    """Format the number of repairs of a kind: "1 note without a note off"."""
    return format_count(count, re.sub(r"(?<=\w)s\b", "", kind, count=1), kind)


def list_names(tracks: str) -> list[str]:
    """Return the names in a list separated by commas, in lower case."""
    return [name.strip().casefold() for name in tracks.split(",") if name.strip()]


def check_tracks(flag: str, tracks: str) -> None:
    """Raise ValueError if the value of an option that names tracks, such as ",", has no name."""
    if not list_names(tracks):
        raise ValueError(f"argument {flag}: {tracks!r} names no track")


class MissingTrackError(ValueError):
    """No track of a file has the requested name."""


@dataclass(frozen=True)
class Instrument:
    """Notes of one track, channel and program.

    track and channel are counted from 0; program: None if the channel has no program change.
    """

    name: str
    track: int
    channel: int
    program: int | None
    is_drum: bool
    notes: int
    is_used: bool = False

    @property
    def is_piano(self) -> bool:
        """Return whether the program or the name is that of a piano.

        Without a program change, synthesizers play a piano: then another name says otherwise.
        """
        if self.is_drum:
            return False
        if self.program in PIANO_PROGRAMS or PIANO_NAME.search(self.name):
            return True
        return self.program is None and not OTHER_NAME.search(self.name)


@dataclass(frozen=True)
class MidiStats:
    """What a MIDI file holds beside the notes that are used.

    on_beat_share: share of the note ons at a multiple of an eighth or a twelfth of a quarter
    note, by the file's own beat; 0.0 if its ticks are too coarse to measure it.
    pedal_presses: how often the sustain pedal goes down; pedal_seconds: how long it is down.
    notes, seconds: number of notes, and end of the last one.
    instruments: all of the file, in the order of tracks and channels.
    selection: which of them are used, for example `ONLY_PIANO`.
    repairs: how often each kind of repair was needed.
    pedal_is_shared: one piano on several channels, and a pedal applies to all of them.
    has_stuck_pedal: a pedal is never released, or is down for over `STUCK_PEDAL` seconds while
    notes are played.
    tempos: seconds and quarter notes per minute, [tempos, 2]; none with SMPTE time.
    time_signatures: seconds, numerator and denominator, [n, 3].
    """

    on_beat_share: float
    pedal_presses: int
    pedal_seconds: float
    notes: int = 0
    seconds: float = 0.0
    instruments: tuple[Instrument, ...] = ()
    selection: str = ONLY_PIANO
    repairs: Mapping[str, int] = field(default_factory=dict)
    pedal_is_shared: bool = False
    has_stuck_pedal: bool = False
    tempos: Array = field(default_factory=lambda: np.empty((0, 2)))
    time_signatures: Array = field(default_factory=lambda: np.empty((0, 3)))


def play_events(
    events: MidiEvents,
    tracks: str = "auto",
    programs: Collection[int] | None = None,
    sustain: bool = True,
) -> tuple[tuple[Array, ...], MidiStats]:
    """Return starts, ends, pitches and velocities, each [notes], and statistics.

    Times are in seconds. Notes are sorted by time and pitch, and each ends at the latest when
    its key is struck again.

    tracks: "auto", "all", "piano" or names; see `select_instruments`. programs: the instruments
    of these programs are used in place of `tracks`. sustain: pedals hold notes.
    """
    controls = _Controls(events)
    strokes = _pair_notes(events, controls)
    instruments, labels = _list_instruments(events, strokes)
    is_used, selection = select_instruments(instruments, tracks, programs)
    if not all(is_used):
        strokes = strokes.select(np.flatnonzero(np.array(is_used, bool)[labels]))
    strokes = strokes.select(_sort_notes(events, strokes.ons))
    is_shared = is_one_piano(instruments) and not events.is_sequences
    pedals = [_Pedal.read(events, controls, number, is_shared) for number in (SUSTAIN, SOSTENUTO)]
    repairs = events.repairs + strokes.count_repairs()
    silences = _ChannelRows(events, controls.find(ALL_SOUND_OFF))
    times = _measure_notes(events, strokes, pedals if sustain else [], silences, repairs)
    presses, seconds, is_stuck = _measure_pedal(events, pedals[0], strokes, times)
    stats = MidiStats(
        on_beat_share=_measure_on_beat(events.ticks[strokes.ons], events.quarter),
        pedal_presses=presses,
        pedal_seconds=seconds,
        notes=len(strokes.ons),
        seconds=float(times[1].max(initial=0.0)),
        instruments=tuple(map(_mark_used, instruments, is_used)),
        selection=selection,
        repairs=dict(+repairs),
        pedal_is_shared=is_shared and pedals[0].has_several_channels(events, strokes),
        has_stuck_pedal=is_stuck,
        tempos=_list_tempos(events),
        time_signatures=_list_time_signatures(events),
    )
    return (*times, events.data1[strokes.ons], events.data2[strokes.ons]), stats


def _mark_used(instrument: Instrument, is_used: bool) -> Instrument:
    return replace(instrument, is_used=is_used)


def _list_tempos(events: MidiEvents) -> Array:
    """Return seconds and quarter notes per minute of each tempo, [tempos, 2]."""
    if not events.quarter:
        return np.empty((0, 2))
    tempos = 60 / (events.tick_seconds * events.quarter)
    return np.column_stack((events.to_seconds(events.tempo_ticks), tempos))


def _list_time_signatures(events: MidiEvents) -> Array:
    """Return seconds, numerator and denominator of each time signature, [n, 3]."""
    ticks, numerators, denominators = events.time_signatures.T
    return np.column_stack((events.to_seconds(ticks), numerators, denominators))


def _measure_on_beat(onsets: Array, quarter: int) -> float:
    """Return the share of onsets (ticks) at a multiple of 1/8 or 1/12 quarter note."""
    if not len(onsets) or quarter < 12 * MIN_TICKS_PER_TWELFTH:
        return 0.0
    is_on_beat = np.zeros(len(onsets), bool)
    for division in (8, 12):
        past = onsets * division % quarter
        distance = np.minimum(past, quarter - past)  # in 1/division ticks
        is_on_beat |= distance < division  # less than a tick away: files round to ticks
    return float(is_on_beat.mean())


class _ChannelRows:
    """Rows of some events, sorted by channel, then row, and found by these.

    end: the number of all events, which stands for the end of a channel.
    """

    def __init__(self, events: MidiEvents, rows: Array, channels: Array | None = None) -> None:
        """Sort rows; channels: those of the rows, if other than in the file."""
        channels = events.channels[rows] if channels is None else channels
        order = np.argsort(channels, kind="stable")
        self.channels, self.rows, self.end = channels[order], rows[order], len(events.ticks)
        self._keys = self.channels * (self.end + 1) + self.rows

    def count_before(self, channels: Array, rows: Array) -> Array:
        """Return how many are in lower channels, or in the same one before or at a row."""
        return np.searchsorted(self._keys, channels * (self.end + 1) + rows, "right")

    def find_last(self, channels: Array, rows: Array) -> Array:
        """Return the index of the last one of the channel before or at a row, or -1."""
        index = self.count_before(channels, rows)
        return np.where(np.append(-1, self.channels)[index] == channels, index - 1, -1)

    def get_rows(self, channels: Array, index: Array) -> Array:
        """Return the rows at an index, or `end` where the index is beyond the channel."""
        is_inside = np.append(self.channels, -1)[index] == channels
        return np.where(is_inside, np.append(self.rows, self.end)[index], self.end)


class _Controls:
    """Control changes without those of drums, by controller number."""

    def __init__(self, events: MidiEvents) -> None:
        self._rows = np.flatnonzero((events.kinds == CONTROL) & ~events.is_drum)
        self._numbers = events.data1.take(self._rows)
        self._counts = np.bincount(self._numbers, minlength=128)

    def find(self, *numbers: int) -> Array:
        """Return the rows of the events with one of the numbers."""
        if not self._counts.take(numbers).any():
            return np.empty(0, np.int64)
        is_number = np.zeros(128, bool)
        is_number[list(numbers)] = True
        return self._rows[is_number.take(self._numbers)]


# ------------------------------------------------------------------------------------------- keys

OWN_NOTE_OFF, NEXT_NOTE_ON, CLOSED = range(3)  # how a note ends


@dataclass(frozen=True)
class _KeyStrokes:
    """Notes by their keys, as columns [notes].

    ons: rows of the note ons; ends: rows of the events that end the notes, or the number of events
    if they sound until their channel ends; causes: how they end.
    """

    ons: Array
    ends: Array
    causes: Array
    note_offs_without_note: int = 0

    def select(self, index: Array) -> _KeyStrokes:
        """Return the notes at an index."""
        columns = (self.ons.take(index), self.ends.take(index), self.causes.take(index))
        return _KeyStrokes(*columns, self.note_offs_without_note)

    def count_repairs(self) -> Counter[str]:
        """Return how often a note on or off had no partner."""
        counts = np.bincount(self.causes, minlength=3)
        return +Counter(
            {
                NO_NOTE_OFF: int(counts[NEXT_NOTE_ON]),
                ENDED_BY_CONTROL: int(counts[CLOSED]),
                NO_NOTE_ON: self.note_offs_without_note,
            }
        )


def _sort_notes(events: MidiEvents, ons: Array) -> Array:
    """Return the index that sorts notes by time and pitch."""
    index = np.full(len(events.ticks), -1)
    index[ons] = np.arange(len(ons))
    index = index[index >= 0]  # sorted by time: the next step is fast
    keys = events.ticks.take(ons) * 128 + events.data1.take(ons)
    return index.take(np.argsort(keys.take(index), kind="stable"))


def _pair_notes(events: MidiEvents, controls: _Controls) -> _KeyStrokes:
    """Return where each key is pressed and released, without drums."""
    rows = np.flatnonzero((events.kinds <= NOTE_ON) & ~events.is_drum)
    channels = events.channels[rows]
    is_on = (events.kinds[rows] == NOTE_ON) & (events.data2[rows] > 0)
    keys = channels * 128 + events.data1[rows]
    closers = controls.find(ALL_SOUND_OFF, *range(ALL_NOTES_OFF, 128))
    closing = np.full(len(rows), len(events.ticks))  # rows of events that close all notes
    if closers.size:
        index = _ChannelRows(events, closers)
        periods = index.count_before(channels, rows)  # no note goes on from one to the next
        closing = index.get_rows(channels, periods)
        keys += periods * 128 * len(events.channel_ends)
    keys = _use_small_type(keys)
    order = np.argsort(keys, kind="stable")
    keys, rows, is_on, closing = keys[order], rows[order], is_on[order], closing[order]
    if (
        not len(keys) % 2
        and (keys[::2] == keys[1::2]).all()
        and is_on[::2].all()
        and not is_on[1::2].any()
    ):
        return _KeyStrokes(rows[::2], rows[1::2], np.full(len(rows) // 2, OWN_NOTE_OFF))
    return _repair_pairs(events, keys, rows, is_on, closing)


def _use_small_type(keys: Array) -> Array:
    """Return keys in 16 bits if they fit: numpy sorts them much faster."""
    return keys.astype(np.uint16) if keys.max(initial=0) < 1 << 16 else keys


def _repair_pairs(
    events: MidiEvents, keys: Array, rows: Array, is_on: Array, closing: Array
) -> _KeyStrokes:
    """Pair notes of keys that are not always pressed and released in turn."""
    first = np.flatnonzero(np.diff(keys.astype(np.int64), prepend=-1))
    sizes = np.diff(first, append=len(keys))
    is_even = (np.arange(len(keys)) - np.repeat(first, sizes)) % 2 == 0
    is_regular = np.logical_and.reduceat(is_on == is_even, first) & (sizes % 2 == 0)
    regular = rows[np.repeat(is_regular, sizes)]
    parts = [np.stack((regular[::2], regular[1::2], np.full(len(regular) // 2, OWN_NOTE_OFF)))]
    ignored = 0
    for start, size in zip(first[~is_regular].tolist(), sizes[~is_regular].tolist(), strict=True):
        part = slice(start, start + size)
        ticks = events.ticks[rows[part]].tolist()
        strokes = list(zip(ticks, is_on[part].tolist(), rows[part].tolist(), strict=True))
        row = int(closing[start])
        cause = NEXT_NOTE_ON if row == len(events.ticks) else CLOSED
        pairs, strays = _pair_key(_sort_within_ticks(strokes), row, cause)
        parts.append(np.array(pairs, np.int64).reshape(-1, 3).T)
        ignored += strays
    ons, ends, causes = np.concatenate(parts, axis=1)
    return _KeyStrokes(ons, ends, causes, ignored)


Stroke = tuple[int, bool, int]  # tick, is a note on, row


def _sort_within_ticks(strokes: list[Stroke]) -> list[Stroke]:
    """Return the strokes of a key; at one tick, note offs of sounding notes are first.

    Some programs write the new note before the end of the old one.
    """
    sounding, result = 0, []
    for _, group in itertools.groupby(strokes, key=operator.itemgetter(0)):
        at_tick = list(group)
        offs = [stroke for stroke in at_tick if not stroke[1]][:sounding]
        first = set(offs)
        for stroke in offs + [stroke for stroke in at_tick if stroke not in first]:
            sounding = sounding + 1 if stroke[1] else max(sounding - 1, 0)
            result.append(stroke)
    return result


def _pair_key(
    strokes: list[Stroke], closing: int, cause: int
) -> tuple[list[tuple[int, int, int]], int]:
    """Return rows of note on and end, and the cause, of each note of a key; and unused note offs.

    closing: row of the event that ends the last note if nothing else does, for this cause.
    """
    open_notes: list[int] = []
    unused = 0
    for index, (_, is_on, _) in enumerate(strokes):
        if is_on:
            open_notes.append(index)
        elif open_notes:
            open_notes.pop()
        else:
            unused += 1
    # What stays open when each note off ends the last note has no note off. The next note on ends
    # it. All others have one, and the first note on gets the first note off.
    has_no_off, sounding, pairs = set(open_notes), deque[int](), []
    without_off = None
    for index, (_, is_on, row) in enumerate(strokes):
        if is_on:
            if without_off is not None:
                pairs.append((without_off, row, NEXT_NOTE_ON))
            without_off = row if index in has_no_off else None
            if without_off is None:
                sounding.append(row)
        elif sounding:
            pairs.append((sounding.popleft(), row, OWN_NOTE_OFF))
    if without_off is not None:
        pairs.append((without_off, closing, cause))
    return pairs, unused


# ----------------------------------------------------------------------------------------- pedals


class _Pedal(_ChannelRows):
    """Changes of a pedal: where it goes down or up, or stays so."""

    @staticmethod
    def read(events: MidiEvents, controls: _Controls, number: int, is_shared: bool) -> _Pedal:
        """Return the changes of controller `number`; is_shared: as those of channel 0."""
        rows = controls.find(number)
        if rows.size:
            rows = controls.find(number, RESET)
        return _Pedal(events, rows, is_shared)

    def __init__(self, events: MidiEvents, rows: Array, is_shared: bool) -> None:
        super().__init__(events, rows, np.zeros(len(rows), np.int64) if is_shared else None)
        self.is_shared = is_shared
        is_reset = events.data1[self.rows] == RESET
        self.is_down = (events.data2[self.rows] >= PEDAL_DOWN) & ~is_reset
        is_first = np.diff(self.channels, prepend=-1) != 0
        self.is_press = self.is_down & (is_first | ~np.append(False, self.is_down[:-1]))

    def find_lifts(self, index: Array) -> Array:
        """Return the row at which the pedal is lifted after the changes at an index."""
        count = len(self.rows)
        lifts = np.minimum.accumulate(np.where(self.is_down, count, np.arange(count))[::-1])[::-1]
        return self.get_rows(self.channels[index], lifts[index])

    def has_several_channels(self, events: MidiEvents, strokes: _KeyStrokes) -> bool:
        """Return whether the pedal is pressed, and it and the notes use several channels."""
        channels = np.concatenate((events.channels[self.rows], events.channels[strokes.ons]))
        return bool(self.is_down.any() and (channels != channels[0]).any())

    def hold(self, channels: Array, ends: Array, pressed_after: Array | None = None) -> Array:
        """Return the rows of `ends`, or where the pedal is lifted if it is down there.

        pressed_after: rows after which the pedal must have been pressed.
        """
        if not self.is_down.any():
            return ends
        index = self.find_last(np.zeros_like(channels) if self.is_shared else channels, ends)
        is_held = (index >= 0) & self.is_down[index]
        if pressed_after is not None:
            press = np.maximum.accumulate(np.where(self.is_press, np.arange(len(self.rows)), 0))
            is_held &= self.rows[press[index]] > pressed_after
        return np.where(is_held, self.find_lifts(index), ends)


def _measure_notes(
    events: MidiEvents,
    strokes: _KeyStrokes,
    pedals: list[_Pedal],
    silences: _ChannelRows,
    repairs: Counter[str],
) -> tuple[Array, Array]:
    """Return when notes start and end, in seconds.

    pedals: sustain and sostenuto, or none if pedals do not hold notes; silences: events that end
    all notes of their channel.
    """
    channels, pitches = events.channels.take(strokes.ons), events.data1.take(strokes.ons)
    ends = strokes.ends
    if pedals:
        sustain, sostenuto = pedals
        ends = sustain.hold(channels, sostenuto.hold(channels, ends, pressed_after=strokes.ons))
    if silences.rows.size:
        next_silence = silences.count_before(channels, strokes.ons)
        ends = np.minimum(ends, silences.get_rows(channels, next_silence))
    start_ticks = events.ticks.take(strokes.ons)
    end_ticks = _get_ticks(events, ends, channels)
    order = np.argsort(pitches, kind="stable")
    end_ticks[order] = np.minimum(
        end_ticks[order], find_next_onsets(pitches[order], start_ticks[order])
    )
    has_no_length = end_ticks == start_ticks
    end_ticks += has_no_length
    starts, stops = events.to_seconds(start_ticks), events.to_seconds(end_ticks)
    latest = events.to_seconds(_get_ticks(events, strokes.ends, channels)) + MAX_HOLD
    is_long = (stops > latest) & ~has_no_length
    repairs[NO_LENGTH] += int(has_no_length.sum())
    repairs[LONG_HOLD] += int(is_long.sum())
    return starts, np.where(is_long, latest, stops)


def find_next_onsets(pitches: Array, starts: Array) -> Array:
    """Return the next later onset of the same pitch for each note: float64 [notes], inf if none.

    The notes must be sorted by (pitch, start).
    """
    is_new = np.ones(len(starts), bool)  # False for a repeat of the note before
    is_new[1:] = (pitches[1:] != pitches[:-1]) | (starts[1:] != starts[:-1])
    first = np.append(np.flatnonzero(is_new), len(starts))
    following = first[np.cumsum(is_new)]  # index of the next onset, of any pitch
    index = np.minimum(following, len(starts) - 1)
    has_next = (following < len(starts)) & (pitches[index] == pitches)
    return np.where(has_next, starts[index], np.inf)


def _get_ticks(events: MidiEvents, rows: Array, channels: Array) -> Array:
    """Return the ticks of rows; beyond the last row, when the channel ends."""
    is_end = rows == len(events.ticks)
    ticks = np.append(events.ticks, 0).take(rows)
    return np.where(is_end, events.channel_ends.take(channels), ticks) if is_end.any() else ticks


def _measure_pedal(
    events: MidiEvents, pedal: _Pedal, strokes: _KeyStrokes, times: tuple[Array, Array]
) -> tuple[int, float, bool]:
    """Return how often the pedal goes down, for how many seconds, and if it is stuck.

    Of several channels, the one with the longest time counts.
    """
    has_notes = np.bincount(events.channels[strokes.ons], minlength=len(events.channel_ends)) > 0
    index = np.flatnonzero(pedal.is_press & (pedal.is_shared | has_notes[pedal.channels]))
    if not index.size:
        return 0, 0.0, False
    channels, lifts = pedal.channels[index], pedal.find_lifts(index)
    starts = events.to_seconds(events.ticks[pedal.rows[index]])
    last = max(starts.max(), times[1].max(initial=0.0))
    ends = np.minimum(events.to_seconds(_get_ticks(events, lifts, channels)), last)
    seconds = np.bincount(channels, ends - starts)
    first, after = (np.searchsorted(times[0], t) for t in (starts + STUCK_PEDAL, ends))
    is_stuck = (lifts == len(events.ticks)) | (after > first)
    return len(index), float(seconds.max()), bool(is_stuck.any())


# ------------------------------------------------------------------------------------ instruments


def _list_instruments(events: MidiEvents, strokes: _KeyStrokes) -> tuple[list[Instrument], Array]:
    """Return the instruments of a file, and for each note the index of its instrument."""
    channel_count = len(events.channel_ends)
    channels, tracks = events.channels[strokes.ons], events.tracks[strokes.ons]
    changes = _ChannelRows(events, np.flatnonzero(events.kinds == PROGRAM))
    programs = np.zeros(len(strokes.ons), np.int64)  # 0: none yet, else 1 + program
    if changes.rows.size:
        index = changes.find_last(channels, strokes.ons)
        programs = np.where(index < 0, 0, events.data1[changes.rows[index]] + 1)
    codes = (tracks * channel_count + channels) * 129 + programs
    kinds, labels, counts = np.unique(
        _use_small_type(codes), return_inverse=True, return_counts=True
    )
    instruments = []
    for code, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        (track, channel), program = divmod(code // 129, channel_count), code % 129 - 1
        name, number = events.names[track], program if program >= 0 else None
        instruments.append(Instrument(name, track, channel, number, False, count))
    return instruments + _list_drums(events), labels


def _list_drums(events: MidiEvents) -> list[Instrument]:
    """Return the drums of a file, one for each track and channel."""
    is_drum = events.is_drum & (events.kinds == NOTE_ON) & (events.data2 > 0)
    if not is_drum.any():
        return []
    codes = events.tracks[is_drum] * len(events.channel_ends) + events.channels[is_drum]
    drums = []
    for code, count in zip(
        *map(np.ndarray.tolist, np.unique(codes, return_counts=True)), strict=True
    ):
        track, channel = divmod(code, len(events.channel_ends))
        drums.append(Instrument(events.names[track], track, channel, None, True, count))
    return drums


def select_instruments(
    instruments: Sequence[Instrument], tracks: str, programs: Collection[int] | None = None
) -> tuple[list[bool], str]:
    """Return which instruments are used, and how they were selected; never drums.

    tracks: "auto": the piano if there is one, else all; "piano": the piano; "all"; or names of
    tracks, separated by commas: whole names, or parts of names, in upper or lower case.
    Raises MissingTrackError if no track has such a name.
    """
    is_pitched = [not instrument.is_drum for instrument in instruments]
    is_piano = [instrument.is_piano for instrument in instruments]
    if programs is not None:
        is_used = [(instrument.program or 0) in programs for instrument in instruments]
        return list(map(operator.and_, is_pitched, is_used)), ALL_TRACKS
    if tracks == "all":
        return is_pitched, ALL_TRACKS
    if tracks not in ("auto", "piano"):
        is_named = _find_names([instrument.name for instrument in instruments], tracks)
        return list(map(operator.and_, is_pitched, is_named)), NAMED_TRACKS
    if is_piano == is_pitched:
        return is_piano, ONLY_PIANO
    if tracks == "auto" and not any(is_piano):
        return is_pitched, NO_PIANO
    return is_piano, PIANO_OF_SEVERAL if any(is_piano) else MISSING_PIANO


def _find_names(names: Sequence[str], requested: str) -> list[bool]:
    """Return which names are requested: whole names if there are any, else parts of names."""
    parts = list_names(requested)
    if not parts:
        raise MissingTrackError(f"{requested!r} names no track")
    lower = [name.casefold() for name in names]
    result = [False] * len(names)
    for part in parts:
        test = operator.eq if part in lower else operator.contains
        found = [test(name, part) for name in lower]
        if not any(found):
            existing = ", ".join(sorted({name for name in names if name})) or "none has a name"
            raise MissingTrackError(f"no track is named {part!r} (tracks: {existing[:200]})")
        result = list(map(operator.or_, result, found))
    return result


def is_one_piano(instruments: Sequence[Instrument]) -> bool:
    """Return whether all notes are those of a piano, without drums."""
    return all(instrument.is_piano for instrument in instruments)
