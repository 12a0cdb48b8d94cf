"""Notes, and reading and writing MIDI files: the one module that knows the MIDI libraries.

Files are read with symusic, which is fast and lenient, and written with pretty_midi.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pretty_midi
import symusic

import utils
from utils import Array

SUSTAIN = 64  # controller number of the sustain pedal
PEDAL_DOWN = 64  # lowest controller value at which the pedal is down
ALL_PROGRAMS = range(128)
MAX_RESOLUTION = 32767  # ticks per quarter note that a file can hold
MIN_TICKS_PER_TWELFTH = 6  # of a quarter note; with coarser ticks, any notes are near the beat


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

    def __post_init__(self) -> None:
        columns = [np.asarray(c) for c in (self.starts, self.ends, self.pitches, self.velocities)]
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            raise ValueError(f"note columns differ in shape: {[c.shape for c in columns]}")
        starts, ends, pitches, velocities = columns
        _check_column("onset", starts, 0, np.inf)
        _check_column("end", ends, starts, np.inf)
        _check_column("pitch", pitches, 0, 127)
        _check_column("velocity", velocities, 1, 127)
        order = np.lexsort((pitches, starts))
        dtypes = {"starts": float, "ends": float, "pitches": np.int64, "velocities": np.int64}
        for (name, dtype), column in zip(dtypes.items(), columns, strict=True):
            object.__setattr__(self, name, read_only(column[order], dtype))

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
        return _merge_tracks(_read_pretty_midi(midi, set(programs)), sustain)

    @staticmethod
    def from_midi_file(
        path: str | os.PathLike[str], programs: Iterable[int] = ALL_PROGRAMS, sustain: bool = True
    ) -> NoteSeq:
        """Return the notes of a MIDI file, by the rules of `from_midi`.

        Where notes of one pitch overlap in a track, the first note off ends the first note on.
        A pedal change belongs to the program in force at that time. Raises ValueError, naming
        the path, for a file that is not readable as MIDI.
        """
        try:
            return NoteSeq.from_midi_bytes(Path(path).read_bytes(), programs, sustain)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @staticmethod
    def from_midi_bytes(
        content: bytes, programs: Iterable[int] = ALL_PROGRAMS, sustain: bool = True
    ) -> NoteSeq:
        """Return the notes of the content of a MIDI file; see `from_midi_file`."""
        return _merge_tracks(_read_score(_parse(content), set(programs)), sustain)

    def to_midi(
        self, program: int = 0, tempo: float = 120.0, texts: Iterable[str] = ()
    ) -> pretty_midi.PrettyMIDI:
        """Return a PrettyMIDI with one instrument.

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
        columns = (first * tick, last * tick, self.pitches, self.velocities)
        rows = zip(*(column.tolist() for column in columns), strict=True)

        piano = pretty_midi.Instrument(program, name="Piano")
        piano.notes = [pretty_midi.Note(v, p, start, end) for start, end, p, v in rows]
        midi = pretty_midi.PrettyMIDI(resolution=resolution, initial_tempo=tempo)
        midi.instruments.append(piano)
        # pretty_midi writes latin-1: these are the UTF-8 bytes, one character each
        encoded = (text.encode("utf-8", "backslashreplace").decode("latin-1") for text in texts)
        midi.text_events = [pretty_midi.Text(text, 0.0) for text in encoded]
        return midi

    def to_midi_file(
        self, path: str | os.PathLike[str], program: int = 0, texts: Iterable[str] = ()
    ) -> None:
        """Write a MIDI file atomically; see `to_midi`."""
        utils.atomic_write(path, self.to_midi_bytes(program, texts))

    def to_midi_bytes(self, program: int = 0, texts: Iterable[str] = ()) -> bytes:
        """Return the content of a MIDI file; see `to_midi`."""
        content = io.BytesIO()
        self.to_midi(program, texts=texts).write(content)
        return content.getvalue()

    @staticmethod
    def merge(*note_seqs: NoteSeq) -> NoteSeq:
        """Return the notes of several sequences; a note ends when its key is struck again."""
        tracks = (_Track(np.stack(seq.columns), np.empty((2, 0))) for seq in note_seqs)
        return _merge_tracks(tracks, sustain=False)

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

    def truncate(self, seconds: float) -> NoteSeq:
        """Return the notes that start before `seconds`, cut off at that time."""
        notes = NoteSeq(*(column[self.starts < seconds] for column in self.columns))
        return replace(notes, ends=np.minimum(notes.ends, seconds))

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


def find_next_onsets(pitches: Array, starts: Array) -> Array:
    """Return the next later onset of the same pitch for each note: float64 [notes], inf if none.

    The notes must be sorted by (pitch, start).
    """
    is_new = np.ones(len(starts), bool)  # False for a repeat of the note before
    is_new[1:] = (np.diff(pitches) != 0) | (np.diff(starts) != 0)
    first = np.append(np.flatnonzero(is_new), len(starts))
    following = first[np.cumsum(is_new)]  # index of the next onset, of any pitch
    index = np.minimum(following, len(starts) - 1)
    has_next = (following < len(starts)) & (pitches[index] == pitches)
    return np.where(has_next, starts[index], np.inf)


# ------------------------------------------------------------------------------- MIDI files


@dataclass(frozen=True)
class _Track:
    """Notes [4, notes] (start, end, pitch, velocity) and pedal changes [2, changes] (time, value).

    Times are in seconds.
    """

    notes: Array
    pedal: Array

    def sort_pedal(self) -> Array:
        """Return the pedal changes in order of time."""
        return np.asarray(self.pedal[:, np.argsort(self.pedal[0], kind="stable")])

    def apply_pedal(self) -> Array:
        """Return the notes [4, notes]; those that the pedal holds end when it is lifted.

        A pedal that is never lifted holds until the last event of the track.
        """
        if not self.pedal.size or not self.notes.size:
            return self.notes
        starts, ends, pitches, velocities = self.notes
        times, values = self.sort_pedal()
        lift_times = np.where(values >= PEDAL_DOWN, np.inf, times)
        next_lift = np.minimum.accumulate(lift_times[::-1])[::-1]
        next_lift[np.isinf(next_lift)] = max(times[-1], ends.max())
        change = np.searchsorted(times, ends, "right") - 1  # the last one before each end
        is_held = (change >= 0) & (values[change] >= PEDAL_DOWN)
        return np.stack([starts, np.where(is_held, next_lift[change], ends), pitches, velocities])

    def measure_pedal(self) -> tuple[int, float]:
        """Return how often the pedal goes down, and for how many seconds it is down."""
        if not self.pedal.size:
            return 0, 0.0
        times, values = self.sort_pedal()
        is_down = values >= PEDAL_DOWN
        lengths = np.diff(times, append=max(times[-1], self.notes[1].max(initial=0.0)))
        is_press = is_down & ~np.append(False, is_down[:-1])
        return int(is_press.sum()), float(lengths[is_down].sum())


def _merge_tracks(tracks: Iterable[_Track], sustain: bool) -> NoteSeq:
    """Return the notes of all tracks; each ends at the latest when its key is struck again."""
    parts = [track.apply_pedal() if sustain else track.notes for track in tracks]
    if not parts:
        return NoteSeq()
    starts, ends, pitches, velocities = np.concatenate(parts, axis=1)
    order = np.lexsort((starts, pitches))
    cut_ends = ends.copy()
    cut_ends[order] = np.minimum(ends[order], find_next_onsets(pitches[order], starts[order]))
    return NoteSeq(starts, cut_ends, pitches, velocities)


def _read_pretty_midi(midi: pretty_midi.PrettyMIDI, programs: set[int]) -> Iterator[_Track]:
    """Yield the instruments in `programs` except drums; notes of zero length are dropped."""
    for instrument in midi.instruments:
        if not instrument.is_drum and instrument.program in programs:
            notes = [
                (note.start, note.end, note.pitch, note.velocity)
                for note in instrument.notes
                if note.end > note.start
            ]
            pedal = [(c.time, c.value) for c in instrument.control_changes if c.number == SUSTAIN]
            yield _Track(np.array(notes).reshape(-1, 4).T, np.array(pedal).reshape(-1, 2).T)


def _read_score(score: Any, programs: set[int]) -> Iterator[_Track]:
    """Yield the tracks of a symusic score in `programs`, as `_read_pretty_midi` does."""
    to_seconds = _make_tick_converter(score)
    for track in score.tracks:
        if track.is_drum or track.program not in programs:
            continue
        notes, controls = track.notes.numpy(), track.controls.numpy()
        has_length = notes["duration"] > 0
        start = notes["time"][has_length].astype(np.int64)
        end = start + notes["duration"][has_length]
        pitch, velocity = notes["pitch"][has_length], notes["velocity"][has_length]
        columns = np.stack([to_seconds(start), to_seconds(end), pitch, velocity])
        is_pedal = controls["number"] == SUSTAIN
        times, values = to_seconds(controls["time"][is_pedal]), controls["value"][is_pedal]
        yield _Track(columns, np.stack([times, values]))


def _make_tick_converter(score: Any) -> Callable[[Array], Array]:
    """Return a function from ticks to seconds by the tempo changes of a symusic score."""
    tempos = score.tempos.numpy()
    ticks = np.concatenate([[0], tempos["time"]]).astype(np.float64)
    # microseconds per quarter note; MIDI starts at 500,000, that is 120 quarter notes per minute
    tick_seconds = np.concatenate([[500000], tempos["mspq"]]) / 1e6 / score.ticks_per_quarter
    order = np.argsort(ticks, kind="stable")
    ticks, tick_seconds = ticks[order], tick_seconds[order]
    seconds = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * tick_seconds[:-1])])

    def to_seconds(tick: Array) -> Array:
        row = np.searchsorted(ticks, tick, "right") - 1
        return np.asarray(seconds[row] + (tick - ticks[row]) * tick_seconds[row])

    return to_seconds


def _parse(content: bytes) -> Any:
    """Return a symusic score; ValueError for content that is not a whole MIDI file."""
    if content[:4] != b"MThd":
        raise ValueError("not a MIDI file: it does not start with MThd")
    try:
        score: Any = symusic.Score.from_midi(content)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"not readable as MIDI: {error}") from error
    if score.ticks_per_quarter < 1:
        raise ValueError(f"{score.ticks_per_quarter} ticks per quarter note are not supported")
    # symusic accepts a file that ends between two tracks
    expected, present = int.from_bytes(content[10:12], "big"), content.count(b"MTrk")
    if present < expected:
        raise ValueError(f"the file is cut short: it has {present} of {expected} tracks")
    return score


# ----------------------------------------------------- statistics and texts of a MIDI file


@dataclass(frozen=True)
class MidiStats:
    """Statistics of a MIDI file that a `NoteSeq` does not hold, without drums.

    on_beat_share: share of the note ons at a multiple of an eighth or a twelfth of a quarter
    note, by the file's own beat; 0.0 if its ticks are too coarse to measure it.
    pedal_presses: how often the sustain pedal goes down; pedal_seconds: how long it is down.
    """

    on_beat_share: float
    pedal_presses: int
    pedal_seconds: float


def read_midi(content: bytes, sustain: bool = True) -> tuple[NoteSeq, MidiStats]:
    """Return the notes of the content of a MIDI file, see `from_midi_file`, and its statistics."""
    score = _parse(content)
    tracks = list(_read_score(score, set(ALL_PROGRAMS)))
    onsets = [track.notes.numpy()["time"] for track in score.tracks if not track.is_drum]
    pedals = [track.measure_pedal() for track in tracks]
    stats = MidiStats(
        on_beat_share=_measure_on_beat(np.concatenate([[0], *onsets])[1:], score.ticks_per_quarter),
        pedal_presses=sum(presses for presses, _ in pedals),
        pedal_seconds=max((seconds for _, seconds in pedals), default=0.0),
    )
    return _merge_tracks(tracks, sustain), stats


def _measure_on_beat(onsets: Array, ticks_per_quarter: int) -> float:
    """Return the share of onsets (ticks) at a multiple of 1/8 or 1/12 quarter note."""
    if not len(onsets) or ticks_per_quarter < 12 * MIN_TICKS_PER_TWELFTH:
        return 0.0
    is_on_beat = np.zeros(len(onsets), bool)
    for division in (8, 12):
        past = onsets.astype(np.int64) * division % ticks_per_quarter
        distance = np.minimum(past, ticks_per_quarter - past)  # in 1/division ticks
        is_on_beat |= distance < division  # less than a tick away: files round to ticks
    return float(is_on_beat.mean())


def has_only_drums(content: bytes) -> bool:
    """Return whether a MIDI file has notes, and all of them are drums."""
    return {track.is_drum for track in _parse(content).tracks if len(track.notes)} == {True}


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
