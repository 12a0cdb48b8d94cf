"""Notes, and reading and writing MIDI files, which are written with pretty_midi."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pretty_midi

import utils
from midi.playback import MidiStats, find_next_onsets, play_events
from midi.reader import CONTROL, DRUMS, NOTE_OFF, NOTE_ON, PROGRAM, MidiEvents, read_events
from utils import Array

READER_VERSION = 2  # of the rules by which notes are read; 1: symusic, pedals by track
ALL_PROGRAMS = range(128)
PRETTY_MIDI_TICK = 1e-9  # seconds, to which the times of a PrettyMIDI object are rounded
MAX_RESOLUTION = 32767  # ticks per quarter note that a file can hold
PEDAL_DELAY = 20  # milliseconds after a lift at which the pedal goes down again
KEY_OVERLAP = 10  # milliseconds for which keys are held after the pedal went down
MIN_SAVING = 100  # milliseconds by which a key must be released before its note ends
MIN_KEY = 60  # milliseconds for which a key is held
MAX_PEDAL = 15_000  # milliseconds for which the pedal holds a note; the reader allows 20 s


def read_only(values: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """Return a read-only copy."""
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class NoteSeq:
    """Notes sorted by (start, pitch), as four read-only columns of equal length.

    starts, ends: float64 seconds, 0 <= start <= end; pitches: 0-127; velocities: 1-127.
    Raises ValueError for other values, or columns of different shapes.
    """

    starts: Array = field(default_factory=lambda: np.empty(0))
    ends: Array = field(default_factory=lambda: np.empty(0))
    pitches: Array = field(default_factory=lambda: np.empty(0))
    velocities: Array = field(default_factory=lambda: np.empty(0))

    def __repr__(self) -> str:
        """Return a short description: notes and length."""
        return f"<NoteSeq: {len(self)} notes, {self.seconds:.1f} s>"

    def __post_init__(self) -> None:
        columns = [np.asarray(c) for c in (self.starts, self.ends, self.pitches, self.velocities)]
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            raise ValueError(f"note columns differ in shape: {[c.shape for c in columns]}")
        starts, ends, pitches, velocities = columns
        _check_column("onset", starts, 0, np.inf)
        _check_column("end", ends, starts, np.inf)
        _check_column("pitch", pitches, 0, 127)
        _check_column("velocity", velocities, 1, 127)
        gaps = np.diff(starts)
        if not ((gaps > 0) | ((gaps == 0) & (pitches[1:] >= pitches[:-1]))).all():
            order = np.lexsort((pitches, starts))
            columns = [column[order] for column in columns]
        dtypes = {"starts": float, "ends": float, "pitches": np.int64, "velocities": np.int64}
        for (name, dtype), column in zip(dtypes.items(), columns, strict=True):
            object.__setattr__(self, name, read_only(column, dtype))

    def __len__(self) -> int:
        return len(self.starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoteSeq):
            return NotImplemented
        return all(map(np.array_equal, self.columns, other.columns))

    @property
    def columns(self) -> tuple[Array, Array, Array, Array]:
        """Starts, ends, pitches, velocities, each [notes]."""
        return self.starts, self.ends, self.pitches, self.velocities

    @property
    def seconds(self) -> float:
        """The end of the last note; 0.0 without notes."""
        return float(self.ends.max()) if len(self) else 0.0

    @staticmethod
    def from_midi(
        midi: pretty_midi.PrettyMIDI, programs: Iterable[int] = ALL_PROGRAMS, sustain: bool = True
    ) -> NoteSeq:
        """Return the notes of the instruments in `programs`, without drums.

        With `sustain`, a note whose key is released while the pedal is down ends when the pedal
        is lifted. Every note ends at the latest when its key is struck again.
        """
        columns, _ = play_events(_list_events(midi), "all", set(programs), sustain)
        return NoteSeq(*columns)

    @staticmethod
    def from_midi_file(
        path: str | os.PathLike[str],
        programs: Iterable[int] = ALL_PROGRAMS,
        sustain: bool = True,
        tracks: str = "auto",
    ) -> NoteSeq:
        """Return the notes of a MIDI file, by the rules of `from_midi`.

        tracks: "auto", "all", "piano" or names, see `midi.playback.select_instruments`; if
        `programs` are given, all tracks are read. Where notes of one pitch overlap in a channel,
        the first note off ends the first note on. Raises ValueError, naming the path, for a file
        that is not readable as MIDI.
        """
        try:
            return NoteSeq.from_midi_bytes(utils.read_file(path), programs, sustain, tracks)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @staticmethod
    def from_midi_bytes(
        content: bytes,
        programs: Iterable[int] = ALL_PROGRAMS,
        sustain: bool = True,
        tracks: str = "auto",
    ) -> NoteSeq:
        """Return the notes of the content of a MIDI file; see `from_midi_file`."""
        selected = None if programs is ALL_PROGRAMS else set(programs)
        columns, _ = play_events(read_events(content), tracks, selected, sustain)
        return NoteSeq(*columns)

    def to_midi(
        self,
        program: int = 0,
        tempo: float = 120.0,
        texts: Iterable[str] = (),
        second: Array | None = None,
        pedal: bool = False,
    ) -> pretty_midi.PrettyMIDI:
        """Return a PrettyMIDI with one instrument, or two.

        second: the notes of the second instrument, bool [notes]; None for one instrument.
        pedal: write the sustain pedal and shorter notes that sound the same; see `move_to_pedal`.
        A tick is about a millisecond, and no note is shorter than a tick. `texts` become text
        events at time 0, in order, in UTF-8; `read_midi_texts` is the inverse. Raises
        ValueError for a tempo (quarter notes per minute) at which a file cannot have such ticks.
        """
        resolution = round(60000 / tempo) if tempo > 0 else 0
        if not 1 <= resolution <= MAX_RESOLUTION:
            raise ValueError(f"a tempo of {tempo} beats per minute cannot be written")
        tick = 60 / tempo / resolution  # seconds
        first = np.rint(self.starts / tick)
        last = np.maximum(np.rint(self.ends / tick), first + 1)
        presses = np.empty((0, 2))
        if pedal:
            starts, ends = (np.rint(1000 * tick * column) for column in (first, last))
            releases, presses = move_to_pedal(starts, ends, self.pitches)
            last = np.rint(releases / 1000 / tick)
        columns = (first * tick, last * tick, self.pitches, self.velocities)
        rows = zip(*(column.tolist() for column in columns), strict=True)

        notes = [pretty_midi.Note(v, p, start, end) for start, end, p, v in rows]
        midi = pretty_midi.PrettyMIDI(resolution=resolution, initial_tempo=tempo)
        is_second = np.zeros(len(self), bool) if second is None else second
        for name, selected in (("Piano", ~is_second), ("Given notes", is_second)):
            if second is not None or name == "Piano":
                instrument = pretty_midi.Instrument(program, name=name)
                instrument.notes = [notes[k] for k in np.flatnonzero(selected)]
                instrument.control_changes = [
                    pretty_midi.ControlChange(64, value, float(time))
                    for press in presses / 1000
                    for value, time in zip((127, 0), press, strict=True)
                ]
                midi.instruments.append(instrument)
        # pretty_midi writes latin-1: these are the UTF-8 bytes, one character each
        encoded = (text.encode("utf-8", "backslashreplace").decode("latin-1") for text in texts)
        midi.text_events = [pretty_midi.Text(text, 0.0) for text in encoded]
        return midi

    def to_midi_file(
        self, path: str | os.PathLike[str], program: int = 0, texts: Iterable[str] = ()
    ) -> None:
        """Write a MIDI file atomically; see `to_midi`."""
        utils.atomic_write(path, self.to_midi_bytes(program, texts))

    def to_midi_bytes(
        self,
        program: int = 0,
        texts: Iterable[str] = (),
        second: Array | None = None,
        pedal: bool = False,
    ) -> bytes:
        """Return the content of a MIDI file; see `to_midi`."""
        content = io.BytesIO()
        self.to_midi(program, texts=texts, second=second, pedal=pedal).write(content)
        return content.getvalue()

    @staticmethod
    def merge(*note_seqs: NoteSeq) -> NoteSeq:
        """Return the notes of several sequences; a note ends when its key is struck again."""
        columns = zip(*(seq.columns for seq in (NoteSeq(), *note_seqs)), strict=True)
        starts, ends, pitches, velocities = map(np.concatenate, columns)
        order = np.lexsort((starts, pitches))
        ends[order] = np.minimum(ends[order], find_next_onsets(pitches[order], starts[order]))
        return NoteSeq(starts, ends, pitches, velocities)

    def adjust_time(self, offset: float) -> NoteSeq:
        """Return the notes moved by `offset` seconds; ValueError if one would start before 0."""
        return replace(self, starts=self.starts + offset, ends=self.ends + offset)

    def adjust_pitches(self, offset: int) -> NoteSeq:
        """Return the notes transposed by `offset` semitones; ValueError if one leaves 0-127."""
        return replace(self, pitches=self.pitches + offset)

    def adjust_velocities(self, offset: int) -> NoteSeq:
        """Return the notes with `offset` added to their velocities, clipped to 1-127."""
        return replace(self, velocities=np.clip(self.velocities + offset, 1, 127))

    def limit_durations(self, seconds: float, after: float = 0.0) -> NoteSeq:
        """Return the notes, each at most `seconds` long, counted from `after` if that is later."""
        latest = np.maximum(self.starts, after) + seconds
        return replace(self, ends=np.minimum(self.ends, latest))

    def select(self, is_selected: Array) -> NoteSeq:
        """Return the notes where `is_selected`, bool [notes]."""
        return NoteSeq(*(column[is_selected] for column in self.columns))

    def truncate(self, seconds: float) -> NoteSeq:
        """Return the notes that start before `seconds`, cut off at that time."""
        notes = self.select(self.starts < seconds)
        return replace(notes, ends=np.minimum(notes.ends, seconds))

    def crop(self, start: float, seconds: float) -> NoteSeq:
        """Return the notes that start within `seconds` from second `start` on, which becomes 0.

        Notes that last longer than these seconds are cut off.
        """
        offsets = self.starts - start
        is_inside = (offsets >= 0) & (offsets < seconds)
        notes = self.select(is_inside)
        ends = np.minimum(notes.ends - start, seconds)
        return replace(notes, starts=offsets[is_inside], ends=ends)

    def trim_start(self) -> NoteSeq:
        """Return the notes moved so that the first one starts at 0."""
        return self.adjust_time(-self.starts[0]) if len(self) else self


def _check_column(name: str, values: Array, low: Any, high: Any) -> None:
    """Raise ValueError for values that are not finite or not from `low` to `high`."""
    valid = np.isfinite(values) & (values >= low) & (values <= high)
    if not valid.all():
        first = values[~valid][0]
        count = int((~valid).sum())
        raise ValueError(f"note {name} {first} is not allowed ({count} of {len(values)} notes)")


# ------------------------------------------------------------------------------- MIDI files


def move_to_pedal(starts: Array, ends: Array, pitches: Array) -> tuple[Array, Array]:
    """Return when the keys are released, and when the pedal goes down and up, [presses, 2].

    starts, ends: of notes with the pedal folded in, int64 milliseconds [notes]. With keys and
    pedal so, each note sounds as before. The pedal is down only while no note ends, except where
    its key is struck again; a key is released at the next onset.
    """
    order = np.lexsort((starts, pitches))
    is_struck_again = np.zeros(len(starts), bool)
    following = find_next_onsets(pitches[order], starts[order])
    is_struck_again[order] = ends[order] >= following
    lifts = np.unique(ends[~is_struck_again])
    downs = np.append(0, lifts[:-1])[: len(lifts)] + PEDAL_DELAY
    onsets, releases = np.unique(starts), ends.copy()
    is_used = np.zeros(len(lifts), bool)
    # notes that are struck again may be released early, too, if the pedal is down from then on
    places = np.searchsorted(lifts, ends)
    for note in range(len(starts)):
        place = places[note]
        if place == len(lifts) or (is_struck_again[note] and ends[note] <= downs[place]):
            continue
        later = np.searchsorted(onsets, starts[note] + MIN_KEY)
        if later == len(onsets):  # the last notes: their keys are held
            continue
        release = max(onsets[later], downs[place] + KEY_OVERLAP, ends[note] - MAX_PEDAL)
        if release <= ends[note] - MIN_SAVING:
            releases[note], is_used[place] = release, True
    return releases, np.column_stack((downs, lifts))[is_used]


def read_midi(
    source: str | os.PathLike[str] | bytes, tracks: str = "auto", sustain: bool = True
) -> tuple[NoteSeq, MidiStats]:
    """Return the notes of a MIDI file, given by its path or content, and its statistics.

    See `NoteSeq.from_midi_file`.
    """
    if isinstance(source, bytes):
        columns, stats = play_events(read_events(source), tracks, sustain=sustain)
        return NoteSeq(*columns), stats
    try:
        return read_midi(utils.read_file(source), tracks, sustain)
    except ValueError as error:
        raise ValueError(f"{source!s}: {error}") from error


def get_program_name(program: int) -> str:
    """Return the name of a program, 0-127, in General MIDI: "Violin" for 40."""
    return str(pretty_midi.program_to_instrument_name(program))


def has_only_drums(content: bytes) -> bool:
    """Return whether a MIDI file has notes, and all of them are drums."""
    instruments = read_midi(content)[1].instruments
    return bool(instruments) and all(instrument.is_drum for instrument in instruments)


def _list_events(midi: pretty_midi.PrettyMIDI) -> MidiEvents:
    """Return the events of a PrettyMIDI object, with a channel for each instrument.

    At equal times, note offs come before controls, and these before note ons.
    """
    rows: list[tuple[float, int, int, int, int, int]] = []
    for index, instrument in enumerate(midi.instruments):
        channel = 16 * index + (DRUMS if instrument.is_drum else 0)
        rows.append((0.0, 0, channel, PROGRAM, instrument.program, 0))
        for change in instrument.control_changes:
            rows.append((change.time, 1, channel, CONTROL, change.number, change.value))
        for note in instrument.notes:
            if note.end > note.start:
                rows.append((note.end, 0, channel, NOTE_OFF, note.pitch, 0))
                rows.append((note.start, 2, channel, NOTE_ON, note.pitch, note.velocity))
    rows.sort()
    columns = np.array(rows).reshape(-1, 6).T
    ticks = np.rint(columns[0] / PRETTY_MIDI_TICK).astype(np.int64)
    channels, kinds, data1, data2 = columns[2:].astype(np.int64)
    channel_count = 16 * len(midi.instruments)
    return MidiEvents(
        ticks=ticks,
        tracks=channels // 16,
        channels=channels,
        kinds=kinds,
        data1=data1.astype(np.uint8),
        data2=data2.astype(np.uint8),
        channel_ends=np.full(channel_count, ticks.max(initial=0)),
        names=[instrument.name for instrument in midi.instruments],
        is_sequences=False,
        quarter=0,
        tempo_ticks=np.zeros(1, np.int64),
        tick_seconds=np.array([PRETTY_MIDI_TICK]),
        time_signatures=np.empty((0, 3), np.int64),
        is_drum=channels % 16 == DRUMS,
        repairs=Counter(),
    )


def read_midi_texts(content: bytes) -> list[str]:
    """Return the text events at the start of a MIDI file: those before any note or control.

    Never fails, even if the content is not MIDI: damaged texts are left out.
    """
    position, texts = content.find(b"MTrk") + 8, []
    while content[position : position + 2] == b"\x00\xff":  # a meta event at time 0
        is_text = content[position + 2 : position + 3] == b"\x01"
        size, position = _read_variable_length(content, position + 3)
        if is_text and position + size <= len(content):
            texts.append(content[position : position + size].decode("utf-8", "replace"))
        position += size
    return texts


def _read_variable_length(content: bytes, position: int) -> tuple[int, int]:
    """Return a MIDI variable-length quantity and the position after it.

    A quantity that does not end within four bytes counts as the size of the content.
    """
    value = 0
    for end, byte in enumerate(content[position : position + 4], position + 1):
        value = value << 7 | byte & 127
        if byte < 128:
            return value, end
    return len(content), position
