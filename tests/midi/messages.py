"""MIDI messages by hand, files of them, and notes in milliseconds."""

from __future__ import annotations

import io

import mido

from sequence import NoteSeq

Timed = tuple[int, "mido.Message | mido.MetaMessage"]
Row = tuple[float, float, int, int]  # start, end, pitch, velocity

DRUMS = 9  # channel 10, counted from 0


# --------------------------------------------------------------------------- handwritten files


def note_on(tick: int, pitch: int, velocity: int = 64, channel: int = 0) -> Timed:
    return tick, mido.Message("note_on", note=pitch, velocity=velocity, channel=channel)


def note_off(tick: int, pitch: int, channel: int = 0) -> Timed:
    return tick, mido.Message("note_off", note=pitch, channel=channel)


def note(pitch: int, start: int, end: int, velocity: int = 64, channel: int = 0) -> list[Timed]:
    return [note_on(start, pitch, velocity, channel), note_off(end, pitch, channel)]


def control(tick: int, value: int, channel: int = 0, number: int = 64) -> Timed:
    return tick, mido.Message("control_change", control=number, value=value, channel=channel)


def pedal(*changes: tuple[int, int], channel: int = 0) -> list[Timed]:
    return [control(tick, value, channel) for tick, value in changes]


def program(number: int, channel: int = 0, tick: int = 0) -> list[Timed]:
    return [(tick, mido.Message("program_change", program=number, channel=channel))]


def tempo(tick: int, microseconds: int) -> Timed:
    return tick, mido.MetaMessage("set_tempo", tempo=microseconds)


def midi_bytes(*tracks: list[Timed], ticks: int = 500) -> bytes:
    """Return the content of a MIDI file; at 500 ticks per quarter note, a tick is 1 ms."""
    file = mido.MidiFile(ticks_per_beat=ticks)
    for messages in tracks:
        track, now = mido.MidiTrack(), 0
        for tick, message in sorted(messages, key=lambda timed: timed[0]):
            track.append(message.copy(time=tick - now))
            now = tick
        file.tracks.append(track)
    content = io.BytesIO()
    file.save(file=content)
    return content.getvalue()


def rows(notes: NoteSeq) -> list[Row]:
    """Return start, end, pitch and velocity of each note, in milliseconds."""
    starts, ends, pitches, velocities = (column.tolist() for column in notes.columns)
    return [
        (round(1000 * start), round(1000 * end), pitch, velocity)
        for start, end, pitch, velocity in zip(starts, ends, pitches, velocities, strict=True)
    ]


def spans(notes: NoteSeq) -> list[tuple[int, float, float]]:
    """Return pitch, start and end of each note, in milliseconds."""
    return [(pitch, start, end) for start, end, pitch, _ in rows(notes)]
