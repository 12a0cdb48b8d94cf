"""MIDI content to columns of notes and back: the one place that knows the MIDI libraries.

Files are read with symusic, for speed and patience; PrettyMIDI objects are for users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pretty_midi
import symusic

Array = npt.NDArray[Any]

SUSTAIN = 64  # controller number of the sustain pedal, and the value from which it is down


def from_pretty_midi(midi: pretty_midi.PrettyMIDI, programs: set[int]) -> Iterator[Array]:
    """[start/end/pitch/velocity, notes] of each instrument in `programs` that is no drum set.

    Notes of no length are left out.
    """
    for instrument in midi.instruments:
        if not instrument.is_drum and instrument.program in programs:
            sounding = (note for note in instrument.notes if note.end > note.start)
            notes = [(n.start, n.end, n.pitch, n.velocity) for n in sounding]
            pedal = [(c.time, c.value) for c in instrument.control_changes if c.number == SUSTAIN]
            yield _sustained(np.array(notes).reshape(-1, 4).T, np.array(pedal).reshape(-1, 2).T)


def from_bytes(content: bytes, programs: set[int]) -> Iterator[Array]:
    """The same from the content of a MIDI file.

    A move of the pedal belongs to the program in force. Raises ValueError for content that
    is not readable as MIDI.
    """
    score = _score(content)
    seconds = _clock(score)
    for track in score.tracks:
        if not track.is_drum and track.program in programs:
            yield _symusic_columns(track, seconds)


def only_drums(content: bytes) -> bool:
    """Whether the notes of a MIDI file, if any, are all of drum sets, and there are some."""
    sounding = {track.is_drum for track in _score(content).tracks if len(track.notes)}
    return sounding == {True}


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


def to_pretty_midi(
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


def _symusic_columns(track: Any, seconds: Callable[[Array], Array]) -> Array:
    """[4, notes] columns of one symusic track; notes of no length are left out."""
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
    return _sustained(
        columns, np.stack([seconds(controls["time"][pedal]), controls["value"][pedal]])
    )


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
