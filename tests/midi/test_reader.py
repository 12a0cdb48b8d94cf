"""The bytes of MIDI files: events, chunks, headers, and damage."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import re
import time
from pathlib import Path

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi import reader
from midi.notes import read_midi
from midi.reader import MidiEvents, read_events
from sequence import NoteSeq
from tests.midi.messages import midi_bytes, note, rows, spans, tempo

# ------------------------------------------------------------------------- files by hand, in bytes

END = b"\x00\xff\x2f\x00"
SCALE = b"".join(
    bytes([0, 0x90, key, 64, 0x64, 0x80, key, 64])  # 100 ticks each
    for key in range(60, 72)
)
SCALE_NOTES = [(key, 100 * (key - 60), 100 * (key - 59)) for key in range(60, 72)]


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return name + (len(content) if size is None else size).to_bytes(4, "big") + content


def header(
    kind: int = 1, tracks: int = 1, division: bytes = b"\x01\xf4", more: bytes = b""
) -> bytes:
    """Return a header chunk; 500 ticks per quarter note, so a tick is 1 ms."""
    content = kind.to_bytes(2, "big") + tracks.to_bytes(2, "big") + division + more
    return chunk(b"MThd", content)


def track(content: bytes = SCALE, size: int | None = None) -> bytes:
    return chunk(b"MTrk", content + END, size)


def read(content: bytes) -> list[tuple[int, float, float]]:
    return spans(NoteSeq.from_midi_bytes(content))


def shift(notes: list[tuple[int, float, float]], ticks: int) -> list[tuple[int, float, float]]:
    return [(pitch, start + ticks, end + ticks) for pitch, start, end in notes]


RIFF_FILE = header() + track()
SLOW = b"\x00\xff\x51\x03\x7f\x00\x00"  # a tempo, which has no meaning with SMPTE time
WHOLE = {
    "plain": header() + track(),
    "longer header": header(more=b"more") + track(),
    "unknown chunks": header() + chunk(b"XFIH", b"abc") + track() + chunk(b"XFKM", b"MTrk"),
    "in RIFF": b"RIFF" + (len(RIFF_FILE) + 12).to_bytes(4, "little") + b"RMIDdata"
    + len(RIFF_FILE).to_bytes(4, "little") + RIFF_FILE + b"LIST\x04\x00\x00\x00abcd",
    "SMPTE, 25 frames of 40 ticks": header(division=b"\xe7\x28") + track(SLOW + SCALE),
    "system exclusive in packets": header()
    + track(b"\x00\xf0\x03\x41\x10\x42" + b"\x00\xf7\x81\x00" + bytes(128) + SCALE),
    "clock as escapes": header() + track(b"\x00\xf7\x01\xf8" + SCALE),
    "meta event of 300 bytes": header() + track(b"\x00\xff\x01\x82\x2c" + bytes(300) + SCALE),
    "tempo 0": header() + track(b"\x00\xff\x51\x03\x00\x00\x00" + SCALE),
    "time in five bytes": header() + track(b"\x80\x80\x80\x80\x00\xc0\x00" + SCALE),
    "running status with one data byte": header() + track(b"\x00\xc0\x01\x00\x02\x00\x03" + SCALE),
    "bytes after the last track": header() + track() + b"\0" * 50,
}  # fmt: skip
REPAIRED = {
    "headers with a wrong number of tracks": header(tracks=7) + track(),
    "tracks without an end": header() + chunk(b"MTrk", SCALE),
    "tracks cut short": header() + track(SCALE + b"\x00\x90\x3c\x40")[:-5],
    "tracks with a wrong length": header() + track(size=3),
    "headers after other bytes": bytes(128) + header() + track(),
    "gaps between tracks": header() + b"\0\0\0" + track(),
    "MIDI files after the first one": header() + track() + header() + track(b"\x00\x90\x30\x40"),
    "events without a status byte": header() + track(b"\x00\x3c\x40" + SCALE),
    "system messages between events": header() + track(b"\x00\xf8\x00\xf1\x01" + SCALE),
    "data bytes over 127": header() + track(b"\x00\xb0\x07\xe2" + SCALE),
    "tracks with an unreadable rest": header() + track(SCALE + b"\x80" * 9),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_unusual_file_is_read(kind: str) -> None:
    assert read(WHOLE[kind]) == SCALE_NOTES
    assert not read_events(WHOLE[kind]).repairs


@pytest.mark.parametrize("kind", REPAIRED)
def test_damaged_file_is_repaired_and_counted(kind: str) -> None:
    assert read(REPAIRED[kind]) == SCALE_NOTES
    assert set(read_events(REPAIRED[kind]).repairs) == {kind}


@pytest.mark.parametrize("size", [0, 3, 20, 100, 1000, 1 << 31], ids=str)
def test_wrong_length_of_a_track_does_not_harm_the_next(size: int) -> None:
    high = b"".join(bytes([0, 0x90, key, 64, 0x64, 0x80, key, 64]) for key in range(80, 92))
    content = header(tracks=2) + track(size=size) + track(high)
    expected = SCALE_NOTES + [(pitch + 20, start, end) for pitch, start, end in SCALE_NOTES]
    assert sorted(read(content)) == expected


def test_data_bytes_over_127_count_as_127() -> None:
    notes = NoteSeq.from_midi_bytes(header() + track(b"\x00\x90\x3c\xc8\x0a\x90\x3c\x00"))
    assert rows(notes) == [(0, 10, 60, 127)]


def test_tracks_of_format_2_follow_one_another() -> None:
    held = b"\x00\xb0\x40\x7f\x00\x90\x30\x40"  # a pedal and a note that the track leaves open
    content = header(kind=2, tracks=2) + track(SCALE + held + b"\x64\xb0\x07\x01") + track()
    assert read(content) == [*SCALE_NOTES, (48, 1200, 1300), *shift(SCALE_NOTES, 1300)]


def test_ports_have_their_own_channels() -> None:
    ports = [b"\x00\xff\x21\x01" + bytes([port]) for port in (3, 5)]
    strings = b"\x00\xc0\x30\x00\xb0\x40\x7f\x00\x90\x30\x40\x64\x80\x30\x40"
    content = header(tracks=2) + track(ports[0] + strings) + track(ports[1] + SCALE)
    assert read(content) == SCALE_NOTES  # without the pedal and the program of the strings


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_wrong_size_in_a_riff_file(size: int) -> None:
    content = b"RIFF\0\0\0\0RMIDdata" + size.to_bytes(4, "little") + header() + track(SCALE)
    assert read(content) == SCALE_NOTES
    assert read_events(content).repairs == {"wrong sizes in a RIFF file": 1}


def test_late_ticks_do_not_wrap() -> None:
    late = b"\xff\xff\xff\x7f\xb0\x07\x01" * 20 + SCALE  # 20 times 2^28 - 1 ticks
    starts = NoteSeq.from_midi_bytes(header() + track(late)).starts
    assert starts[0] == pytest.approx(20 * (2**28 - 1) / 1000)


def test_impossible_ticks_are_not_read() -> None:
    late = SCALE + b"\xff\xff\xff\xff\xff\xff\xff\x7f\xb0\x07\x01" * 99 + SCALE
    content = header() + track(late)
    assert read(content) == SCALE_NOTES
    assert read_events(content).repairs["events later than 2^53 ticks"] == 99 + 24 + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no MIDI", r"does not start with MThd \(byte 0\)"),
        (b"", r"does not start with MThd \(byte 0\)"),
        (header()[:9], r"cut short in its header \(byte 9\)"),
        (header(division=b"\0\0") + track(), r"0 ticks per quarter note \(byte 12\)"),
        (header(division=b"\xef\x28") + track(), r"17 frames per second .* \(byte 12\)"),
        (header(division=b"\xe7\x00") + track(), r"25 frames per second of 0 ticks .* \(byte 12\)"),
        (header(), r"it has no track \(byte 14\)"),
        (header() + track(b"\x80" * 40), r"no event can be read .* \(byte 22\)"),
        (header() + track(SCALE) + track(b"") * 70_000, r"over 65,535 tracks \(byte \d+\)"),
    ],
)
def test_file_without_anything_to_trust_is_rejected(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_events(content)


def test_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    path.write_bytes(header())
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_midi(path)


# ----------------------------------------------------------------------------- compared with mido

KINDS = {"note_off": 8, "note_on": 9, "polytouch": 10, "control_change": 11, "program_change": 12,
         "aftertouch": 13, "pitchwheel": 14}  # fmt: skip


def list_events(content: bytes) -> list[tuple[int, ...]]:
    """Return tick, track, channel, kind and data bytes of all channel messages, read by mido."""
    events = []
    for number, messages in enumerate(mido.MidiFile(file=io.BytesIO(content)).tracks):
        ticks = itertools.accumulate(message.time for message in messages)
        for tick, message in zip(ticks, messages, strict=True):
            if message.type in KINDS:
                data = message.bytes()[1:]
                events.append((tick, number, message.channel, KINDS[message.type], *data))
    return sorted(events, key=lambda event: event[0])


def as_rows(events: MidiEvents) -> list[tuple[int, ...]]:
    columns = (events.ticks, events.tracks, events.channels, events.kinds, events.data1)
    rows = [tuple(map(int, row)) for row in zip(*columns, strict=True)]
    return [
        row if row[3] in (12, 13) else (*row, int(data2))
        for row, data2 in zip(rows, events.data2, strict=True)
    ]


BYTE, CHANNEL = st.integers(0, 127), st.integers(0, 15)
TICK = st.one_of(st.integers(0, 20), st.integers(0, 3_000_000))
MESSAGE = st.one_of(
    st.builds(mido.Message, st.just("note_on"), note=BYTE, velocity=BYTE, channel=CHANNEL),
    st.builds(mido.Message, st.just("note_off"), note=BYTE, velocity=BYTE, channel=CHANNEL),
    st.builds(mido.Message, st.just("polytouch"), note=BYTE, value=BYTE, channel=CHANNEL),
    st.builds(mido.Message, st.just("control_change"), control=BYTE, value=BYTE, channel=CHANNEL),
    st.builds(mido.Message, st.just("program_change"), program=BYTE, channel=CHANNEL),
    st.builds(mido.Message, st.just("aftertouch"), value=BYTE, channel=CHANNEL),
    st.builds(mido.Message, st.just("pitchwheel"), pitch=st.integers(-8192, 8191), channel=CHANNEL),
    st.builds(mido.Message, st.just("sysex"), data=st.lists(BYTE, max_size=300)),
    st.builds(mido.MetaMessage, st.just("text"), text=st.text(st.characters(max_codepoint=255))),
    st.builds(mido.MetaMessage, st.just("set_tempo"), tempo=st.integers(1, 2**24 - 1)),
)
FILES = st.lists(st.lists(st.tuples(TICK, MESSAGE), max_size=30), min_size=1, max_size=3).map(
    lambda tracks: midi_bytes(*tracks)
)


def use_running_status(content: bytes) -> bytes:
    """Return a file of one track with each status byte left out that repeats the last one."""
    result, last = b"", None
    for message in mido.MidiFile(file=io.BytesIO(content)).tracks[0]:
        data = bytes(message.bytes())
        time_bytes = bytes(mido.midifiles.meta.encode_variable_int(message.time))
        if message.type == "sysex":
            data = (
                b"\xf0" + bytes(mido.midifiles.meta.encode_variable_int(len(data) - 1)) + data[1:]
            )
        result += time_bytes + (data[1:] if data[0] == last and data[0] < 0xF0 else data)
        last = data[0]
    return header(tracks=1) + chunk(b"MTrk", result)


@pytest.mark.parametrize("segment", [7, 12_000])
@given(content=FILES)
def test_events_are_those_of_mido(segment: int, content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "SEGMENT", segment)
        assert as_rows(read_events(content)) == list_events(content)
        running = use_running_status(content)
        assert as_rows(read_events(running)) == list_events(running)


def test_times_are_those_of_mido(midi_path: Path) -> None:
    file = mido.MidiFile(midi_path)
    expected = np.cumsum([message.time for message in file])  # seconds
    is_channel = [message.type in KINDS for message in file]
    events = read_events(midi_path.read_bytes())
    np.testing.assert_allclose(events.to_seconds(events.ticks), expected[is_channel], atol=1e-6)


# ------------------------------------------------------------------------------------------ damage


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return a file with some bytes changed, inserted, removed or copied."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place, size = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 50])
        special = bytes([rng.choice([0, 0x7F, 0x80, 0x90, 0xC0, 0xF0, 0xF7, 0xFF])])
        part = rng.choice([rng.randbytes(size), special * size, b"MTrk", b"\xff\x2f\x00",
                           bytes(data[place : place + size])])  # fmt: skip
        end = place + rng.choice([0, size, len(part)])
        data[place:end] = rng.choice([part, part, b""])
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data)


# 300 files by default, and 100,000 with -m slow
BATCHES = [(0, 300), *(pytest.param(n, 2000, marks=pytest.mark.slow) for n in range(1, 51))]


@pytest.mark.parametrize(("seed", "count"), BATCHES)
def test_mutated_files_are_read_or_rejected(seed: int, count: int, midi_paths: list[Path]) -> None:
    rng = random.Random(seed)  # noqa: S311
    small = [*WHOLE.values(), *REPAIRED.values()]
    large = [path.read_bytes() for path in midi_paths]
    slowest = 0.0
    for number in range(count):
        content = mutate(rng.choice(large if number % 50 == 0 else small), rng)
        start = time.process_time()
        try:
            notes, stats = read_midi(content)
        except ValueError as error:
            reason = str(error)
        else:
            assert len(notes) == stats.notes <= len(content), content
            assert (notes.ends > notes.starts).all(), content
            reason = "byte 0"
        assert re.search(r"byte \d+", reason), (reason, content)
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 2


def test_every_truncation_is_read_or_rejected() -> None:
    content = midi_bytes(note(60, 0, 500) + note(62, 600, 900), [tempo(0, 400_000)])
    counts = []
    for size in range(len(content)):
        try:
            counts.append(len(NoteSeq.from_midi_bytes(content[:size])))
        except ValueError:
            counts.append(0)
    assert counts == sorted(counts)
    assert counts[-1] == 2


OPEN, CLOSE = b"\x00\x90\x3c\x40", b"\x00\x80\x3c\x40"
HOSTILE = {
    "tracks": header(tracks=9_000) + chunk(b"MTrk", OPEN + END) * 9_000,
    "empty tracks": header(tracks=60_000) + chunk(b"MTrk", b"") * 60_000 + track(),
    "one key": header() + track(OPEN * 50_000 + b"\x01" + CLOSE[1:] + CLOSE * 50_000),
    "all notes off": header() + track((OPEN + b"\x00\xb0\x7b\x00") * 50_000),
    "programs": header() + track((b"\x00\xc0\x01" + OPEN + b"\x00\xc0\x02") * 50_000),
    "names": header() + track(b"\x00\xff\x03\x01a" * 20_000),
    "long meta events": header() + track(b"\x00\xff\x01\xff\xff\xff\x7f" * 50_000),
    "times of eight bytes": header() + track(b"\x80" * 500_000 + SCALE),
    "unknown chunks": header() + chunk(b"abcd", b"") * 50_000 + track(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_takes_little_time(kind: str) -> None:
    start = time.process_time()
    with contextlib.suppress(ValueError):
        read_midi(HOSTILE[kind])
    assert time.process_time() - start < 10
