"""Reading and writing MIDI files, compared with pretty_midi and plain loops."""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import mido
import numpy as np
import pretty_midi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi.notes import has_only_drums, read_midi, read_midi_texts
from sequence import NoteSeq
from tests.midi.messages import (
    DRUMS,
    Row,
    Timed,
    control,
    midi_bytes,
    note,
    note_off,
    note_on,
    pedal,
    program,
    rows,
    spans,
    tempo,
)

Reader = Callable[[bytes], NoteSeq]


def read_with_pretty_midi(content: bytes) -> NoteSeq:
    return NoteSeq.from_midi(pretty_midi.PrettyMIDI(io.BytesIO(content)))


@pytest.fixture(
    params=[NoteSeq.from_midi_bytes, read_with_pretty_midi], ids=["file", "pretty_midi"]
)
def read(request: pytest.FixtureRequest) -> Reader:
    """Read the content of a MIDI file directly, or through a PrettyMIDI object."""
    return request.param


# ------------------------------------------------------------------------------------------- notes


def test_notes_have_start_end_pitch_and_velocity(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 500, 1) + note(108, 250, 750, 127) + note(21, 500, 501, 80))
    assert rows(read(content)) == [(0, 500, 60, 1), (250, 750, 108, 127), (500, 501, 21, 80)]


def test_velocity_zero_is_a_note_off(read: Reader) -> None:
    assert spans(read(midi_bytes([note_on(0, 60), note_on(400, 60, velocity=0)]))) == [(60, 0, 400)]


def test_tracks_and_channels_are_merged(read: Reader) -> None:
    content = midi_bytes(
        note(60, 0, 500) + note(61, 100, 600, channel=3), note(62, 50, 400, channel=1)
    )
    assert spans(read(content)) == [(60, 0, 500), (62, 50, 400), (61, 100, 600)]


def test_drums_are_dropped(read: Reader) -> None:
    content = midi_bytes(note(36, 0, 500, channel=DRUMS) + note(60, 0, 500))
    assert spans(read(content)) == [(60, 0, 500)]


@pytest.mark.parametrize(
    ("channels", "only"), [([DRUMS, DRUMS], True), ([DRUMS, 0], False), ([0], False), ([], False)]
)
def test_has_only_drums(channels: list[int], only: bool) -> None:
    tracks = [[], *(note(36, 0, 500, channel=c) for c in channels)]
    assert has_only_drums(midi_bytes(*tracks)) is only


def test_note_off_without_a_note_is_ignored(read: Reader) -> None:
    assert spans(read(midi_bytes([note_off(0, 60), *note(62, 100, 200)]))) == [(62, 100, 200)]


def test_file_without_notes_is_empty(read: Reader) -> None:
    assert len(read(midi_bytes(pedal((0, 127), (500, 0))))) == 0


def test_overlapping_notes_of_one_pitch() -> None:
    twice = [note_on(0, 60, 10), note_on(1000, 60, 20), note_off(2000, 60), note_off(3000, 60)]
    expected = [(0, 1000, 60, 10), (1000, 3000, 60, 20)]
    assert rows(NoteSeq.from_midi_bytes(midi_bytes(twice))) == expected


def test_new_note_cuts_pitch_of_other_channel(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 900), note(60, 400, 600, channel=1))
    assert spans(read(content)) == [(60, 0, 400), (60, 400, 600)]


def test_new_note_does_not_cut_other_pitches(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 900) + note(61, 400, 600))
    assert spans(read(content)) == [(60, 0, 900), (61, 400, 600)]


@pytest.mark.parametrize(
    ("programs", "pitches"),
    [([0], [60]), ([5], [61]), ([5, 0], [60, 61]), (range(8), [60, 61])],
)
def test_programs_select_instruments(
    programs: Iterable[int], pitches: list[int], tmp_path: Path
) -> None:
    content = midi_bytes(
        note(60, 0, 500),
        program(5, channel=1) + note(61, 0, 500, channel=1),
        program(40, channel=2) + note(62, 0, 500, channel=2),
    )
    path = tmp_path / "three.mid"
    path.write_bytes(content)
    midi = pretty_midi.PrettyMIDI(io.BytesIO(content))
    assert NoteSeq.from_midi(midi, iter(programs)).pitches.tolist() == pitches
    assert NoteSeq.from_midi_file(path, iter(programs)).pitches.tolist() == pitches


# ------------------------------------------------------------------------------------------- pedal


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        pytest.param([(100, 127), (900, 0)], 900, id="until it is lifted"),
        pytest.param([(100, 64), (900, 63)], 900, id="down from 64"),
        pytest.param([(100, 63), (900, 0)], 500, id="63 is up"),
        pytest.param([(600, 127), (900, 0)], 500, id="pressed after the note"),
        pytest.param([(100, 127), (400, 0)], 500, id="lifted before the note ends"),
        pytest.param([(100, 127), (650, 64), (800, 63), (900, 0)], 800, id="partly lifted"),
        pytest.param(
            [(100, 127), (300, 0), (400, 90), (950, 0)], 950, id="pressed again during the note"
        ),
        pytest.param([(100, 127), (600, 0), (610, 127), (950, 0)], 600, id="pressed again at once"),
        pytest.param([(100, 127)], 700, id="never lifted, until the last note"),
        pytest.param([(100, 127), (800, 90)], 800, id="never lifted, until the last change"),
    ],
)
def test_pedal_extends_notes(changes: list[tuple[int, int]], end: int, read: Reader) -> None:
    content = midi_bytes(note(60, 0, 500) + note(72, 620, 700) + pedal(*changes))
    assert spans(read(content))[0] == (60, 0, end)


def test_new_note_cuts_a_held_note(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 200) + note(60, 600, 700) + pedal((100, 127), (900, 0)))
    assert spans(read(content)) == [(60, 0, 600), (60, 600, 900)]


def test_other_pedals_are_ignored(read: Reader) -> None:
    others = [
        control(tick, value, number=n) for tick, value in ((0, 127), (900, 0)) for n in (65, 67)
    ]
    assert spans(read(midi_bytes(note(60, 0, 500) + others))) == [(60, 0, 500)]


def test_each_instrument_has_its_own_pedal(read: Reader) -> None:
    content = midi_bytes(
        program(40) + note(60, 0, 200) + pedal((100, 127), (900, 0)),
        program(41, 1) + note(72, 0, 200, channel=1) + pedal((50, 127), (400, 0), channel=1),
        program(42, 2) + note(84, 0, 200, channel=2),
    )
    assert spans(read(content)) == [(60, 0, 900), (72, 0, 400), (84, 0, 200)]


def test_pedal_before_a_program_change_counts(read: Reader) -> None:
    content = midi_bytes(pedal((0, 127)) + program(5) + note(60, 10, 200) + pedal((900, 0)))
    assert spans(read(content)) == [(60, 10, 900)]


def test_pedal_lifted_after_a_program_change() -> None:
    content = midi_bytes(
        note(60, 0, 200) + pedal((100, 127)) + program(5, tick=300) + pedal((800, 0))
        + note(62, 1000, 1200)
    )  # fmt: skip
    assert spans(NoteSeq.from_midi_bytes(content)) == [(60, 0, 800), (62, 1000, 1200)]


# ---------------------------------------------------------------- plain loops


def extend(notes: list[Row], changes: list[tuple[float, int]]) -> list[Row]:
    """Return notes; those held by the pedal end when it is lifted, or at the last event."""
    times = [time for time, _ in changes]
    last = max([note[1] for note in notes] + times)
    extended = []
    for start, end, pitch, velocity in notes:
        index = bisect_left(times, end) - 1  # note offs come before changes at the same time
        if index >= 0 and changes[index][1] >= 64:
            end = next((time for time, value in changes[index:] if value < 64), last)
        extended.append((start, end, pitch, velocity))
    return extended


def cut(notes: list[Row]) -> list[Row]:
    """Return notes, each cut off when its key is struck again."""
    onsets: dict[int, list[float]] = defaultdict(list)
    for start, _, pitch, _ in sorted(notes):
        onsets[pitch].append(start)
    cut_notes = []
    for start, end, pitch, velocity in notes:
        later = bisect_right(onsets[pitch], start)
        if later < len(onsets[pitch]):
            end = min(end, onsets[pitch][later])
        cut_notes.append((start, end, pitch, velocity))
    return sort_rows(cut_notes)


def sort_rows(notes: Iterable[Row]) -> list[Row]:
    """Sort by start, pitch, velocity and end."""
    return sorted(notes, key=lambda row: (row[0], row[2], row[3], row[1]))


# ------------------------------------------------------------------------------------------- tempo


def test_tempo_changes_apply_from_their_tick(read: Reader) -> None:
    tempos = [tempo(0, 500_000), tempo(960, 1_000_000), tempo(1440, 250_000)]
    content = midi_bytes(tempos, note(60, 480, 1200) + note(61, 1440, 1920), ticks=480)
    assert spans(read(content)) == [(60, 500, 1500), (61, 2000, 2250)]


def test_tempo_changes_of_other_tracks_apply() -> None:
    content = midi_bytes(note(60, 0, 1000), [tempo(500, 1_000_000)])
    assert spans(NoteSeq.from_midi_bytes(content)) == [(60, 0, 1500)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ticks", [24, 480, 10_000])
def test_random_tempo_changes_match_pretty_midi(ticks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, lengths = rng.integers(0, 50 * ticks, 40), rng.integers(50_000, 3_000_000, 40)
    tempos = [tempo(*row) for row in zip(times.tolist(), lengths.tolist(), strict=True)]
    starts = np.sort(rng.choice(60 * ticks, 60, replace=False))
    ends = starts + rng.integers(1, 5 * ticks, 60)
    messages = []
    for pitch, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), 30):
        messages += note(pitch, start, end)
    content = midi_bytes(tempos, messages, ticks=ticks)
    notes = NoteSeq.from_midi_bytes(content)
    (piano,) = pretty_midi.PrettyMIDI(io.BytesIO(content)).instruments
    expected = [(n.start, n.end) for n in sorted(piano.notes, key=lambda n: n.pitch)]
    np.testing.assert_allclose(np.stack([notes.starts, notes.ends], 1), expected, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------- invalid files


WHOLE = midi_bytes([m for i in range(40) for m in note(60, 100 * i, 100 * i + 50)])
BROKEN = {
    "text": b"This is not a MIDI file.\n" * 20,
    "no ticks": WHOLE[:12] + b"\0\0" + WHOLE[14:],
    "17 film frames a second": WHOLE[:12] + b"\xef\x28" + WHOLE[14:],
    "zeros after the magic": b"MThd" + bytes(40),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_invalid_file_is_rejected_with_its_path(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.mid"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        NoteSeq.from_midi_file(path)


def test_missing_midi_file_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        NoteSeq.from_midi_file(tmp_path / "missing.mid")


@given(st.lists(st.tuples(st.integers(0, 299), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_read_or_rejected(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(WHOLE)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        notes = NoteSeq.from_midi_bytes(bytes(damaged))
    except ValueError:
        return
    assert (notes.ends > notes.starts).all()


# ---------------------------------------------------------------------------------- example files


def table(notes: Iterable[Row]) -> np.ndarray:
    """Return sorted notes as a table [notes, 4]."""
    return np.array(sort_rows(notes))


def read_plainly_from(midi: pretty_midi.PrettyMIDI) -> list[Row]:
    """Return the notes of all instruments: pedals by plain loops, then cuts."""
    extended: list[Row] = []
    for instrument in midi.instruments:
        notes = [(n.start, n.end, n.pitch, n.velocity) for n in instrument.notes]
        changes = [(c.time, c.value) for c in instrument.control_changes if c.number == 64]
        extended += extend(notes, sorted(changes, key=lambda change: change[0]))
    return cut(extended)


def test_notes_of_example_files_match_a_plain_loop(midi_path: Path) -> None:
    midi = pretty_midi.PrettyMIDI(str(midi_path))
    expected = table(read_plainly_from(midi))
    seqs = {1e-9: NoteSeq.from_midi(midi), 1e-4: NoteSeq.from_midi_file(midi_path)}
    for tolerance, notes in seqs.items():
        found = table(zip(*(column.tolist() for column in notes.columns), strict=True))
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


# -------------------------------------------------------------------------------------- writing


def many_notes(seed: int = 0) -> list[Row]:
    """Return notes of up to 3 s in ten minutes, by pitch; those of one key do not overlap."""
    rng = np.random.default_rng(seed)
    found = []
    for pitch in range(21, 109):
        now = 7.0 * (pitch - 21)
        for _ in range(10):
            start = now + float(rng.choice([0, rng.uniform(0, 5)]))
            end = start + float(rng.choice([0, rng.uniform(0.002, 0.01), rng.uniform(0.002, 3)]))
            found.append((start, end, pitch, int(rng.integers(1, 128))))
            now = max(end, start + 0.002)
    return found


@pytest.mark.parametrize("bpm", [30.0, 90.0, 120.0, 137.0, 240.0])
def test_notes_are_written_to_a_millisecond(bpm: float) -> None:
    content, expected = io.BytesIO(), np.array(many_notes())
    NoteSeq(*expected.T).to_midi(tempo=bpm).write(content)
    content.seek(0)
    (piano,) = pretty_midi.PrettyMIDI(content).instruments
    assert (piano.program, piano.is_drum) == (0, False)
    notes = sorted(piano.notes, key=lambda n: (n.pitch, n.start))
    found = np.array([(n.start, n.end, n.pitch, n.velocity) for n in notes])
    np.testing.assert_array_equal(found[:, 2:], expected[:, 2:])
    expected[:, 1] = np.maximum(expected[:, 1], expected[:, 0] + 0.001)  # at least a tick long
    rtol = 1.1e-6 if 60e6 % bpm else 0  # a file has whole microseconds per quarter note
    np.testing.assert_allclose(found[:, :2], expected[:, :2], atol=6e-4, rtol=rtol)


def test_writing_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    path.write_bytes(b"old")
    NoteSeq([0], [1], [60], [64]).to_midi_file(path, program=127)
    assert spans(NoteSeq.from_midi_file(path, [127])) == [(60, 0, 1000)]
    content = path.read_bytes()
    NoteSeq([0], [1], [60], [64]).to_midi_file(path, program=127)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    NoteSeq().to_midi_file(path)
    assert len(NoteSeq.from_midi_file(path)) == 0


@pytest.mark.parametrize("bpm", [0.0, -120.0, 1.0, 1e6, float("nan"), float("inf")])
def test_invalid_tempo_is_rejected(bpm: float) -> None:
    with pytest.raises(ValueError, match="tempo"):
        NoteSeq([0], [1], [60], [64]).to_midi(tempo=bpm)


# ----------------------------------------------------------------------------------- text events

TEXTS = ["seed: 7", "session: Übung 中.sess", "", "control: 1,0;3\nand more", "x" * 40_000]
CHORD = NoteSeq([0, 0.5, 0.5], [1, 2, 3], [60, 64, 67], [50, 60, 70])


def text(tick: int, content: str) -> Timed:
    return tick, mido.MetaMessage("text", text=content)


def test_other_libraries_read_text_events(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.mid", tmp_path / "plain.mid"
    CHORD.to_midi_file(path, texts=TEXTS)
    CHORD.to_midi_file(plain)
    first, *_ = mido.MidiFile(path, charset="utf-8").tracks
    assert [message.text for message in first if message.type == "text"] == TEXTS
    assert NoteSeq.from_midi_file(path) == NoteSeq.from_midi_file(plain) == CHORD
    assert read_with_pretty_midi(path.read_bytes()) == CHORD
    assert read_midi_texts(path.read_bytes()) == TEXTS
    assert read_midi_texts(plain.read_bytes()) == []


def test_invalid_unicode_is_escaped_in_text_events(tmp_path: Path) -> None:
    CHORD.to_midi_file(tmp_path / "a.mid", texts=["session: \udcff.sess"])
    assert read_midi_texts((tmp_path / "a.mid").read_bytes()) == ["session: \\udcff.sess"]


def test_only_texts_at_the_start_are_read() -> None:
    named = (0, mido.MetaMessage("track_name", name="n"))
    both = midi_bytes([named, text(0, "a"), tempo(0, 9), text(0, "b")])
    assert read_midi_texts(both) == ["a", "b"]
    assert read_midi_texts(midi_bytes([text(0, "a"), text(9, "late")])) == ["a"]
    assert read_midi_texts(midi_bytes([note_on(0, 60), text(0, "after a note")])) == []


@given(st.integers(0, 60), st.binary(max_size=60))
def test_read_midi_texts_never_fails(size: int, more: bytes) -> None:
    content = midi_bytes([text(0, "a" * 20)])[:size]
    assert set(read_midi_texts(content)) <= {"a" * 20}
    assert all(isinstance(found, str) for found in read_midi_texts(content + more))


# ------------------------------------------------------------------------------------ the pedal


def play_with_pedal(seed: int, count: int) -> NoteSeq:
    """Return random notes, many of which end together, and some by being struck again."""
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.integers(0, 60 * count, count)) / 1000
    lifts = np.unique(rng.integers(0, 60 * count + 3000, count // 5)) / 1000
    ends = starts + rng.integers(20, 1500, count) / 1000
    index = np.searchsorted(lifts, ends).clip(max=len(lifts) - 1)
    ends = np.where(rng.random(count) < 0.7, np.maximum(lifts[index], ends), ends)
    return NoteSeq.merge(NoteSeq(starts, ends, rng.integers(40, 60, count), [64] * count))


@pytest.mark.parametrize("seed", range(20))
def test_written_pedal_sounds_the_same(seed: int) -> None:
    notes = play_with_pedal(seed, count=200)
    plain = NoteSeq.from_midi_bytes(notes.to_midi_bytes())
    content = notes.to_midi_bytes(pedal=True)
    pedaled = NoteSeq.from_midi_bytes(content)
    for one, other in zip(plain.columns, pedaled.columns, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    keys = NoteSeq.from_midi_bytes(content, sustain=False)
    is_shorter = keys.ends < plain.ends - 0.05
    assert is_shorter.mean() > 0.2


def test_pedal_takes_over_when_the_next_note_starts() -> None:
    """A broken chord that sounds until second 2, and a note after it."""
    notes = NoteSeq([0, 0.5, 1, 2], [2, 2, 2, 2.5], [48, 52, 55, 60], [64] * 4)
    midi = notes.to_midi(pedal=True)
    (piano,) = midi.instruments
    assert [(round(c.time, 3), c.value) for c in piano.control_changes] == [(0.02, 127), (2, 0)]
    ends = {note.pitch: round(note.end, 3) for note in piano.notes}
    assert ends == {48: 0.5, 52: 1.0, 55: 2.0, 60: 2.5}


def test_no_pedal_without_overlapping_notes() -> None:
    starts = np.arange(8) / 2
    notes = NoteSeq(starts, starts + 0.5, 60 + np.arange(8), [64] * 8)
    assert not notes.to_midi(pedal=True).instruments[0].control_changes


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_reading_a_pipe_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mid")
    for read_path in (NoteSeq.from_midi_file, read_midi):
        with pytest.raises(OSError, match="Not a regular file"):
            read_path(tmp_path / "pipe.mid")
