"""MIDI files: what is read from them, against pretty_midi and plain loops, and written to them."""

from __future__ import annotations

import functools
import io
import re
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path

import mido
import numpy as np
import pretty_midi
import pytest
import symusic
from hypothesis import given
from hypothesis import strategies as st

from midi.notes import has_only_drums, read_midi_texts
from sequence import NoteSeq

Timed = tuple[int, "mido.Message | mido.MetaMessage"]
Row = tuple[float, float, int, int]  # start, end, pitch, velocity
Reader = Callable[[bytes], NoteSeq]

DRUMS = 9  # channel 10, counted from 0


# ---------------------------------------------------------------------------------- handmade files


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
    """The content of a MIDI file; with 500 ticks a quarter note, a tick is a millisecond."""
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


def by_pretty_midi(content: bytes) -> NoteSeq:
    return NoteSeq.from_midi(pretty_midi.PrettyMIDI(io.BytesIO(content)))


@pytest.fixture(params=[NoteSeq.from_midi_bytes, by_pretty_midi], ids=["file", "pretty_midi"])
def read(request: pytest.FixtureRequest) -> Reader:
    """Both ways from the content of a MIDI file to notes."""
    return request.param


def rows(notes: NoteSeq) -> list[Row]:
    """Start, end, pitch and velocity of each note, in milliseconds."""
    starts, ends, pitches, velocities = (column.tolist() for column in notes.columns)
    return [
        (round(1000 * start), round(1000 * end), pitch, velocity)
        for start, end, pitch, velocity in zip(starts, ends, pitches, velocities, strict=True)
    ]


def spans(notes: NoteSeq) -> list[tuple[int, float, float]]:
    """Pitch, start and end of each note, in milliseconds."""
    return [(pitch, start, end) for start, end, pitch, _ in rows(notes)]


# ------------------------------------------------------------------------------------------- notes


def test_notes_are_read_as_written(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 500, 1) + note(108, 250, 750, 127) + note(21, 500, 501, 80))
    assert rows(read(content)) == [(0, 500, 60, 1), (250, 750, 108, 127), (500, 501, 21, 80)]


def test_a_note_on_of_velocity_zero_is_a_note_off(read: Reader) -> None:
    assert spans(read(midi_bytes([note_on(0, 60), note_on(400, 60, velocity=0)]))) == [(60, 0, 400)]


def test_tracks_and_channels_become_one_sequence(read: Reader) -> None:
    content = midi_bytes(
        note(60, 0, 500) + note(61, 100, 600, channel=3), note(62, 50, 400, channel=1)
    )
    assert spans(read(content)) == [(60, 0, 500), (62, 50, 400), (61, 100, 600)]


def test_drums_are_left_out(read: Reader) -> None:
    content = midi_bytes(note(36, 0, 500, channel=DRUMS) + note(60, 0, 500))
    assert spans(read(content)) == [(60, 0, 500)]


@pytest.mark.parametrize(
    ("channels", "only"), [([DRUMS, DRUMS], True), ([DRUMS, 0], False), ([0], False), ([], False)]
)
def test_a_file_of_drums_alone_is_known(channels: list[int], only: bool) -> None:
    assert has_only_drums(midi_bytes(*(note(36, 0, 500, channel=c) for c in channels))) is only


def test_notes_of_no_length_are_left_out() -> None:
    content = midi_bytes(note(60, 100, 100) + note(62, 100, 101))
    assert spans(NoteSeq.from_midi_bytes(content)) == [(62, 100, 101)]


def test_an_off_without_an_on_and_an_on_without_an_off_are_no_notes(read: Reader) -> None:
    content = midi_bytes([note_off(0, 60), *note(62, 100, 200), note_on(300, 64)])
    assert spans(read(content)) == [(62, 100, 200)]


def test_a_file_without_notes_is_an_empty_sequence(read: Reader) -> None:
    assert len(read(midi_bytes(pedal((0, 127), (500, 0))))) == 0


def test_the_first_off_ends_the_first_on_and_a_key_struck_again_is_cut() -> None:
    twice = [note_on(0, 60, 10), note_on(1000, 60, 20), note_off(2000, 60), note_off(3000, 60)]
    expected = [(0, 1000, 60, 10), (1000, 3000, 60, 20)]
    assert rows(NoteSeq.from_midi_bytes(midi_bytes(twice))) == expected


def test_a_key_struck_by_another_channel_is_cut(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 900), note(60, 400, 600, channel=1))
    assert spans(read(content)) == [(60, 0, 400), (60, 400, 600)]


def test_other_pitches_are_not_cut(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 900) + note(61, 400, 600))
    assert spans(read(content)) == [(60, 0, 900), (61, 400, 600)]


@pytest.mark.parametrize(
    ("programs", "pitches"),
    [([0], [60]), ([5], [61]), ([0, 5], [60, 61]), (range(8), [60, 61]), (iter([5, 0]), [60, 61])],
)
def test_only_the_chosen_programs_are_read(
    programs: Iterable[int], pitches: list[int], tmp_path: Path
) -> None:
    content = midi_bytes(
        note(60, 0, 500),
        program(5, channel=1) + note(61, 0, 500, channel=1),
        program(40, channel=2) + note(62, 0, 500, channel=2),
    )
    wanted = list(programs)
    path = tmp_path / "three.mid"
    path.write_bytes(content)
    midi = pretty_midi.PrettyMIDI(io.BytesIO(content))
    assert NoteSeq.from_midi(midi, iter(wanted)).pitches.tolist() == pitches
    assert NoteSeq.from_midi_bytes(content, iter(wanted)).pitches.tolist() == pitches
    assert NoteSeq.from_midi_file(path, iter(wanted)).pitches.tolist() == pitches


# ------------------------------------------------------------------------------------------- pedal


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        pytest.param([(100, 127), (900, 0)], 900, id="held to where it is lifted"),
        pytest.param([(100, 64), (900, 63)], 900, id="down from 64"),
        pytest.param([(100, 63), (900, 0)], 500, id="63 is up"),
        pytest.param([(600, 127), (900, 0)], 500, id="too late for the note"),
        pytest.param([(100, 127), (400, 0)], 500, id="lifted before the key"),
        pytest.param([(100, 127), (650, 64), (800, 63), (900, 0)], 800, id="half lifted"),
        pytest.param([(100, 127), (300, 0), (400, 90), (950, 0)], 950, id="changed under the note"),
        pytest.param([(100, 127), (600, 0), (610, 127), (950, 0)], 600, id="next press is late"),
        pytest.param([(100, 127)], 700, id="never lifted: the last note's end"),
        pytest.param([(100, 127), (800, 90)], 800, id="never lifted: the last change"),
    ],
)
def test_the_pedal_holds_a_note(changes: list[tuple[int, int]], end: int, read: Reader) -> None:
    content = midi_bytes(note(60, 0, 500) + note(72, 620, 700) + pedal(*changes))
    assert spans(read(content))[0] == (60, 0, end)


def test_a_held_note_is_cut_where_its_key_is_struck_again(read: Reader) -> None:
    content = midi_bytes(note(60, 0, 200) + note(60, 600, 700) + pedal((100, 127), (900, 0)))
    assert spans(read(content)) == [(60, 0, 600), (60, 600, 900)]


def test_other_pedals_hold_nothing(read: Reader) -> None:
    others = [
        control(tick, value, number=n) for tick, value in ((0, 127), (900, 0)) for n in (66, 67)
    ]
    assert spans(read(midi_bytes(note(60, 0, 500) + others))) == [(60, 0, 500)]


def test_each_instrument_has_its_own_pedal(read: Reader) -> None:
    content = midi_bytes(
        note(60, 0, 200) + pedal((100, 127), (900, 0)),
        note(72, 0, 200, channel=1) + pedal((50, 127), (400, 0), channel=1),
        note(84, 0, 200, channel=2),
    )
    assert spans(read(content)) == [(60, 0, 900), (72, 0, 400), (84, 0, 200)]


def test_a_pedal_before_the_program_change_counts(read: Reader) -> None:
    content = midi_bytes(pedal((0, 127)) + program(5) + note(60, 10, 200) + pedal((900, 0)))
    assert spans(read(content)) == [(60, 10, 900)]


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="a pedal is known only to notes of the program in force when it moves",
)
def test_a_pedal_lifted_after_a_program_change_held_until_then() -> None:
    content = midi_bytes(
        note(60, 0, 200) + pedal((100, 127)) + program(5, tick=300) + pedal((800, 0))
        + note(62, 1000, 1200)
    )  # fmt: skip
    assert spans(NoteSeq.from_midi_bytes(content)) == [(60, 0, 800), (62, 1000, 1200)]


# ---------------------------------------------------------------------- any messages, a plain loop


def plainly_read(messages: list[Timed]) -> list[Row]:
    """What the messages of one track say: queues of open notes, then pedals, then cuts."""
    open_notes: dict[tuple[int, int], deque[tuple[int, int]]] = defaultdict(deque)
    played: dict[int, list[Row]] = defaultdict(list)  # by channel
    pedals: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for tick, message in sorted(messages, key=lambda timed: timed[0]):
        if message.type == "control_change":
            pedals[message.channel].append((tick, message.value))
            continue
        waiting = open_notes[message.channel, message.note]
        if message.type == "note_on":
            waiting.append((tick, message.velocity))
        elif waiting:
            start, velocity = waiting.popleft()
            if tick > start:
                played[message.channel].append((start, tick, message.note, velocity))
    heard = []
    for channel, channel_notes in played.items():
        if channel != DRUMS:
            heard += [held(row, pedals[channel], channel_notes) for row in channel_notes]
    return cut(heard)


def held(row: Row, changes: list[tuple[float, int]], others: list[Row]) -> Row:
    """The note, with its end where the pedal that holds it is lifted."""
    start, end, pitch, velocity = row
    index = bisect_right([time for time, _ in changes], end) - 1
    if index >= 0 and changes[index][1] >= 64:
        last = max([other[1] for other in others] + [time for time, _ in changes])
        end = next((time for time, value in changes[index:] if value < 64), last)
    return start, end, pitch, velocity


def cut(heard: list[Row]) -> list[Row]:
    """The notes in order, each cut where its key is struck again."""
    onsets: dict[int, list[float]] = defaultdict(list)
    for start, _, pitch, _ in sorted(heard):
        onsets[pitch].append(start)
    cut_notes = []
    for start, end, pitch, velocity in heard:
        later = bisect_right(onsets[pitch], start)
        if later < len(onsets[pitch]):
            end = min(end, onsets[pitch][later])
        cut_notes.append((start, end, pitch, velocity))
    return sorted(cut_notes, key=lambda row: (row[0], row[2], row[3], row[1]))


EVEN = st.integers(0, 400).map(lambda tick: 2 * tick)
CHANNELS = st.sampled_from([0, 1, DRUMS])
MESSAGES = st.one_of(  # no note at the tick of a pedal, so that nobody must say which comes first
    st.builds(note_on, EVEN, st.integers(60, 62), st.integers(1, 127), CHANNELS),
    st.builds(note_off, EVEN, st.integers(60, 62), CHANNELS),
    st.builds(
        control, EVEN.map(lambda tick: tick + 1), st.sampled_from([0, 63, 64, 127]), CHANNELS
    ),
)


@given(st.lists(MESSAGES, max_size=40))
def test_any_messages_are_read_as_a_plain_loop_reads_them(messages: list[Timed]) -> None:
    found = rows(NoteSeq.from_midi_bytes(midi_bytes(messages)))
    found.sort(key=lambda row: (row[0], row[2], row[3], row[1]))
    assert found == plainly_read(messages)


# ------------------------------------------------------------------------------------------- tempo


def test_a_tempo_change_counts_from_its_tick(read: Reader) -> None:
    slower = [tempo(0, 500_000), tempo(960, 1_000_000), tempo(1440, 250_000)]
    content = midi_bytes(slower, note(60, 480, 1200) + note(61, 1440, 1920), ticks=480)
    assert spans(read(content)) == [(60, 500, 1500), (61, 2000, 2250)]


def test_a_tempo_change_of_another_track_counts() -> None:
    content = midi_bytes(note(60, 0, 1000), [tempo(500, 1_000_000)])
    assert spans(NoteSeq.from_midi_bytes(content)) == [(60, 0, 1500)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ticks", [24, 480, 10_000])
def test_onsets_and_ends_follow_any_tempo_map_as_in_pretty_midi(ticks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tempos = [
        tempo(int(t), int(us))
        for t, us in zip(
            np.sort(rng.integers(0, 50 * ticks, 40)),
            rng.integers(50_000, 3_000_000, 40),
            strict=True,
        )
    ]
    starts = np.sort(rng.choice(60 * ticks, 60, replace=False)).tolist()
    content = midi_bytes(
        tempos,
        [
            m
            for i, t in enumerate(starts)
            for m in note(30 + i, t, t + int(rng.integers(1, 5 * ticks)))
        ],
        ticks=ticks,
    )
    notes = NoteSeq.from_midi_bytes(content)
    expected = pretty_midi.PrettyMIDI(io.BytesIO(content)).instruments[0].notes
    assert len(notes) == 60
    by_pitch = sorted(expected, key=lambda n: n.pitch)
    np.testing.assert_allclose(notes.starts, [n.start for n in by_pitch], atol=1e-6, rtol=0)
    np.testing.assert_allclose(notes.ends, [n.end for n in by_pitch], atol=1e-6, rtol=0)


# --------------------------------------------------------------------------------- what is no MIDI


WHOLE = midi_bytes([m for i in range(40) for m in note(60, 100 * i, 100 * i + 50)])
BROKEN = {
    "empty": b"",
    "text": b"Dear reader,\n\nthis is a letter.\n" * 20,
    "header cut": WHOLE[:9],
    "track cut": WHOLE[: len(WHOLE) // 2],
    "last byte missing": WHOLE[:-1],
    "no ticks": WHOLE[:12] + b"\0\0" + WHOLE[14:],
    "film frames for ticks": WHOLE[:12] + b"\xe7\x28" + WHOLE[14:],
    "zeros after the magic": b"MThd" + bytes(40),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_midi_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.mid"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        NoteSeq.from_midi_file(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        NoteSeq.from_midi_file(tmp_path / "missing.mid")


HEADER = 14  # bytes before the first track


def test_a_file_cut_anywhere_is_refused() -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(ValueError, match=r"MIDI|cut short"):
            NoteSeq.from_midi_bytes(WHOLE[:size])


@pytest.mark.parametrize("kept", [0, 1])
def test_a_file_cut_between_tracks_is_refused(kept: int) -> None:
    first = midi_bytes(note(60, 0, 500))
    both = midi_bytes(note(60, 0, 500), note(61, 0, 500))
    with pytest.raises(ValueError, match="cut short"):
        NoteSeq.from_midi_bytes(both[: len(first) if kept else HEADER])


@given(st.lists(st.tuples(st.integers(0, 299), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_read_or_refused_but_nothing_else(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(WHOLE)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        notes = NoteSeq.from_midi_bytes(bytes(damaged))
    except ValueError:
        return
    assert (notes.ends > notes.starts).all()


# -------------------------------------------------------------------------------------- real files


@functools.cache
def opened(path: Path) -> pretty_midi.PrettyMIDI:
    return pretty_midi.PrettyMIDI(str(path))


def in_order(notes: Iterable[Row]) -> np.ndarray:
    return np.array(sorted(notes, key=lambda row: (row[0], row[2], row[3], row[1])))


def columns_in_order(notes: NoteSeq) -> np.ndarray:
    return in_order(zip(*(column.tolist() for column in notes.columns), strict=True))


def from_pretty_midi(midi: pretty_midi.PrettyMIDI) -> list[Row]:
    """The notes of all instruments, held by a plain loop over each one's pedal."""
    heard = []
    for instrument in midi.instruments:
        changes = sorted(
            ((c.time, c.value) for c in instrument.control_changes if c.number == 64),
            key=lambda change: change[0],
        )
        times = [time for time, _ in changes]
        last = max([n.end for n in instrument.notes] + times)
        for n in instrument.notes:
            end, index = n.end, bisect_right(times, n.end) - 1
            if index >= 0 and changes[index][1] >= 64:
                while index < len(changes) and changes[index][1] >= 64:
                    index += 1
                end = changes[index][0] if index < len(changes) else last
            heard.append((n.start, end, n.pitch, n.velocity))
    return cut(heard)


@pytest.mark.real
def test_real_notes_start_as_in_pretty_midi(real_path: Path) -> None:
    played = [n for i in opened(real_path).instruments if not i.is_drum for n in i.notes]
    expected = in_order((n.start, n.end, n.pitch, n.velocity) for n in played)
    found = columns_in_order(NoteSeq.from_midi_file(real_path))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(found[:, 2:], expected[:, 2:])


@pytest.mark.real
def test_real_notes_end_where_a_plain_loop_lifts_the_pedal(real_path: Path) -> None:
    expected = in_order(from_pretty_midi(opened(real_path)))
    found = columns_in_order(NoteSeq.from_midi_file(real_path))
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=1e-4, rtol=0)


@pytest.mark.real
def test_a_real_pretty_midi_object_gives_the_same_notes(real_path: Path) -> None:
    midi = opened(real_path)
    found = columns_in_order(NoteSeq.from_midi(midi))
    np.testing.assert_allclose(found, in_order(from_pretty_midi(midi)), atol=1e-9, rtol=0)


# ----------------------------------------------------------------------------------------- writing


def many_notes(seed: int = 0) -> list[Row]:
    """Notes of 2 ms to 3 s on all the piano's keys; the notes of one key follow each other."""
    rng = np.random.default_rng(seed)
    found = []
    for pitch in range(21, 109):
        now = 0.0
        for _ in range(10):
            start = now + float(rng.choice([0, rng.uniform(0, 5)]))
            now = start + float(rng.choice([rng.uniform(0.002, 0.01), rng.uniform(0, 3) + 0.002]))
            found.append((start, now, pitch, int(rng.integers(1, 128))))
    return found


def test_a_written_file_is_read_back_by_pretty_midi(tmp_path: Path) -> None:
    expected = in_order(many_notes())
    NoteSeq(*expected.T).to_midi_file(tmp_path / "notes.mid")
    (piano,) = pretty_midi.PrettyMIDI(str(tmp_path / "notes.mid")).instruments
    assert (piano.program, piano.is_drum) == (0, False)
    found = np.array([(n.start, n.end, n.pitch, n.velocity) for n in piano.notes])

    def by_key(table: np.ndarray) -> np.ndarray:
        return table[np.lexsort((table[:, 0], table[:, 2]))]

    np.testing.assert_allclose(by_key(found)[:, :2], by_key(expected)[:, :2], atol=6e-4, rtol=0)
    np.testing.assert_array_equal(by_key(found)[:, 2:], by_key(expected)[:, 2:])


@pytest.mark.parametrize("tempo_", [30.0, 60.0, 90.0, 120.0, 137.0, 240.0])
def test_a_tick_is_a_millisecond_at_any_tempo(tempo_: float) -> None:
    content = io.BytesIO()
    NoteSeq([0.0, 61.001], [0.5, 61.002], [60, 61], [1, 2]).to_midi(tempo=tempo_).write(content)
    content.seek(0)
    first, second = pretty_midi.PrettyMIDI(content).instruments[0].notes
    assert [first.start, first.end] == pytest.approx([0, 0.5], abs=6e-4)
    assert [second.start, second.end] == pytest.approx([61.001, 61.002], abs=1.1e-3)


@pytest.mark.parametrize("number", [0, 1, 127])
def test_the_program_is_written(number: int, tmp_path: Path) -> None:
    notes = NoteSeq([0], [1], [60], [64])
    assert notes.to_midi(program=number).instruments[0].program == number
    notes.to_midi_file(tmp_path / "a.mid", program=number)
    programs = [m.program for m in mido.MidiFile(tmp_path / "a.mid") if m.type == "program_change"]
    assert programs == [number]


def test_writing_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    path.write_bytes(b"old")
    NoteSeq([0], [1], [60], [64]).to_midi_file(path)
    assert spans(NoteSeq.from_midi_file(path)) == [(60, 0, 1000)]
    assert list(tmp_path.iterdir()) == [path]


def test_no_notes_make_a_file_without_notes(tmp_path: Path) -> None:
    NoteSeq().to_midi_file(tmp_path / "a.mid")
    assert len(NoteSeq.from_midi_file(tmp_path / "a.mid")) == 0


def short_notes() -> NoteSeq:
    """Notes of 0 to 2 ms, strikes of a key at least 1 ms apart."""
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0, 0.002, 2000) * rng.integers(0, 2, 2000)
    starts = np.cumsum(lengths + rng.choice([0.00101, 0.7], 2000))
    return NoteSeq(starts, starts + lengths, np.full(2000, 60), np.full(2000, 64))


def test_no_note_is_too_short_to_be_written(tmp_path: Path) -> None:
    short_notes().to_midi_file(tmp_path / "a.mid")
    (piano,) = pretty_midi.PrettyMIDI(str(tmp_path / "a.mid")).instruments
    onsets, ends = np.array([(n.start, n.end) for n in piano.notes]).T
    np.testing.assert_allclose(onsets, short_notes().starts, atol=6e-4, rtol=0)
    assert 0.0009 < (ends - onsets).min() <= (ends - onsets).max() < 0.0031


@pytest.mark.parametrize("tempo_", [60.0, 120.0, 200.0, 90.0, 137.0])
def test_no_note_is_too_short_at_any_tempo(tempo_: float) -> None:
    starts = 3.0003 * np.arange(2000)
    content = io.BytesIO()
    NoteSeq(starts, starts, np.full(2000, 60), np.full(2000, 64)).to_midi(tempo=tempo_).write(
        content
    )
    content.seek(0)
    found = pretty_midi.PrettyMIDI(content).instruments[0].notes
    assert len(found) == 2000
    assert max(n.end - n.start for n in found) < 0.0031


@pytest.mark.parametrize("tempo_", [0.0, -120.0, 1.0, 1e6, float("nan"), float("inf")])
def test_a_tempo_that_can_not_be_written_is_refused(tempo_: float) -> None:
    with pytest.raises(ValueError, match="tempo"):
        NoteSeq([0], [1], [60], [64]).to_midi(tempo=tempo_)


# ----------------------------------------------------------------------------------- text events

TEXTS = ["seed: 7", "session: Übung 中.sess", "", "control: 1,0;3\nand more", "x" * 40_000]
A_FEW = NoteSeq([0, 0.5, 0.5], [1, 2, 3], [60, 64, 67], [50, 60, 70])


def text(tick: int, words: str) -> Timed:
    return tick, mido.MetaMessage("text", text=words)


def test_text_events_are_read_by_all_and_change_no_note(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.mid", tmp_path / "plain.mid"
    A_FEW.to_midi_file(path, texts=TEXTS)
    A_FEW.to_midi_file(plain)
    first, *_ = mido.MidiFile(path, charset="utf-8").tracks
    assert [message.text for message in first if message.type == "text"] == TEXTS
    read = pretty_midi.PrettyMIDI(str(path)).text_events
    assert [(event.text, event.time) for event in read if event.text.isascii()] == [
        (words, 0.0) for words in TEXTS if words.isascii()
    ]
    assert symusic.Score(str(path)).note_num() == len(A_FEW)
    assert NoteSeq.from_midi_file(path) == NoteSeq.from_midi_file(plain) == A_FEW
    assert by_pretty_midi(path.read_bytes()) == A_FEW
    assert read_midi_texts(path.read_bytes()) == TEXTS
    assert read_midi_texts(plain.read_bytes()) == []


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        A_FEW.to_midi_file(tmp_path / name, texts=iter(TEXTS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_name_that_is_no_unicode_is_written_with_backslashes(tmp_path: Path) -> None:
    A_FEW.to_midi_file(tmp_path / "a.mid", texts=["session: \udcff.sess"])
    assert read_midi_texts((tmp_path / "a.mid").read_bytes()) == ["session: \\udcff.sess"]


def test_only_the_texts_at_the_start_are_found() -> None:
    named = (0, mido.MetaMessage("track_name", name="n"))
    assert read_midi_texts(midi_bytes([named, text(0, "a"), tempo(0, 9), text(0, "b")])) == [
        "a",
        "b",
    ]
    assert read_midi_texts(midi_bytes([text(0, "a"), text(9, "late")])) == ["a"]
    assert read_midi_texts(midi_bytes([note_on(0, 60), text(0, "after a note")])) == []


@given(st.integers(0, 60), st.binary(max_size=60))
def test_texts_are_looked_for_in_any_bytes(kept: int, more: bytes) -> None:
    whole = midi_bytes([text(0, "a" * 20)])
    assert set(read_midi_texts(whole[:kept])) <= {"a" * 20}
    assert all(isinstance(words, str) for words in read_midi_texts(whole[:kept] + more))
