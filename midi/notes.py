"""Notes, and MIDI files: the one place that knows the MIDI libraries.

Files are read with symusic, for speed and patience; PrettyMIDI objects are for users.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pretty_midi
import symusic

import utils
from utils import Array

SUSTAIN = 64  # controller number of the sustain pedal, and the value from which it is down


def read_only(values: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """A copy that can not be written."""
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class NoteSeq:
    """Notes in order of (onset, pitch), as four read-only columns of one length.

    starts, ends: float64 seconds, 0 <= start <= end; pitches: 0-127; velocities: 1-127.
    Raises ValueError for other values or columns of different lengths.
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
        object.__setattr__(self, "starts", read_only(starts[order], np.float64))
        object.__setattr__(self, "ends", read_only(ends[order], np.float64))
        object.__setattr__(self, "pitches", read_only(pitches[order], np.int64))
        object.__setattr__(self, "velocities", read_only(velocities[order], np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoteSeq):
            return NotImplemented
        return all(map(np.array_equal, self.columns, other.columns))

    __hash__ = None  # type: ignore[assignment]

    @property
    def columns(self) -> tuple[Array, Array, Array, Array]:
        """Starts, ends, pitches, velocities."""
        return self.starts, self.ends, self.pitches, self.velocities

    @property
    def seconds(self) -> float:
        """When the last note ends; 0.0 without notes."""
        return float(self.ends.max()) if len(self) else 0.0

    @staticmethod
    def from_midi(
        midi: pretty_midi.PrettyMIDI, programs: Iterable[int] = range(128), sustain: bool = True
    ) -> NoteSeq:
        """Notes of the instruments in `programs`, drums left out, sustain folded into the ends.

        A key sounds until it is released with the pedal up, or struck again; without
        `sustain` the pedal says nothing.
        """
        return _joined(_from_pretty_midi(midi, set(programs)), sustain)

    @staticmethod
    def from_midi_file(
        path: str | os.PathLike[str], programs: Iterable[int] = range(128), sustain: bool = True
    ) -> NoteSeq:
        """Notes of a MIDI file, by the rules of `from_midi`.

        Where notes of one pitch overlap in the file, the first note off ends the first note
        on. A move of the pedal belongs to the program in force. Raises ValueError, naming the
        path, for a file that is not readable as MIDI.
        """
        try:
            return NoteSeq.from_midi_bytes(Path(path).read_bytes(), programs, sustain)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @staticmethod
    def from_midi_bytes(
        content: bytes, programs: Iterable[int] = range(128), sustain: bool = True
    ) -> NoteSeq:
        """Notes of a MIDI file's content; see `from_midi_file`."""
        return _joined(_from_score(_score(content), set(programs)), sustain)

    def to_midi(
        self, program: int = 0, tempo: float = 120.0, texts: Iterable[str] = ()
    ) -> pretty_midi.PrettyMIDI:
        """A PrettyMIDI with one instrument; no note is shorter than a tick, about a millisecond.

        `texts` become text events at its start, in their order and in UTF-8; `read_midi_texts` is
        the inverse.
        """
        midi = _to_pretty_midi(self.columns, program, tempo)
        written = (text.encode("utf-8", "backslashreplace").decode("latin-1") for text in texts)
        midi.text_events = [pretty_midi.Text(text, 0.0) for text in written]
        return midi

    def to_midi_file(
        self, path: str | os.PathLike[str], program: int = 0, texts: Iterable[str] = ()
    ) -> None:
        """Write a MIDI file; the file appears whole or not at all."""
        content = io.BytesIO()
        self.to_midi(program, texts=texts).write(content)
        utils.atomic_write(path, content.getvalue())

    @staticmethod
    def merge(*note_seqs: NoteSeq) -> NoteSeq:
        """All notes of several sequences; a key struck again is cut there."""
        return _joined(((np.stack(seq.columns), _NO_PEDAL) for seq in note_seqs), False)

    def adjust_time(self, offset: float) -> NoteSeq:
        """Notes moved by `offset` seconds; ValueError if one would start before 0."""
        return NoteSeq(self.starts + offset, self.ends + offset, self.pitches, self.velocities)

    def adjust_pitches(self, offset: int) -> NoteSeq:
        """Notes transposed by `offset` semitones; ValueError if one leaves 0-127."""
        return NoteSeq(self.starts, self.ends, self.pitches + offset, self.velocities)

    def adjust_velocities(self, offset: int) -> NoteSeq:
        """Notes louder by `offset`, kept within 1-127."""
        louder = np.clip(self.velocities + offset, 1, 127)
        return NoteSeq(self.starts, self.ends, self.pitches, louder)

    def limit_durations(self, seconds: float, after: float = 0.0) -> NoteSeq:
        """Notes that end `seconds` after their onset, or after second `after`, at the latest."""
        ends = np.minimum(self.ends, np.maximum(self.starts, after) + seconds)
        return NoteSeq(self.starts, ends, self.pitches, self.velocities)

    def truncate(self, seconds: float) -> NoteSeq:
        """Notes that start before `seconds`, and end there at the latest."""
        before = self.starts < seconds
        starts, ends, pitches, velocities = (column[before] for column in self.columns)
        return NoteSeq(starts, np.minimum(ends, seconds), pitches, velocities)

    def trim_start(self) -> NoteSeq:
        """Notes moved so that the first one starts at 0."""
        return self.adjust_time(-self.starts[0]) if len(self) else self


def _check_column(name: str, values: Array, low: Any, high: Any) -> None:
    good = np.isfinite(values) & (values >= low) & (values <= high)
    if not good.all():
        worst = values[~good][0]
        raise ValueError(f"note {name} {worst} is not allowed ({int((~good).sum())} such notes)")


def _joined(parts: Iterable[tuple[Array, Array]], sustain: bool) -> NoteSeq:
    """One NoteSeq from notes [4, notes] and the pedal [time/value, changes] of each part.

    Every note is cut where its key is struck again.
    """
    found = [_sustained(notes, pedal) if sustain else notes for notes, pedal in parts]
    if not found:
        return NoteSeq()
    starts, ends, pitches, velocities = np.concatenate(found, axis=1)
    order = np.lexsort((starts, pitches))
    cut = ends.copy()
    cut[order] = np.minimum(ends[order], next_strike(pitches[order], starts[order]))
    return NoteSeq(starts, cut, pitches, velocities)


def next_strike(pitches: Array, starts: Array) -> Array:
    """For notes sorted by (pitch, onset): the next later onset of the same pitch, or inf."""
    new = np.ones(len(starts), bool)
    new[1:] = (np.diff(pitches) != 0) | (np.diff(starts) != 0)
    first = np.append(np.flatnonzero(new), len(starts))
    following = first[np.cumsum(new)]  # index of the next onset, whatever its pitch
    inside = np.minimum(following, len(starts) - 1)
    same = (following < len(starts)) & (pitches[inside] == pitches)
    return np.where(same, starts[inside], np.inf)


# ------------------------------------------------------------------------------- MIDI files

_NO_PEDAL = np.empty((2, 0))


def _from_pretty_midi(
    midi: pretty_midi.PrettyMIDI, programs: set[int]
) -> Iterator[tuple[Array, Array]]:
    """[start/end/pitch/velocity, notes] of each instrument in `programs` that is no drum set.

    MidiStats it the moves of its pedal [time/value, changes]. Notes of no length are left out.
    """
    for instrument in midi.instruments:
        if not instrument.is_drum and instrument.program in programs:
            sounding = (note for note in instrument.notes if note.end > note.start)
            notes = [(n.start, n.end, n.pitch, n.velocity) for n in sounding]
            pedal = [(c.time, c.value) for c in instrument.control_changes if c.number == SUSTAIN]
            yield np.array(notes).reshape(-1, 4).T, np.array(pedal).reshape(-1, 2).T


def _from_score(score: Any, programs: set[int]) -> Iterator[tuple[Array, Array]]:
    """The same from a symusic score; a move of the pedal belongs to the program in force."""
    seconds = _clock(score)
    for track in score.tracks:
        if not track.is_drum and track.program in programs:
            yield _symusic_columns(track, seconds)


def has_only_drums(content: bytes) -> bool:
    """Whether the notes of a MIDI file, if any, are all of drum sets, and there are some."""
    sounding = {track.is_drum for track in _score(content).tracks if len(track.notes)}
    return sounding == {True}


def read_midi_texts(content: bytes) -> list[str]:
    """The text events at the start of a MIDI file, before all else but its like.

    Nothing is raised whatever the bytes are: what is not there or damaged says nothing.
    """
    at, texts = content.find(b"MTrk") + 8, []
    while content[at : at + 2] == b"\x00\xff":  # a meta event at time 0
        is_text = content[at + 2 : at + 3] == b"\x01"
        size, at = _number(content, at + 3)
        if is_text and at + size <= len(content):
            texts.append(content[at : at + size].decode("utf-8", "replace"))
        at += size
    return texts


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A number of MIDI's variable length, and where it ends; more than all, if it does not."""
    number = 0
    for place, byte in enumerate(content[at : at + 4], at + 1):
        number = number << 7 | byte & 127
        if byte < 128:
            return number, place
    return len(content), at


@dataclass(frozen=True)
class MidiStats:
    """What a MIDI file says beside its notes; drums left out.

    on_beat: share of the note ons that are on eighths or twelfths of a quarter note, by the
    file's own beat; 0.0 if its ticks are too coarse to tell. presses: how often the pedal
    goes down; pedalled: seconds for which it is down.
    """

    on_beat_share: float
    pedal_presses: int
    pedal_seconds: float


def read_midi(content: bytes, sustain: bool = True) -> tuple[NoteSeq, MidiStats]:
    """Notes of a MIDI file's content, by the rules of `from_midi_file`, and what is beside."""
    score = _score(content)
    parts = list(_from_score(score, set(range(128))))
    ticks = [track.notes.numpy()["time"] for track in score.tracks if not track.is_drum]
    pedals = [_presses(notes, pedal) for notes, pedal in parts]
    beside = MidiStats(
        on_beat_share=_on_beat(np.concatenate([[0], *ticks])[1:], score.ticks_per_quarter),
        pedal_presses=sum(presses for presses, _ in pedals),
        pedal_seconds=max((pedalled for _, pedalled in pedals), default=0.0),
    )
    return _joined(parts, sustain), beside


FINEST = 6  # ticks in a twelfth of a quarter note; with fewer, chance puts too much on it


def _on_beat(ticks: Array, per_quarter: int) -> float:
    if not len(ticks) or per_quarter < 12 * FINEST:
        return 0.0
    near = np.zeros(len(ticks), bool)
    for parts in (8, 12):
        past = ticks.astype(np.int64) * parts % per_quarter
        near |= np.minimum(past, per_quarter - past) < parts  # a tick is lost in rounding
    return float(near.mean())


def _presses(notes: Array, pedal: Array) -> tuple[int, float]:
    """How often the pedal goes down in a track, and for how many seconds it is down."""
    if not pedal.size:
        return 0, 0.0
    times, values = pedal[:, np.argsort(pedal[0], kind="stable")]
    down = values >= SUSTAIN
    lengths = np.diff(times, append=max(times[-1], notes[1].max(initial=0.0)))
    fresh = down & ~np.append(False, down[:-1])
    return int(fresh.sum()), float(lengths[down].sum())


def _score(content: bytes) -> Any:
    if content[:4] != b"MThd":
        raise ValueError("not a MIDI file: it does not start with MThd")
    try:
        score: Any = symusic.Score.from_midi(content)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"not readable as MIDI: {error}") from error
    if score.ticks_per_quarter < 1:
        raise ValueError(f"{score.ticks_per_quarter} ticks in a quarter note")
    promised, found = int.from_bytes(content[10:12], "big"), content.count(b"MTrk")
    if found < promised:
        raise ValueError(f"it is cut short: {found} of {promised} tracks are there")
    return score


def _to_pretty_midi(
    columns: Sequence[Array], program: int = 0, tempo: float = 120.0
) -> pretty_midi.PrettyMIDI:
    """A PrettyMIDI with one instrument; no note is shorter than a tick, about a millisecond.

    Raises ValueError for a tempo, in beats a minute, at which a file can not have such ticks.
    """
    resolution = round(60000 / tempo) if tempo > 0 else 0
    if not 1 <= resolution <= 32767:
        raise ValueError(f"a tempo of {tempo} beats a minute can not be written")
    midi = pretty_midi.PrettyMIDI(resolution=resolution, initial_tempo=tempo)
    piano = pretty_midi.Instrument(program, name="Piano")
    starts, ends, pitches, velocities = columns
    tick = 60 / tempo / resolution  # seconds
    first = np.rint(starts / tick)
    last = np.maximum(np.rint(ends / tick), first + 1)
    rows = zip(*(c.tolist() for c in (first * tick, last * tick, pitches, velocities)), strict=True)
    piano.notes = [pretty_midi.Note(v, p, start, end) for start, end, p, v in rows]
    midi.instruments.append(piano)
    return midi


def _clock(score: Any) -> Callable[[Array], Array]:
    """A function from ticks to seconds by the tempo map of a symusic score."""
    tempos = score.tempos.numpy()
    ticks = np.concatenate([[0], tempos["time"]]).astype(np.float64)
    per_tick = np.concatenate([[500000], tempos["mspq"]]) / 1e6 / score.ticks_per_quarter
    order = np.argsort(ticks, kind="stable")
    ticks, per_tick = ticks[order], per_tick[order]
    at = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * per_tick[:-1])])

    def seconds(tick: Array) -> Array:
        row = np.searchsorted(ticks, tick, "right") - 1
        return np.asarray(at[row] + (tick - ticks[row]) * per_tick[row])

    return seconds


def _symusic_columns(track: Any, seconds: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Notes [4, notes] and pedal [2, changes] of one symusic track."""
    notes, controls = track.notes.numpy(), track.controls.numpy()
    real = notes["duration"] > 0
    start = notes["time"][real].astype(np.int64)
    columns = np.stack(
        [
            seconds(start),
            seconds(start + notes["duration"][real]),
            notes["pitch"][real],
            notes["velocity"][real],
        ]
    )
    pedal = controls["number"] == SUSTAIN
    return columns, np.stack([seconds(controls["time"][pedal]), controls["value"][pedal]])


def _sustained(columns: Array, pedal: Array) -> Array:
    """Move note ends [4, notes] to where the pedal [time/value, changes] comes up."""
    starts, ends, pitches, velocities = columns
    if not pedal.size or not columns.size:
        return columns
    times, values = pedal[:, np.argsort(pedal[0], kind="stable")]
    ups = np.where(values >= SUSTAIN, np.inf, times)
    next_up = np.minimum.accumulate(ups[::-1])[::-1]
    next_up[np.isinf(next_up)] = max(times[-1], ends.max())  # never lifted: at the last event
    change = np.searchsorted(times, ends, "right") - 1
    held = (change >= 0) & (values[change] >= SUSTAIN)
    return np.stack([starts, np.where(held, next_up[change], ends), pitches, velocities])
