"""Notes as a synthesizer plays them: keys, pedals, channels, and which tracks are the piano."""

from __future__ import annotations

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi.notes import read_midi
from midi.playback import (
    ALL_TRACKS,
    ENDED_BY_CONTROL,
    LONG_HOLD,
    MISSING_PIANO,
    NAMED_TRACKS,
    NO_LENGTH,
    NO_NOTE_OFF,
    NO_NOTE_ON,
    NO_PIANO,
    ONLY_PIANO,
    PIANO_OF_SEVERAL,
    MidiStats,
    format_repair,
)
from midi.reader import LARGE_BYTES, WRONG_TRACK_COUNT
from sequence import NoteSeq
from tests.midi.messages import (
    DRUMS,
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
from tests.midi.plain_player import play_plainly

STRINGS = 48


def read(*tracks: list[Timed]) -> NoteSeq:
    return NoteSeq.from_midi_bytes(midi_bytes(*tracks))


def measure(*tracks: list[Timed]) -> MidiStats:
    return read_midi(midi_bytes(*tracks))[1]


def named(name: str) -> list[Timed]:
    return [(0, mido.MetaMessage("track_name", name=name))]


# ---------------------------------------------------------------------- keys and their note offs


@pytest.mark.parametrize(
    ("messages", "notes", "repairs"),
    [
        pytest.param(
            [note_on(0, 60), *note(60, 500, 600), *note(60, 900, 950)],
            [(60, 0, 500), (60, 500, 600), (60, 900, 950)],
            {NO_NOTE_OFF: 1},
            id="first note off is missing",
        ),
        pytest.param(
            [*note(60, 0, 100), note_on(200, 60), *note(62, 300, 400)],
            [(60, 0, 100), (60, 200, 400), (62, 300, 400)],
            {NO_NOTE_OFF: 1},
            id="last note off is missing",
        ),
        pytest.param(
            [note_on(0, 60), note_on(100, 60), note_off(200, 60), note_off(300, 60)],
            [(60, 0, 100), (60, 100, 300)],
            {},
            id="overlap: first in, first out",
        ),
        pytest.param(
            [
                *(note_on(tick, 60) for tick in (0, 100, 200)),
                *(note_off(tick, 60) for tick in (150, 250, 300)),
            ],
            [(60, 0, 100), (60, 100, 200), (60, 200, 300)],
            {},
            id="chain of overlaps",
        ),
        pytest.param(
            [note_on(0, 60), note_on(500, 60), note_off(500, 60), *note(60, 700, 800)],
            [(60, 0, 500), (60, 500, 700), (60, 700, 800)],
            {NO_NOTE_OFF: 1},
            id="new note before the end of the old one, at one tick",
        ),
        pytest.param(
            [note_off(0, 60), *note(60, 100, 200), note_off(300, 60)],
            [(60, 100, 200)],
            {NO_NOTE_ON: 2},
            id="note offs without a note",
        ),
        pytest.param(
            [note_on(0, 60), note_on(0, 62), control(300, 0, number=123), note_off(500, 60)],
            [(60, 0, 300), (62, 0, 300)],
            {ENDED_BY_CONTROL: 2, NO_NOTE_ON: 1},
            id="all notes off",
        ),
        pytest.param(
            [note_on(0, 60), control(200, 0, number=123), *note(60, 400, 500)],
            [(60, 0, 200), (60, 400, 500)],
            {ENDED_BY_CONTROL: 1},
            id="notes after all notes off",
        ),
        pytest.param(
            [
                *[control(0, 127), *note(60, 10, 100), note_on(50, 62)],
                *[control(300, 0, number=120), *note(64, 400, 500), control(600, 0)],
            ],
            [(60, 10, 300), (62, 50, 300), (64, 400, 600)],
            {ENDED_BY_CONTROL: 1},
            id="all sound off ends held notes, too",
        ),
        pytest.param(
            [control(0, 127), note_on(10, 60), control(300, 0, number=123), control(600, 0)],
            [(60, 10, 600)],
            {ENDED_BY_CONTROL: 1},
            id="the pedal holds notes after all notes off",
        ),
        pytest.param(
            [*note(60, 100, 100), *note(62, 100, 200)],
            [(60, 100, 101), (62, 100, 200)],
            {NO_LENGTH: 1},
            id="no length",
        ),
        pytest.param(
            [control(0, 127), *note(60, 100, 100), control(300, 0)],
            [(60, 100, 300)],
            {},
            id="no length, held by the pedal",
        ),
    ],
)
def test_how_notes_end(
    messages: list[Timed], notes: list[tuple[int, int, int]], repairs: dict[str, int]
) -> None:
    found, stats = read_midi(midi_bytes(messages))
    assert spans(found) == notes
    assert stats.repairs == repairs


def test_open_note_sounds_until_the_last_track_ends() -> None:
    tracks = [note_on(0, 60)], [tempo(900, 500_000)], note(62, 0, 100)
    assert spans(read(*tracks)) == [(60, 0, 900), (62, 0, 100)]


# ------------------------------------------------------------------------------------------ pedals


def test_pedal_of_another_track() -> None:
    assert spans(read(note(60, 0, 200), pedal((100, 127), (900, 0)))) == [(60, 0, 900)]


def test_events_of_one_tick_are_in_file_order() -> None:
    legato = [note_off(500, 60), control(500, 0), control(500, 127), note_on(500, 62)]
    late = [note_off(900, 62), control(900, 0)]
    assert spans(read([control(0, 127), note_on(0, 60), *legato, *late])) == [
        (60, 0, 500),
        (62, 500, 900),
    ]


def test_reset_of_controllers_lifts_the_pedal() -> None:
    messages = [control(0, 127), *note(60, 0, 100), control(400, 127, number=121), control(900, 0)]
    assert spans(read(messages)) == [(60, 0, 400)]


@pytest.mark.parametrize(
    ("sustain", "end"),
    [
        pytest.param([], 700, id="until it is lifted"),
        pytest.param([(600, 127), (800, 0)], 800, id="then sustain holds it"),
        pytest.param([(150, 127), (300, 0)], 700, id="sustain is lifted before"),
    ],
)
def test_sostenuto_holds_keys_that_were_down(sustain: list[tuple[int, int]], end: int) -> None:
    sostenuto = [control(100, 127, number=66), control(700, 0, number=66)]
    messages = note(60, 0, 200) + sostenuto + pedal(*sustain) + note(72, 820, 900)
    assert spans(read(messages))[0] == (60, 0, end)
    late = note(62, 400, 450) + sostenuto + note(72, 820, 900)
    assert spans(read(late))[0] == (62, 400, 450)


def test_pedal_holds_at_most_20_seconds() -> None:
    messages = note(60, 0, 500) + note(62, 1000, 50_000) + pedal((100, 127), (60_000, 0))
    notes, stats = read_midi(midi_bytes(messages))
    assert spans(notes) == [(60, 0, 20_500), (62, 1000, 60_000)]
    assert stats.repairs == {LONG_HOLD: 1}


@pytest.mark.parametrize(
    ("messages", "is_stuck"),
    [
        (pedal((0, 127), (31_000, 0)) + note(60, 30_500, 30_600), True),
        (pedal((0, 127), (31_000, 0)) + note(60, 29_500, 29_600), False),
        (pedal((0, 127), (29_000, 0)) + note(60, 30_500, 30_600), False),
        (pedal((0, 127)) + note(60, 500, 600), True),
        (note(60, 500, 600), False),
    ],
    ids=["notes after 30 s", "no notes after 30 s", "lifted before", "never lifted", "no pedal"],
)
def test_stuck_pedal_is_reported(messages: list[Timed], is_stuck: bool) -> None:
    assert measure(messages).has_stuck_pedal is is_stuck


HANDS = [note(60, 0, 200), note(40, 0, 200, channel=1)]
PEDAL = pedal((100, 127), (900, 0))


@pytest.mark.parametrize(
    ("tracks", "end"),
    [
        pytest.param(HANDS, 900, id="no programs"),
        pytest.param([program(3) + HANDS[0], program(0, 1) + HANDS[1]], 900, id="pianos"),
        pytest.param(
            [
                program(STRINGS) + named("Right Hand") + HANDS[0],
                program(STRINGS, 1) + named("LH") + HANDS[1],
            ],
            900,
            id="hands",
        ),
        pytest.param([HANDS[0], program(STRINGS, 1) + HANDS[1]], 200, id="piano and strings"),
        pytest.param([HANDS[0], named("Violin") + HANDS[1]], 200, id="named violin"),
        pytest.param([*HANDS, note(36, 0, 9, channel=DRUMS)], 200, id="with drums"),
    ],
)
def test_one_piano_on_several_channels_has_one_pedal(tracks: list[list[Timed]], end: int) -> None:
    notes, stats = read_midi(midi_bytes(*tracks, PEDAL), "all")
    assert dict(zip(notes.pitches.tolist(), spans(notes), strict=True)) == {
        60: (60, 0, 900),
        40: (40, 0, end),
    }
    assert stats.pedal_is_shared is (end == 900)


def test_pedal_on_a_channel_without_notes() -> None:
    notes, stats = read_midi(midi_bytes(note(60, 0, 200), pedal((100, 127), (900, 0), channel=5)))
    assert (spans(notes), stats.pedal_is_shared) == ([(60, 0, 900)], True)


def test_pedal_of_one_channel_is_not_shared() -> None:
    assert not measure(note(60, 0, 200), PEDAL).pedal_is_shared
    assert not measure(*HANDS).pedal_is_shared


# ------------------------------------------------------------------------------------- programs


def test_program_belongs_to_the_channel() -> None:
    content = midi_bytes(
        note(60, 0, 100), program(STRINGS, tick=200), note(62, 300, 400) + note(64, 300, 400, 64, 1)
    )
    assert NoteSeq.from_midi_bytes(content, [STRINGS]).pitches.tolist() == [62]
    assert NoteSeq.from_midi_bytes(content, [0]).pitches.tolist() == [60, 64]


# ------------------------------------------------------- random files, a plain player, one track

PITCHES = st.integers(60, 61)
CHANNELS = st.sampled_from([0, 1, DRUMS])
NUMBERS = st.sampled_from([64, 64, 64, 66, 66, 120, 121, 123, 126, 7])


def make_tracks(draw: st.DrawFn) -> list[list[Timed]]:
    scale = draw(st.sampled_from([1, 7, 3000]))
    tick = st.integers(0, 30).map(lambda number: number * scale)
    message = st.one_of(
        st.builds(note_on, tick, PITCHES, st.integers(0, 127), CHANNELS),
        st.builds(note_off, tick, PITCHES, CHANNELS),
        st.builds(control, tick, st.sampled_from([0, 63, 64, 127]), CHANNELS, NUMBERS),
    )
    return draw(st.lists(st.lists(message, max_size=25), min_size=1, max_size=3))


TRACKS = st.composite(make_tracks)()


@given(TRACKS, st.booleans())
def test_random_files_match_a_plain_player(tracks: list[list[Timed]], is_piano: bool) -> None:
    number = 0 if is_piano else STRINGS
    programs = program(number) + program(number, 1)
    has_drums = any(m.type == "note_on" and m.velocity and m.channel == DRUMS
                    for track in tracks for _, m in track)  # fmt: skip
    notes, _ = read_midi(midi_bytes(programs, *tracks), "all")
    found = sorted(rows(notes), key=lambda row: (row[0], row[2], row[3], row[1]))
    assert found == play_plainly(tracks, is_piano and not has_drums)


@given(TRACKS, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 127)), max_size=3))
def test_a_file_and_its_merge_into_one_track_are_the_same(
    tracks: list[list[Timed]], changes: list[tuple[int, int]]
) -> None:
    tracks[-1] += [message for tick, number in changes for message in program(number, 1, tick)]
    merged = [timed for track in tracks for timed in sorted(track, key=lambda timed: timed[0])]
    several, one = (read_midi(midi_bytes(*kind), "all") for kind in (tracks, [merged]))
    assert several[0] == one[0]
    assert several[1].repairs == one[1].repairs


# ------------------------------------------------------------------------- which tracks are used

PIANO = program(0) + note(60, 0, 100)
VIOLIN = named("Violin") + program(40, 1) + note(72, 0, 100, channel=1)
UNNAMED = program(60, 2) + note(50, 0, 100, channel=2)
BEAT = named("Drums") + note(36, 0, 100, channel=DRUMS)
KEYS = named("Klavier rechts") + program(STRINGS, 3) + note(64, 0, 100, channel=3)


@pytest.mark.parametrize(
    ("tracks", "selected", "pitches", "selection"),
    [
        ([PIANO, BEAT], "auto", [60], ONLY_PIANO),
        ([PIANO, VIOLIN], "auto", [60], PIANO_OF_SEVERAL),
        ([KEYS, VIOLIN, UNNAMED], "auto", [64], PIANO_OF_SEVERAL),
        ([VIOLIN, UNNAMED, BEAT], "auto", [50, 72], NO_PIANO),
        ([named("Piano") + PIANO, named("Cello") + note(40, 0, 1, channel=4)], "auto", [60],
         PIANO_OF_SEVERAL),
        ([PIANO, VIOLIN], "all", [60, 72], ALL_TRACKS),
        ([PIANO, VIOLIN], "piano", [60], PIANO_OF_SEVERAL),
        ([VIOLIN], "piano", [], MISSING_PIANO),
        ([PIANO, VIOLIN, KEYS], "violin", [72], NAMED_TRACKS),
        ([PIANO, VIOLIN, KEYS], "Klavier, VIOL", [64, 72], NAMED_TRACKS),
        ([VIOLIN, named("Violin 2") + UNNAMED], "violin", [72], NAMED_TRACKS),
    ],
)  # fmt: skip
def test_selection_of_tracks(
    tracks: list[list[Timed]], selected: str, pitches: list[int], selection: str
) -> None:
    notes, stats = read_midi(midi_bytes(*tracks), selected)
    assert (notes.pitches.tolist(), stats.selection) == (pitches, selection)
    assert stats.notes == len(pitches)


def test_missing_track_is_an_error_with_the_existing_names() -> None:
    with pytest.raises(ValueError, match=r"no track is named 'cello' \(tracks: Violin\)"):
        read_midi(midi_bytes(PIANO, VIOLIN), "Cello")


@pytest.mark.parametrize("names", ["", " , "])
def test_no_name_of_a_track_is_an_error(names: str) -> None:
    with pytest.raises(ValueError, match=f"{names!r} names no track"):
        read_midi(midi_bytes(PIANO, VIOLIN), names)


@pytest.mark.parametrize(
    ("kind", "one", "two"),
    [
        (NO_NOTE_OFF, "1 note without a note off", "2 notes without a note off"),
        (NO_NOTE_ON, "1 note off without a note", "2 note offs without a note"),
        (LARGE_BYTES, "1 data byte over 127", "2 data bytes over 127"),
        (WRONG_TRACK_COUNT, "1 header with a wrong number of tracks", ""),
    ],
)
def test_number_of_repairs(kind: str, one: str, two: str) -> None:
    assert format_repair(kind, 1) == one
    assert format_repair(kind, 2) == (two or f"2 {kind}")


def test_instruments_are_listed() -> None:
    found = measure(PIANO, VIOLIN + program(41, 1, 200) + note(74, 300, 400, channel=1), BEAT)
    assert [
        (i.name, i.track, i.channel, i.program, i.is_drum, i.notes, i.is_used)
        for i in found.instruments
    ] == [
        ("", 0, 0, 0, False, 1, True),
        ("Violin", 1, 1, 40, False, 1, False),
        ("Violin", 1, 1, 41, False, 1, False),
        ("Drums", 2, DRUMS, None, True, 1, False),
    ]


def test_piano_of_several_instruments_keeps_its_own_pedal() -> None:
    strings = VIOLIN + pedal((50, 127), (900, 0), channel=1)
    assert spans(read(PIANO + pedal((20, 127), (300, 0)), strings)) == [(60, 0, 300)]


# -------------------------------------------------------------------------- tempo and statistics


def test_tempo_and_time_signatures_are_in_seconds() -> None:
    signature = mido.MetaMessage("time_signature", numerator=6, denominator=8)
    stats = measure([tempo(500, 250_000), *note(60, 0, 1000)], [(1000, signature)])
    np.testing.assert_allclose(stats.tempos, [[0, 120], [0.5, 240]])
    np.testing.assert_allclose(stats.time_signatures, [[0.75, 6, 8]])
    assert (stats.notes, stats.seconds) == (1, 0.75)


def test_pedal_statistics_are_of_used_channels() -> None:
    stats = measure(PIANO + pedal((0, 127), (50, 0), (60, 127), (100, 0)), VIOLIN, [
        control(0, 127, channel=1), control(90, 0, channel=1)
    ])  # fmt: skip
    assert stats.pedal_presses == 2
    assert stats.pedal_seconds == pytest.approx(0.09)
